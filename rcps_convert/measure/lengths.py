"""The example of a model at other lengths, and at which of them its forward takes another way."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..algebra import axis as ax
from ..algebra.action import Action
from ..algebra.arguments import Example, leaves, with_leaves
from ..geometry import CallNames, unanchor
from ..graph.sandbox import call, fresh_copy, mode, undisturbed_rng

BRANCHES = (-1, 1, 2, 3, 4, 8, 16, 32, 64)
"""Changes of the length, in positions, at which a forward may pad or crop what it does not at the example's."""

CHECKED = (1, 2, 3, -1)
"""Changes of the length, in positions, at which a conversion is verified too."""


def main_length(actions: Sequence[Action | None]) -> int | None:
    """The longest length among the inputs, in positions; None if there is none."""
    return max((t.size for a in actions if a is not None for t in a.axes if ax.is_length(t)), default=None)


def resized(example: Example, actions: Sequence[Action | None], change: int) -> tuple[Example, list[Action | None]]:
    """An example with every length changed by some positions, and its inputs' actions."""
    values: list[object] = []
    moved: list[Action | None] = []
    for leaf, action in zip(leaves(example), actions, strict=True):
        if action is None or not isinstance(leaf, Tensor):
            values.append(leaf)
            moved.append(action)
            continue
        axes = tuple(ax.length(t.size + change) if ax.is_length(t) else t for t in action.axes)
        new = Action(axes, action.value)
        values.append(leaf.new_zeros(new.shape) if new.shape != action.shape else leaf)
        moved.append(new)
    return with_leaves(example, values), moved


def accepts(model: nn.Module, example: Example) -> bool:
    """Whether a model's eval-mode forward runs on an example."""
    return calls_of(model, example) is not None


def calls_of(model: nn.Module, example: Example) -> tuple[str, ...] | None:
    """The functions a model's eval-mode forward calls that may read one edge of a length only; None if it fails."""
    try:
        with undisturbed_rng(), torch.no_grad(), mode(model, False), CallNames() as seen:
            call(model, example)
    except Exception:  # the model's own errors: this length is none of its own
        return None
    return tuple(seen.names)


def other_ways(model: nn.Module, example: Example, actions: Sequence[Action | None]) -> list[Example]:
    """An example for each way the forward takes at other lengths, beside that of the given one."""
    twin = fresh_copy(model)
    unanchor(twin)
    found = {calls_of(twin, example): example}
    length = main_length(actions)
    if length is None:
        return []
    for change in BRANCHES:
        if length + change > 0:
            other, _ = resized(example, actions, change)
            found.setdefault(calls_of(twin, other), other)
    return [other for calls, other in found.items() if calls is not None and other is not example]
