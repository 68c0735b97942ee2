"""The tensors of an output, also where they lie in a dataclass or a mapping that torch does not open."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .._torch import pytree
from ..errors import ConversionError

PLAIN = (bool, int, float, complex, str, bytes, type(None))
"""Leaves that hold no tensor."""


def opened(output: Any) -> Any:
    """An output with dataclasses and unregistered mappings turned into dicts.

    Raises:
        ConversionError: some other object is returned, which may hold tensors that would not be measured.
    """
    return pytree.tree_map(_opened_leaf, output)


def output_leaves(output: Any) -> list[Any]:
    """The leaves of an output, opened."""
    return pytree.tree_leaves(opened(output))


def _opened_leaf(leaf: Any) -> Any:
    if isinstance(leaf, (Tensor, *PLAIN)):
        return leaf
    if dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
        return opened({f.name: getattr(leaf, f.name) for f in dataclasses.fields(leaf)})
    if isinstance(leaf, Mapping):
        return opened(dict(leaf))
    raise ConversionError(
        f"an output is a {type(leaf).__name__}",
        why="the tensors in it are not seen, so nothing about them could be measured",
        do="return tensors, tuples, lists, dicts or dataclasses, or register the class as a pytree of torch",
    )
