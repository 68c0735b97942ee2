"""Putting axes together and taking them apart: a concatenation is a sum of blocks, each mapped to itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._torch import op_name
from ..algebra import axis as ax
from ..algebra.action import Action
from ..algebra.axis import Axis, Mismatch, Step
from ..errors import BreaksSymmetryError, Refusal
from .common import (
    advance,
    broadcast,
    dim_of,
    is_uniform,
    padded,
    permuted_ids,
    refuse_computed,
    renamed,
    rows_of_ids,
    same_ids,
    slide,
)
from .registry import Const, aten, refuse, refuse_later, require_unsigned, rule

MOST_REVERSED = 2048
"""Longest open axis, in entries, that may be rearranged before it is known what it turns out to be."""


@rule(aten.cat.default, aten.concat.default, aten.concatenate.default, constants=True, ids=True, signs=True)
def cat(node: Any, tensors: list[Any], dim: int = 0) -> Action:
    """Other axes agree; the joined axis is the sum of its parts, each mapped to itself."""
    tensors = [t for t in tensors if not (isinstance(t, Const) and t.value.numel() == 0)]
    actions = [t if isinstance(t, Action) else node.constant(t) for t in tensors]
    at = dim_of(dim, len(node.shape))
    others = [x.with_axis(at, ax.trivial(1)) for x in actions]
    whole = broadcast(node, others)
    joined = _mirrored_padding(node, tensors, actions, at) or ax.total(x.axes[at] for x in actions)
    if node.mends:
        joined = _mended([x.axes[at] for x in actions])
    return Action(whole.with_axis(at, joined).axes, same_ids(tensors))


def _mended(terms: list[Axis]) -> Axis:
    """The axis of pieces of a length that are joined again, in an order that reverse complement reverses."""
    if all(map(ax.is_length, terms)):
        return ax.length(sum(t.size for t in terms), ax.Role("length", steps=None))
    for t in terms[1:]:
        ax.unify(terms[0], t)
    return ax.product([ax.length(len(terms), ax.Role("length", steps=None)), terms[0]])


JOINS = {"cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack", "column_stack"}
"""Operators that put tensors in a row, by plain name."""


@rule(aten.hstack.default, aten.vstack.default, aten.dstack.default, aten.column_stack.default, ids=True, signs=True)
def stacks(node: Any, tensors: list[Action]) -> Action:
    """A concatenation along a fixed axis."""
    name, rank = op_name(node.op), len(tensors[0].axes)
    if len(node.shape) != rank:
        refuse(f"{name} of tensors of {rank} axes", why="it adds axes first", do="use cat or stack", never=False)
    return cat(node, list(tensors), {"hstack": min(1, rank - 1), "vstack": 0, "dstack": 2, "column_stack": 1}[name])


def _mirrored_padding(node: Any, tensors: list[Any], actions: list[Action], dim: int) -> Axis | None:
    """A length between equal blocks of one constant value is a longer length; signed only if the value is zero."""
    inner = [i for i, x in enumerate(actions) if ax.is_length(x.axes[dim])]
    if len(inner) != 1 or len(actions) != 2 * inner[0] + 1:
        return None
    left, right = tensors[: inner[0]], tensors[inner[0] + 1 :][::-1]
    for a, b in zip(left, right, strict=True):
        if not (isinstance(a, Const) and isinstance(b, Const) and torch.equal(a.value, b.value)):
            return None
        if not is_uniform(a.value, dim):
            return None
    if any(bool(block.value.any()) for block in left):
        ax.forbid_sign(actions[inner[0]].axes[dim])
    grown = node.shape[dim] - actions[inner[0]].axes[dim].size
    return advance(node, actions[inner[0]].axes[dim], Step(1, grown), node.shape[dim])


@rule(aten.stack.default, constants=True, ids=True, signs=True)
def stack(node: Any, tensors: list[Any], dim: int = 0) -> Action:
    """The tensors agree; the new axis keeps each in its place."""
    whole = broadcast(node, [t if isinstance(t, Action) else node.constant(t) for t in tensors])
    at = dim_of(dim, len(whole.axes) + 1)
    count = ax.length(len(tensors), ax.Role("length", steps=None)) if node.mends else ax.trivial(len(tensors))
    return Action((*whole.axes[:at], count, *whole.axes[at:]), same_ids(tensors))


@rule(aten.split.Tensor, aten.split.sizes, aten.split_with_sizes.default, ids=True, signs=True)
@rule(aten.chunk.default, aten.tensor_split.sections, aten.tensor_split.indices, ids=True, signs=True)
def pieces(node: Any, x: Action, how: Any, dim: int = 0) -> tuple[Action, ...]:
    """Consecutive blocks, each mapped to itself; of a length, the first with the last, if they are joined again."""
    sizes = [int(v.shape[dim]) for v in node.value]
    whole = node.rejoined() and sizes == sizes[::-1] and len(sizes) > 1
    if whole and ax.lengthen(x.axes[dim]) and node.assumes("joined pieces"):
        node.torn = True
        alike = how if node.op is aten.split.Tensor else len(sizes)  # pieces of one size, or so many
        step = Step(1, 0, alike) if len(set(sizes)) == 1 else Step(1, 0, only=x.axes[dim].size)
        advance(node, x.axes[dim], step, step.out(x.axes[dim].size))
        return tuple(x.with_axis(dim, ax.length(s, ax.Role("length", steps=None))) for s in sizes)
    return tuple(x.with_axis(dim, p) for p in _cut(node, x.axes[dim], sizes))


def _cut(node: Any, term: Axis, sizes: list[int]) -> list[Axis]:
    """Pieces of an axis; a length is never mapped to itself piece by piece."""
    try:
        return ax.split(term, sizes)
    except Mismatch as fact:
        if ax.is_length(term):
            refuse(
                f"{op_name(node.op)} cuts a length of {term.size} into pieces of {', '.join(map(str, sizes))}",
                why="under reverse complement the first piece becomes the last",
                do="process the whole length, or crop both ends alike",
            )
        _refuse_circle(node, term)
        refuse(
            f"{op_name(node.op)} separates entries that reverse complement swaps",
            why=str(fact),
            do="cut where no pair is torn apart, or keep the tensor whole" + _both_directions(term),
        )


def _refuse_circle(node: Any, term: Axis) -> None:
    """Refuse to cut positions that are reversed in a circle, as Fourier transforms make them of padded ones.

    Raises:
        Refusal: that is how they are reversed.
    """
    if ax.has_sign(term) or term.size < 3:
        return
    places = ax.indices(term)
    if torch.equal(places, (places[0] - torch.arange(term.size)) % term.size) and places[0] != term.size - 1:
        refuse(
            f"{op_name(node.op)} cuts {term.size} positions that are reversed in a circle",
            why="so is what Fourier transforms make of a length and of a kernel that begins at the distance 0: each "
            "position reads its left side only, as in a causal convolution, and its mirror image the right side only",
            do="convolve from either end and add, f(x) + g(x.flip(-1)).flip(-1), with a kernel for each end",
        )


def _both_directions(term: Axis) -> str:
    """A way out where the two entries are the directions of a recurrent layer; they look like two strands."""
    term = ax.walk(term)
    factors = term.factors if isinstance(term, ax.Prod) else (term,)
    pairs = any(f.size == 2 and isinstance(f, ax.Leaf) and f.perm == "reversed" for f in factors)
    return "; of a recurrent layer read both directions, such as torch.cat([h_n[-2], h_n[-1]], 1)" if pairs else ""


@rule(aten.hsplit.int, aten.hsplit.array, aten.vsplit.int, aten.vsplit.array, ids=True, signs=True)
@rule(aten.dsplit.int, aten.dsplit.array, ids=True, signs=True)
def named_pieces(node: Any, x: Action, how: Any) -> tuple[Action, ...]:
    """As `pieces`, along the axis in the operator's name."""
    dims = {"hsplit": min(1, len(x.axes) - 1), "vsplit": 0, "dsplit": 2}
    return pieces(node, x, how, dims[op_name(node.op)])


