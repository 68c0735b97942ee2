"""The plan of a model that reads both strands: conjoined, or mixed.

Nothing of the model is rewritten, so nothing has to be traced: the law is measured on a copy.
"""

from __future__ import annotations

import copy
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..algebra import axis as ax
from ..algebra.action import Action
from ..algebra.arguments import Example
from ..algebra.printed import Section, alike
from ..algebra.texts import write_action
from ..errors import BreaksSymmetryError, ConversionError, VerificationError
from ..graph.parametrized import own_classes
from ..graph.progress import stage
from ..graph.sandbox import fresh_copy, positional_names
from ..graph.transaction import Snapshot
from ..measure.change import Change
from ..measure.lengths import Variants
from ..measure.report import allowed_actions
from ..measure.verification import Verification, undecided
from ..measure.verify import verify
from ..measure.ways import turns_of_samples
from ..strands.conjoined import Conjoined, Merge, by_argument, conjoin, runs_by_argument
from ..strands.layers_to_mix import layers_to_mix
from ..strands.mixed import mix
from ..strands.stacked_runs import StackedRuns, skeleton
from ..tie.parts import unwatch
from . import plan_text
from .advice import looks_trained, lost_notes, noise_notes
from .architecture import Architecture
from .given import unwatch_given
from .plan import ConversionPlan
from .settings import Settings


@dataclass(repr=False)
class BothStrandsPlan(ConversionPlan):
    """What a conversion to both strands does; printed and applied like any plan.

    Attributes:
        strategy: ``"conjoined"`` or ``"mixed"``.
        reading: how the converted model reads both strands.
        mixed: for each layer that gets a cross-strand weight, how the other strand's input is mapped back.
        weights: shape of each cross-strand weight.
        unmixed: why the other layers of the kind do not mix.
        shapes: of the model's parameters, by name.
        held: why a copy of the model cannot be converted, though the model itself can.
    """

    strategy: str = "conjoined"
    reading: Conjoined | None = None
    mixed: dict[str, Action] = field(default_factory=dict)
    weights: dict[str, tuple[int, ...]] = field(default_factory=dict)
    unmixed: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    held: ConversionError | None = None

    def _check_copyable(self) -> None:
        if self.held is not None:
            raise self.held

    def install(self, target: nn.Module) -> nn.Module:
        """Attach the reading of both strands and the cross-strand weights to a model, in place, unchecked."""
        reading = copy.copy(self.reading)
        assert reading is not None
        own_classes(target)
        unwatch(target)
        unwatch_given(target)
        conjoin(target, reading)
        for path, action in self.mixed.items():
            mix(target.get_submodule(path), reading, action)
        return target

    def _attached(self) -> dict[str, list[dict[str, Any]]]:
        assert self.reading is not None
        layers = [{"path": p, "action": write_action(a), "reading": ""} for p, a in self.mixed.items()]
        return {"readings": [{"path": "", **self.reading.plain()}], "mixed": layers}

    @property
    def before(self) -> int:
        """Number of parameters of the model."""
        return sum(torch.Size(s).numel() for s in self.shapes.values())

    @property
    def after(self) -> int:
        """Number of parameters of the converted model."""
        return self.before + sum(torch.Size(s).numel() for s in self.weights.values())

    def _warnings(self) -> list[str]:
        return list(self.warnings)

    def _title(self) -> str:
        return f"Conversion plan for {self.model} ({self.strategy}: both strands are read)"

    def _summary(self) -> list[tuple[str, str]]:
        added = self.after - self.before
        numbers = f"{self.before:,}" + (f" + {added:,} between strands, zero at first" if added else ", untouched")
        if self.moved is not None:
            numbers += f"; outputs move by {self.moved:.2g} x their largest value (from one strand's reading to both)"
        found = dict(super()._summary())
        reading = plan_text.lengths(self) if self.checked or self.guards else "any that forward takes"
        return [*{**found, "parameters:": numbers, "lengths:": reading, "inserted:": self._inserted()}.items()]

    def _inserted(self) -> str:
        """The second reading, and what it costs."""
        assert self.reading is not None
        merge = self.reading.merge if isinstance(self.reading.merge, str) else "a function of yours"
        once = "in eval mode; in train mode one strand is read, as before" if self.reading.post_hoc else "per call"
        extra = ", and as much again for each mixed layer" if self.mixed else ""
        return (
            "x and its reverse complement run as one batch of twice the size; the two readings of each output, the "
            f"second mapped back, are merged: {merge}; cost: two passes {once}{extra}"
        )

    def _sections(self) -> list[Section]:
        header = ("layer", "weight between strands", "other strand's input is mapped back by")
        rows = alike((p, f"{self.weights[p]}\0{_words(a)}") for p, a in self.mixed.items())
        layers = [(paths, *text.split("\0")) for paths, text in rows]
        unmixed = [f"not mixed: {paths} ({why})" for paths, why in alike(self.unmixed.items())]
        return [
            Section("mixed layers", header, layers),
            Section("layers that do not mix", lines=unmixed),
            plan_text.remarks(self, self._warnings()),
        ]


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in model.named_parameters()}


def _words(action: Action) -> str:
    turned = [f"axis {d} ({ax.describe(t)})" for d, t in enumerate(action.axes) if not ax.is_trivial(t)]
    return ", ".join(turned) if turned else "nothing to map: no length is left"


