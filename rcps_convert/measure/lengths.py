"""The example of a model at other lengths and with other numbers of samples, and which way its forward takes there."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..algebra import axis as ax
from ..algebra.action import Action
from ..algebra.arguments import Example, leaves, with_leaves
from ..geometry import CallNames, unanchor
from ..graph.sandbox import call, fix_randomness, fresh_copy, mode, quiet, undisturbed_rng
from .runs import Outlines, Run, outlines_of, run_of, tried

NEAR = (-1, 1, 2, 3, 4, -2, -3, -4, 8, 16, 32, 64)
"""Changes of the length, in positions, at which a forward may pad or crop what it does not at the example's."""

FAR = (-64, -8, -512, 128, 512)
"""Changes that are tried where forward takes none of `NEAR` on one side: forwards that take multiples only."""

SAMPLES = 2
"""Largest number of samples with which other lengths are tried."""


WIDE = 3
"""Entries of a hidden length from which on nothing about it is an accident of its size."""

CHEAP = 2**19
"""Entries of all tensors a forward makes, up to which it is run at the example's length as often as is needed."""

LEAST = 128
"""Positions of the shortest example on which the law is measured in place of a long one."""

SLACK = 1024
"""Positions below a half, a quarter and so on of the example among which one is looked for that divides as it does."""


UNKNOWN = 10**9
"""In the place of the smallest size of the axes that change with the length, where none does."""


@dataclass(frozen=True, eq=False)
class Variant:
    """The example at other lengths, or with another number of samples.

    Attributes:
        example: what to call the model with.
        actions: per input leaf.
        length: the first length that differs from the example's, in positions; the longest where none does.
        words: what differs.
        sizes: every length, in the order of the inputs.
        run: what forward does on it.
    """

    example: Example
    actions: tuple[Action | None, ...]
    length: int
    words: str
    sizes: tuple[int, ...] = ()
    run: Run | None = None


@dataclass
class Survey:
    """What running the plain model beside its example showed.

    Attributes:
        accepted: variants that forward takes, those at other lengths only.
        ways: one variant for each way that forward takes beside that of the example.
        gradients: forward takes another way while gradients are recorded.
        samples: how many were run at other lengths; None where there is no batch.
        start: what forward did on the example, with as many samples.
        variants: makes more of them, and runs them on the same copy.
        grown: of these accepted variants, which axes change with the length.
    """

    accepted: list[Variant] = field(default_factory=list)
    ways: list[Variant] = field(default_factory=list)
    gradients: bool = False
    samples: int | None = None
    start: Run | None = None
    variants: Variants | None = None
    grown: tuple[list[Variant] | None, list[bool]] = (None, [])

    def at(self, length: int) -> list[Variant]:
        """The accepted variants of a length."""
        return [v for v in self.accepted if v.length == length]

    @property
    def other_fractions(self) -> bool:
        """Whether forward computes with fractional numbers at other lengths that it does not have on the example."""
        usual = self.start.fractions if self.start is not None else frozenset()
        return any(v.run is not None and not v.run.fractions <= usual for v in self.accepted)

    def narrowest(self, run: Run | None = None) -> int:
        """The smallest size that an axis has which changes with the length, on a variant or on the example."""
        start, run = self.start, run or self.start
        if start is None or run is None or not run.is_like(start):
            return UNKNOWN
        return min(itertools.compress(run.sizes, self._growing(start)), default=UNKNOWN)

    def _growing(self, start: Run) -> list[bool]:
        """Whether each of the axes that forward makes changes with the length."""
        known, growing = self.grown
        if known != self.accepted:
            runs = [v.run.sizes for v in self.accepted if v.run is not None and v.run.is_like(start)]
            growing = [len({*sizes}) > 1 for sizes in zip(start.sizes, *runs, strict=True)]
            self.grown = [*self.accepted], growing
        return growing

    def moved(self, variant: Variant, side: int) -> frozenset[int]:
        """The axes of all tensors that are shorter than on the example (a side of -1), or longer (1)."""
        return frozenset(i for i, change in enumerate(self.changes(variant)) if change * side > 0)

    def changes(self, variant: Variant) -> list[int]:
        """How much longer the axes of all tensors are than on the example; empty where forward goes another way."""
        start, run = self.start, variant.run
        if start is None or run is None or not run.is_like(start):
            return []
        return [there - here for here, there in zip(start.sizes, run.sizes, strict=True)]


