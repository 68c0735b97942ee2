"""Saving converted models: a recipe that makes a fresh instance what the converted one is, and a file with it."""

from __future__ import annotations

import copy
import json
from collections import OrderedDict
from collections.abc import Mapping
from os import PathLike
from pickle import UnpicklingError
from typing import IO, Any

import torch
from torch import Tensor, nn

from ..algebra.arguments import check_model, short
from ..errors import ConversionError, first_line
from ..graph.sandbox import alone, owner
from ..graph.transaction import all_or_nothing
from ..tie.notes import noted
from .outline import require_constants, require_outline, user_buffers
from .recipe import ATTACHED, FORMAT, Recipe, attach_all, read_off, readable
from .state import is_converted

File = str | PathLike[str] | IO[bytes]
"""Where `torch.save` writes to."""

CONTENTS = ("rcps_convert_recipe", "state_dict", "buffers")
"""What a file holds: the recipe as JSON, the state, and the buffers that are no part of the state."""


def recipe(model: nn.Module) -> Recipe:
    """What the conversion of a model did, as plain JSON values.

    With it, `apply_recipe` converts a fresh instance of the model's class without an example and without tracing.

    Args:
        model: a converted model; one that was baked has what weights cannot stand for.

    Returns: a dict of strings, numbers, lists and dicts: ``"format"`` and version, the class and the ``"outline"`` of
        the model, the ``"settings"`` it was converted with, and what is attached: ties, norms, symmetrisers, guards,
        re-anchored calls, readings of both strands and mixed layers. Actions are texts, such as ``(2r * 8, 4r, 5r)``.

    Raises:
        ConversionError: the model is not converted, or its readings are merged by a function of yours.
        TypeError: it is no model.
    """
    check_model(model)
    found = read_off(model)
    if not _is_said(model, found):
        raise ConversionError(
            f"the {type(model).__name__} is not converted",
            why="a recipe says what a conversion attached to a model, and nothing is attached to this one",
            do="save its state_dict or the whole model with torch.save; or convert it first, with convert_model",
        )
    return copy.deepcopy(found)


def _is_said(model: nn.Module, found: Recipe) -> bool:
    """Whether a recipe says anything, be it that nothing had to be attached."""
    return any(found.get(name) for name in ATTACHED) or any(noted(module) is not None for module in model.modules())


def apply_recipe(model: nn.Module, recipe: Mapping[str, Any]) -> nn.Module:
    """Convert a fresh instance as another one was converted: without an example, and without tracing.

    Its parameters stay the same `nn.Parameter` objects. Nothing is measured: that was done when the recipe was made,
    and it holds for every instance with the same outline and the same constants, which are compared.

    Args:
        model: a fresh instance, made with the same arguments; changed in place. An instance that was converted alike
            is left as it is.
        recipe: what `recipe` or ``plan.to_dict()`` returned.

    Returns: the same object.

    Raises:
        ConversionError: the recipe cannot be read, has a newer format, or was made for a model with other modules,
            parameters, buffers or constants, or the model is converted otherwise. It is unchanged.
        TypeError: `model` is no model, or `recipe` no mapping.
    """
    check_model(model)
    _check_recipe(recipe)
    if _is_converted_alike(model, recipe):
        return model
    readable(recipe, lambda: require_outline(model, recipe["outline"]))
    readable(recipe, lambda: require_constants(model, recipe["constants"]))
    all_or_nothing(model, lambda: _attached(model, recipe))
    return model


@alone
def _attached(model: nn.Module, recipe: Mapping[str, Any]) -> None:
    attach_all(model, recipe)


def _check_recipe(given: Any) -> None:
    """Refuse what is no recipe, or one that this version cannot read."""
    if not isinstance(given, Mapping):
        raise TypeError(f"recipe= is a {type(given).__name__}: give what recipe(model) or plan.to_dict() returned")
    number = given.get("format")
    if type(number) is not int or number < 1:
        raise ConversionError(
            "the recipe has no format",
            got=f"format {number!r}",
            why="each recipe says which form it has",
            do="give what recipe(model) or plan.to_dict() returned",
        )
    if number > FORMAT:
        raise ConversionError(
            f"the recipe has format {number}, and this version reads up to {FORMAT}",
            got=f"written by version {given.get('rcps_convert')}",
            why="a newer version wrote it",
            do="install that version or a newer one",
        )
    problems = readable(given, lambda: given["plan"]["problems"] if "plan" in given else [])
    if problems:
        raise ConversionError(
            "the plan has problems",
            got=f"{len(problems)}, the first: {problems[0]}",
            why="it cannot be applied",
            do="solve them, and plan again",
        )


def _is_converted_alike(model: nn.Module, recipe: Mapping[str, Any]) -> bool:
    """Whether a model was converted as a recipe says; it is refused if it was converted otherwise."""
    found = read_off(model)
    if not _is_said(model, found):
        return False
    if all(found.get(name) == recipe.get(name) for name in (*ATTACHED, "outline")):
        return True
    raise ConversionError(
        "the model is converted already, and not as the recipe says",
        why="its weights are tied otherwise, or it reads the strands in another way"
        if is_converted(model)
        else "something that baking leaves is attached to it",
        do="give a fresh instance of the plain class",
    )


