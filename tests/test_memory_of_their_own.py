"""Models that return the same memory at each call, or write into what they are given: two readings are two results."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from by_hand import X, bases, mirror, worst
from oracle import run
from tiers import some
from torch import Tensor, nn

from rcps_convert import ConversionError, check_equivariance, convert_model

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


@pytest.mark.parametrize("cls", some([InPartOfOne, InOneTensor, InAnObject], 1))
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


@pytest.mark.parametrize("write", some([added, negative, centred], 2))
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


# --- hooks that keep on the model what they see ---


class Hooked(Net):
    """A hook that was made with the model keeps what it sees on it. In float64, as what is kept is no parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []
        self.c.register_forward_hook(self.keeper())
        self.double()


class KeepsAValue(Hooked):
    """A mean over the batch, set as an attribute."""

    def keeper(self) -> Any:
        return lambda m, x, y: setattr(self, "memory", y.detach().mean())

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        return self.o((h - (0 if self.memory is None else self.memory)).relu().mean(-1))


class KeepsAList(Hooked):
    """All that was seen in this call, if anything."""

    def keeper(self) -> Any:
        return lambda m, x, y: self.seen.append(y.amax(-1))

    def forward(self, x: Tensor) -> Tensor:
        self.seen.clear()
        h = self.c(x).relu().mean(-1)
        return self.o(h + sum(self.seen))


class KeepsAnEntry(Hooked):
    """An entry of a dict, without which forward does not run."""

    def keeper(self) -> Any:
        self.memory = {}
        return lambda m, x, y: self.memory.__setitem__("c", y)

    def forward(self, x: Tensor) -> Tensor:
        self.c(x)
        return self.o(self.memory["c"].relu().mean(-1))


@pytest.mark.parametrize("how", [{}, {"in_place": True}, {"strategy": "conjoined", "in_place": True}], ids=str)
@pytest.mark.parametrize("cls", [KeepsAValue, KeepsAList, KeepsAnEntry])
def test_a_copy_that_would_keep_what_it_sees_on_the_original_is_refused(cls: type[Hooked], how: Any) -> None:
    with pytest.raises(ConversionError, match=r"running a copy of the model changes the original's (memory|seen)"):
        convert_model(cls(), X.double(), **how)


class OnlyWatches(Hooked):
    """What the hook keeps is for the user: forward does not read it."""

    def keeper(self) -> Any:
        return lambda m, x, y: self.seen.append(float(y.detach().mean()))

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x)


class KeepsOnItsModule(Hooked):
    """The hook keeps what it sees on the module that it is given, which a copy has of its own."""

    def keeper(self) -> Any:
        return lambda m, x, y: setattr(m, "seen", y)

    def forward(self, x: Tensor) -> Tensor:
        self.c(x)
        return self.o(self.c.seen.relu().mean(-1))


@pytest.mark.parametrize("cls", [OnlyWatches, KeepsOnItsModule])
def test_hooks_that_a_copy_has_of_its_own_or_does_not_need_are_no_matter(cls: type[Hooked]) -> None:
    model, x = convert_model(cls(), X.double()).eval(), bases()
    assert worst(reading(model, mirror(x)), reading(model, x)) < TOLERANCE
