"""A model class with the call it is converted for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Family:
    """A model class with the call it is converted for: example, and keyword arguments of `convert_model`.

    A `rounded` one holds float32 numbers that cannot be exact, such as cosines, and is exact to their rounding.
    """

    make: Callable[[], nn.Module]
    example: Any
    how: dict[str, Any] = field(default_factory=dict)
    rounded: bool = False

    @property
    def name(self) -> str:
        return getattr(self.make, "__name__", "model")
