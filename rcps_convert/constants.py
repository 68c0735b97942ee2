"""Constants met by the inputs' side of the graph: their own symmetry limits the actions.

A buffer of bin values pins the axis it multiplies; a matrix of distances between positions turns a
length into a length; what is not invariant under the action found is refused, or averaged.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from . import axis as ax
from .action import Action, act
from .axis import Axis
from .errors import BreaksSymmetryError, Where
from .registry import Const


@dataclass
class Pin:
    """A constant met by the inputs' side of the graph: its own symmetry limits the actions."""

    const: Const
    action: Action
    where: Where


def open_action(value: Tensor) -> Action:
    """The action of a constant before anything limits it."""
    return Action(tuple(_open_axis(value, d) for d in range(value.dim())))


def _open_axis(value: Tensor, dim: int) -> Axis:
    """Open; a size-1 axis of values that are not all zero cannot change sign."""
    if value.shape[dim] == 1:
        return ax.trivial(1) if bool(value.any()) else ax.Var(1)
    return ax.Var(value.shape[dim], unsigned=bool(value.any()))


def _uniform(value: Tensor, dim: int) -> bool:
    return value.numel() == 0 or bool((value == value.narrow(dim, 0, 1)).all())


def complete(pin: Pin) -> None:
    """Open axes of a constant that meets a length: a length too, if only that leaves the constant invariant.

    A matrix of distances between positions, contracted with a length, gives a length again.
    """
    terms = [ax.walk(t) for t in pin.action.axes]
    lengths = [t for t in terms if ax.is_length(t) and t.size > 1]
    dims = [d for d, t in enumerate(terms) if ax.free(t) and not _uniform(pin.const.value, d)]
    if not lengths or not dims or len(dims) > 3 or any(ax.free(terms[d]) != [terms[d]] for d in dims):
        return
    for flipped in itertools.product((False, True), repeat=len(dims)):
        trial = list(terms)
        for d, flip in zip(dims, flipped, strict=True):
            trial[d] = _length_like(terms[d].size, lengths) if flip else ax.trivial(terms[d].size)
        if not any(ax.free(t) for t in trial) and _invariant(pin.const.value, Action(tuple(trial))):
            for d in dims:
                ax.unify(terms[d], trial[d])
            return


def _length_like(size: int, lengths: list[Axis]) -> Axis:
    """A length of a size, with the history of one of the same size if there is one."""
    twin = next((t for t in lengths if t.size == size), None)
    return ax.length(size, ax.role(twin) if twin is not None else ax.Role("length", steps=None))


def _invariant(value: Tensor, action: Action) -> bool:
    return torch.allclose(act(action, value.double()), value.double(), rtol=1e-6, atol=1e-12)


def pin(pins: Iterable[Pin]) -> None:
    """Where the entries of a constant differ along an axis that is still open, that axis is fixed."""
    for p in pins:
        for dim, term in enumerate(p.action.axes):
            if ax.free(term) and not _uniform(p.const.value, dim):
                ax.trivialise(term)


def broken(pins: Iterable[Pin]) -> list[tuple[Pin, Action]]:
    """Constants that are not invariant under the action found for them."""
    found = [(p, p.action.walk()) for p in pins]
    return [(p, a) for p, a in found if not a.is_trivial() and not _invariant(p.const.value, a)]


def refusal(p: Pin, action: Action) -> BreaksSymmetryError:
    """The report of a constant that is not invariant."""
    buffer = p.const.buffer
    return BreaksSymmetryError(
        f"the buffer {buffer} is not invariant under reverse complement"
        if buffer
        else "a constant made in forward is not invariant under reverse complement",
        where=p.where,
        got=f"shape {tuple(p.const.value.shape)}, acted on by {action}",
        why="its values differ from their mirror image, and it meets an axis that is reversed or swapped",
        do="make it symmetric or learned"
        + (", or pass symmetrise_buffers=True to average it" if buffer else ", or a registered buffer"),
    )
