"""The factors of an axis, outermost first, as a tie that stores one half sees them."""

from __future__ import annotations

from dataclasses import dataclass

from ..algebra import axis as ax
from ..algebra.action import Action
from ..algebra.axis import Axis


@dataclass(frozen=True)
class Factor:
    """A factor of an axis that is either kept or reversed."""

    size: int
    flipped: bool


def factors(term: Axis) -> list[Factor] | None:
    """An unsigned action as a product of identities and reversals, outermost first; None if it is none."""
    term = ax.walk(term)
    if isinstance(term, ax.Leaf):
        if term.perm is None or term.perm == "reversed":
            return [Factor(term.size, term.perm is not None)]
        return _search(term)
    if isinstance(term, ax.Prod):
        parts = [factors(f) for f in term.factors if f != ax.SIGN]
        return None if any(p is None for p in parts) else [f for p in parts for f in p or ()]
    if isinstance(term, ax.Sum):
        first = term.parts[0]
        equal = all(p.size == first.size and ax.same(p, first) for p in term.parts)
        inner = factors(first) if equal else None
        return None if inner is None else [Factor(len(term.parts), False), *inner]
    return None


def _search(leaf: ax.Leaf) -> list[Factor] | None:
    for outer in range(2, leaf.size):
        if leaf.size % outer:
            continue
        try:
            o, i = ax.factor(leaf, outer, leaf.size // outer)
        except ax.Mismatch:
            continue
        left, right = factors(o), factors(i)
        if left is not None and right is not None:
            return left + right
    return None


def sign_of(action: Action) -> int | None:
    """The uniform sign of an action; None if entries differ in sign."""
    sign = 1
    for term in map(ax.walk, action.axes):
        own = term.factors if isinstance(term, ax.Prod) else (term,)
        sign *= -1 if ax.SIGN in own else 1
        if any(ax.has_sign(f) for f in own if f != ax.SIGN):
            return None
    return sign
