"""vmap in a graph is one operator."""

from __future__ import annotations

import pytest
import torch
from oracle import assert_law
from torch import Tensor, nn

from rcps_convert import plan_conversion
from rcps_convert.graph.export import trace
from rcps_convert.graph.run import interpret
from rcps_convert.graph.vmap import VmapCall


class Vmapped(nn.Module):
    """Products of neighbours within each sample and channel, by a function of one row. (N, 4, 20) -> (N, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv1d(4, 8, 5, padding=2), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.vmap(torch.vmap(lambda row: (row[1:] * row[:-1], row * 2)))
        products, doubled = rows(self.conv(x))
        return self.out(products.mean(-1).tanh() + doubled.amax(-1))


def test_a_nested_vmap_is_one_node_and_computes_the_same() -> None:
    model, x = Vmapped().double(), torch.randn(2, 4, 20, dtype=torch.float64)
    found = trace(model, x)
    mapped = [n for n in found.nodes if isinstance(n.op, VmapCall)]
    assert [str(n.op).partition("(")[0] for n in mapped] == ["vmap"]
    (y,) = interpret(found, {n: s.value for n, s in found.sources.items()})
    torch.testing.assert_close(y, model(x))


def test_converts_exactly() -> None:
    torch.manual_seed(0)
    plan = plan_conversion(Vmapped(), torch.zeros(2, 4, 20), verify=False)
    assert not plan.problems, str(plan)
    assert_law(plan.apply(Vmapped()), torch.zeros(2, 4, 20), outputs="invariant", tolerance=1e-10)


def test_a_failure_inside_leaves_no_hidden_dimension() -> None:
    found = trace(Vmapped(), torch.randn(2, 4, 20))
    (node,) = [n for n in found.nodes if isinstance(n.op, VmapCall)]
    with pytest.raises((RuntimeError, IndexError, ValueError)):
        node.op(torch.zeros(2))
    assert torch.randn(3).shape == (3,)
    assert not torch._C._functorch.maybe_current_level()


class Stacked(nn.Module):
    """A convolution for each of several weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 8, 4, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.vmap(lambda w: nn.functional.conv1d(x, w, padding=1))(self.weight).amax(0).mean(-1)


def test_what_a_trace_does_not_keep_of_a_vmap_is_told() -> None:
    (problem,) = plan_conversion(Stacked(), torch.zeros(2, 4, 20)).problems
    words = {
        "torch.export cannot trace this torch.vmap": "stack the weights instead",
        "a tensor that forward makes has no value in the trace": "write out what the transform computes",  # torch 2.9
    }
    assert words[problem.what] in str(problem)
