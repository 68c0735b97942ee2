"""What a conversion does to a model's outputs: how far they move, and which of them say less than before."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..algebra import axis as ax
from ..algebra.action import Action
from ..algebra.arguments import Example, leaves
from ..algebra.opened import output_leaves
from ..algebra.specs import Spec
from ..graph.sandbox import free_young, undisturbed_rng
from .inputs import KINDS
from .law import MARGIN, OTHER, relative_change
from .probe import Probe, own_dtype

SURE, FAINT = 1e-4, 1e-9
"""Relative size of a direction in which outputs vary that counts before conversion, and after it."""

FADED = 1e-4
"""How far an output still moves with the sequence, of what it did before conversion, where it says nothing."""

WEIGHTS, AGREE = 5, 3
"""Random weights that are tried before an output is said to lose values; the same for such that show the same."""

OF_NONE = 8
"""The same where none is left: behind a norm of one channel most weights may leave the same sign everywhere."""

CLEAR = 1e-3
"""Relative change of the outputs that single precision shows well enough."""

COLUMNS, ROWS = 64, 512
"""Channels and repetitions that are looked at."""

SAMPLES = 16
"""Samples that are looked at; more where an output has one entry for each, and as many channels or more."""

FEW = 4
"""The same where the inputs of so many have more entries than that, if outputs have that many repetitions."""

MOST_ENTRIES = 2**17
"""Entries of the inputs up to which there are more."""


class Change:
    """What conversion does to a model's outputs.

    Args:
        before, after: the model and its converted form; not touched.
        example, specs, actions: as in `verify`.
    """

    def __init__(
        self,
        before: nn.Module,
        after: nn.Module,
        example: Example,
        specs: list[Spec | None],
        actions: list[Action | None],
    ) -> None:
        self.given = (before, after), (example, specs, actions)
        self.readings: list[list[list[Any]]] = []
        self.nudged: list[Any] = []
        self.sizes: list[int] = []
        self.precise = own_dtype(before) not in (torch.float32, torch.float64)
        self.probes: list[Probe] = []
        self.most: dict[int, Movement] | None = None  # before conversion, where they vary in all ways that they can

    def _look(self, after: Probe | None = None) -> None:
        """Copies of both models, in their own precision, which is quick, or in double precision.

        Args:
            after: one of the converted model, where there is one.
        """
        models, call = self.given
        if not self.probes:
            with undisturbed_rng():
                made = [Probe(m, *call, own=not self.precise) for m in (models if after is None else models[:1])]
                self.probes = made if after is None else [*made, after]

    def _look_closely(self, after: Probe | None = None) -> None:
        """Go on in double precision."""
        if not self.precise:
            self.precise = True
            self._look_away()
        self._look(after)

    def _look_away(self) -> None:
        """Free the two copies; they are made again where they are needed."""
        self.probes = []
        free_young()

    def moved(self, outputs: Sequence[Action | None] = ()) -> float:
        """How far the outputs move, relative to their size, in eval mode.

        Args:
            outputs: what each is, where that is known: where inputs are large, fewer samples are looked at then.
        """
        self._look()
        with undisturbed_rng():
            shapes = [_rows_and_columns(a) for a in outputs if a is not None]
            example = self.given[1][0]
            samples = _enough(shapes, self.probes[0].batch or 1, example) if shapes else SAMPLES
            readings = self._readings(samples=min(samples, SAMPLES))
            with self.probes[1].nudged(0):
                self.nudged = self._read_first(self.probes[1])
        self.readings = readings
        pairs = zip(*map(_ends, readings), strict=True)
        found = max((relative_change(a, b) for a, b in pairs if a.numel()), default=0.0)
        if found > CLEAR or self.precise:
            self._look_away()
            return found
        self._look_closely()
        return self.moved(outputs)

    def lost(self, outputs: Sequence[Action | None], probe: Probe | None = None) -> list[tuple[int, int, int]]:
        """The outputs that say less than before, whatever the weights: index, and independent values before and after.

        An output that no longer depends on the sequence, or by a ten-thousandth of what it did, has none.

        Args:
            outputs: what each output is; samples and positions count as repetitions.
            probe: of the converted model and the example, with other weights, where there is one; they are changed.
        """
        if (self.readings and self._shows_all(outputs)) or (probe is not None and _shows_all(probe, outputs)):
            return []
        self._look_closely(probe)
        with undisturbed_rng():
            drawn = [self._ranks(0, outputs)]
            had, has = drawn[0]
            for seed in range(1, max(WEIGHTS, OF_NONE)):
                agree, most = (AGREE, WEIGHTS) if all(has.values()) else (OF_NONE, OF_NONE)
                same = drawn[-agree:] == drawn[-1:] * agree
                if all(has[i] >= had[i] > 0 for i in had) or same or seed >= most:
                    break
                drawn.append(self._ranks(seed, outputs))  # dead units are a matter of the weights
                had, has = (
                    {i: max(n, new.get(i, 0)) for i, n in old.items()}
                    for old, new in zip((had, has), drawn[-1], strict=True)
                )
        return [(i, had[i], has[i]) for i in had if has[i] < had[i]]

    def _shows_all(self, outputs: Sequence[Action | None]) -> bool:
        """Whether the weights that the models have show that nothing is lost."""
        before, after = self.readings
        if sum(self.sizes) < _samples(after[0], outputs, self.sizes[0], self.given[1][0]):
            return False
        full = _is_full(after, outputs) and not _any_rounding(after[0], self.nudged)
        return full and not _faded(_parts(before, outputs), _parts(after, outputs))

    def _ranks(self, seed: int, outputs: Sequence[Action | None]) -> list[dict[int, int]]:
        """Before and after conversion, the independent values of each output, with other random weights.

        An output that moved faintly, and no longer does, had one.
        """
        for probe in self.probes if self.most is None else self.probes[1:]:
            probe.perturb(OTHER + seed)
        whole = _hold_samples(outputs)
        samples = _samples_of(self.probes[0], outputs)
        before, after = self._both(whole, samples, outputs)
        if any(moves.swing <= SURE for moves in before.values()) and any([p.feed_norms() for p in self.probes]):
            before, after = self._both(whole, samples, outputs)
        faded = _faded(before, after)
        had = {i: max(moves.rank(SURE), i in faded and moves.swing > FAINT) for i, moves in before.items()}
        if not faded and all(had[i] == moves.most for i, moves in before.items()):
            self.most = before
        return [had, {i: 0 if i in faded else moves.rank(FAINT) for i, moves in after.items()}]

    def _both(
        self, whole: bool, samples: int, outputs: Sequence[Action | None]
    ) -> tuple[dict[int, Movement], dict[int, Movement]]:
        """How each output moves before and after conversion; that before once it shows as much as any can."""
        if self.most is not None:
            return self.most, _parts(self._readings(whole, samples, self.probes[1:])[0], outputs)
        before, after = self._readings(whole, samples)
        return _parts(before, outputs), _parts(after, outputs)

    def zero(self) -> set[int]:
        """The outputs that are zero but for rounding, whatever the weights, and were not before."""
        found: list[set[int]] = []
        self._look_closely()
        with undisturbed_rng():
            for seed in range(2):
                for probe in self.probes:
                    probe.perturb(seed)
                before, after = (list(zip(*readings, strict=True)) for readings in self._readings())
                kept = [i for i, ys in enumerate(zip(before, after, strict=True)) if all(map(_continuous, sum(ys, ())))]
                found.append({i for i in kept if _largest(after[i]) <= FAINT * _largest(before[i])})
        return set.intersection(*found)

    def _readings(
        self, whole: bool = False, samples: int = SAMPLES, probes: Sequence[Probe] = ()
    ) -> list[list[list[Any]]]:
        """Per model and batch of random bases the output leaves: a few samples, in two batches or more.

        Args:
            whole: in one batch where the model takes it: every output has entries of its own for each sample.
            samples: how many, in two batches or one; fewer where the model takes the number of the example only.
            probes: of the models; of both by default.
        """
        probes = probes or self.probes
        batch = self.probes[0].batch
        try:
            if batch is None:
                raise ValueError("no batch axis")
            return self._read([samples] if whole else [samples // 2] * 2, probes)
        except Exception:  # a model may refuse another number of samples
            return self._read([batch or 1] * max(2, -(-16 // (batch or 1)) // 2), probes)

    def _read(self, sizes: list[int], probes: Sequence[Probe]) -> list[list[list[Any]]]:
        drawn = [self.probes[0].drawn(seed, KINDS[:1] * size) for seed, size in enumerate(sizes)]
        found = [[output_leaves(p.outputs([_as(p, x) for x in given])) for given in drawn] for p in probes]
        self.sizes = sizes
        return found

    def _read_first(self, probe: Probe) -> list[Any]:
        """The output leaves of the first batch."""
        drawn = self.probes[0].drawn(0, KINDS[:1] * self.sizes[0])
        return output_leaves(probe.outputs([_as(probe, x) for x in drawn]))


def _hold_samples(outputs: Sequence[Action | None]) -> bool:
    """Whether every output has an axis of samples."""
    roles = [{role.name for t in a.axes if (role := ax.role(t)) is not None} for a in outputs if a is not None]
    return all("batch" in names for names in roles)


def _samples_of(probe: Probe, outputs: Sequence[Action | None]) -> int:
    """As `_samples`, of a model that may not have been run yet."""
    return _samples(output_leaves(probe.usual_outputs()), outputs, probe.batch or 1, probe.example)


def _samples(made: Sequence[Any], outputs: Sequence[Action | None], batch: int, example: Example) -> int:
    """How many samples show how many independent values the outputs have.

    Args:
        made: outputs.
        outputs: what each is.
        batch: for how many samples they were made.
        example: what the model is called with.
    """
    pairs = ((y, a) for y, a in zip(made, outputs, strict=False) if a is not None and _continuous(y))
    return _enough([(*repetitions(y, a).shape,) for y, a in pairs], batch, example)


def _rows_and_columns(action: Action) -> tuple[int, int]:
    """The repetitions and the channels of an output."""
    repeated = [ax.role(t) is not None for t in action.axes]
    return math.prod(itertools.compress(action.shape, repeated)), math.prod(
        size for size, is_repeated in zip(action.shape, repeated, strict=True) if not is_repeated
    )


def _enough(shapes: Sequence[tuple[int, ...]], batch: int, example: Example) -> int:
    """How many samples show how many independent values the outputs have: few where inputs are large.

    Args:
        shapes: of each output, its repetitions and its channels.
        batch: for how many samples they were made.
        example: what the model is called with.
    """
    wanted = max((2 + -(-min(columns, COLUMNS) * batch // max(1, rows)) for rows, columns in shapes), default=0)
    entries = sum(x.numel() // max(1, len(x)) if x.dim() else 1 for x in leaves(example) if isinstance(x, Tensor))
    even = 2 * -(-wanted // 2)
    if FEW * entries > MOST_ENTRIES:
        return min(max(even, FEW), SAMPLES)
    return SAMPLES if wanted <= SAMPLES or wanted * entries > MOST_ENTRIES else even


def _continuous(y: Any) -> bool:
    """Whether an output holds numbers that may vary a little: classes say nothing of how many values there are."""
    return isinstance(y, Tensor) and bool(y.numel()) and (y.is_floating_point() or y.is_complex())


def _largest(parts: Sequence[Tensor]) -> float:
    """The largest size of a finite entry."""
    return max((float(y[y.isfinite()].abs().max()) for y in parts if bool(y.isfinite().any())), default=0.0)


def _ends(readings: list[list[Any]]) -> list[Tensor]:
    """Each output over several batches, end to end."""
    leaves = zip(*readings, strict=True)
    kept = [[y for y in ys if isinstance(y, Tensor)] for ys in leaves]
    return [torch.cat([y.flatten() for y in ys]) if ys else torch.zeros(0) for ys in kept]


def repetitions(y: Tensor, action: Action) -> Tensor:
    """An output as repetitions x channels: samples and positions are repetitions."""
    if y.dim() != len(action.axes) or not y.dim():
        return y.reshape(len(y) if y.dim() else 1, -1)
    repeated = [d for d, t in enumerate(action.axes) if ax.role(t) is not None]
    rest = [d for d in range(y.dim()) if d not in repeated]
    return y.permute(*repeated, *rest).reshape(-1, max(1, y.numel() // max(1, _size(y, repeated))))


@dataclass(frozen=True)
class Movement:
    """How an output moves with the sequence: as far as each entry is from its mean over all samples.

    Places of an output that differ, such as the biases of a layer that writes a profile, are no move.

    Attributes:
        rows: some of them, (R, C): samples and positions are repetitions; its first channels.
        size: of the largest entry of the output.
        most: the number of directions in which so many rows can vary.
    """

    rows: Tensor
    size: float
    most: int

    @property
    def swing(self) -> float:
        """How far the output moves, relative to its size."""
        return float(self.rows.abs().max()) / self.size if self.rows.numel() and self.size else 0.0

    def rank(self, threshold: float) -> int:
        """The number of directions in which rows vary."""
        if len(self.rows) < 2:
            return 0
        sizes = torch.linalg.svdvals(self.rows)
        return int((sizes > threshold * max(float(sizes[0]), self.size * 1e-3)).sum())


def _parts(readings: list[list[Any]], outputs: Sequence[Action | None]) -> dict[int, Movement]:
    """How each output that holds numbers moves, over several batches."""
    whole = enumerate(zip(zip(*readings, strict=True), outputs, strict=False))
    kept = {i: (ys, a) for i, (ys, a) in whole if a is not None and all(map(_continuous, ys))}
    return {i: _moves(ys, a) for i, (ys, a) in kept.items()}


def _moves(ys: Sequence[Tensor], action: Action) -> Movement:
    """How an output moves over several batches; what is not finite is left out."""
    roles = [role.name if (role := ax.role(t)) is not None else "" for t in action.axes]
    batch = roles.index("batch") if "batch" in roles and ys[0].dim() == len(roles) else None
    whole = torch.stack([*ys]) if batch is None else torch.cat([*ys], batch).movedim(batch, 0)
    finite = whole.isfinite()
    mean = whole.where(finite, 0).sum(0) / finite.sum(0).clamp(min=1)
    moved = whole - mean
    parts = [repetitions(y, action) for y in moved] if batch is None else [repetitions(moved.movedim(0, batch), action)]
    rows = torch.cat(parts)[:, :COLUMNS]
    rows = rows[:: max(1, len(rows) // ROWS)]
    rows = (rows if rows.is_complex() else rows.double())[rows.isfinite().all(1)]
    return Movement(rows, _largest([whole]), min(len(rows) * (len(whole) - 1) // max(1, len(whole)), rows.shape[1]))


def _shows_all(probe: Probe, outputs: Sequence[Action | None]) -> bool:
    """Whether other weights of the converted model show that nothing is lost.

    Outputs that move by so much with the sequence have not faded, however far they did before conversion.
    """
    try:
        samples = _samples_of(probe, outputs)
        sizes = [samples] if _hold_samples(outputs) else [samples // 2] * 2
        with undisturbed_rng():
            drawn = [probe.drawn(i, KINDS[:1] * size) for i, size in enumerate(sizes)]
            readings = [output_leaves(probe.outputs(x)) for x in drawn]
            if not _is_full(readings, outputs):
                return False
            with probe.nudged(0):
                return not _any_rounding(readings[0], output_leaves(probe.outputs(drawn[0])))
    except Exception:  # a model may refuse another number of samples
        return False


def _is_full(readings: list[list[Any]], outputs: Sequence[Action | None]) -> bool:
    """Whether every converted output has as many independent values as so many rows and channels can have."""
    after = _parts(readings, outputs).values()
    full = all(moves.rank(SURE) >= moves.most for moves in after)
    return full and all(moves.swing > CLEAR for moves in after)


def _faded(before: dict[int, Movement], after: dict[int, Movement]) -> set[int]:
    """The outputs that move with the sequence next to nothing of what they did."""
    return {i for i, moves in after.items() if i in before and moves.swing <= FADED * before[i].swing}


def _any_rounding(ys: list[Any], nudged: list[Any]) -> bool:
    """Whether some output changes as far where the weights change in their last places: that shows nothing."""
    return any(_is_rounding(y, z) for y, z in zip(ys, nudged, strict=False) if _continuous(y))


def _is_rounding(y: Tensor, nudged: Any) -> bool:
    """Whether an output moves with the sequence about as far as with the last places of the weights."""
    return max(relative_change(y, nudged), relative_change(nudged, y)) * MARGIN > CLEAR


def _size(y: Tensor, dims: Sequence[int]) -> int:
    return int(torch.Size(y.shape[d] for d in dims).numel())


def _as(probe: Probe, x: Any) -> Any:
    return x.to(probe.dtype) if isinstance(x, Tensor) and x.is_floating_point() else x
