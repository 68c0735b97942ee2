"""What the open axes of a stretch may be: the combinations of actions that its law is tried with."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from ..algebra import axis as ax
from ..algebra.action import Action
from ..algebra.signed import without_signs

GUESSES = 200
"""Combinations of actions tried for axes that are still open."""


def guesses(given: list[Action]) -> Iterator[list[tuple[ax.Var, ax.Axis]]]:
    """What to bind open axes to, the most general first: nothing, then each other, then known actions."""
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
    for guesses_ in (itertools.chain.from_iterable(open_ones), faced, itertools.chain.from_iterable(known_ones)):
        for guess in guesses_:
            mark = tuple((a, b, ax.role(b)) for a, b in guess)
            if mark not in seen:
                seen.add(mark)
                yield guess


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
