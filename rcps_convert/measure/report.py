"""Measuring how far any model is from equivariance, as it is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import nn

from ..algebra import axis as ax
from ..algebra.action import Action
from ..algebra.arguments import Example, check_number
from ..algebra.nesting import input_actions, output_specs, read_call
from ..algebra.opened import opened
from ..algebra.printed import Printed, Section
from ..algebra.specs import Spec
from ..errors import ConversionError
from ..graph.export import does_not_run
from ..graph.sandbox import alone
from .inputs import KINDS
from .law import Law
from .probe import Probe

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.float16: 0.02, torch.bfloat16: 0.1}
"""Largest relative deviation taken for rounding, by the precision the model could run in."""

AUTO = "auto"

CAP = {torch.float64: 1e-6, torch.float32: 1e-2, torch.float16: 0.1, torch.bfloat16: 0.3}
"""Largest deviation taken for rounding of a model whose outputs rounding is seen to move as far."""


@dataclass(frozen=True)
class EquivarianceReport:
    """How far a model is from equivariance.

    Attributes:
        errors: per output leaf, the largest deviation of an entry of ``f(rc x)`` from ``rho f(x)``, relative to the
            entry and the middle one (see `deviation.compare`).
        actions: per output leaf, the action it was held to, in words.
        tolerance: the largest deviation taken for rounding.
        dtype: the precision the model ran in.
        held: the model draws random numbers; each draw was held to one number, so this is the law in distribution.
    """

    errors: tuple[float, ...]
    actions: tuple[str, ...]
    tolerance: float
    dtype: torch.dtype
    held: bool = False

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
        found = enumerate(zip(self.errors, self.actions, strict=True))
        return "\n".join([self._title(), *(f"  output {i} as {a}: {e:.1e}" for i, (e, a) in found)])

    def _title(self) -> str:
        word = "equivariant" if self else "NOT equivariant"
        name = str(self.dtype).removeprefix("torch.")
        held = ", random numbers held" if self.held else ""
        return f"{word}: error {self.error:.1e} (tolerance {self.tolerance:.0e}, {name}{held})"

    def _repr_html_(self) -> str:
        """The report in a notebook: the verdict, and a table of the outputs."""
        found = enumerate(zip(self.errors, self.actions, strict=True))
        rows = [(str(i), action, f"{error:.1e}") for i, (error, action) in found]
        return Printed(self._title(), [], [Section("outputs", ("output", "as", "error"), rows)]).html()


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
    with _own_faults():
        probe = Probe(model, example, specs, actions)
        made = opened(probe.outputs(probe.inputs(0)))
    wanted = output_specs(outputs, made)
    law = Law(probe, lambda i, shape: candidate_actions(wanted[i], shape) or [wanted[i].action(shape)])  # type: ignore[union-attr]
    with _own_faults():
        _run(law)
        limit = TOLERANCE[probe.dtype] if tolerance is None else tolerance
        if tolerance is None and limit < law.error() <= CAP[probe.dtype]:
            limit = max(limit, min(CAP[probe.dtype], law.rounding(0, law.own_kinds(0), training=False)))
    found = [law.best(i) for i in sorted(law.actions)]
    words = tuple(str(a) for _, a in found)
    return EquivarianceReport(tuple(e for e, _ in found), words, limit, probe.dtype, probe.held)


@contextmanager
def _own_faults() -> Iterator[None]:
    """What a model's own forward raises is reported as its fault."""
    try:
        yield
    except ConversionError:
        raise
    except Exception as reason:  # a model may raise anything
        raise does_not_run(reason) from reason


def _run(law: Law) -> None:
    """Measure in eval mode, with random numbers held if the model draws any."""
    if law.unsteady(0, law.own_kinds(0, KINDS[:1]), training=False) == "noise":
        law.probe.held = True
    _measure(law)


def _measure(law: Law) -> None:
    """Random bases in the example's batch, then every kind of input in one batch."""
    forward = law.measure(0, law.own_kinds(0, KINDS[:1]))
    law.require_measured()
    law.find_batches(forward)
    rest = [law.all_kinds()] if law.any_batch else [law.own_kinds(i) for i in range(len(KINDS))]
    for seed, kinds in enumerate(rest, 1):
        try:
            law.measure(seed, kinds)
        except ConversionError:
            raise
        except Exception:  # a model may refuse what is no one-hot DNA
            law.measure(seed, KINDS[:1] * len(kinds))


def allowed_actions(
    specs: Sequence[Spec | str], printed: Sequence[Action | None] | None, index: int, shape: tuple[int, ...]
) -> list[Action]:
    """The actions an output may be held to: every reading of its spec; of `"auto"` the one that was printed.

    Args:
        specs: of all outputs.
        printed: what the outputs were said to be, in another size perhaps; None if nothing was said.
        index, shape: of the output.
    """
    spec = specs[index] if index < len(specs) else AUTO
    found = candidate_actions(spec, shape)
    said = printed[index] if printed is not None and index < len(printed) else None
    if isinstance(spec, Spec) or said is None or len(said.axes) != len(shape):
        return found
    if any(ax.ends(t) not in (None, (0, 0)) for t in said.axes):  # special tokens stay at the ends of the axis
        again = said.resized(shape)
        return found if again is None else [again]
    batched = candidate_actions(spec, shape, next((i for i, t in enumerate(said.axes) if _is_batch(t)), 0))
    return [a for a in batched if all(map(_alike, a.axes, said.axes))]


def _is_batch(term: ax.Axis) -> bool:
    role = ax.role(term)
    return role is not None and role.name == "batch"


def _alike(a: ax.Axis, b: ax.Axis) -> bool:
    """Whether two axes are both lengths of more than one entry, or neither is."""
    return a.size == 1 or b.size == 1 or (ax.ends(a) is None) == (ax.ends(b) is None)


def candidate_actions(spec: Spec | str, shape: tuple[int, ...], batch: int = 0) -> list[Action]:
    """The actions an output may be held to when nothing is known but its shape and spec.

    Invariant, a profile reversed along one axis, or a contact map reversed along two of equal length.

    Args:
        spec: of the output, or ``"auto"``.
        shape: of the output.
        batch: the axis that holds samples.
    """
    if isinstance(spec, Spec):
        return spec.actions(shape)
    fixed = Action(tuple(ax.batch(s) if i == batch else ax.trivial(s) for i, s in enumerate(shape)))
    others = [i for i, s in enumerate(shape) if i != batch and s > 1]
    flips = [fixed.with_axis(i, ax.length(shape[i])) for i in others]
    pairs = [(i, j) for i, j in combinations(others, 2) if shape[i] == shape[j]]
    maps = [fixed.with_axis(i, ax.length(shape[i])).with_axis(j, ax.length(shape[j])) for i, j in pairs]
    return [fixed, *flips, *maps]
