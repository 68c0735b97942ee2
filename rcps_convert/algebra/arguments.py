"""What a model is called with, as a flat list of leaves and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

Example = Tensor | tuple[Any, ...] | Mapping[str, Any]
"""What a model is called with: one tensor, a tuple of arguments, or a dict of keyword arguments."""


def call_arguments(example: Example) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The positional and keyword arguments an example stands for."""
    if isinstance(example, Mapping):
        return (), dict(example)
    return (tuple(example), {}) if isinstance(example, (tuple, list)) else ((example,), {})


def leaves(example: Example) -> list[Any]:
    """The leaves of the call's arguments, in the order of ``torch.export``'s inputs."""
    return pytree.tree_leaves(call_arguments(example))


def with_leaves(example: Example, values: list[Any]) -> Example:
    """An example of the same structure with other leaves."""
    spec = pytree.tree_structure(call_arguments(example))
    args, kwargs = pytree.tree_unflatten(values, spec)
    return kwargs if isinstance(example, Mapping) else args
