"""The tensors of an output, also where they lie in a dataclass or a mapping that torch does not open."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, MutableMapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .._torch import pytree
from ..errors import ConversionError

PLAIN = (bool, int, float, complex, str, bytes, type(None))
"""Leaves that hold no tensor."""


def opened(output: Any, loosely: bool = False) -> Any:
    """An output with dataclasses and mappings of any class turned into dicts.

    Args:
        output: what a model returns.
        loosely: keep an object that cannot be opened as it is.

    Raises:
        ConversionError: some other object is returned, which may hold tensors that would not be measured, or a tensor
            that is sparse or nested.
    """
    if isinstance(output, (Tensor, *PLAIN)):
        if not loosely:
            require_dense(output)
        return output
    held = _held(output)
    if held is not None:
        return {name: opened(value, loosely) for name, value in held.items()}
    parts, spec = pytree.tree_flatten(output, is_leaf=lambda value: value is not output)
    if not (len(parts) == 1 and parts[0] is output):
        return pytree.tree_unflatten([opened(part, loosely) for part in parts], spec)
    if loosely:
        return output
    raise ConversionError(
        f"an output is a {type(output).__name__}",
        why="the tensors in it are not seen, so nothing about them could be measured",
        do="return tensors, tuples, lists, dicts or dataclasses, or register the class as a pytree of torch",
    )


def require_dense(output: Any) -> None:
    """Refuse a tensor whose entries do not lie side by side.

    Raises:
        ConversionError: it is sparse or nested.
    """
    if isinstance(output, Tensor) and (output.is_nested or output.layout != torch.strided):
        raise ConversionError(
            f"an output is a {'nested' if output.is_nested else 'sparse'} tensor",
            why="which of its entries belongs to which position is not known",
            do="return y.to_dense(), or y.to_padded_tensor(0.0), and make it sparse or nested outside of the model",
        )


def output_leaves(output: Any, loosely: bool = False) -> list[Any]:
    """The leaves of an output, opened."""
    return pytree.tree_leaves(opened(output, loosely))


def flatten(output: Any) -> tuple[list[Any], Callable[[list[Any]], Any]]:
    """The leaves of an output in the order of `output_leaves`, and what puts others in their place.

    Args:
        output: what a model returns; what cannot be opened is a leaf.

    Returns: the leaves, and a function from as many to an output of the same classes.
    """
    leaves, spec = pytree.tree_flatten(output)
    if all(isinstance(leaf, (Tensor, *PLAIN)) for leaf in leaves):
        return leaves, partial(_unflatten, spec)
    pieces = [_flat_leaf(leaf) for leaf in leaves]

    def again(values: list[Any]) -> Any:
        given = iter(values)
        return _unflatten(spec, [make([next(given) for _ in inner]) for inner, make in pieces])

    return [leaf for inner, _ in pieces for leaf in inner], again


def _unflatten(spec: Any, values: list[Any]) -> Any:
    return pytree.tree_unflatten(values, spec)


def _held(output: Any) -> dict[Any, Any] | None:
    """What an object holds by name, if it is a mapping or a dataclass."""
    if isinstance(output, Mapping):
        return dict(output)
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return {f.name: getattr(output, f.name) for f in dataclasses.fields(output)}
    return None


def _flat_leaf(leaf: Any) -> tuple[list[Any], Callable[[list[Any]], Any]]:
    """As `flatten`, for what torch takes for a leaf."""
    held = None if isinstance(leaf, (Tensor, *PLAIN)) else _held(leaf)
    if held is None:
        return [leaf], lambda values: values[0]
    inner, make = flatten(held)
    return inner, lambda values: _holding(leaf, make(values))


def _holding(like: Any, held: dict[Any, Any]) -> Any:
    """An object like another one that holds other values."""
    if isinstance(like, Mapping) and not isinstance(like, MutableMapping):
        return type(like)(held)  # type: ignore[call-arg]
    twin = copy.copy(like)
    for name, value in held.items():
        if isinstance(twin, MutableMapping):
            twin[name] = value
        else:
            object.__setattr__(twin, name, value)
    return twin
