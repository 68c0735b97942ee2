"""How far two readings of an output are from the law: per entry, relative to itself and the middle one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..algebra.action import Action, act, covered
from ..algebra.opened import PLAIN

INFINITE = float("inf")


@dataclass(frozen=True)
class Difference:
    """What comparing two tensors found.

    Attributes:
        error: largest deviation of an entry; infinite where the tensors cannot be compared.
        entries: number of entries with finite values on both sides.
    """

    error: float
    entries: int


NEAR_ZERO = 1e-6
"""Size of an output, relative to its size on other inputs, below which it is held to the rounding of the latter."""


def compare(found: Tensor, expected: Tensor, usual: float = 0.0) -> Difference:
    """The largest ``|a - b| / max(|a|, |b|, m)`` over entries; ``m`` is the median size of nonzero entries.

    A value of 1e9 hides no other entry, and rounding around zero is no deviation. Complex entries are compared as
    pairs of numbers, whole numbers and truth values exactly. Equal infinities agree, as do undefined values on both
    sides; neither is counted.

    Args:
        found, expected: the tensors.
        usual: the size of such entries on other inputs. An antisymmetric output is zero on a sequence that is its own
            reverse complement; what rounding leaves of it is not compared with itself.
    """
    if found.shape != expected.shape:
        return Difference(INFINITE, 0)
    if not (_inexact(found) or _inexact(expected)):
        return Difference(float(not torch.equal(found, expected)), found.numel())
    a, b = _wide(found), _wide(expected)
    finite = a.isfinite() & b.isfinite()
    if not bool(((a == b) | (a.isnan() & b.isnan()) | finite).all()):
        return Difference(INFINITE, int(finite.sum()))
    a, b = a[finite], b[finite]
    if not a.numel():
        return Difference(0.0, 0)
    size = torch.maximum(a.abs(), b.abs())
    middle = max(middle_size(size), NEAR_ZERO * usual)
    return Difference(float(((a - b).abs() / size.clamp(min=middle)).max()) if middle else 0.0, a.numel())


def plain_difference(found: Any, expected: Any) -> float:
    """As `compare`, of two leaves that are not both tensors: numbers, texts and None; else nothing is known."""
    if isinstance(found, Tensor) or isinstance(expected, Tensor):
        return float(type(found) in PLAIN or type(expected) in PLAIN)
    if isinstance(found, (float, complex)) and isinstance(expected, (float, complex)):
        return compare(
            torch.tensor(found, dtype=torch.complex128), torch.tensor(expected, dtype=torch.complex128)
        ).error
    return float(found != expected) if isinstance(found, PLAIN) and isinstance(expected, PLAIN) else 0.0


REPEATED = 1 / 8
"""Share of the entries from which on a number that they have in common is a constant of the forward, not a size."""

LARGE = 1e4
"""Size from which on such a constant stands for infinity, as that of a mask does."""


def middle_size(x: Tensor) -> float:
    """The median size of the nonzero, finite entries; 0 where there are none, as of whole numbers and truth values.

    A constant that stands for infinity, such as the -1e9 of a mask, is passed over where there are other entries.
    """
    if not _inexact(x):
        return 0.0
    size = _wide(x).abs()
    size = size[(size > 0) & size.isfinite()]
    if not size.numel():
        return 0.0
    middle = float(size.median())
    others = size[size != middle] if middle > LARGE else size
    is_constant = 0 < others.numel() <= min(size.numel() - 2, (1 - REPEATED) * size.numel())
    return min(middle, middle_size(others)) if is_constant else middle


def deviation(reverse: Tensor, forward: Tensor, action: Action) -> float:
    """How far ``f(rc x)`` is from ``rho f(x)``, as `compare` measures it."""
    return held_to(action, reverse, forward).error


def held_to(
    action: Action, reverse: Tensor, forward: Tensor, usual: float = 0.0, orders: Sequence[Tensor] = ()
) -> Difference:
    """As `compare`, of ``f(rc x)`` and ``rho f(x)``; positions that have no partner are passed over.

    Args:
        action, reverse, forward, usual: as in `compare`.
        orders: where entries come from in each sample, if samples differ in it; see `act`.
    """
    return compare(covered(action, reverse), covered(action, act(action, forward, orders)), usual)


def _inexact(x: Tensor) -> bool:
    return x.is_floating_point() or x.is_complex()


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.complex128) if x.is_complex() else x.double()
