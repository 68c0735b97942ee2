"""Every network of the zoo converts exactly: one plan, matched, with randomised weights, in both modes, and baked."""

from __future__ import annotations

import warnings

import pytest
import torch
from lawful import assert_exact
from models import FAMILIES, MORE, ZOO, Family, asked
from oracle import assert_law
from reordering import assert_reordering_changes_nothing
from tiers import chosen, some

from rcps_convert import check_equivariance, convert_model, plan_conversion
from rcps_convert.infer.match import search

TOLERANCE = 1e-10
"""Relative error in float64."""

LONGER = {f.name for f in asked.ZOO} - asked.ONE_LENGTH
"""Networks that are tried at other lengths too."""

ORDERED = {"AntiAliased", "KMaxPool", "WithLabels", "Wavelets"}
"""Networks some of whose channels keep their order: a spectral norm, a tested stretch, hidden values returned."""

QUICK = {
    *("ResNetLike", "LongConvolution", "SideInputs"),
    *("CharacterTokens", "KMaxPool"),
}
"""The networks that are converted in the quick suite: small ones of different mechanisms."""

SLOW = [pytest.param(f, marks=pytest.mark.slow) for f in MORE]


@pytest.mark.parametrize(
    "family", [*chosen(ZOO, lambda f: f.name in QUICK), *SLOW], ids=[f.name for f in [*ZOO, *MORE]]
)
def test_converts_exactly(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = family.make()
    monkeypatch.setattr(search, "SAMPLES", 16)  # reordering changes nothing whatever the pairs are
    plan = plan_conversion(model, family.example, init="match", **family.how)
    assert not plan.problems, str(plan)
    assert not plan.symmetric
    assert plan.verification is not None
    assert plan.verification.modes == "train and eval mode"
    tolerance = 1e-6 if family.rounded else TOLERANCE
    assert plan.verification.error < tolerance
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted = plan.apply(model)
    lengths = (None, *asked.OTHER_LENGTHS.get(family.name, (17, 30))) if family.name in LONGER else (None,)
    assert_exact(converted, family.example, tolerance=tolerance, batch=5, lengths=lengths, **family.how)
    how = {k: v for k, v in family.how.items() if k in ("inputs", "outputs", "layout")}
    report = check_equivariance(converted, family.example, **how, tolerance=tolerance)
    assert report, str(report)
    assert [line.rpartition(", shape ")[2].partition("), ")[2] for line in plan.outputs] == list(report.actions)
    if family.name in ORDERED:
        assert plan.start.found.kept or not plan.start.found.moves.variables
    else:
        assert_reordering_changes_nothing(model, plan, family)


@pytest.mark.slow
@pytest.mark.parametrize("batch", some([1, 5], 1))
def test_a_relative_shift_takes_odd_batches(batch: int) -> None:
    family = next(f for f in ZOO if f.name == "EnformerLike")
    converted = convert_model(family.make(), family.example, verify=False)
    assert_law(converted, family.example, tolerance=TOLERANCE, batch=batch)


def test_names_are_distinct() -> None:
    names = [f.name for f in [*FAMILIES, *ZOO, *MORE]]
    assert len(names) == len(set(names))


def test_only_what_is_refused_or_rounded_is_averaged() -> None:
    """Rotary tables belong to a stretch that obeys the law; averaged, they would tell no positions apart."""
    rotary, spline = (next(f for f in ZOO if f.name == name) for name in ("RotaryTables", "SeiLike"))
    plan = plan_conversion(rotary.make(), rotary.example, symmetrise_buffers=True, verify=False)
    assert not plan.problems
    assert plan.tested
    assert not plan.averaged
    assert list(plan_conversion(spline.make(), spline.example, symmetrise_buffers=True, verify=False).averaged) == [
        "spline"
    ]


def test_rounded_constants_do_not_fix_the_length() -> None:
    spline = next(f for f in ZOO if f.name == "SeiLike")
    plan = plan_conversion(spline.make(), spline.example)
    assert plan.notes == ["exact to the rounding of the constants that the model holds in float32"]
    assert 65 in plan.checked
    assert not plan.guards
