"""What several rules share: dimensions, broadcasting, windows sliding over an axis."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from .._torch import op_name
from ..algebra import axis as ax
from ..algebra.action import Action
from ..algebra.axis import Axis, Step
from ..errors import BreaksSymmetryError, Refusal
from .registry import Anchor, Const, refuse, require_no_ids

DIRECTIONS = ax.permutation([1, 0])
"""The axis of two directions: what was read from the left is read from the right."""


GRIDS = (
    "let one layer make offsets for both coordinates of F.grid_sample, (N, ..., L, 2), and add them to a grid "
    "from -1 to 1"
)
"""How to read a length at places that are computed: coordinates from -1 to 1 only change their sign."""


def refuse_computed(name: str, dims: str) -> NoReturn:
    """Refuse to take entries of a length at places that forward computes from numbers, as in a deformable convolution.

    Args:
        name: of the operator.
        dims: what the places are on, in words.
    """
    refuse(
        f"{name} takes entries {dims} at places that forward computes",
        why="places are counted from the left end: on the other strand the entry at place i is at L - 1 - i, and no "
        "weights of the layer that computes i make it that",
        do='run the module that does so on both strands with on_unsupported="both_strands" (lines of the model itself: '
        f"move them into a module first), or {GRIDS}",
        never=False,
    )


def dim_of(dim: int, rank: int) -> int:
    """A dimension counted from the front."""
    return dim % rank if rank else 0


def dims_of(dims: Any, rank: int) -> list[int]:
    """Dimensions counted from the front; None or an empty list means all."""
    if dims is None or (isinstance(dims, (list, tuple)) and not dims):
        return list(range(rank))
    return [dim_of(d, rank) for d in (dims if isinstance(dims, (list, tuple)) else [dims])]


def per_axis(value: Any, rank: int) -> list[int]:
    """A setting per spatial axis, from one number or a list."""
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return [int(v) for v in (values * rank if len(values) == 1 else values)]


def broadcast(node: Any, operands: Sequence[Action]) -> Action:
    """The action of a pointwise result: operands agree wherever they broadcast.

    Raises:
        Mismatch: two operands disagree on an axis.
    """
    rank = max((len(x.axes) for x in operands), default=0)
    result: list[Axis] = []
    for dim in range(-rank, 0):
        terms = [x.axes[dim] for x in operands if len(x.axes) >= -dim]
        wide = [t for t in terms if t.size != 1]
        if wide:
            for t in terms:
                if t.size == 1:
                    ax.unify(t, ax.trivial(1))
        chosen = _most_known(wide or terms)
        for t in wide or terms:
            ax.unify(chosen, t)
        result.append(chosen)
    return Action(tuple(result))


def sum_of(node: Any, operands: Sequence[Action]) -> Action:
    """As `broadcast`, for a sum: an operand that is repeated along an axis cannot follow its signs.

    Raises:
        Mismatch: two operands disagree on an axis.
    """
    rank = max((len(x.axes) for x in operands), default=0)
    for dim in range(-rank, 0):
        terms = [x.axes[dim] for x in operands if len(x.axes) >= -dim]
        if len(terms) < len(operands) or len({t.size for t in terms}) > 1:
            forbid_signs(terms)
    return broadcast(node, operands)


def forbid_signs(terms: Iterable[Axis]) -> None:
    """State that none of several axes is signed.

    Raises:
        Mismatch: one of them is.
    """
    for t in terms:
        ax.forbid_sign(t)


def same_ids(operands: Iterable[Any]) -> Axis | None:
    """How the ids of several tensors are permuted; None when they hold numbers.

    Constant ids (`Const`) must be fixed ones, such as padding.

    Raises:
        Mismatch: ids meet numbers, ids of another kind, or constants that are permuted.
    """
    operands = list(operands)
    found = next((x.value for x in operands if isinstance(x, Action) and x.value is not None), None)
    if found is None:
        return None
    for x in operands:
        if isinstance(x, Const):
            if not torch.equal(ax.indices(found)[x.value.long()], x.value.long()):
                raise ax.Mismatch("constant ids that reverse complement permutes")
        elif x.value is None:
            raise ax.Mismatch("ids meet numbers")
        else:
            ax.unify(found, x.value)
    return found


def rows_of_ids(rows: Axis, ids: Action) -> None:
    """State that the rows of a table are permuted as the ids that point into it; rows that no id has stay.

    Raises:
        Mismatch: the rows are permuted otherwise.
    """
    value = ids.value if ids.value is not None else ax.trivial(rows.size)
    if value.size < rows.size:
        value = ax.total([value, ax.trivial(rows.size - value.size)])
    ax.unify(rows, value)


def permuted_ids(operands: Iterable[Any]) -> list[Action]:
    """The operands whose values are ids that reverse complement permutes."""
    given = [x for x in operands if isinstance(x, Action)]
    return [x for x in given if x.value is not None and not ax.is_trivial(x.value)]


def function_of_ids(node: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Action:
    """A function of one tensor of ids and of numbers: its values are numbers that stay, or change sign, or ids again.

    Raises:
        Refusal: other tensors take part, or the values follow no permutation.
    """
    ids = next(iter(permuted_ids([*args, *kwargs.values()])))
    if sum(isinstance(a, Action) for a in (*args, *kwargs.values())) > 1 or ids.value is None or ax.free(ids.value):
        require_no_ids([ids], node)
    assert ids.value is not None
    here = torch.arange(ids.value.size).to(torch.float64 if node.value.is_floating_point() else torch.int64)
    found = node.op(*(here if a is ids else a for a in args), **{k: here if a is ids else a for k, a in kwargs.items()})
    return renamed(node, ids, found)


def renamed(node: Any, ids: Action, found: Tensor) -> Action:
    """The action on the values of a function of ids.

    Args:
        node: the node being inferred.
        ids: the action of the ids.
        found: the value for each id, (n,).

    Raises:
        Refusal: the values follow no permutation.
    """
    assert ids.value is not None
    mirrored = found[ax.indices(ids.value)]
    if torch.equal(mirrored, found):
        return Action(ids.axes)
    table = table_of(found, mirrored)
    if table is not None:
        return Action(ids.axes, ax.permutation(table))
    if ids.axes and not bool((mirrored + found).any()):
        return Action((*ids.axes[:-1], ax.product([ids.axes[-1], ax.SIGN])))
    require_no_ids([ids], node)
    raise AssertionError("permuted ids are refused")


MOST_IDS = 2**18
"""Ids up to which a function of ids may count."""


def table_of(found: Tensor, mirrored: Tensor) -> list[int] | None:
    """The involution of whole numbers that maps each value to its mirrored one; others stay. None if there is none."""
    if found.dtype == torch.bool or not bool(((found == found.round()) & (found >= 0) & (found < MOST_IDS)).all()):
        return None
    before, after = found.long().flatten(), mirrored.long().flatten()
    table = torch.arange(int(before.max()) + 1)
    if int(after.max()) >= len(table):
        return None
    table[before] = after
    fits = torch.equal(table[before], after) and torch.equal(table[table], torch.arange(len(table)))
    return table.tolist() if fits else None


def _most_known(terms: Sequence[Axis]) -> Axis:
    """A term that carries a role, if there is one, so that roles survive."""
    return next((t for t in terms if ax.role(t)), terms[0])


def slide(
    node: Any,
    x: Axis,
    *,
    kernel: int,
    stride: int = 1,
    dilation: int = 1,
    pad: tuple[int, int] = (0, 0),
    out: int,
    ceil: bool = False,
) -> tuple[Axis, Axis]:
    """A window that slides along an axis: the action of the result's axis and of the kernel's.

    The axis is a length, or another one that is reversed as a whole, as bases in the order ACGT are.

    Args:
        node: the node being inferred.
        x: the axis slid over.
        kernel, stride, dilation: of the window, in positions.
        pad: positions added left and right.
        out: number of windows.
        ceil: a remainder makes one more window, as a pool's ``ceil_mode`` does.

    Raises:
        Refusal: the axis is permuted otherwise, or the windows leave a remainder of an axis of one size only.
    """
    extent = dilation * (kernel - 1) + 1
    if kernel == 1 and stride == 1 and pad == (0, 0):
        return x, ax.trivial(1)
    if extent == x.size == kernel and pad == (0, 0) and not ax.is_length(x):
        return ax.trivial(1), x
    read_as_positions(node, x)
    if ax.lengthen(x):
        even = f"; a kernel of {kernel} cannot be centred" if kernel % 2 == 0 else ""
        uneven = padded(node, pad, even, "use an odd kernel, or pad both sides alike: no input length avoids this")
        more = pad[0] if ceil else None
        step = Step(1, sum(pad) - extent + stride, stride, lopsided=uneven is not None, ceil=more)
        return advance(node, x, step, out, uneven), ax.length(kernel)
    if is_reversal(x):
        require_edges(node, x.size, Step(1, sum(pad) - extent + stride, stride, lopsided=pad[0] != pad[1]))
        return reversal(out, x), reversal(kernel)
    require_fixed(node, x)
    return ax.fixed_like(x, out), ax.trivial(kernel)


def read_as_positions(node: Any, x: Axis) -> None:
    """Make an open axis that windows slide over a length, where a dense layer may be assumed to write positions."""
    if isinstance(ax.walk(x), ax.Var) and node.assumes("written positions"):
        ax.unify(x, ax.length(x.size, ax.Role("length", steps=None)))


def is_reversal(x: Axis) -> bool:
    """Whether an axis that holds no positions is known to be reversed as a whole, its signs apart."""
    x = ax.walk(x)
    core = ax.product(f for f in (ax.children(x) if isinstance(x, ax.Prod) else (x,)) if f.size > 1)
    if core.size == 1 or ax.free(core) or ax.has_sign(core) or holds_positions(core):
        return False
    return torch.equal(ax.indices(core), torch.arange(core.size).flip(0))


def reversal(size: int, like: Axis | None = None) -> Axis:
    """The reversal of an axis that is no length, with the signs of another."""
    return ax.product([ax.Leaf(size, "reversed"), *(ax.units(like) if like is not None else ())])


def require_fixed(node: Any, x: Axis) -> None:
    """State that an axis that is not reversed stays as it is: windows slide along it.

    Raises:
        Refusal: it is permuted.
    """
    try:
        with ax.attempt():
            ax.unify(x, ax.trivial(x.size))
    except ax.Mismatch:
        refuse_in_a_row(op_name(node.op) + " slides", x)
        mixed = holds_positions(x)
        refuse(
            f"{op_name(node.op)} slides over an axis that "
            + (
                "mixes positions with something else" if mixed else "is permuted otherwise than by reading it backwards"
            ),
            why=f"under reverse complement this axis is permuted ({ax.describe(x)}), "
            + ("and a window over it holds both" if mixed else "and that does not map windows to windows"),
            do=f"give the positions an axis of their own: {_TRANSPOSE}" + (_BOTH if _alternates(x) else "")
            if mixed
            else f"{MOVED}; if it holds bases, order them so that the alphabet read backwards is its complement "
            "(ACGT), let the window span the whole axis without padding, or move the bases to the channel axis",
            never=False,
        )


_BOTH = (
    "; where two layers write every other position, let one make both (a convolution of 2 C channels, then "
    ".view(N, C, 2, L).mT.flatten(-2))"
)


def _alternates(x: Axis) -> bool:
    """Whether an axis holds, for each position, entries that stay in their order."""
    factors = ax.children(ax.walk(x))
    return len(factors) == 2 and ax.is_length(factors[0]) and ax.is_trivial(factors[1])


def refuse_in_a_row(runs: str, x: Axis) -> None:
    """Refuse what runs along several sequences that are put one behind the other.

    Args:
        runs: what does, in words.
        x: the axis it runs along.

    Raises:
        Refusal: it holds several sequences.
    """
    x = ax.walk(x)
    if isinstance(x, ax.Sum) and sum(map(ax.is_length, x.parts)) > 1:
        refuse(
            f"{runs} over several sequences that are put one behind the other",
            why=f"under reverse complement each is turned round in its place ({ax.describe(x)}), not all as one",
            do="let each pass the layers along positions by itself, and join them along the channels or where no "
            'length is left, or convert with strategy="conjoined"',
        )


MOVED = (
    "if it holds positions that forward moved to one side, as torch.roll and a write into x[..., 1:] do, move other "
    "channels as far to the other side, as many of them"
)
"""How positions that are moved stay in step with their mirror image."""

_TRANSPOSE = "this is often a reshape or view where a transpose or permute was meant"


def holds_positions(x: Axis) -> bool:
    """Whether a length, or a batch, is a factor or a part of an axis."""
    x = ax.walk(x)
    return ax.role(x) is not None or any(map(holds_positions, ax.children(x)))


def require_edges(node: Any, size: int, step: Step) -> None:
    """State that windows reach both edges of an axis that has one size at every length.

    Raises:
        Refusal: they leave a remainder, or the padding differs.
    """
    if not step.aligned(size):
        refuse(
            f"{op_name(node.op)} reads the two edges of an axis of {size} entries differently",
            why="under reverse complement this axis is reversed, and the windows would start at its other edge"
            + ("" if step.lopsided else f": {step.remainder(size)}"),
            do="choose kernel, stride and padding so that the windows reach both edges alike",
        )


def advance(node: Any, x: Axis, step: Step, out: int, lopsided: Refusal | None = None) -> Axis:
    """The length after an operator; where it may read one edge only, that is noted on the node (`Anchor`).

    A sign that the length carries stays.

    Args:
        node: the node being inferred.
        x: the length.
        step: what the operator does to it.
        out: the length after it.
        lopsided: for a step that treats the edges differently at every length, what to report where
            it cannot be re-anchored.
    """
    role = ax.role(x)
    assert role is not None
    history = None if role.steps is None else (*role.steps, step)
    if not step.always:
        known = None if history is None else (role.start, history)
        words = lopsided.what.partition(" ")[2] if lopsided else step.remainder(x.size)
        node.anchors.append(Anchor(x.size, step, known, words, lopsided or _remainder(node, x.size, step, known)))
    return ax.product([ax.length(out, ax.Role("length", role.start, history)), *ax.units(x)])


def _remainder(node: Any, size: int, step: Step, history: tuple[int, tuple[Step, ...]] | None) -> Refusal:
    start, steps = history or (size, (step,))
    unit = "model input lengths" if history else "lengths at this operator"
    near = " and ".join(str(n) for n in ax.nearest(start, lambda n: ax.follows(steps, n)))
    return Refusal(
        BreaksSymmetryError,
        f"{op_name(node.op)} over {size} positions leaves a remainder",
        got=f"length {size}: {step.remainder(size)}",
        why="the windows start at the left edge; those of the reverse complement would start at the right edge",
        do=f"use a length that divides: the nearest {unit} that work are {near}"
        if near
        else "change kernel, stride or padding so that the windows reach both edges",
    )


def padded(node: Any, pad: tuple[int, int], why: str = "", do: str = "") -> Refusal | None:
    """What to report of a pad of different width on each side; None if both are alike."""
    left, right = pad
    if left == right:
        return None
    return Refusal(
        BreaksSymmetryError,
        f"{op_name(node.op)} pads {left} positions on the left and {right} on the right",
        why=f"the reverse complement would need {right} on the left and {left} on the right{why}",
        do=do or "pad both sides alike, with an odd kernel after it: no input length avoids this",
    )


def is_uniform(value: Tensor, dim: int) -> bool:
    """Whether all entries along an axis are the same."""
    return value.numel() == 0 or bool((value == value.narrow(dim, 0, 1)).all())
