"""Forwards that change gradients: a plan warns where the two strands' gradients part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rcps_convert import plan_conversion
from rcps_convert.measure import gradients

DNA = torch.zeros(2, 4, 12)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv1d(4, 8, 5, padding=2), nn.Linear(8, 2)

    def between(self, h: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.between(self.conv(x)).tanh().mean(-1))


def hooked(h: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    if h.requires_grad:
        h.register_hook(change)
    return h


class Backward(torch.autograd.Function):
    """The identity, whose backward pass reads the first half of the channels."""

    @staticmethod
    def forward(ctx: Any, h: Tensor) -> Tensor:
        return h.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        return torch.cat([g[:, :4], 0 * g[:, 4:]], 1)


class Ramp(Net):
    def between(self, h: Tensor) -> Tensor:
        return hooked(h, lambda g: g * torch.arange(g.shape[-1], dtype=g.dtype))


class Channel(Net):
    def between(self, h: Tensor) -> Tensor:
        return hooked(h, lambda g: g.cumsum(1))


class Own(Net):
    def between(self, h: Tensor) -> Tensor:
        return Backward.apply(h)  # type: ignore[no-any-return,no-untyped-call]


class Turned(Net):
    """A gradient that is turned round, as for an adversary, obeys the law."""

    def between(self, h: Tensor) -> Tensor:
        return hooked(h, lambda g: -2 * g)


class Clipped(Net):
    def between(self, h: Tensor) -> Tensor:
        return hooked(h, lambda g: g.clamp(-1e-3, 1e-3) / g.norm())


def strands_agree(model: Any) -> bool:
    """Whether the gradients of the inputs of both strands are mirror images, by hand."""
    x = torch.randn(2, 4, 12, dtype=torch.float64)
    found = []
    for y in (x, x.flip(1, 2)):
        y = y.clone().requires_grad_()
        found.append(torch.autograd.grad(model(y).square().sum(), y)[0])
    return torch.allclose(found[0], found[1].flip(1, 2), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("kind", "apart"), [(Ramp, True), (Channel, True), (Own, True), (Turned, False), (Clipped, False)]
)
def test_gradients_that_go_by_the_strand_are_told(kind: type[Net], apart: bool) -> None:
    torch.manual_seed(0)
    model = kind()
    plan = plan_conversion(model, DNA)
    assert not plan.problems
    assert any("the gradients of the two strands differ" in text for text in plan.warnings) is apart
    plan.warnings.clear()
    assert strands_agree(plan.apply(model).double()) is not apart


def test_a_forward_that_leaves_gradients_alone_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class Plain(Net):
        def between(self, h: Tensor) -> Tensor:
            return h

    monkeypatch.setattr(gradients, "_gradients", None)
    assert not plan_conversion(Plain(), DNA).problems
