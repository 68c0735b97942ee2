"""Whether forward can go by a size: whether it ever makes a plain number, a truth value or a text of one.

Sizes are given to it as tensors. What is only passed on to torch, as in ``x.view(x.size(0), -1)`` or ``arange(n)``,
stays one; to compare a size, to count or to look something up by it, forward must make a plain value of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .._torch import as_plain_tensor, is_asked_by_layer
from ..algebra.arguments import Example
from ..graph.sandbox import call, fix_randomness, fresh_copy, mode, quiet, undisturbed_rng

SIZELESS = {
    *(getattr(Tensor, name).__get__ for name in ("dtype", "device", "layout", "ndim", "is_cuda", "requires_grad")),
    *(Tensor.dim, Tensor.is_floating_point, Tensor.is_complex, torch.is_floating_point, torch.is_complex),
}
"""Functions that tell something else of a tensor than tensors, and nothing of its sizes."""

SHAPE = Tensor.shape.__get__  # type: ignore[attr-defined]
"""What is called where ``x.shape`` is read."""


class _SizeTensor(Tensor):
    """A size, or what was computed from some, as a tensor without axes; nothing can be looked up by it."""

    __torch_function__ = as_plain_tensor  # type: ignore[assignment]
    __hash__ = None  # type: ignore[assignment]
    __class__ = int  # type: ignore[assignment]  # for ``isinstance``


class _Shape(tuple[Any, ...]):
    """The sizes of a tensor, as ``torch.Size`` has them."""

    __class__ = torch.Size  # type: ignore[assignment]  # for ``isinstance``

    def numel(self) -> Any:
        return math.prod(self)


class _SizesAsTensors(TorchFunctionMode):
    """Gives forward sizes that are tensors, and notes when it is told anything but tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.told = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            of_sizes = not result.dim() and any(isinstance(value, _SizeTensor) for value in args)
            return _size(result) if of_sizes else result
        if not _tells(result) or func in SIZELESS or _is_of_weight(args) or is_asked_by_layer():
            return result
        if func is Tensor.size or func == SHAPE:
            return _size(result) if type(result) is int else _Shape(map(_size, result))
        self.told = True
        return result


def _tells(result: Any) -> bool:
    """Whether a result that is no tensor is more than a known number of them."""
    return result is not None and type(result).__module__ != "torch.return_types"


def _is_of_weight(args: Sequence[Any]) -> bool:
    return bool(args) and isinstance(args[0], nn.Parameter)


def _size(value: Any) -> Tensor:
    return torch.as_tensor(value).as_subclass(_SizeTensor)


def can_go_by_sizes(model: nn.Module, example: Example) -> bool:
    """Whether a forward may know a size of its inputs as a plain value; also where it does not run without.

    Args:
        model: in the mode that is asked about; changed, where forward changes its state.
        example: what to call it with.
    """
    seen = _SizesAsTensors()
    try:
        with torch.no_grad(), seen:
            call(model, example)
    except Exception:  # a size had to be a plain number
        return True
    return seen.told


def goes_by_no_size(model: nn.Module, example: Example) -> bool:
    """Whether forward can go by a size in neither mode.

    Args:
        model: not touched.
        example: what to call it with.
    """
    with undisturbed_rng(), quiet():
        for training in (False, True):
            twin = fresh_copy(model)
            fix_randomness()
            with mode(twin, training):
                if can_go_by_sizes(twin, example):
                    return False
    return True
