"""Reading a length from either end: what turns it round, and what joins the two readings."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from ..algebra import axis as ax
from ..algebra.action import Action
from .common import DIRECTIONS, dim_of
from .registry import aten, is_pointwise, refuse

FLIP = aten.flip.default
TURNS = {FLIP}
"""Operators that turn axes round."""

NAMED = {aten.flipud.default: 0, aten.fliplr.default: 1}
"""Operators that turn round the axis in their name."""

SELECT, UNBIND, SLICE = aten.select.int, aten.unbind.int, aten.slice.Tensor
"""Operators that take one position of an axis, each, and some."""

PARTS = {aten.split.Tensor, aten.split.sizes, aten.split_with_sizes.default, aten.chunk.default}
"""Operators that cut an axis into pieces that keep it."""

SQUEEZE, CUT = aten.squeeze.dim, aten.split.Tensor
"""Operators that drop an axis of one entry, and that cut an axis into pieces of one size."""

UNSQUEEZE, ORDER = aten.unsqueeze.default, aten.permute.default
"""Operators that give a result another axis, and that put axes in another order."""

ROWS = {aten.cat.default, aten.concat.default, aten.concatenate.default}
"""Operators that put the two readings in a row."""

PILES = {aten.stack.default}
"""Operators that put the two readings on an axis of their own."""

COMMUTES = {aten.add.Tensor, aten.mul.Tensor, aten.maximum.default, aten.minimum.default, aten.logaddexp.default}
"""Operators to which it is the same which reading comes first."""

EXCHANGES = {aten.permute.default, aten.transpose.int, aten.numpy_T.default, aten.mT.default, aten.t.default}
"""Operators that exchange axes."""

DROPS = {aten.dropout.default, aten.dropout_.default, aten.feature_dropout.default}
"""Operators that set entries to zero, wherever they are."""


def keeps_places(op: Any) -> bool:
    """Whether each entry of an operator's result comes from the same entry of its operand."""
    return is_pointwise(op) or op in DROPS


def ends_of_pieces(node: Any, shape: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Where a node cuts its first operand: axes, each with a place where a piece ends and another one begins.

    Args:
        node: a slice with a step of 1, or what cuts a tensor into pieces; any other node cuts nothing.
        shape: of its first operand.
    """
    if node.op is SLICE and node.args[4:] in ((), (1,)):
        given = [*node.args[1:4], *(0, None, None)[len(node.args[1:4]) :]]
        dim = dim_of(given[0], len(shape))
        taken = range(shape[dim])[slice(*given[1:])]
        yield from ((dim, end) for end in (taken.start, taken.stop))
    elif node.op in PARTS:
        dim = dim_of([*node.args[2:], 0][0], len(shape))
        yield from ((dim, end) for end in itertools.accumulate(int(piece.shape[dim]) for piece in node.value))


def standing(x: Action, dim: int) -> Action:
    """What one reading starts from: the other strand, read from the other end, has it in the same places."""
    return x.with_axis(dim, ax.Leaf(x.axes[dim].size, role=ax.STANDING))


def joined(node: Any, readings: Action, length: ax.Axis, back: int | None) -> Action:
    """Both readings together: reverse complement makes each the other one.

    Args:
        node: what joins them.
        readings: the action on either within its direction.
        length: the action on the positions that both started from.
        back: the axis along which the second was turned round again; None where it was not, so that places are
            counted from either end.
    """
    axes = [ax.trivial(t.size) if ax.role(t) == ax.STANDING else t for t in readings.axes]
    if back is not None:
        axes[back] = _placed(axes[back], length)
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    if node.op in PILES:
        at = dim_of(dim, len(axes) + 1)
        axes.insert(at, DIRECTIONS)
    elif node.op in ROWS:
        at = dim_of(dim, len(axes))
        if ax.is_length(axes[at]):
            refuse(
                "the readings of a length from both ends are put one behind the other",
                why="reverse complement would swap them and turn each round",
                do="join them along the channels",
            )
        axes[at] = ax.product([DIRECTIONS, axes[at]])
    return Action(tuple(axes))


def _placed(term: ax.Axis, length: ax.Axis) -> ax.Axis:
    """The axis that was turned round again: positions, also where they were put together one by one."""
    ax.unify(term, ax.trivial(term.size))
    return length if term.size == length.size else ax.length(term.size, ax.Role("length", steps=None))
