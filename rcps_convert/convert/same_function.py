"""Whether forward does with tied weights what it does with plain ones of the same values.

A tied weight is computed: it is a tensor and no `nn.Parameter`, it is no leaf, and its layer has a class of its own.
A forward that asks for any of these may take another way once it is converted, which obeys the law as well.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..algebra.opened import output_leaves
from ..errors import ConversionError
from ..graph.sandbox import fresh_copy, undisturbed_rng
from ..measure.law import relative_change
from ..measure.probe import Probe
from ..tie.attaching import remove, ties
from ..tie.hooks import hook_of
from ..tie.norms import FoldedNorm, needs_statistics, unfold
from ..tie.parts import unwatch

CLEARLY = {torch.float64: 1e-6}
"""Relative change of the outputs that is no rounding; by default `ROUGHLY`."""

ROUGHLY = 1e-2
"""The same in lower precision."""

SEED = 11
"""Of the random bases."""


def other_once_tied(probe: Probe) -> list[ConversionError]:
    """The refusal of a model that computes something else with plain weights of the same values; none of any other.

    Args:
        probe: of the converted model.
    """
    if not ties(probe.model):
        return []
    twin = probe.again(_plain(probe.model))
    ways = [(False, False), (False, True)]  # train mode or not, gradients recorded or not
    ways += [] if any(map(needs_statistics, probe.model.modules())) else [(True, True)]
    changed = max(_change(probe, twin, *way) for way in ways)
    return [_refusal(changed)] if changed > CLEARLY.get(probe.dtype, ROUGHLY) else []


def _plain(converted: nn.Module) -> nn.Module:
    """A copy with plain weights of the same values; all else that was attached stays."""
    twin = fresh_copy(converted)
    unwatch(twin)
    with torch.no_grad():
        for module, leaf, _, _ in ties(twin):
            remove(module, leaf)
    for module in twin.modules():
        if isinstance(hook_of(module), FoldedNorm):
            unfold(module)
    return twin


def _change(probe: Probe, twin: Probe, training: bool, recorded: bool) -> float:
    """How far the outputs of two copies are apart on random bases, relative to their size."""
    drawn, before = probe.inputs(SEED), probe.recorded
    probe.recorded = twin.recorded = recorded
    try:
        with undisturbed_rng():
            ours = _made(probe, drawn, training)
            theirs = None if ours is None else output_leaves(twin.outputs(drawn, training))
    finally:
        probe.recorded = before
    if ours is None or theirs is None:
        return 0.0
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=False) if isinstance(a, Tensor) and a.numel()]
    if len(ours) != len(theirs) or any(a.shape != getattr(b, "shape", None) for a, b in pairs):
        return float("inf")
    return max((relative_change(a.flatten(), b.flatten()) for a, b in pairs), default=0.0)


def _made(probe: Probe, drawn: list[Any], training: bool) -> list[Any] | None:
    """The output leaves; None where the model raises an error of its own, as of a batch of one in train mode."""
    try:
        return output_leaves(probe.outputs(drawn, training))
    except Exception:
        return None


def _refusal(changed: float) -> ConversionError:
    return ConversionError(
        "forward computes something else with tied weights than with plain ones of the same values",
        got=f"outputs that differ by {changed:.1e} of their size",
        why="a tied weight is a computed tensor, no nn.Parameter and no leaf, and its layer's class is a subclass: "
        "forward asks for one of these, as in isinstance(self.w, nn.Parameter) or type(self.conv) is nn.Conv1d",
        do="ask isinstance(self.w, torch.Tensor) or isinstance(self.conv, nn.Conv1d), or keep what decides as an "
        "attribute",
    )
