"""TODO."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..algebra import axis as ax
from ..algebra.action import Action
from ..algebra.arguments import Example, check_number
from ..algebra.nesting import input_actions, output_specs, read_call
from ..algebra.specs import Spec
from ..errors import ConversionError
from ..graph.export import does_not_run
from ..graph.sandbox import alone
from .deviation import deviation
from .probe import Probe

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}
"""Largest relative deviation taken for rounding, by the precision the model could run in."""


@dataclass(frozen=True)
class EquivarianceReport:
    """How far a model is from equivariance.

    Attributes:
        errors: per output leaf, the largest ``|f(rc x) - rho f(x)|`` over ``max |f(x)|``.
        actions: per output leaf, the action it was held to, in words.
        tolerance: the largest deviation taken for rounding.
        dtype: the precision the model ran in.
    """

    errors: tuple[float, ...]
    actions: tuple[str, ...]
    tolerance: float
    dtype: torch.dtype

    @property
    def error(self) -> float:
        """The largest error over outputs; infinite if an output is not finite."""
        return max(self.errors, default=0.0)

    @property
    def equivariant(self) -> bool:
        """Whether the error is within the tolerance."""
        return self.error <= self.tolerance

    def __bool__(self) -> bool:
        return self.equivariant

    def __str__(self) -> str:
        word = "equivariant" if self else "NOT equivariant"
        name = str(self.dtype).removeprefix("torch.")
        lines = [f"{word}: error {self.error:.1e} (tolerance {self.tolerance:.0e}, {name})"]
        lines += [
            f"  output {i} as {a}: {e:.1e}" for i, (e, a) in enumerate(zip(self.errors, self.actions, strict=True))
        ]
        return "\n".join(lines)


@alone
def check_equivariance(
    model: nn.Module,
    example: Example,
    *,
    inputs: Any = "ACGT",
    outputs: Any = "auto",
    layout: Any = "auto",
    tolerance: float | None = None,
) -> EquivarianceReport:
    """Measure how far a model, as it is, is from equivariance, in eval mode.

    The model is not traced, so any model can be measured, converted or not. It runs on a copy in
    float64 if it can, else in float32.

    Args:
        model: any model.
        example: what it is called with; only shapes and dtypes matter.
        inputs, outputs, layout: as in `convert_model`. With ``"auto"`` an output is held to the best
            of: invariant, reversed along one axis, or along two of equal length.
        tolerance: largest relative deviation taken for rounding; default 1e-9 in float64, 1e-3 in float32.

    Returns: a report; true in a boolean context if the model is equivariant.

    Raises:
        NeedsChoiceError: the inputs can be read in several ways, or in none.
        TraceError: the model's own forward raises on the example.
        TypeError, ValueError: an argument is not what it takes.

    Source: definition of equivariance in Mallet & Vert, NeurIPS 2021, section 2.
    """
    if tolerance is not None:
        check_number("tolerance", tolerance, 0, math.inf)
    example = read_call(model, example, inputs)
    specs, actions = input_actions(example, inputs, layout)
    try:
        probe = Probe(model, example, specs, actions)
        pairs = [probe.readings(seed) for seed in range(3)]
    except ConversionError:
        raise
    except Exception as reason:  # the model may raise anything
        raise does_not_run(reason) from reason
    wanted = output_specs(outputs, pairs[0][0])
    found = _held_to([_tensors(a) for a, _ in pairs], [_tensors(b) for _, b in pairs], wanted)
    limit = TOLERANCE[probe.dtype] if tolerance is None else tolerance
    return EquivarianceReport(tuple(e for e, _ in found), tuple(str(a) for _, a in found), limit, probe.dtype)


def _tensors(output: Any) -> list[Any]:
    return pytree.tree_leaves(output)


def _held_to(forward: list[list[Any]], reverse: list[list[Any]], specs: list[Spec | str]) -> list[tuple[float, Action]]:
    """Per output leaf, the error and the action it was held to."""
    found = []
    for i, spec in enumerate(specs):
        ys = [draw[i] for draw in forward]
        if not isinstance(ys[0], Tensor):
            continue
        shape = tuple(ys[0].shape)
        candidates = candidate_actions(spec, shape) or [spec.action(shape)]  # type: ignore[union-attr]
        scored = [(max(deviation(r[i], y, a) for r, y in zip(reverse, ys, strict=True)), a) for a in candidates]
        found.append(min(scored, key=lambda s: s[0]))
    return found


def candidate_actions(spec: Spec | str, shape: tuple[int, ...]) -> list[Action]:
    """The actions an output may be held to when nothing is known but its shape and spec.

    Invariant, a profile reversed along one axis, or a contact map reversed along two of equal length.
    """
    if isinstance(spec, Spec):
        return spec.actions(shape)
    fixed = Action(tuple(ax.batch(s) if i == 0 else ax.trivial(s) for i, s in enumerate(shape)))
    flips = [fixed.with_axis(i, ax.length(s)) for i, s in enumerate(shape) if i and s > 1]
    pairs = [(i, j) for i, j in combinations(range(1, len(shape)), 2) if shape[i] == shape[j] > 1]
    maps = [fixed.with_axis(i, ax.length(shape[i])).with_axis(j, ax.length(shape[j])) for i, j in pairs]
    return [fixed, *flips, *maps]
