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
    found.argtypes, found.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t), ctypes.c_int
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
        self.place, self.size = ctypes.c_void_p(self.values.data_ptr()), ctypes.c_size_t(self.values.nbytes)

    def are_in(self, x: Tensor) -> bool:
        """Whether a tensor holds the same numbers, in the same shape and precision."""
        if not x.is_cpu or x.dtype is not self.dtype or x.shape != self.shape:
            return False
        if _COMPARE is None or not x.is_contiguous():
            return x.equal(self.values)
        return _COMPARE(x.data_ptr(), self.place, self.size) == 0


class MadeOf(Numbers):
    """What was made of the numbers of a tensor, kept to be used as long as it holds these.

    They are compared, as a write into ``x.data`` is not counted.

    Args:
        x: on the CPU.
        make: what makes it, of a copy of the tensor.

    Attributes:
        made: the tensor that was made.
    """

    __slots__ = ("count", "made")

    def __init__(self, x: Tensor, make: Callable[[Tensor], Tensor]) -> None:
        with torch.inference_mode(False):  # what is kept serves other calls, too
            super().__init__(x)
            self.made = make(self.values)
        self.count = self.made._version

    def of(self, x: Tensor) -> Tensor | None:
        """What was made of it; None if other numbers are in it now, or somebody wrote into what was made."""
        return self.made if self.made._version == self.count and self.are_in(x) else None


BLOCKS, WIDTH = 32, 64
"""Blocks of a large memory that are compared, and the bytes of each."""


def sample_of(x: Any) -> tuple[bytes, ...]:
    """Some bytes of a large memory, spread evenly from its first to its last; none where it does not lie in one piece.

    Args:
        x: a tensor on the CPU, or what Python can look at as memory.
    """
    if isinstance(x, Tensor):
        if not x.is_contiguous() or not x.data_ptr():  # its memory may be freed for a while
            return ()
        place, size = x.data_ptr(), x.nbytes
        return tuple([ctypes.string_at(place + at, min(WIDTH, size)) for at in _starts(size)])
    view = memoryview(x)
    if not view.c_contiguous:
        return ()
    flat = view.cast("B")
    return tuple([bytes(flat[at : at + WIDTH]) for at in _starts(len(flat))])


def _starts(size: int) -> list[int]:
    return [i * max(0, size - WIDTH) // (BLOCKS - 1) for i in range(BLOCKS)]
