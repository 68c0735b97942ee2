"""Where open variables stand in a tensor, and the tensor seen as rows of their entries."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ...algebra import axis as ax
from ...algebra.action import Action
from ...algebra.axis import Axis, Leaf, Prod, Sum, Var

DIRECTIONS = Leaf(2, "reversed")
"""A factor that swaps two copies of what stands beside it, such as the directions of a recurrence."""

CONSTANT = 1e-6
"""Share of its mean square below which the variance of an entry is taken for rounding."""

TINY = 1e-300
"""Keeps a division by zero away where the result is not taken."""

LARGEST = 2048
"""Most entries of the variables of one site: its table of similarities is as large squared."""


@dataclass(frozen=True)
class Site:
    """A block of a tensor with its axes as factors, some of which are open.

    Attributes:
        cuts: for each axis where the block starts, and its size there.
        factors: of all axes in order, the outermost of each first.
        keys: the factors that are looked at entry by entry: open variables, and `DIRECTIONS`.
    """

    cuts: tuple[tuple[int, int], ...]
    factors: tuple[Axis, ...]
    keys: tuple[Axis, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of the keys."""
        return tuple(k.size for k in self.keys)

    def rows(self, x: Tensor, limit: int, *, mirrored: bool = False) -> Tensor:
        """The block of a tensor as a table, (rows, entries of the keys).

        Args:
            x: the tensor.
            limit: most rows that are taken; they are spread evenly.
            mirrored: whether every factor that is no key is permuted as reverse complement does it.
        """
        for dim, (start, size) in enumerate(self.cuts):
            x = x.narrow(dim, start, size)
        x = x.reshape([f.size for f in self.factors])
        places = self._places()
        if mirrored:
            for dim, f in enumerate(self.factors):
                if dim not in places:
                    x = _moved(x, dim, f)
        rest = [d for d in range(x.dim()) if d not in places]
        table = x.permute(*rest, *places).reshape(-1, math.prod(self.sizes))
        step = max(1, len(table) // limit)
        return table[::step]

    def _places(self) -> list[int]:
        return [next(i for i, f in enumerate(self.factors) if _same(f, k)) for k in self.keys]


def _same(a: Axis, b: Axis) -> bool:
    return a is b or (a == b == DIRECTIONS and is_direction(a))


def _moved(x: Tensor, dim: int, f: Axis) -> Tensor:
    """A tensor with one axis permuted, and its sign changed, as a known factor says."""
    assert isinstance(f, Leaf)
    if f.perm == "reversed":
        x = x.flip(dim)
    elif f.perm is not None:
        x = x.index_select(dim, ax.indices(f).to(x.device))
    return -x if f.negative else x


def is_direction(f: Axis) -> bool:
    """Whether a factor swaps two copies of what stands beside it, and is no length."""
    return f == DIRECTIONS and ax.role(f) is None


def sites_of(action: Action) -> Iterator[Site]:
    """The sites of a tensor: one for each choice of a block on the axes that have several.

    A block in which a variable stands twice, or inside of a product of sums, is left out, and so are ids.
    """
    if action.value is not None or not any(any(standing(t)) for t in action.axes):
        return
    for blocks in itertools.product(*(list(_blocks(t)) for t in action.axes)):
        factors = [f for _, t in blocks for f in flat_factors(t)]
        free = [f for f in factors if isinstance(f, Var) and f.size > 1]
        if not all(isinstance(f, (Leaf, Var)) for f in factors) or not free or len(set(free)) < len(free):
            continue
        turns = [f for f in factors if is_direction(f)]
        keys = (*turns, *free) if len(turns) == 1 else tuple(free)
        if math.prod(k.size for k in keys) <= LARGEST:
            yield Site(tuple((start, t.size) for start, t in blocks), tuple(factors), keys)


def _blocks(term: Axis) -> Iterator[tuple[int, Axis]]:
    """The blocks of an axis that may be looked at by themselves, with where they start."""
    if not isinstance(term, Sum):
        yield 0, term
        return
    start = 0
    for part in term.parts:
        yield start, part
        start += part.size


def flat_factors(term: Axis) -> tuple[Axis, ...]:
    """The factors of a product; a term that is none is its own."""
    return term.factors if isinstance(term, Prod) else (term,)


def standing(term: Axis) -> Iterator[Var]:
    """The variables of a term, open as they stand, each time they do."""
    if isinstance(term, Var):
        yield term
    for child in term.factors if isinstance(term, Prod) else term.parts if isinstance(term, Sum) else ():
        yield from standing(child)


class Likeness:
    """Correlations between the entries of a site on a strand and on the other one, gathered batch by batch.

    Args:
        size: entries of the site's keys.
    """

    def __init__(self, size: int) -> None:
        self.count = 0
        self.sums = torch.zeros(4, size, dtype=torch.float64)
        self.products = torch.zeros(size, size, dtype=torch.float64)

    def add(self, ours: Tensor, theirs: Tensor) -> None:
        """Take in rows of both strands, (rows, size) each."""
        one, other = ours.float(), theirs.float()
        self.count += len(one)
        sums = torch.stack([one.sum(0), other.sum(0), one.square().sum(0), other.square().sum(0)])
        self.sums += sums.double().cpu()
        self.products += (one.mT @ other).double().cpu()

    def table(self) -> Tensor:
        """How alike an entry on this strand and one on the other are, (size, size): 1 just where they are equal.

        The mean of `correlation` and of the concordance, which asks for the same mean and the same spread too.

        Source: Lin 1989, Biometrics 45, the concordance correlation coefficient.
        """
        shared, mean_a, mean_b, spread_a, spread_b, live = self._moments()
        apart = spread_a[:, None] + spread_b + (mean_a[:, None] - mean_b).square()
        concordance = torch.where(live, 2 * shared / apart.clamp(min=TINY), 0.0)
        return (self.correlation() + concordance) / 2

    def correlation(self) -> Tensor:
        """Correlations of an entry on this strand and one on the other, (size, size); 0 where one is constant."""
        shared, _, _, spread_a, spread_b, live = self._moments()
        return torch.where(live, shared / (spread_a[:, None] * spread_b).clamp(min=TINY).sqrt(), 0.0)

    def _moments(self) -> tuple[Tensor, ...]:
        """Covariances, means and variances of both strands, and where neither entry is constant."""
        mean_a, mean_b, square_a, square_b = self.sums / max(1, self.count)
        spread_a, spread_b = square_a - mean_a.square(), square_b - mean_b.square()
        live = (spread_a > CONSTANT * square_a)[:, None] & (spread_b > CONSTANT * square_b)
        return self.products / max(1, self.count) - mean_a[:, None] * mean_b, mean_a, mean_b, spread_a, spread_b, live