@rule(aten.unbind.int, ids=True, signs=True)
def unbind(node: Any, x: Action, dim: int = 0) -> tuple[Action, ...]:
    """Every entry apart, each mapped to itself."""
    at = dim_of(dim, len(x.axes))
    _cut(node, x.axes[at], [1] * x.axes[at].size)
    ax.unify(x.axes[at], ax.trivial(x.axes[at].size))
    return tuple(Action((*x.axes[:at], *x.axes[at + 1 :]), x.value) for _ in range(x.axes[at].size))


@rule(aten.select.int, ids=True, signs=True)
def select(node: Any, x: Action, dim: int, index: int) -> Action:
    """One entry, mapped to itself; of a length only the middle one is."""
    at = dim_of(dim, len(x.axes))
    term, rest = x.axes[at], Action((*x.axes[:at], *x.axes[at + 1 :]), x.value)
    i = index % term.size
    if ax.lengthen(term) and term.size > 1:
        if 2 * i != term.size - 1:
            _refuse_position(node, term, index)
        ax.forbid_sign(term)
        return rest
    kept = _cut(node, term, [i, 1, term.size - i - 1])[1]
    ax.unify(kept, ax.trivial(1))
    return rest


def _refuse_position(node: Any, term: Axis, index: int) -> None:
    place = {0: "first", -1: "last", term.size - 1: "last"}.get(index)
    at = f"the {place} position" if place else f"position {index} of {term.size}"
    mirror = "last" if place == "first" else "first" if place else f"position {term.size - 1 - index % term.size}"
    refuse_later(
        node,
        f"{op_name(node.op)} of {at} cannot be equivariant",
        why=f"under reverse complement {at} becomes the {mirror}".replace("the position", "position"),
        do="pool over positions, read the middle of an odd length, or of a recurrent layer the final state h_n",
    )


