"""Which axes run along the sequence, and in which direction: the input is replaced block by block, and entries answer.

Blocks of the input's positions are drawn anew, one block at a time. An axis runs along the sequence
if its first entries answer to the first blocks, its last entries to the last, and so in between.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..algebra import axis as ax
from ..algebra.action import Action
from ..algebra.opened import output_leaves
from ..geometry import CallNames
from .lengths import FAR, NEAR, SAMPLES, Survey, Variants
from .probe import Probe
from .runs import Run
from .ways import expected_work, most_work

BLOCKS = 8
"""Blocks the positions are cut into."""

MANY = 8
"""Entries of an axis from which on they are not in order by chance."""

ALONG, ALONG_MANY, STILL = 0.3, 0.1, 0.2
"""Share of the sequence by which the answers of an axis must move to run along it, the same for an axis of many
entries, and the share by which they may move at most if it does not."""

STEADY = 0.6
"""Mean rank correlation over several sets of weights, in order with all of them, of an axis that is not fixed: its
entries answer to much of the sequence each, and move little along it."""

SEVERAL = 3
"""Entries of an axis from which on it is not in order with several sets of weights by chance."""

TIMES = (2, 3, 4, 8, 16)
"""By how much longer an example is tried, whose axes of one entry say nothing."""

SETTLED = 4
"""Other lengths at which no axis of an output has another size, before none is taken to change with the length."""

FOLLOWS, FIXED, UNCLEAR = "follows", "fixed", "unclear"
"""What can be said of an axis."""


# --- the experiment ---------------------------------------------------------------------------------


def replaced(x: Tensor, other: Tensor, dim: int, blocks: Iterable[int]) -> Tensor:
    """A tensor with some blocks of positions taken from another one.

    Args:
        x, other: of one shape.
        dim: the axis of the positions.
        blocks: numbers from 0 to `BLOCKS` - 1.
    """
    size = x.shape[dim]
    block = torch.arange(size, device=x.device) * BLOCKS // size
    taken = torch.isin(block, torch.tensor([*blocks], device=x.device))
    return torch.where(taken.view(-1, *[1] * (x.dim() - dim - 1)), other, x)


def answers(base: Tensor, changed: Sequence[Tensor]) -> Tensor:
    """How far each entry moves with each block, absolute, (BLOCKS, *shape); a result of another shape says nothing."""
    same = [y if isinstance(y, Tensor) and y.shape == base.shape else base for y in changed]
    return torch.stack([(y.double() - base.double()).abs() for y in same])


def verdict(answered: Tensor, dim: int) -> str:
    """What an axis does along the sequence.

    Args:
        answered: how far each entry moves with each block, (BLOCKS, *shape), not negative.
        dim: the axis of the entries.
    """
    center = _centers(answered, dim)
    if center is None:
        return UNCLEAR
    quarter = max(1, len(center) // 4)
    drift = float(center[-quarter:].mean() - center[:quarter].mean())
    order = _rank_correlation(center)
    if drift > (ALONG_MANY if len(center) >= MANY else ALONG) and order > 0.9:
        return FOLLOWS
    low, high = torch.quantile(center, torch.tensor([0.1, 0.9], dtype=center.dtype, device=center.device))
    ordered = len(center) >= MANY and order > 0.6
    return FIXED if float(high - low) < STILL and not ordered else UNCLEAR


def _centers(answered: Tensor, dim: int) -> Tensor | None:
    """Where along the sequence each entry of an axis listens, from 0 to 1; None where nothing answers."""
    heard = answered.movedim(dim + 1, 1).reshape(len(answered), answered.shape[dim + 1], -1).sum(-1)
    total = heard.sum(0)
    if not bool(torch.isfinite(heard).all()) or not bool((total > 0).any()):
        return None
    blocks = torch.arange(BLOCKS, dtype=heard.dtype, device=heard.device)[:, None]
    return ((blocks * heard).sum(0) / total)[total > 0] / (BLOCKS - 1)


def _rank_correlation(values: Tensor) -> float:
    """Spearman's correlation of values with their place."""
    if len(values) < 2:
        return 0.0
    ranks = values.argsort().argsort().double()
    places = torch.arange(len(values), dtype=torch.float64, device=values.device)
    return float(torch.corrcoef(torch.stack([ranks, places]))[0, 1])


