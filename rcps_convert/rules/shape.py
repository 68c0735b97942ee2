"""Layout changes: a flattened axis is a product of its factors, a viewed one is read as a product."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from .._torch import op_name
from ..algebra import axis as ax
from ..algebra.action import Action
from ..algebra.axis import Axis
from .common import advance, dim_of, dims_of
from .registry import aten, rule

MOVES = {
    "view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "permute", "transpose", "t",
    "mT", "movedim", "expand", "slice", "select", "narrow", "to", "_to_copy", "type_as", "detach", "clone",
    "contiguous", "alias", "lift_fresh_copy", "index_select", "numpy_T", "ravel",
    "swapaxes", "swapdims", "moveaxis", "broadcast_to", "view_as", "reshape_as", "expand_as",
    "chunk", "split", "split_with_sizes", "tensor_split", "unbind", "repeat", "tile", "repeat_interleave",
}  # fmt: skip
"""Operators whose result holds entries of their first operand and nothing else, by plain name."""


def moves(op: Any) -> bool:
    """Whether an operator only selects, arranges or casts the entries of its first operand."""
    return op_name(op) in MOVES


def regroup(axes: Sequence[Axis], shape: Sequence[int]) -> tuple[Axis, ...]:
    """The axes of a tensor after a reshape in memory order.

    Raises:
        Mismatch: the reshape cuts through an action that is not a product there.
    """
    rest: list[Axis] = list(axes)
    result: list[Axis] = []
    targets = list(shape)
    while targets:
        group_in: list[Axis] = []
        group_out = [targets.pop(0)]
        while rest and (not group_in or math.prod(a.size for a in group_in) != math.prod(group_out)):
            if group_in and math.prod(a.size for a in group_in) > math.prod(group_out):
                group_out.append(targets.pop(0))
            else:
                group_in.append(rest.pop(0))
        while math.prod(a.size for a in group_in) > math.prod(group_out):
            group_out.append(targets.pop(0))
        if not targets:
            group_in += rest
            rest = []
        elif len(group_out) > 1 or len(group_in) > 1:
            while targets and targets[0] == 1 and (not rest or rest[0].size != 1):
                group_out.append(targets.pop(0))
        result += ax.factor_into(ax.product(group_in), group_out)
    return tuple(result)


@rule(aten.view.default, aten.reshape.default, aten._unsafe_view.default, ids=True, signs=True)
@rule(aten.flatten.using_ints, aten.unflatten.int, aten.ravel.default, ids=True, signs=True)
def view(node: Any, x: Action, *args: Any) -> Action:
    """The product of the axes, read as a product again."""
    return Action(regroup(x.axes, node.shape), x.value)


@rule(aten.view_as.default, aten.reshape_as.default, ids=True, signs=True, like=(1,))
def view_as(node: Any, x: Action, other: Action) -> Action:
    """As `view`, into the shape of another tensor."""
    return view(node, x)


@rule(aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims, ids=True, signs=True)
def squeeze(node: Any, x: Action, dims: Any = None) -> Action:
    """Axes of size 1 disappear; an open sign moves to a neighbour, but to no length of one position."""
    gone = [d for d in dims_of(dims, len(x.axes)) if x.axes[d].size == 1]
    kept = [t for i, t in enumerate(x.axes) if i not in gone]
    signs = [x.axes[d] for d in gone if not ax.is_trivial(x.axes[d])]
    near = [i for i, t in enumerate(kept) if t.size > 1 or ax.role(t) is None]
    if signs and near:
        kept[near[-1]] = ax.product([kept[near[-1]], *signs])
    for sign in signs if not near else []:
        ax.unify(sign, ax.trivial(1))
    return Action(tuple(kept), x.value)


@rule(aten.unsqueeze.default, ids=True, signs=True)
def unsqueeze(node: Any, x: Action, dim: int) -> Action:
    """A new axis of size 1."""
    at = dim % (len(x.axes) + 1)
    return Action((*x.axes[:at], ax.trivial(1), *x.axes[at:]), x.value)


@rule(aten.permute.default, ids=True, signs=True)
def permute(node: Any, x: Action, dims: list[int]) -> Action:
    """Axes change places."""
    return Action(tuple(x.axes[dim_of(d, len(x.axes))] for d in dims), x.value)


@rule(aten.transpose.int, aten.swapaxes.default, aten.swapdims.default, ids=True, signs=True)
def transpose(node: Any, x: Action, a: int, b: int) -> Action:
    """Two axes change places."""
    axes = list(x.axes)
    axes[a], axes[b] = axes[b], axes[a]
    return Action(tuple(axes), x.value)


@rule(
    aten.t.default, aten.numpy_T.default, aten.mT.default, aten.adjoint.default, aten.mH.default, ids=True, signs=True
)
@rule(aten.matrix_H.default, ids=True, signs=True)
def matrix_transpose(node: Any, x: Action) -> Action:
    """The last two axes change places."""
    return Action((*x.axes[:-2], *reversed(x.axes[-2:])), x.value)


@rule(aten.movedim.int, aten.movedim.intlist, aten.moveaxis.int, aten.moveaxis.intlist, ids=True, signs=True)
def movedim(node: Any, x: Action, source: Any, destination: Any) -> Action:
    """Axes move, the others keep their order."""
    rank = len(x.axes)
    places = dict(zip(dims_of(destination, rank), dims_of(source, rank), strict=True))
    others = iter(i for i in range(rank) if i not in places.values())
    return Action(tuple(x.axes[places[i] if i in places else next(others)] for i in range(rank)), x.value)


@rule(aten.expand.default, aten.broadcast_to.default, ids=True, signs=True)
def expand(node: Any, x: Action, *args: Any, **kwargs: Any) -> Action:
    """Copies along an axis are the same under any permutation: the new axis is open."""
    return _expanded(x, node.shape)


@rule(aten.expand_as.default, ids=True, signs=True, like=(1,))
def expand_as(node: Any, x: Action, other: Action) -> Action:
    """As `expand`, to the shape of another tensor."""
    return _expanded(x, node.shape)


def _expanded(x: Action, shape: Sequence[int]) -> Action:
    axes = [ax.trivial(1)] * (len(shape) - len(x.axes)) + list(x.axes)
    for i, (term, size) in enumerate(zip(axes, shape, strict=True)):
        if term.size != size:
            ax.unify(term, ax.trivial(1))
            axes[i] = ax.Var(size, unsigned=True)
    return Action(tuple(axes), x.value)


@rule(aten.broadcast_tensors.default, ids=True, signs=True)
def broadcast_tensors(node: Any, operands: Sequence[Action]) -> list[Action]:
    """Each operand is expanded for itself."""
    shape = torch.broadcast_shapes(*(x.shape for x in operands))
    return [_expanded(x, shape) for x in operands]


@rule(aten.repeat.default, aten.tile.default, ids=True, signs=True)
def repeat(node: Any, x: Action, times: list[int]) -> Action:
    """Copies one after the other: copies x axis, and the copies are open."""
    axes = [ax.trivial(1)] * (len(node.shape) - len(x.axes)) + list(x.axes)
    times = [1] * (len(axes) - len(times)) + list(times)
    return Action(tuple(ax.product([_copies(n, t), t]) for n, t in zip(times, axes, strict=True)), x.value)


@rule(aten.repeat_interleave.self_int, ids=True, signs=True)
def repeat_interleave(node: Any, x: Action, times: int, dim: int | None = None, **kwargs: Any) -> Action:
    """Each entry repeated in place: axis x copies; the copies of a length are reversed with it."""
    if dim is None:
        x, dim = Action((ax.product(x.axes),), x.value), 0
    term = x.axes[dim]
    if ax.lengthen(term):
        return x.with_axis(dim, advance(node, term, ax.Step(times, 0), term.size * times))
    return x.with_axis(dim, ax.product([term, _copies(times)]))


def _copies(times: int, of: Axis | None = None) -> Axis:
    """Equal copies may change places; those of a whole length do, so that they make a length."""
    if times > 1 and of is not None and ax.is_length(of):
        return ax.length(times, ax.Role("length", steps=None))
    return ax.trivial(1) if times == 1 else ax.Var(times, unsigned=True)


@rule(aten.pixel_shuffle.default, aten.pixel_unshuffle.default, ids=True, signs=True)
def pixel_shuffle(node: Any, x: Action, factor: int) -> Action:
    """Channels become finer positions along the last two axes, or the other way round."""
    *lead, channel, height, width = x.axes
    if op_name(node.op) == "pixel_shuffle":
        kept, rows, columns = ax.factor_into(channel, [channel.size // factor**2, factor, factor])
        return Action((*lead, kept, ax.product([height, rows]), ax.product([width, columns])), x.value)
    (height, rows), (width, columns) = (ax.factor(t, t.size // factor, factor) for t in (height, width))
    return Action((*lead, ax.product([channel, rows, columns]), height, width), x.value)


@rule(aten.channel_shuffle.default, ids=True, signs=True)
def channel_shuffle(node: Any, x: Action, groups: int) -> Action:
    """Groups x members become members x groups."""
    outer, inner = ax.factor(x.axes[1], groups, x.axes[1].size // groups)
    return x.with_axis(1, ax.product([inner, outer]))
