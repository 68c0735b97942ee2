"""Operators that torch has under a second name."""

from __future__ import annotations

import pytest
import torch

from rcps_convert import _torch, plan_conversion
from rcps_convert.rules.aliases import ALIASES, usual
from rcps_convert.rules.pointwise import rule_of


def test_other_names_of_operators_are_read_as_the_usual_ones() -> None:
    """Else `torch.subtract` has no rule: a trace keeps the name that was called, and torch tags it as nothing."""
    aten = torch.ops.aten
    other = [getattr(aten, name + end) for name in ALIASES for end in ("", "_") if hasattr(aten, name + end)]
    known = [o for packet in other for o in _torch.overloads(packet) if not o._overloadname.endswith("out")]
    assert len(known) > 50
    assert [str(o) for o in known if usual(o) is o or rule_of(usual(o)) is None] == []
    assert usual(aten.divide.Tensor_mode) is aten.div.Tensor_mode
    assert usual(aten.special_softmax.default) is aten.softmax.int
    assert usual(aten.relu.default) is aten.relu.default


@pytest.mark.parametrize("name", sorted(ALIASES))
def test_other_names_of_operators_compute_the_same(name: str) -> None:
    """Else they are taken for what they are not."""
    op = getattr(torch.ops.aten, name)
    twin = getattr(torch.ops.aten, ALIASES[name])
    x, y = torch.rand(3, 3, dtype=torch.float64) * 0.8 + 0.1, torch.rand(3, 3, dtype=torch.float64)
    taken = len([a for a in _torch.arguments(_torch.overloads(op)[0]) if "Tensor" in str(a.type)])
    args = {
        "row_stack": ([x, y],), "special_polygamma": (1, x), "special_softmax": (x, 1), "special_log_softmax": (x, 1),
        "special_logsumexp": (x, [1]),
    }.get(name, (x, y)[:taken])  # fmt: skip
    torch.testing.assert_close(op(*args), twin(*args), rtol=0, atol=0, equal_nan=True)


class Renamed(torch.nn.Module):
    """A norm, a gate and a pool with weights, by second names."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.weight = torch.nn.Conv1d(4, 6, 3), torch.nn.Parameter(torch.rand(6, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.stem(x)
        h = torch.multiply(torch.subtract(h, h.mean(1, keepdim=True)), self.weight)
        return torch.linalg.matmul(torch.special.expit(h), torch.special.softmax(h.mean(1), -1)[:, :, None]).sum((1, 2))


def test_a_forward_by_second_names_needs_no_test_on_numbers() -> None:
    plan = plan_conversion(Renamed(), (2, 4, 9), verify=False)
    assert (plan.problems, plan.tested) == ([], [])
