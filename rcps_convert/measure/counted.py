"""Values that forward sets itself, such as a count of its calls: which way it takes when they are others.

What such a value is compared with stands in the code, in a setting, or is far off. So it is set to all of these, and to
those beside them, one after the other, and what forward calls then is compared.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .._torch import pytree
from ..algebra.arguments import Example
from ..graph.counters import Counters, put
from ..graph.holders import table_of, value_at
from ..graph.sandbox import call, fix_randomness, fresh_copy, mode, quiet, undisturbed_rng

WORK = 2**24
"""Entries of all tensors that the forwards of one value's ladder may make."""

CALLS = 2**14
"""Calls of torch's functions that they may make."""

NUMBERS = 128
"""Numbers of the code and of settings that are tried, at most."""

FARTHEST = 10**6
"""The largest count that is tried: a forward may make as many steps."""

LADDER = tuple(sign * n for n in (0, *range(1, 9), 16, 64, 256, 1000, 5000, 10**4, 10**5, FARTHEST) for sign in (1, -1))
"""Counts that are tried whatever the code says."""

FRACTIONS = (0.0, 1.0, -1.0, 1e-9, 1e-6, 1e-3, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 2.0, 10.0, 100.0, 1e3, 1e6)
"""The same of floats."""

ALIKE = 3
"""Values that are measured though forward calls the same functions with them."""

SEEDS = 16
"""Random states with which a forward is run to see whether it takes ways at random."""

WAYS = 8
"""Other ways that are measured, of one value."""


class Elsewhere(NamedTuple):
    """A model in a state that its forward may come to.

    Attributes:
        model: a copy of it.
        path: of the module that keeps the value.
        name: of the value there.
        value: what it is.
    """

    model: nn.Module
    path: str
    name: str
    value: Any


class _Recorded(TorchFunctionMode):
    """Notes which functions are called, with which parameters, and what that takes."""

    def __init__(self, left: list[int]) -> None:
        super().__init__()
        self.called: list[Any] = []
        self.left = left

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = [t for t in pytree.tree_leaves(result) if isinstance(t, Tensor)]
        if made:
            self.called.append((func, *(id(p) for p in args if isinstance(p, nn.Parameter))))
            self.left[0] -= sum(t.numel() for t in made)
            self.left[1] -= 1
        if min(self.left) <= 0:
            raise _TooLongError
        return result


class _TooLongError(Exception):
    """What the forwards of a ladder may take is used up."""


def elsewhere(model: nn.Module, converted: nn.Module, example: Example) -> Iterator[Elsewhere]:
    """A converted model in states that its forward may come to: one of each way it takes there, and some of its usual.

    Args:
        model: as it was before; not touched.
        converted: the same, converted; not touched.
        example: what it is called with.
    """
    twin = fresh_copy(model)
    counters = Counters(twin)
    found = _set_by_a_call(twin, example, counters) if counters.places else []
    others = _numbers(counters) if found else []
    for index, side in found:
        before, words = counters.values[index], _words(twin, counters, index)
        values = [v for v in _candidates(before, others) if _beyond(v, before, side)]
        for value in _telling(twin, example, counters, index, values):
            other = fresh_copy(converted)
            its = Counters(other)
            place = next(place for i, place in enumerate(its.places) if _words(other, its, i) == words)
            put(place, copy.deepcopy(value))
            yield Elsewhere(other, *words, value)


def counts(model: nn.Module, example: Example) -> bool:
    """Whether the eval-mode forward of a model changes values of Python's own.

    Args:
        model: not touched.
        example: what it is called with.
    """
    twin = fresh_copy(model)
    counters = Counters(twin)
    if counters.places:
        with quiet(), undisturbed_rng():
            _call(twin, example, counters, {}, [WORK, CALLS], False)
    return any(value_at(*place) != was for place, was in zip(counters.places, counters.values, strict=True))


def goes_at_random(model: nn.Module, example: Example) -> bool:
    """Whether the train-mode forward of a model calls other functions with other random numbers.

    Args:
        model: not touched.
        example: what it is called with.
    """
    twin = fresh_copy(model)
    counters, left = Counters(twin), [WORK, CALLS]
    with quiet(), undisturbed_rng():
        ways = [_call(twin, example, counters, {}, left, True, seed) for seed in range(SEEDS)]
    return len({way for way in ways if way is not None}) > 1


def _words(model: nn.Module, counters: Counters, index: int) -> tuple[str, str]:
    """The path of the module that leads to a place, and the name of the place there."""
    holder, name = counters.places[index]
    kept = next((one for one in counters.read.kept if one.value is holder), None)
    root, label = (holder, "") if kept is None else (kept.root, kept.label)
    path = next((path for path, module in model.named_modules() if module is root), "")
    return path, f"{label}.{name}".lstrip(".")


