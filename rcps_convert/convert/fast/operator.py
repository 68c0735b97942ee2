"""A tied layer as an operator with gradients: each of the three products in the way that was chosen for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..._torch import unseen
from .backends import STOCK, backend
from .product import Product


@dataclass(frozen=True)
class Ways:
    """Names of backends.

    Attributes:
        forward: of the result.
        back: of the gradient of the input.
        weight: of the gradient of the weight.
    """

    forward: str = STOCK
    back: str = STOCK
    weight: str = STOCK

    @property
    def stock(self) -> bool:
        """Whether nothing is computed in another way than the stock operator's."""
        return {self.forward, self.back, self.weight} == {STOCK}

    def words(self) -> str:
        """The names: one where it is the same for all."""
        names = [self.forward, self.back, self.weight]
        return names[0] if len(set(names)) == 1 else ", ".join(names)


class TiedProduct(torch.autograd.Function):
    """A tied convolution or linear layer.

    Its backward pass is differentiated through the stock operators.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None, p: Product, ways: Ways) -> Tensor:  # type: ignore[override]
        """The result."""
        ctx.save_for_backward(x, w)
        ctx.p, ctx.ways = p, ways
        with unseen():
            return backend(ways.forward, p).forward(x, w, b, p)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:  # type: ignore[override]
        """The gradients of input, weight and bias."""
        (x, w), p, needs = ctx.saved_tensors, ctx.p, ctx.needs_input_grad
        ways = Ways() if torch.is_grad_enabled() else ctx.ways  # a gradient that is differentiated again
        with unseen():
            back = backend(ways.back, p).back(x, g, w, p) if needs[0] else None
            weight = backend(ways.weight, p).weight(x, g, w, p) if needs[1] else None
            bias = g.sum(0 if p.linear else (0, 2)) if needs[2] else None
        return back, weight, bias, None, None


def compute(x: Tensor, w: Tensor, b: Tensor | None, p: Product, ways: Ways) -> Tensor:
    """A tied layer's result, with gradients where they are recorded.

    Args:
        x: (N, C, L), or (..., C) for a linear layer.
        w: the whole weight.
        b: the bias, or None.
        p: the product.
        ways: how each part is computed.
    """
    flat = x.reshape(-1, x.shape[-1]) if p.linear else x
    needs = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, w, b))
    if needs:
        y: Tensor = TiedProduct.apply(flat, w, b, p, ways)  # type: ignore[no-untyped-call]
    else:
        with unseen():
            y = backend(ways.forward, p).forward(flat, w, b, p)
    return y.reshape(*x.shape[:-1], y.shape[-1]) if p.linear else y
