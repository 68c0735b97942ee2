"""Every network of the zoo converts exactly: one plan, randomised weights, both modes, baked."""

from __future__ import annotations

import warnings

import pytest
import torch
from models import FAMILIES, ZOO, Family

from rcps_convert import bake, check_equivariance, plan_conversion

TOLERANCE = 1e-10
"""Relative error in float64."""


@pytest.mark.parametrize("family", ZOO, ids=[f.name for f in ZOO])
def test_converts_exactly(family: Family) -> None:
    torch.manual_seed(0)
    model = family.make()
    plan = plan_conversion(model, family.example, **family.how)
    assert not plan.problems, str(plan)
    assert not plan.symmetric
    assert plan.verification is not None
    assert plan.verification.modes == "train and eval mode"
    tolerance = 1e-6 if family.rounded else TOLERANCE
    assert plan.verification.error < tolerance
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted = plan.apply(model)
    how = {k: v for k, v in family.how.items() if k in ("inputs", "outputs", "layout")}
    for m in (converted, bake(converted)):
        report = check_equivariance(m, family.example, **how, tolerance=tolerance)
        assert report, str(report)
        assert report.dtype == torch.float64


def test_names_are_distinct() -> None:
    names = [f.name for f in [*FAMILIES, *ZOO]]
    assert len(names) == len(set(names))
