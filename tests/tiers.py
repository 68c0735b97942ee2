"""Which cases of a law run each time, and which in the slow run only."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

slow, variation = pytest.mark.slow, pytest.mark.variation


def some(cases: Iterable[Any], count: int) -> list[Any]:
    """The cases of a law that holds for each alike: `count` of them, spread evenly, run each time, the others slowly.

    For variations only. Where each case stands for a mechanism of its own, all of them belong into each run. Those left
    to the slow run are marked ``variation`` too: they are quick one by one, and mutation testing runs them.

    Args:
        cases: values or `pytest.param`s of one argument; one that is a tuple stands for several arguments.
        count: at least 1.
    """
    every = list(cases)
    kept = {round(i * (len(every) - 1) / max(count - 1, 1)) for i in range(count)} if count < len(every) else None
    return [case if kept is None or i in kept else _marked(case, slow, variation) for i, case in enumerate(every)]


def chosen(cases: Iterable[Any], kept: Callable[[Any], bool]) -> list[Any]:
    """As `some`, with the cases that run each time named by a predicate: the quickest of each mechanism."""
    every = list(cases)
    return [case if kept(_value(case)) else _marked(case, slow, variation) for case in every]


def but(cases: Iterable[Any], long: Callable[[Any], bool]) -> list[Any]:
    """All cases, of which those that take long run slowly."""
    return [_marked(case, slow) if long(case) else case for case in cases]


def drawn(*strategies: Any, few: int = 30, many: int = 100) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """`hypothesis.given` with few examples each time, and with many in the slow run."""
    from hypothesis import given, settings

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @pytest.mark.parametrize("examples", some([few, many], 1))
        def run(examples: int) -> None:
            settings(max_examples=examples, deadline=None)(given(*strategies)(test))()

        run.__name__, run.__doc__, run.__module__ = test.__name__, test.__doc__, test.__module__
        return run

    return decorate


def _marked(case: Any, *marks: pytest.MarkDecorator) -> Any:
    if isinstance(case, type(pytest.param())):
        return pytest.param(*case.values, id=case.id, marks=[*case.marks, *marks])
    return pytest.param(*(case if type(case) is tuple else (case,)), marks=marks)


def _value(case: Any) -> Any:
    """What a case holds, without its marks; of several arguments their tuple."""
    if not isinstance(case, type(pytest.param())):
        return case
    return case.values[0] if len(case.values) == 1 else case.values
