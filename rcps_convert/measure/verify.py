"""The law, measured: ``f(rc x)`` against ``rho f(x)``.

Shares only the action algebra with inference, never the rules, or it would repeat their mistakes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..algebra.action import Action
from ..algebra.arguments import Example
from ..algebra.specs import Spec
from ..errors import ConversionError, first_line
from ..graph.sandbox import undisturbed_rng
from .deviation import NEAR_ZERO
from .inputs import AGAIN, KINDS
from .jumps import beside_jumps
from .large import blended_where_large
from .law import Allowed, Law
from .probe import Probe
from .report import CAP, TOLERANCE
from .verification import Verification

ROUNDED_CONSTANTS = 1e-6
"""The same in float64 for a model with constants that float32 rounded, which obeys the law only to their rounding."""

MANY = 16
"""Random sequences on which the law must hold before a fault is put down to some kinds of input."""


PLACES = 8
"""Random parameter sets where forward takes places of maxima and the like: whether numbers tie goes by the weights."""


ALIKE = ["run", AGAIN]
"""Kinds of a batch in which a number over all samples, such as a maximum, changes when one of them is mirrored."""

BESIDE = 4
"""Samples of a batch that is measured beside a jump."""

TIMES = 2
"""Jumps of a sample that are looked for: beside one of them a change that shows beside most may be too small."""

JUMPING = 4
"""Outputs whose jumps are looked for, those first that are seen to step."""

SEVERAL = 4
"""Samples of random bases, of which some are mirrored, that a verification measures at once."""

DEAD = 4
"""More sets of weights that are drawn while such samples all give the same."""

ASIDE = 3
"""Random parameter sets put aside where rounding alone decides what an output is."""


def verify(
    model: nn.Module,
    example: Example,
    specs: list[Spec | None],
    actions: list[Action | None],
    outputs: Allowed,
    draws: int = 2,
    training: bool = True,
    diagnose: bool = True,
    trained: Allowed | None = None,
    tolerance: float = 0.0,
    padded: bool = False,
    probe: Probe | None = None,
    precise: bool | None = None,
) -> Verification:
    """Check the law on a perturbed copy, in train and eval mode, and in the model's own precision.

    Args:
        model: a converted model; not touched.
        example: what it is called with.
        specs, actions: per input leaf.
        outputs: per output leaf its action, or a function from its index and shape to the actions
            it may have.
        draws: random parameter sets, each with random inputs; one alone is met by the example's batch only. There
            are more where forward makes whole numbers of others.
        training: the law holds in train mode too.
        diagnose: find out what a deviation is due to; if not, what exceeds the stated tolerance has failed.
        trained: as `outputs`, for a train-mode forward that returns others.
        tolerance: largest deviation that is known to be rounding, if it is more than is usual.
        padded: check padded rows of ids too.
        probe: of the model and the example, where there is one; its parameters are changed.
        precise: check in the model's own precision too; by default with several draws.

    Raises:
        ConversionError: the model returns nothing that could be measured.
    """
    with undisturbed_rng():
        probe = probe or Probe(model, example, specs, actions, padded=padded)
        found = _verified(model, probe, outputs, trained, training, draws, tolerance, diagnose)
        if found.cause == "noise" and not probe.held:
            probe.held = True
            again = _verified(model, probe, outputs, trained, training, draws, tolerance, diagnose)
            probe.held = again.cause != "noise"
            found = again if probe.held else found
        precise = draws > 1 if precise is None else precise
        if found.passed and precise and probe.own != probe.dtype:
            found = _in_own_dtype(found, probe.in_own_precision(model), outputs)
        return found


def _verified(
    model: nn.Module,
    probe: Probe,
    outputs: Allowed,
    trained: Allowed | None,
    training: bool,
    draws: int,
    tolerance: float,
    diagnose: bool,
) -> Verification:
    """The check in the best precision that the model runs in."""
    check = _Check(Law(probe, outputs, trained), training, draws, tolerance, diagnose)
    check.run()
    found = check.found()
    if found.passed and draws > 1 and probe.discrete:
        given = Law(probe.again(model), outputs)
        found = _Check(given, False, draws, found.tolerance, diagnose).with_given_weights(found)
    return found


class _Check:
    """Runs the draws of a verification."""

    def __init__(self, law: Law, training: bool, draws: int, tolerance: float, diagnose: bool) -> None:
        self.law, self.probe, self.training, self.draws, self.diagnose = law, law.probe, training, draws, diagnose
        self.limit, self.widened, self.met_all = max(TOLERANCE[self.probe.dtype], tolerance), False, True
        self.modes = "train and eval mode" if training else "eval mode"
        self.cause: str | None = None
        self.last: tuple[int, list[str]] = (0, [])
        self.forward: list[Any] = []
        self.aside: list[tuple[float, dict[int, float]]] = []

    def found(self) -> Verification:
        """The result."""
        error, cause = self.law.error(), self.cause
        if error <= self.limit:
            doubtful = [e for e, sizes in self.aside if not self._were_zero(sizes)]
            error, cause = max([error, *doubtful]), "precision" if doubtful else cause
        probe, depends, outputs = self.probe, self.law.depends(), self.law.obeyed()
        shared = max(self.law.blended[True].values(), default=0.0) > max(self.limit, CAP[probe.dtype])
        return Verification(
            error, self.limit, probe.dtype, depends, self.modes, cause, probe.held, outputs, shared=shared
        )

    def run(self) -> None:
        """Measure until the law fails or the draws are used up; more are made while an output ignores the sequence."""
        turns = self.draws if self.draws == 1 else max(self.draws, -(-len(KINDS) // (self.probe.batch or 1)))
        for seed in itertools.count():
            if self._is_enough(seed, turns):
                break
            self._perturb(seed)
            whole, aside = self._draw(seed), len(self.aside)
            failed = self._has_failed()
            if not (whole or failed) and aside == len(self.aside):
                self._draw(seed, begun=True)  # what was left out of it, now that rounding is known
                failed = self._has_failed()
            if failed:
                break
        self.law.require_measured()
        if self.draws > 1 and self.widened and self.met_all and self.law.error() <= self.limit:
            self._measure_jumps()
            large = blended_where_large(self.law) if self.law.error() <= self.limit else 0.0
            if large:
                self.law.blended[False], self.cause = {min(self.law.actions): large}, "samples"

    def _has_failed(self) -> bool:
        """Whether the law failed, and neither rounding nor noise of train mode explains it."""
        return self.law.error() > self.limit and not (self.diagnose and (self._explained() or self._put_aside()))

    def _measure_jumps(self) -> None:
        """Measure outputs that step beside a jump of one sample's, where others that move it show once mirrored.

        The jump of the last sample, then of the first: in a sum along the batch one of them has all others before it.
        """
        kinds = [KINDS[0]] * max(BESIDE, self.probe.batch or 1)
        self.last = (0, kinds)
        drawn = self.probe.drawn(*self.last)
        stepped = sorted(self.law.stepped, key=lambda i: not self.law.stepped[i])
        indices = [i for i in stepped if self.law.stepped[i] or self.probe.discrete][:JUMPING]
        for index, sample in itertools.product(indices, (len(kinds) - 1, 0) * TIMES):
            others = torch.arange(len(kinds)) != sample
            for _ in beside_jumps(self.probe, drawn, index, ((self.law.batches or {})[index], sample)):
                self.law.measure(*self.last, chosen=others)
                if self.law.error() > self.limit and not (self.diagnose and self._explained()):
                    return

    def _put_aside(self) -> bool:
        """Whether rounding is all there is of an output, for weights that make it zero: others decide then."""
        if self.cause != "precision" or len(self.aside) == ASIDE or self.draws == 1:
            return False
        failed = [i for i in self.law.actions if self.law.best(i)[0] > self.limit]
        self.aside.append((self.law.error(), {i: self.law.usual.get(max(i, -1 - i), 0.0) for i in failed}))
        self.law.forget()
        self.cause = None
        return True

    def _were_zero(self, sizes: dict[int, float]) -> bool:
        """Whether outputs of these sizes are zero beside what they are for other weights."""
        return all(size <= NEAR_ZERO * self.law.usual.get(max(i, -1 - i), 0.0) for i, size in sizes.items())

    def with_given_weights(self, found: Verification) -> Verification:
        """What was found, or the failure of the law where numbers tie for the weights that the model has."""
        try:
            self._measure(0, self.law.own_kinds(0))
            self._measure(0, self.law.all_kinds() if self.law.any_batch else self.law.own_kinds(1))
        except ConversionError:  # such as a branch for many samples, whose weights are not tied
            return found
        if self.law.error() <= self.limit or (self.diagnose and self._explained()):
            return found
        return replace(found, error=self.law.error(), tolerance=self.limit, cause=self.cause)

    def _perturb(self, seed: int) -> None:
        """Other weights for a draw; where an earlier check used this seed up, those of another one if they matter."""
        anew, used = seed >= self.draws and self._needs_others(), self.probe.perturbed
        self.probe.perturb(1 + max(used) if anew and seed in used else seed, anew=anew)

    def _needs_others(self) -> bool:
        """Whether weights like the model's own hide something: numbers that tie, or an output that is dead for them."""
        return bool(self.probe.discrete or self.aside) or not (self.law.all_depend() and self._is_alive())

    def _is_alive(self) -> bool:
        """Whether samples that influence each other would have shown, where batches of several are measured."""
        return self.draws == 1 or not (self.law.any_batch and self.met_all) or self.law.all_alive()

    def _is_enough(self, seed: int, turns: int) -> bool:
        """Whether the draws before a seed show what there is to be seen."""
        seen = self.met_all and self.law.any_batch and seed >= self.draws
        alive = self._is_alive() or seed >= self.draws + DEAD
        shown = (seed >= turns or seen) and self.law.all_depend() and alive
        return not self._may_tie(seed) and (shown or seed >= 4 * turns)

    def _may_tie(self, seed: int) -> bool:
        """Whether numbers may tie for weights that were not drawn yet."""
        return self.draws > 1 and self.probe.discrete and seed < PLACES

    def _draw(self, seed: int, *, begun: bool = False) -> bool:
        """One set of parameters: the example's batch in both modes, and one with all kinds of samples.

        Args:
            seed: of the random numbers.
            begun: the first batch was measured already.

        Returns: whether nothing was left out, as it is where the law fails on the first batch.
        """
        kinds = self._look_around() if begun else self._measure(seed, self.law.own_kinds(seed))
        if self.law.error() <= self.limit and not self.law.all_depend() and self.probe.feed_norms():
            kinds = self._measure(seed, self.law.own_kinds(seed))
        if self.law.error() > self.limit:
            return False
        if self.draws > 1 and self.law.any_batch and (not self.widened or (self.met_all and self._may_tie(seed))):
            self.widened = True
            self._widen(seed)
        elif self.draws > 1 and seed == 0 and len(kinds) > 1:
            self._measure(seed, [*itertools.islice(itertools.cycle(ALIKE), len(kinds))])
        if not self._is_alive() and self.law.error() <= self.limit:
            self._measure(seed, [KINDS[0]] * max(SEVERAL, len(kinds)))
        if self.training and self.law.error() <= self.limit:
            self._train(seed, kinds)
        return True

    def _widen(self, seed: int) -> None:
        """One batch with a sample of each kind; where the model refuses so many, each draw meets a few kinds."""
        try:
            self._measure(seed, self.law.all_kinds())
            if seed == 0 and self.law.error() <= self.limit:
                self._measure(seed, ALIKE)
        except ConversionError:  # such as a branch for many samples, whose weights are not tied
            self.met_all = False

    def _train(self, seed: int, kinds: list[str]) -> None:
        """The example's batch in train mode, if the model runs in it."""
        self.last = (seed, kinds)
        try:
            self.law.measure(seed, kinds, training=True)
            if seed == 0 and len(kinds) == 1 and self.draws > 1 and self.law.any_batch:
                self.last = (seed, [KINDS[0]] * 2)
                self.law.measure(*self.last, training=True)
        except ConversionError:
            raise
        except (RuntimeError, ValueError) as reason:  # such as batch norm of a single value
            self._eval_only(f"train mode: {str(reason).splitlines()[0]}")

    def _measure(self, seed: int, kinds: list[str]) -> list[str]:
        """Measure in eval mode; where the model refuses such input, on random bases. Returns the kinds."""
        try:
            forward = self.law.measure(seed, kinds)
        except ConversionError:
            raise
        except Exception:  # a model may refuse what is no one-hot DNA
            if set(kinds) == {KINDS[0]}:
                raise
            kinds = [KINDS[0]] * len(kinds)
            forward = self.law.measure(seed, kinds)
        self.last, self.forward = (seed, kinds), forward
        if self.law.error() > self.limit and not self.diagnose:
            return kinds
        return self._look_around()

    def _look_around(self) -> list[str]:
        """Beside the batch measured last: which axes hold samples, and whether outputs depend on the sequence."""
        seed, kinds = self.last
        if self.draws > 1 and len(kinds) == (self.probe.batch or 1) and self.law.error() <= self.limit:
            self.law.find_batches(self.forward)
        self.law.vary(self.forward, seed, kinds)
        return kinds

    def _eval_only(self, why: str) -> None:
        self.modes = f"eval mode only ({why})"
        self.training = False
        self.law.forget_training()

    # --- what a deviation is due to ---

    def _explained(self) -> bool:
        """Whether a deviation is rounding, or noise of train mode; notes the cause of any other, as far as it shows."""
        seed, kinds = self.last
        in_eval = self.law.error([False]) > self.limit
        found = self.law.unsteady(seed, kinds, training=not in_eval)
        if found is not None and not in_eval:
            self._eval_only("train mode draws random numbers" if found == "noise" else "train mode keeps state")
            return True
        self.cause = found or self._cause(seed, kinds, in_eval)
        return self.cause is None and self.law.error() <= self.limit

    def _cause(self, seed: int, kinds: list[str], in_eval: bool) -> str | None:
        """Rounding, which raises the limit, or what else a deviation is due to; None if nothing tells.

        Rounding is told from a fault by a run with nudged weights. Where the law holds on random bases and fails on
        others by more than rounding does there, numbers tie.
        """
        error, cap = self.law.error(), CAP[self.probe.dtype]
        moved = self.law.rounding(seed, kinds, training=not in_eval, enough=error)
        if error <= min(moved, cap):
            self.limit = max(self.limit, min(moved, cap))
            return None
        bases = self.law.own_kinds(0, KINDS[:1])
        for turn in range(-(-MANY // len(bases))):
            if self._error_on(seed + turn, bases, in_eval) > min(cap, error / 100):
                return "precision" if error <= moved else None
        met = [k for k in KINDS if k in kinds]
        failed = [k for k in met if self._error_on(seed, self.law.own_kinds(0, [k]), in_eval) > self.limit]
        if not failed and in_eval and not self._is_by_samples(seed, len(kinds)):
            failed = [kind for kind in met if kind != KINDS[0]]
        if failed:
            return ", ".join(_WORDS[k] for k in failed)
        return "samples" if in_eval else None

    def _error_on(self, seed: int, kinds: Sequence[str], in_eval: bool) -> float:
        """The deviation on one batch, with the parameters as they are."""
        law = Law(self.probe, self.law.outputs)
        law.usual = dict(self.law.usual)
        law.measure(seed, kinds, training=not in_eval)
        return law.error()

    def _is_by_samples(self, seed: int, samples: int) -> bool:
        """Whether a deviation in eval mode is due to the number of samples, or to some of them being mirrored."""
        if self.law.only_blended(self.limit):
            return True
        bases = KINDS[:1] * samples
        error = self._error_on(seed, bases, True)
        return error > self.limit and error > self.law.rounding(seed, bases, training=False, enough=error)


_WORDS = {
    "random": "random bases",
    "padded": "all-zero columns (N)",
    "run": "runs of one base",
    "repeat": "tandem repeats",
    "soft": "probabilities of bases",
    "masked": "stretches scaled down or set to zero",
    "blank": "no bases at all (all zero)",
}


def _in_own_dtype(found: Verification, probe: Probe, outputs: Allowed) -> Verification:
    """The check once more in the precision the model has; a deviation that rounding does not explain fails it."""
    name, limit = str(probe.own).removeprefix("torch."), TOLERANCE[probe.own]
    law = Law(probe, outputs)
    try:
        probe.perturb(0)
        kinds = law.own_kinds(0)
        law.measure(0, kinds)
        error = law.error()
        moved = law.rounding(0, kinds, training=False, enough=error) if error > limit else 0.0
    except Exception as reason:  # what the model raises in float32 the user has seen
        return replace(found, own=f"not checked in {name} ({first_line(reason)})")
    if error <= limit:
        return replace(found, own=f"{error:.1e} in {name}")
    if error <= moved:
        return replace(found, own=f"{error:.1e} in {name}, as rounding moves it")
    return replace(found, error=error, tolerance=limit, dtype=probe.own, cause="dtype")
