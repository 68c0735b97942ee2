"""The channels of an axis as half products read them: pairs that reverse complement swaps, and fixed ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor

from ...algebra import axis as ax
from ...algebra.axis import Axis

Entries = range | tuple[int, ...]
"""Places on an axis; a range where they are neighbours."""


def entries(places: Sequence[int]) -> Entries:
    """Places on an axis, as a range if they are neighbours in order."""
    start = places[0] if places else 0
    neighbours = range(start, start + len(places))
    return neighbours if [*places] == [*neighbours] else tuple(places)


@dataclass(frozen=True)
class ChannelPairs:
    """Entries of an axis under reverse complement.

    Attributes:
        first, second: of each pair.
        fixed: entries without a partner.
    """

    first: Entries
    second: Entries
    fixed: Entries = range(0)

    @property
    def pairs(self) -> int:
        """Number of pairs."""
        return len(self.first)

    @property
    def units(self) -> int:
        """Number of pairs and fixed entries: what half sums have."""
        return len(self.first) + len(self.fixed)

    @property
    def size(self) -> int:
        """Number of entries."""
        return 2 * len(self.first) + len(self.fixed)

    @cached_property
    def order(self) -> Entries:
        """All entries: first ones, second ones, fixed ones."""
        return entries((*self.first, *self.second, *self.fixed))

    @cached_property
    def inverse(self) -> Entries:
        """Where each entry stands in `order`."""
        places = {entry: i for i, entry in enumerate(self.order)}
        return entries([places[i] for i in range(self.size)])

    @cached_property
    def kept(self) -> Entries:
        """One entry of each pair, and the fixed ones: those of half sums."""
        return entries((*self.first, *self.fixed))

    def __getstate__(self) -> tuple[Entries, Entries, Entries]:
        return self.first, self.second, self.fixed

    def __setstate__(self, state: tuple[Entries, Entries, Entries]) -> None:
        for name, value in zip(("first", "second", "fixed"), state, strict=True):
            object.__setattr__(self, name, value)


def halves_of(size: int) -> ChannelPairs:
    """Two swapped halves.

    Args:
        size: of the axis, even.
    """
    return ChannelPairs(range(size // 2), range(size // 2, size))


def channels(term: Axis) -> ChannelPairs | None:
    """The channels of a known axis; None where reverse complement changes signs."""
    if ax.has_sign(term):
        return None
    table = ax.indices(term).tolist()
    first = [i for i, j in enumerate(table) if i < j]
    fixed = [i for i, j in enumerate(table) if i == j]
    return ChannelPairs(entries(first), entries([table[i] for i in first]), entries(fixed))


def take(x: Tensor, places: Entries, dim: int) -> Tensor:
    """Entries of an axis, as a view where they are neighbours."""
    if isinstance(places, range):
        return x.narrow(dim, places.start, len(places))
    return x.index_select(dim, _index(places, x.device))


@cache
def _index(places: tuple[int, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(places, dtype=torch.int64, device=device)


def sums(x: Tensor, ch: ChannelPairs, dim: int) -> tuple[Tensor, Tensor]:
    """Sums of pairs and the fixed entries; and differences of pairs."""
    a, b = take(x, ch.first, dim), take(x, ch.second, dim)
    total = a + b
    return (torch.cat([total, take(x, ch.fixed, dim)], dim) if ch.fixed else total), a - b


def unfolded(plus: Tensor, minus: Tensor, ch: ChannelPairs, dim: int) -> Tensor:
    """All entries from the half sums of pairs, the fixed entries, and the half differences of pairs."""
    pairs = plus.narrow(dim, 0, ch.pairs)
    parts = [pairs + minus, pairs - minus, *([plus.narrow(dim, ch.pairs, len(ch.fixed))] if ch.fixed else [])]
    return take(torch.cat(parts, dim), ch.inverse, dim)
