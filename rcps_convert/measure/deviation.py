"""How far two readings of an output are from the law: per entry, relative to itself and the middle one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..algebra.action import Action, act

INFINITE = float("inf")


@dataclass(frozen=True)
class Compared:
    """What comparing two tensors found.

    Attributes:
        error: largest deviation of an entry; infinite where the tensors cannot be compared.
        entries: number of entries with finite values on both sides.
    """

    error: float
    entries: int


def compare(found: Tensor, expected: Tensor) -> Compared:
    """The largest ``|a - b| / max(|a|, |b|, m)`` over entries; ``m`` is the median size of nonzero entries.

    A value of 1e9 hides no other entry, and rounding around zero is no deviation. Complex entries are compared as
    pairs of numbers, whole numbers and truth values exactly. Equal infinities agree, as do undefined values on both
    sides; neither is counted.

    Args:
        found, expected: the tensors.
    """
    if found.shape != expected.shape:
        return Compared(INFINITE, 0)
    if not (_inexact(found) or _inexact(expected)):
        return Compared(float(not torch.equal(found, expected)), found.numel())
    a, b = _wide(found), _wide(expected)
    finite = a.isfinite() & b.isfinite()
    if not bool(((a == b) | (a.isnan() & b.isnan()) | finite).all()):
        return Compared(INFINITE, int(finite.sum()))
    a, b = a[finite], b[finite]
    if not a.numel():
        return Compared(0.0, 0)
    size = torch.maximum(a.abs(), b.abs())
    nonzero = size[size > 0]
    if not nonzero.numel():
        return Compared(0.0, a.numel())
    return Compared(float(((a - b).abs() / size.clamp(min=float(nonzero.median()))).max()), a.numel())


def deviation(reverse: Tensor, forward: Tensor, action: Action) -> float:
    """How far ``f(rc x)`` is from ``rho f(x)``, as `compare` measures it."""
    return compare(reverse, act(action, forward)).error


def _inexact(x: Tensor) -> bool:
    return x.is_floating_point() or x.is_complex()


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.complex128) if x.is_complex() else x.double()
