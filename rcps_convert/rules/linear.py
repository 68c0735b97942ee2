"""Contractions: contracted axes agree, the others pass through."""

from __future__ import annotations

from typing import Any

from .._torch import op_name
from ..algebra import axis as ax
from ..algebra.action import Action
from ..algebra.axis import Axis
from .common import broadcast, dim_of, forbid_signs, sum_of
from .registry import aten, refuse, rule


@rule(aten.linear.default, signs=True, weight=1)
def linear(node: Any, x: Action, w: Action, b: Action | None = None) -> Action:
    """x.last = w.in; w.out = b = y.last."""
    ax.unify(x.axes[-1], w.axes[-1])
    if b is not None:
        ax.unify(b.axes[0], w.axes[0])
        forbid_signs(x.axes[:-1])
    return Action((*x.axes[:-1], *w.axes[:-1]))


@rule(aten.matmul.default, aten.bmm.default, aten.mm.default, aten.mv.default, aten.dot.default, signs=True)
@rule(aten.vdot.default, signs=True)
def matmul(node: Any, a: Action, b: Action) -> Action:
    """a.last = b.second to last; leading axes broadcast."""
    if len(b.axes) == 1:
        ax.unify(a.axes[-1], b.axes[0])
        return Action(a.axes[:-1])
    ax.unify(a.axes[-1], b.axes[-2])
    lead = _both(node, [Action(a.axes[:-2]), Action(b.axes[:-2])])
    rows = a.axes[-2:-1] if len(a.axes) > 1 else ()
    return Action((*lead.axes, *rows, b.axes[-1]))


def _both(node: Any, operands: list[Action]) -> Action:
    """Axes that several factors have: their signs would meet in the product."""
    shared = [x for x in operands if x.axes]
    if len(shared) > 1:
        forbid_signs(t for x in shared for t in x.axes)
    return broadcast(node, operands)


@rule(aten.addmm.default, aten.addbmm.default, aten.baddbmm.default, aten.addmv.default, signs=True)
def add_matmul(node: Any, base: Action, a: Action, b: Action, beta: float = 1, alpha: float = 1) -> Action:
    """The sum of a tensor and a matrix product."""
    out = matmul(node, a, b)
    if len(out.axes) > len(node.shape):  # addbmm also sums over the batch
        ax.forbid_sign(out.axes[0])
        out = Action(out.axes[1:])
    return sum_of(node, [out, base])


@rule(aten.outer.default, aten.ger.default, signs=True)
def outer(node: Any, a: Action, b: Action) -> Action:
    """Nothing is contracted."""
    return Action((a.axes[0], b.axes[0]))


@rule(aten.inner.default, signs=True)
def inner(node: Any, a: Action, b: Action) -> Action:
    """a.last = b.last."""
    ax.unify(a.axes[-1], b.axes[-1])
    return Action((*a.axes[:-1], *b.axes[:-1]))


@rule(aten.kron.default, signs=True)
def kronecker(node: Any, a: Action, b: Action) -> Action:
    """Each axis is that of a x that of b; missing ones have one entry."""
    rank = len(node.shape)
    ours, theirs = ([ax.trivial(1)] * (rank - len(x.axes)) + list(x.axes) for x in (a, b))
    return Action(tuple(ax.product(pair) for pair in zip(ours, theirs, strict=True)))


@rule(aten.matrix_exp.default, signs=True)
def matrix_exp(node: Any, x: Action) -> Action:
    """A series of powers: rows and columns agree."""
    ax.unify(x.axes[-2], x.axes[-1])
    forbid_signs(x.axes[:-2])
    return x


@rule(aten.linalg_inv.default, aten.inverse.default, signs=True)
def inverse(node: Any, x: Action) -> Action:
    """Rows become columns."""
    return Action((*x.axes[:-2], x.axes[-1], x.axes[-2]))


@rule(aten.tril.default, aten.triu.default, signs=True)
def triangle(node: Any, x: Action, diagonal: int = 0) -> Action:
    """A triangle goes by the order of rows and columns: neither may be permuted."""
    if not all(ax.is_trivial(t) for t in x.axes[-2:]):
        refuse(
            f"{op_name(node.op)}: the triangle of a matrix",
            why="reverse complement permutes rows and columns, and what is above the diagonal moves below it",
            do="use the whole matrix; an orthogonal weight: remove the parametrization, and penalise its distance "
            'from orthogonality instead, or run its module on both strands with on_unsupported="both_strands"',
        )
    return x


