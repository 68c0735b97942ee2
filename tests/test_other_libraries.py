"""Networks of libraries that keep weights in objects of their own and copy models their own way, as Keras does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lawful import assert_exact
from oracle import assert_law
from tiers import some
from torch import Tensor, nn

from rcps_convert import convert_model, plan_conversion

EXAMPLE = torch.zeros(2, 4, 12)


class Variable:
    """What a library holds a weight in."""

    def __init__(self, name: str, value: nn.Parameter) -> None:
        self.name, self.value = name, value


class Library(nn.Module):
    """Its weights are registered, but forward reads its variables; a copy is made from its configuration."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.width = width
        shapes = {"conv/kernel": (width, 4, 5), "conv/bias": (width,), "dense/kernel": (2, width)}
        self.variables = [Variable(n, nn.Parameter(0.5 * torch.randn(s))) for n, s in shapes.items()]
        self.weights = nn.ParameterDict({v.name: v.value for v in self.variables})

    def __reduce__(self) -> Any:
        return made_of, (self.width, [v.value.detach().clone() for v in self.variables])

    def stateless_call(self, kernel: Tensor, bias: Tensor, dense: Tensor, x: Tensor) -> Tensor:
        return F.conv1d(x, kernel, bias, padding=2).relu().mean(2) @ dense.T

    def forward(self, x: Tensor) -> Tensor:
        return self.stateless_call(*(v.value for v in self.variables), x)


def made_of(width: int, values: list[Tensor]) -> Library:
    """A model from its configuration and its weights."""
    model = Library(width)
    with torch.no_grad():
        for variable, value in zip(model.variables, values, strict=True):
            variable.value.copy_(value)
    return model


class Holder(nn.Module):
    """Calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Library()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class WithItsWeights(nn.Module):
    """Has the weights, and hands them over."""

    def __init__(self, net: Library) -> None:
        super().__init__()
        self.held = [net]  # in a list, so that it is no submodule
        self.weights = nn.ParameterList(v.value.detach().clone() for v in net.variables)

    def forward(self, x: Tensor) -> Tensor:
        return self.held[0].stateless_call(*self.weights, x)


class FromAList(nn.Module):
    """Reads a registered weight of a list beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 4, 5))
        self.all = [self.weight]

    def forward(self, x: Tensor) -> Tensor:
        return F.conv1d(x, self.all[0]).relu().mean(2)


class Called(Library):
    """Its calls run no hooks."""

    __reduce__ = nn.Module.__reduce__

    def __call__(self, x: Tensor) -> Tensor:
        return self.forward(x)


READS_ELSEWHERE = [(Holder, "net.weights.conv/kernel"), (Library, "weights.conv/kernel"), (FromAList, "weight")]


@pytest.mark.parametrize(("model", "name"), some(READS_ELSEWHERE, 1))
def test_a_parameter_that_forward_reads_elsewhere_is_named(model: type[nn.Module], name: str) -> None:
    problem = plan_conversion(model(), EXAMPLE, on_unsupported="both_strands").problems[0]
    assert problem.what == (
        "forward does not read a parameter of the module that has it, but of something else that holds it"
    )
    assert problem.got is not None
    assert f"parameter {name}," in problem.got


def test_a_module_that_has_the_weights_is_tied() -> None:
    torch.manual_seed(0)
    converted = convert_model(WithItsWeights(Library()), EXAMPLE)
    assert sum(p.numel() for p in converted.parameters()) == (6 * 4 * 5 + 6 + 2 * 6) // 2
    assert_exact(converted, EXAMPLE)


def test_a_module_that_holds_the_network_reads_both_strands() -> None:
    torch.manual_seed(0)
    converted = convert_model(Holder(), EXAMPLE, strategy="conjoined")
    assert_law(converted, EXAMPLE)


@pytest.mark.parametrize(
    ("model", "words"),
    some(
        [(Library, "a copy of Library does not keep what is set on it"), (Called, "a call of Called runs no hooks")], 2
    ),
)
def test_a_model_that_hooks_do_not_stay_with_is_refused(model: type[nn.Module], words: str) -> None:
    torch.manual_seed(0)
    (problem,) = plan_conversion(model(), EXAMPLE, strategy="conjoined", outputs="invariant").problems
    assert problem.what.startswith(words)
    assert "def forward(self, x): return self.net(x)" in str(problem.do)
