"""Random architectures: each converts exactly, or is refused as a ConversionError and left alone.

For a few of those that are drawn no tied weights exist (`no_tied_weights.blocked` says which, and why): these must be
refused, and convert once a layer mixes the channels.
"""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from lawful import assert_exact
from no_tied_weights import blocked, mixed
from random_models import Plan, Random, plans
from tiers import some

from rcps_convert import VerificationError, plan_conversion

TOLERANCE = 1e-10
EACH = 200
"""Examples of a shard of the slow run; there are ten."""

CONVERTED = 0.97
"""The share that must convert; where no tied weights exist, of the same with mixed channels."""


def outcome(plan: Plan) -> str:
    """Convert, verify, bake; the law must hold. The first problem's words when the model was refused."""
    torch.manual_seed(0)
    model, example = Random(plan), plan.example
    before = {k: v.clone() for k, v in model.state_dict().items()}
    how = plan.how
    found = plan_conversion(model, example, **how)
    assert not any(isinstance(p, VerificationError) for p in found.problems), str(found)
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.items())
    if found.problems:
        return found.problems[0].what
    assert found.verification is not None
    assert found.verification.passed
    assert found.verification.error < TOLERANCE, str(found)
    if found.symmetric:
        return "converted"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted = found.apply(model)
    assert_exact(converted, example, tolerance=TOLERANCE, **how)
    return "converted"


QUIET: dict[str, Any] = {
    "deadline": None,
    "phases": (Phase.explicit, Phase.generate),
    "suppress_health_check": list(HealthCheck),
    "database": None,
}


def count(found: Counter[str], plan: Plan) -> None:
    """Count an outcome; a plan for which no tied weights exist is refused, and the same with mixed channels counts."""
    if blocked(plan) is not None:
        assert outcome(plan) != "converted", plan
        found["none exist"] += 1
    found[outcome(mixed(plan))] += 1


@pytest.mark.slow
def test_random_architectures_convert_exactly() -> None:
    found: Counter[str] = Counter()

    @settings(max_examples=5, derandomize=True, **QUIET)
    @given(plans)
    def each(plan: Plan) -> None:
        count(found, plan)

    each()
    assert found["converted"] >= found.total() - found["none exist"] - 1, dict(found)


TOGETHER = {
    "two assumptions": Plan(6, 24, (("long", 3, 5), ("pieces", 3, 0)), "mean", "n l c", "masked"),
    "pieces that are joined and pieces that are not": Plan(
        7, 28, (("pieces", 10, 1), ("ends", 10, 0)), "ends", "n 1 c l", "bases"
    ),
    "another way at another length": Plan(5, 34, (("pieces", 12, 4), ("pool", 11, 2)), "mean", "n c l", "bases"),
    "a weight that faces a concatenation": Plan(5, 14, (("concat", 2, 1), ("long", 7, 4)), "mean", "n c l", "bases"),
    "a table to be averaged that meets a signed channel": Plan(
        6, 26, (("place", 8, 4), ("waves", 10, 0)), "mean", "n c l", "bases"
    ),
    "the same behind a recurrence": Plan(
        6, 25, (("recur", 2, 0), ("place", 7, 4), ("waves", 10, 2)), "stranded", "n l c", "bases"
    ),
    "a table to be averaged and a rotation by position": Plan(
        4, 31, (("waves", 7, 0), ("rotate", 2, 5)), "mean", "n c l", "bases"
    ),
    "a rotation, and a coordinate whose ends are compared": Plan(
        4, 33, (("rotate", 2, 5), ("place", 8, 0)), "ends", "n c l", "bases"
    ),
    "a weight that faces groups": Plan(2, 12, (("grouped", 7, 4), ("long", 6, 3)), "mean", "n c l", "bases"),
}


@pytest.mark.parametrize("plan", some(TOGETHER.values(), 1), ids=TOGETHER)
def test_blocks_that_convert_alone_convert_together(plan: Plan) -> None:
    assert outcome(plan) == "converted"


BLOCKED = {
    "residual": Plan(3, 14, (("place", 2, 0), ("residual", 2, 0)), "mean"),
    "split": Plan(3, 14, (("place", 2, 0), ("attend", 2, 0), ("split", 2, 1)), "mean"),
    "two directions": Plan(3, 14, (("recur", 2, 1), ("split", 2, 1)), "mean"),
    "two directions of one layer, behind others": Plan(
        3, 14, (("ends", 2, 1), ("concat", 2, 2), ("split", 2, 4)), "mean"
    ),
    "ends": Plan(3, 14, (("place", 2, 0), ("attend", 2, 0)), "ends"),
    "pieces": Plan(3, 14, (("place", 2, 0), ("pieces", 2, 0)), "mean"),
    "norm": Plan(3, 14, (("place", 2, 0), ("norm", 2, 0)), "mean"),
    "a norm of channels": Plan(3, 14, (("place", 2, 0), ("norm", 2, 3)), "mean"),
    "stock": Plan(3, 14, (("place", 2, 0), ("stock", 2, 3)), "mean"),
    "pool": Plan(3, 14, (("place", 2, 0), ("pool", 2, 1)), "profile"),
    "max": Plan(3, 14, (("place", 2, 0), ("attend", 2, 0)), "max"),
    "groups": Plan(3, 14, (("ends", 9, 1), ("grouped", 10, 2)), "mean"),
    "a norm of groups": Plan(3, 14, (("recur", 9, 3), ("norm", 10, 1)), "mean"),
}
"""Plans for which no tied weights exist."""


@pytest.mark.parametrize("name", some(BLOCKED, 1))
def test_without_tied_weights_an_architecture_is_refused_and_with_mixed_channels_it_converts(name: str) -> None:
    plan = BLOCKED[name]
    assert blocked(plan) is not None
    assert outcome(plan) != "converted"
    assert outcome(mixed(plan)) == "converted"


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("shard", range(10))
def test_many_random_architectures_convert_exactly(shard: int) -> None:
    found: Counter[str] = Counter()

    @seed(shard)
    @settings(max_examples=EACH, **QUIET)
    @given(plans)
    def each(plan: Plan) -> None:
        count(found, plan)

    each()
    print(dict(found))
    drawn = found.total() - found["none exist"]
    assert drawn >= EACH
    assert found["converted"] >= CONVERTED * drawn, dict(found)
