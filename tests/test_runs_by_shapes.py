"""Forwards that take long are run with shapes alone, where that tells the same as running them with numbers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from by_hand import Net
from tiers import some
from torch import Tensor, nn

from rcps_convert import plan_conversion
from rcps_convert.algebra import axis as ax
from rcps_convert.algebra.action import Action
from rcps_convert.graph.sandbox import alone
from rcps_convert.measure import runs
from rcps_convert.measure.law import Law
from rcps_convert.measure.lengths import Survey, Variants
from rcps_convert.measure.probe import Probe
from rcps_convert.measure.situations import turning_situations
from rcps_convert.measure.thresholds import seen_of, turns_of

X = torch.zeros(1, 4, 40)
ACTIONS = [Action((ax.batch(1), ax.permutation([3, 2, 1, 0]), ax.length(40)))]


@functools.lru_cache
def table(n: int) -> Tensor:
    return torch.arange(n).float() / n


class Body(nn.Module):
    """A forward given by a function; notes whether it was run with numbers. (N, 4, L) -> what that returns."""

    def __init__(self, body: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.c, self.norm, self.e = nn.Conv1d(4, 4, 3, stride=2, padding=1), nn.BatchNorm1d(4), nn.Embedding(41, 4)
        self.dense, self.body = nn.Linear(80, 2), body

    def forward(self, x: Tensor) -> Tensor:
        WITH_NUMBERS.append(type(x * 1) is Tensor)
        return self.body(self, self.norm(self.c(x)).relu())


WITH_NUMBERS: list[bool] = []
BELIEVED: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "any length": lambda m, h: h.mean(-1),
    "one length": lambda m, h: m.dense(h.flatten(1)),
    "another way": lambda m, h: h.mean(-1) if h.shape[-1] > 20 else F.pad(h, (1, 1)).amax(-1),
    "refused by itself": lambda m, h: h / (h.shape[-1] % 2 == 0 and 1),
}
NOT_BELIEVED: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "rows of a table": lambda m, h: h + m.e(torch.arange(2 * h.shape[-1])[::2]).mT,
    "a cached table": lambda m, h: h * table(h.shape[-1]),
    "numbers": lambda m, h: h * (1.0 if float(h.sum()) > 0 else 2.0),
    "hidden": lambda m, h: h * (1.0 if h.shape[-1] == 20 else float(h.detach().numpy().shape[0])),
    "places": lambda m, h: h[..., torch.arange(20)],
}


def surveyed(monkeypatch: pytest.MonkeyPatch, body: Callable[[Any, Tensor], Tensor], long: float) -> tuple[Survey, int]:
    """The survey of a model and the number of runs with numbers, where forwards are long from so many entries on."""
    monkeypatch.setattr(runs, "LONG", long)
    WITH_NUMBERS.clear()
    torch.manual_seed(0)
    found = alone(Variants(Body(body), X, ACTIONS).survey)()
    return found, sum(WITH_NUMBERS)


def told(found: Survey) -> Any:
    """What a survey tells, but for the ids of parameters."""
    return [(v.sizes, v.run.names, v.run.shapes, v.run.pairs) for v in found.accepted if v.run is not None], [
        v.sizes for v in found.ways
    ]


@pytest.mark.parametrize("body", some([*BELIEVED], 3))
def test_shapes_alone_tell_what_a_run_with_numbers_tells(monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    known, often = surveyed(monkeypatch, BELIEVED[body], 10**9)
    found, seldom = surveyed(monkeypatch, BELIEVED[body], 0)
    assert told(found) == told(known)
    assert seldom <= 2 < often


@pytest.mark.parametrize("body", NOT_BELIEVED)
def test_where_numbers_matter_forward_is_run_with_them(monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    known, _ = surveyed(monkeypatch, NOT_BELIEVED[body], 10**9)
    table.cache_clear()
    found, _ = surveyed(monkeypatch, NOT_BELIEVED[body], 0)
    assert told(found) == told(known)
    assert type(table(20)) is Tensor


def test_parameters_are_those_of_the_model_that_is_run_with_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "LONG", 0)
    variants = Variants(Body(BELIEVED["any length"]), X, ACTIONS)
    variants.survey()
    own = {id(p) for p in variants.model.parameters()}
    run = variants.run(X)
    assert run is not None
    assert run.parameters
    assert run.parameters <= own


def test_comparisons_and_situations_are_told_by_shapes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def body(m: Any, h: Tensor) -> Tensor:
        h = h[..., :25] if h.shape[-1] > 25 else h
        return h.relu() if h.requires_grad else h.tanh()

    found, _ = surveyed(monkeypatch, body, 0)
    assert found.variants is not None
    WITH_NUMBERS.clear()
    lengths, _ = turns_of(found.variants, found, seen_of(found.variants, found))
    assert [turn.size for turn in lengths if turn.side > 0] == [50]
    words = [one.words for one in turning_situations(found.variants.model, X, True)]
    assert not any(WITH_NUMBERS)
    assert words == [one.words for one in turning_situations(found.variants.model, X)]
    assert any("requires a gradient" in w for w in words)


def test_a_plan_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    plans = []
    for long in (10**9, 0):
        monkeypatch.setattr(runs, "LONG", long)
        torch.manual_seed(0)
        plans.append(str(plan_conversion(Body(BELIEVED["one length"]), X)))
    assert plans[0] == plans[1]


# --- what else is asked of long examples ----------------------------------------------------------------

NORMS = [nn.BatchNorm1d(2, affine=False), nn.InstanceNorm1d(2), nn.SyncBatchNorm(2, affine=False)]


@pytest.mark.parametrize("norm", NORMS, ids=type)
def test_rounding_of_sums_over_many_positions_is_counted(norm: nn.Module) -> None:
    """The sums of 2^17 numbers go by their order: turned round, the norm moves by more than by its parameters."""
    torch.manual_seed(0)
    x, model = torch.randn(1, 2, 2**17, dtype=torch.float64) + 300, Net(lambda m, x: m.n(x), n=norm)
    probe = Probe(model, x, [None], [Action((ax.batch(1), ax.trivial(2), ax.length(2**17)))])
    there, back = (F.batch_norm(z, None, None, training=True) for z in (x, x.flip(-1).contiguous()))
    apart = float((there - back.flip(-1)).abs().max() / there.abs().max())
    training = not isinstance(norm, nn.InstanceNorm1d)
    assert 5e-13 < apart < Law(probe, [None]).rounding(0, ["random"], training=training) < 1e-9
