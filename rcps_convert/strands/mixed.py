"""Strand mixing: a layer of a conjoined model reads the other strand's features too.

Each strand of the stacked batch is a stream of features in its own coordinates. A mixed layer adds
``V (P x_other)`` to ``W x``: x_other is the other strand's input to the same layer, P turns its
positions round, V is a cross-strand weight that starts at zero. The update treats both strands
alike, so the model stays exactly equivariant whatever V becomes, at any length and geometry. With W
and V together it is a network of twice the width whose weights are shared between the strands.

Source: reverse-complement parameter sharing after Shrikumar et al. 2017; with both W and V it is the
full regular-to-regular layer of Mallet & Vert, NeurIPS 2021.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._torch import ConvTransposeNd, convolve, in_backward, output_padding
from ..algebra import axis as ax
from ..algebra.action import Action, ActionMap
from ..algebra.axis import Axis
from ..errors import ConversionError
from ..tie.hooks import TensorHook, hook_of, install, uninstall
from .conjoined import Conjoined, this_thread

LAYERS = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear,
)  # fmt: skip
"""The layers that can be mixed."""

TRANSPOSED = {
    nn.ConvTranspose1d: F.conv_transpose1d,
    nn.ConvTranspose2d: F.conv_transpose2d,
    nn.ConvTranspose3d: F.conv_transpose3d,
}


class Cross(TensorHook):
    """Adds to a layer's result what its cross-strand weight reads on the other strand.

    Args:
        reading: of the model the layer belongs to.
        action: how the other strand's input is mapped back; its batch axis holds both strands.
    """

    def __init__(self, reading: Conjoined, action: Action) -> None:
        self.reading, self.mirror = reading, ActionMap(action.walk())
        self.batch = batch_axis(action)

    def tensor_before(self, module: nn.Module, x: Tensor) -> Tensor:
        """The input as it is.

        Raises:
            ConversionError: the layer is called by itself, on one strand.
        """
        # Activation checkpointing runs layers again during the backward pass, outside of the model's call.
        if this_thread() not in self.reading.running and not in_backward():
            raise ConversionError(
                "a mixed layer was called outside of its model",
                why="it reads both strands, stacked on the batch axis by the model it belongs to",
                do="call the whole model, or unwrap it or bake it first",
            )
        return x

    def other(self, x: Tensor) -> Tensor:
        """The other strand's features in this strand's coordinates, for both strands."""
        pairs = x.unflatten(self.batch, (x.shape[self.batch] // 2, 2))
        if self.mirror.tables or self.mirror.ended or self.reading.runs:
            orders = [o.repeat_interleave(2, 0) for o in self.reading.recalled()]
            return self.mirror(pairs.flip(self.batch + 1).flatten(self.batch, self.batch + 1), orders, self.batch)
        dims = [d + (d > self.batch) for d in self.mirror.flips]
        return pairs.flip([self.batch + 1, *dims]).flatten(self.batch, self.batch + 1)

    def tensor_after(self, module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """``W x + V (P x_other) + b``."""
        return y + apply(module, self.other(x), module.cross_weight, y.shape)  # type: ignore[arg-type]


def apply(module: nn.Module, x: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
    """What a layer would compute with another weight and no bias.

    Args:
        module: one of `LAYERS`.
        x: its input.
        weight: of the shape of its own.
        shape: of the result.
    """
    if isinstance(module, nn.Linear):
        return F.linear(x, weight)
    if not isinstance(module, ConvTransposeNd):
        return convolve(module, x, weight)
    function = next(f for cls, f in TRANSPOSED.items() if isinstance(module, cls))
    extra = output_padding(module, x, list(shape[-len(module.kernel_size) :]))
    return function(x, weight, None, module.stride, module.padding, extra, module.groups, module.dilation)  # type: ignore[arg-type]


def batch_axis(action: Action) -> int:
    """The batch axis of an action, -1 where it has none or several."""
    found = [d for d, t in enumerate(action.axes) if (r := ax.role(t)) is not None and r.name == "batch"]
    return found[0] if len(found) == 1 else -1


def mirrored_positions(action: Action) -> Action:
    """The part of an action that turns positions round: lengths stay reversed, everything else is fixed."""
    return Action(tuple(_positions(ax.walk(t)) for t in action.axes))


def _positions(term: Axis) -> Axis:
    if isinstance(term, ax.Sum):
        return ax.total([_positions(ax.walk(p)) for p in term.parts])
    if isinstance(term, ax.Prod):
        return ax.product([_positions(ax.walk(f)) for f in term.factors])
    role = ax.role(term)
    if role is not None and (role.name == "batch" or ax.is_length(term)):
        return term
    return ax.trivial(term.size)


# --- attaching ----------------------------------------------------------------------------------


def can_mix(module: nn.Module) -> bool:
    """Whether a layer's cross-strand reading can be computed beside it: a stock layer with a stock forward."""
    if not isinstance(module, LAYERS):
        return False
    stock = next(cls for cls in LAYERS if isinstance(module, cls))
    return type(module).forward is stock.forward and not hasattr(module, "cross_weight")


def mix(module: nn.Module, reading: Conjoined, action: Action) -> None:
    """Let a layer read the other strand through a new parameter `cross_weight`, zero at first.

    Args:
        module: one of `LAYERS`, in place.
        reading: of its model.
        action: how the other strand's input is mapped back.
    """
    weight: Tensor = module.weight.detach()  # type: ignore[assignment,union-attr,operator]
    module.register_parameter("cross_weight", nn.Parameter(torch.zeros_like(weight)))
    install(module, Cross(reading, action))


def mixed_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers of a model that read the other strand, by path."""
    return {path: m for path, m in model.named_modules() if hook_of(m, Cross) is not None}


def unmix(model: nn.Module) -> None:
    """Undo `mix` for every layer of a model; the cross-strand weights are dropped."""
    for module in mixed_layers(model).values():
        uninstall(module, Cross)
        del module.cross_weight
