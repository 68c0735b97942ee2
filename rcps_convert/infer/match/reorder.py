"""Reordering a model's channels: axes that share a variable are permuted in step, and the function stays as it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ...algebra.action import Action
from ...algebra.axis import Axis, Prod, Sum, Var
from ...graph.sandbox import owner
from .sites import flat_factors, is_direction, standing


@dataclass(frozen=True)
class Copies:
    """An order of a variable's entries for each copy that stands beside another factor.

    Attributes:
        outer: the factor that counts the copies: a variable, or the two directions.
        order: int64, (copies, entries): the old place of each new entry.
    """

    outer: Axis
    order: Tensor

    def counted_by(self, f: Axis) -> bool:
        """Whether a factor is the one that counts the copies."""
        return f is self.outer or (is_direction(self.outer) and is_direction(f))


@dataclass
class Moves:
    """A reordering of the entries of variables.

    Attributes:
        orders: per variable the old place of each new entry.
        copies: per variable that is reordered in each of its copies.
    """

    orders: dict[Var, Tensor] = field(default_factory=dict)
    copies: dict[Var, Copies] = field(default_factory=dict)

    def of(self, variables: Iterable[Var]) -> Moves:
        """The part that moves some variables."""
        kept = set(variables)
        return Moves(
            {v: p for v, p in self.orders.items() if v in kept}, {v: c for v, c in self.copies.items() if v in kept}
        )

    @property
    def variables(self) -> list[Var]:
        """Those that are moved."""
        return [*dict.fromkeys([*self.orders, *self.copies])]


def reorder(model: nn.Module, moves: Moves, carriers: Mapping[str, Action], copy: Mapping[str, int]) -> None:
    """Permute every parameter and buffer that carries a variable, in place.

    Args:
        model: not converted yet.
        moves: the reordering.
        carriers: the actions of parameters and statistics with their variables open, by name.
        copy: of a parameter that belongs to one direction of a recurrence, which.
    """
    for name, action in carriers.items():
        module, leaf = owner(model, name)
        value = getattr(module, leaf)
        if not isinstance(value, Tensor):
            continue
        with torch.no_grad():
            moved = reordered(value.detach(), action, moves, copy.get(name))
            if moved is not None:
                value.copy_(moved)


def reordered(x: Tensor, action: Action, moves: Moves, copy: int | None = None) -> Tensor | None:
    """A tensor with its axes reordered; None where nothing moves.

    Args:
        x: a parameter or buffer.
        action: its action, variables open.
        moves: the reordering.
        copy: the direction it belongs to, if it belongs to one.
    """
    apart = [v for v, c in moves.copies.items() if any(c.outer in list(standing(t)) for t in action.axes)]
    moved = False
    for v in apart:
        where = _across(action, v, moves.copies[v])
        if where is not None:
            x, moved = _by_copy(x, where, moves.copies[v].order), True
    for dim, term in enumerate(action.axes):
        index = axis_order(term, moves, copy)
        if index is not None:
            x, moved = x.index_select(dim, index.to(x.device)), True
    return x if moved else None


def axis_order(term: Axis, moves: Moves, copy: int | None = None) -> Tensor | None:
    """The old place of each new entry of an axis; None where none moves."""
    index = _order(term, moves, copy)
    return None if torch.equal(index, torch.arange(term.size)) else index


def _order(term: Axis, moves: Moves, copy: int | None) -> Tensor:
    if isinstance(term, Var):
        if term in moves.copies and copy is not None and is_direction(moves.copies[term].outer):
            return moves.copies[term].order[copy]
        return moves.orders.get(term, torch.arange(term.size))
    if isinstance(term, Sum):
        found, start = [], 0
        for part in term.parts:
            found.append(_order(part, moves, copy) + start)
            start += part.size
        return torch.cat(found)
    return _product_order(term, moves, copy) if isinstance(term, Prod) else torch.arange(term.size)


def _product_order(term: Prod, moves: Moves, copy: int | None) -> Tensor:
    """The order of a product of factors; an entry beside the factor that counts its copies goes by both."""
    sizes = [f.size for f in term.factors]
    grid = torch.meshgrid(*(torch.arange(s) for s in sizes), indexing="ij")
    old = [_order(f, moves, copy)[at] for f, at in zip(term.factors, grid, strict=True)]
    for i, f in enumerate(term.factors):
        copies = moves.copies.get(f) if isinstance(f, Var) else None
        if copies is None:
            continue
        outer = next((j for j, o in enumerate(term.factors) if copies.counted_by(o)), None)
        if outer is not None:
            old[i] = copies.order[old[outer], grid[i]]
    flat = torch.zeros((), dtype=torch.int64)
    for size, at in zip(sizes, old, strict=True):
        flat = flat * size + at
    return flat.flatten()


def _across(action: Action, v: Var, copies: Copies) -> tuple[int, int] | None:
    """The axes of the copies and of their entries where these are two axes of a tensor, each of nothing else."""
    alone = [i for i, t in enumerate(action.axes) if t is v]
    outer = [i for i, t in enumerate(action.axes) if t is copies.outer]
    beside = any(v in flat_factors(t) and copies.outer in flat_factors(t) for t in action.axes)
    return (outer[0], alone[0]) if len(alone) == len(outer) == 1 and not beside else None


def _by_copy(x: Tensor, where: tuple[int, int], order: Tensor) -> Tensor:
    """Along an axis reordered in another way for each entry of another axis."""
    outer, inner = where
    order = order.to(x.device)
    view = [1] * x.dim()
    view[outer], view[inner] = order.shape
    shaped = order.reshape(view) if outer < inner else order.mT.reshape(view)
    return x.gather(inner, shaped.expand_as(x))
