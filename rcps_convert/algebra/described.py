"""Terms in words: what plans and errors say of an axis."""

from __future__ import annotations

import torch

from .terms import (
    Axis,
    Prod,
    Sum,
    Var,
    children,
    free,
    has_edge,
    has_sign,
    indices,
    is_length,
    product,
    role,
    signs,
    walk,
)  # fmt: skip


def describe(term: Axis) -> str:
    """The action in words: ``16 pairs + 1 fixed``, ``75 reversed``, ``batch of 2``, ``32 fixed``."""
    term = walk(term)
    if isinstance(term, Var):
        return f"{term.size} open"
    found = role(term)
    if found is not None:
        words = {
            "length": f"{term.size} reversed",
            "edge": f"{term.size} at the edge",
            "standing": f"{term.size} standing",
        }
        return words.get(found.name, f"batch of {term.size}") + (" and negated" if has_sign(term) else "")
    if has_edge(term):
        return " + ".join(map(describe, children(term)))
    if isinstance(term, Prod) and (free(term) or any(role(f) for f in term.factors)):
        return " x ".join(f"({describe(f)})" for f in _phrases(term))
    if free(term) or (isinstance(term, Sum) and any(map(is_length, term.parts))):
        return " + ".join(describe(p) for p in children(term))
    return _counts(term)


def _phrases(term: Prod) -> list[Axis]:
    """The factors of a product with neighbours that have neither role nor open variables taken together."""
    found: list[Axis] = []
    for f in term.factors:
        plain = not free(f) and role(f) is None
        if found and plain and not free(found[-1]) and role(found[-1]) is None:
            found[-1] = product([found[-1], f])
        else:
            found.append(f)
    return found


def _counts(term: Axis) -> str:
    idx, sgn = indices(term), signs(term)
    own = idx == torch.arange(len(idx))
    negative = own & (sgn < 0) if sgn is not None else torch.zeros_like(own)
    numbers = [
        (int((~own).sum()) // 2, "pairs"),
        (int((own & ~negative).sum()), "fixed"),
        (int(negative.sum()), "negated"),
    ]
    named = [f"{n} {'pair' if (word, n) == ('pairs', 1) else word}" for n, word in numbers if n]
    swapped_sign = sgn is not None and bool((sgn[~own] < 0).any())
    return (" + ".join(named) or "empty") + (" with signs" if swapped_sign else "")
