"""Refusing calls at lengths at which a converted model is not exact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.utils import _pytree as pytree

from ..algebra.axis import Step, follows, nearest
from ..errors import BreaksSymmetryError
from .hooks import drop


@dataclass(frozen=True)
class LengthRule:
    """At which lengths of one input operators read both edges alike.

    Attributes:
        leaf: index of the input among the leaves of the call.
        dim: its length axis.
        start: the length it was converted at, in positions.
        chains: for each way the length takes through the model, what each operator does to it.
    """

    leaf: int
    dim: int
    start: int
    chains: tuple[tuple[Step, ...], ...]

    def holds(self, length: int) -> bool:
        """Whether every operator reads both edges of this length alike."""
        return all(follows(c, length) for c in self.chains)

    def ends_well(self, length: int) -> bool:
        """Whether the last operator of each chain does; those before it may be re-anchored."""
        return all(steps[-1].aligned(_through(steps[:-1], length)) for steps in self.chains)

    def nearest(self, length: int) -> list[int]:
        """The nearest lengths below and above at which the last operators read both edges alike."""
        return nearest(length, self.ends_well)


def _through(steps: Sequence[Step], length: int) -> int:
    """A length after several operators."""
    for step in steps:
        length = step.out(length)
    return length


class LengthGuard:
    """The forward pre-hook of a converted model with windows that cannot be re-anchored.

    That is an operator with a rule of the user's own: at a length it does not fit, the model would not
    be equivariant, and nothing would show it.

    Args:
        rules: for each input with a length.
    """

    def __init__(self, rules: Sequence[LengthRule]) -> None:
        self.rules = tuple(rules)

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuse a length at which the model is not exact.

        Raises:
            BreaksSymmetryError: a window would leave a remainder at this length.
        """
        values = pytree.tree_leaves((args, kwargs))
        for rule in self.rules:
            length = values[rule.leaf].shape[rule.dim] if rule.leaf < len(values) else rule.start
            if not rule.ends_well(int(length)):
                near = " and ".join(str(n) for n in rule.nearest(int(length)))
                raise BreaksSymmetryError(
                    f"an input of {int(length)} positions, in a model converted at {rule.start}",
                    why="at this length an operator that cannot be re-anchored leaves a remainder at the right edge",
                    do=f"pad or crop the input: the nearest lengths that work are {near}; or bake the model first",
                )


def guard(model: nn.Module, rules: Sequence[LengthRule]) -> None:
    """Attach a `LengthGuard` to a model, in place."""
    model.register_forward_pre_hook(LengthGuard(rules), with_kwargs=True)


def unguard(model: nn.Module) -> None:
    """Detach every `LengthGuard` of a model."""
    for module in model.modules():
        drop(module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs, LengthGuard)
