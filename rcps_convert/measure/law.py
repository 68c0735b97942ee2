"""The law measured on one copy of a model: per output, how far ``f(rc x)`` is from ``rho f(x)``.

Samples of one batch are of different kinds, and some samples are mirrored alone too: the results of the others must
stay what they were.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .._torch import own_parameters, version
from ..algebra.action import Action
from ..algebra.opened import output_leaves
from ..errors import ConversionError
from .deviation import INFINITE, compare, held_to, middle_size, plain_difference
from .inputs import KINDS, some_of
from .jumps import has_steps
from .probe import Probe

Allowed = Callable[[int, tuple[int, ...]], list[Action]] | Sequence[Action | None]
"""Per output leaf its action, or a function from its index and shape to the actions it may have."""

VARIED = 1e-12
"""Relative change of the outputs between two inputs above which they depend on the sequence."""

SURELY = 1e-7
"""Relative change above which that is more than rounding."""

WIDE = 2**18
"""Entries of a sample's inputs up to which a batch holds a sample of every kind."""

CLEARLY = 1e-3
"""Relative change of an output between a sequence and its mirror image that is more than rounding."""

OTHER = 1000
"""What the seed of other random inputs is larger by."""

ENOUGH = 4
"""Samples from which on it shows whether an output takes a few values only."""

NUDGES = 3
"""Runs with parameters changed in their last places."""

MARGIN = 32.0
"""How many times further than such a nudge moves an output rounding may carry it from the law."""