def main_length(actions: Sequence[Action | None]) -> int | None:
    """The longest length among the inputs, in positions; None if there is none."""
    return max((t.size for a in actions if a is not None for t in a.axes if ax.ends(t) is not None), default=None)


def resized(
    example: Example, actions: Sequence[Action | None], sizes: Sequence[dict[int, int]], samples: int | None = None
) -> tuple[Example, tuple[Action | None, ...]]:
    """An example with other lengths and numbers of samples, and its inputs' actions.

    Args:
        example, actions: as given.
        sizes: per input leaf, its new lengths by the old ones.
        samples: on every batch axis; None to keep them.
    """
    values: list[object] = []
    moved: list[Action | None] = []
    for leaf, action, size in zip(leaves(example), actions, sizes, strict=True):
        if action is None or not isinstance(leaf, Tensor):
            values.append(leaf)
            moved.append(action)
            continue
        new = action.resized([_size(t, size, samples) for t in action.axes])
        assert new is not None
        values.append(leaf.new_zeros(new.shape) if new.shape != action.shape else leaf)
        moved.append(new)
    return with_leaves(example, values), tuple(moved)


def _size(term: ax.Axis, lengths: dict[int, int], samples: int | None) -> int:
    if ax.ends(term) is not None:
        return lengths.get(term.size, term.size)
    role = ax.role(term)
    return samples if samples is not None and role is not None and role.name == "batch" else term.size


# --- variants -------------------------------------------------------------------------------------