@rule(aten.slice.Tensor, ids=True, signs=True)
def slice_(
    node: Any, x: Action, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Action:
    """A block mapped to itself; of a length, the middle."""
    at = dim_of(dim, len(x.axes))
    term = x.axes[at]
    taken = range(term.size)[slice(start, end, step)]
    if len(taken) == term.size:
        return x
    if not taken:
        return x.with_axis(at, ax.trivial(0))
    if ax.lengthen(term):
        by_number = (end is not None and 0 <= end < term.size) or (start is not None and start < 0)
        return x.with_axis(at, _crop(node, term, taken, by_number))
    if step > 1 and term.size % step == 0 and len(taken) == term.size // step:
        outer, inner = ax.factor(term, term.size // step, step)
        kept = _cut(node, inner, [taken[0], 1, step - taken[0] - 1])[1]
        ax.unify(kept, ax.trivial(1))
        return x.with_axis(at, outer)
    if step > 1:
        ax.unify(term, ax.trivial(term.size))
        return x.with_axis(at, ax.trivial(len(taken)))
    return x.with_axis(at, _cut(node, term, [taken[0], len(taken), term.size - taken[-1] - 1])[1])


def _crop(node: Any, term: Axis, taken: range, by_number: bool) -> Axis:
    left, right = taken[0], term.size - 1 - taken[-1]
    uneven = None
    if left != right and len(taken) == 1:
        _refuse_position(node, term, taken[0])
    elif left != right:
        uneven = Refusal(
            BreaksSymmetryError,
            f"slice drops {left} positions on the left and {right} on the right",
            why=f"the reverse complement would lose {right} on the left and {left} on the right",
            do="crop both ends alike, or choose a length for which both ends are cropped alike",
        )
    only = term.size if by_number else None
    step = Step(1, -left - right + taken.step - 1, taken.step, only, lopsided=uneven is not None)
    return advance(node, term, step, len(taken), uneven)


@rule(aten.slice_scatter.default, constants=True, signs=True)
def slice_scatter(
    node: Any, x: Any, part: Any, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Action:
    """The tensor agrees with what is put into it, block by block; of a length, with the middle one."""
    at = dim_of(dim, len(node.shape))
    taken = range(node.shape[at])[slice(start, end, step)]
    left, right = taken.start, node.shape[at] - taken.stop
    if isinstance(x, Const) and isinstance(part, Action) and step == 1 and is_uniform(x.value.flatten(), 0):
        return _around(node, part, at, (left, right), float(x.value.flatten()[0]))
    x, part = (t if isinstance(t, Action) else node.constant(t) for t in (x, part))
    whole = broadcast(node, [t.with_axis(at, ax.trivial(1)) for t in (x, part)])
    if ax.lengthen(x.axes[at]):
        _require_middle(node, left, right, step)
        ax.unify(part.axes[at], ax.length(len(taken), ax.Role("length", steps=None)))
        return whole.with_axis(at, x.axes[at])
    if step > 1:
        ax.unify(x.axes[at], ax.trivial(node.shape[at]))
    ends = [left, right] if step > 1 else [left, len(taken), right]
    parts = [ax.trivial(n) for n in ends] if step > 1 else _cut(node, x.axes[at], ends)
    ax.unify(part.axes[at], ax.trivial(len(taken)) if step > 1 else parts[1])
    return whole.with_axis(at, x.axes[at] if step > 1 else ax.total(parts))


def _around(node: Any, part: Action, dim: int, ends: tuple[int, int], value: float) -> Action:
    """A part with one number put around it: a padding."""
    if ax.lengthen(part.axes[dim]):
        _require_middle(node, *ends, 1)
    return pad(node, part, [0, 0] * (len(part.axes) - 1 - dim) + [*ends], "constant", value)


def _require_middle(node: Any, left: int, right: int, step: int) -> None:
    """State that positions are put into the middle of a length.

    Raises:
        Refusal: they are put nearer to one end, or not one beside the other.
    """
    if left != right or step > 1:
        refuse(
            f"{op_name(node.op)} puts positions "
            + (f"{left} from the left end and {right} from the right" if step == 1 else f"{step} apart"),
            why="under reverse complement they belong to other places",
            do="put them into the middle, or some channels nearer to one end and as many, as much nearer, to the other",
        )


@rule(aten.select_scatter.default, constants=True, signs=True)
def select_scatter(node: Any, x: Any, part: Any, dim: int, index: int) -> Action:
    """As `slice_scatter`, of one entry."""
    at = dim_of(dim, len(node.shape))
    i = index % node.shape[at]
    if isinstance(part, Const):
        return slice_scatter(node, x, Const(part.value.unsqueeze(at)), at, i, i + 1)
    return slice_scatter(node, x, Action((*part.axes[:at], ax.trivial(1), *part.axes[at:])), at, i, i + 1)


@rule(aten.unfold.default, ids=True, signs=True)
def windows(node: Any, x: Action, dim: int, size: int, step: int) -> Action:
    """Windows of an axis: their places, and at the end the positions inside a window."""
    at = dim_of(dim, len(x.axes))
    place, inside = slide(node, x.axes[at], kernel=size, stride=step, out=node.shape[at])
    return Action((*x.with_axis(at, place).axes, inside), x.value)


@rule(aten.narrow.default, ids=True, signs=True)
def narrow(node: Any, x: Action, dim: int, start: int, size: int) -> Action:
    """A block mapped to itself."""
    start = start % x.axes[dim].size
    return slice_(node, x, dim, start, start + size)


@rule(aten.constant_pad_nd.default, ids=True, signs=True)
def constant_pad(node: Any, x: Action, sizes: list[int], value: float = 0) -> Action:
    """As `pad`."""
    return pad(node, x, sizes, "constant", value)


@rule(aten.reflection_pad1d.default, aten.reflection_pad2d.default, aten.reflection_pad3d.default, ids=True, signs=True)
@rule(
    aten.replication_pad1d.default, aten.replication_pad2d.default, aten.replication_pad3d.default, ids=True, signs=True
)
def edge_pad(node: Any, x: Action, sizes: list[int]) -> Action:
    """As `pad`."""
    return pad(node, x, sizes, "edge")


@rule(aten.pad.default, ids=True, signs=True)
def pad(node: Any, x: Action, sizes: list[int], mode: str = "constant", value: float | None = None) -> Action:
    """A length padded alike on both sides; elsewhere the new entries are fixed."""
    if mode == "constant" and value:
        require_unsigned(x, node, because="the padding does not change its sign")
    if mode == "constant":
        same_ids([x, Const(torch.tensor(value or 0))])
    axes = list(x.axes)
    for i in range(len(sizes) // 2):
        left, right, dim = sizes[2 * i], sizes[2 * i + 1], len(axes) - 1 - i
        if not (left or right):
            continue
        if ax.lengthen(axes[dim]):
            axes[dim] = _pad_length(node, axes[dim], left, right)
        elif mode == "constant" and min(left, right) >= 0:
            axes[dim] = ax.total([ax.trivial(left), axes[dim], ax.trivial(right)])
        else:
            ax.unify(axes[dim], ax.trivial(axes[dim].size))
            axes[dim] = ax.trivial(axes[dim].size + left + right)
    return Action(tuple(axes), x.value)


def _pad_length(node: Any, term: Axis, left: int, right: int) -> Axis:
    step = Step(1, left + right, lopsided=left != right)
    return advance(node, term, step, term.size + left + right, padded(node, (left, right)))


def _commuting(node: Any, term: Axis, table: Tensor) -> None:
    """An open axis of rearranged entries: what it turns out to be must commute with that; a sign of all does.

    It may turn out as a length, such as that of a kernel, or as pairs. The matrix that rearranges it is invariant just
    under actions that commute.
    """
    moved = ax.Var(term.size, unsigned=True)
    ax.unify(term, ax.product([moved, ax.Var(1)]))
    for axis in node.constant(Const(torch.eye(term.size)[table])).axes:
        ax.unify(axis, moved)


def _is_open(term: Axis) -> bool:
    """Whether nothing is known of an axis of several entries, its sign apart."""
    factors = [f for f in (ax.walk(term), *ax.children(ax.walk(term))) if f.size > 1 and not isinstance(f, ax.Prod)]
    return len(factors) == 1 and isinstance(factors[0], ax.Var) and factors[0].size == term.size <= MOST_REVERSED


@rule(aten.flip.default, ids=True, signs=True)
def flip(node: Any, x: Action, dims: list[int]) -> Action:
    """A reversal commutes with a reversal; another permutation is conjugated; an open one must commute."""
    axes = list(x.axes)
    for d in dims:
        if _is_open(axes[d]) or not ax.lengthen(axes[d]):
            axes[d] = _conjugated(node, axes[d], torch.arange(axes[d].size).flip(0))
    return Action(tuple(axes), x.value)


@rule(aten.fliplr.default, aten.flipud.default, ids=True, signs=True)
def flip_one(node: Any, x: Action) -> Action:
    """As `flip`, of the first or the second axis."""
    return flip(node, x, [1 if op_name(node.op) == "fliplr" else 0])


@rule(aten.roll.default, ids=True, signs=True)
def roll(node: Any, x: Action, shifts: Any, dims: Any = ()) -> Action:
    """Entries move in a circle: a length does not commute with that, unless it moves by half."""
    axes = list(x.axes)
    places = zip(shifts if isinstance(shifts, (list, tuple)) else [shifts], dims, strict=True)
    for shift, d in places:
        axes[d] = _conjugated(node, axes[d], torch.arange(axes[d].size).roll(shift))
    return Action(tuple(axes), x.value)


def _conjugated(node: Any, term: Axis, table: Tensor) -> Axis:
    """The action on an axis whose entries were rearranged: entry j is the old entry table[j]."""
    if _is_open(term):
        _commuting(node, term, table)
        return term
    if ax.free(term):
        ax.trivialise(term)
    if ax.is_trivial(term):
        return term
    return _taken(term, table)


def _taken(term: Axis, table: Tensor) -> Axis:
    """The action on chosen entries of an axis.

    Raises:
        Mismatch: the partner of a chosen entry was not chosen.
    """
    if ax.has_sign(term):
        raise Mismatch("entries of a signed axis are rearranged")
    place = {int(old): new for new, old in enumerate(table.tolist())}
    partners = ax.indices(term)[table].tolist()
    if len(place) != len(table) or any(p not in place for p in partners):
        raise Mismatch(f"{ax.describe(term)}: an entry is taken without its partner, or twice")
    moved = ax.permutation([place[p] for p in partners])
    keeps_role = isinstance(moved, ax.Leaf) and moved.perm == "reversed" and ax.is_length(term)
    return ax.length(len(table), ax.Role("length", steps=None)) if keeps_role else moved


@rule(aten.index_select.default, constants=True, ids=True, signs=True)
def index_select(node: Any, x: Action, dim: int, index: Any) -> Action:
    """Entries by constant position: each needs its partner."""
    return _indexed(node, x, dim_of(dim, len(x.axes)), index)


@rule(aten.index.Tensor, constants=True, ids=True, signs=True)
def index(node: Any, x: Any, where: list[Any]) -> Action:
    """As `index_select`, for one axis; a table of numbers read by ids is a function of ids."""
    if isinstance(x, Const) and x.value.dim() == 1 and permuted_ids(where) and not ax.free(where[0].value):
        return renamed(node, where[0], x.value[: where[0].value.size])
    if not isinstance(x, Action):
        x = node.constant(x)
    used = [i for i, w in enumerate(where) if w is not None]
    if any(isinstance(where[i], Action) and where[i].value is None and ax.is_length(x.axes[i]) for i in used):
        refuse_computed("indexing", "of a length")
    if len(used) != 1:
        _refuse_index()
    if used == [0] and isinstance(where[0], Action) and where[0].value is not None:
        rows_of_ids(x.axes[0], where[0])  # as in an embedding
        return Action((*where[0].axes, *x.axes[1:]), x.value)
    return _indexed(node, x, used[0], where[used[0]])


def _indexed(node: Any, x: Action, dim: int, index: Any) -> Action:
    if isinstance(index, Action):
        _refuse_index()
    table, term = index.value, x.axes[dim]
    if isinstance(ax.walk(term), ax.Var) and table.dtype != torch.bool and len(table.unique()) < table.numel():
        ax.forbid_sign(term)
        places = node.constant(Const(table % max(1, term.size), index.buffer), term).axes  # rows of a table
        return Action((*x.axes[:dim], *places, *x.axes[dim + 1 :]), x.value)
    if table.dim() != 1:
        _refuse_index()
    if table.dtype == torch.bool:
        table = table.nonzero().flatten()
    if torch.equal(table.long().sort().values, torch.arange(term.size)):
        return x.with_axis(dim, _conjugated(node, term, table.long()))
    ax.trivialise(term)
    out = ax.trivial(len(table)) if ax.is_trivial(term) else _taken(term, table % max(1, term.size))
    return x.with_axis(dim, out)


def _refuse_index() -> None:
    refuse(
        "indexing by several or by computed positions",
        why="only one axis at a time, by a constant list of positions, is understood",
        do="index one axis at a time, or use slices",
        never=False,
    )
