"""How reverse complement acts on whole tensors, and the specs users state it with.

An `Action` is one axis term per dimension. `OneHot`, `Tracks`, `Tokens`, `Invariant` and
`Antisymmetric` are the specs behind the strings of the public API; `read_spec` parses a string,
`Spec.action` turns a spec and a shape into an `Action`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ConversionError
from . import axis as ax
from .axis import Axis


@dataclass(frozen=True)
class Action:
    """How reverse complement acts on a tensor.

    Attributes:
        axes: one term per dimension.
        value: for integer tensors that name entries of a vocabulary, how the ids are permuted.
    """

    axes: tuple[Axis, ...]
    value: Axis | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        return tuple(a.size for a in self.axes)

    def walk(self) -> Action:
        """The action with every bound variable replaced."""
        return Action(tuple(ax.walk(a) for a in self.axes), self.value and ax.walk(self.value))

    def with_axis(self, dim: int, term: Axis) -> Action:
        """The action with the term of one dimension replaced."""
        axes = list(self.axes)
        axes[dim] = term
        return Action(tuple(axes), self.value)

    def resized(self, shape: Sequence[int]) -> Action | None:
        """The action on the same tensor at other lengths or batch sizes; None where more than these differ."""
        if len(shape) != len(self.axes):
            return None
        terms = [ax.resized(t, int(s)) for t, s in zip(self.axes, shape, strict=True)]
        return None if None in terms else Action(tuple(t for t in terms if t is not None), self.value)

    def is_trivial(self) -> bool:
        """Whether the action is known and does nothing."""
        return all(ax.is_trivial(a) for a in self.axes) and (self.value is None or ax.is_trivial(self.value))

    def __str__(self) -> str:
        text = f"({', '.join(ax.describe(a) for a in self.axes)})"
        return text + (f" of ids ({ax.describe(self.value)})" if self.value else "")


class ActionMap:
    """A known action made ready to be applied: a forward pass can run it, and be traced through it.

    Args:
        action: known.
    """

    def __init__(self, action: Action) -> None:
        self.action, self.sizes = action, action.shape
        self.flips: list[int] = []
        self.tables: list[tuple[int, Tensor, Tensor | None]] = []
        self.fixed: list[int] = []
        self.edged: list[tuple[int, Axis]] = []
        self.negative = False
        for dim, term in enumerate(map(ax.walk, action.axes)):
            if ax.is_trivial(term):
                continue
            if ax.has_edge(term):
                self.edged.append((dim, term))
                continue
            if _negates(term):
                self.negative = not self.negative
                continue
            if not ax.is_length(term):
                self.fixed.append(dim)
            if isinstance(term, ax.Leaf) and term.perm == "reversed":
                self.flips.append(dim)
                continue
            if ax.is_length(term):
                self.fixed.append(dim)
            self.tables.append((dim, ax.indices(term), ax.signs(term)))
        self.values = None if action.value is None else ax.indices(action.value)

    def __call__(self, x: Tensor) -> Tensor:
        """The tensor under reverse complement; see `act`."""
        if x.dim() != len(self.sizes):
            raise _other_tensor(x, self.sizes, f"{x.dim()} axes instead of {len(self.sizes)}")
        for dim in self.fixed:
            if x.shape[dim] != self.sizes[dim]:
                at_its_size = self.action.resized(x.shape)
                if at_its_size is not None:
                    return act(at_its_size, x)
                raise _other_tensor(x, self.sizes, f"{x.shape[dim]} entries on axis {dim} instead of {self.sizes[dim]}")
        for dim, term in self.edged:
            x = _between_bases(x, dim, term)
        for dim, table, sign in self.tables:
            x = x.index_select(dim, table.to(x.device))
            if sign is not None:
                x = x * sign.to(x).view(-1, *[1] * (x.dim() - dim - 1))
        x = x.flip(self.flips) if self.flips else x
        x = -x if self.negative else x
        if self.values is not None:
            x = self.values.to(x.device)[x.long()].to(x.dtype)
        return x


def _between_bases(x: Tensor, dim: int, term: Axis) -> Tensor:
    """Values between bases turned round along one axis, of any length; those at the edge stay."""
    parts = []
    for (start, size), part in zip(_blocks(x.shape[dim], term), ax.children(term), strict=True):
        block = x.narrow(dim, start, size)
        parts.append(block.flip(dim) if ax.is_length(part) else block)
    return torch.cat(parts, dim)


def _blocks(size: int, term: Axis) -> list[tuple[int, int]]:
    """Start and size of the covered positions and of the edge, in order, at another length."""
    first, last = ax.children(term)
    if ax.is_length(first):
        return [(0, size - last.size), (size - last.size, last.size)]
    return [(0, first.size), (first.size, size - first.size)]


def covered(action: Action, x: Tensor) -> Tensor:
    """The tensor without the positions that have no partner, where the action has some."""
    for dim, term in enumerate(map(ax.walk, action.axes)):
        if ax.has_edge(term) and x.dim() == len(action.axes):
            parts = zip(_blocks(x.shape[dim], term), ax.children(term), strict=True)
            x = next(x.narrow(dim, *block) for block, part in parts if ax.is_length(part))
    return x


def _other_tensor(x: Tensor, sizes: tuple[int, ...], difference: str) -> ConversionError:
    return ConversionError(
        f"a tensor of shape {tuple(x.shape)} has {difference}",
        got=f"shape {tuple(x.shape)}; known for {sizes}",
        why="how reverse complement permutes these entries is known for one shape only",
        do="call the model with inputs of the lengths and channels of the example it was converted with",
    )


def _negates(term: Axis) -> bool:
    """Whether a term changes the sign of every entry and nothing else, whatever its size."""
    if isinstance(term, ax.Leaf):
        return term.size == 1 and term.negative
    if not isinstance(term, ax.Prod) or ax.SIGN not in term.factors:
        return False
    rest = [f for f in term.factors if f != ax.SIGN]
    return all(ax.is_trivial(f) and not ax.has_sign(f) for f in rest)


def act(action: Action, x: Tensor) -> Tensor:
    """The tensor under reverse complement.

    Args:
        action: a known action.
        x: a tensor of the action's rank; a dimension may differ from the action's size when its
            term is trivial or a length (other batch sizes and lengths).

    Returns: a tensor of the shape of x.

    Raises:
        ConversionError: an axis has another size than its action.
        ValueError: an axis is not known yet.
    """
    return ActionMap(action)(x)


# --- specs ------------------------------------------------------------------------------------
