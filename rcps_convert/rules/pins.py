"""Constants met by the inputs' side of a graph, with the open actions that their values limit later."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from ..algebra import axis as ax
from ..algebra.action import Action
from ..algebra.axis import Axis
from ..errors import Where
from .registry import Const


@dataclass
class Pin:
    """A constant met by the inputs' side of the graph: its own symmetry limits the actions.

    Attributes:
        const: the constant.
        action: how reverse complement acts on it, as far as it is known; the constant must be invariant. For
            constant ids `value` is the action on the rows of the table they point into.
        where: the node that met it.
    """

    const: Const
    action: Action
    where: Where


def open_action(value: Tensor, rows: Axis | None = None) -> Action:
    """The action of a constant before anything limits it; `rows` for constant ids."""
    signed = rows is None and value.dim() <= 4 and value.dtype != torch.bool
    return Action(tuple(_open_axis(value, d, signed) for d in range(value.dim())), rows)


def _open_axis(value: Tensor, dim: int, signed: bool) -> Axis:
    """Open; it may change the signs of its entries only where some entry is odd in the other axes, or zero."""
    unsigned = bool(value.any()) and not (signed and _has_odd_entries(value, dim))
    return ax.trivial(1) if value.shape[dim] == 1 and unsigned else ax.Var(value.shape[dim], unsigned=unsigned)


def _has_odd_entries(value: Tensor, dim: int) -> bool:
    """Whether some entry of an axis is its own negative when other axes are reversed."""
    others = [d for d in range(value.dim()) if d != dim and value.shape[d] > 1]
    for d in others:
        value = _without_zero_ends(value, d)
    rows = in_full(value.movedim(dim, 0))
    for count in range(1, len(others) + 1):
        for chosen in itertools.combinations(others, count):
            mirror = in_full(value.flip(chosen).movedim(dim, 0))
            odd = nearly_equal(mirror, -rows).flatten(1).all(1)
            if bool((odd & rows.flatten(1).any(1)).any()):
                return True
    return False


def _without_zero_ends(value: Tensor, dim: int) -> Tensor:
    """A constant without the entries at either end of an axis that are all zero, which have no sign."""
    met = value.movedim(dim, 0).flatten(1).any(1).nonzero().flatten().tolist()
    return value.narrow(dim, met[0], met[-1] + 1 - met[0]) if met else value


def is_short(value: Tensor) -> bool:
    """Whether all numbers have a few binary digits, as whole numbers and halves have: such were not rounded."""
    parts = torch.view_as_real(value) if value.is_complex() else value
    return bool((parts * 1024 == (parts * 1024).round()).all())


def in_full(value: Tensor) -> Tensor:
    """Numbers in double precision, with their imaginary parts if they have some."""
    return value.to(torch.complex128) if value.is_complex() else value.double()


def nearly_equal(a: Tensor, b: Tensor) -> Tensor:
    """Which numbers are equal up to the rounding of float32, relative to themselves or to a middle one.

    ``torch.linspace(-1, 1, n)`` is off by up to 2.4e-7 of its middle size, at its own middle.
    """
    size = b.abs().flatten()
    size = size[(size > 0) & size.isfinite()]
    return torch.isclose(a, b, rtol=1e-6, atol=3e-7 * float(size.median()) if size.numel() else 0.0)
