"""Norm layers with running statistics: swapped channels share them.

A parametrization cannot hold running statistics. Where the channels are two swapped halves, a
``(N, 2C, L)`` tensor is a free view of ``(2N, C, L)``: the stock layer runs on the view, at half its
width, and both strands share statistics in train and eval mode. Other actions of the channel axis
run the stock layer, while it gathers statistics, on the batch and its permuted copy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .._torch import InstanceNorm, NormBase, normed_in_eval
from ..algebra import axis as ax
from ..algebra.axis import Axis
from ..algebra.tables import beside
from ..algebra.texts import write_axis
from ..errors import ConversionError
from .factors import Factor, factors
from .hooks import TensorHook, hook_of, install_inside, uninstall
from .written import Written

VECTORS = ("weight", "bias", "running_mean", "running_var")


class FoldedNorm(TensorHook):
    """Runs a norm layer of half the width on both halves of the channels as on twice the samples."""

    def plain(self) -> dict[str, Any]:
        """The hook as plain values."""
        return {"folds": True}

    def around(self, module: nn.Module, x: Tensor) -> Tensor:
        """All of a call; its shape is that of x."""
        shape = x.shape
        if len(shape) > 1:
            try:
                folded = x.reshape(shape[0] * 2, shape[1] // 2, *shape[2:])
                made = normed_in_eval(module, folded)
                return (type(module).forward(module, folded) if made is None else made).reshape(shape)
            except RuntimeError:
                _require_width(module)
                raise
        return super().around(module, x)

    def tensor_before(self, module: nn.Module, x: Tensor) -> Tensor:
        """(N, 2C, ...) seen as (2N, C, ...): a view when x is contiguous."""
        _require_width(module)
        n, c, *rest = x.shape
        return x.reshape(n * 2, c // 2, *rest)

    def tensor_after(self, module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """(2N, C, ...) seen as (N, 2C, ...)."""
        n, c, *rest = y.shape
        return y.reshape(n // 2, c * 2, *rest)


def _require_width(module: nn.Module) -> None:
    """Refuse a weight, bias or statistic of both halves.

    Raises:
        ConversionError: there is one.
    """
    width = int(module.num_features)  # type: ignore[arg-type]
    for name in VECTORS:
        value = getattr(module, name, None)
        if value is not None and value.shape[0] != width:
            raise ConversionError(
                f"the {name} of a {type(module).__name__} was set to {len(value)} values",
                got=f"{width} are stored, for {2 * width} channels",
                why="swapped channels share their weight, bias and statistics, so half of each is stored",
                do="set one half; load_plain_state_dict(model, state_dict) loads a checkpoint of the plain model",
            )


class PooledNorm(TensorHook):
    """Gathers statistics from the batch and its channel-permuted copy.

    What else is written into the kept statistics, by ``load_state_dict`` or by hand, is averaged before it is read.

    Args:
        table: the permutation of the channels, int64, shape (C,).
    """

    def __init__(self, table: Tensor) -> None:
        self.table = table
        self.written = Written()

    def plain(self) -> dict[str, Any]:
        """The hook as plain values: the action on the channels as a text."""
        return {"folds": False, "channel": write_axis(ax.permutation(self.table.tolist()))}

    def renew(self, module: nn.Module) -> None:
        """Average the kept statistics if something was written into them since they were read last."""
        if self.written.since(module.running_mean, module.running_var):
            self.share(module)
            self.written.since(module.running_mean, module.running_var)

    def share(self, module: nn.Module) -> None:
        """Average the kept statistics over the strands, in place."""
        for name in ("running_mean", "running_var"):
            value = getattr(module, name)
            if value is not None:
                with torch.no_grad():
                    value.copy_((value + value[self.table.to(value.device)]) / 2)

    def _gathers(self, module: nn.Module) -> bool:
        return module.training or not keeps_statistics(module)

    def tensor_before(self, module: nn.Module, x: Tensor) -> Tensor:
        """Both strands while statistics are gathered."""
        if not self._gathers(module):
            self.renew(module)
            return x
        return torch.cat([x, x.index_select(1, beside(self.table, x))])

    def tensor_after(self, module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """The given strand."""
        return y[: y.shape[0] // 2] if self._gathers(module) else y


def needs_statistics(module: nn.Module) -> bool:
    """Whether a module's behaviour depends on statistics over the batch, now or kept."""
    if not isinstance(module, NormBase):
        return False
    return bool(module.track_running_stats) or not isinstance(module, InstanceNorm)


def folds(channel: Axis) -> bool:
    """Whether the channels are two swapped halves with nothing else moved."""
    parts = factors(channel)
    if not parts or ax.has_sign(channel):
        return False
    return parts[0] == Factor(2, True) and not any(f.flipped and f.size > 1 for f in parts[1:])


def fold(module: nn.Module, init: str) -> None:
    """Make a norm layer share everything between the halves of its channels.

    Its parameters, the same `nn.Parameter` objects, and its statistics keep one half.

    Args:
        module: a norm layer with 2C features, changed in place.
        init: ``"keep"`` the first half, or ``"project"`` to the mean of both.
    """
    _resize(module, lambda v: v.reshape(2, -1).mean(0) if init == "project" else v.reshape(2, -1)[0].clone())
    install_inside(module, FoldedNorm())


def unfold(module: nn.Module) -> None:
    """Undo `fold`: both halves get what they shared."""
    _resize(module, lambda v: v.repeat(2))
    uninstall(module)
    if not keeps_statistics(module):
        width = int(module.num_features)  # type: ignore[arg-type]
        install_inside(module, PooledNorm(torch.arange(width).roll(width // 2)))


def keeps_statistics(module: nn.Module) -> bool:
    """Whether a norm layer has running statistics; else it gathers them from each batch, in eval mode too."""
    return getattr(module, "running_mean", None) is not None


def settle_statistics(module: nn.Module) -> None:
    """Undo `pool` where the weights and kept statistics stand for it, which they do not where none are kept."""
    if keeps_statistics(module):
        uninstall(module)


def unpool(model: nn.Module) -> None:
    """Undo `pool` in a whole model, in place: what is left of it when a model is baked."""
    for module in model.modules():
        if isinstance(hook_of(module), PooledNorm):
            uninstall(module)


def _resize(module: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
    done: set[int] = set()
    width = int(module.num_features)  # type: ignore[arg-type]
    for name in VECTORS:
        value = getattr(module, name, None)
        if value is not None and len(value) == width and id(value) not in done:
            with torch.no_grad():
                value.set_(change(value.detach()))
            value.grad = None
            done.add(id(value))
    setattr(module, "num_features", len(change(torch.zeros(width))))  # noqa: B010 - nn.Module is typed for tensors


def pool(module: nn.Module, channel: Axis) -> None:
    """Make a norm layer gather statistics from both strands; its parameters are tied elsewhere.

    Args:
        module: a norm layer, changed in place.
        channel: the action on its channels.
    """
    hook = PooledNorm(ax.indices(channel))
    hook.share(module)
    install_inside(module, hook)
