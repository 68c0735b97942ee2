"""How reverse complement acts on whole tensors, and the specs users state it with.

An `Action` is one axis term per dimension. `OneHot`, `Tracks`, `Tokens`, `Invariant` and
`Antisymmetric` are the specs behind the strings of the public API; `read_spec` parses a string,
`Spec.action` turns a spec and a shape into an `Action`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._torch import is_recorded, transform_level
from ..errors import ConversionError
from . import axis as ax
from .axis import Axis, Var
from .runs import fitting
from .tables import beside


@dataclass(frozen=True)
class Action:
    """How reverse complement acts on a tensor.

    Attributes:
        axes: one term per dimension.
        value: for integer tensors that name entries of a vocabulary, how the ids are permuted.
    """

    axes: tuple[Axis, ...]
    value: Axis | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Action:
        """The same: nothing about it changes."""
        return self

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

    def replaced(self, known: Callable[[Var], Axis]) -> Action:
        """The action with every unbound variable replaced by what `known` says of it; nothing is bound."""
        value = None if self.value is None else ax.replaced(self.value, known)
        return Action(tuple(ax.replaced(t, known) for t in self.axes), value)

    def resized(self, shape: Sequence[int]) -> Action | None:
        """The action on the same tensor at other lengths or batch sizes; None where more than these differ."""
        if len(shape) != len(self.axes):
            return None
        terms = [ax.resized(t, int(s)) for t, s in zip(self.axes, shape, strict=True)]
        return None if None in terms else Action(tuple(t for t in terms if t is not None), self.value)

    def is_trivial(self) -> bool:
        """Whether the action is known and does nothing."""
        return all(ax.is_trivial(a) for a in self.axes) and (self.value is None or ax.is_trivial(self.value))

    def is_negation(self) -> bool:
        """Whether the action is known and changes the sign of every entry, and nothing else."""
        apart = [_negates(a) for a in map(ax.walk, self.axes)]
        rest = (a for a, negates in zip(self.axes, apart, strict=True) if not negates)
        return sum(apart) % 2 == 1 and all(map(ax.is_trivial, rest)) and self.value is None

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
        self.ended: list[tuple[int, int, int]] = []
        self.tables: list[tuple[int, Tensor, Tensor | None]] = []
        self.fixed: list[int] = []
        self.negative = False
        for dim, term in enumerate(map(ax.walk, action.axes)):
            if ax.is_trivial(term):
                continue
            if _negates(term):
                self.negative = not self.negative
                continue
            ends = ax.ends(term)
            if isinstance(term, ax.Sum) and ends is not None:
                self.ended.append((dim, *ends))
                continue
            if not ax.is_length(term):
                self.fixed.append(dim)
            if isinstance(term, ax.Leaf) and term.perm == "reversed":
                self.flips.append(dim)
                continue
            if ax.is_length(term):
                self.fixed.append(dim)
            self.tables.append((dim, ax.indices(term), ax.signs(term)))
        places = [d for d in self.flips if ax.is_length(action.axes[d])]
        self.along = [*places, *(dim for dim, *_ in self.ended)]
        self.values = None if action.value is None else ax.indices(action.value)

    def __call__(self, x: Tensor, orders: Sequence[Tensor] = (), batch: int = 0) -> Tensor:
        """The tensor under reverse complement; see `act`.

        Args:
            x: the tensor.
            orders: where the entries along a sequence come from in each sample, (N, L): the first that fits an axis.
            batch: the axis of the samples, if there are orders.
        """
        if x.dim() != len(self.sizes):
            raise _other_tensor(x, self.sizes, f"{x.dim()} axes instead of {len(self.sizes)}")
        for dim in self.fixed:
            if x.shape[dim] != self.sizes[dim]:
                at_its_size = self.action.resized(x.shape)
                if at_its_size is not None:
                    return act(at_its_size, x)
                raise _other_tensor(x, self.sizes, f"{x.shape[dim]} entries on axis {dim} instead of {self.sizes[dim]}")
        for dim, table, sign in self.tables:
            x = x.index_select(dim, beside(table, x))
            if sign is not None:
                x = x * sign.to(x).view(-1, *[1] * (x.dim() - dim - 1))
        x, turned = self._by_sample(x, orders, batch) if orders else (x, [])
        flips = [dim for dim in self.flips if dim not in turned]
        x = x.flip(flips) if flips else x
        for dim, before, after in self.ended:
            if dim not in turned:
                x = _turned(x, dim, before, after)
        x = -x if self.negative else x
        if self.values is not None:
            self._require_known(x, len(self.values))
            known = beside(self.values, x)[x.long().clamp(min=0)].to(x.dtype)
            x = torch.where(x < 0, x, known)  # labels below zero are those that a loss passes over
        return x

    def _require_known(self, x: Tensor, count: int) -> None:
        """Refuse numbers of positions that lie beyond the length they are known for; ids of a vocabulary are as given.

        Raises:
            ConversionError: there is one.
        """
        if self.action.value is None or not ax.is_length(self.action.value) or is_recorded() or transform_level():
            return
        largest = int(x.max()) if x.numel() else 0
        if largest >= count:
            raise ConversionError(
                f"position {largest} of a sequence has no mirror image: known for {count} positions",
                got=f"numbers of positions, shape {tuple(x.shape)}",
                why="which position takes the place of which is known for one length only",
                do="call the model with inputs of the length of the example it was converted with",
            )

    def _by_sample(self, x: Tensor, orders: Sequence[Tensor], batch: int) -> tuple[Tensor, list[int]]:
        """The tensor with its lengths reversed within each sample, and which of its axes an order was found for."""
        turned = []
        for dim in self.along:
            order = fitting(orders, x.shape[dim], x.shape[batch])
            if order is not None:
                x = _reordered(x, dim, order, batch)
                turned.append(dim)
        return x, turned


def _turned(x: Tensor, dim: int, before: int, after: int) -> Tensor:
    """A tensor with an axis reversed, but for entries before and after that stay."""
    inner = max(0, x.shape[dim] - before - after)
    first, middle, last = x.split([before, inner, x.shape[dim] - before - inner], dim)
    return torch.cat([first, middle.flip(dim), last], dim)


def _reordered(x: Tensor, dim: int, order: Tensor, batch: int) -> Tensor:
    """A tensor whose entries along an axis come from other places, (N, L), in each sample from its own."""
    sizes = [order.shape[0] if d == batch else s for d, s in enumerate(x.shape)]
    rows = (order if batch < dim else order.T).to(x.device)
    places = rows.reshape([s if d in (batch, dim) else 1 for d, s in enumerate(sizes)])
    return x.expand(sizes).gather(dim, places.expand(sizes))


def covered(action: Action, x: Tensor) -> Tensor:
    """The tensor without the positions that have no partner, where the action has some."""
    for dim, term in enumerate(map(ax.walk, action.axes)):
        if ax.has_edge(term) and x.dim() == len(action.axes):
            before, after = ax.ends(term) or (0, 0)
            x = x.narrow(dim, before, max(0, x.shape[dim] - before - after))
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


def act(action: Action, x: Tensor, orders: Sequence[Tensor] = ()) -> Tensor:
    """The tensor under reverse complement.

    Args:
        action: a known action.
        x: a tensor of the action's rank; a dimension may differ from the action's size when its
            term is trivial or a length (other batch sizes and lengths).
        orders: as of `ActionMap`.

    Returns: a tensor of the shape of x.

    Raises:
        ConversionError: an axis has another size than its action.
        ValueError: an axis is not known yet.
    """
    return ActionMap(action)(x, orders)


# --- specs ------------------------------------------------------------------------------------
