"""Arguments that the example of a conversion did not have, or had with another value, are refused when given."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from .._torch import pytree
from ..algebra.arguments import Example, argument_names, call_arguments
from ..errors import BreaksSymmetryError
from ..graph.sandbox import positional_names
from .checks import Check, attach_check, drop_checks
from .length_guard import LengthGuard, LengthRule, guard

PLAIN = (bool, int, float, str, type(None))
"""Kinds of values that decide which way a forward takes."""

GivenArguments = dict[str, list[Any]]
"""By name of an argument the plain values that it was given as; empty where it was something else."""


class ArgumentGuard(Check):
    """The check of a converted model whose forward takes more than the tensors of the example.

    Args:
        given: what the example gave; see `GivenArguments`.
        names: of the parameters of forward that can be given by position.
        defaults: of its parameters that may be left out.
    """

    def __init__(
        self, given: GivenArguments, names: Sequence[str] = (), defaults: Mapping[str, Any] | None = None
    ) -> None:
        self.given, self.names, self.defaults = given, tuple(names), dict(defaults or {})

    def plain(self) -> dict[str, Any]:
        """What the example gave, as plain values."""
        return {"given": {name: [*values] for name, values in self.given.items()}}

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuse an argument with which the model was not converted.

        Raises:
            BreaksSymmetryError: the example did not have it, or had another value of it.
        """
        call = dict(zip(argument_names(self.names, len(args)), args, strict=True)) | kwargs
        left_out = {name: self.defaults[name] for name in self.given if name not in call and name in self.defaults}
        said = {name: value for name, value in left_out.items() if isinstance(value, PLAIN) and self.given[name]}
        for name, value in {**call, **said}.items():
            known = self.given.get(name)
            if known is None:
                self._require_default(name, value)
            elif known and not _same(value, known[0]):
                raise _refused(name, value, f"the model was converted with {name}={known[0]!r}")

    def _require_default(self, name: str, value: Any) -> None:
        """Refuse an argument that the example left out, unless it says nothing."""
        if name in self.defaults:
            says = not _same(value, self.defaults[name]) and (isinstance(value, PLAIN) or _has_tensor(value))
        else:  # gathered by **kwargs: numbers are passed on, such as counts that a loss is divided by
            says = isinstance(value, (bool, str)) or _has_tensor(value)
        if says:
            raise _refused(name, value, "the example of the conversion did not have it")


def _same(value: Any, known: Any) -> bool:
    return value is known or (isinstance(known, PLAIN) and type(value) is type(known) and bool(value == known))


def _has_tensor(value: Any) -> bool:
    """Whether a value has a tensor with axes."""
    return any(isinstance(leaf, Tensor) and leaf.dim() for leaf in pytree.tree_leaves(value))


def _refused(name: str, value: Any, why: str) -> BreaksSymmetryError:
    got = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)[:60]
    return BreaksSymmetryError(
        f"argument {name} is given as it was not when the model was converted",
        got=got,
        why=f"{why}, and with it forward may take a way that was not traced",
        do="convert the model with an example that holds every argument as in this call",
    )


def given_by(model: nn.Module, example: Example) -> GivenArguments | None:
    """What an example gives; None where forward takes nothing else than the tensors of the example.

    Args:
        model: what is called.
        example: with what.
    """
    args, kwargs = call_arguments(example)
    names = positional_names(model)
    pairs = [*zip(argument_names(names, len(args)), args, strict=True), *kwargs.items()]
    given = {name: [value] if isinstance(value, PLAIN) else [] for name, value in pairs}
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


def guard_calls(model: nn.Module, rules: Sequence[LengthRule], given: GivenArguments | None) -> None:
    """Attach the checks of a model's calls: of their lengths, and of their arguments; none where there is no need."""
    if rules:
        guard(model, rules)
    if given is not None:
        guard_arguments(model, given)


def unguard_calls(model: nn.Module) -> None:
    """Detach the checks of a model's calls."""
    drop_checks(model, lambda check: isinstance(check, (LengthGuard, ArgumentGuard)))


def guard_arguments(model: nn.Module, given: GivenArguments) -> None:
    """Attach an `ArgumentGuard` to a model, in place of one it may have."""
    drop_checks(model, lambda check: isinstance(check, ArgumentGuard))
    attach_check(model, ArgumentGuard(given, positional_names(model), _defaults(model)))
