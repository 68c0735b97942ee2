"""Values of Python's own that forward sets itself: what it does once it has counted far enough."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from by_hand import bases, mirror, worst
from tiers import slow, some
from torch import Tensor, nn

from rcps_convert import BreaksSymmetryError, VerificationError, convert_model, plan_conversion
from rcps_convert.graph.counters import Counters
from rcps_convert.graph.sandbox import fresh_copy
from rcps_convert.measure.counted import elsewhere

DNA = torch.zeros(2, 4, 21)
TOLERANCE = 1e-10


class Counting(nn.Module):
    """A tower that counts."""

    def __init__(self, held: Any = 0) -> None:
        super().__init__()
        self.conv, self.out, self.held = nn.Conv1d(4, 8, 5, padding=2), nn.Linear(8, 1), held

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x).relu()
        return self.out((h.cumsum(-1) if self.late() else h).mean(-1))

    def late(self) -> bool:
        raise NotImplementedError


class Calls(Counting):
    def late(self) -> bool:
        self.held += 1
        return bool(self.held > 137)


class Warmup(Counting):
    def late(self) -> bool:
        self.held = max(self.held - 1, 0)
        return bool(self.held == 0)


class InTraining(Counting):
    def late(self) -> bool:
        self.held += self.training
        return bool(self.held >= 12345)


class Every(Counting):
    def late(self) -> bool:
        self.held[0] += 1
        return bool(self.held[0] % 50 == 49)


class InObject(Counting):
    def late(self) -> bool:
        self.held.calls += 1
        return bool(self.held.calls > self.held.patience)


class Once(Counting):
    """A flag that the first call sets."""

    def late(self) -> bool:
        was, self.held = self.held, True
        return bool(was)


class Shifted(Counting):
    """Another number of the same way breaks the law."""

    def forward(self, x: Tensor) -> Tensor:
        self.held += 1
        return self.out(self.conv(x).relu().roll(self.held // 64, -1)[..., 2:-2].mean(-1))


HARMFUL = [
    pytest.param(lambda: Calls(), "held", id="calls"),
    pytest.param(lambda: Warmup(60), "held", id="warmup"),
    pytest.param(lambda: InTraining(), "held", id="in training"),
    pytest.param(lambda: Every([0]), "held", id="every"),
    pytest.param(lambda: InObject(SimpleNamespace(calls=0, patience=300)), r"held\.calls", id="in an object"),
    pytest.param(lambda: Shifted(), "held", id="shifted"),
]


@pytest.mark.parametrize(("make", "name"), some(HARMFUL, 2))
def test_a_count_that_leads_another_way_is_refused(make: Any, name: str) -> None:
    model = make()
    before = repr(vars(model)["held"])
    with pytest.raises(BreaksSymmetryError, match=f"forward sets {name} itself"):
        convert_model(model, DNA)
    assert repr(vars(model)["held"]) == before


def test_a_count_that_matters_at_the_second_call_is_a_state() -> None:
    with pytest.raises(VerificationError, match="something else at every call"):
        convert_model(Once(False), DNA)


class Cooling(Counting):
    """A schedule that does no harm."""

    def forward(self, x: Tensor) -> Tensor:
        self.held *= 0.99 if self.training else 1
        return self.out(self.conv(x).relu().mean(-1) * self.held)


class Scaled(Counting):
    """Another way that does no harm."""

    def forward(self, x: Tensor) -> Tensor:
        self.held += self.training
        h = self.conv(x).relu()
        return self.out((h * 2 if self.held > 5 else h).mean(-1))


@pytest.mark.parametrize("make", some([lambda: Cooling(1.0), lambda: Scaled(0)], 1))
def test_a_count_that_does_no_harm_is_taken(make: Any) -> None:
    model: Any = convert_model(make(), DNA).double()
    for training in (True, False, False, False, False, False, False):
        model.train(training)
        x, held = bases(3), model.held
        a = model(x)
        model.held = held
        assert worst(model(mirror(x)), a) < TOLERANCE


def test_only_what_calls_lead_to_is_tried() -> None:
    class Up(Counting):
        def late(self) -> bool:
            self.held += 1
            return bool(self.held < 0)

    model = Up()
    tried = [other.value for other in elsewhere(model, model, DNA)]
    assert tried
    assert min(tried) >= 0


def test_the_values_that_forward_sets_are_the_same_before_each_pass() -> None:
    model = fresh_copy(InObject(SimpleNamespace(calls=0, patience=3)))
    counters = Counters(model)
    with counters.held():
        model(DNA)
        model(DNA)
        assert model.held.calls == 2
    assert model.held.calls == 0


class Shifts(Counting):
    """Shifts the input at random in train mode, as Akita and Basenji do."""

    def forward(self, x: Tensor) -> Tensor:
        n = int(torch.randint(0, 3, (1,))) if self.training else 0
        x = nn.functional.pad(x, (n, 0))[..., : x.shape[-1]] if n else x
        return self.out(nn.functional.max_pool1d(self.conv(x), 4).mean(-1))


class Flips(Counting):
    """Reads the other strand at random in train mode."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.flip(1, 2) if self.training and torch.rand(()) < 0.5 else x
        return self.out(nn.functional.max_pool1d(self.conv(x), 4).mean(-1))


def test_ways_taken_at_random_are_named_as_such() -> None:
    with pytest.raises(BreaksSymmetryError, match="takes one way or another at random in train mode"):
        convert_model(Shifts(), DNA)


@slow
def test_a_random_strand_in_train_mode_is_refused_as_such_or_exact() -> None:
    model = convert_model(Flips(), DNA).double()
    for seed in range(8):
        torch.manual_seed(seed)
        y = model(bases(3))
        torch.manual_seed(seed)
        assert worst(model(mirror(bases(3))), y) < TOLERANCE


@slow
def test_a_model_that_needs_no_ties_is_refused_too() -> None:
    class Even(Counting):
        def forward(self, x: Tensor) -> Tensor:
            self.held += 1
            h = torch.stack([x[:, 0] + x[:, 3], x[:, 1] + x[:, 2]], 1)
            return (h.cumsum(-1) if self.held > 137 else h).mean(-1)

    plan = plan_conversion(Even(), DNA)
    assert [str(p).splitlines()[0] for p in plan.problems]
    assert "forward sets held itself" in str(plan.problems[0])
