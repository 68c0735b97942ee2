"""Models that return the same memory at each call, or write into what they are given: two readings are two results."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from by_hand import X, bases, mirror, worst
from oracle import run
from torch import Tensor, nn

from rcps_convert import check_equivariance, convert_model

TOLERANCE = 1e-10


class Net(nn.Module):
    """A convolution and a dense layer. (N, 4, L) -> (N, 2)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.c, self.o = nn.Conv1d(4, 8, 5), nn.Linear(8, 2)
        self.memory: Any = None

    def features(self, x: Tensor) -> Tensor:
        return self.o(self.c(x).relu().mean(-1))


class InOneTensor(Net):
    """Writes each result into the tensor that holds the one before."""

    def forward(self, x: Tensor) -> Any:
        y = self.features(x)
        if self.memory is None or self.memory.shape != y.shape or self.memory.dtype != y.dtype:
            self.memory = torch.empty_like(y).detach()
        with torch.no_grad():
            self.memory.copy_(y)
        return self.memory


class InPartOfOne(InOneTensor):
    """Returns views of one large tensor."""

    def forward(self, x: Tensor) -> Any:
        y = self.features(x)
        if self.memory is None or self.memory.dtype != y.dtype:
            self.memory = torch.zeros(64, 2, dtype=y.dtype)
        self.memory.detach()[: len(y)] = y.detach()
        return self.memory[: len(y)]


@dataclass
class Result:
    y: Tensor


class InAnObject(InOneTensor):
    """Returns that tensor in a class of its own."""

    def forward(self, x: Tensor) -> Any:
        return Result(super().forward(x))


def reading(model: nn.Module, x: Tensor) -> Tensor:
    y = run(model, x.clone())
    return (y if isinstance(y, Tensor) else y.y).clone()


@pytest.mark.parametrize("cls", [InOneTensor, InPartOfOne, InAnObject])
def test_a_result_that_is_overwritten_is_measured_before(cls: type[Net]) -> None:
    assert not check_equivariance(cls(), X)


@pytest.mark.parametrize("cls", [InOneTensor, InPartOfOne, InAnObject])
def test_a_model_that_keeps_its_result_is_converted(cls: type[Net]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as "equivariant already"
        model = convert_model(cls(), X).double().eval()
    x = bases()
    assert worst(reading(model, mirror(x)), reading(model, x)) < TOLERANCE
    assert float(reading(model, x).std()) > 0


def centred(x: Tensor) -> Tensor:
    return x.mul_(2).sub_(0.5)


def negative(x: Tensor) -> Tensor:
    x[:] = -x
    return x


def added(x: Tensor) -> Tensor:
    x += x.mean((1, 2), keepdim=True)
    return x


@pytest.mark.parametrize("write", [centred, negative, added])
def test_what_a_forward_writes_into_its_input_does_not_reach_the_next_reading(write: Any) -> None:
    class Writing(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.features(write(x))

    model, x = convert_model(Writing(), X).double().eval(), bases()
    assert worst(reading(model, mirror(x)), reading(model, x)) < TOLERANCE


def test_a_part_that_keeps_its_result_is_run_on_both_strands() -> None:
    class Running(InOneTensor):
        def features(self, x: Tensor) -> Tensor:
            return x.cumsum(-1).mul(self.c.weight[0, 0, 0])

    class Whole(Net):
        def __init__(self) -> None:
            super().__init__()
            self.part = Running()

        def forward(self, x: Tensor) -> Tensor:
            return self.o(self.part(self.c(x).relu()).mean(-1))

    model, x = convert_model(Whole(), X, on_unsupported="both_strands").double().eval(), bases()
    assert worst(reading(model, mirror(x)), reading(model, x)) < TOLERANCE
