"""Forwards that ask what a weight or a layer is, which tying changes: they compute the same, or are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from rcps_convert import bake, convert_model, plan_conversion

DNA = torch.zeros(2, 4, 12)


class Net(nn.Module):
    """Two layers, of which the second does twice as much where `asks` says so."""

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        self.conv, self.w, self.out = nn.Conv1d(4, 8, 5, padding=2), nn.Parameter(torch.randn(8, 8)), nn.Linear(8, 1)
        self.norm = nn.BatchNorm1d(8) if norm else nn.Identity()

    def asks(self) -> bool:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.conv(x)).relu().mT @ (self.w if self.asks() else 2 * self.w)
        return self.out(h.tanh().mean(1))


ASKING: dict[str, Callable[[Any], bool]] = {
    "a parameter": lambda m: isinstance(m.w, nn.Parameter),
    "its class": lambda m: type(m.conv) is nn.Conv1d,
    "a leaf": lambda m: m.conv.weight.is_leaf,
    "parametrized": lambda m: not parametrize.is_parametrized(m.conv),
    "by name": lambda m: "weight" in dict(m.conv.named_parameters()),
    "among its own": lambda m: "weight" in m.conv._parameters,
}


def made(asks: Callable[[Any], bool], norm: bool = False) -> Any:
    torch.manual_seed(0)
    return type("Asking", (Net,), {"asks": asks})(norm)


@pytest.mark.parametrize("asked", ASKING)
def test_a_forward_that_does_something_else_once_tied_is_refused(asked: str) -> None:
    problems = plan_conversion(made(ASKING[asked], norm=asked == "its class"), DNA).problems
    assert len(problems) == 1
    assert (
        problems[0].what == "forward computes something else with tied weights than with plain ones of the same values"
    )


@pytest.mark.parametrize(
    "asks",
    [
        lambda m: isinstance(m.w, Tensor),
        lambda m: isinstance(m.conv, nn.Conv1d) and not isinstance(m.conv, nn.Linear),
        lambda m: m.w.dtype.is_floating_point and m.w.shape == (8, 8),
    ],
)
def test_one_that_asks_for_what_stays_is_converted(asks: Callable[[Any], bool]) -> None:
    model = convert_model(made(asks, norm=True), DNA).double().eval()
    x = torch.randn(2, 4, 12, dtype=torch.float64)
    assert torch.allclose(model(x), model(x.flip(1, 2)), rtol=0, atol=1e-12)
    assert torch.allclose(model(x), bake(model)(x), rtol=0, atol=1e-12)


class InTraining(Net):
    def asks(self) -> bool:
        return not self.training or isinstance(self.w, nn.Parameter)


def test_train_mode_is_looked_at_too() -> None:
    assert "something else" in plan_conversion(InTraining(), DNA).problems[0].what
