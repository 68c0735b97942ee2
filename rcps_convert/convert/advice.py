"""What the user should know of a conversion beside the ties: what outputs lose, noise, trained weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..algebra.action import Action
from ..measure.change import Change
from ..measure.gradients import gradients_part
from ..measure.probe import Probe
from ..measure.verification import Verification


def lost_notes(
    change: Change, names: Sequence[str], outputs: Sequence[Action | None], probe: Probe | None = None
) -> list[str]:
    """What the user should know of outputs that say less than before, whatever the weights.

    Args:
        change: of the outputs.
        names, outputs: of each, and what it is.
        probe: of the converted model, with other weights than its own.
    """
    notes = []
    for i, had, has in change.lost(outputs, probe):
        what = (
            f"has {has} independent values where the plain model has {had}"
            if has
            else "no longer depends on the sequence"
        )
        notes.append(
            f"output {names[i]} {what}, whatever the weights: what the outputs are said to be leaves its features no "
            "more; say otherwise what this output or those beside it are, or widen the layer that it reads"
        )
    return notes


def gradient_notes(probe: Probe, outputs: Sequence[Action | None]) -> list[str]:
    """What the user should know of a forward that changes gradients otherwise on one strand than on the other.

    Args:
        probe: of the converted model.
        outputs: what each output is.
    """
    apart = gradients_part(probe, outputs)
    return [
        f"the gradients of the two strands differ by {apart:.1e} of their size, though the outputs agree: a hook that "
        "forward sets on a tensor, or a backward pass of its own, goes by positions, bases or channels; attributions "
        "and what is trained through them depend on the strand, the outputs never do"
    ] * (apart > 0)


def noise_notes(found: Verification) -> list[str]:
    """What the user should know of a model that draws random numbers in eval mode, or mixes samples in train mode."""
    noisy = (
        "forward draws random numbers in eval mode: the law holds in distribution, and was measured with all numbers "
        "of a draw alike; two calls differ by the noise, on one strand as on both"
    )
    shared = (
        "in train mode the samples of a batch influence each other, as statistics over the batch make them: there the "
        "law holds where the whole batch is mirrored, in eval mode for each sample; nn.BatchNorm1d, which keeps its "
        "statistics for both strands, is exact in both modes"
    )
    return [noisy] * found.held + [shared] * found.shared


def looks_trained(model: nn.Module) -> bool:
    """Whether a batch norm has counted batches."""
    counters: list[Any] = [getattr(m, "num_batches_tracked", None) for m in model.modules()]
    return any(isinstance(c, torch.Tensor) and int(c) > 0 for c in counters)