@rule(aten.linalg_vecdot.default, signs=True)
def vecdot(node: Any, a: Action, b: Action, *, dim: int = -1) -> Action:
    """a and b agree; one axis is contracted."""
    whole = broadcast(node, [a, b])
    at = dim_of(dim, len(whole.axes))
    rest = (*whole.axes[:at], *whole.axes[at + 1 :])
    forbid_signs(rest)
    return Action(rest)


@rule(aten.tensordot.default, signs=True)
def tensordot(node: Any, a: Action, b: Action, left: list[int], right: list[int]) -> Action:
    """Contracted axes agree; the others of a, then of b, pass through."""
    left, right = [dim_of(d, len(a.axes)) for d in left], [dim_of(d, len(b.axes)) for d in right]
    for i, j in zip(left, right, strict=True):
        ax.unify(a.axes[i], b.axes[j])
    kept = [t for i, t in enumerate(a.axes) if i not in left]
    return Action((*kept, *(t for j, t in enumerate(b.axes) if j not in right)))


@rule(aten.bilinear.default, signs=True)
def bilinear(node: Any, x: Action, y: Action, w: Action, b: Action | None = None) -> Action:
    """x.last = w.second; y.last = w.third; w.out = b = result.last; leading axes agree."""
    ax.unify(x.axes[-1], w.axes[1])
    ax.unify(y.axes[-1], w.axes[2])
    if b is not None:
        ax.unify(b.axes[0], w.axes[0])
    lead = _both(node, [Action(x.axes[:-1]), Action(y.axes[:-1])])
    return Action((*lead.axes, w.axes[0]))


@rule(aten.scaled_dot_product_attention.default, signs=True)
def attention(
    node: Any,
    q: Action,
    k: Action,
    v: Action,
    mask: Action | None = None,
    dropout: float = 0.0,
    is_causal: bool = False,
    **settings: Any,
) -> Action:
    """q.E = k.E; k.S = v.S; the result has q.L and v.E; the mask adds to (q.L, k.S)."""
    if is_causal:
        refuse(
            "causal attention",
            why="each position reads those before it; under reverse complement it would read those after it",
            do="attend in both directions (is_causal=False)",
        )
    scores = matmul(node, q, Action((*k.axes[:-2], k.axes[-1], k.axes[-2])))
    if mask is not None:
        scores = broadcast(node, [scores, mask])
    forbid_signs(scores.axes)
    return matmul(node, scores, v)


@rule(aten.einsum.default, signs=True)
def einsum(node: Any, equation: str, operands: list[Action], path: Any = None) -> Action:
    """Axes of one letter agree; letters of the result pass through."""
    inputs, _, output = equation.replace(" ", "").partition("->")
    terms = inputs.split(",")
    if "->" not in equation:
        letters = [c for c in sorted(set(inputs)) if c.isalpha()]
        output = ("..." if "..." in inputs else "") + "".join(c for c in letters if inputs.count(c) == 1)
    known: dict[str, Axis] = {}
    seen: list[str] = []
    rest: list[Action] = []
    for term, x in zip(terms, operands, strict=True):
        named, hidden = _letters(term, x)
        rest.append(Action(hidden))
        for letter, axis in named:
            _agree(known, letter, axis)
            seen.append(letter)
    dots = _both(node, rest).axes
    forbid_signs(known[c] for c in known if seen.count(c) % 2 != (c in output))  # they cancel in pairs
    before, _, after = output.partition("...")
    middle = dots if "..." in output else ()
    if dots and "..." not in output:
        refuse("einsum drops its ellipsis", why="summed ellipses are not covered", do="name the axes", never=False)
    return Action((*(known[c] for c in before), *middle, *(known[c] for c in after)))


def _letters(term: str, x: Action) -> tuple[list[tuple[str, Axis]], tuple[Axis, ...]]:
    before, dots, after = term.partition("...")
    if not dots:
        return list(zip(before, x.axes, strict=True)), ()
    end = len(x.axes) - len(after)
    named = [*zip(before, x.axes, strict=False), *zip(after, x.axes[end:], strict=True)]
    return named, x.axes[len(before) : end]


def _agree(known: dict[str, Axis], letter: str, axis: Axis) -> None:
    before = known.setdefault(letter, axis)
    if before.size == axis.size:
        ax.unify(before, axis)
        known[letter] = before if ax.role(before) else axis
    else:  # an axis of size 1 is repeated
        small, known[letter] = sorted((before, axis), key=lambda t: t.size)
        ax.unify(small, ax.trivial(1))
        ax.forbid_sign(known[letter])
