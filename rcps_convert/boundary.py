"""Symmetrisation at a boundary: a submodule runs on a tensor and on its mirror image.

Used for a read-out behind a nonlinearity (conv -> ReLU -> pool -> output), whose filters would
otherwise be forced to be palindromes: its weights stay untied, and the two results, mapped back, are
averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .action import Action, act
from .axis import Step, follows, nearest
from .errors import BreaksSymmetryError
from .hooks import StrandHook, install


class BothStrands(StrandHook):
    """Runs a module on both strands, stacked on the batch axis, and averages the two readings.

    Args:
        input_action: how reverse complement acts on the module's input; axis 0 is the batch.
        output_action: how it is to act on the module's output; axis 0 is the batch.
    """

    def __init__(self, input_action: Action, output_action: Action) -> None:
        self.input_action, self.output_action = input_action.walk(), output_action.walk()

    def before(self, module: nn.Module, x: Tensor) -> Tensor:
        """The tensor and its mirror image, (2N, ...)."""
        return torch.cat([x, act(self.input_action, x)])

    def after(self, module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """The mean of the two readings, the second mapped back, (N, ...)."""
        ours, theirs = y.chunk(2)
        return (ours + act(self.output_action, theirs)) / 2


@dataclass(frozen=True)
class LengthRule:
    """At which lengths of one input the model is exact.

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
        return length == self.start or all(follows(c, length) for c in self.chains)

    def nearest(self, length: int) -> list[int]:
        """The nearest lengths below and above that hold."""
        return nearest(length, self.holds)


class LengthGuard:
    """The forward pre-hook of a converted model whose pools and strides fit only some lengths.

    At another length the model would not be equivariant, and nothing would show it.

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
            if not rule.holds(int(length)):
                near = " and ".join(str(n) for n in rule.nearest(int(length)))
                raise BreaksSymmetryError(
                    f"an input of {int(length)} positions, in a model converted at {rule.start}",
                    why="at this length a pool, a stride or a crop leaves a remainder at the right edge",
                    do=f"pad or crop the input: the nearest lengths that work are {near}; or bake the model first",
                )


def guard(model: nn.Module, rules: Sequence[LengthRule]) -> None:
    """Attach a `LengthGuard` to a model, in place."""
    model.register_forward_pre_hook(LengthGuard(rules), with_kwargs=True)


def unguard(model: nn.Module) -> None:
    """Detach every `LengthGuard` of a model."""
    for module in model.modules():
        for key in [k for k, h in module._forward_pre_hooks.items() if isinstance(h, LengthGuard)]:
            del module._forward_pre_hooks[key]
            module._forward_pre_hooks_with_kwargs.pop(key, None)


def symmetrise(module: nn.Module, input_action: Action, output_action: Action) -> None:
    """Attach `BothStrands` to a module, in place."""
    install(module, BothStrands(input_action, output_action))