def plan_both_strands(
    model: nn.Module, example: Example, settings: Settings, held: ConversionError | None
) -> BothStrandsPlan:
    """The plan of a conversion to a model that reads both strands, conjoined or mixed.

    Args:
        model: not touched.
        example: what it is called with.
        settings: how it is converted.
        held: why copies of the model compute with its own weights, if they do: what they write there is undone.

    Returns: the plan, with the problems that stand in the way.
    """
    trained = looks_trained(model)
    plan = BothStrandsPlan(
        type(model).__name__, settings=settings, trained=trained, strategy=settings.strategy, held=held
    )
    before = None if held is None else Snapshot(model)
    try:
        _fill(plan, model, example, settings)
    except ConversionError as problem:
        plan.problems.extend(problem.problems)
    finally:
        if before is not None:
            before.restore()
    return plan


def _fill(plan: BothStrandsPlan, model: nn.Module, example: Example, settings: Settings) -> None:
    """Read the inputs and outputs by running the model; choose the layers that mix; measure the law on a copy."""
    runs = StackedRuns(model, example, (plan.inputs, plan.outputs))
    plan.shapes, plan.architecture = _shapes(model), Architecture.of(model)
    runs.read_inputs(settings.inputs, settings.layout)
    runs.read_outputs(settings.outputs, settings.post_hoc)
    _require_merge(settings.merge, runs)
    plan.reading = _reading(runs, settings.merge, settings.post_hoc)
    plan.warnings += runs.one_sided_outputs()
    if settings.strategy == "mixed":
        plan.mixed, plan.unmixed = layers_to_mix(runs, settings.mix, settings.merge)
        plan.weights = {p: tuple(model.get_submodule(p).weight.shape) for p in plan.mixed}  # type: ignore[union-attr,arg-type]
    if settings.verify:
        _check(plan, runs)


def _reading(runs: StackedRuns, merge: Merge, post_hoc: bool) -> Conjoined:
    return Conjoined(
        positional_names(runs.model),
        by_argument(runs.model, runs.example, runs.stacked),
        runs.outputs,
        merge,
        post_hoc,
        skeleton(runs.example, runs.stacked),
        runs_by_argument(runs.model, runs.example, runs.specs),
        runs.fields,
    )


def _require_merge(merge: Merge, runs: StackedRuns) -> None:
    """Refuse merges that cannot be: the larger of signed readings, the mean of classes."""
    for name, value, action in zip(runs.names, runs.values, runs.outputs, strict=True):
        if action is None:
            continue
        if merge == "max" and any(map(ax.has_sign, action.axes)):
            raise BreaksSymmetryError(
                f"the larger of two readings of output {name}, which changes its sign",
                why="the larger of a and -b does not change its sign when the strands swap",
                do='use merge="mean" or "sum"',
            )
        if merge == "mean" and not (value.is_floating_point() or value.is_complex()):
            raise BreaksSymmetryError(
                f"the mean of two readings of output {name}, of {value.dtype}",
                why="classes and masks have no mean",
                do='return logits or probabilities, or use merge="max" or a function of yours',
            )


def _check(plan: BothStrandsPlan, s: StackedRuns) -> None:
    """Convert a copy, measure how far its outputs moved, and the law."""
    stage("measuring the law")
    converted = plan.install(fresh_copy(s.model))
    change = Change(s.model, converted, s.example, s.specs, s.actions)
    plan.moved = change.moved()
    assert plan.reading is not None

    def allowed(i: int, shape: tuple[int, ...]) -> list[Action]:
        """As the specs state it; an output that belongs to no sample must not change."""
        if s.outputs[i] is None:
            return [Action(tuple(map(ax.trivial, shape)))]
        return allowed_actions(s.wanted, s.outputs, i, shape)

    found = verify(converted, s.example, s.specs, s.actions, allowed, training=not plan.reading.post_hoc, padded=True)
    plan.verification = found
    plan.warnings += noise_notes(found)
    if not found.passed:
        plan.problems.append(_failed(found))
    elif (number := _fails_with(converted, s, allowed, training=not plan.reading.post_hoc)) is not None:
        plan.problems.append(_failed_with(number))
    else:
        plan.warnings += lost_notes(change, s.names, s.outputs)


def _fails_with(converted: nn.Module, s: StackedRuns, allowed: Any, *, training: bool) -> int | None:
    """A number of samples for which forward takes another way, with both strands, on which the law fails."""
    variants = Variants(s.model, s.example, s.actions)
    turns = turns_of_samples(variants, variants.samples if variants.batched else None)
    for number in dict.fromkeys(-(-n // 2) for turn in turns for n in turn.tried):
        variant = variants.with_samples(number)
        with suppress(Exception):  # such as a number that forward does not take in train mode
            found = verify(converted, variant.example, s.specs, [*variant.actions], allowed, 1, training=training)
            if found.error > found.tolerance:
                return number
    return None


def _failed_with(samples: int) -> ConversionError:
    return BreaksSymmetryError(
        f"the law fails with {samples} samples, which are {2 * samples} with both strands",
        why="forward takes another way there, on which one sample's result depends on its place in the batch",
        do="write forward so that it does the same for any number of samples",
    )


def _failed(found: Verification) -> ConversionError:
    return undecided(found) or VerificationError(
        "the merged readings are not equivariant",
        got=str(found),
        why="samples of one batch influence each other by their order, the model draws random numbers, "
        "or the merge treats the two readings differently",
        do="make each sample's result independent of its place in the batch, and the merge symmetric",
    )
