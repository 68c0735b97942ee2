"""Forwards of a probe: without dropout, and in double precision whatever they cast to; whole numbers are noted."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .._torch import transform_level
from ..graph.precision import as_double, in_double, is_drawn, widened

DROPOUTS = {
    torch.nn.functional.dropout,
    torch.nn.functional.dropout1d,
    torch.nn.functional.dropout2d,
    torch.nn.functional.dropout3d,
    torch.nn.functional.alpha_dropout,
    torch.nn.functional.feature_alpha_dropout,
    torch.dropout,
}

WITHIN = {
    torch.nn.functional.scaled_dot_product_attention: 4,
    torch.nn.functional.multi_head_attention_forward: 10,
    torch.lstm: 5,
    torch.gru: 5,
    torch.rnn_tanh: 5,
    torch.rnn_relu: 5,
}
"""Functions with a dropout inside, and the position of its probability among their arguments."""

STEPS = {
    torch.sign,
    torch.sgn,
    torch.round,
    torch.floor,
    torch.ceil,
    torch.trunc,
    torch.heaviside,
    Tensor.sign,
    Tensor.sgn,
    Tensor.round,
    Tensor.floor,
    Tensor.ceil,
    Tensor.trunc,
    Tensor.heaviside,
}
"""Functions whose results are whole numbers of floating point."""


class WithoutDropout(TorchFunctionMode):
    """Dropout does nothing.

    Attributes:
        whole: the whole numbers and truth values that were made of other numbers, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.whole: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if _is_special(func) or "dropout_p" in given:
            return self.noted(func, args, self.run(func, args, given))
        return self.noted(func, args, func(*args, **given))

    def noted(self, func: Any, args: Any, found: Any) -> Any:
        """The result of a call; whole numbers in it are noted."""
        kind = type(found)
        if kind in NO_TENSORS or (kind is Tensor and found.is_floating_point() and func not in STEPS):
            return found
        for y in found if isinstance(found, tuple) else (found,):
            if type(y) is Tensor and _is_whole(func, y) and _is_of_floats(args):
                self.whole += [y] if transform_level() is None else []
        return found

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """The result of a call that is not made as it is."""
        return _without_dropout(func, args, kwargs)


class InDouble(WithoutDropout):
    """The same, and casts to float32 are casts to float64, and so are new tensors: one mode, since each costs time."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if _is_special(func) or torch.dtype in {*map(type, args), *map(type, given.values())} or "dropout_p" in given:
            return self.noted(func, args, self.run(func, args, given))
        found = func(*args, **given)
        kind = type(found)
        if kind not in NO_TENSORS and not (kind is Tensor and found.dtype is torch.float64):
            found = as_double(found, args, given, partial(_widened_call, func))
        return self.noted(func, args, found)

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """The result of a call in double precision."""
        return in_double(func, args, kwargs, partial(_widened_call, func))


NO_TENSORS = frozenset((torch.Size, int, bool, float, torch.dtype, torch.device, type(None)))
"""Types of what many calls return."""


@cache
def _is_special(func: Any) -> bool:
    """Whether a function is not run as it is, whatever it is given."""
    return func in DROPOUTS or func in WITHIN or func is Tensor.float or is_drawn(func)


def _is_whole(func: Any, y: Tensor) -> bool:
    return func in STEPS or not (y.dtype.is_floating_point or y.is_complex())


def _is_of_floats(args: Sequence[Any]) -> bool:
    return any(isinstance(v, Tensor) and v.is_floating_point() for v in args)


def _widened_call(func: Any, *args: Any, **kwargs: Any) -> Any:
    if func is Tensor.float:
        return args[0].double()
    return _without_dropout(func, tuple(map(widened, args)), {k: widened(v) for k, v in kwargs.items()})


def _without_dropout(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    if func in DROPOUTS:
        return args[0] if args else kwargs["input"]
    place = WITHIN.get(func)
    if place is not None and len(args) > place and isinstance(args[place], float):
        args = (*args[:place], 0.0, *args[place + 1 :])
    elif "dropout_p" in kwargs:
        kwargs = {**kwargs, "dropout_p": 0.0}
    return func(*args, **kwargs)
