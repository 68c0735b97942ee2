"""The law of a converted model at other lengths than the example's, and what is refused where it was not seen to hold.

Whatever tied the weights looked at the example. A function of the length that is right there, such as a table
cut to it, may be wrong elsewhere, so the law is measured at several lengths that forward takes. Where it fails
at one of them, or where there is none, calls at other lengths are refused.

`LengthChecks.run` asks one question after the other; they are listed in docs/how-it-works.md ("Which check runs when").
Which lengths come first is chosen by `length_choice`; where forward may take another way is said by
`measure.thresholds` and `measure.ways`. Here the law is measured there, and what to refuse is concluded.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property

from torch import nn

from ..algebra.action import Action
from ..algebra.arguments import Example
from ..algebra.axis import Step
from ..errors import BreaksSymmetryError, ConversionError
from ..infer.constants import rows_read
from ..infer.inference import Inference
from ..measure.known_sizes import goes_by_no_size
from ..measure.lengths import WIDE, Survey, Variant, Variants, main_length
from ..measure.situations import turning_situations
from ..measure.thresholds import Rests, Seen, Turn, rests_of, seen_of, turns_of
from ..measure.verification import Verification
from ..measure.ways import LONG_WORK, expected_work, is_affordable, is_run_often, most_work, turns_by_way, turns_of_one
from ..tie.length_guard import LengthRule
from .length_choice import LengthChoice
from .length_rules import hidden_lengths
from .length_words import FIXED_TO_IT, RESTS, ROWS, STEPS, UNSEEN

AROUND = (0, *(c for k in (1, 2, 3, 4, 6, 8, 16) for c in (-k, k)))
"""Changes, in positions, of a multiple of the length that forward does not take as it is."""

NEXT = 7
"""Of these, the ones that are tried where forward was seen to run at lengths near the example's only."""

MORE = 8
"""Lengths that are tried beside, where the converted model refuses all that were chosen."""

FAR_OFF = ((13, 1), (12, 0))
"""A far length at which the law is measured: by how much longer or shorter it is and what is added; and another."""

FAR_WORK = 2**21
"""Entries of all tensors that forward may make at such a length."""

SAMPLES = (64, 32, 16, 8, 4)
"""Samples with which other lengths are measured; a maximum over the positions hides a fault at some in most samples."""

SAMPLES_WORK = 2**20
"""Entries of all tensors that forward may make of so many samples."""

Outputs = Callable[[int, tuple[int, ...]], list[Action | None]]
"""What an output may be, given its index and shape."""

Measure = Callable[[Example, list[Action | None], Outputs, bool, bool], Verification]
"""Measures the law on an example, given its inputs' actions and what its outputs may be.

And whether to measure in the model's own precision too, and in train mode.
"""


class Incomparable(Exception):  # noqa: N818 - a fact, handled where it arises
    """An output grows with the length in a way that is not known."""


# --- checking --------------------------------------------------------------------------------------


