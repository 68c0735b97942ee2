"""A tied layer as half products see it, and its weight in the basis of half sums and half differences."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor

from .channels import ChannelPairs, sums, take


@dataclass(frozen=True)
class Product:
    """A convolution of stride 1, or a linear layer, whose weight obeys a tie.

    Attributes:
        reads, makes: its channels.
        kernel: positions of the kernel; 1 for a linear layer.
        dilation, pad: of the convolution, in positions.
        linear: channels are the last axis, as in ``nn.Linear``.
    """

    reads: ChannelPairs
    makes: ChannelPairs
    kernel: int = 1
    dilation: int = 1
    pad: int = 0
    linear: bool = False

    @property
    def span(self) -> int:
        """Positions between the first and the last tap."""
        return self.dilation * (self.kernel - 1)

    @property
    def even(self) -> int:
        """Columns of an even kernel, in which mirrored taps are added."""
        return self.kernel - self.kernel // 2

    @property
    def odd(self) -> int:
        """Columns of an odd kernel, in which mirrored taps are subtracted."""
        return self.kernel // 2

    @property
    def plus(self) -> int:
        """Columns that half sums of the results read."""
        return self.even * self.reads.units + self.odd * self.reads.pairs

    @property
    def minus(self) -> int:
        """Columns that half differences of the results read."""
        return self.even * self.reads.pairs + self.odd * self.reads.units

    def made(self, length: int) -> int:
        """Positions made of that many."""
        return length + 2 * self.pad - self.span

    def transposed(self) -> Product:
        """What computes the gradient of the input from that of the result."""
        return _transposed(self)

    @cached_property
    def _number(self) -> int:
        return hash((self.reads, self.makes, self.kernel, self.dilation, self.pad, self.linear))

    def __hash__(self) -> int:
        return self._number

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def words(self) -> str:
        """In a few words: ``conv 64 to 64, kernel 3``."""
        sizes = f"{self.reads.size} to {self.makes.size}"
        if self.linear:
            return f"linear {sizes}"
        return f"conv {sizes}, kernel {self.kernel}" + (f", dilation {self.dilation}" if self.dilation > 1 else "")


@cache
def _transposed(p: Product) -> Product:
    return Product(p.makes, p.reads, p.kernel, p.dilation, p.span - p.pad, p.linear)


def turned(w: Tensor) -> Tensor:
    """The weight of the transposed product: channels exchanged, taps reversed."""
    return w.transpose(0, 1).flip(2)


def halves(w: Tensor, p: Product) -> tuple[Tensor, Tensor]:
    """The weight in the basis of half sums and half differences.

    With s = a + b and d = a - b of the pairs read, half sums of the results are even kernels on s plus odd kernels
    on d, half differences are even kernels on d plus odd kernels on s.

    Args:
        w: the whole weight, (out, in, K).
        p: the product.

    Returns: for half sums, (units out, `Product.plus`); for half differences, (pairs out, `Product.minus`). Columns are
        ordered by tap, even ones first, then by channel.
    """
    rows = take(w, p.makes.kept, 0)
    if p.kernel == 1:
        plus, minus = _halved_sums(rows, p, 1)
        return plus[..., 0], minus[: p.makes.pairs, :, 0]
    on_sums, on_differences = _halved_sums(rows.permute(2, 1, 0).contiguous(), p, 1)  # mirrored taps are whole blocks
    plus = torch.cat([_even(on_sums, p), _odd(on_differences, p)])
    minus = torch.cat([_even(on_differences, p), _odd(on_sums, p)])[:, : p.makes.pairs]
    return plus.t(), minus.t()


def _halved_sums(w: Tensor, p: Product, dim: int) -> tuple[Tensor, Tensor]:
    """Means of the pairs read and the fixed channels; half differences of the pairs."""
    total, difference = sums(w, p.reads, dim)
    pairs = total.narrow(dim, 0, p.reads.pairs) * 0.5
    fixed = total.narrow(dim, p.reads.pairs, len(p.reads.fixed))
    return (torch.cat([pairs, fixed], dim) if p.reads.fixed else pairs), difference * 0.5


def _even(w: Tensor, p: Product) -> Tensor:
    """Of kernels (K, in, out), what sums of mirrored taps are multiplied by, (even taps x in, out)."""
    return (w[: p.even] + w[p.odd :].flip(0)).mul(0.5).flatten(0, 1)


def _odd(w: Tensor, p: Product) -> Tensor:
    return (w[: p.odd] - w[p.even :].flip(0)).mul(0.5).flatten(0, 1)


def from_halves(plus: Tensor, minus: Tensor, w: Tensor, p: Product) -> Tensor:
    """The chain rule through `halves`: the gradient of the whole weight.

    Args:
        plus, minus: gradients of what `halves` returns.
        w: the weight.
        p: the product.
    """
    with torch.enable_grad():
        whole = torch.zeros_like(w, dtype=plus.dtype).requires_grad_()
        parts = halves(whole, p)
    (found,) = torch.autograd.grad(parts, whole, (plus, minus))
    return found.to(w.dtype)
