"""The law, measured on a converted model as it is, with random inputs of the shapes of a call."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .._torch import is_recorded, pytree, transform_level
from ..algebra import axis as ax
from ..algebra.action import Action
from ..algebra.arguments import Example, leaves
from ..algebra.nesting import input_actions, output_specs
from ..algebra.opened import opened
from ..algebra.plain import read_setting
from ..errors import BreaksSymmetryError, ConversionError, first_line
from ..graph.sandbox import alone, fresh_copy, positional_names
from ..measure.large import error_anew, fails_as_given
from ..measure.law import Allowed
from ..measure.lengths import resized
from ..measure.probe import Probe
from ..measure.report import allowed_actions, check_equivariance
from ..measure.verification import Verification, undecided
from ..measure.verify import ROUNDED_CONSTANTS, verify
from ..tie.argument_guard import Call
from ..tie.attaching import ties
from ..tie.checks import drop_checks
from ..tie.notes import noted
from ..tie.watched_hooks import MEASURING, keep_acting_hooks
from .ways_of_calls import goes_by_sizes, goes_otherwise

KNOWN = 256
"""States that were found to do no harm, at most."""

MOST_SIZES = 2**14
"""Sizes of calls that are remembered, at most."""

UNSEEN_SIZES = (
    "forward may go by the sizes of its inputs, and those of calls with new sizes are not looked at any more: {}; "
    "call the model with them before it is wrapped"
)
"""What is said once where a model was wrapped so that it cannot be copied, as `fully_shard` does."""

CANNOT = "in a transform or a trace that cannot be measured: call the model as it is first"
"""Why a state is refused that was not measured before."""

SAMPLES = (16, 8, 4, 2)
"""Samples that are measured, where the batch of a call can be told: a gate that is closed for some hides a fault."""

ENTRIES = 2**17
"""Entries of all inputs of so many samples."""

MOST_MARKS = 32
"""Classes of tensors, and attributes that they have, that are looked at."""

DRAWS = 2
"""Sets of random weights."""


@alone
def fault_of(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], rounded: bool) -> str | None:
    """Why a converted model, as it is now, does not obey the law; None where it does.

    Args:
        model: not touched.
        args, kwargs: of a call; their shapes and what are no tensors count.
        rounded: it holds constants, which may obey the law to their rounding only.

    Raises:
        BreaksSymmetryError: the model refuses the call.
    """
    before = MEASURING.set(True)
    try:
        twin, call = _copy_and_call(model, args, kwargs)
        if not (ties(twin) or twin.training):  # baked, or one that needs no ties: it is measured as it is
            return _fault_as_it_is(twin, call)
        found = _measured(twin, call, ROUNDED_CONSTANTS if rounded else 0.0)
    except BreaksSymmetryError:  # a refusal that the model carries: it names the place
        raise
    except Exception as reason:  # a model may raise anything
        return f"whether the strands agree now could not be measured: {first_line(reason)}"
    finally:
        MEASURING.reset(before)
    if found.passed:
        return None
    return f"now the strands disagree: {undecided(found) or f'error {found.error:.1e} on random sequences'}"


def _fails_there_only(model: nn.Module, given: Call, usual: Call) -> bool:
    """Whether the law clearly fails in a call, and not in the usual one: there a plan knew more of the outputs."""
    return clearly_fails(model, *given) and not clearly_fails(model, *usual)


@alone
def clearly_fails(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the law clearly fails in eval mode at the sizes of a call, on one random input, if that can be told.

    Args:
        model, args, kwargs: as of `fault_of`.
    """
    before = MEASURING.set(True)
    try:
        twin, call = _copy_and_call(model, args, kwargs)
        return fails_as_given(*_probe(call.example, twin.eval(), call)[:2])
    except Exception:  # a model may raise anything
        return False
    finally:
        MEASURING.reset(before)


