"""The law, measured on a converted model as it is, with random inputs of the shapes of a call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from ..algebra import axis as ax
from ..algebra.action import Action
from ..algebra.arguments import Example, leaves, with_leaves
from ..algebra.nesting import input_actions, output_specs
from ..algebra.opened import opened
from ..algebra.plain import read_setting
from ..errors import BreaksSymmetryError, first_line
from ..graph.sandbox import alone, fresh_copy, positional_names
from ..measure.probe import Probe
from ..measure.report import allowed_actions
from ..measure.verify import ROUNDED_CONSTANTS, Verification, undecided, verify
from ..tie.checks import Check, drop_checks
from ..tie.notes import noted

SAMPLES = 2
"""Samples of a call that are measured, where its batch can be told."""


@alone
def fault_of(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], skip: Callable[[Check], bool], rounded: bool
) -> str | None:
    """Why a converted model, as it is now, does not obey the law; None where it does.

    Args:
        model: not touched.
        args, kwargs: of a call; their shapes and what are no tensors count.
        skip: which checks of its calls are not asked.
        rounded: it holds constants, which may obey the law to their rounding only.

    Raises:
        BreaksSymmetryError: the model refuses the call.
    """
    try:
        twin = fresh_copy(model)
        drop_checks(twin, skip)
        found = _measured(twin, args, kwargs, ROUNDED_CONSTANTS if rounded else 0.0)
    except BreaksSymmetryError:  # a refusal that the model carries: it names the place
        raise
    except Exception as reason:  # a model may raise anything
        return f"whether the strands agree now could not be measured: {first_line(reason)}"
    if found.passed:
        return None
    return f"now the strands disagree: {undecided(found) or f'error {found.error:.1e} on random sequences'}"


def _measured(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], tolerance: float) -> Verification:
    """What the check of the law finds, with the specs that the model was converted with."""
    words: Mapping[str, Any] = (noted(model) or {}).get("settings", {})
    given = {name: read_setting(value) for name, value in words.items()}
    inputs, outputs = given.get("inputs", "ACGT"), given.get("outputs", "auto")
    example = _as_example(model, args, kwargs, inputs)
    specs, actions = input_actions(example, inputs, given.get("layout", "auto"))
    example = _few_samples(example, actions)
    specs, actions = input_actions(example, inputs, given.get("layout", "auto"))
    probe = Probe(model, example, specs, actions)
    allowed = partial(allowed_actions, output_specs(outputs, opened(probe.usual_outputs())), None)
    return verify(model, example, specs, actions, allowed, 1, model.training, tolerance=tolerance, probe=probe)


def _as_example(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], inputs: Any) -> Example:
    """A call as one example, nested as the specs of its inputs are."""
    names = positional_names(model)
    named = {**dict(zip(names, args, strict=False)), **kwargs}
    if isinstance(inputs, Mapping) or (kwargs and not isinstance(inputs, (tuple, list))):
        return named
    return tuple(named[name] for name in names if name in named) if kwargs else args


def _few_samples(example: Example, actions: list[Action | None]) -> Example:
    """The first samples of a call, where the first axis of each tensor is its batch."""
    roles = [ax.role(action.axes[0]) if action.axes else None for action in actions if action is not None]
    if not all(role is not None and role.name == "batch" for role in roles):
        return example
    cut = [value if a is None else value[:SAMPLES] for value, a in zip(leaves(example), actions, strict=True)]
    return with_leaves(example, cut)
