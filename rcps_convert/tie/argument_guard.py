"""Arguments that the example of a conversion did not have, or had with another value, are measured, or refused."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from .._torch import is_compiling, pytree
from ..algebra.arguments import Example, argument_names, call_arguments
from ..errors import BreaksSymmetryError
from ..graph.sandbox import positional_names
from .checks import Check, attach_check, drop_checks
from .length_guard import LengthGuard, LengthRule, guard

PLAIN = (bool, int, float, str, type(None))
"""Kinds of values that decide which way a forward takes."""

PATIENCE = 8
"""Values of a number that are measured before those between them are taken."""

OTHER_WAY = "with it forward may take a way that was not traced"
"""What is said where nothing was measured."""


Call = tuple[tuple[Any, ...], dict[str, Any]]
"""What a module is called with, by position and by name."""


class States(Protocol):
    """Measures calls, each kind of them once."""

    def fault(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], state: Any) -> str | None:
        """Why a call does not obey the law; None where it does."""

    def goes_otherwise(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], state: Any) -> bool:
        """Whether forward takes another way than with plain tensors of the same numbers."""

    def fault_at(self, model: nn.Module, given: Call, usual: Call) -> str | None:
        """The same of sizes at which forward takes another way than in a call as on the example."""


GivenArguments = dict[str, list[Any]]
"""By name of an argument what it was given as: a plain value, or the text of a table; empty for tensors and objects."""


class ArgumentGuard(Check):
    """The check of a converted model whose forward takes more than the tensors of the example.

    Args:
        given: what the example gave; see `GivenArguments`.
        names: of the parameters of forward that can be given by position.
        defaults: of its parameters that may be left out.
        states: measures a call with other arguments; None where they are refused.
    """

    on_copies = False
    by_form = True

    def __init__(
        self,
        given: GivenArguments,
        names: Sequence[str] = (),
        defaults: Mapping[str, Any] | None = None,
        states: States | None = None,
    ) -> None:
        self.given, self.names, self.defaults = given, tuple(names), dict(defaults or {})
        self.states = states
        self.numbers: dict[str, list[float]] = {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({"states": None, "numbers": {}, **state})

    def plain(self) -> dict[str, Any]:
        """What the example gave, as plain values."""
        return {"given": {name: [*values] for name, values in self.given.items()}}

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Measure a call with an argument with which the model was not converted.

        Raises:
            BreaksSymmetryError: the example did not have it, or had another value of it, and with it the strands
                disagree, or that cannot be measured.
        """
        call = dict(zip(argument_names(self.names, len(args)), args, strict=True)) | kwargs
        left_out = {name: self.defaults[name] for name in self.given if name not in call and name in self.defaults}
        call |= left_out
        others = {name: why for name, value in call.items() if (why := self._why(name, value)) is not None}
        new = {name: why for name, why in others.items() if not self._is_between(call[name], name)}
        if not new:
            return
        fault = "" if self.states is None or is_compiling() else self.states.fault(module, args, kwargs, None)
        if fault is not None:
            name = next(iter(new))
            raise _refused(name, call[name], f"{new[name]}, and {fault or OTHER_WAY}")
        for name in new:
            self._remember(name, call[name])

    def _is_between(self, value: Any, name: str) -> bool:
        """Whether a number lies among, or near, enough others that did no harm, such as a temperature that falls."""
        found = self.numbers.get(name, ())
        if not self._is_number(value, name) or len(found) < PATIENCE:
            return False
        return min(found) - abs(min(found)) / 2 <= value <= max(found) + abs(max(found)) / 2

    def _is_number(self, value: Any, name: str) -> bool:
        """Whether a value is one of many; a whole one that forward names may count, and one it gathers is counted."""
        gathered = name not in self.defaults and name not in self.given
        return type(value) is float or (type(value) is int and gathered)

    def _remember(self, name: str, value: Any) -> None:
        """Note a number that did no harm."""
        found = self.numbers.setdefault(name, [])
        if self._is_number(value, name) and value not in found:
            found[:] = (
                [*found, value] if len(found) < PATIENCE else [min(*found, value), *found[1:-1], max(*found, value)]
            )

    def _why(self, name: str, value: Any) -> str | None:
        """Why an argument is not taken as it is; None where it is as in the conversion, or says nothing."""
        known = self.given.get(name)
        if known is None:
            return self._why_more(name, value)
        if known:
            was = repr(known[0]) if isinstance(value, PLAIN) else known[0]
            return None if _same(value, known[0]) else f"the model was converted with {name}={was}"
        return f"the model was converted with one in the place of {name}={value}" if isinstance(value, PLAIN) else None

    def _why_more(self, name: str, value: Any) -> str | None:
        """The same of an argument that the example left out."""
        is_usual = name in self.defaults and _same(value, self.defaults[name])
        return None if is_usual else "the example of the conversion did not have it"


