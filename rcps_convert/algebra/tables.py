"""Tables of places where they are used: a copy of each on each device, made once."""

from __future__ import annotations

import weakref

import torch
from torch import Tensor, nn

from .._torch import is_recorded

_COPIES: dict[int, tuple[weakref.ref[Tensor], dict[torch.device, Tensor]]] = {}
"""Per table, what tells whether it still lives, and its copies."""


def is_computed(x: Tensor) -> bool:
    """Whether a tensor has values, and no compiler or recorder follows what is done to it."""
    return type(x) in (Tensor, nn.Parameter) and not is_recorded()


def beside(table: Tensor, x: Tensor) -> Tensor:
    """A table on the device of a tensor; copied there once, as a copy makes a GPU wait and breaks a CUDA graph.

    Args:
        table: whole numbers that never change.
        x: the tensor.
    """
    if table.device == x.device:
        return table
    if not (is_computed(x) and is_computed(table)):
        return table.to(x.device)
    held, copies = _COPIES.get(id(table), (None, {}))
    if held is None or held() is not table:
        number, copies = id(table), {}
        _COPIES[number] = weakref.ref(table, lambda _: _COPIES.pop(number, None)), copies
    if x.device not in copies:
        with torch.inference_mode(False):
            copies[x.device] = table.to(x.device)
    return copies[x.device]
