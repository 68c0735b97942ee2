"""Which way forward takes at sizes far from the example's: where it calls other functions, a branch went another way.

However a branch is decided (by ``math.log2(n)``, ``n // 100``, ``len(str(n))``, a table of lengths), forward calls
other functions on its two sides, or reads other parameters. So it is run on a ladder of sizes, in eval and train mode,
and what it calls is compared with what it calls on the example; at a few sizes only, where it cannot go by them.

This file and `thresholds` say where to look; whether the law holds there is measured by `convert.length_checks`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .._torch import pytree
from ..algebra.arguments import Example
from ..graph.sandbox import call, fix_randomness, fresh_copy, mode, quiet, undisturbed_rng
from .known_sizes import can_go_by_sizes
from .lengths import Survey, Variants
from .thresholds import MOST, Seen, Turn, compared_at, turns

WORK = 2**22
"""Entries of all tensors that all forwards on a ladder may make, in each mode; more where one forward makes many."""

OFTEN = 8
"""So many times what forward makes on the example may be made in any case: lengths up to its double are tried."""

MOST_WORK = 2**28
"""Entries of all tensors up to which that holds."""

LONG_WORK = 2**26
"""Entries of all tensors that a forward may make at another length at which it is run by itself."""

QUICK = 2**16
"""Entries of all tensors a forward makes, up to which it is run at a few sizes even if it can go by none."""

CALLS = 2**12
"""Calls of torch's functions that all forwards on a ladder may make, in each mode."""