# --- files --------------------------------------------------------------------------------------


def save(model: nn.Module, path: File) -> None:
    """Save a converted model in one file: its recipe, and its state.

    Only plain values and tensors are written, so ``torch.load(path, weights_only=True)`` reads the file:
    ``"state_dict"`` in it is the model's own.

    Args:
        model: a converted model.
        path: a file name, or a file opened for writing bytes.

    Raises:
        ConversionError: as in `recipe`; or the state holds something that is no tensor and no plain value.
        TypeError: `path` is no file.
    """
    _check_file(path, "write")
    text = json.dumps(recipe(model))
    state = model.state_dict()
    _require_plain(state, "state_dict")
    _require_plain(versions := getattr(state, "_metadata", {}), "state_dict._metadata")
    held = {name: buffer for name, buffer in user_buffers(model).items() if name not in state}
    plain = OrderedDict(state)
    plain._metadata = versions  # type: ignore[attr-defined]
    torch.save(dict(zip(CONTENTS, (text, plain, held), strict=True)), path)


def _check_file(path: Any, use: str) -> None:
    """Refuse what is no file name and no open file.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(path, (str, PathLike)) and not callable(getattr(path, use, None)):
        raise TypeError(f"path={short(path)}: give a file name, or a file that is open to {use} bytes")


def _require_plain(value: Any, place: str) -> None:
    """Refuse a state that only a pickle could hold."""
    if isinstance(value, Mapping):
        for name, held in value.items():
            _require_plain(held, f"{place}[{name!r}]")
    elif isinstance(value, (list, tuple)):
        for i, held in enumerate(value):
            _require_plain(held, f"{place}[{i}]")
    elif value is not None and not isinstance(value, (Tensor, bool, int, float, str)):
        raise ConversionError(
            f"{place} is a {type(value).__name__}",
            why="a file that weights_only=True reads has tensors and plain values only",
            do="return these from get_extra_state, or save the whole model: torch.save(model, ...)",
        )


def load(path: File, model: nn.Module) -> nn.Module:
    """Load a file of `save` into a fresh instance: it is converted as the saved model was, and gets its state.

    Nothing is traced, and the result equals the saved model bit for bit. Values are put on the instance's device, in
    the precision they were saved in. What no state has stays as the instance has it: train or eval mode, which
    parameters are trained, plain attributes.

    Args:
        path: a file name, or a file opened for reading bytes.
        model: a fresh instance of the saved model's class, made with the same arguments, or one that was converted
            alike; changed in place.

    Returns: the same object.

    Raises:
        ConversionError: the file is none of `save`, or does not fit the model, as in `apply_recipe`; it is unchanged.
        TypeError: `model` is no model, or `path` no file.
    """
    check_model(model)
    _check_file(path, "read")
    written, state, buffers = _contents(_read(path))
    _check_recipe(written)
    alike = _is_converted_alike(model, written)
    if not alike:
        readable(written, lambda: require_outline(model, written["outline"]))
    all_or_nothing(model, lambda: _filled(model, None if alike else written, state, buffers))
    return model


def _read(path: File) -> Any:
    """What a file holds, read without running code that it may hold."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as reason:
        raise ConversionError(
            "the file holds more than tensors and plain values",
            got=first_line(reason),
            why="it was not written by save(model, path), and reading it could run any code",
            do="if it is a whole model that torch.save wrote, and you trust it: torch.load(path, weights_only=False)",
        ) from reason


def _contents(file: Any) -> tuple[Any, Mapping[str, Any], Mapping[str, Tensor]]:
    """Recipe, state and buffers of a file."""
    if not isinstance(file, Mapping) or not all(name in file for name in CONTENTS):
        keys = [*file][:3] if isinstance(file, Mapping) else []
        inner = file.get("state_dict", file) if isinstance(file, Mapping) else {}
        tied = isinstance(inner, Mapping) and any(".original" in str(key) for key in inner)
        raise ConversionError(
            "the file was not written by save(model, path)",
            got=f"a {type(file).__name__}" + (f" with {', '.join(map(str, keys))}, ..." if keys else ""),
            why="it has no recipe, so how the model was converted is not known",
            do="convert the model, then load the state: model.load_state_dict for a state of a converted model"
            + (", which this seems to be" if tied else ", load_plain_state_dict for one of the plain class"),
        )
    text, state, buffers = (file[name] for name in CONTENTS)
    return readable(text, lambda: json.loads(text)), state, buffers


@alone
def _filled(model: nn.Module, written: Recipe | None, state: Mapping[str, Any], buffers: Mapping[str, Tensor]) -> None:
    """Attach what a recipe says, and set the state and the buffers."""
    if written is not None:
        attach_all(model, written)
    for name, held in (*model.named_parameters(), *model.named_buffers()):
        value = state.get(name)
        if isinstance(value, Tensor) and held.dtype != value.dtype:
            held.data = held.data.to(value.dtype)
    model.load_state_dict(state)
    for name, value in buffers.items():
        module, leaf = owner(model, name)
        setattr(module, leaf, value.to(getattr(module, leaf).device))
