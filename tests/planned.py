"""Plans that many tests start from: a network of `models.FAMILIES` is planned once, and each test applies the plan."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from models import FAMILIES, Family
from torch import Tensor, nn

from rcps_convert import ConversionPlan, convert_model, plan_conversion


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


def remembered(make: Callable[[], nn.Module], example: Any, seed: int = 0, **how: Any) -> nn.Module:
    """What ``convert_model(make(), example, **how)`` returns, by a plan that calls with the same arguments share.

    Args:
        make: makes a plain model; the plan is kept by it.
        example: its shape and precision decide; with several tensors no plan is kept.
        seed: of the model's weights.
        how: keywords of `convert_model`; with others than texts, tuples of them and truth values no plan is kept.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        texts = [text for v in how.values() for text in (v if type(v) is tuple else (v,))]
        if not (isinstance(example, Tensor) and all(isinstance(text, (str, bool)) for text in texts)):
            torch.manual_seed(seed)
            return convert_model(make(), example, **how)
        plan = _remembered(make, tuple(example.shape), example.dtype, tuple(sorted(how.items())))
        torch.manual_seed(seed)
        return plan.apply(make())


@functools.cache
def _remembered(make: Any, shape: tuple[int, ...], dtype: torch.dtype, how: Any) -> ConversionPlan:
    torch.manual_seed(0)
    return plan_conversion(make(), torch.zeros(shape, dtype=dtype), **dict(how))
