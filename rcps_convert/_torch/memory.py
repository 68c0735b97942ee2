"""The memory of tensors, compared byte by byte: a fraction of what comparing numbers takes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def _memcmp() -> Callable[..., int] | None:
    """The function of C that compares memory; None where Python does not find it."""
    try:
        found: Any = ctypes.PyDLL(None).memcmp
    except (OSError, TypeError, AttributeError):  # such as on Windows
        return None
    found.argtypes, found.restype = (ctypes.c_size_t,) * 3, ctypes.c_int
    return found  # type: ignore[no-any-return]


_COMPARE = _memcmp()


class Numbers:
    """The numbers of a tensor, kept to be compared with later ones.

    Args:
        x: on the CPU.

    Attributes:
        values: a copy of it.
    """

    __slots__ = ("dtype", "place", "shape", "size", "values")

    def __init__(self, x: Tensor) -> None:
        self.values = x.detach().clone(memory_format=torch.contiguous_format)
        self.shape, self.dtype = x.shape, x.dtype
        self.place, self.size = self.values.data_ptr(), self.values.nbytes

    def are_in(self, x: Tensor) -> bool:
        """Whether a tensor holds the same numbers, in the same shape and precision."""
        if not x.is_cpu or x.dtype is not self.dtype or x.shape != self.shape:
            return False
        if _COMPARE is None or not x.is_contiguous():
            return x.equal(self.values)
        return _COMPARE(x.data_ptr(), self.place, self.size) == 0
