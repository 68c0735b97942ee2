"""What the open axes of a stretch may be: the combinations of actions that its law is tried with."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from ..algebra import axis as ax
from ..algebra.action import Action
from ..algebra.signed import without_signs

GUESSES = 200
"""Combinations of actions tried for axes that are still open."""

Guess = list[tuple[ax.Var, ax.Axis]]
"""What open axes are bound to."""


def guesses(given: list[Action], cuts: Iterable[tuple[ax.Axis, Sequence[int]]] = ()) -> Iterator[Guess]:
    """What to bind open axes to, the most general first: nothing, then each other, then known actions.

    Args:
        given: actions of what a stretch reads.
        cuts: axes that it cuts into pieces, each with their sizes.
    """
    first: dict[ax.Var, int] = {}
    for action in given:
        for dim, term in enumerate(action.axes):
            for v in ax.free(term):
                first.setdefault(v, dim - len(action.axes))
    long = any(ax.is_length(t) for a in given for t in a.axes)
    alone = [[v] for v in first]
    alike = [_classes(first, lambda v: (v.size, first[v])), _classes(first, lambda v: (v.size, 0))]
    seen: set[Any] = set()
    facing = _facing(given)
    bare = [(v, without_signs(t)) for v, t in facing]
    rest = [[v] for v in first if v not in {v for v, _ in facing}]
    ahead = (_bindings(rest, long, known=known) for known in ([False, True] if facing else []))
    faced = ([*terms, *guess] for guess in itertools.chain.from_iterable(ahead) for terms in (facing, bare))
    open_ones = (_bindings(classes, long, known=False) for classes in [alone, *alike])
    known_ones = (_bindings(classes, long, known=True) for classes in [*alike, alone])
    swaps = [[(term, swap)] for axis, sizes in cuts for term in ax.free(axis) for swap in _swaps(term, sizes)]
    ahead_of_known = itertools.chain(itertools.chain.from_iterable(open_ones), faced, swaps)
    for guesses_ in (ahead_of_known, itertools.chain.from_iterable(known_ones)):
        for guess in guesses_:
            mark = tuple((a, b, ax.role(b)) for a, b in guess)
            if mark not in seen:
                seen.add(mark)
                yield guess


def _swaps(v: ax.Var, sizes: Sequence[int]) -> Iterator[ax.Axis]:
    """How the pieces that a stretch cuts an open axis into may change places.

    Neighbours of one size swap, such as channels that are shifted to the left and to the right; or the first piece
    swaps with the last, the second with the one before, and so on.
    """
    if sum(sizes) != v.size or len(sizes) < 2:
        return
    if len({*sizes}) == 1:
        yield ax.product([ax.permutation(range(len(sizes) - 1, -1, -1)), ax.Var(sizes[0])])
    parts, at = list[ax.Axis](), 0
    while at < len(sizes):
        twice = sizes[at : at + 2] == [sizes[at]] * 2
        piece = ax.Var(sizes[at])
        parts.append(ax.product([ax.regular(2), piece]) if twice else piece)
        at += 2 if twice else 1
    if len(parts) < len(sizes):
        yield ax.total(parts)
    if list(sizes) == list(sizes)[::-1]:
        blocks = torch.arange(v.size).split(list(sizes))
        yield ax.permutation(torch.cat(blocks[::-1]).tolist())


def _facing(given: list[Action]) -> list[tuple[ax.Var, ax.Axis]]:
    """Open axes with the axis at the same place, counted from the last, that is put together of open ones."""
    placed = [(ax.walk(t), (dim - len(a.axes), t.size)) for a in given for dim, t in enumerate(a.axes)]
    composed = {place: t for t, place in placed if ax.children(t) and ax.free(t)}
    terms = {t: composed[place] for t, place in placed if isinstance(t, ax.Var) and place in composed}
    return list(terms.items())


def _classes(variables: Iterable[ax.Var], label: Any) -> list[list[ax.Var]]:
    found: dict[Any, list[ax.Var]] = {}
    for v in variables:
        found.setdefault(label(v), []).append(v)
    return list(found.values())


def _bindings(classes: list[list[ax.Var]], long: bool, *, known: bool) -> Iterator[list[tuple[ax.Var, ax.Axis]]]:
    """Each class of variables one variable, and that one open or, where `known`, of some action."""
    equal: list[tuple[ax.Var, ax.Axis]] = [(v, c[0]) for c in classes for v in c[1:]]
    if not known:
        yield equal
        return
    options = [_options(c[0], long) for c in classes]
    choices: Iterable[Any] = itertools.islice(itertools.product(*options), 4 * GUESSES)
    choices = itertools.chain(choices, _distances(classes) if long else ())
    for chosen in sorted(choices, key=lambda terms: sum(t is not None for t in terms)):
        if any(t is not None for t in chosen):
            yield equal + [(c[0], t) for c, t in zip(classes, chosen, strict=True) if t is not None]


def _distances(classes: list[list[ax.Var]]) -> Iterator[tuple[ax.Axis | None, ...]]:
    """One class of variables has a position per distance from -L to L - 1, the others stay open.

    Reversed but for the first distance, which has no mirror image: no pair of positions has it.
    """
    for i, c in enumerate(classes):
        if c[0].size % 2 == 0 and c[0].size > 2:
            odd = ax.length(c[0].size - 1, ax.Role("length", steps=None))
            for term in (ax.total([ax.trivial(1), odd]), ax.total([odd, ax.trivial(1)])):
                yield tuple(term if j == i else None for j in range(len(classes)))


def _options(v: ax.Var, long: bool) -> list[ax.Axis | None]:
    """The actions an open axis may turn out to have; None leaves it open."""
    n = v.size
    if n == 1:
        return [None, ax.trivial(1)]
    found: list[ax.Axis | None] = [None, ax.regular(n)]
    if n % 2 == 0 and n > 2:
        found.append(ax.product([ax.trivial(n // 2), ax.regular(2)]))
    if long:
        found.append(ax.length(n, ax.Role("length", steps=None)))
    return [*found, ax.trivial(n)]
