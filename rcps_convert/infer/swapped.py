"""The channels of a result whose entries are swapped, as re-anchored calls need them."""

from __future__ import annotations

import torch

from ..algebra import axis as ax
from ..algebra.axis import Axis


def swapped_channel(axes: tuple[Axis, ...]) -> tuple[int | None, tuple[int, ...] | None]:
    """The axis whose entries are swapped, halves before others, and how."""
    tables = {d: found for d, t in enumerate(axes) if not ax.is_length(t) and (found := swapped(t)) is not None}
    for d, table in tables.items():
        if not table:
            return d, None
    return next(iter(tables.items()), (None, None))


def swapped(term: Axis) -> tuple[int, ...] | None:
    """How the entries of an axis are swapped: an empty table for two halves, None if they are not."""
    outer = ax.children(term)[0] if isinstance(term, ax.Prod) else term
    if isinstance(outer, ax.Leaf) and outer.perm == "reversed" and outer.role is None and outer.size % 2 == 0:
        return ()
    if ax.is_trivial(term) or varies(term):
        return None
    table = ax.indices(term)
    half, here = len(table) // 2, torch.arange(len(table))
    if len(table) % 2 == 0 and bool((table[:half] >= half).all()):
        return ()
    return tuple(table.tolist()) if bool((table != here).any()) else None


def varies(term: Axis) -> bool:
    """Whether an axis has another size in another call: a length, a batch, or a product with one."""
    return ax.role(term) is not None or any(varies(c) for c in ax.children(term))
