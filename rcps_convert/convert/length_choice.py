"""At which of the lengths that forward takes the law is measured: few and short ones that differ in kind."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..algebra.action import Action
from ..measure.lengths import WIDE, Survey, Variant, Variants, main_length
from ..measure.runs import Run
from ..tie.length_guard import LengthRule

FAR = 2**13
"""Positions of all inputs up to which the law is measured at the longest length that forward was seen to take."""


@dataclass(frozen=True)
class LengthChoice:
    """Chooses among the lengths at which forward was seen to run.

    Attributes:
        survey: at which lengths forward runs.
        variants: of the example.
        actions: of the inputs.
        rules: at which lengths nothing is re-anchored.
    """

    survey: Survey
    variants: Variants
    actions: Sequence[Action | None]
    rules: list[LengthRule]

    def chosen(self) -> list[Variant]:
        """Few and short variants that differ in kind: re-anchored, and each input shorter and longer."""
        found: list[Variant] = []
        by_kind = sorted(self.survey.accepted, key=self.cost)
        for wanted in self._kinds():
            found += [v for v in by_kind if wanted(v) and v not in found][:1]
        for axis in range(sum(map(len, self.variants.lengths))):
            for side in (-1, 1):
                if not any(self.goes(v, axis, side) for v in found):
                    found += [v for v in by_kind if self.goes(v, axis, side)][:1]
            found += self._other_remainders(found, by_kind, axis)
        for side in (-1, 1):
            found += self._hidden_ones(found, by_kind, side)
        return found + self._hidden_remainders(found, by_kind)

    def _hidden_ones(self, found: Sequence[Variant], by_kind: Sequence[Variant], side: int) -> list[Variant]:
        """Variants where hidden lengths change that stay at all that were chosen, as they may behind a stride."""
        moved = {v: self.survey.moved(v, side) for v in by_kind}
        left = frozenset().union(*moved.values()) - frozenset().union(*(moved[v] for v in found))
        more: list[Variant] = []
        while left:
            more.append(max(by_kind, key=lambda v: len(moved[v] & left)))
            left -= moved[more[-1]]
        return more

    def _hidden_remainders(self, found: Sequence[Variant], by_kind: Sequence[Variant]) -> list[Variant]:
        """Variants where hidden lengths leave other remainders than at all that were chosen, such as even ones."""
        changes = {v: change for v in by_kind if (change := self.survey.changes(v))}
        more: list[Variant] = []
        for pattern in dict.fromkeys(zip(*changes.values(), strict=True)):
            by = {v: change for v, change in zip(changes, pattern, strict=True) if change}
            common = math.gcd(*(by[v] for v in (*found, *more) if v in by))
            if common != math.gcd(*by.values()):
                more.append(min(by, key=lambda v: math.gcd(common, by[v])))
        return more

    def _other_remainders(self, found: Sequence[Variant], by_kind: Sequence[Variant], axis: int) -> list[Variant]:
        """A variant where a length leaves other remainders than at all that were chosen, such as an even one."""
        common = math.gcd(*(self._change(v, axis) for v in found))
        least = math.gcd(*(self._change(v, axis) for v in by_kind))
        with_it = {v: math.gcd(common, self._change(v, axis)) for v in by_kind}
        return [v for v in by_kind if common != least and with_it[v] == min(with_it.values())][:1]

    def _kinds(self) -> list[Callable[[Variant], bool]]:
        here = self.width(None)
        own = main_length(self.actions) or 0
        far = max((v.length for v in self.survey.accepted if v.length > own and sum(v.sizes) <= FAR), default=0)
        kinds: list[Callable[[Variant], bool]] = []
        kinds += [lambda v: self.width(v.run) > here] if here < WIDE else []
        kinds += [lambda v: v.length == far and sum(v.sizes) <= FAR]  # what reads one edge shows most where it is far
        if self.rules:
            kinds += [self._is_cut, lambda v: self._is_cut(v) and self.goes(v, 0, 1), self._is_cut]
        return kinds

    def _is_cut(self, variant: Variant) -> bool:
        """Whether something is re-anchored at a variant."""
        change = variant.length - (main_length(self.actions) or 0)
        return not all(r.holds(r.start + change) for r in self.rules)

    def goes(self, variant: Variant, axis: int, side: int) -> bool:
        """Whether a length of a variant, by its place, is longer (1) or shorter (-1) than the example's."""
        return self._change(variant, axis) * side > 0

    def _change(self, variant: Variant, axis: int) -> int:
        here, there = self.sizes(variant)[axis]
        return there - here

    def cost(self, variant: Variant) -> tuple[int, int, int]:
        """Variants with wide hidden lengths first, then those that change every input, then short ones."""
        unchanged = sum(a == b for a, b in self.sizes(variant))
        return -self.width(variant.run), unchanged, sum(variant.sizes)

    def width(self, run: Run | None) -> int:
        """The smallest hidden length of a run, or of the example's; nothing is told from more than a few entries."""
        return min(self.survey.narrowest(run), WIDE)

    def sides(self) -> list[tuple[int, int]]:
        """Each length of the inputs, in order, with the sides on which forward takes others."""
        every = itertools.product(range(sum(map(len, self.variants.lengths))), (-1, 1))
        return [(axis, side) for axis, side in every if any(self.goes(v, axis, side) for v in self.survey.accepted)]

    def sizes(self, variant: Variant) -> list[tuple[int, int]]:
        """Every length of the example, with that of a variant."""
        return [*zip(itertools.chain(*self.variants.lengths), variant.sizes, strict=True)]
