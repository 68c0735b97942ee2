"""Half products in pure torch: columns of mirrored taps, added before they are multiplied, and two small products."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .channels import ChannelPairs, sums, take, unfolded
from .product import Product, from_halves, halves, turned

ENTRIES = 1 << 21
"""Entries of the columns laid out at a time: as many as stay in the last cache."""

POSITIONS = 1024
"""Short samples are joined in one row until they have about as many positions."""


class JoinedSamples:
    """Samples in one row, with zeros between them that serve both neighbours, and its columns of mirrored taps.

    The buffers are filled anew for each group of samples.

    Args:
        like: the batch, (N, C, L).
        p: the product that reads it.
        ones: the columns of half sums end with ones, which a bias multiplies.

    Attributes:
        count: samples of a group.
        width: distance of their starts.
        made: positions made per sample.
    """

    def __init__(self, like: Tensor, p: Product, ones: bool = False) -> None:
        self.p, self.ones, self.length, self.made = p, ones, like.shape[2], p.made(like.shape[2])
        self.width = max(self.length + p.pad, self.made)
        self.count = max(1, min(like.shape[0], POSITIONS // self.width))
        size = self.count * self.width + p.span
        self.s, self.d = like.new_zeros(p.reads.units, size), like.new_zeros(p.reads.pairs, size)
        self.positions = (self.count - 1) * self.width + self.made
        self.tile = min(self.positions, max(64, ENTRIES // max(1, p.plus) // 64 * 64))
        self.rooms = like.new_empty((p.plus + ones) * self.tile), like.new_empty(p.minus * self.tile)

    def groups(self, samples: int) -> Iterator[slice]:
        """The samples of a batch, group by group."""
        yield from (slice(i, min(i + self.count, samples)) for i in range(0, samples, self.count))

    def fill(self, first: Tensor, second: Tensor, fixed: Tensor) -> None:
        """Sums and differences of the channels of a group, each (samples, channels, L)."""
        pairs = first.shape[1]
        s, d = (self.inside(part, self.p.pad, self.length) for part in (self.s, self.d))
        torch.add(first, second, out=s[: len(first), :pairs])
        torch.sub(first, second, out=d[: len(first)])
        s[: len(first), pairs:] = fixed

    def inside(self, row: Tensor, start: int, length: int) -> Tensor:
        """What a row has of each sample, (samples, channels, L)."""
        whole = row[:, : self.count * self.width].unflatten(1, (self.count, self.width))
        return whole[..., start : start + length].transpose(0, 1)

    def columns(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Positions, and the columns read there for half sums and for half differences."""
        for start in range(0, self.positions, self.tile):
            count = min(self.tile, self.positions - start)
            plus, minus = (room[: len(room) // self.tile * count].view(-1, count) for room in self.rooms)
            if self.ones:
                plus[-1] = 1
            self._lay(plus, self.s, self.d, start)
            self._lay(minus, self.d, self.s, start)
            yield slice(start, start + count), plus, minus

    def _lay(self, to: Tensor, even: Tensor, odd: Tensor, start: int) -> None:
        p, count, at = self.p, to.shape[1], 0
        for rows, taps, mix in ((even, p.even, torch.add), (odd, p.odd, torch.sub)):
            for t in range(taps):
                a, b = start + t * p.dilation, start + (p.kernel - 1 - t) * p.dilation
                out = to[at : at + len(rows)]
                if a == b:
                    out.copy_(rows[:, a : a + count])
                else:
                    mix(rows[:, a : a + count], rows[:, b : b + count], out=out)
                at += len(rows)


def _parts(x: Tensor, ch: ChannelPairs) -> tuple[Tensor, Tensor, Tensor]:
    """The channels of a batch: first ones, second ones, fixed ones."""
    return take(x, ch.first, 1), take(x, ch.second, 1), take(x, ch.fixed, 1)


def convolve(x: Tensor, w: Tensor, bias: Tensor | None, p: Product) -> Tensor:
    """A tied convolution.

    Args:
        x: (N, C, L).
        w: the whole weight, (out, in, K).
        bias: (out,), or None.
        p: the product.
    """
    row, (on_plus, on_minus) = JoinedSamples(x, p, bias is not None), halves(w, p)
    if bias is not None:
        on_plus = torch.cat([on_plus, take(bias, p.makes.kept, 0)[:, None]], 1)
    plus, minus = (x.new_empty(len(part), row.count * row.width) for part in (on_plus, on_minus))
    y, pairs = x.new_empty(len(x), p.makes.size, row.made), p.makes.pairs
    parts = _parts(x, p.reads)
    for group in row.groups(len(x)):
        row.fill(*(part[group] for part in parts))
        for at, even, odd in row.columns():
            torch.mm(on_plus, even, out=plus[:, at])
            torch.mm(on_minus, odd, out=minus[:, at])
        mine = y[group]
        u, v = (row.inside(part, 0, row.made)[: len(mine)] for part in (plus, minus))
        torch.add(u[:, :pairs], v, out=mine[:, :pairs])
        torch.sub(u[:, :pairs], v, out=mine[:, pairs : 2 * pairs])
        mine[:, 2 * pairs :] = u[:, pairs:]
    return take(y, p.makes.inverse, 1)


def weight_gradient(x: Tensor, g: Tensor, w: Tensor, p: Product) -> Tensor:
    """The gradient of the weight of a tied convolution.

    Args:
        x: what it read, (N, C, L).
        g: the gradient of its result.
        w: its weight.
        p: the product.
    """
    row = JoinedSamples(x, p)
    plus, minus = (x.new_zeros(n, row.count * row.width) for n in (p.makes.units, p.makes.pairs))
    total_plus, total_minus = x.new_zeros(len(plus), p.plus), x.new_zeros(len(minus), p.minus)
    parts, gradients = _parts(x, p.reads), _parts(g, p.makes)
    u, v = (row.inside(part, 0, row.made) for part in (plus, minus))
    for group in row.groups(len(x)):
        row.fill(*(part[group] for part in parts))
        first, second, fixed = (part[group] for part in gradients)
        torch.add(first, second, out=u[: len(first), : p.makes.pairs])
        torch.sub(first, second, out=v[: len(first)])
        u[: len(first), p.makes.pairs :] = fixed
        if len(first) < row.count:
            u[len(first) :], v[len(first) :] = 0, 0
        for at, even, odd in row.columns():
            total_plus.addmm_(plus[:, at], even.t())
            total_minus.addmm_(minus[:, at], odd.t())
    return from_halves(total_plus, total_minus, w, p)


def convolve_back(x: Tensor, g: Tensor, w: Tensor, p: Product) -> Tensor:
    """The gradient of what a tied convolution reads."""
    return convolve(g, turned(w), None, p.transposed())


# --- linear layers ------------------------------------------------------------------------------


def multiply(x: Tensor, w: Tensor, bias: Tensor | None, p: Product) -> Tensor:
    """A tied linear layer.

    Args:
        x: (M, in).
        w: the whole weight, (out, in).
        bias: (out,), or None.
        p: the product.
    """
    s, d = sums(x, p.reads, 1)
    on_plus, on_minus = halves(w[..., None], p)
    plus, minus = s @ on_plus.t(), d @ on_minus.t()
    if bias is not None:
        plus += take(bias, p.makes.kept, 0)
    return unfolded(plus, minus, p.makes, 1)


def multiply_back(x: Tensor, g: Tensor, w: Tensor, p: Product) -> Tensor:
    """The gradient of what a tied linear layer reads."""
    return multiply(g, w.t(), None, p.transposed())


def linear_weight_gradient(x: Tensor, g: Tensor, w: Tensor, p: Product) -> Tensor:
    """The gradient of the weight of a tied linear layer."""
    (s, d), (plus, minus) = sums(x, p.reads, 1), sums(g, p.makes, 1)
    return from_halves(plus.t() @ s, minus.t() @ d, w[..., None], p)[..., 0]
