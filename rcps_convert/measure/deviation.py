"""How far two readings of an output are from the law."""

from __future__ import annotations

import torch
from torch import Tensor

from ..algebra.action import Action, act


def deviation(reverse: Tensor, forward: Tensor, action: Action | None) -> float:
    """``max |f(rc x) - rho f(x)| / max |f(x)|``; infinite where a value is not finite."""
    if action is None:
        return 0.0
    expected = act(action, forward)
    if reverse.shape != expected.shape or not (
        bool(torch.isfinite(reverse).all()) and bool(torch.isfinite(expected).all())
    ):
        return float("inf")
    if not reverse.numel():
        return 0.0
    scale = float(expected.abs().double().max())
    return float((reverse.double() - expected.double()).abs().max()) / scale if scale else float(reverse.abs().max())
