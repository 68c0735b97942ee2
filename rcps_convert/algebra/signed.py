"""Signed permutations of channels as terms: blocks of one sign, or outer x inner."""

from __future__ import annotations

from collections.abc import Sequence

from .terms import SIGN, Axis, Prod, Sum, permutation, product, total, trivial, walk


def signed_permutation(table: Sequence[int], signs: Sequence[int]) -> Axis:
    """The action with entry i coming from ``table[i]`` times ``signs[i]``.

    Raises:
        ValueError: the table is no involution, or the signs of a pair differ.
    """
    permutation(table)
    if any(signs[i] != signs[p] for i, p in enumerate(table)):
        raise ValueError(f"signs {list(signs)}: the two entries of a pair have the same sign")
    found = _signed(tuple(table), tuple(signs))
    if found is None:
        raise ValueError(
            f"pairs of different signs lie interleaved in {list(table)}: reorder the channels so that what changes its "
            "sign stand beside each other"
        )
    return found


def _signed(table: tuple[int, ...], signs: tuple[int, ...]) -> Axis | None:
    """A signed permutation as consecutive blocks of one sign, or as outer x inner; None where it is neither."""
    n = len(table)
    if len(set(signs)) == 1:
        return product([permutation(table), SIGN]) if signs[0] < 0 else permutation(table)
    cut = next((i for i in range(1, n) if max(table[:i]) < i), None)
    if cut is not None:
        parts = [_signed(table[:cut], signs[:cut]), _signed(tuple(t - cut for t in table[cut:]), signs[cut:])]
        return total(p for p in parts if p is not None) if None not in parts else None
    for inner in (d for d in range(2, n) if n % d == 0):
        outer = tuple(t // inner for t in table[::inner]), tuple(s * signs[0] for s in signs[::inner])
        within = tuple(t % inner for t in table[:inner]), signs[:inner]
        places = [(o * inner + i, s * r) for o, s in zip(*outer, strict=True) for i, r in zip(*within, strict=True)]
        if places == [*zip(table, signs, strict=True)]:
            found = [_signed(*outer), _signed(*within)]
            return product(f for f in found if f is not None) if None not in found else None
    return None


def without_signs(term: Axis) -> Axis:
    """The permutation of a term alone, without the signs that are known."""
    term = walk(term)
    if isinstance(term, Sum):
        return total(map(without_signs, term.parts))
    if isinstance(term, Prod):
        return product(map(without_signs, term.factors))
    return trivial(1) if term == SIGN else term
