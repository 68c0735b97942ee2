"""Double precision for the arithmetic of one thread, whatever the rest of the process computes with; float32 in full.

The default dtype of torch belongs to the whole process: changed for a while, it would change what other threads
compute. So calls whose result would have the default dtype are caught instead, in this thread alone.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .._torch import op_name, pytree

WIDER = {torch.float32: torch.float64, torch.float16: torch.float64, torch.bfloat16: torch.float64}

DRAWN = {"rand", "randn", "normal"}
"""Functions that cannot be called twice to see what they return: they draw random numbers."""


def widened(argument: Any) -> Any:
    """An argument of an operator with a dtype replaced by its double-precision kin."""
    return WIDER.get(argument, argument) if isinstance(argument, torch.dtype) else argument


class _DoubleByDefault(TorchFunctionMode):
    """Results that would have the default dtype have its double-precision kin."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return in_double(func, args, kwargs or {}, func)


def in_double(func: Any, args: Any, kwargs: dict[str, Any], run: Callable[..., Any]) -> Any:
    """The result of a call, in double precision where it would have the default dtype.

    Args:
        func: what is called.
        args, kwargs: with what.
        run: calls it.
    """
    if is_drawn(func):
        given = [*args, *kwargs.values()]
        if not any(isinstance(v, (Tensor, torch.dtype)) for v in given):
            return run(*args, **{**kwargs, "dtype": torch.float64})
    return as_double(run(*args, **kwargs), args, kwargs, run)


def as_double(found: Any, args: Any, kwargs: dict[str, Any], run: Callable[..., Any]) -> Any:
    """What a call returned, or what it returns in double precision where it has the default dtype.

    Args:
        found: what it returned.
        args, kwargs, run: as in `in_double`.
    """
    if not isinstance(found, Tensor) or found.dtype not in (torch.float32, torch.complex64):
        return found
    leaves = pytree.tree_leaves([*args, *kwargs.values()])
    if any(isinstance(v, torch.dtype) or _is_float(v) for v in leaves) or kwargs.get("out") is not None:
        return found
    again = _with_dtype(run, args, kwargs, found) or _with_wide_operands(run, args, kwargs, found)
    return found if again is None else again[0]


@cache
def is_drawn(func: Any) -> bool:
    """Whether a function draws random numbers of the default dtype."""
    return op_name(func) in DRAWN


def _is_float(value: Any) -> bool:
    """Whether a dtype of its own speaks: a floating tensor, or an array."""
    return value.is_floating_point() or value.is_complex() if isinstance(value, Tensor) else hasattr(value, "__array__")


def _with_dtype(func: Any, args: Any, kwargs: Any, found: Tensor) -> tuple[Tensor] | None:
    """The result of a function that makes a tensor from numbers, made in double precision."""
    if any(isinstance(v, Tensor) for v in pytree.tree_leaves((args, kwargs))):
        return None
    wide = torch.float64 if found.dtype == torch.float32 else torch.complex128
    try:
        return (func(*args, **{**kwargs, "dtype": wide}),)
    except (TypeError, RuntimeError):  # it takes no dtype
        return None


def _with_wide_operands(func: Any, args: Any, kwargs: Any, found: Tensor) -> tuple[Tensor] | None:
    """The result of arithmetic on whole numbers or truth values, computed from doubles."""
    for wide in (_ints_wide, _all_wide, _numbers_wide):
        try:
            again = func(*pytree.tree_map(wide, args), **pytree.tree_map(wide, kwargs))
        except (TypeError, RuntimeError, IndexError):  # it takes operands of another kind only
            continue
        if isinstance(again, Tensor) and again.dtype in (torch.float64, torch.complex128):
            return (again,) if again.shape == found.shape else None
    return None


def _ints_wide(x: Any) -> Any:
    return x.double() if isinstance(x, Tensor) and x.dtype != torch.bool else x


def _all_wide(x: Any) -> Any:
    return x.double() if isinstance(x, Tensor) else x


def _numbers_wide(x: Any) -> Any:
    return torch.tensor(x, dtype=torch.float64) if isinstance(x, float) else x


class FullFloat32:
    """The settings of the process by which a GPU multiplies float32 in fewer digits (TF32), as they are.

    There are old ones and new ones. Where the new ones were set apart, torch refuses to read the old ones, and
    ``torch.export`` fails for it; while float32 is multiplied in full they agree.
    """

    def __init__(self) -> None:
        b: Any = torch.backends
        self.allowed = _tf32_allowed()
        self.kept = [(op, op.fp32_precision) for op in (b.cudnn.conv, b.cudnn.rnn, b.cuda.matmul, b.mkldnn.matmul)]
        self.idle = not torch.cuda.is_initialized() and self.allowed is not None
        if self.idle:
            return
        self.words: str | None = None
        with suppress(RuntimeError):
            self.words = torch.get_float32_matmul_precision()
        self.general = b.fp32_precision

    def set(self) -> None:
        """Let float32 be multiplied in float32."""
        if self.idle:
            return
        self._set_general("none" if self.general == "tf32" else self.general)
        torch.backends.cudnn.allow_tf32 = False
        if self.kept[2][1] == "tf32":
            torch.set_float32_matmul_precision("highest")

    def restore(self) -> None:
        """Bring the settings back."""
        if self.idle:
            self._restore_operators()  # ``torch.export`` brings back the old settings only
            return
        for allowed in (True, False) if self.allowed is None else (self.allowed,):
            self._set_general(self.general)
            torch.backends.cudnn.allow_tf32 = allowed
            if self.words is not None and any(op.fp32_precision != value for op, value in self.kept[2:]):
                torch.set_float32_matmul_precision(self.words)
            self._restore_operators()
            if _tf32_allowed() is self.allowed:
                return

    def _restore_operators(self) -> None:
        for op, value in self.kept:
            if op.fp32_precision != value:
                op.fp32_precision = value

    def _set_general(self, value: str) -> None:
        """What operators follow for which nothing else is set."""
        b: Any = torch.backends
        if b.fp32_precision != value:
            b.fp32_precision = value


def _tf32_allowed() -> bool | None:
    """The old setting of cuDNN; None where it and the new ones differ, and torch refuses to read it."""
    try:
        return bool(torch.backends.cudnn.allow_tf32)
    except RuntimeError:
        return None


def double_precision() -> AbstractContextManager[Any]:
    """New tensors of this thread are float64 unless their dtype is named."""
    return _DoubleByDefault()
