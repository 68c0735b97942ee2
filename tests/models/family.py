"""A model class with the call it is converted for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Family:
    """A model class with the call it is converted for: example, and keyword arguments of `convert_model`."""

    make: Callable[[], nn.Module]
    example: Any
    how: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return getattr(self.make, "__name__", "model")
