"""Kinds of values that modules hold: numbers and names, rows of them, and tables."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .._torch import pytree

ATOMS = frozenset((int, float, bool, str, type(None)))
"""Types of values that a copy shares."""

TABLES = frozenset((dict, OrderedDict, set, list))
"""Types of which a module holds many that are empty."""

ROWS = frozenset((tuple, torch.Size))
"""Types of rows that nothing can be written into."""


def is_row(value: Any) -> bool:
    """Whether a value is a row of numbers and names, such as the sizes of a kernel."""
    return type(value) in ROWS and all([type(v) in ATOMS for v in value])


def leaves_of(values: Iterable[Any]) -> Iterator[Any]:
    """What the tree of some values holds that is no number or name, found by a shorter way than torch's."""
    for value in values:
        kind = type(value)
        if kind in ATOMS or (kind in TABLES and not value):
            continue
        if kind in ROWS or kind is list:
            yield from leaves_of(value)
        elif kind in TABLES and kind is not set:
            yield from leaves_of(value.values())
        elif isinstance(value, (Tensor, nn.Module)):
            yield value
        else:
            yield from pytree.tree_leaves(value)
