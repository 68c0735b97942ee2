"""The plan of a model that reads both strands: conjoined, or mixed.

Nothing of the model is rewritten, so nothing has to be traced: the law is measured on a copy.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..algebra import axis as ax
from ..algebra.action import Action
from ..algebra.arguments import Example
from ..errors import BreaksSymmetryError, ConversionError, VerificationError
from ..graph.sandbox import fresh_copy, positional_names, undisturbed_rng
from ..measure.verify import Verification, moved, undecided, verify
from ..strands.conjoined import Conjoined, Merge, by_argument, conjoin
from ..strands.layers_to_mix import Filter, layers_to_mix
from ..strands.mixed import mix
from ..strands.stacked_runs import StackedRuns, skeleton
from .architecture import Architecture
from .plan import ConversionPlan, looks_trained


@dataclass
class BothStrandsPlan(ConversionPlan):
    """What a conversion to both strands does; printed and applied like any plan.

    Attributes:
        strategy: ``"conjoined"`` or ``"mixed"``.
        reading: how the converted model reads both strands.
        mixed: for each layer that gets a cross-strand weight, how the other strand's input is mapped back.
        weights: shape of each cross-strand weight.
        unmixed: why the other layers of the kind do not mix.
        shapes: of the model's parameters, by name.
    """

    strategy: str = "conjoined"
    reading: Conjoined | None = None
    mixed: dict[str, Action] = field(default_factory=dict)
    weights: dict[str, tuple[int, ...]] = field(default_factory=dict)
    unmixed: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def install(self, target: nn.Module) -> nn.Module:
        """Attach the reading of both strands and the cross-strand weights to a model, in place, unchecked."""
        reading = copy.copy(self.reading)
        assert reading is not None
        conjoin(target, reading)
        for path, action in self.mixed.items():
            mix(target.get_submodule(path), reading, action)
        return target

    @property
    def before(self) -> int:
        """Number of parameters of the model."""
        return sum(torch.Size(s).numel() for s in self.shapes.values())

    @property
    def after(self) -> int:
        """Number of parameters of the converted model."""
        return self.before + sum(torch.Size(s).numel() for s in self.weights.values())

    def _warnings(self) -> list[str]:
        return list(self.notes)

    def _title(self) -> str:
        return f"Conversion plan for {self.model} ({self.strategy}: both strands are read)"

    def _body(self) -> list[str]:
        assert self.reading is not None
        merge = self.reading.merge if isinstance(self.reading.merge, str) else "a function of yours"
        once = "in eval mode; in train mode one strand is read, as before" if self.reading.post_hoc else "per call"
        lines = [
            "x and its reverse complement run as one batch of twice the size, batch norms see both;",
            f"the two readings of each output, the second mapped back, are merged: {merge}",
        ]
        lines += ["", *self._layers()] if self.strategy == "mixed" else []
        extra = ", and as much again for each mixed layer" if self.mixed else ""
        lines += ["", f"cost: two passes {once}{extra}"]
        added = self.after - self.before
        lines.append(
            f"parameters: {self.before:,}"
            + (f" + {added:,} between strands, zero at first" if added else ", untouched")
        )
        if self.moved is not None:
            lines.append(f"outputs move by {self.moved:.2g} x their largest value (from one strand's reading to both)")
        return lines + [f"note: {n}" for n in self.notes]

    def _layers(self) -> list[str]:
        rows = [("layer", "weight between strands", "other strand's input is mapped back by")]
        rows += [(p, str(self.weights[p]), _words(a)) for p, a in self.mixed.items()]
        widths = [max(len(r[i]) for r in rows) for i in range(3)]
        table = ["  " + "  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows]
        return table + [f"  not mixed: {path} ({why})" for path, why in self.unmixed.items()]


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in model.named_parameters()}


def _words(action: Action) -> str:
    turned = [f"axis {d} ({ax.describe(t)})" for d, t in enumerate(action.axes) if not ax.is_trivial(t)]
    return ", ".join(turned) if turned else "nothing to map: no length is left"


def plan_both_strands(
    model: nn.Module,
    example: Example,
    *,
    inputs: Any,
    outputs: Any,
    layout: Any,
    strategy: str,
    merge: Merge,
    post_hoc: bool,
    mix: Filter,
    verify: bool,
) -> BothStrandsPlan:
    """Work out a conjoined or mixed conversion; arguments as in `convert_model`."""
    plan = BothStrandsPlan(type(model).__name__, trained=looks_trained(model), strategy=strategy)
    try:
        with undisturbed_rng():
            runs = StackedRuns(model, example, (plan.inputs, plan.outputs))
            plan.shapes, plan.architecture = _shapes(model), Architecture.of(model)
            runs.read_inputs(inputs, layout)
            runs.read_outputs(outputs, post_hoc)
            _require_merge(merge, runs)
            plan.reading = _reading(runs, merge, post_hoc)
            if strategy == "mixed":
                plan.mixed, plan.unmixed = layers_to_mix(runs, mix, merge)
                plan.weights = {p: tuple(model.get_submodule(p).weight.shape) for p in plan.mixed}  # type: ignore[union-attr,arg-type]
            _check(plan, runs, verify)
    except ConversionError as problem:
        plan.problems.extend(problem.problems)
    return plan


def _reading(runs: StackedRuns, merge: Merge, post_hoc: bool) -> Conjoined:
    return Conjoined(
        positional_names(runs.model),
        by_argument(runs.model, runs.example, runs.stacked),
        runs.outputs,
        merge,
        post_hoc,
        skeleton(runs.example, runs.stacked),
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


def _check(plan: BothStrandsPlan, runs: StackedRuns, wanted: bool) -> None:
    """Convert a copy, measure how far its outputs moved, and the law if wanted."""
    s = runs
    converted = plan.install(fresh_copy(s.model))
    plan.moved = moved(s.model, converted, s.example, s.specs, s.actions)
    if not wanted:
        return
    assert plan.reading is not None
    held = [_unbatched(v) if a is None else a for a, v in zip(s.outputs, s.values, strict=True)]
    found = verify(converted, s.example, s.specs, s.actions, held, training=not plan.reading.post_hoc)
    plan.verification = found
    if not found.passed:
        plan.problems.append(_failed(found))


def _unbatched(value: Any) -> Action | None:
    """The action of an output that belongs to no sample: it must not change."""
    return Action(tuple(map(ax.trivial, value.shape))) if isinstance(value, Tensor) else None


def _failed(found: Verification) -> ConversionError:
    return undecided(found) or VerificationError(
        "the merged readings are not equivariant",
        got=str(found),
        why="samples of one batch influence each other by their order, the model draws random numbers, "
        "or the merge treats the two readings differently",
        do="make each sample's result independent of its place in the batch, and the merge symmetric",
    )
