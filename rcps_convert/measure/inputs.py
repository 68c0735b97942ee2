"""TODO."""

from __future__ import annotations

import torch
from torch import Tensor

from ..algebra import axis as ax
from ..algebra.action import Action
from ..algebra.specs import OneHot, Spec


def random_like(spec: Spec, action: Action, example: Tensor, generator: torch.Generator) -> Tensor:
    """A random tensor of the kind a spec describes: one-hot bases, ids, or non-negative numbers.

    Tracks and side inputs are read counts more often than not, and models take logarithms of them.

    Args:
        spec: the spec of the input.
        action: its action on the example.
        example: a tensor whose shape, dtype and device are taken.
        generator: the source of randomness, on the CPU.

    Returns: a tensor like `example`. An invariant integer input is returned as it is: its values are
        keys the model may look up.
    """
    if action.value is not None:
        draw = torch.randint(action.value.size, example.shape, generator=generator)
    elif isinstance(spec, OneHot):
        dim = next(i for i, a in enumerate(action.axes) if not ax.role(a) and a.size == len(spec.alphabet))
        moved = [s for i, s in enumerate(example.shape) if i != dim]
        draw = torch.nn.functional.one_hot(
            torch.randint(len(spec.alphabet), moved, generator=generator), len(spec.alphabet)
        ).movedim(-1, dim)
    elif example.is_floating_point():
        draw = torch.randn(example.shape, generator=generator, dtype=torch.float64).abs()
    else:
        return example
    return draw.contiguous().to(device=example.device, dtype=example.dtype)
