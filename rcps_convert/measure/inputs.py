"""Inputs on which the law is measured: random DNA, and the kinds of real input that random DNA never is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ..algebra import axis as ax
from ..algebra.action import Action
from ..algebra.specs import OneHot, Spec

KINDS = ("random", "padded", "run", "repeat", "soft", "masked")
"""What a sample may be: random bases, with all-zero (N) columns, one base throughout, a tandem repeat, probabilities
of bases, or with stretches that are scaled down and set to zero."""

SOFT = 2.0
"""Spread of the logits that soft bases come from."""


def random_like(spec: Spec, action: Action, example: Tensor, generator: torch.Generator) -> Tensor:
    """A random tensor of the kind a spec describes: one-hot bases, ids, or non-negative numbers.

    Tracks and side inputs are read counts more often than not, and models take logarithms of them.

    Args:
        spec: the spec of the input.
        action: its action on the example.
        example: a tensor whose shape, dtype and device are taken.
        generator: the source of randomness, on the CPU.

    Returns: a tensor like `example`, contiguous. An invariant integer input is returned as it is: its values are
        keys the model may look up.
    """
    if spec.parts() != (spec,):
        return torch.cat([random_like(*part, generator) for part in _blocks(spec, action, example)], _channels(action))
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


def _channels(action: Action) -> int:
    """The axis of an input that holds its channels."""
    return next(i for i, t in enumerate(action.axes) if ax.role(t) is None and t.size > 1)


def _blocks(spec: Spec, action: Action, example: Tensor) -> Iterator[tuple[Spec, Action, Tensor]]:
    """The channels of one kind after the other, each with its spec and its action."""
    dim, start = _channels(action), 0
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
        kinds: one of `KINDS` per sample; an input without a batch axis is of the first kind.
        dtype: of the result where it is of floating point.
    """
    if spec.parts() != (spec,):
        blocks = [of_kinds(*part, generator, kinds, dtype) for part in _blocks(spec, action, example)]
        return torch.cat(blocks, _channels(action))
    x = random_like(spec, action, example, generator)
    x = x.to(dtype) if x.is_floating_point() else x
    length = next((i for i, t in enumerate(action.axes) if ax.is_length(t)), None)
    if length is None or x is example:
        return x
    batch = batch_dim(action)
    samples = [(x, kinds[0])] if batch is None else [(x.select(batch, i), kind) for i, kind in enumerate(kinds)]
    place = length - (batch is not None and batch < length)
    for sample, kind in samples:
        last = sample.movedim(place, -1)  # a view: (..., L)
        if action.value is not None:
            _ids(last, kind, action.value, generator)
        elif isinstance(spec, OneHot):
            dim = next(i for i, a in enumerate(action.axes) if not ax.role(a) and a.size == len(spec.alphabet))
            bases = dim - (batch is not None and batch < dim) - (place < dim - (batch is not None and batch < dim))
            _bases(last.movedim(bases, -2), kind, generator)
        else:
            _numbers(last, kind, generator)
    return x


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
        x.copy_(logits.softmax(-2))
    elif kind == "masked" and x.is_floating_point():
        x[..., _third(length, generator)] *= 0.5
        x[..., _third(length, generator)] = 0


def _ids(x: Tensor, kind: str, table: ax.Axis, generator: torch.Generator) -> None:
    """Turn random ids, (..., L), into another kind, in place; ids that are their own partners stand for N."""
    own = (ax.indices(table) == torch.arange(table.size)).nonzero().flatten()
    if kind in ("padded", "masked") and len(own):
        x[..., _third(x.shape[-1], generator)] = own[0 if kind == "padded" else -1].to(x)
    elif kind == "run":
        _repeated(x, 1)
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
    }
    if kind in ways and x.is_floating_point():
        ways[kind]()
