"""The normal equations of a linear layer, gathered batch by batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LARGEST = 1024
"""Most inputs of a layer that is refitted: the time grows with their cube."""

RIDGE = 0.01
"""How strongly a weight is held to the one it had, in units of the mean variance of its inputs."""

FEW = 10
"""With so many rows for each input the pull is twice as strong as with very many."""

EXACT = 1e-8
"""Share of the wanted variance below which nothing is left to fit."""


class Normal:
    """Least squares of rows of outputs on rows of inputs, held to a given weight.

    Args:
        inputs, outputs: of the layer.
        parts: number of calls of `add` that will follow.
        biased: whether the layer has a bias.
    """

    def __init__(self, inputs: int, outputs: int, parts: int, biased: bool) -> None:
        self.small = inputs <= LARGEST
        if not self.small:
            return
        self.limit = max(1, max(8192, 16 * inputs) // max(1, parts))
        self.biased, self.count = biased, 0
        self.gram = torch.zeros(inputs, inputs, dtype=torch.float64)
        self.cross = torch.zeros(inputs, outputs, dtype=torch.float64)
        self.sums = (torch.zeros(inputs, dtype=torch.float64), torch.zeros(outputs, dtype=torch.float64))
        self.square = 0.0

    def add(self, given: Tensor, wanted: Tensor) -> None:
        """Take in rows, (rows, inputs) and (rows, outputs); of many a few, spread evenly."""
        step = max(1, len(given) // self.limit)
        x, y = given[::step].double().cpu(), wanted[::step].double().cpu()
        self.count += len(x)
        self.gram += x.mT @ x
        self.cross += x.mT @ y
        self.sums[0].add_(x.sum(0))
        self.sums[1].add_(y.sum(0))
        self.square += float(y.square().sum())

    def solve(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None] | None:
        """The best weight and bias near given ones; None where they fit already, or where inputs are constant.

        Args:
            weight: (outputs, inputs).
            bias: (outputs,).
        """
        w, n = weight.double().cpu(), max(1, self.count)
        x, y = (s / n if self.biased else torch.zeros_like(s) for s in self.sums)
        gram, cross = self.gram / n - x[:, None] * x, self.cross / n - x[:, None] * y
        left, spread = cross - gram @ w.mT, self.square / n - float(y.square().sum())
        missed = spread - float(((cross + left) * w.mT).sum())
        if bias is not None:
            missed += float((y - w @ x - bias.double().cpu()).square().sum())
        pull = RIDGE * (1 + FEW * len(gram) / n) * float(gram.diagonal().mean())
        if missed <= EXACT * spread or not pull > 0 or not bool(gram.isfinite().all() and left.isfinite().all()):
            return None
        change = torch.linalg.solve(gram + pull * torch.eye(len(gram), dtype=torch.float64), left)
        found = w + change.mT
        return found, None if bias is None else y - found @ x


def windows(x: Tensor, weight: Tensor, settings: tuple[Any, ...] | None) -> Tensor:
    """What a layer reads for each of its results, (rows, inputs).

    Args:
        x: its input.
        weight: (outputs, inputs) of a dense layer, (filters, channels, kernel...) of a convolution.
        settings: stride, padding and dilation of a convolution, as far as they are given; None for a dense layer.
    """
    if settings is None:
        return x.flatten(0, -2)
    kernel = list(weight.shape[2:])
    how = dict(zip(("stride", "padding", "dilation"), settings, strict=False))
    stride, padding, dilation = how.get("stride", 1), how.get("padding", 0), how.get("dilation", 1)
    steps, gaps = _each(stride, len(kernel)), _each(dilation, len(kernel))
    x = F.pad(x, _pads(padding, kernel, gaps))
    if len(kernel) == 1:
        x, kernel, steps, gaps = x.unsqueeze(2), [1, *kernel], [1, *steps], [1, *gaps]
    return F.unfold(x, tuple(kernel), dilation=tuple(gaps), stride=tuple(steps)).mT.flatten(0, 1)


def _each(value: Any, axes: int) -> list[int]:
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return values * axes if len(values) == 1 else values


def _pads(padding: Any, kernel: list[int], gaps: list[int]) -> list[int]:
    """Positions on the left and right of each axis, the last axis first, as padding takes them."""
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(gaps, kernel, strict=True)]
        both = [(t // 2, t - t // 2) for t in totals]
    else:
        both = [(p, p) for p in _each(0 if padding == "valid" else padding, len(kernel))]
    return [p for pair in reversed(both) for p in pair]
