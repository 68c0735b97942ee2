"""What public functions are given: examples, models, numbers and switches; each checked, with words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._torch import pytree
from ..errors import ConversionError

Example = Tensor | tuple[Any, ...] | Mapping[str, Any]
"""What a model is called with: one tensor, a tuple of arguments, or a dict of keyword arguments."""


def call_arguments(example: Example) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The positional and keyword arguments an example stands for."""
    if isinstance(example, Mapping):
        return (), dict(example)
    return (tuple(example), {}) if isinstance(example, (tuple, list)) else ((example,), {})


def separate_arguments(example: Example) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """As `call_arguments`, each tensor an object of its own: one that is given twice stands for two inputs."""
    met: set[int] = set()

    def own(x: Tensor) -> Tensor:
        again = id(x) in met
        met.add(id(x))
        return x.clone() if again else x

    found: tuple[tuple[Any, ...], dict[str, Any]] = pytree.tree_map_only(Tensor, own, call_arguments(example))
    return found


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
    if type(example) is Tensor:
        return (values[0],)
    spec = pytree.tree_structure(call_arguments(example))
    args, kwargs = pytree.tree_unflatten(values, spec)
    return kwargs if isinstance(example, Mapping) else args


# --- checks -------------------------------------------------------------------------------------


def is_shape(value: Any) -> bool:
    """Whether a value is a shape: a sequence of whole numbers, at least one."""
    return isinstance(value, (tuple, list)) and bool(value) and all(type(n) is int for n in value)


def checked_example(example: Any, dtype: torch.dtype, device: torch.device) -> Example:
    """An example as it is, or zeros where it is a shape, or made of shapes alone.

    Args:
        example: what a user gives.
        dtype, device: of the zeros.

    Raises:
        TypeError: it holds no tensor, or no shape.
        ValueError: a shape with a negative size, or a tensor without entries.
    """
    if holds_shapes(example):
        return _zeros(example, dtype, device)
    tensors = [v for v in pytree.tree_leaves(example) if isinstance(v, Tensor)]
    if not isinstance(example, (Tensor, tuple, list, Mapping)) or not tensors:
        raise TypeError(
            f"example={short(example)}: give what model(...) takes: a tensor, a tuple of tensors, a dict of keyword "
            "arguments, or shapes in their places, such as (2, 4, 1000)"
        )
    if isinstance(example, Mapping) and not all(isinstance(name, str) for name in example):
        raise TypeError(f"example={short(example)}: the keys of a dict are names of keyword arguments")
    if any(t.is_meta for t in tensors):
        raise ValueError("example= is on the meta device, without values: give one on the device of the model")
    return pytree.tree_map_only(Tensor, lambda t: t.clone() if t.is_inference() else t, example)


def holds_shapes(example: Any) -> bool:
    """Whether an example is a shape, or arguments of which each is a shape: a tuple or a dict of them."""
    if is_shape(example):
        return True
    held = [*example.values()] if isinstance(example, Mapping) else example
    return isinstance(held, (tuple, list)) and bool(held) and all(map(is_shape, held))


def _zeros(example: Any, dtype: torch.dtype, device: torch.device) -> Any:
    if isinstance(example, Mapping):
        return {name: _zeros(shape, dtype, device) for name, shape in example.items()}
    if not is_shape(example):
        return tuple(_zeros(shape, dtype, device) for shape in example)
    if min(example) < 1:
        raise ValueError(f"example={example!r}: a shape has positive sizes, such as (2, 4, 1000)")
    return torch.zeros(*example, dtype=dtype, device=device)


def check_model(model: Any) -> None:
    """Refuse what is no model with values.

    Raises:
        TypeError: it is no instance of ``nn.Module`` with a forward in Python.
        ConversionError: its parameters have no values or no shapes yet.
    """
    kind = _kind(model)
    if kind is not None:
        raise TypeError(f"model= is {kind}: give an instance of torch.nn.Module, such as MyModel()")
    tensors = [*model.parameters(), *model.buffers()]
    if any(nn.parameter.is_lazy(t) for t in tensors):
        raise ConversionError(
            "a parameter has no shape yet",
            why="lazy layers get their shapes at the first call",
            do="call the model once before converting it",
        )
    if any(t.is_meta for t in tensors):
        raise ConversionError(
            f"the {type(model).__name__} given as model= has no values yet: its parameters are on the meta device",
            why="what a model does is verified by running it",
            do="make it on a real device, or load its values first (model.to_empty, load_state_dict)",
        )


def _kind(model: Any) -> str | None:
    """What a thing is that is no model, in words."""
    if isinstance(model, torch.jit.ScriptModule):
        return "a ScriptModule, whose forward is no Python code any more"
    if isinstance(model, nn.Module):
        return None
    if isinstance(model, type):
        return f"the class {model.__name__}"
    if isinstance(model, Mapping):
        return "a state_dict or another mapping"
    return "None" if model is None else f"a {type(model).__name__} ({short(model)})"


def check_switch(name: str, value: Any) -> None:
    """Refuse what is neither True nor False.

    Raises:
        TypeError: it is another value.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name}={short(value)}: give True or False")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Refuse what is none of some words.

    Raises:
        ValueError: it is another value.
    """
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}={short(value)}: use {', '.join(map(repr, choices[:-1]))} or {choices[-1]!r}")


def check_count(name: str, value: Any, low: int = 1) -> None:
    """Refuse what is no whole number, or too small.

    Raises:
        TypeError: it is no whole number.
        ValueError: it is smaller than `low`.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name}={short(value)}: give a whole number")
    if value < low:
        raise ValueError(f"{name}={value}: give a whole number of at least {low}")


def check_number(name: str, value: Any, low: float, high: float) -> None:
    """Refuse what is no number within bounds.

    Raises:
        TypeError: it is no number.
        ValueError: it is out of bounds.
    """
    bound = f"from {low:g} to {high:g}" if math.isfinite(high) else f"of at least {low:g}"
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name}={short(value)}: give a number {bound}")
    if not low <= value <= high or math.isinf(value):
        raise ValueError(f"{name}={value}: give a number {bound}")


def short(value: Any) -> str:
    """A value as it is repeated in an error."""
    text = repr(value)
    return text if len(text) < 80 else f"{text[:77]}..."
