"""Which layers of a converted model can be computed as half products, and what each of them multiplies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

import torch
from torch import Tensor, nn

from ..._torch import chains
from ...algebra import axis as ax
from ...graph.parametrized import to_compute_with
from ...strands.mixed import Cross
from ...tie.hooks import hook_of
from ...tie.ties import HalfTie, OrbitTie
from .channels import channels, halves_of
from .product import Product


class ProductView:
    """How a layer's input, weight and result become those of a `Product`, and back: as they are."""

    def weight(self, module: nn.Module) -> Tensor:
        """The whole weight."""
        return to_compute_with(module, "weight")  # type: ignore[no-any-return]

    def bias(self, module: nn.Module) -> Tensor | None:
        """The bias, or None."""
        return to_compute_with(module, "bias")  # type: ignore[no-any-return]

    def before(self, x: Tensor) -> Tensor:
        """What the product reads."""
        return x

    def after(self, y: Tensor) -> Tensor:
        """The layer's result, from the product's."""
        return y


class StackedProductView(ProductView):
    """A mixed layer: W on a strand and V on the other, the other strand's channels beside this one's.

    With u = P x2, both results are ``W x1 + V u`` and ``P (V~ x1 + W~ u)``, where ``~`` reverses the kernel: one tied
    layer of twice the width on half as many samples.

    Args:
        flips: axes along which P turns positions round.
        table: how P permutes the features of a linear layer.
        channel: axis of the channels.
    """

    def __init__(self, flips: Sequence[int], table: Tensor | None, channel: int) -> None:
        self.flips, self.table, self.channel = tuple(flips), table, channel

    def weight(self, module: nn.Module) -> Tensor:
        """``[[W, V], [V~, W~]]``."""
        own: Tensor = module.weight  # type: ignore[assignment]
        cross: Tensor = module.cross_weight  # type: ignore[assignment]
        if self.table is not None:
            cross = cross.index_select(1, self.table.to(cross.device))
        above, below = torch.cat([own, cross], 1), torch.cat([cross, own], 1)
        return torch.cat([above, below.flip(2) if own.dim() == 3 else below])

    def bias(self, module: nn.Module) -> Tensor | None:
        """The bias of both strands."""
        own: Tensor | None = module.bias  # type: ignore[assignment]
        return None if own is None else torch.cat([own, own])

    def before(self, x: Tensor) -> Tensor:
        """The channels of both strands, of half as many samples."""
        ours, theirs = x[::2], x[1::2]
        return torch.cat([ours, theirs.flip(self.flips) if self.flips else theirs], self.channel)

    def after(self, y: Tensor) -> Tensor:
        """Both strands of each sample on the batch axis again."""
        ours, theirs = y.chunk(2, self.channel)
        return torch.stack([ours, theirs.flip(self.flips) if self.flips else theirs], 1).flatten(0, 1)


@dataclass
class Candidate:
    """A layer that can be computed as half products.

    Attributes:
        name: its path.
        module: the layer.
        product: what it multiplies.
        reading: how its input and result become the product's.
    """

    name: str
    module: nn.Module
    product: Product
    reading: ProductView


def candidates(model: nn.Module) -> list[Candidate]:
    """The layers of a model that can be computed as half products, in order."""
    found = []
    for name, module in model.named_modules():
        cross = hook_of(module, Cross)
        if not is_stock(module):
            continue
        if cross is None:
            product, reading = tied_product(module), ProductView()
        else:
            product, reading = mixed_product(module, cross)
        if product is not None:
            found.append(Candidate(name, module, product, reading))
    return found


def is_stock(module: nn.Module) -> bool:
    """Whether a module computes what its stock class does, and half products can: stride 1, no groups, zeros padded."""
    stock = next((cls for cls in (nn.Conv1d, nn.Linear) if isinstance(module, cls)), None)
    own = module.__dict__.get("forward")
    if stock is None or type(module).forward is not stock.forward:
        return False
    if own is not None and getattr(own, "__func__", None) is not stock.forward:  # re-anchored, or the user's
        return False
    return not isinstance(module, nn.Conv1d) or _conv_sizes(module) is not None


def sizes_of(module: nn.Module) -> tuple[object, ...]:
    """What a layer computes with beside its weights; nothing for a linear one."""
    return _SIZES(module) if isinstance(module, nn.Conv1d) else ()


_SIZES = attrgetter("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")


def _conv_sizes(conv: nn.Conv1d) -> tuple[int, int, int] | None:
    """Kernel, dilation and padding of a convolution that half products can compute; None for others."""
    (kernel,), (dilation,), span = conv.kernel_size, conv.dilation, conv.dilation[0] * (conv.kernel_size[0] - 1)
    if conv.stride != (1,) or conv.groups != 1 or conv.padding_mode in ("reflect", "replicate", "circular"):
        return None
    if isinstance(conv.padding, str):
        pad = 0 if conv.padding == "valid" else span // 2
        return None if conv.padding == "same" and span % 2 else (kernel, dilation, pad)
    return (kernel, dilation, conv.padding[0]) if conv.padding[0] <= span else None


def is_tied(module: nn.Module) -> bool:
    """Whether a layer's weight is what one tie makes of what is stored, and nothing else."""
    chain = chains(module).get("weight", ())
    return len(chain) == 1 and isinstance(chain[0], (HalfTie, OrbitTie))


def tied_product(module: nn.Module) -> Product | None:
    """What a tied layer multiplies; None where it has no swapped channels, or is tied in another way."""
    if not is_tied(module):
        return None
    axes = chains(module)["weight"][0].action.axes
    makes, reads = channels(axes[0]), channels(axes[1])
    if makes is None or reads is None or not (reads.pairs or makes.pairs):
        return None
    if module.bias is not None and makes.pairs and "bias" not in chains(module):
        return None
    if isinstance(module, nn.Linear):
        return Product(reads, makes, linear=True)
    sizes = _conv_sizes(module)  # type: ignore[arg-type]
    reversed_kernel = ax.indices(axes[2]).tolist() == [*reversed(range(axes[2].size))]
    return Product(reads, makes, *sizes) if sizes is not None and reversed_kernel else None


def mixed_product(module: nn.Module, cross: Cross) -> tuple[Product | None, ProductView]:
    """What a mixed layer multiplies on both strands, and how it is read; None where P does not fit."""
    linear, mirror = isinstance(module, nn.Linear), cross.mirror
    last = len(mirror.sizes) - 1
    channel = last if linear else 1
    table = None
    if mirror.tables:
        ((dim, table, sign), *more) = mirror.tables
        if more or sign is not None or not linear or dim != last or mirror.flips:
            return None, ProductView()
    fits = cross.batch == 0 and not mirror.negative and channel not in mirror.flips and 0 not in mirror.flips
    fits = fits and not mirror.ended and not cross.reading.runs  # samples of which each is turned round in its own way
    if not fits or len(mirror.sizes) < 2 or (not linear and mirror.flips != [2]):
        return None, ProductView()
    own: Tensor = module.weight  # type: ignore[assignment]
    reads, makes = halves_of(2 * own.shape[1]), halves_of(2 * own.shape[0])
    sizes = (1, 1, 0) if linear else _conv_sizes(module)  # type: ignore[arg-type]
    if sizes is None:
        return None, ProductView()
    return Product(reads, makes, *sizes, linear=linear), StackedProductView(mirror.flips, table, channel)
