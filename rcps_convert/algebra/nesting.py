"""Matching specs to a call: one spec per tensor, nested as the arguments and outputs are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .._torch import pytree
from ..errors import NeedsChoiceError, Where
from .action import Action
from .arguments import Example, call_arguments, check_model, checked_example, holds_shapes, leaves, with_leaves
from .opened import opened
from .specs import Mask, Spec, Tokens, check_layout, read_spec


def read_call(model: Any, example: Any, inputs: Any) -> Example:
    """The example a model is called with, once both are known to be what they should.

    Args:
        model: what a user gives as a model.
        example: what a user gives as an example; of a shape zeros are made, ids where the input is `Tokens`.
        inputs: what the input is.

    Raises:
        TypeError, ValueError, ConversionError: one of them is something else; the message says what to give.
    """
    check_model(model)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    read = checked_example(example, torch.float32, device)
    if inputs is None or not holds_shapes(example):
        return read
    specs = _per_leaf(inputs, read, "inputs")
    values = [v.long() if isinstance(s, Tokens) else v for v, s in zip(leaves(read), specs, strict=True)]
    return values[0] if isinstance(read, Tensor) else with_leaves(read, values)


def input_actions(example: Example, inputs: Any, layout: Any) -> tuple[list[Spec | None], list[Action | None]]:
    """Spec and action of each input leaf; None for leaves that are no tensors.

    Raises:
        NeedsChoiceError: one spec for several tensors, or a shape that fits several readings or none.
        ValueError: a spec that cannot be read.
    """
    values, names = leaves(example), leaf_names(example)
    specs = [
        read_spec(s, "inputs") if isinstance(v, Tensor) else None
        for v, s in zip(values, _per_leaf(inputs, example, "inputs"), strict=True)
    ]
    specs = _with_ends(specs)
    layouts = ["auto"] * len(values) if is_auto(layout) else _per_leaf(layout, example, "layout")
    layouts = ["auto" if how is None else how for how in layouts]
    for how in layouts:
        check_layout(how)
    actions: list[Action | None] = []
    for value, spec, how, name in zip(values, specs, layouts, names, strict=True):
        try:
            actions.append(None if spec is None else spec.action(value.shape, how))
        except NeedsChoiceError as error:
            error.where = Where(f"input {name}")
            raise
    return specs, actions


def _with_ends(specs: list[Spec | None]) -> list[Spec | None]:
    """The specs, masks with special tokens at their ends where the ids beside them have some."""
    ended = next((s for s in specs if isinstance(s, Tokens) and s.is_ended), None)
    return [s.with_ends(ended) if isinstance(s, Mask) and ended is not None else s for s in specs]


def is_auto(given: Any) -> bool:
    """Whether a setting is left to the library."""
    return isinstance(given, str) and given == "auto"


def leaf_names(example: Example) -> list[str]:
    """A name for each input leaf, such as ``0``, ``1.counts`` or ``dna``."""
    args, kwargs = call_arguments(example)
    return structure_names(kwargs if kwargs else args)


def structure_names(structure: Any) -> list[str]:
    """A name for each leaf of a nested structure, from its positions and keys; ``0`` for a single leaf."""
    found, _ = pytree.tree_flatten_with_path(structure)
    return [_name(path) or "0" for path, _ in found]


def output_fields(output: Any) -> list[str]:
    """The names of an output's leaves where each is known by a key; none where some are known by their place."""
    whole = opened(output, loosely=True)
    names = structure_names(whole) if isinstance(whole, dict) else []
    return names if not any(part.isdigit() for name in names for part in name.split(".")) else []


def _name(path: Any) -> str:
    return ".".join(str(getattr(k, "key", getattr(k, "idx", k))) for k in path)


def _per_leaf(given: Any, example: Example, what: str) -> list[Any]:
    """One entry per leaf of the call."""
    args, kwargs = call_arguments(example)
    if isinstance(example, (Mapping, tuple, list)):
        structure: Any = kwargs if isinstance(example, Mapping) else args
    else:
        structure = args[0]
    return lay_over(given, structure, what)


