"""Places given by numbers: values put to places, taken from places, and numbers sorted into bins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._torch import op_name
from ..algebra import axis as ax
from ..algebra.action import Action
from .common import dim_of, refuse_computed, rows_of_ids
from .registry import RULES, Const, aten, refuse, require_unsigned, rule

ADDS = {"add", "sum"}
"""Ways to put values together that are linear in them."""

LISTS = {aten.index_select.default, aten.gather.default, aten.take_along_dim.default}
"""Operators that take entries of an axis by a tensor of places: ``(x, dim, places)``, in some order."""

BY_TENSORS = aten.index.Tensor
"""The operator that takes entries by a tensor of places for some of the axes."""

PUTS = {
    aten.slice.Tensor: aten.slice_scatter.default,
    aten.select.int: aten.select_scatter.default,
}
"""For operators that take a part of a tensor, those that return the tensor with another part in its place."""

COPIES_INTO = {aten.copy_.default, aten.fill_.Tensor}
"""Operators that write one tensor into another, its entries repeated where it has fewer."""

EXPAND = aten.expand.default
"""The operator that repeats entries."""

COPIES = {aten.detach_.default}
"""Operators in place that change no value."""


def _meet(x: Action, places: Action, at: int) -> None:
    """State that a tensor and the places in one of its axes agree: that axis is permuted as the places are."""
    rows_of_ids(x.axes[at], places)
    for term in (x.axes[at], places.axes[at]):
        ax.forbid_sign(term)
    for d, (a, b) in enumerate(zip(x.axes, places.axes, strict=True)):
        if d == at:
            continue
        if a.size != b.size:
            raise ValueError(f"axis {d} has {a.size} entries, the places {b.size}")
        ax.unify(a, b)


@rule(aten.gather.default, constants=True, ids=True, signs=True)
def gather(node: Any, x: Any, dim: int, places: Any, **settings: Any) -> Action:
    """The axis is permuted as the places in it are; other axes agree. The same places everywhere: `index_select`."""
    x = node.constant(x) if isinstance(x, Const) else x
    at = dim_of(dim, len(x.axes))
    row = same_everywhere(places.value, x.shape, at) if isinstance(places, Const) else None
    if row is not None:
        taken: Action = RULES[aten.index_select.default](node, x, at, Const(row))
        return taken
    places = node.constant(places) if isinstance(places, Const) else places
    if ax.is_length(x.axes[at]) and places.value is None:
        refuse_computed("gather", f"of a length of {x.axes[at].size}")
    _meet(x, places, at)
    return Action((*x.axes[:at], places.axes[at], *x.axes[at + 1 :]), x.value)


@rule(aten.take_along_dim.default, ids=True, signs=True)
def take_along_dim(node: Any, x: Action, places: Action, dim: int | None = None) -> Action:
    """As `gather`, where axes of one entry are repeated."""
    if dim is None:
        raise ValueError("places in the flattened tensor")
    at = dim_of(dim, len(x.axes))
    if ax.is_length(x.axes[at]) and places.value is None:
        refuse_computed("take_along_dim", f"of a length of {x.axes[at].size}")
    for d, (a, b) in enumerate(zip(x.axes, places.axes, strict=True)):
        if d != at and a.size != b.size:
            ax.unify(a if a.size == 1 else b, ax.trivial(1))
            x, places = (x.with_axis(d, b), places) if a.size == 1 else (x, places.with_axis(d, a))
    taken: Action = RULES[aten.gather.default](node, x, at, places)
    return taken


def same_everywhere(places: Tensor, shape: Sequence[int], dim: int) -> Tensor | None:
    """The places along an axis, if they are the same wherever one stands along the others; else None."""
    whole = places.shape[:dim] == shape[:dim] and places.shape[dim + 1 :] == shape[dim + 1 :]
    if not whole or not places.numel():
        return None
    row = places.movedim(dim, -1).reshape(-1, places.shape[dim])
    return row[0] if torch.equal(row, row[:1].expand_as(row)) else None


@rule(aten.scatter.value, aten.scatter.value_reduce, ids=True, signs=True)
def mark(node: Any, x: Action, dim: int, places: Action, value: float, *, reduce: str = "") -> Action:
    """One value at places of an axis, which is permuted as they are: a one-hot code, if the others are zero."""
    if value or reduce:
        require_unsigned(x, node, because="the value does not change its sign")
    _meet(x, places, dim_of(dim, len(x.axes)))
    return Action(x.axes)


@rule(aten.scatter.src, aten.scatter.reduce, aten.scatter_add.default, aten.scatter_reduce.two, ids=True, signs=True)
def put(node: Any, x: Action, dim: int, places: Action, values: Action, how: str = "", **settings: Any) -> Action:
    """Values at places of an axis, which is permuted as they are; the order in which they are put must not matter."""
    at, how = dim_of(dim, len(x.axes)), how or str(settings.get("reduce", ""))
    how = "add" if op_name(node.op).strip("_") == "scatter_add" else how
    if how not in ADDS:
        for operand in (x, values):
            require_unsigned(operand, node, because="the values change their signs, and the places do not")
    if not how and places.axes[at].size > 1:
        refuse(
            "scatter puts several values to places, of which two may be the same",
            why="the last of them stays, and under reverse complement another one may be the last",
            do="add them (scatter_add), or take their largest (scatter_reduce)",
            never=False,
        )
    _meet(x, places, at)
    for a, b in zip(values.axes, places.axes, strict=True):
        ax.unify(a, b)
    return Action(x.axes)


@rule(aten.bucketize.Tensor, aten.searchsorted.Tensor, because="a number of bins has no sign")
def bins(node: Any, one: Action, other: Action, **settings: Any) -> Action:
    """The bin of each number: pointwise, and the edges stay in their order."""
    x, edges = (one, other) if op_name(node.op) == "bucketize" else (other, one)
    if len(edges.axes) != 1:
        raise ValueError("the edges differ from row to row")
    ax.unify(edges.axes[0], ax.trivial(edges.axes[0].size))
    return Action(x.axes)