# --- of a whole model -------------------------------------------------------------------------------


def following(probe: Probe, read: Callable[[list[Any]], list[Any]], draws: int = 6) -> list[list[str]]:
    """For each tensor, what each of its axes after the first does along the sequence.

    Args:
        probe: a copy of the model with inputs for it. Afterwards it has other weights.
        read: the tensors to look at, for input leaves; what is no tensor is passed over.
        draws: random sequences, each with weights of its own.

    Returns: per tensor and axis ``"follows"``, ``"fixed"`` or ``"unclear"``; for the batch axis and
        axes of one entry ``"fixed"``; an empty list for what is no tensor.
    """
    drawn: list[list[Tensor | None]] = []
    for seed in range(draws):
        if seed:
            probe.perturb(1 + max(probe.perturbed, default=0), anew=True)
        start, other = probe.inputs(2 * seed), probe.inputs(2 * seed + 1)
        base = read(start)
        moved = [read(_spliced(start, other, probe.actions, [block])) for block in range(BLOCKS)]
        drawn.append([_answers(y, [m[i] for m in moved]) for i, y in enumerate(base)])
    return [_verdicts([t for t in found if t is not None]) for found in zip(*drawn, strict=True)]


def _answers(base: Any, moved: list[Any]) -> Tensor | None:
    """As `answers`; None for what is no number."""
    if not isinstance(base, Tensor) or base.dim() == 0 or not base.numel():
        return None
    return answers(base, moved)


def _verdicts(drawn: Sequence[Tensor]) -> list[str]:
    """Per axis, of (BLOCKS, N, ...) for each draw; an axis that is in order with all weights is not fixed."""
    if not drawn:
        return []
    total, shape = torch.stack([*drawn]).sum(0), drawn[0].shape[1:]
    found = [verdict(total, dim) if dim and shape[dim] > 1 else FIXED for dim in range(len(shape))]
    large = [dim >= 1 and n >= SEVERAL for dim, n in enumerate(shape)]
    return [UNCLEAR if v == FIXED and large[d] and _in_order(drawn, d) else v for d, v in enumerate(found)]


def _in_order(drawn: Sequence[Tensor], dim: int) -> bool:
    """Whether the entries of an axis listen in order along the sequence with all weights, a little further each."""
    centers = [c for t in drawn if (c := _centers(t, dim)) is not None and len(c) == t.shape[dim + 1]]
    orders = [_rank_correlation(c) for c in centers]
    return len(orders) > len(drawn) // 2 and min(orders) > 0 and sum(orders) / len(orders) > STEADY


class _AtOtherLengths:
    """A model at other lengths, but for those at which its forward may make very many numbers.

    Args:
        probe: a copy of the model with inputs for it.

    Attributes:
        own: the example's length, in positions.
        shapes: of the outputs at this length; none for what is no tensor.
    """

    def __init__(self, probe: Probe) -> None:
        self.probe, self.variants = probe, Variants(probe.model, probe.example, probe.actions)
        self.own = self.variants.longest
        self.shapes, run = self._of_few_samples() or _shapes_and_run(probe)
        self.survey = Survey(start=run)

    def _of_few_samples(self) -> tuple[list[tuple[int, ...]], Run] | None:
        """As `_shapes_and_run`, with as few samples as other lengths are run with; None where there are no fewer."""
        if not self.variants.batched or self.variants.samples <= SAMPLES:
            return None
        variant = self.variants.with_samples(SAMPLES)
        try:
            return _shapes_and_run(self.probe.at(variant.example, list(variant.actions)))
        except Exception:  # a model may raise anything
            return None

    def at(self, length: int) -> Iterator[tuple[Probe, list[tuple[int, ...]]]]:
        """The model at a length with the shapes of its outputs there; none where that may take long."""
        if not self.own:  # the inputs have no axis that is a length
            return
        work = expected_work(self.survey, self.own, length, 2.0)  # it may make numbers of all pairs of positions
        if work > most_work(self.survey):
            return
        for variant in self.variants.at(length):
            there = self.probe.at(variant.example, list(variant.actions))
            try:
                shapes, run = _shapes_and_run(there)
            except Exception:  # a model may raise anything at a length it was not made for
                continue
            self.survey.accepted.append(replace(variant, run=run))
            yield there, shapes