EXPECTED = {
    "inputs": "give an alphabet such as 'ACGT', tracks such as '+-.', 'invariant', 'mask', or a spec such as "
    "Tokens(...), nested as the example is",
    "outputs": "give 'auto', 'invariant', 'antisymmetric', tracks such as '+-', an alphabet, or a spec, nested as the "
    "outputs are",
    "layout": "give 'auto' or axes in einops letters such as 'n c l', nested as the example is",
}
"""What a setting takes."""


def lay_over(given: Any, structure: Any, what: str) -> list[Any]:
    """Specs laid over a nested structure: one entry per leaf, by position or by key; None for what is no tensor.

    Raises:
        NeedsChoiceError: one spec for several tensors, or another nesting.
        TypeError: it holds something else.
    """
    if given is None and not isinstance(structure, (Tensor, Mapping, tuple, list)):
        return [None]
    if given is None or not isinstance(given, (str, Spec, Mapping, tuple, list)):
        raise TypeError(f"{what}={given!r}: {EXPECTED.get(what, EXPECTED['layout'])}")
    if isinstance(given, (str, Spec)):
        values = pytree.tree_leaves(structure)
        count = sum(isinstance(v, Tensor) for v in values)
        if count > 1:
            raise NeedsChoiceError(
                f"one spec for {count} tensors: {what}={given!r}",
                why="each tensor transforms in its own way",
                do=f"give one per tensor, nested alike, such as {what}={_form(structure, what)}"
                + ('; "mask" is reversed with its sequence, "invariant" does not change' if what == "inputs" else ""),
            )
        return [given] * len(values)
    if isinstance(given, Mapping) and isinstance(structure, Mapping) and set(given) == set(structure):
        return [s for key in structure for s in lay_over(given[key], structure[key], what)]
    if isinstance(given, (tuple, list)) and isinstance(structure, (tuple, list)) and len(given) == len(structure):
        return [s for g, part in zip(given, structure, strict=True) for s in lay_over(g, part, what)]
    if not isinstance(structure, (Tensor, Mapping, tuple, list)):
        return [given]
    raise NeedsChoiceError(
        f"{what}={given!r} does not match the tensors it describes",
        got=_outline(structure),
        why="specs nest as the arguments and outputs do: tuples by position, dicts by key",
        do=f"write one spec in the place of each tensor, such as {what}={_form(structure, what)}",
    )


def _form(structure: Any, what: str) -> str:
    """Specs in the place of tensors, as they may be written."""
    if isinstance(structure, Mapping):
        return "{" + ", ".join(f'"{k}": {_form(v, what)}' for k, v in structure.items()) + "}"
    if isinstance(structure, (tuple, list)):
        return "(" + ", ".join(_form(v, what) for v in structure) + ")"
    if not isinstance(structure, Tensor):
        return "None"
    if what != "inputs":
        return '"auto"'
    ids = not structure.is_floating_point() and structure.dim() == 2
    return "Tokens(...)" if ids else '"ACGT"' if structure.dim() > 2 else '"invariant"'


def _outline(structure: Any) -> str:
    if isinstance(structure, Tensor):
        return str(tuple(structure.shape))
    if isinstance(structure, Mapping):
        return "{" + ", ".join(f"{k!r}: {_outline(v)}" for k, v in structure.items()) + "}"
    if isinstance(structure, (tuple, list)):
        return "(" + ", ".join(_outline(v) for v in structure) + ")"
    return repr(structure)


def output_specs(outputs: Any, structure: Any) -> list[Spec | str]:
    """One spec, or ``"auto"``, per output leaf.

    Raises:
        NeedsChoiceError: one spec for several outputs, or another nesting.
        ValueError: a spec that cannot be read.
    """
    if is_auto(outputs):
        return ["auto"] * len(pytree.tree_leaves(structure))
    given = lay_over(outputs, structure, "outputs")
    return [_output_spec(s, y) for s, y in zip(given, pytree.tree_leaves(structure), strict=True)]


def _output_spec(given: Any, output: Any) -> Spec | str:
    if given is None or is_auto(given):
        return "auto"
    spec = read_spec(given, "outputs")
    whole = not isinstance(output, Tensor) or not output.is_floating_point()
    return spec if whole or not isinstance(spec, Tokens) else spec.scores()
