"""Which axes of a tensor run along the sequence, measured on a model that cannot be traced.

Blocks of the input's positions are drawn anew, one block at a time. An axis runs along the sequence
if its first entries answer to the first blocks, its last entries to the last, and so in between.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..algebra import axis as ax
from ..algebra.action import Action
from .probe import Probe

BLOCKS = 8
"""Blocks the positions are cut into."""

ALONG, STILL = 0.3, 0.2
"""Share of the sequence by which the answers of an axis must move to run along it, and may move at most if not."""

FOLLOWS, FIXED, UNCLEAR = "follows", "fixed", "unclear"
"""What can be said of an axis."""


def following(probe: Probe, read: Callable[[list[Any]], list[Any]], draws: int = 6) -> list[list[str]]:
    """For each tensor, what each of its axes after the first does along the sequence.

    Args:
        probe: a copy of the model with inputs for it.
        read: the tensors to look at, for input leaves; what is no tensor is passed over.
        draws: random sequences.

    Returns: per tensor and axis ``"follows"``, ``"fixed"`` or ``"unclear"``; for the batch axis and
        axes of one entry ``"fixed"``; an empty list for what is no tensor.
    """
    responses: list[list[Tensor]] = []
    for seed in range(draws):
        start, other = probe.inputs(2 * seed), probe.inputs(2 * seed + 1)
        base = read(start)
        moved = [read(_spliced(start, other, probe.actions, block)) for block in range(BLOCKS)]
        found = [_response(y, [m[i] for m in moved]) for i, y in enumerate(base)]
        responses = [a + b for a, b in zip(responses, found, strict=True)] if responses else found
    return [_verdicts(blocks) for blocks in responses]


def one_sided(
    probe: Probe, outputs: Sequence[Action | None], read: Callable[[list[Any]], list[Any]]
) -> list[str | None]:
    """For each output, whether its entries along the sequence answer to one side only.

    Args:
        probe: a copy of the model with inputs for it.
        outputs: the action of each output; None for those that are no matter.
        read: the outputs, for input leaves.

    Returns: per output ``"later"`` if no entry answers to positions after its own and some to positions before,
        ``"earlier"`` the other way round, None for all others.
    """
    found: list[set[str]] = [set() for _ in outputs]
    dims = [_only_length(a) for a in outputs]
    for seed in range(2) if any(d is not None for d in dims) else ():
        start, other = probe.inputs(2 * seed), probe.inputs(2 * seed + 1)
        base = read(start)
        for block in range(2, BLOCKS - 1):
            spliced = start
            for late in range(block, BLOCKS):
                spliced = _spliced(spliced, other, probe.actions, late)
            for heard, dim, y, z in zip(found, dims, base, read(spliced), strict=True):
                if dim is not None and isinstance(y, Tensor) and y.shape == z.shape:
                    heard |= _sides(y, z, dim, block)
            early = start
            for soon in range(block):
                early = _spliced(early, other, probe.actions, soon)
            for heard, dim, y, z in zip(found, dims, base, read(early), strict=True):
                if dim is not None and isinstance(y, Tensor) and y.shape == z.shape:
                    heard |= {"earlier"} if _changes(y, z, dim)[-(-y.shape[dim] * block // BLOCKS) :].any() else set()
    sides = {frozenset({"earlier"}): "later", frozenset({"later"}): "earlier"}
    return [sides.get(frozenset(heard)) for heard in found]


def _only_length(action: Action | None) -> int | None:
    """The one length axis of an output."""
    dims = [d for d, t in enumerate(action.axes) if ax.is_length(t) and t.size >= BLOCKS] if action is not None else []
    return dims[0] if len(dims) == 1 else None


def _sides(y: Tensor, z: Tensor, dim: int, block: int) -> set[str]:
    """Where the positions from a block on were drawn anew: whether an entry before them changed."""
    before = y.shape[dim] * block // BLOCKS
    return {"later"} if _changes(y, z, dim)[:before].any() else set()


def _changes(y: Tensor, z: Tensor, dim: int) -> Tensor:
    """Whether each entry along an axis differs."""
    differs = (y != z) & ~((y != y) & (z != z))
    return differs.movedim(dim, 0).flatten(1).any(1)


def _spliced(start: list[Any], other: list[Any], actions: list[Action | None], block: int) -> list[Any]:
    """The input with one block of positions drawn anew."""
    spliced = []
    for x, y, action in zip(start, other, actions, strict=True):
        for dim, term in enumerate(action.axes if action is not None else ()):
            if ax.is_length(term):
                size = x.shape[dim]
                at = torch.arange(size, device=x.device) * BLOCKS // size == block
                x = torch.where(at.view(-1, *[1] * (x.dim() - dim - 1)), y, x)
        spliced.append(x)
    return spliced


def _response(base: Any, moved: list[Any]) -> list[Tensor]:
    """How much each entry answers to each block, as one tensor in a list; of what is no number, nothing."""
    if not isinstance(base, Tensor) or base.dim() == 0 or not base.numel():
        return []
    return [torch.stack([(m.double() - base.double()).abs() for m in moved])]


def _verdicts(responses: list[Tensor]) -> list[str]:
    if not responses:
        return []
    total = torch.stack(responses).sum(0)
    return [_verdict(total, dim) if dim > 1 and total.shape[dim] > 1 else FIXED for dim in range(1, total.dim())]


def _verdict(total: Tensor, dim: int) -> str:
    """Of one axis of summed responses, shape (BLOCKS, N, ...)."""
    others = [d for d in range(1, total.dim()) if d != dim]
    by_entry = total.sum(others) if others else total
    heard = by_entry.sum(0)
    if not bool((heard > 0).any()):
        return UNCLEAR
    blocks = torch.arange(BLOCKS, dtype=by_entry.dtype, device=by_entry.device)[:, None]
    center = ((blocks * by_entry).sum(0) / heard)[heard > 0] / (BLOCKS - 1)
    quarter = max(1, len(center) // 4)
    drift = float(center[-quarter:].mean() - center[:quarter].mean())
    order = _rank_correlation(center)
    if drift > ALONG and order > 0.9:
        return FOLLOWS
    low, high = torch.quantile(center, torch.tensor([0.1, 0.9], dtype=center.dtype, device=center.device))
    ordered = len(center) >= 8 and order > 0.6  # few entries are in order by chance
    return FIXED if float(high - low) < STILL and not ordered else UNCLEAR


def _rank_correlation(values: Tensor) -> float:
    """Spearman's correlation of values with their place."""
    if len(values) < 2:
        return 0.0
    ranks = values.argsort().argsort().double()
    places = torch.arange(len(values), dtype=torch.float64, device=values.device)
    return float(torch.corrcoef(torch.stack([ranks, places]))[0, 1])