RUNGS = (1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Parts and multiples of the example's length that are tried."""

SAMPLES = (*range(1, 9), 10, 12, 16, 25, 32, 64, 128, 256, 512, 1024)
"""Numbers of samples that are tried."""

TOGETHER = 5
"""Number of samples with which other lengths are tried too: a branch may ask for both."""

EVERY = 512
"""Lengths that are tried one by one where forward looks a length up, or reads it as text."""

Rungs = tuple[Callable[[int], Example | None], int, Sequence[int]]
"""A ladder: the example of a size, or None; the size of the example; those that are tried, the nearest first."""

Way = frozenset[tuple[Any, Any]]
"""The functions that a forward calls directly after each other, and the parameters, or numbers, it gives to them."""


class _Called(TorchFunctionMode):
    """Notes which functions are called after which, and what that takes.

    Args:
        closely: note the numbers that they are given beside tensors too, which sizes are among.
    """

    def __init__(self, closely: bool = False) -> None:
        super().__init__()
        self.closely = closely
        self.pairs: set[tuple[Any, Any]] = set()
        self.last: Any = None
        self.work = self.calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = [t for t in (result if isinstance(result, (tuple, list)) else (result,)) if isinstance(t, Tensor)]
        if made:
            self.pairs.add((self.last, func))
            self.pairs |= {("reads", id(p)) for p in args if isinstance(p, nn.Parameter)}
            if self.closely:
                self.pairs.add((func, repr(pytree.tree_map(_plain, (args, kwargs or {})))))
            self.last = func
            self.work += sum(t.numel() for t in made)
            self.calls += 1
        return result

    def way(self, model: nn.Module, example: Example, training: bool) -> Way | None:
        """The way that forward takes; None where it does not run.

        Args:
            model: changed, where forward changes its state.
            example: what it is called with.
            training: run in train mode.
        """
        try:
            with torch.no_grad(), mode(model, training), self:
                call(model, example)
        except Exception:  # the model's own errors
            return None
        return frozenset(self.pairs | {(self.last, None)})


def _plain(value: Any) -> Any:
    """A number, or a range of such, as it is; None in the place of anything else."""
    return value if isinstance(value, (int, float, slice, type(...))) else None


def way_of(model: nn.Module, example: Example, training: bool, closely: bool = True) -> Way | None:
    """The way that forward takes, run by itself.

    Args:
        model, example, training: as of `_Called.way`.
        closely: with the numbers that functions are given.
    """
    with quiet(), undisturbed_rng():
        return _Called(closely).way(model, example, training)


class _Ladder:
    """Runs forward at one size after the other, as long as that is cheap.

    Args:
        model: changed, where forward changes its state.
        at: the example of a size; None if there is none.
        training: run in train mode.
        is_long: forward is run at no further size where it knows none.
        knows_sizes: forward may know a size as a plain number; None where it was not looked at.

    Attributes:
        work, calls: what may still be made.
    """

    def __init__(
        self,
        model: nn.Module,
        at: Callable[[int], Example | None],
        training: bool,
        is_long: bool = False,
        knows_sizes: bool | None = None,
    ) -> None:
        self.model, self.at, self.training, self.is_long, self.knows_sizes = model, at, training, is_long, knows_sizes
        self.work, self.calls = WORK, CALLS
        self.found: dict[int, Way | None] = {}
        self.cost: dict[int, tuple[int, int]] = {}

    def way(self, size: int) -> Way | None:
        """The way forward takes at a size; None where it does not run, or that would take long."""
        if size not in self.found:
            self.found[size] = self._run(size) if self._is_cheap(size) else None
        return self.found[size]

    def _is_cheap(self, size: int) -> bool:
        """Whether what is left suffices, if costs grow as they did between the two sizes that are nearest."""
        if not self.cost:
            return True
        near = sorted(self.cost, key=lambda n: abs(math.log(n / size)))[:2]
        return all(self._expected(size, near, i) <= left for i, left in enumerate((self.work, self.calls)))

    def _expected(self, size: int, near: Sequence[int], which: int) -> float:
        a, *others = near
        here, power = self.cost[a][which], 1.0 if which == 0 else 0.0
        for b in others:
            power = max(power, math.log(max(1, self.cost[b][which]) / max(1, here)) / math.log(b / a))
        return here * max(1.0, float(size / a)) ** power

    def _run(self, size: int) -> Way | None:
        example, seen = self.at(size), _Called()
        if example is None:
            return None
        found = seen.way(self.model, example, self.training)
        self.work, self.calls = self.work - seen.work, self.calls - seen.calls
        if found is not None:
            self.cost[size] = seen.work, seen.calls
        return found

    def turns(self, own: int, sizes: Sequence[int]) -> list[Turn]:
        """Where forward takes another way than on the example: the nearest few on either side.

        Args:
            own: the example's size.
            sizes: that are tried, the nearest first.
        """
        found: list[Turn] = []
        if not sizes or (not self._may_turn(own) and self.is_long):
            return found
        start = self.way(own)
        self.work = max(WORK, OFTEN * self.cost[own][0]) if own in self.cost else 0
        if start is None or not (self._may_turn(own) or self._turns_at(start, (own + 1, own - 1, 2 * own))):
            return found
        tried = [n for n in dict.fromkeys(sizes) if n > 0 and n != own and self.way(n) is not None]
        for side in (1, -1):
            before = own
            for size in sorted((n for n in tried if (n - own) * side > 0), reverse=side < 0):
                if self.way(size) != self.way(before) and self.way(size) != start:
                    found.append(self._between(before, size, side))
                before = size
        return [t for side in (1, -1) for t in [t for t in found if t.side == side][:MOST]]

    def _may_turn(self, own: int) -> bool:
        """Whether forward runs at the example's size, and may know a size as a plain number."""
        example = self.at(own)
        if self.knows_sizes is None:
            with mode(self.model, self.training):
                found = example is None or can_go_by_sizes(self.model, example)
            if found and self.way(own) is None:  # such as a batch norm of one sample in train mode
                return False
            self.knows_sizes = found
        return self.knows_sizes

    def _turns_at(self, start: Way, sizes: Iterable[int]) -> bool:
        """Whether forward takes another way at a few sizes: an operator may raise there, and the error be caught."""
        return any(self.way(n) not in (None, start) for n in sizes if n > 0)

    def _between(self, before: int, size: int, side: int) -> Turn:
        """The first size of another way, between two of a ladder; forward may not run at those between."""
        known, beyond = self.way(before), size
        while abs(size - before) > 1:
            middle = (size + before) // 2
            way = self.way(middle)
            if way is None:
                break
            before, size = (middle, size) if way == known else (before, middle)
        return Turn(before + side, side, beyond)


def expected_work(survey: Survey, own: int, length: int, power: float = 1.0) -> float:
    """Entries of all tensors that forward makes at a length, if they grow as they do at the double.

    Args:
        survey: of the model.
        own, length: of the example, and another one, in positions.
        power: of the length with which they grow at least.
    """
    if survey.start is None:
        return math.inf
    double = [v.run.work for v in survey.at(2 * own) if v.run is not None]
    seen = math.log2(max(1.0, max(double, default=0) / max(1, survey.start.work)))
    return survey.start.work * max(1.0, length / own) ** float(max(power, seen))


def most_work(survey: Survey) -> int:
    """Entries of all tensors that forward may make at a length that is looked for: as on the example some times.

    Args:
        survey: of the model.
    """
    return max(LONG_WORK, OFTEN * (survey.start.work if survey.start is not None else 0))


def is_affordable(survey: Survey, own: int, length: int) -> bool:
    """Whether forward may be run at a length by itself: it may make numbers of pairs, which grow with the square.

    Args:
        survey, own, length: as of `expected_work`.
    """
    return expected_work(survey, own, length, power=2.0) <= LONG_WORK


def is_run_often(survey: Survey) -> bool:
    """Whether a forward makes so few numbers that it may be run at many sizes."""
    return survey.start is not None and survey.start.work <= MOST_WORK // OFTEN


def turns_by_way(
    variants: Variants, survey: Survey, seen: Seen, knows_sizes: bool | None = None
) -> tuple[list[Turn], list[Turn]]:
    """Where forward takes another way than on the example: at which lengths, and with how many samples.

    Args:
        variants, survey: of the model.
        seen: what forward compares.
        knows_sizes: forward may know a size as a plain number; None where it was not looked at.
    """
    if not is_run_often(survey):
        return [], []
    own, samples, tried = variants.longest, survey.samples, _lengths(variants.longest, seen)
    ladders: list[Rungs] = [(partial(_at, variants, samples), own, tried)] if own and survey.accepted else []
    if ladders and samples is not None:
        ladders.append((partial(_at, variants, TOGETHER), own, tried))
    ladders.append(_of_samples(variants, samples and variants.samples))
    *found, by_samples = _turns(variants, ladders, not _is_quick(survey), knows_sizes)
    lengths = found[0] if found else []
    few = {(t.size, t.side) for t in lengths}
    together = [replace(t, samples=TOGETHER) for t in chain(*found[1:]) if (t.size, t.side) not in few]
    return lengths + together, by_samples


def turns_of_one(
    variants: Variants, survey: Survey, seen: Seen, knows_sizes: bool | None = None
) -> list[tuple[int, Turn]]:
    """Where forward takes another way than on the example if one of several inputs alone is longer or shorter.

    A branch may go by which of two inputs is the longer, or by how much: nothing of that changes if both do.

    Args:
        variants, survey, seen, knows_sizes: as of `turns_by_way`.

    Returns: the input's index, and a turn of its length, in positions.
    """
    if not is_run_often(survey):
        return []
    ladders = [_of_one(variants, index, survey.samples, seen) for index in variants.several]
    found = _turns(variants, ladders, not _is_quick(survey), knows_sizes)
    return [(index, turn) for index, turns_of in zip(variants.several, found, strict=True) for turn in turns_of]


def _is_quick(survey: Survey) -> bool:
    return survey.start is not None and survey.start.work <= QUICK


def _of_one(variants: Variants, index: int, samples: int | None, seen: Seen) -> Rungs:
    """The ladder of one input's length."""
    own, at = max(variants.lengths[index]), partial(_alone, variants, index, samples)
    double = at(2 * own)
    there = None if double is None else compared_at(variants, double)
    turned = turns(seen.here, there, own, 2 * own) if seen.here is not None and there is not None else []
    near = [n + c for n in sorted({*chain(*variants.lengths)}) for c in (0, -1, 1)]
    return at, own, [*near, *(n for turn in turned for n in turn.tried), *_lengths(own, seen)]


def _alone(variants: Variants, index: int, samples: int | None, length: int) -> Example | None:
    """The example with one input at a length; None where there is none."""
    if length == max(variants.lengths[index]):
        return variants.example if samples is None else variants.with_samples(samples).example
    variant = variants.alone(index, length, samples)
    return None if variant is None else variant.example


def turns_of_samples(variants: Variants, samples: int | None) -> list[Turn]:
    """With how many samples forward takes another way than on the example.

    Args:
        variants: of the example.
        samples: how many the example has; None where there is no batch.
    """
    return _turns(variants, [_of_samples(variants, samples)])[0]


def _of_samples(variants: Variants, samples: int | None) -> Rungs:
    return lambda n: variants.with_samples(n).example, samples or 1, SAMPLES if samples is not None else ()


def _turns(
    variants: Variants, ladders: Sequence[Rungs], is_long: bool = False, knows_sizes: bool | None = None
) -> list[list[Turn]]:
    """Where forward takes another way than at its own size, in eval or train mode: for each ladder."""
    found = [list[Turn]() for _ in ladders]
    if not ladders or (is_long and knows_sizes is False):
        return found
    with undisturbed_rng(), quiet():
        for training in (False, True):
            model, knows = fresh_copy(variants.model), knows_sizes
            for turns, (at, own, sizes) in zip(found, ladders, strict=True):
                fix_randomness()
                ladder = _Ladder(model, at, training, is_long, knows)
                turns += ladder.turns(own, sizes)
                knows = ladder.knows_sizes
    return [list(dict.fromkeys(turns)) for turns in found]


def _at(variants: Variants, samples: int | None, length: int) -> Example | None:
    """The example at a length with some samples; None where there is none."""
    if length == variants.longest:
        return variants.example if samples is None else variants.with_samples(samples).example
    return next((v.example for v in variants.at(length, samples)), None)


def _lengths(own: int, seen: Seen) -> list[int]:
    """The lengths of a ladder, the nearest first; every one where forward looks a length up."""
    found = [n for k in RUNGS[1:] for n in (int(own / k), int(own * k))]
    looked_up = any(one is not None and one.looked_up for one in (seen.here, seen.there))
    near = [n for k in range(1, EVERY // 2) for n in (own + k, own - k)] if looked_up else []
    return found + near
