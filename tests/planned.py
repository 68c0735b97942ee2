"""Plans that many tests start from: a network of `models.FAMILIES` is planned once, and each test applies the plan."""

from __future__ import annotations

import functools
import warnings

import torch
from models import FAMILIES, Family
from torch import nn

from rcps_convert import ConversionPlan, plan_conversion


def made(family: Family) -> nn.Module:
    """A network with the same weights each time."""
    torch.manual_seed(0)
    return family.make()


def plan_of(family: Family, strategy: str = "tied") -> ConversionPlan:
    """Its plan, verified; of models in single precision. No test may change it."""
    return _plan_of(family.name, strategy)


@functools.cache
def _plan_of(name: str, strategy: str) -> ConversionPlan:
    family = next(f for f in FAMILIES if f.name == name)
    plan = plan_conversion(made(family), family.example, strategy=strategy, **family.how)
    assert not plan.problems, str(plan)
    return plan


def converted_of(family: Family, strategy: str = "tied") -> nn.Module:
    """The converted network, made anew from its plan."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return plan_of(family, strategy).apply(made(family))
