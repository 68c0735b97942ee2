"""Running parts of a model in double precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

WIDER = {torch.float32: torch.float64, torch.float16: torch.float64, torch.bfloat16: torch.float64}


def widened(argument: Any) -> Any:
    """An argument of an operator with a dtype replaced by its double-precision kin."""
    return WIDER.get(argument, argument) if isinstance(argument, torch.dtype) else argument


@contextmanager
def double_precision() -> Iterator[None]:
    """New tensors are float64 unless their dtype is named."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
