"""Plain values, as JSON has them: of specs, of nested arguments, of shapes and dtypes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import ConversionError
from .specs import Spec


def listed(data: Mapping[str, Any]) -> dict[str, Any]:
    """Values with lists in the place of tuples."""
    return {name: [*value] if isinstance(value, tuple) else value for name, value in data.items()}


def tupled(data: Mapping[str, Any]) -> dict[str, Any]:
    """Values with tuples in the place of lists."""
    return {name: (*value,) if isinstance(value, list) else value for name, value in data.items()}


def plain_setting(value: Any) -> Any:
    """What a user gave for a setting: specs by the name of their class, functions by their own."""
    if isinstance(value, Spec):
        of = fields(value) if is_dataclass(value) else ()
        return {"spec": type(value).__name__, **{f.name: plain_setting(getattr(value, f.name)) for f in of}}
    if isinstance(value, Mapping):
        return {str(name): plain_setting(held) for name, held in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain_setting(held) for held in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return {"function": getattr(value, "__qualname__", type(value).__name__)}


def read_setting(data: Any) -> Any:
    """What `plain_setting` describes; of a function its name is all there is.

    Raises:
        ConversionError: a spec of another version.
    """
    if isinstance(data, list):
        return tuple(map(read_setting, data))
    if not isinstance(data, dict):
        return data
    if "spec" not in data:
        return {name: read_setting(held) for name, held in data.items()}
    kinds = {cls.__name__: cls for cls in _subclasses(Spec)}
    if data["spec"] not in kinds:
        raise ConversionError(
            f"the spec {data['spec']} is not known",
            why="another version of rcps_convert wrote it",
            do="say what the inputs and outputs are: inputs=, outputs=",
        )
    made: Any = object.__new__(kinds[data["spec"]])
    for name, value in data.items():
        if name != "spec":
            object.__setattr__(made, name, read_setting(value))
    return made


def _subclasses(cls: type) -> list[type]:
    below: list[type] = cls.__subclasses__()
    return [found for kind in below for found in (kind, *_subclasses(kind))]


def plain_structure(value: Any) -> Any:
    """Nested arguments with tensors as shapes and dtypes, for `read_structure`.

    Raises:
        ConversionError: an argument is no tensor and no plain value.
    """
    if isinstance(value, Tensor):
        return {"tensor": [*value.shape], "dtype": str(value.dtype).removeprefix("torch.")}
    if type(value) is dict:
        return {"dict": [[plain_structure(name), plain_structure(held)] for name, held in value.items()]}
    if type(value) in (tuple, list):
        return {type(value).__name__: [plain_structure(held) for held in value]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ConversionError(
        f"an argument of the model is a {type(value).__name__}, which a recipe cannot hold",
        why="a recipe has plain values, shapes and dtypes only",
        do="save the whole model: torch.save(model, ...)",
    )


def read_structure(data: Any) -> Any:
    """The nested arguments that `plain_structure` describes, zeros in the place of tensors; they take no memory."""
    if not isinstance(data, dict):
        return data
    if "tensor" in data:
        return torch.zeros((), dtype=getattr(torch, data["dtype"])).expand(data["tensor"])
    if "dict" in data:
        return {read_structure(name): read_structure(held) for name, held in data["dict"]}
    held = [read_structure(value) for value in data["tuple" if "tuple" in data else "list"]]
    return tuple(held) if "tuple" in data else held