def _shapes_and_run(probe: Probe) -> tuple[list[tuple[int, ...]], Run]:
    """The shapes of the outputs, none for what is no tensor, and what forward made."""
    with CallNames() as seen:
        made = output_leaves(probe.outputs(probe.inputs(0)), loosely=True)
    shapes = [tuple(y.shape) if isinstance(y, Tensor) else () for y in made]
    return shapes, Run((), frozenset(), tuple(seen.shapes))


def growing(probe: Probe) -> list[frozenset[int]]:
    """For each output, the axes whose size changes with the length of the inputs, as far as other lengths show it."""
    others = _AtOtherLengths(probe)
    shapes, own, settled = others.shapes, others.own, 0
    found = [frozenset[int]() for _ in shapes]
    changes = sorted((*NEAR, *FAR), key=lambda step: (step < 0, -step))
    lengths = dict.fromkeys([*([2 * own] if own < max(changes) else []), *(own + step for step in changes)])
    for _, there in (pair for length in lengths for pair in others.at(length)):
        pairs = zip(shapes, there, strict=False)
        new = [frozenset(d for d, n in enumerate(a) if len(a) == len(b) and n != b[d] and d) for a, b in pairs]
        if len(new) == len(found):
            found, settled = [a | b for a, b in zip(found, new, strict=True)], settled + 1
        if any(found) or settled == SETTLED:
            break
    return found


def lengthened(probe: Probe, index: int, dims: Sequence[int]) -> Probe | None:
    """The same at a longer length, at which some axes of an output have many entries each, or several at least.

    Args:
        probe: a copy of the model with inputs for it.
        index: of the output.
        dims: the axes.

    Returns: None where forward takes no such length, or may make very many numbers there.
    """
    others, found = _AtOtherLengths(probe), None
    lengths = {others.own * k for k in TIMES} | {others.own + step for step in (*NEAR, *FAR) if step > 0}
    for longer, shapes in (pair for length in sorted(lengths) for pair in others.at(length)):
        shape = shapes[index]
        fewest = min((shape[d] for d in dims if d < len(shape)), default=0)
        found = found or (longer if fewest >= SEVERAL else None)
        if fewest >= MANY:
            return longer
    return found


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
            for side, blocks in (("later", range(block, BLOCKS)), ("earlier", range(block))):
                spliced = read(_spliced(start, other, probe.actions, blocks))
                for heard, dim, y, z in zip(found, dims, base, spliced, strict=True):
                    if dim is not None and isinstance(y, Tensor) and y.shape == z.shape:
                        heard |= {side} if _answers_across(y, z, dim, block, side) else set()
    sides = {frozenset({"earlier"}): "later", frozenset({"later"}): "earlier"}
    return [sides.get(frozenset(heard)) for heard in found]


def _only_length(action: Action | None) -> int | None:
    """The one length axis of an output."""
    dims = (
        [d for d, t in enumerate(action.axes) if ax.ends(t) is not None and t.size >= BLOCKS]
        if action is not None
        else []
    )
    return dims[0] if len(dims) == 1 else None


def _answers_across(y: Tensor, z: Tensor, dim: int, block: int, side: str) -> bool:
    """Whether entries on one side of a block's start answer to the positions on the other side of it."""
    differs = ((y != z) & ~((y != y) & (z != z))).movedim(dim, 0).flatten(1).any(1)
    at = y.shape[dim] * block / BLOCKS
    return bool((differs[: math.floor(at)] if side == "later" else differs[math.ceil(at) :]).any())


def _spliced(start: list[Any], other: list[Any], actions: list[Action | None], blocks: Iterable[int]) -> list[Any]:
    """The input with some blocks of positions drawn anew."""
    chosen = [*blocks]
    spliced = []
    for x, y, action in zip(start, other, actions, strict=True):
        for dim, term in enumerate(action.axes if action is not None else ()):
            x = replaced(x, y, dim, chosen) if ax.ends(term) is not None else x
        spliced.append(x)
    return spliced