@dataclass
class LengthChecks:
    """The check of a converted model at other lengths.

    Attributes:
        model, example, actions: the plain model and what it is called with.
        survey: at which lengths its forward runs.
        rules: at which lengths nothing is re-anchored.
        alike: forward makes the same calls in train mode as in eval mode.
        checked: lengths at which the law held, in positions.
        notes, warnings: what the user may want to know, and should.
        fixed: why other lengths than the example's are refused; None where they are not.
        problem: what stands in the way of the conversion, if anything does.
        failed: the law was seen to fail at one of the lengths.
        varied: which lengths of the inputs, in order, had another size in a check.
        refused: why the converted model refused the first length that it refused.
        limits: lengths from which on, or down, calls are refused, and why.
        seen: what the law was seen to hold at.
        turned_away: lengths that the converted model refused.
        situations: in which the law was measured too, as forward takes another way there.
        kept: what is aligned at the lengths at which calls are not refused, where these leave the example's rests.
    """

    model: nn.Module
    example: Example
    actions: Sequence[Action | None]
    survey: Survey
    rules: list[LengthRule]
    alike: bool = False
    checked: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    fixed: str | None = None
    problem: ConversionError | None = None
    failed: bool = False
    varied: set[int] = field(default_factory=set)
    refused: str | None = None
    limits: list[tuple[Turn, str]] = field(default_factory=list)
    seen: list[Variant] = field(default_factory=list)
    turned_away: list[int] = field(default_factory=list)
    situations: list[str] = field(default_factory=list)
    kept: Step | None = None

    @cached_property
    def by_no_size(self) -> bool:
        """Whether forward is seen to go by no size, in either mode: it takes the same way at all of them."""
        return is_run_often(self.survey) and goes_by_no_size(self.model, self.example)

    @property
    def _modes_may_part(self) -> bool:
        """Whether forward may take another way in train mode at a size at which the law was measured in eval mode."""
        return not (self.alike and self.by_no_size)

    def run(self, measure: Measure, outputs: Sequence[Action | None]) -> None:
        """Measure the law at a few of the lengths that forward takes, and with another number of samples."""
        longest, self._measure, self._outputs = main_length(self.actions), measure, outputs
        self.variants = self.survey.variants or Variants(self.model, self.example, self.actions)
        self.choice = LengthChoice(self.survey, self.variants, self.actions, self.rules)
        if longest is not None:
            self._widen(longest)
        self._check_lengths(longest)
        if self.problem is None:
            self._check_other_ways()
        if self.problem is None and self.fixed is None:
            for side in (1, -1):
                self._check_last(side)
            self._limit_unseen()

    def _check_lengths(self, longest: int | None) -> None:
        """Measure the law at a few lengths around the example's, until it fails at one."""
        chosen = self.choice.chosen()
        for number, variant in enumerate(itertools.chain(chosen, self._others(chosen))):
            training, many = number == 0 or self._modes_may_part, self._with_many(variant)
            held = self._held(self._with_other_samples(variant) if number == 0 else many, training=training)
            if number == 0 and held and self.fixed is None and many is not variant:
                held = self._held(many, training=False)
            if self.fixed is not None and number == 0 and self._is_by_samples(variant):
                return
            if self.fixed is not None:
                self._keep_to(longest)
                return
            if held is not False:
                self.varied |= {i for i, (a, b) in enumerate(self.choice.sizes(variant)) if a != b}
            if held:
                self.checked.append(variant.length)
                self.seen.append(variant)
            elif held is None:
                self.turned_away.append(variant.length)
        if longest is not None and not self.checked:
            self.fixed = self.refused or UNSEEN
            self._is_by_samples(None)

    def _keep_to(self, longest: int | None, because: str = FIXED_TO_IT) -> None:
        """Refuse calls at other lengths than the example's."""
        self.checked, self.failed = [], True
        self.warnings.append(
            f"exact at length {longest} only: {self.fixed}, {because}; calls at other lengths are refused"
        )

    def _check_other_ways(self) -> None:
        """Measure the law wherever forward may take another way than on the example, and far from it."""
        seen = seen_of(self.variants, self.survey)
        self._check_rests(seen)
        knows = False if self.by_no_size else None
        found = turns_of(self.variants, self.survey, seen), turns_by_way(self.variants, self.survey, seen, knows)
        lengths, samples = (dict.fromkeys(itertools.chain(*turns)) for turns in zip(*found, strict=True))
        for turn in lengths if self.fixed is None else []:
            self._check_turn(turn)
        for index, turn in turns_of_one(self.variants, self.survey, seen, knows) if self.fixed is None else []:
            self._check_one(index, turn)
        for side in (1, -1):
            self._check_far(side)
        for number in dict.fromkeys(n for turn in samples for n in turn.tried):
            self._check_samples(number)
        if seen.here is not None and seen.here.laid:
            self._check_memory()
        self._check_situations()

    def _check_rests(self, seen: Seen) -> None:
        """Measure the law where comparisons of the rest of a division come out otherwise than on the example."""
        rests = rests_of(self.variants, self.survey, seen) if self.fixed is None else Rests([])
        for n in rests.lengths:
            if self.fixed is None and self._held(next(self.variants.at(n))):
                self.checked.append(n)
        own = main_length(self.actions)
        kept = Step(1, -(own or 0) % rests.period, rests.period) if rests.period else None
        held = [n for n in self.checked if kept is not None and kept.aligned(n)]
        if self.fixed is None and held:
            self.kept, self.checked = kept, held
            self.warnings.append(
                f"calls at lengths other than {own} and whole multiples of {rests.period} more or "
                f"fewer are refused: {RESTS}"
            )
        elif self.fixed is None and not rests.all_tried:
            self.fixed = RESTS
        if self.fixed is not None and (rests.lengths or not rests.all_tried):
            self._keep_to(own)

    def _check_turn(self, turn: Turn) -> None:
        """Measure the law at lengths behind a turn; where it fails, or cannot be measured, they are refused."""
        if any(known.side == turn.side and known.size * turn.side <= turn.size * turn.side for known, _ in self.limits):
            return
        seen = turn
        for variant in [v for n in turn.tried for v in itertools.islice(self.variants.at(n, turn.samples), 1)]:
            held = self._held(self._with_many(variant)) if self._may_run(variant) else False
            if held and self.fixed is None:
                self.checked.append(variant.length)
                seen = replace(turn, size=turn.size + turn.side)
            if held is False and self.fixed is None and self._runs(variant):
                self.fixed = f"the law could not be measured at {variant.words}"
            if self.fixed is not None:
                reason, self.fixed = self.fixed, None
                self._limit(seen, f"{reason}, and forward, which compares sizes, takes another way there")
                return

    def _check_one(self, index: int, turn: Turn) -> None:
        """Measure the law with one of several inputs at lengths behind a turn; where it fails, others are refused."""
        for variant in [self.variants.alone(index, n) for n in turn.tried]:
            if variant is None or self.fixed is not None or not self._runs(variant):
                continue
            held = self._held(variant) if self._may_run(variant) else False
            if held is False and self.fixed is None:
                self.fixed = f"the law could not be measured at {variant.words}"
            if self.fixed is not None:
                self.fixed = (
                    f"{self.fixed}, and forward, which compares the lengths of its inputs, takes another way there"
                )
                self._keep_to(self.variants.longest)

    def _check_far(self, side: int) -> None:
        """Measure the law far from the example: what is its own mirror image near it by chance is not there.

        Where it fails, the first length at which it does is looked for, and those from there on are refused.
        """
        own = self.variants.longest
        if not own or self.fixed is not None or not self.checked:
            return
        held = [n for n in (own, *self.checked) if (n - own) * side >= 0]
        measured = ((far, self._fails_at(far)) for far in self._far(own, side))
        far, fails = next(((far, fails) for far, fails in measured if fails is not None), (own, False))
        if fails:
            turn = Turn(self._last_held(max(held) if side > 0 else min(held), far) + side, side)
            self._limit(turn, f"the law fails at length {far}, as something in forward is bounded by a number")

    def _far(self, own: int, side: int) -> Iterator[int]:
        """Far lengths at which forward may be run, before those that are refused; the nearest first."""
        bounds = [turn.size for turn, _ in self.limits if turn.side == side]
        for times, change in FAR_OFF:
            far = int(own * times) + change if side > 0 else int(own / times) + change
            if bounds:
                far = min(far, min(bounds) - 1) if side > 0 else max(far, max(bounds) + 1)
            if far > 0 and (far - own) * side > 0 and self._work(far) <= FAR_WORK:
                yield far

    def _work(self, length: int) -> float:
        """Entries of all tensors that forward makes at a length, if they grow as they do at the double."""
        return expected_work(self.survey, self.variants.longest, length)

    def _last_held(self, held: int, failed: int) -> int:
        """The last length before one at which the law fails where it was seen to hold."""
        while abs(failed - held) > 1:
            middle = (held + failed) // 2
            fails = self._fails_at(middle)
            if fails is None:
                return held
            held, failed = (held, middle) if fails else (middle, failed)
        return held

    def _fails_at(self, length: int) -> bool | None:
        """Whether the law fails at a length; None where it cannot be measured there."""
        before = self.fixed, [*self.notes], self.refused
        variants = map(self._with_many, self.variants.at(length))
        measured = (self._held(v, precise=True, training=self._modes_may_part) for v in variants)
        held = next(measured, None)
        failed = self.fixed is not None
        self.fixed, self.notes, self.refused = before
        return failed if failed or held else None

    def _limit(self, turn: Turn, why: str) -> None:
        """Refuse lengths behind a turn; of several inputs all others than the example's."""
        self.failed = True
        if len({*itertools.chain(*self.variants.lengths)}) > 1:
            self.checked, self.fixed = [], why
        else:
            self.limits.append((turn, why))
        words = f"{turn.size} positions or {'more' if turn.side > 0 else 'fewer'}"
        self.warnings.append(f"calls at {words} are refused: {why}")

    @contextmanager
    def _set_aside(self) -> Iterator[None]:
        """Measure for another question, and leave the answer to this one, what lengths are fixed by, as it is."""
        before, self.fixed = self.fixed, None
        yield
        self.fixed = before

    def _check_samples(self, number: int) -> None:
        if self.problem is None:
            with self._set_aside():
                self._held(self.variants.with_samples(number))
                self._blame_samples(number)

    def _check_memory(self) -> None:
        """Measure the law with inputs that lie otherwise in memory, where forward asks for that."""
        across = self.variants.laid_across()
        if across is None or self.problem is not None:
            return
        with self._set_aside():
            self._held(across)
            if self.fixed is not None:
                self.problem = BreaksSymmetryError(
                    "the law fails where an input lies otherwise in memory, as a transposed one does",
                    why="forward asks how it lies (is_contiguous, stride), and takes another way there",
                    do="write forward so that it does the same however its input lies: x = x.contiguous()",
                )

    def _check_situations(self) -> None:
        """Measure the law where forward asks for something beside its inputs, and takes another way there."""
        variant = self.variants.with_samples(self.survey.samples or self.variants.samples)
        is_long = self.variants.outlines is not None
        for situation in turning_situations(self.model, variant.example, is_long) if self.problem is None else ():
            with self._set_aside():
                with situation.enter():
                    held = self._held(variant)
                self.situations += [situation.words] if held else []
                if self.fixed is not None and self.problem is None:
                    self.problem = BreaksSymmetryError(
                        f"the law fails {situation.words}",
                        got=self.fixed,
                        why=f"forward asks for it ({', '.join(sorted(situation.names))}), and takes another way there",
                        do="write forward so that it does the same there, or something that obeys the law too",
                    )

    def _may_run(self, variant: Variant) -> bool:
        return is_affordable(self.survey, max(1, self.variants.longest), variant.length)

    def _runs(self, variant: Variant) -> bool:
        """Whether the plain forward takes a length; one that is too long to be tried may be taken."""
        if not self._may_run(variant):
            return True
        return self.variants.run(variant.example) is not None

    def limit_by(self, inference: Inference) -> None:
        """Refuse lengths at which what was inferred may not hold: beyond tables that were read, or beside steps."""
        self._fix_steps(inference)
        self._limit_rows(inference)

    def _fix_steps(self, inference: Inference) -> None:
        """Refuse other lengths where forward rounds what it computes from the length, right or wrong by chance."""
        longest = main_length(self.actions)
        steps = inference.steps | (inference.steps_by_numbers if self.survey.other_fractions else frozenset())
        if self.fixed is None and longest is not None and steps & hidden_lengths(inference):
            self.checked, self.fixed = [], STEPS
            self.warnings.append(f"exact at length {longest} only: {STEPS}; calls at other lengths are refused")

    def _limit_rows(self, inference: Inference) -> None:
        """Refuse inputs longer than those on which the rows of a table were looked at, where some were never read."""
        until = inference.rows_until
        if until is None or self.fixed is not None or self.problem is not None or not self.checked:
            return
        most = max(until, *self.checked)
        if not any(turn.side > 0 and turn.size <= most for turn, _ in self.limits):
            tables = [(p, rows_read(p), p.action.value.size) for p in inference.pins if p.action.value is not None]
            named = dict.fromkeys(f"{p.where.path}: {n} of {rows} rows" for p, n, rows in tables if 0 < n < rows)
            self._limit(Turn(most + 1, 1), ROWS.format(f" ({'; '.join(named)})" if named else ""))

    def _with_other_samples(self, variant: Variant) -> Variant:
        """The first check is one with another number of samples too, which costs nothing more."""
        return self._with_samples(variant, self.variants.other_samples)

    def _with_many(self, variant: Variant) -> Variant:
        """A variant with more samples, where forward makes few numbers of each."""
        of_one = self._work(variant.length) / max(1, self.survey.samples or self.variants.samples)
        many = next((n for n in SAMPLES if n * of_one <= SAMPLES_WORK), None)
        return self._with_samples(variant, many) if many is not None else variant

    def _with_samples(self, variant: Variant, samples: int) -> Variant:
        if not self.variants.batched:
            return variant
        return next((v for v in self.variants.at(variant.length, samples) if v.words == variant.words), variant)

    def _is_by_samples(self, variant: Variant | None) -> bool:
        """Whether the law fails with another number of samples, and not at another length."""
        reason, notes, warnings = self.fixed, [*self.notes], [*self.warnings]
        self.fixed = None
        if variant is not None:
            self._held(variant)
        if self.fixed is None and self.variants.batched:
            samples = self.variants.other_samples
            self._held(self.variants.with_samples(samples))
            self._blame_samples(samples)
        self.fixed = None if self.problem is not None else reason
        self.notes, self.warnings = notes, warnings
        return self.problem is not None

    def _blame_samples(self, samples: int) -> None:
        """What stands in the way where the law was just seen to fail with a number of samples."""
        if self.fixed is not None:
            self.problem = BreaksSymmetryError(
                f"the law fails with {samples} sample{'s' * (samples > 1)}: {self.fixed}",
                why="forward takes another way there, or one sample's result depends on the others",
                do="write forward so that it does the same for any number of samples",
            )

    def _held(self, variant: Variant, *, precise: bool = False, training: bool = True) -> bool | None:
        """Whether the law was seen to hold; None where the model refuses the length.

        Args:
            variant: what the model is called with.
            precise: measure in the model's own precision too.
            training: measure in train mode too.
        """

        def at_this_length(index: int, shape: tuple[int, ...]) -> list[Action | None]:
            action = self._outputs[index] if index < len(self._outputs) else None
            moved = None if action is None else action.walk().resized(shape)
            if action is not None and moved is None:
                raise Incomparable
            return [moved] if moved is not None else []

        try:
            found = self._measure(variant.example, list(variant.actions), at_this_length, precise, training)
        except ConversionError as refused:
            self.notes.append(f"refused at {variant.words}: {refused.what}")
            self.refused = self.refused or f"at the others that were tried, as at {variant.words}, {refused.what}"
            return None
        except Exception:  # it cannot be run or compared here, such as in train mode
            return False
        if found.error > found.tolerance:
            self.fixed = f"at {variant.words} the law fails by {found.error:.1e}"
        return found.varied

    def _widen(self, longest: int) -> None:
        """Look for a length at which every hidden length has several positions, and a much longer one, if unknown."""
        most = most_work(self.survey)
        for times, change in itertools.product((3, 4, 6, 8), AROUND):
            if self._work(times * longest + change) > most or self._is_wide():
                break
            self.variants.try_at(times * longest + change, self.survey, {})
        for change in AROUND[:NEXT] if self._work(3 * longest) <= LONG_WORK else ():
            if any(v.length >= 1.5 * longest for v in self.survey.accepted):
                break
            self.variants.try_at(3 * longest + change, self.survey, {})

    def _is_wide(self) -> bool:
        """Whether every hidden length has several positions at some length that was seen to run."""
        return max(self.choice.width(run) for run in (None, *(v.run for v in self.survey.accepted))) == WIDE

    def _others(self, chosen: list[Variant]) -> Iterator[Variant]:
        """More variants on a side of a length, as long as the converted model refuses each there."""
        rest = [v for v in sorted(self.survey.accepted, key=self.choice.cost) if v not in chosen]
        for axis, side in self.choice.sides():
            for variant in [v for v in rest if self.choice.goes(v, axis, side)][:MORE]:
                if any(self.choice.goes(v, axis, side) for v in self.seen):
                    break
                yield variant

    def _check_last(self, side: int) -> None:
        """Measure the law at the last length of a side that the converted model takes, if it refused one there."""
        own = self.variants.longest
        refused = [n for n in self.turned_away if (n - own) * side > 0]
        if self.fixed is not None or not refused or any(turn.side == side for turn, _ in self.limits):
            return
        bound = min(refused, key=lambda n: abs(n - own))
        inside = [n for n in (own, *self.checked) if abs(n - own) < abs(bound - own) and (n - own) * side >= 0]
        held = max(inside, key=lambda n: abs(n - own))
        while abs(bound - held) > 1:
            middle = (held + bound) // 2
            fails = self._fails_at(middle)
            if fails:
                turn = Turn(self._last_held(held, middle) + side, side)
                self._limit(turn, f"the law fails at length {middle}, and calls much beyond it are refused anyway")
                return
            held, bound = (held, middle) if fails is None else (middle, bound)

    def _limit_unseen(self) -> None:
        """Refuse the lengths of a side on which the converted model refused each that was tried."""
        for axis, side in self.choice.sides() if self.fixed is None and self.checked else []:
            limited = any(turn.side == side for turn, _ in self.limits)
            if axis == 0 and not limited and not any(self.choice.goes(v, axis, side) for v in self.seen):
                own = self.choice.sizes(self.survey.accepted[0])[0][0]
                self._limit(Turn(own + side, side), self.refused or UNSEEN)
