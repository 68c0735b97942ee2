"""Symmetrisation at a boundary: a submodule runs on a tensor and on its mirror image.

Used for a read-out behind a nonlinearity (conv -> ReLU -> pool -> output), whose filters would
otherwise be forced to be palindromes: its weights stay untied, and the two results, mapped back, are
averaged.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .action import Action, act
from .hooks import StrandHook, install


class BothStrands(StrandHook):
    """Runs a module on both strands, stacked on the batch axis, and averages the two readings.

    Args:
        input_action: how reverse complement acts on the module's input; axis 0 is the batch.
        output_action: how it is to act on the module's output; axis 0 is the batch.
    """

    def __init__(self, input_action: Action, output_action: Action) -> None:
        self.input_action, self.output_action = input_action.walk(), output_action.walk()

    def before(self, module: nn.Module, x: Tensor) -> Tensor:
        """The tensor and its mirror image, (2N, ...)."""
        return torch.cat([x, act(self.input_action, x)])

    def after(self, module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """The mean of the two readings, the second mapped back, (N, ...)."""
        ours, theirs = y.chunk(2)
        return (ours + act(self.output_action, theirs)) / 2


def symmetrise(module: nn.Module, input_action: Action, output_action: Action) -> None:
    """Attach `BothStrands` to a module, in place."""
    install(module, BothStrands(input_action, output_action))