def _copy_and_call(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[nn.Module, _Call]:
    """A copy of a model without what looks for changes, and a call of it as an example."""
    twin = fresh_copy(model)
    drop_checks(twin, lambda check: not check.on_copies)
    keep_acting_hooks(twin.modules())
    if kwargs and len(args) > len(positional_names(twin)):  # forward(self, *args, **kwargs): not all have names
        twin.forward, kwargs = partial(twin.forward, **kwargs), {}
    return twin, _Call(twin, args, kwargs)


class _Call:
    """A call as an example, with the specs that a model was converted with.

    Args:
        model: what is called.
        args, kwargs: with what. Tensors that the conversion did not have are taken for invariant.
    """

    def __init__(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        words: Mapping[str, Any] = (noted(model) or {}).get("settings", {})
        given = {name: read_setting(value) for name, value in words.items()}
        self.outputs = given.get("outputs", "auto")
        self.inputs, self.layout = given.get("inputs", "ACGT"), given.get("layout", "auto")
        names = positional_names(model)
        call = {**dict(zip(names, args, strict=False)), **kwargs}
        self.example = _as_example(model, args, kwargs, self.inputs)
        several = isinstance(self.inputs, Mapping) or sum(isinstance(value, Tensor) for value in call.values()) > 1
        if several and len(args) <= len(names):
            self._name(call, [name for name in names if name in call] + [n for n in kwargs if n not in names])
        if isinstance(self.inputs, Mapping):  # a call may leave some out, such as the labels of a loss
            self.inputs = {name: spec for name, spec in self.inputs.items() if name in call}

    def _name(self, call: dict[str, Any], names: list[str]) -> None:
        """State the specs by name, where the conversion had fewer tensors."""
        if isinstance(self.inputs, Mapping):
            known, layouts = dict(self.inputs), self.layout if isinstance(self.layout, Mapping) else {}
        else:
            specs = self.inputs if isinstance(self.inputs, (tuple, list)) else [self.inputs]
            known = dict(zip(names, specs, strict=False))
            rows = self.layout if isinstance(self.layout, (tuple, list)) else [self.layout] * len(specs)
            layouts = dict(zip(names, rows, strict=False))
        if any(name not in known for name in names):
            self.example = call
            self.inputs = {name: known.get(name, "invariant") for name in names}
            self.layout = {name: layouts.get(name, "auto") for name in names}


def _fault_as_it_is(model: nn.Module, call: _Call) -> str | None:
    found = check_equivariance(model, call.example, inputs=call.inputs, outputs=call.outputs, layout=call.layout)
    return None if found else f"now the strands disagree: error {found.error:.1e} on random sequences"


class MeasuredStates:
    """States of a model that were found to do no harm, each measured once."""

    def __init__(self) -> None:
        self.known: dict[Any, None] = {}
        self.plain: dict[Any, None] = {}
        self.sizes: set[Any] = set()
        self.told = False

    def __getstate__(self) -> dict[str, Any]:
        return vars(MeasuredStates())  # what was found of another model, or by another version

    def goes_otherwise(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], state: Any) -> bool:
        """Whether forward takes another way than with plain tensors of the same numbers; not where it does not run.

        Args:
            model, args, kwargs: as of `fault_of`.
            state: what sets the tensors apart from plain ones, looked at once for each mode of the model.
        """
        state = state, model.training
        if state in self.plain or len(self.plain) >= MOST_MARKS or is_watched():
            return False
        if goes_otherwise(model, args, kwargs):
            return True
        self.plain[state] = None
        return False

    def fault_at(self, model: nn.Module, given: Call, usual: Call) -> str | None:
        """As `fault_of`, of sizes at which forward takes another way than at the usual ones.

        Args:
            model: as there.
            given: the call.
            usual: the same with tensors of the example's sizes.
        """
        sizes = model.training, shapes_of(given)
        if sizes in self.sizes or is_watched():
            return None
        try:
            another = goes_by_sizes(model, given, usual) or _fails_there_only(model, given, usual)
        except ConversionError as reason:
            if not self.told:
                warnings.warn(UNSEEN_SIZES.format(reason.what), stacklevel=2)
            self.told, another = True, False
        fault = self.fault(model, *given, "sizes") if another else None
        if fault is not None and not ties(model) and self.fault(model, *usual, "usual sizes") is not None:
            fault = None  # a baked model that was trained on obeys the law nowhere
        if fault is None and len(self.sizes) < MOST_SIZES:
            self.sizes.add(sizes)
        return fault

    def fault(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], state: Any) -> str | None:
        """As `fault_of`, of a state that was not measured before.

        Args:
            model, args, kwargs: as there.
            state: what stands for it, beside the model's mode and the shapes of the call.
        """
        state = state, model.training, shapes_of((args, kwargs))
        if state in self.known:
            return None
        fault = CANNOT if is_watched() else fault_of(model, args, kwargs, bool((noted(model) or {}).get("constants")))
        if fault is None:
            if len(self.known) >= KNOWN:
                self.known.clear()
            self.known[state] = None
        return fault


