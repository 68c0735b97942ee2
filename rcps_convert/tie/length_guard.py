"""Lengths at which a converted model is not exact, or was not shown to be, are refused when it is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from torch import Tensor, nn

from .._torch import not_compiled, pytree
from ..algebra.axis import Step, follows, nearest
from ..algebra.texts import read_step, write_step
from ..errors import BreaksSymmetryError
from ..graph.sandbox import positional_names
from .checks import Check, attach_check, drop_checks

REMAINDER = "at this length an operator that cannot be re-anchored leaves a remainder at the right edge"
"""Why a length is refused at which a window does not reach both edges alike."""


@dataclass(frozen=True)
class LengthRule:
    """At which lengths of one input operators read both edges alike.

    Attributes:
        argument: name of the argument that holds the input; its number where it has no name.
        place: index of the input among the leaves of that argument.
        dim: its length axis.
        start: the length it was converted at, in positions.
        chains: for each way the length takes through the model, what each operator does to it.
        why: why a length is refused.
    """

    argument: str
    place: int
    dim: int
    start: int
    chains: tuple[tuple[Step, ...], ...]
    why: str = REMAINDER

    def plain(self) -> dict[str, Any]:
        """The rule as plain values, for `read_rule`."""
        chains = [[write_step(step) for step in chain] for chain in self.chains]
        return {**{f.name: getattr(self, f.name) for f in fields(self)}, "chains": chains}

    def holds(self, length: int) -> bool:
        """Whether every operator reads both edges of this length alike."""
        return all(follows(c, length) for c in self.chains)

    def ends_well(self, length: int) -> bool:
        """Whether the last operator of each chain does; those before it may be re-anchored."""
        return all(steps[-1].aligned(through(steps[:-1], length)) for steps in self.chains)

    def nearest(self, length: int) -> list[int]:
        """The nearest lengths below and above at which the last operators read both edges alike."""
        return nearest(length, self.ends_well)

    @property
    def fixed(self) -> bool:
        """Whether the length it was converted at is the only one."""
        return all(steps[-1].only == through(steps[:-1], self.start) for steps in self.chains)

    def found_in(self, names: Sequence[str], args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
        """The length of the input in a call; that of the conversion where the call has no such input."""
        if self.argument in kwargs:
            value = kwargs[self.argument]
        else:
            index = names.index(self.argument) if self.argument in names else _number(self.argument)
            value = args[index] if index is not None and index < len(args) else None
        if isinstance(value, Tensor):
            leaf: Any = value if self.place == 0 else None
        else:
            leaf = dict(enumerate(pytree.tree_leaves(value))).get(self.place)
        known = isinstance(leaf, Tensor) and self.dim < leaf.dim()
        return int(leaf.shape[self.dim]) if known else self.start


def only_at(rule: LengthRule, length: int) -> LengthRule:
    """The rule that an input has one length, in positions."""
    why = "the model was baked for another length: what it needs at this one was left out"
    return replace(rule, start=length, chains=((Step(1, 0, only=length),),), why=why)


def read_rule(data: Mapping[str, Any]) -> LengthRule:
    """The rule that `LengthRule.plain` describes.

    Raises:
        ConversionError: a step cannot be read.
    """
    return LengthRule(**{**data, "chains": tuple(tuple(map(read_step, chain)) for chain in data["chains"])})


def _number(argument: str) -> int | None:
    return int(argument) if argument.isdigit() else None


def through(steps: Sequence[Step], length: int) -> int:
    """A length after several operators."""
    for step in steps:
        length = step.out(length)
    return length


class LengthGuard(Check):
    """The check of a converted model that is exact at some lengths only.

    Args:
        rules: for each input with such a length.
        names: of the parameters of forward that can be given by position.
    """

    by_form = True

    def __init__(self, rules: Sequence[LengthRule], names: Sequence[str] = ()) -> None:
        self.rules, self.names = tuple(rules), tuple(names)

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuse a length at which the model is not exact.

        Raises:
            BreaksSymmetryError: the model is not exact at this length, or was not shown to be.
        """
        for rule in self.rules:
            self.require(rule, rule.found_in(self.names, args, kwargs))

    @staticmethod
    def require(rule: LengthRule, length: int) -> None:
        """Refuse a length, in positions, that a rule does not admit.

        Raises:
            BreaksSymmetryError: the model is not exact at this length, or was not shown to be.
        """
        if not rule.ends_well(length):
            _REFUSE(rule, length)


def _refuse(rule: LengthRule, length: int) -> None:
    if rule.fixed:
        do = f"pad or crop the input to {rule.start} positions, or convert the model with an example of this length"
    else:
        near = " and ".join(str(n) for n in rule.nearest(length)) or str(rule.start)
        do = f"pad or crop the input: the nearest lengths that work are {near}"
    raise BreaksSymmetryError(
        f"an input of {length} positions, in a model converted at {rule.start}",
        got=f"argument {rule.argument}, axis {rule.dim}",
        why=rule.why,
        do=do,
    )


_REFUSE = not_compiled(_refuse, "the converted model is not exact at this length, or was not shown to be")
"""The same for a compiler too, which would follow the search for lengths that work."""


def guard(model: nn.Module, rules: Sequence[LengthRule]) -> None:
    """Attach a `LengthGuard` to a model, in place of one it may have."""
    unguard(model)
    attach_check(model, LengthGuard(rules, positional_names(model)))


def unguard(model: nn.Module) -> None:
    """Detach every `LengthGuard` of a model."""
    drop_checks(model, lambda check: isinstance(check, LengthGuard))