class Law:
    """Collects errors over inputs and modes: per output leaf, for each of the actions it may have.

    Args:
        probe: a copy of the model.
        outputs: the actions an output may have.
        trained: the same for a train-mode forward that returns others; None where it returns the same.

    Attributes:
        entries: per output leaf, how many numbers were compared.
        variation: per output leaf, its largest relative change between two sequences.
        blended: per output leaf, how far mirroring a sample moved the results of others; by mode, in train
            mode without being an error: statistics over a batch do that.
        batches: per output leaf with samples the axis that holds them; None until they are found.
        summed: output leaves without an axis of samples, such as a loss, or with two, such as how alike samples are.
        any_batch: the outputs' actions hold for batches of other sizes too: no axis holds samples and more.
        usual: per output leaf, the largest middle size of its entries that was met.
        stepped: per output leaf with samples, whether it takes a few values only over those of a batch.
        alive: output leaves that differ between samples of random bases, of which some were mirrored.
    """

    def __init__(self, probe: Probe, outputs: Allowed, trained: Allowed | None = None) -> None:
        self.probe, self.outputs, self.trained = probe, outputs, trained
        self.entries: dict[int, int] = {}
        self.variation: dict[int, float] = {}
        self.blended: dict[bool, dict[int, float]] = {False: {}, True: {}}
        self.batches: dict[int, int] | None = None
        self.summed: list[int] = []
        self.any_batch = False
        self.actions: dict[int, list[Action | None]] = {}
        self.errors: dict[tuple[int, int, bool], float] = {}
        self.usual: dict[int, float] = {}
        self.stepped: dict[int, bool] = {}
        self.alive: set[int] = set()
        self.latest: tuple[Any, list[Any]] | None = None

    # --- results ---

    def error(self, modes: Sequence[bool] = (False, True)) -> float:
        """The largest error over outputs, in eval (False) and train mode (True); infinite where none could be had."""
        return max((self.best(i, modes)[0] for i in self.actions), default=0.0)

    def best(self, index: int, modes: Sequence[bool] = (False, True)) -> tuple[float, Action | None]:
        """The error of an output and the action, of those it may have, with which it is smallest."""
        actions = self.actions[index]
        if not self.entries.get(index) or not actions:
            return INFINITE, next(iter(actions), None)
        scored = [(max(self.errors.get((index, k, m), 0.0) for m in modes), k) for k in range(len(actions))]
        error, k = min(scored)
        return max(error, self.blended[False].get(index, 0.0)), actions[k]

    def obeyed(self) -> tuple[Action | None, ...]:
        """Per output leaf the action with which its error is smallest; None for what holds no numbers."""
        count = 1 + max(self.actions, default=-1)
        return tuple(self.best(i)[1] if i in self.actions else None for i in range(count))

    def only_blended(self, limit: float) -> bool:
        """Whether the law holds for whole batches, and fails where some samples are mirrored."""
        return max(self.errors.values(), default=0.0) <= limit

    def depends(self) -> bool:
        """Whether an output depends on the sequence."""
        return any(v > VARIED for v in self.variation.values())

    def all_depend(self) -> bool:
        """Whether every output depends on the sequence."""
        return bool(self.variation) and all(v > VARIED for v in self.variation.values())

    def all_alive(self) -> bool:
        """Whether it shows for every output with samples if they influence each other.

        Samples whose results are all alike may be dead for the weights drawn, behind a gate that is closed, and runs of
        one base or blank samples are much the same mirrored.
        """
        return {*(self.batches or {})} <= self.alive

    def require_measured(self) -> None:
        """Refuse to judge a model without outputs.

        Raises:
            ConversionError: no output holds a number.
        """
        if not self.actions:
            raise ConversionError(
                "the model returns no numbers, so nothing could be measured",
                why="every output is None, empty, or no tensor",
                do="return tensors, and give an example of two samples, such as torch.zeros(2, 4, 1000)",
            )

    def forget(self) -> None:
        """Drop all that was measured but the sizes of the outputs."""
        self.errors, self.blended, self.variation, self.alive = {}, {False: {}, True: {}}, {}, set()

    def forget_training(self) -> None:
        """Drop what was measured in train mode."""
        self.errors = {key: e for key, e in self.errors.items() if not key[2]}
        self.blended[True] = {}

    # --- batches ---

    def own_kinds(self, turn: int, only: Sequence[str] = KINDS) -> list[str]:
        """Kinds for a batch of the example's size; over several turns every kind is met."""
        count = self.probe.batch or 1
        return [only[(turn * count + i) % len(only)] for i in range(count)]

    def find_batches(self, forward: list[Any]) -> None:
        """Find the batch axis of each output: the one that grows when the batch does, alone or with others in it.

        The larger batch has other sequences, so it shows too whether such outputs depend on them.

        Args:
            forward: the outputs for the example's batch.
        """
        own = self.probe.batch
        if own is None or self.batches is not None:
            return
        try:
            drawn = self.probe.drawn(OTHER, KINDS[:1] * (own + 1))
            large = output_leaves(self.probe.outputs(drawn))
        except Exception:  # a model may raise anything on a batch it was not made for
            return
        grown = [_grown(a, b, own) for a, b in zip(forward, large, strict=False)]
        if len(forward) == len(large):
            self.batches = {i: d for i, d in enumerate(grown) if d is not None and d >= 0}
            self.summed = [i for i, y in enumerate(forward) if grown[i] in (None, -1) and isinstance(y, Tensor)]
            self.any_batch = -1 not in grown and all(forward[i].shape[d] == own for i, d in self.batches.items())
            for i, d in self.batches.items():
                part = large[i].narrow(d, 0, forward[i].shape[d])
                if relative_change(forward[i], part) > SURELY:
                    self._note_change(i, forward[i], part)
            if own == 1 and not self.any_batch:  # no other batch of several samples will be measured
                reverse = output_leaves(self.probe.outputs(self.probe.mirrored(drawn)))
                self._mirror_some(drawn, some_of(own + 1), large, reverse)

    def all_kinds(self) -> list[str]:
        """Kinds for a batch in which all are met, or two samples of large inputs."""
        own = self.probe.batch or 1
        per_sample = sum(x.numel() // own for x in self.probe.inputs(0) if isinstance(x, Tensor))
        count = max(own, len(KINDS) if per_sample <= WIDE else 2)
        return [KINDS[i % len(KINDS)] for i in range(count)]

    # --- measuring ---

    def measure(
        self, seed: int, kinds: Sequence[str], *, training: bool = False, chosen: Tensor | None = None
    ) -> list[Any]:
        """One batch and its mirror image in one mode; where batches are known also with some samples mirrored.

        Args:
            seed, kinds, training: of the batch.
            chosen: the samples that are mirrored alone, (N,); by default some at random.

        Returns: the outputs. In train mode a batch on which some are not finite is drawn anew, as random bases: a
        batch norm would spread them over all samples.
        """
        probe = self.probe
        drawn = probe.drawn(seed, kinds)
        forward = output_leaves(probe.outputs(drawn, training))
        if training and set(kinds) != {KINDS[0]} and not all(map(_finite, forward)):
            return self.measure(seed, KINDS[:1] * len(kinds), training=True, chosen=chosen)
        reverse = output_leaves(probe.outputs(probe.mirrored(drawn), training))
        if len(forward) != len(reverse):
            raise ValueError("the number of outputs depends on the values of the input")
        self.latest = self._run(seed, kinds, training), forward
        for i, (y, r) in enumerate(zip(forward, reverse, strict=True)):
            if plain_difference(y, r) > VARIED:
                self._note_plain(i, y, r, training, drawn)
            elif isinstance(y, Tensor) and y.numel():
                self._compare(i, y, r, training, probe.orders(drawn))
                if not training:
                    self._note_mirrored(i, y, r)
        if len(kinds) > 1 and not (training and self._is_settled_in_training()):
            chosen = some_of(len(kinds), seed) if chosen is None else chosen
            self._mirror_some(drawn, chosen, forward, reverse, training)
            if set(kinds) == {KINDS[0]} and not training:
                self._note_alive(forward, len(kinds))
        return forward

    def as_given(self) -> float:
        """The error on the probe's first input, with the weights that the model has."""
        drawn = self.probe.inputs(0)
        forward = output_leaves(self.probe.usual_outputs())
        reverse = output_leaves(self.probe.outputs(self.probe.mirrored(drawn)))
        for i, (y, r) in enumerate(zip(forward, reverse, strict=False)):
            if isinstance(y, Tensor) and y.numel():
                self._compare(i, y, r, False, self.probe.orders(drawn))
        return self.error()

    def vary(self, forward: list[Any], seed: int, kinds: Sequence[str]) -> None:
        """Note how far outputs change between two sequences, of those that did not change yet."""
        still = [i for i, y in enumerate(forward) if isinstance(y, Tensor) and self.variation.get(i, 0.0) <= VARIED]
        if not still:
            return
        other = output_leaves(self.probe.outputs(self.probe.drawn(seed + OTHER, kinds)))
        for i in still:
            change = relative_change(forward[i], other[i])
            if not VARIED < change <= SURELY or change > self._rounding_of(i, forward[i], seed, kinds):
                self._note_change(i, forward[i], other[i])

    def _note_alive(self, forward: list[Any], samples: int) -> None:
        """Note the outputs that differ between the samples of a batch."""
        for i, dim in (self.batches or {}).items():
            y = forward[i]
            if relative_change(y, y.roll(max(1, y.shape[dim] // samples), dim)) > SURELY:
                self.alive.add(i)

    def _note_mirrored(self, index: int, y: Tensor, r: Tensor) -> None:
        """The mirror image is another sequence: an output that it clearly changes depends on the sequence."""
        if self.variation.get(index, 0.0) <= VARIED:
            change = relative_change(y, r)
            if change > CLEARLY:
                self.variation[index] = change

    def _run(self, seed: int, kinds: Sequence[str], training: bool) -> Any:
        """What tells one run from another: weights that were written to since are others."""
        written = sum(map(version, own_parameters(self.probe.model)))
        return seed, tuple(kinds), training, len(self.probe.perturbed), written

    def _outputs_of(self, seed: int, kinds: Sequence[str], training: bool, drawn: list[Any]) -> list[Any]:
        """The outputs on a batch that may have been measured just now."""
        if self.latest is not None and self.latest[0] == self._run(seed, kinds, training):
            return self.latest[1]
        return output_leaves(self.probe.outputs(drawn, training))

    def _note_change(self, index: int, y: Tensor, other: Tensor) -> None:
        self.variation[index] = max(self.variation.get(index, 0.0), relative_change(y, other))

    def _compare(self, index: int, y: Tensor, r: Tensor, training: bool, orders: Sequence[Tensor]) -> None:
        given = self.trained if training and self.trained is not None else self.outputs
        place = index if given is self.outputs else -1 - index  # outputs of train mode alone are counted apart
        usual = self.usual[index] = max(self.usual.get(index, 0.0), middle_size(y))
        for k, action in enumerate(self._allowed(given, index, place, tuple(y.shape))):
            found = compare(r, y, usual) if action is None else held_to(action, r, y, usual, orders)
            self.errors[place, k, training] = max(self.errors.get((place, k, training), 0.0), found.error)
            self.entries[place] = max(self.entries.get(place, 0), found.entries)

    def _note_plain(self, index: int, y: Any, r: Any, training: bool, drawn: list[Any]) -> None:
        """A number or a text beside the tensors differs between the strands; a clock and a count of calls always do."""
        again = output_leaves(self.probe.outputs(drawn, training))[index]
        if plain_difference(y, again) <= VARIED:
            place = index if not training or self.trained is None else -1 - index
            self.actions[place], self.entries[place] = [None], 1
            known = self.errors.get((place, 0, training), 0.0)
            self.errors[place, 0, training] = max(known, plain_difference(y, r))

    def _allowed(self, given: Allowed, index: int, place: int, shape: tuple[int, ...]) -> list[Action | None]:
        allowed: list[Action | None] = [*given(index, shape)] if callable(given) else [given[index]]
        known = self.actions.setdefault(place, allowed)
        return allowed if len(allowed) == len(known) else known

    def _is_settled_in_training(self) -> bool:
        """Whether samples were mirrored alone in train mode already, or its outputs are others than those of eval."""
        return self.trained is not None or bool(self.blended[True])

    def _mirror_some(
        self, drawn: Any, chosen: Tensor, forward: list[Any], reverse: list[Any], training: bool = False
    ) -> None:
        """Some samples of a batch mirrored alone; needs no actions of the outputs, only where samples are.

        Where an output has no samples, and does not change when all are mirrored, it does not when some are.
        """
        summed = [i for i in self.summed if self._is_invariant(i)]
        if self.batches or summed:
            mixed = output_leaves(self.probe.outputs(self.probe.some_mirrored(drawn, chosen), training))
            for i, dim in (self.batches or {}).items():
                if all(isinstance(leaves[i], Tensor) for leaves in (forward, reverse, mixed)):
                    self._note_blended(i, self._blend(i, dim, chosen, forward[i], reverse[i], mixed[i]), training)
            for i in summed:
                self._note_blended(i, compare(mixed[i], forward[i], self.usual.get(i, 0.0)).error, training)

    def _note_blended(self, index: int, error: float, training: bool) -> None:
        found = self.blended[training]
        found[index] = max(found.get(index, 0.0), error)

    def _is_invariant(self, index: int) -> bool:
        """Whether an output may only be one that reverse complement leaves as it is."""
        return all(action is not None and action.is_trivial() for action in self.actions.get(index, [None]))

    def _blend(self, index: int, dim: int, chosen: Tensor, y: Tensor, r: Tensor, mixed: Tensor) -> float:
        """How far it is from mirroring each sample for itself: the chosen samples as in `r`, the others as in `y`.

        An axis of more entries than samples holds each sample's entries together, or the samples' entries in turn.
        """
        samples = len(chosen)
        place, each = torch.arange(y.shape[dim]), y.shape[dim] // samples
        errors = []
        for sample in [place] if each == 1 else [place // each, place % samples]:
            these = chosen[sample].to(y.device).view(-1, *[1] * (y.dim() - dim - 1))
            errors.append(compare(mixed, torch.where(these, r, y), self.usual.get(index, 0.0)).error)
        if each == 1 and samples >= ENOUGH and index not in self.stepped:
            self.stepped[index] = has_steps(y, dim)
        return min(errors)

    # --- rounding, randomness ---

    def rounding(self, seed: int, kinds: Sequence[str], *, training: bool, enough: float = INFINITE) -> float:
        """How far rounding alone may carry an output from the law, from runs with nudged parameters.

        Args:
            seed, kinds, training: of the batch.
            enough: nothing is run any more once it is known to be as far as this.
        """
        drawn = self.probe.drawn(seed, kinds)
        before = self._outputs_of(seed, kinds, training, drawn)
        worst = 0.0
        for i in range(NUDGES):
            with self.probe.nudged(seed + i):
                after = output_leaves(self.probe.outputs(drawn, training))
            worst = max(worst, difference(before, after, self.usual))
            if MARGIN * worst >= enough:
                break
        return MARGIN * worst

    def _rounding_of(self, index: int, y: Tensor, seed: int, kinds: Sequence[str]) -> float:
        """How far rounding alone may change an output, relative to its size."""
        drawn = self.probe.drawn(seed, kinds)
        with self.probe.nudged(seed):
            return MARGIN * relative_change(y, output_leaves(self.probe.outputs(drawn))[index])

    def unsteady(self, seed: int, kinds: Sequence[str], *, training: bool) -> str | None:
        """Whether two runs on one input differ: ``"state"``, ``"noise"`` (with another seed), or None."""
        drawn = self.probe.drawn(seed, kinds)
        first = self._outputs_of(seed, kinds, training, drawn)
        if difference(first, output_leaves(self.probe.outputs(drawn, training, rng=1))) <= VARIED:
            return None
        again = [output_leaves(self.probe.outputs(drawn, training)) for _ in range(2)]  # a state may come back
        return "state" if max(difference(first, y) for y in again) > VARIED else "noise"


def _finite(y: Any) -> bool:
    return not isinstance(y, Tensor) or bool(y.isfinite().all())


def _grown(a: Any, b: Any, own: int) -> int | None:
    """The axis of an output that holds the samples; None if it has none, -1 if it is not to be told."""
    if not isinstance(a, Tensor) or not isinstance(b, Tensor) or a.shape == b.shape:
        return None
    dims = [d for d in range(a.dim()) if a.shape[d] != b.shape[d]] if a.dim() == b.dim() else []
    return dims[0] if len(dims) == 1 and a.shape[dims[0]] * (own + 1) == b.shape[dims[0]] * own else -1


def difference(a: list[Any], b: list[Any], usual: dict[int, float] | None = None) -> float:
    """The largest deviation between two readings of all outputs, given the usual size of their entries."""
    if len(a) != len(b):
        return INFINITE
    pairs = [(i, x, y) for i, (x, y) in enumerate(zip(a, b, strict=True)) if isinstance(x, Tensor)]
    return max((compare(x, y, (usual or {}).get(i, 0.0)).error for i, x, y in pairs), default=0.0)


def relative_change(a: Tensor, b: Tensor) -> float:
    """How far two outputs differ, relative to their size; one that is there only sometimes differs wholly."""
    if not isinstance(b, Tensor) or a.shape != b.shape or not a.numel():
        return 1.0
    x, y = (t.to(torch.complex128 if t.is_complex() else torch.float64) for t in (a, b))
    finite = x.isfinite() & y.isfinite()
    scale = float(x[finite].abs().max()) if bool(finite.any()) else 0.0
    return float((x - y)[finite].abs().max()) / scale if scale else 0.0
