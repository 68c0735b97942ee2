"""Values of Python's own that forward sets itself, such as a count of its calls: found, and held before each pass."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from .._torch import all_modules
from .attributes import OURS
from .held_objects import Read, read_by_forward
from .holders import Place, value_at

OF_TIES = (OURS, "torch.nn.utils.parametrize")
"""Beginnings of the modules of classes that are those of ties."""


class Counters:
    """The values that a model's forward sets, as they are now.

    Args:
        model: a private copy.

    Attributes:
        read: what forward reads.
        places: where these values are.
    """

    def __init__(self, model: nn.Module) -> None:
        users = [m for m in all_modules(model) if not str(type(m).__module__).startswith(OF_TIES)]
        self.read: Read = read_by_forward([model, *(m for m in users if m is not model)])
        tables = [(holder, name) for holder, names in self.read.settings for name in names if _is_open(holder, name)]
        self.places: list[Place] = self.read.counters + tables
        self.values = [copy.deepcopy(value_at(*place)) for place in self.places]

    def restore(self) -> None:
        """Set every value to what it was."""
        for place, value in zip(self.places, self.values, strict=True):
            if value_at(*place) != value:
                put(place, copy.deepcopy(value))

    @contextmanager
    def held(self) -> Iterator[None]:
        """A pass, before and after which every value is what it was."""
        self.restore()
        try:
            yield
        finally:
            self.restore()


def _is_open(holder: Any, name: Any) -> bool:
    """Whether forward may write into a value: one that only a module or an object holds."""
    return type(value_at(holder, name)) in (list, dict)


def put(place: Place, value: Any) -> None:
    """Put a value into a place; a list or a dict gets other entries, as others may hold it too."""
    holder, name = place
    now = value_at(holder, name)
    if type(now) is type(value) is list:
        now[:] = value
    elif type(now) is type(value) is dict:
        now.clear()
        now.update(value)
    elif isinstance(holder, (list, dict)):
        holder[name] = value
    else:
        setattr(holder, name, value)