def _same(value: Any, known: Any) -> bool:
    if value is known or type(value) is type(known) in PLAIN:
        return bool(value is known or value == known)
    return _said(value) == [known] and not isinstance(value, PLAIN)


def _said(value: Any) -> list[Any]:
    """A plain value as it is, and the text of a table of such; nothing where there are only tensors or objects."""
    if isinstance(value, PLAIN):
        return [value]
    leaves = pytree.tree_leaves(value)
    if leaves and not any(isinstance(leaf, PLAIN) for leaf in leaves):
        return []
    return [
        repr(pytree.tree_map_only(lambda leaf: not isinstance(leaf, PLAIN), lambda leaf: type(leaf).__name__, value))
    ]


def _refused(name: str, value: Any, why: str) -> BreaksSymmetryError:
    return BreaksSymmetryError(
        f"argument {name} is given as it was not when the model was converted",
        got=words_of(value),
        why=why,
        do="convert the model with an example that holds every argument as in this call",
    )


def words_of(value: Any) -> str:
    """What a call gives, in words."""
    kind = str(value.dtype).removeprefix("torch.") if isinstance(value, Tensor) else ""
    return f"a tensor of shape {tuple(value.shape)}, {kind}" if kind else repr(value)[:60]


def given_by(model: nn.Module, example: Example) -> GivenArguments | None:
    """What an example gives; None where forward takes nothing else than the tensors of the example.

    Args:
        model: what is called.
        example: with what.
    """
    args, kwargs = call_arguments(example)
    names = positional_names(model)
    pairs = [*zip(argument_names(names, len(args)), args, strict=True), *kwargs.items()]
    given = {name: _said(value) for name, value in pairs}
    others = _defaults(model).keys() - given.keys()
    return given if others or any(given.values()) or _gathers(model) else None


def read_given(data: Mapping[str, Any]) -> GivenArguments:
    """What `ArgumentGuard.plain` describes."""
    given = {str(name): [*values] for name, values in data["given"].items()}
    if not all(isinstance(value, PLAIN) for values in given.values() for value in values):
        raise ValueError("an argument has a value that is none of a recipe")
    return given


def _parameters(model: nn.Module) -> list[inspect.Parameter]:
    try:
        return [*inspect.signature(model.forward).parameters.values()]
    except (TypeError, ValueError):  # a forward without a signature
        return []


def _defaults(model: nn.Module) -> dict[str, Any]:
    return {p.name: p.default for p in _parameters(model) if p.default is not p.empty}


def _gathers(model: nn.Module) -> bool:
    """Whether forward takes any argument by name."""
    return any(p.kind is p.VAR_KEYWORD for p in _parameters(model))


def guard_calls(
    model: nn.Module, rules: Sequence[LengthRule], given: GivenArguments | None, states: States | None = None
) -> None:
    """Attach the checks of a model's calls: of their lengths, and of their arguments; none where there is no need."""
    if rules:
        guard(model, rules)
    if given is not None:
        guard_arguments(model, given, states)


def unguard_calls(model: nn.Module) -> None:
    """Detach the checks of a model's calls."""
    drop_checks(model, lambda check: isinstance(check, (LengthGuard, ArgumentGuard)))


def guard_arguments(model: nn.Module, given: GivenArguments, states: States | None = None) -> None:
    """Attach an `ArgumentGuard` to a model, in place of one it may have."""
    drop_checks(model, lambda check: isinstance(check, ArgumentGuard))
    attach_check(model, ArgumentGuard(given, positional_names(model), _defaults(model), states))
