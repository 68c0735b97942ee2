"""What a model is called with, as a flat list of leaves and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def argument_names(names: Sequence[str], count: int) -> list[str]:
    """The names of that many positional arguments; those that a forward gathers go by number."""
    return [names[i] if i < len(names) else str(i) for i in range(count)]


def places(names: Sequence[str], example: Example) -> list[tuple[str, int]]:
    """Where each leaf of a call is found: its argument's name, and its place among the leaves of that argument.

    Args:
        names: of the parameters that can be given by position.
        example: the call.
    """
    args, kwargs = call_arguments(example)
    named = [*zip(argument_names(names, len(args)), args, strict=True), *kwargs.items()]
    return [(name, i) for name, value in named for i in range(len(pytree.tree_leaves(value)))]


def with_leaves(example: Example, values: list[Any]) -> Example:
    """An example of the same structure with other leaves."""
    spec = pytree.tree_structure(call_arguments(example))
    args, kwargs = pytree.tree_unflatten(values, spec)
    return kwargs if isinstance(example, Mapping) else args
