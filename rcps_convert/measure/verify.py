"""The law, measured: ``f(rc x)`` against ``rho f(x)``.

Shares only the action algebra with inference, never the rules, or it would repeat their mistakes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..algebra.action import Action
from ..algebra.arguments import Example
from ..algebra.specs import Spec
from ..errors import ConversionError, VerificationError
from ..graph.sandbox import undisturbed_rng
from .deviation import deviation
from .probe import Probe
from .report import TOLERANCE, _tensors

ROUNDED_CONSTANTS = 1e-6
"""The same in float64 for a model with constants that float32 rounded, which obeys the law only to their rounding."""

VARIED = 1e-12
"""Relative change of the outputs between two inputs above which they depend on the sequence."""


Allowed = Callable[[int, tuple[int, ...]], Sequence[Action | None]] | list[Action | None]
"""Per output leaf its action, or a function from its index and shape to the actions it may have."""


# --- verifying a conversion ---------------------------------------------------------------------


@dataclass(frozen=True)
class Verification:
    """What the check of a converted model found.

    Attributes:
        error: largest relative deviation over draws, modes and outputs.
        tolerance: largest deviation taken for rounding.
        dtype: the precision the check ran in.
        varied: whether the outputs depended on the sequence at all.
        modes: the modes that were run, in words.
    """

    error: float
    tolerance: float
    dtype: torch.dtype
    varied: bool
    modes: str = "train and eval mode"

    @property
    def passed(self) -> bool:
        """Whether the law held, on outputs that depend on the input."""
        return self.error <= self.tolerance and self.varied

    def __str__(self) -> str:
        name = str(self.dtype).removeprefix("torch.")
        return (
            f"error {self.error:.1e} in {name} on randomised parameters, {self.modes} (tolerance {self.tolerance:.0e})"
        )


def undecided(found: Verification) -> VerificationError | None:
    """Why a check says nothing about the law; None where it does."""
    if found.error == float("inf"):
        return VerificationError(
            "the model gives infinite or undefined outputs, so nothing could be verified",
            got=str(found),
            why="it was run on random inputs (one-hot bases, non-negative tracks) with randomised parameters",
            do="look for logarithms, divisions or exponentials that leave their range, or pass verify=False",
        )
    if not found.varied:
        return VerificationError(
            "the outputs do not depend on the sequence, so nothing could be verified",
            why="random sequences gave the same outputs, with three sets of random weights",
            do="check the example's length and values, or pass verify=False to convert unchecked",
        )
    return None


def verify(
    model: nn.Module,
    example: Example,
    specs: list[Spec | None],
    actions: list[Action | None],
    outputs: Allowed,
    draws: int = 3,
    training: bool = True,
    trained: Allowed | None = None,
) -> Verification:
    """Check the law on a perturbed copy, in train and eval mode.

    Args:
        model: a converted model; not touched.
        example: what it is called with.
        specs, actions: per input leaf.
        outputs: per output leaf its action, or a function from its index and shape to the actions
            it may have.
        draws: random parameter sets, each with a random input.
        training: the law holds in train mode too.
        trained: as `outputs`, for a train-mode forward that returns others.
    """
    check = _Check(outputs, outputs if trained is None else trained)
    untrained: Exception | None = None
    with undisturbed_rng():
        probe = Probe(model, example, specs, actions)
        for seed in range(4 * draws):
            if seed >= draws and check.variation > VARIED:
                break  # further draws are only for networks whose activations happened to be dead
            probe.perturb(seed)
            check.add(probe, seed, training=False)
            try:
                if training:
                    check.add(probe, seed, training=True)
            except ConversionError:
                raise
            except (RuntimeError, ValueError) as reason:  # such as batch norm of a single value
                untrained = reason
    modes = "train and eval mode" if training else "eval mode"
    if untrained is not None:
        modes = f"eval mode only (train mode: {str(untrained).splitlines()[0]})"
    return Verification(check.error(), TOLERANCE[probe.dtype], probe.dtype, check.variation > VARIED, modes)


class _Check:
    """Collects errors over draws and modes: per output leaf, the best of the actions it may have."""

    def __init__(self, outputs: Allowed, trained: Allowed) -> None:
        self.outputs, self.trained, self.variation = outputs, trained, 0.0
        self.errors: dict[tuple[bool, int, int], float] = {}

    def add(self, probe: Probe, seed: int, *, training: bool) -> None:
        """One random input in one mode."""
        forward, reverse = (_tensors(o) for o in probe.readings(seed, training))
        other = _tensors(probe.outputs(probe.inputs(seed + 1000), training))
        for i, (y, r, o) in enumerate(zip(forward, reverse, other, strict=True)):
            if not isinstance(y, Tensor):
                continue
            self.variation = max(self.variation, relative_change(y, o))
            held = self.trained if training else self.outputs
            allowed = held(i, tuple(y.shape)) if callable(held) else [held[i]]
            apart = training and self.trained is not self.outputs
            if not allowed:
                self.errors[apart, i, 0] = float("inf")
            for k, action in enumerate(allowed):
                self.errors[apart, i, k] = max(self.errors.get((apart, i, k), 0.0), deviation(r, y, action))

    def error(self) -> float:
        """The largest error over outputs."""
        leaves_ = {(apart, i) for apart, i, _ in self.errors}
        best = (min(e for (*j, _), e in self.errors.items() if tuple(j) == i) for i in leaves_)
        return max(best, default=0.0)


def relative_change(a: Tensor, b: Tensor) -> float:
    """How far two outputs differ, relative to their size."""
    if a.shape != b.shape or not a.numel():
        return 1.0
    scale = float(a.abs().double().max())
    return float((a.double() - b.double()).abs().max()) / scale if scale else 0.0


def moved(
    before: nn.Module, after: nn.Module, example: Example, specs: list[Spec | None], actions: list[Action | None]
) -> float:
    """How far conversion moved the outputs, relative to their size, in eval mode.

    Args:
        before, after: the model and its converted form; not touched.
        example, specs, actions: as in `verify`.
    """
    with undisturbed_rng():
        probes = [Probe(m, example, specs, actions) for m in (before, after)]
        pairs = []
        for seed in range(8):
            drawn = probes[0].inputs(seed)
            old, new = (_tensors(p.outputs([_as(p, x) for x in drawn])) for p in probes)
            pairs.append((old, new))
    by_output = [_together(readings) for readings in zip(*([*zip(o, n, strict=True)] for o, n in pairs), strict=True)]
    return max((relative_change(a, b) for a, b in by_output if a.numel()), default=0.0)


def _together(readings: Sequence[tuple[Any, Any]]) -> tuple[Tensor, Tensor]:
    """One output over several inputs, before and after, end to end."""
    kept = [(a, b) for a, b in readings if isinstance(a, Tensor)]
    if not kept:
        return torch.zeros(0), torch.zeros(0)
    old, new = zip(*kept, strict=True)
    return torch.cat([a.double().flatten() for a in old]), torch.cat([b.double().flatten() for b in new])


def _as(probe: Probe, x: Any) -> Any:
    return x.to(probe.dtype) if isinstance(x, Tensor) and x.is_floating_point() else x
