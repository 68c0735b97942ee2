"""Inputs on which the law is measured: random DNA, and the kinds of real input that random DNA never is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..algebra import axis as ax
from ..algebra.action import Action
from ..algebra.specs import Mask, OneHot, Spec, Tokens

KINDS = ("random", "padded", "run", "repeat", "soft", "masked", "blank")
"""What a sample may be: random bases, with all-zero (N) columns, one base throughout, a tandem repeat, probabilities
of bases with a stretch where all are alike (N as a quarter of each), with stretches that are scaled down and set to
zero, or all zero, so that all positions tie."""

AGAIN = "again"
"""The sample before it once more: mirrored alone, it shows what goes over all samples of a batch."""

HIDDEN = 0.25
"""Share of the entries of a mask that are zero."""

SOFT = 2.0
"""Spread of the logits that soft bases come from."""


def random_like(spec: Spec, action: Action, example: Tensor, generator: torch.Generator) -> Tensor:
    """A random tensor of the kind a spec describes: one-hot bases, ids but for padding, masks, or non-negative numbers.

    Tracks and side inputs are read counts more often than not, and models take logarithms of them.

    Args:
        spec: the spec of the input.
        action: its action on the example.
        example: a tensor whose shape, dtype and device are taken.
        generator: the source of randomness, on the CPU.

    Returns: a tensor like `example`, contiguous. An invariant integer input is returned as it is: its values are
        keys the model may look up.
    """
    apart = _apart(action, example)
    if apart is not None:
        return random_like(spec, *apart, generator).reshape(example.shape)
    if spec.parts() != (spec,):
        drawn = [random_like(*part, generator) for part in _blocks(spec, action, example)]
        return torch.cat(drawn, _channels(spec, action))
    if isinstance(spec, Mask):
        draw = torch.rand(example.shape, generator=generator) > HIDDEN
        draw[..., 0] = True  # what reads nothing at all gives no numbers
    elif action.value is not None:
        known = torch.tensor([i for i in range(action.value.size) if i not in pads_of(spec)])
        draw = known[torch.randint(len(known), example.shape, generator=generator)]
    elif isinstance(spec, OneHot):
        dim = _channels(spec, action)
        moved = [s for i, s in enumerate(example.shape) if i != dim]
        draw = torch.nn.functional.one_hot(
            torch.randint(len(spec.alphabet), moved, generator=generator), len(spec.alphabet)
        ).movedim(-1, dim)
    elif example.is_floating_point():
        draw = torch.randn(example.shape, generator=generator, dtype=torch.float64).abs()
    else:
        return example
    return draw.contiguous().to(device=example.device, dtype=example.dtype)


def pads_of(spec: Spec) -> tuple[int, ...]:
    """The ids that fill a row up, where padding stays in its place."""
    runs = spec.runs if isinstance(spec, Tokens) else None
    return () if runs is None else runs.pads


def padded(specs: Sequence[Spec | None], drawn: Sequence[Any], seed: int) -> list[Any]:
    """Input leaves with some rows of ids padded, where padding stays in its place, and masks zero there."""
    found = [*drawn]
    rows = [(i, s) for i, s in enumerate(specs) if isinstance(s, Tokens) and s.runs is not None and drawn[i].dim() == 2]
    for i, spec in rows:
        found[i] = _padded(spec, drawn[i], seed)
    for i, mask in enumerate(found):
        if isinstance(specs[i], Mask):
            hidden = [found[k] == pads_of(spec)[0] for k, spec in rows if found[k].shape == mask.shape]
            found[i] = mask.masked_fill(hidden[0], 0) if hidden else mask
    return found


def _padded(spec: Tokens, x: Tensor, seed: int) -> Tensor:
    """Rows of ids, (N, L): the first of three as it is, the next padded behind, the last before."""
    room = x.shape[1] - 1 - sum(spec.ends)
    if room < 1:
        return x
    generator, at, x = torch.Generator().manual_seed(seed), torch.arange(x.shape[1], device=x.device), x.clone()
    for i, row in enumerate(x):
        count, side = int(torch.randint(1, room + 1, (), generator=generator)), (i + seed) % 3
        filled = [at < 0, at >= x.shape[1] - count, at < count][side]
        row[filled] = pads_of(spec)[0]
    return x


def _channels(spec: Spec, action: Action) -> int:
    """The axis of an input that holds its channels; one of features may have as many entries."""
    wanted = spec.channel()
    able = [i for i, t in enumerate(action.axes) if ax.role(t) is None and t.size > 1]
    return next((i for i in able if wanted is not None and ax.same(action.axes[i], wanted)), able[0])


def _is_mixed(term: ax.Axis) -> bool:
    """Whether an axis holds positions and something else, as the layout ``"n (c l)"`` says."""
    return isinstance(term, ax.Prod) and ax.role(term) is None and any(map(ax.is_length, term.factors))


def _apart(action: Action, example: Tensor) -> tuple[Action, Tensor] | None:
    """An input and its action with bases and positions on axes of their own; None where they are so already."""
    mixed = [i for i, t in enumerate(action.axes) if _is_mixed(t)]
    if not mixed:
        return None
    factors = ax.children(action.axes[mixed[0]])
    axes = [*action.axes[: mixed[0]], *factors, *action.axes[mixed[0] + 1 :]]
    return Action(tuple(axes), action.value), example.reshape([t.size for t in axes])


def _blocks(spec: Spec, action: Action, example: Tensor) -> Iterator[tuple[Spec, Action, Tensor]]:
    """The channels of one kind after the other, each with its spec and its action."""
    dim, start = _channels(spec, action), 0
    for part in spec.parts():
        channel = part.channel() or ax.trivial(0)
        yield part, action.with_axis(dim, channel), example.narrow(dim, start, channel.size)
        start += channel.size


def batch_dim(action: Action) -> int | None:
    """The axis of an input that holds its samples; None if it has none."""
    return next((i for i, t in enumerate(action.axes) if (r := ax.role(t)) is not None and r.name == "batch"), None)


def of_kinds(
    spec: Spec, action: Action, example: Tensor, generator: torch.Generator, kinds: Sequence[str], dtype: torch.dtype
) -> Tensor:
    """A tensor like `random_like`'s, each sample of a kind of its own.

    Args:
        spec, action, example, generator: as in `random_like`.
        kinds: one of `KINDS` or `AGAIN` per sample; an input without a batch axis is of the first kind.
        dtype: of the result where it is of floating point.
    """
    apart = _apart(action, example)
    if apart is not None:
        return of_kinds(spec, *apart, generator, kinds, dtype).reshape(example.shape)
    if spec.parts() != (spec,):
        blocks = [of_kinds(*part, generator, kinds, dtype) for part in _blocks(spec, action, example)]
        return torch.cat(blocks, _channels(spec, action))
    x = random_like(spec, action, example, generator)
    x = x.to(dtype) if x.is_floating_point() else x
    length = next((i for i, t in enumerate(action.axes) if ax.ends(t) is not None), None)
    if length is None or x is example or isinstance(spec, Mask):
        return x
    batch = batch_dim(action)
    samples = [(x, kinds[0])] if batch is None else [(x.select(batch, i), kind) for i, kind in enumerate(kinds)]
    place = length - (batch is not None and batch < length)
    for sample, kind in samples:
        last = sample.movedim(place, -1)  # a view: (..., L)
        if action.value is not None:
            _ids(last, kind, action.value, generator, pads_of(spec))
        elif isinstance(spec, OneHot):
            dim = _channels(spec, action)
            bases = dim - (batch is not None and batch < dim) - (place < dim - (batch is not None and batch < dim))
            _bases(last.movedim(bases, -2), kind, generator)
        else:
            _numbers(last, kind, generator)
    for i, kind in enumerate(kinds):
        if kind == AGAIN and batch is not None:
            samples[i][0].copy_(samples[i - 1][0])
    return x


def turned(kinds: Sequence[str], seed: int) -> Sequence[str]:
    """The kinds of the samples, each moved on by as many samples as the seed says; a sample that comes again stays."""
    by = seed % len(kinds) if AGAIN not in kinds else 0
    return [*kinds[by:], *kinds[:by]]


def _repeated(x: Tensor, period: int) -> None:
    """Make the last axis repeat its first entries."""
    x.copy_(x[..., torch.arange(x.shape[-1], device=x.device) % period].clone())


def _third(length: int, generator: torch.Generator) -> slice:
    """A random stretch of about a third of the positions."""
    size = max(1, length // 3)
    start = int(torch.randint(length - size + 1, (), generator=generator))
    return slice(start, start + size)


def _bases(x: Tensor, kind: str, generator: torch.Generator) -> None:
    """Turn random one-hot bases, (..., A, L), into another kind, in place."""
    length = x.shape[-1]
    if kind == "padded":
        x[..., _third(length, generator)] = 0
        x[..., torch.randint(length, (1 + length // 16,), generator=generator).to(x.device)] = 0
    elif kind == "run":
        _repeated(x, 1)
    elif kind == "repeat":
        _repeated(x, min(length, 2 + int(torch.randint(3, (), generator=generator))))
    elif kind == "soft" and x.is_floating_point():
        logits = torch.randn(x.shape, generator=generator, dtype=torch.float64) * SOFT
        logits[..., _third(length, generator)] = 0  # N as a quarter of each: what ties there but for rounding
        x.copy_(logits.softmax(-2))
    elif kind == "masked" and x.is_floating_point():
        x[..., _third(length, generator)] *= 0.5
        x[..., _third(length, generator)] = 0
    elif kind == "blank":
        x.zero_()


def _ids(x: Tensor, kind: str, table: ax.Axis, generator: torch.Generator, pads: Sequence[int]) -> None:
    """Turn random ids, (..., L), into another kind, in place; ids that are their own partners stand for N."""
    places = torch.arange(table.size)
    own = ((ax.indices(table) == places) & ~torch.isin(places, torch.tensor([*pads]))).nonzero().flatten()
    if kind in ("padded", "masked") and len(own):
        x[..., _third(x.shape[-1], generator)] = own[0 if kind == "padded" else -1].to(x)
    elif kind == "blank" and len(own):
        x.fill_(int(own[0]))
    elif kind == "run":  # of an id that has a partner, where there is one
        first = (~torch.isin(x, own.to(x))).int().argmax(-1, keepdim=True)
        x.copy_(x.gather(-1, first).expand_as(x))
    elif kind == "repeat":
        _repeated(x, min(x.shape[-1], 2 + int(torch.randint(3, (), generator=generator))))


def _numbers(x: Tensor, kind: str, generator: torch.Generator) -> None:
    """Turn random tracks, (..., L), into another kind, in place: whole counts, constants, stretches without reads."""
    ways: dict[str, Callable[[], object]] = {
        "padded": lambda: x[..., _third(x.shape[-1], generator)].zero_(),
        "run": lambda: _repeated(x, 1),
        "repeat": lambda: _repeated(x, min(3, x.shape[-1])),
        "soft": lambda: x.mul_(3).round_(),
        "masked": lambda: x[..., _third(x.shape[-1], generator)].mul_(0.5),
        "blank": x.zero_,
    }
    if kind in ways and x.is_floating_point():
        ways[kind]()


def some_of(samples: int, seed: int = 0) -> Tensor:
    """Which samples of a batch are mirrored alone, (N,); others would be, were the batch read backwards or shifted.

    Args:
        samples: two or more.
        seed: of the choice.
    """
    generator = torch.Generator().manual_seed(seed)
    while True:
        chosen = torch.rand(samples, generator=generator) < 0.5  # all or none are the same when they are shifted
        moved = [chosen.flip(0), *(chosen.roll(k) for k in range(1, samples))]
        if not any(torch.equal(chosen, other) for other in moved):
            return chosen