class Variants:
    """Makes variants of an example, and tries them on the plain model.

    Args:
        model: copied, never touched.
        example: what it is called with.
        actions: per input leaf.
    """

    def __init__(self, model: nn.Module, example: Example, actions: Sequence[Action | None]) -> None:
        self.model, self.example, self.actions = fresh_copy(model), example, tuple(actions)
        unanchor(self.model)
        self.lengths = [[t.size for t in a.axes if ax.ends(t) is not None] if a is not None else [] for a in actions]
        self.longest = main_length(actions) or 0
        batches = (r.name == "batch" for a in actions if a is not None for t in a.axes if (r := ax.role(t)))
        self.batched = any(batches)
        self.samples = _samples(self.actions)
        self.outlines: Outlines | None = None

    def at(self, length: int, samples: int | None = None) -> Iterator[Variant]:
        """The example at another length of its longest input: the others by as much, in proportion, or unchanged.

        Args:
            length: in positions; at the example's own there is none.
            samples: on the batch axes; by default those of the example, but few.
        """
        change = length - self.longest
        if not change:
            return
        several = len({n for sizes in self.lengths for n in sizes}) > 1
        by_as_much = [{n: n + change for n in sizes} for sizes in self.lengths]
        in_proportion = [{n: n * length // self.longest for n in sizes} for sizes in self.lengths]
        exact = all(n * length % self.longest == 0 for sizes in self.lengths for n in sizes)
        for sizes in [by_as_much, *([in_proportion] if several and exact else [])]:
            if self._have_positions(sizes):
                yield self._variant(sizes, samples)
        for i in self.several:
            alone = self.alone(i, max(self.lengths[i]) + change, samples)
            if alone is not None:
                yield alone

    @property
    def several(self) -> list[int]:
        """The inputs that have lengths, where more than one has."""
        found = [i for i, sizes in enumerate(self.lengths) if sizes]
        return found if len(found) > 1 else []

    def alone(self, index: int, length: int, samples: int | None = None) -> Variant | None:
        """The example with one input at another length; None at its own, or where no positions are left.

        Args:
            index: of the input.
            length: its longest, in positions; any other of it changes by as much.
            samples: as of `at`.
        """
        change = length - max(self.lengths[index])
        sizes = [{n: n + change for n in mine} if i == index else {} for i, mine in enumerate(self.lengths)]
        return self._variant(sizes, samples) if change and self._have_positions(sizes) else None

    def _have_positions(self, sizes: list[dict[int, int]]) -> bool:
        """Whether every length has positions left, beside the special tokens at its ends."""
        return all(
            found is None or size.get(t.size, t.size) > sum(found)
            for size, a in zip(sizes, self.actions, strict=True)
            for t in (a.axes if a is not None else ())
            for found in (ax.ends(t),)
        )

    def _variant(self, sizes: list[dict[int, int]], samples: int | None) -> Variant:
        few = (samples or min(self.samples, SAMPLES)) if self.batched else None
        example, actions = resized(self.example, self.actions, sizes, few)
        new = [size.get(n, n) for size, mine in zip(sizes, self.lengths, strict=True) for n in mine]
        old = [n for mine in self.lengths for n in mine]
        changed = [n for n, o in zip(new, old, strict=True) if n != o]
        words = "length" if len({*new}) == 1 else "lengths"
        return Variant(example, actions, max(changed), f"{words} {', '.join(map(str, dict.fromkeys(new)))}", tuple(new))

    @property
    def other_samples(self) -> int:
        """A number of samples that differs from the example's in kind: one, or not one."""
        return 1 if self.samples != 1 else SAMPLES

    def with_samples(self, samples: int) -> Variant:
        """The example with another number of samples."""
        example, actions = resized(self.example, self.actions, [{} for _ in self.actions], samples)
        return Variant(example, actions, self.longest, f"{samples} sample" + "s" * (samples > 1))

    def laid_across(self) -> Variant | None:
        """The example with the last two axes of its inputs exchanged in memory; None where none has two."""
        given = [x.mT.contiguous().mT if isinstance(x, Tensor) and x.dim() > 1 else x for x in leaves(self.example)]
        if all(not isinstance(x, Tensor) or x.is_contiguous() for x in given):
            return None
        words = "an input that lies otherwise in memory"
        return Variant(with_leaves(self.example, given), self.actions, self.longest, words)

    def run(self, example: Example, *, gradients: bool = False) -> Run | None:
        """What the plain forward does on an example; None if it fails. Random states are brought back by who asks."""
        if self.outlines is not None:
            return self.outlines.run(example, gradients=gradients)
        return tried(self.model, example, CallNames(), gradients=gradients)[0]

    def survey(self) -> Survey:
        """At which lengths forward runs, and where it takes another way than on the example."""
        with undisturbed_rng(), quiet():
            return self._survey()

    def _survey(self) -> Survey:
        run = self.run(self.example)
        self.outlines = outlines_of(self.model, self.example, run)
        found, ways = Survey(start=run, variants=self), dict[Any, Variant | None]()
        if run is not None:
            ways[run.way] = None
        with_gradients = self.run(self.example, gradients=True)
        found.gradients = with_gradients is not None and with_gradients.way not in ways
        if self.batched:
            self._survey_samples(found, ways)
        for length in self._tried(found):
            self._try_at(length, found, ways)
        found.ways = [v for v in ways.values() if v is not None]
        return found

    def _survey_samples(self, found: Survey, ways: dict[Any, Variant | None]) -> None:
        """Whether another number of samples goes another way; where one does not, it is the cheapest to try."""
        other = self.with_samples(self.other_samples)
        run, own = self.run(other.example), found.start
        same = run is not None and own is not None and (run.way, run.pairs) == (own.way, own.pairs)
        if run is not None and run.way not in ways:
            ways[run.way] = other
        found.samples = min(self.samples, self.other_samples) if same else min(self.samples, SAMPLES)
        if found.samples != self.samples:
            found.start = run if same else self.run(self.with_samples(found.samples).example)

    def try_at(self, length: int, found: Survey, ways: dict[Any, Variant | None]) -> None:
        """Run forward at another length, and note it if it does."""
        with undisturbed_rng(), quiet():
            self._try_at(length, found, ways)

    def _try_at(self, length: int, found: Survey, ways: dict[Any, Variant | None]) -> None:
        for variant, few in zip(self.at(length), self.at(length, found.samples), strict=True):
            run = self.run(few.example)
            if run is not None:
                ways.setdefault(run.way, variant)
                found.accepted.append(replace(variant, run=run))

    def short(self, found: Survey, aligned: Callable[[int], bool]) -> Variant | None:
        """The example at a length that shows what its own does for less: the shortest with wide hidden lengths.

        Forward does there what it does on the example. It is noted with its neighbours, which are as cheap to check.

        Args:
            found: what was seen so far.
            aligned: whether nothing is re-anchored at a length.

        Returns: the variant; None where forward is quick, or there is none.
        """
        if found.start is None or found.start.work <= CHEAP:
            return None
        for part in reversed(range(1, (self.longest // LEAST).bit_length())):
            most, like = self.longest >> part, aligned(self.longest)
            length = next((n for n in range(most, max(0, most - SLACK), -1) if aligned(n) == like), 0)
            variant = self._like(length, found) if length else None
            if variant is None:
                continue
            found.accepted.append(variant)
            if found.narrowest(variant.run) >= WIDE:
                near = [self._like(length + c, found) for c in (-1, 1)]
                found.accepted += [v for v in near if v is not None]
                return variant
            found.accepted.pop()
        return None

    def _like(self, length: int, found: Survey) -> Variant | None:
        """The example with every length shorter, if forward does there what it does on the example."""
        pairs = zip(self.at(length), self.at(length, found.samples), strict=True)
        old = [*itertools.chain(*self.lengths)]
        for variant, few in pairs:
            if all(n < o for n, o in zip(variant.sizes, old, strict=True)):
                run = run_of(self.model, few.example)  # shapes alone would not be quicker
                if run is None or found.start is None or run.way != found.start.way:
                    return None
                return replace(variant, run=run)
        return None

    def _tried(self, found: Survey) -> Iterator[int]:
        """Lengths to try, in order: near ones, half, twice; then those further off, where no near one was taken."""
        n = self.longest
        if not n:
            return
        lengths = dict.fromkeys([*(n + c for c in NEAR), n // 2, n // 2 + 1, 2 * n])
        yield from (m for m in lengths if m > 0 and m != n)
        for side in (-1, 1):
            for change in FAR:
                taken = any((v.length - n) * side > 0 for v in found.accepted)
                if change * side > 0 and not taken and n + change > 0 and n + change not in lengths:
                    yield n + change


def _samples(actions: Sequence[Action | None]) -> int:
    sizes = [t.size for a in actions if a is not None for t in a.axes if (r := ax.role(t)) and r.name == "batch"]
    return max(sizes, default=1)


def changed_and_made(model: nn.Module, example: Example) -> tuple[list[str], list[str]]:
    """The parameters that a forward changes, in train or eval mode, and those that it makes, by name.

    Args:
        model: copied, never touched. Weights are drawn large, so that norms and bounds that are kept are exceeded.
        example: what it is called with.
    """
    twin = fresh_copy(model)
    unanchor(twin)
    with torch.no_grad(), undisturbed_rng():
        fix_randomness()
        for p in twin.parameters():
            if p.is_floating_point() and p.numel():
                p.copy_(torch.randn(p.shape) * 100)
        before = {name: p.detach().clone() for name, p in twin.named_parameters()}
        ran = [run_quietly(twin, example, training) for training in (True, False)]
    after = dict(twin.named_parameters())
    changed = [name for name, p in after.items() if name in before and not torch.equal(p, before[name])]
    made = [name for name in after if name not in before]
    return changed, made if made or all(ran) else made_in_forward(model, example)


def made_in_forward(model: nn.Module, example: Example) -> list[str]:
    """The parameters that a model gets in its first call, such as those of a layer that is built there, by name.

    Args:
        model: copied, never touched.
        example: what it is called with.
    """
    twin = fresh_copy(model)
    before = dict(twin.named_parameters())
    with torch.no_grad(), undisturbed_rng():
        run_quietly(twin, example, False)
    return [name for name, _ in twin.named_parameters() if name not in before]


def run_quietly(model: nn.Module, example: Example, training: bool) -> bool:
    """Call a model, and say whether it ran; its own errors do not matter here."""
    try:
        with quiet(), mode(model, training):
            call(model, example)
    except Exception:  # such as a batch norm of a single value
        return False
    return True
