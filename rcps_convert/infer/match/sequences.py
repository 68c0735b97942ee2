"""The inputs that a matching looks at: sequences as a user gives them, or random DNA of the example's shape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ...algebra.action import Action, act
from ...algebra.arguments import Example, leaves, with_leaves
from ...measure.inputs import batch_dim
from ...measure.probe import Probe
from .evidence import Batch

CHUNK = 256
"""Most samples of one call when a converted model runs on sequences."""


def read_calls(sequences: Any, example: Example, actions: list[Action | None]) -> list[list[Any]]:
    """The input leaves of each call of some sequences.

    Args:
        sequences: one call as the example is one, with any number of samples: a tensor, a tuple or a dict; or an
            iterable of such calls.
        example, actions: what the model is called with, and the action of each of its leaves.

    Raises:
        TypeError: something else.
        ValueError: a call that is not like the example.
    """
    one = isinstance(sequences, (Tensor, tuple, Mapping))
    if not one and (isinstance(sequences, str) or not isinstance(sequences, Iterable)):
        raise TypeError(
            f"sequences= is a {type(sequences).__name__}: give inputs like the example (a tensor, tuple or dict), or a "
            "list of such"
        )
    calls = [leaves(c) if isinstance(c, (Tensor, tuple, Mapping)) else [c] for c in ([sequences] if one else sequences)]
    if not calls:
        raise ValueError("sequences= holds no inputs")
    for call in calls:
        _require_like(call, leaves(example), actions)
    return calls


def _require_like(call: list[Any], wanted: list[Any], actions: list[Action | None]) -> None:
    if len(call) != len(wanted):
        raise ValueError(f"sequences= has {len(call)} inputs in a call, the example {len(wanted)}")
    for x, like, action in zip(call, wanted, actions, strict=True):
        if not isinstance(like, Tensor) or action is None:
            continue
        if not isinstance(x, Tensor):
            raise TypeError(f"sequences= holds a {type(x).__name__} where the example has a tensor")
        dim = batch_dim(action)
        same = x.dim() == like.dim() and all(
            a == b or d == dim for d, (a, b) in enumerate(zip(x.shape, like.shape, strict=True))
        )
        if not same or not x.numel():
            raise ValueError(
                f"sequences= holds a tensor of shape {tuple(x.shape)}, the example has {tuple(like.shape)}: only the "
                "number of samples may differ"
            )


def given_batches(calls: list[list[Any]], probe: Probe) -> Iterator[Batch]:
    """The calls cut into batches as large as the example's; of a last one samples are taken again to fill it."""
    for call in calls:
        size = next((x.shape[d] for x, d in _with_batch(call, probe)), None)
        if size is None or probe.batch is None:
            yield _both(call, probe)
            continue
        for start in range(0, size, probe.batch):
            index = torch.arange(start, start + probe.batch) % size
            yield _both(_taken(call, probe, index), probe)


def random_batches(probe: Probe) -> Iterator[Batch]:
    """Batches of random DNA, without end."""
    seed = 0
    while True:
        yield _both(probe.inputs(seed), probe)
        seed += 1


def whole_calls(calls: list[list[Any]], probe: Probe) -> list[Example]:
    """The calls as a converted model is run on them, large ones in parts of about equal size."""
    found = []
    for call in calls:
        size = next((x.shape[d] for x, d in _with_batch(call, probe)), 1)
        for index in torch.arange(size).tensor_split(-(-size // CHUNK)):
            found.append(with_leaves(probe.example, _taken(call, probe, index)))
    return found


def _with_batch(call: list[Any], probe: Probe) -> Iterator[tuple[Tensor, int]]:
    for x, like, action in zip(call, leaves(probe.example), probe.actions, strict=True):
        dim = None if action is None else batch_dim(action)
        if dim is not None and like.dim() and like.shape[dim] == probe.batch:
            yield x, dim


def _taken(call: list[Any], probe: Probe, index: Tensor) -> list[Any]:
    """Some samples of a call."""
    dims = {id(x): d for x, d in _with_batch(call, probe)}
    return [x.index_select(dims[id(x)], index.to(x.device)) if id(x) in dims else x for x in call]


def _both(call: list[Any], probe: Probe) -> Batch:
    like = leaves(probe.example)
    mine = [
        x.to(t.dtype) if isinstance(x, Tensor) and isinstance(t, Tensor) else x for x, t in zip(call, like, strict=True)
    ]
    return mine, [x if a is None else act(a, x) for x, a in zip(mine, probe.actions, strict=True)]