def is_watched() -> bool:
    """Whether tensors have no values of their own: in transforms of ``torch.func``, and where calls are recorded."""
    return transform_level() is not None or is_recorded()


def shapes_of(call: Any) -> tuple[Any, ...]:
    """The shapes of the tensors of a call, its other arguments, and where each is."""
    leaves, spec = pytree.tree_flatten(call)
    return str(spec), *((tuple(v.shape), v.dtype) if isinstance(v, Tensor) else repr(v) for v in leaves)


def _measured(model: nn.Module, call: _Call, tolerance: float) -> Verification:
    """What the check of the law finds, with the specs that the model was converted with.

    Forward may go by the number of samples, or take no other than that of the call: it is measured with both.
    """
    _, actions = input_actions(call.example, call.inputs, call.layout)
    more = _some_samples(call.example, actions)
    if _samples_in(more, actions) == _samples_in(call.example, actions):
        return _measured_on(call.example, model, call, tolerance)
    found = _measured_on(call.example, model, call, tolerance, DRAWS if _is_small(call.example, actions) else 1)
    if not found.passed:
        return found
    try:
        return _measured_on(more, model, call, tolerance)
    except ConversionError:
        raise
    except Exception:  # a model may refuse another number of samples
        return found


def _measured_on(example: Example, model: nn.Module, call: _Call, tolerance: float, draws: int = DRAWS) -> Verification:
    """As `_measured`, on one example: that of the call with its own number of samples or another."""
    probe, allowed, specs, actions = _probe(example, model, call)
    found = verify(model, example, specs, actions, allowed, draws, model.training, tolerance=tolerance, probe=probe)
    error = error_anew(probe, allowed) if found.passed else 0.0
    return replace(found, error=error) if error else found


def _probe(example: Example, model: nn.Module, call: _Call) -> tuple[Probe, Allowed, list[Any], list[Action | None]]:
    """What runs a model on an example, the actions that its outputs may have, and specs and actions of its inputs."""
    specs, actions = input_actions(example, call.inputs, call.layout)
    probe = Probe(model, example, specs, actions)
    return (
        probe,
        partial(allowed_actions, output_specs(call.outputs, opened(probe.usual_outputs())), None),
        specs,
        actions,
    )


def _as_example(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], inputs: Any) -> Example:
    """A call as one example, nested as the specs of its inputs are."""
    names = positional_names(model)
    named = {**dict(zip(names, args, strict=False)), **kwargs}
    if isinstance(inputs, Mapping) or (kwargs and not isinstance(inputs, (tuple, list))):
        return named
    return tuple(named[name] for name in names if name in named) if kwargs else args


def _some_samples(example: Example, actions: list[Action | None]) -> Example:
    """A call with some samples, where the first axis of each tensor is its batch."""
    roles = [ax.role(action.axes[0]) if action.axes else None for action in actions if action is not None]
    sizes = _samples_in(example, actions)
    if any(value.layout is not torch.strided for value in _inputs(example, actions)):
        raise ValueError("random inputs of this layout are not made")  # `fault_of` says so
    if not (all(sizes) and all(role is not None and role.name == "batch" for role in roles)):
        return example
    of_one = sum(value.numel() // size for value, size in zip(_inputs(example, actions), sizes, strict=True))
    samples = next((n for n in SAMPLES if n * of_one <= ENTRIES), SAMPLES[-1])
    return resized(example, actions, [{} for _ in actions], samples)[0]


def _samples_in(example: Example, actions: list[Action | None]) -> list[int]:
    """The size of the first axis of each tensor."""
    return [value.shape[0] if value.dim() else 0 for value in _inputs(example, actions)]


def _is_small(example: Example, actions: list[Action | None]) -> bool:
    """Whether a call has so few entries that it is measured in full with its own number of samples."""
    return sum(value.numel() for value in _inputs(example, actions)) <= ENTRIES


def _inputs(example: Example, actions: list[Action | None]) -> list[Tensor]:
    return [value for value, a in zip(leaves(example), actions, strict=True) if a is not None]
