"""Weights at which an output jumps: beside a jump the law is told exactly, where signs and comparisons hide it.

A sign hides all that does not change it. Between two sets of weights for which an entry of the output differs there
is one at which it jumps, and halving finds it. On either side of it whatever moves the number behind the sign shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ..algebra.opened import output_leaves
from .probe import Probe

HALVINGS = 12
"""Halvings of the way between two sets of weights; what moves a number by less than the last stays hidden."""

IN_SINGLE = 6
"""The same in float32, so that rounding is no cause."""

ENDS = 16
"""Sets of weights that are drawn to find one for which the output differs."""

WAYS = 3
"""Ways between sets of weights on which a jump is looked for."""

LEFT = 1 / 32
"""Share of the change on the whole way that is left on the last piece where something jumps there."""

OF_ALL = 0.25
"""Smallest change on the whole way that an entry is measured by, as a share of the largest entry."""

LOOKED_AT = 2**12
"""Entries per sample that are looked at for steps."""

ALIKE = 1e-9
"""Relative difference below which two numbers are the same value of a step function."""


def has_steps(y: Tensor, dim: int) -> bool:
    """Whether an output has an entry that takes one value or a few over the samples, as a sign does.

    Args:
        y: an output for random samples.
        dim: the axis of the samples.
    """
    if not y.numel():
        return False
    rows = _real(y.movedim(dim, 0).reshape(y.shape[dim], -1)[:, :LOOKED_AT]).sort(0).values
    values = 1 + (rows.diff(dim=0) > ALIKE * rows.abs().amax(0)).sum(0)
    return bool((values <= rows.shape[0] // 2).any())


def _real(y: Tensor) -> Tensor:
    """The numbers of an output as finite ones in float64."""
    return (torch.view_as_real(y) if y.is_complex() else y).double().nan_to_num(0, 0, 0)


def beside_jumps(probe: Probe, drawn: list[Any], index: int, sample: tuple[int, int]) -> Iterator[None]:
    """Set the weights to either side of a jump of an output, one after the other; to none where no jump is found.

    Args:
        probe: the copy of a model whose weights are changed. Afterwards they are drawn anew.
        drawn: the inputs.
        index: the output.
        sample: of which entries: the axis of the samples, and the number of one.
    """

    def entries() -> Tensor:
        return _real(output_leaves(probe.outputs(drawn))[index].select(*sample))

    left = WAYS
    for _ in range(ENDS):
        before = _weights(probe)
        probe.perturb(1 + max(probe.perturbed, default=0), anew=True)
        after = _weights(probe)
        found = _jump(probe, entries, before, after)
        for part in found or ():
            _set(probe, before, after, part)
            yield
        _set(probe, before, after, 1.0)
        left -= found is not None
        if found or not left:
            return


def _jump(probe: Probe, entries: Callable[[], Tensor], before: list[Tensor], after: list[Tensor]) -> list[float] | None:
    """The ends of a short piece of the way on which an entry of an output jumps; none where nothing does.

    Returns: None where the output is the same at both ends.
    """

    def at(part: float) -> Tensor:
        _set(probe, before, after, part)
        return entries()

    left, right = 0.0, 1.0
    low, high = at(left), at(right)
    if low.shape != high.shape:
        return []
    if torch.equal(low, high):
        return None
    whole = (high - low).abs()
    whole = whole.clamp(min=OF_ALL * float(torch.maximum(low.abs(), high.abs()).max()))
    if not low.numel() or not float(whole.min()):
        return []
    for _ in range(HALVINGS if probe.dtype == torch.float64 else IN_SINGLE):
        middle = at((left + right) / 2)
        if middle.shape != low.shape:
            return []
        shares = [float(((a - b).abs() / whole).max()) for a, b in ((low, middle), (middle, high))]
        if shares[0] > shares[1]:
            right, high = (left + right) / 2, middle
        else:
            left, low = (left + right) / 2, middle
    return [left, right] if float(((low - high).abs() / whole).max()) > LEFT else []


def _weights(probe: Probe) -> list[Tensor]:
    return [p.detach().clone() for p in probe.model.parameters()]


def _set(probe: Probe, before: list[Tensor], after: list[Tensor], part: float) -> None:
    """Set the parameters to those at a place on the way."""
    with torch.no_grad():
        for p, a, b in zip(probe.model.parameters(), before, after, strict=True):
            if p.is_floating_point() and part in (0.0, 1.0):
                p.copy_(b if part else a)
            elif p.is_floating_point():
                p.copy_(a + part * (b - a))
