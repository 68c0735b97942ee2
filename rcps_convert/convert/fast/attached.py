"""The forward of an accelerated layer, set on the layer itself: class, parameters, keys and hooks stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..._torch import forward_gradients, hook_tables, is_recorded, transform_level
from ...geometry import AroundForward, drop_around, place_around
from ...strands.conjoined import this_thread
from ...strands.mixed import Cross
from ...tie.hooks import After, Before, hook_of
from .backends import STOCK, usable
from .layers import Candidate, ProductView, StackedProductView, is_tied, sizes_of
from .operator import Ways, compute
from .product import Product


@dataclass(frozen=True)
class Choice:
    """How a layer is computed, on tensors of one kind.

    Attributes:
        product: what it multiplies.
        reading: how its input and result become the product's.
        ways: how each part is computed.
        dtype: of the tensors; None for any, where nothing was chosen by time.
        device: of the tensors. On others the stock operator runs.
    """

    product: Product
    reading: ProductView
    ways: Ways
    dtype: torch.dtype | None
    device: str


class Accelerated(AroundForward):
    """The forward of a layer that is computed as half products.

    It is the layer's own forward wherever half products were not chosen or are not shown to be right: in a compiler,
    under a transform of ``torch.func``, for tensors of another kind, where the weight is no longer tied, and where the
    layer's stride, padding or the like was changed.

    Args:
        module: the layer; a deep copy of it holds a copy of this, bound to the copy.
        choice: how it is computed.

    Attributes:
        idle: it is the layer's own forward for a while.
    """

    def __init__(self, module: nn.Module, choice: Choice) -> None:
        self.module, self.choice = module, choice
        self.before: Any = module.__dict__.get("forward")
        self.here: dict[torch.dtype, Ways] = {}
        self.idle = False
        self.sizes = sizes_of(module)

    def __getstate__(self) -> dict[str, Any]:
        """Another process may have no compiler."""
        return {**vars(self), "here": {}}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The layer's result."""
        if self.idle or is_recorded():
            return self._own(*args, **kwargs)
        x: Any = args[0] if len(args) == 1 else kwargs.get("input")
        if len(args) + len(kwargs) != 1 or not self._fits(x):
            return self._own(*args, **kwargs)
        return self._compute(x)

    def _fits(self, x: Any) -> bool:
        """Whether a call is one that half products may compute."""
        if type(x) not in (Tensor, nn.Parameter) or x.device.type != self.choice.device:
            return False
        if (x.dim() != 3 and not (self.choice.product.linear and x.dim() > 1)) or not x.numel():
            return False
        if self.choice.dtype not in (None, computed_in(x)) or transform_level() is not None or forward_gradients():
            return False
        if self.sizes != sizes_of(self.module) or is_stacked(self.choice.reading) != (self._cross() is not None):
            return False
        if not is_stacked(self.choice.reading):
            return is_tied(self.module)
        return x.shape[0] % 2 == 0

    def _cross(self) -> FasterCross | None:
        return hook_of(self.module, FasterCross)  # type: ignore[no-any-return]

    def _compute(self, x: Tensor) -> Tensor:
        reading, dtype = self.choice.reading, computed_in(x)
        w, b = reading.weight(self.module), reading.bias(self.module)
        recorded = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, w, b))
        ways = self.ways(dtype)
        idle = ways.stock if recorded else ways.forward == STOCK
        if idle or type(w) not in (Tensor, nn.Parameter) or (x.dtype == dtype != w.dtype):
            return self._own(x)  # type: ignore[no-any-return]
        x, w, b = x.to(dtype), w.to(dtype), None if b is None else b.to(dtype)
        y = reading.after(compute(reading.before(x), w, b, self.choice.product, ways))
        cross = self._cross()
        if cross is not None:
            cross.done.add(this_thread())
        return y

    def ways(self, dtype: torch.dtype) -> Ways:
        """How the layer is computed in this process: one without a compiler may have loaded it."""
        if dtype not in self.here:
            choice = self.choice
            known = {STOCK, *usable(choice.product, dtype, torch.device(choice.device))}
            parts = (choice.ways.forward, choice.ways.back, choice.ways.weight)
            self.here[dtype] = Ways(*(name if name in known else STOCK for name in parts))
        return self.here[dtype]

    def made_for(self, module: nn.Module) -> Accelerated:
        """The same around the forward of another module."""
        made = Accelerated(module, self.choice)
        made.sizes = self.sizes
        return made


def is_stacked(reading: ProductView) -> bool:
    """Whether a layer reads both strands."""
    return isinstance(reading, StackedProductView)


def computed_in(x: Tensor) -> torch.dtype:
    """The type a stock convolution or linear layer computes in: autocast's, where that is on."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


# --- mixed layers -------------------------------------------------------------------------------


class FasterCross(Cross):
    """The hook of a mixed layer whose forward may have read both strands already.

    Args:
        own: the hook in whose place this is.

    Attributes:
        done: threads in which the layer's forward has read both strands.
    """

    def __init__(self, own: Cross) -> None:
        self.__dict__.update(vars(own))
        self.own, self.done = own, set[int]()

    def __getstate__(self) -> dict[str, Any]:
        """Copies are in the middle of no call."""
        return {**vars(self), "done": set()}

    def tensor_before(self, module: nn.Module, x: Tensor) -> Tensor:
        """The input as it is."""
        self.done.discard(this_thread())
        return super().tensor_before(module, x)

    def tensor_after(self, module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """What the forward returned, with the other strand's reading where that is missing."""
        thread = this_thread()
        if thread in self.done:
            self.done.discard(thread)
            return y
        return super().tensor_after(module, x, y)


def _exchange(module: nn.Module, old: Any, new: Any) -> None:
    """Put a hook of a layer in the place of another."""
    for table in hook_tables(module):
        for held in table.values():
            if isinstance(held, (Before, After)) and held.hook is old:
                held.hook = new


# --- attaching ----------------------------------------------------------------------------------


def accelerate_layer(candidate: Candidate, choice: Choice) -> None:
    """Let a layer be computed as half products, in place."""
    module = candidate.module
    cross = hook_of(module, Cross)
    if cross is not None:
        _exchange(module, cross, FasterCross(cross))
    place_around(module, Accelerated(module, choice))


def decelerate(model: nn.Module) -> None:
    """Give every layer of a model its own forward back, in place."""
    for module in model.modules():
        drop_around(module, lambda forward: isinstance(forward, Accelerated))
        cross = hook_of(module, FasterCross)
        if cross is not None:
            _exchange(module, cross, cross.own)
