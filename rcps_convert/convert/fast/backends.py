"""The ways to compute a tied layer, by name: the stock operator, pure torch, C++, Triton; and where each works."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from . import compiled, fused, pure
from .product import Product

STOCK, TORCH, CPP, TRITON = "stock", "torch", "cpp", "triton"

Forward = Callable[[Tensor, Tensor, Tensor | None, Product], Tensor]
Backward = Callable[[Tensor, Tensor, Tensor, Product], Tensor]


@dataclass(frozen=True)
class Backend:
    """A way to compute a tied layer.

    Attributes:
        forward: of input, whole weight, bias and product.
        back: the gradient of the input, of input, gradient of the result, whole weight and product.
        weight: the gradient of the weight, of the same.
    """

    forward: Forward
    back: Backward
    weight: Backward


def _stock_conv(x: Tensor, w: Tensor, b: Tensor | None, p: Product) -> Tensor:
    return F.conv1d(x, w, b, padding=p.pad, dilation=p.dilation)


def _stock_conv_back(x: Tensor, g: Tensor, w: Tensor, p: Product) -> Tensor:
    return _stock_gradients(x, g, w, p, [True, False, False])[0]


def _stock_conv_weight(x: Tensor, g: Tensor, w: Tensor, p: Product) -> Tensor:
    return _stock_gradients(x, g, w, p, [False, True, False])[1]


def _stock_gradients(x: Tensor, g: Tensor, w: Tensor, p: Product, wanted: list[bool]) -> Sequence[Tensor]:
    """What autograd calls; ``torch.nn.grad`` gives it expanded tensors in the place of real ones, which is slow."""
    backward = torch.ops.aten.convolution_backward
    return backward(g, x, w, None, [1], [p.pad], [p.dilation], False, [0], 1, wanted)  # type: ignore[no-any-return]


def _stock_linear(x: Tensor, w: Tensor, b: Tensor | None, p: Product) -> Tensor:
    return F.linear(x, w, b)


CONVOLUTIONS = {
    STOCK: Backend(_stock_conv, _stock_conv_back, _stock_conv_weight),
    TORCH: Backend(pure.convolve, pure.convolve_back, pure.weight_gradient),
    CPP: Backend(compiled.convolve, compiled.convolve_back, compiled.weight_gradient),
    TRITON: Backend(fused.compute, fused.back, fused.weight_gradient),
}

LINEAR = {
    STOCK: Backend(_stock_linear, lambda x, g, w, p: g @ w, lambda x, g, w, p: g.t() @ x),
    TORCH: Backend(pure.multiply, pure.multiply_back, pure.linear_weight_gradient),
}


def backend(name: str, p: Product) -> Backend:
    """The way to compute a product that has a name."""
    return (LINEAR if p.linear else CONVOLUTIONS)[name]


def usable(p: Product, dtype: torch.dtype, device: torch.device) -> list[str]:
    """The ways in which a product can be computed as two half products, the fastest as a rule first."""
    if not dtype.is_floating_point:
        return []
    if p.linear:
        return [TORCH]
    if device.type == "cpu" and dtype in compiled.DTYPES and compiled.library() is not None:
        return [CPP, TORCH]
    return [TRITON, TORCH] if dtype in fused.DTYPES and not fused.why_not(device) else [TORCH]
