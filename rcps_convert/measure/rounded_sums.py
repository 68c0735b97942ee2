"""Rounding of the sums that norms take over samples and positions: it grows with their number.

torch adds the entries of a channel one by one, so that the order in which they come moves a mean by more than the last
places of any parameter do: by six hundred of them for 32,768 entries.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

NORMS = {F.batch_norm: "training", torch.batch_norm: "training", F.instance_norm: "use_input_stats"}
"""Functions that may normalise by sums over positions, and the argument that says so; all have it at one place."""

PLACE = 5
"""The place of that argument."""


class RoundedSums(TorchFunctionMode):
    """Moves what is normalised by sums by as much as the rounding of these may: each channel's factor and offset.

    Args:
        generator: of the random numbers.
        size: of the rounding of one number, relative to it.
    """

    def __init__(self, generator: torch.Generator, size: float) -> None:
        super().__init__()
        self.generator, self.size = generator, size

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        name = NORMS.get(func)
        if name is None or not ((kwargs or {}).get(name) or (len(args) > PLACE and args[PLACE])):
            return found
        return self._moved(found)

    def _moved(self, y: Tensor) -> Tensor:
        """Normalised numbers, (N, C, ...), moved."""
        channels = y.shape[1]
        by = self.size * math.sqrt(max(1, y.numel() // max(1, channels)))
        factor, offset = (
            torch.rand(channels, generator=self.generator, dtype=torch.float64).mul_(2).sub_(1).mul_(by).to(y)
            for _ in range(2)
        )
        shape = [1, channels, *[1] * (y.dim() - 2)]
        return y + y * factor.view(shape) + offset.view(shape)