def _set_by_a_call(model: nn.Module, example: Example, counters: Counters) -> list[tuple[int, int]]:
    """Which values forward sets, each with a sign: a call makes it larger or smaller; 0 where that cannot be said."""
    signs: list[set[int]] = [set() for _ in counters.places]
    changed = {i for i, place in enumerate(counters.places) if place in counters.read.counters}
    with quiet(), undisturbed_rng():
        for training in (False, True):
            _call(model, example, counters, {}, [WORK, CALLS], training)
            for i, (place, before) in enumerate(zip(counters.places, counters.values, strict=True)):
                now = value_at(*place)
                changed |= {i} if now != before else set()
                signs[i] |= {(a > b) - (a < b) for a, b in _numbers_in(now, before)}
    counters.restore()
    each = {i: signs[i] - {0} for i in sorted(changed)}
    return [(i, found.pop() if len(found) == 1 else 0) for i, found in each.items()]


def _numbers_in(a: Any, b: Any) -> list[tuple[float, float]]:
    """The numbers in two values that are in the same place."""
    pairs = zip(pytree.tree_leaves(a), pytree.tree_leaves(b), strict=False)
    return [(x, y) for x, y in pairs if type(x) in (int, float) and type(y) in (int, float)]


def _numbers(counters: Counters) -> list[float]:
    """Numbers that forward may compare with: those in the code, and those of settings."""
    held = [table_of(holder).get(name) for holder, names in counters.read.settings for name in names]
    found = {n for n in pytree.tree_leaves(held) if type(n) in (int, float)}
    return sorted(counters.read.numbers | found, key=abs)[:NUMBERS]


def _candidates(before: Any, others: Iterable[float]) -> list[Any]:
    """What a value may become."""
    leaves, spec = pytree.tree_flatten(before)
    found = []
    for i, leaf in enumerate(leaves[:4]):
        found += [pytree.tree_unflatten([*leaves[:i], new, *leaves[i + 1 :]], spec) for new in _others(leaf, others)]
    return found


def _others(value: Any, numbers: Iterable[float]) -> list[Any]:
    if type(value) is bool:
        return [not value]
    if type(value) is float:
        return [*dict.fromkeys(float(n) for k in numbers for n in (k, k * 0.99)), *FRACTIONS]
    if type(value) is int:
        near = (int(n) - d for n in numbers for d in (0, 1) if abs(n) <= FARTHEST)
        return [*dict.fromkeys([*near, *(value + d for d in range(1, 9)), *LADDER])]
    return []


def _beyond(value: Any, before: Any, side: int) -> bool:
    """Whether counting leads from one value to another."""
    pairs = zip(pytree.tree_leaves(value), pytree.tree_leaves(before), strict=True)
    return all(a == b or not side or (a > b) == (side > 0) for a, b in pairs)


def _telling(model: nn.Module, example: Example, counters: Counters, index: int, values: list[Any]) -> list[Any]:
    """Of some values those with which forward takes another way, one of each, and a few of those with which not."""
    left = [WORK, CALLS]
    with quiet(), undisturbed_rng():
        usual = [_way(model, example, counters, {}, left) for _ in range(2)]  # the first call may fill tables
        ways: dict[Any, Any] = {}
        alike = []
        for value in values:
            way = _way(model, example, counters, {index: value}, left)
            if way in usual and way is not None:
                alike.append(value)
            elif way is not None:
                ways.setdefault(way, value)
    counters.restore()
    return [*list(ways.values())[:WAYS], *alike[-1:], *alike[: ALIKE - 1]]


def _way(model: nn.Module, example: Example, counters: Counters, values: dict[int, Any], left: list[int]) -> Any:
    """What forward calls with some values, in eval and train mode; None where it does not run, or that takes long."""
    found = [_call(model, example, counters, values, left, training) for training in (False, True)]
    return None if None in found else tuple(found)


def _call(
    model: nn.Module,
    example: Example,
    counters: Counters,
    values: dict[int, Any],
    left: list[int],
    training: bool,
    seed: int = 0,
) -> Any:
    """What forward calls in a mode; None where it does not run, or that would take long."""
    calls = _Recorded(left)
    counters.restore()
    for index, value in values.items():
        put(counters.places[index], copy.deepcopy(value))
    fix_randomness(seed)
    try:
        with _undone(model), torch.no_grad(), mode(model, training), calls:
            call(model, example)
    except Exception:  # the model's own errors, or a refusal: such a call is none
        return None
    return tuple(calls.called)


@contextmanager
def _undone(model: nn.Module) -> Iterator[None]:
    """Let a model write into its buffers, and undo that."""
    kept = [(b, b.detach().clone()) for b in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)
