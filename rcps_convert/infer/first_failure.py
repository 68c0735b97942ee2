"""The first node of a trace at which a converted model breaks the law."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .._torch import pytree
from ..algebra.action import Action, act
from ..errors import Where
from ..geometry import CallAxes, choose
from ..graph.run import interpret
from ..graph.sandbox import owner
from ..graph.trace import Node, Ref, Trace
from ..measure.deviation import deviation
from ..measure.report import TOLERANCE
from ..rules.registry import Anchor
from ..tie.hooks import hook_of
from ..tie.norms import FoldedNorm
from .swapped import swapped_channel


def first_failure(
    trace: Trace,
    model: nn.Module,
    values: dict[str, Any],
    inputs: list[Action | None],
    example_leaves: list[Any],
    anchors: Mapping[str, list[Anchor]],
) -> tuple[Where, bool] | None:
    """The first node whose result breaks the law, and whether that is whole numbers, such as places of maxima.

    Args:
        trace: the eval-mode trace of the unconverted model.
        model: the converted model (perturbed, float64), whose full weights are put into the graph.
        values: inferred action of each result.
        inputs: action of each input leaf.
        example_leaves: input leaves.
        anchors: the results that are re-anchored where they are not aligned.
    """
    mirrored = iter([x if a is None else act(a, x) for x, a in zip(example_leaves, inputs, strict=True)])
    given = iter(example_leaves)
    sources = {
        n: next(given) if s.kind == "input" else _state(model, s.target, s.value) for n, s in trace.sources.items()
    }
    other = {n: next(mirrored) if s.kind == "input" else sources[n] for n, s in trace.sources.items()}
    seen: dict[str, Any] = {}
    found: list[tuple[Where, bool]] = []

    def compare(node: Any, result: Any) -> None:
        action = values.get(node.name)
        if found or not isinstance(action, Action) or not isinstance(result, Tensor):
            return
        if deviation(result, seen[node.name], action.walk()) > TOLERANCE[torch.float64]:
            found.append((node.where, not result.is_floating_point() and not result.is_complex()))

    with torch.no_grad():
        run = Reanchoring(values, anchors)
        interpret(trace, sources, lambda node, result: seen.__setitem__(node.name, _frozen(result)), model, run)
        interpret(trace, other, compare, model, run)
    return found[0] if found else None


def _frozen(result: Any) -> Any:
    return result.clone() if isinstance(result, Tensor) else result


def _state(model: nn.Module, name: str, default: Any) -> Any:
    """A parameter or buffer of a converted model, in the shape it had before."""
    try:
        module, leaf = owner(model, name)
        value = getattr(module, leaf)
    except AttributeError:
        return default.double() if default.is_floating_point() else default
    if isinstance(hook_of(module), FoldedNorm) and value.dim() == 1:
        value = value.repeat(2)
    return value.detach().clone()


class Reanchoring:
    """Runs the nodes of a trace, those whose edges are not read alike with both readings.

    Args:
        values: inferred action of each result.
        anchors: the lengths each result reads one edge of.
    """

    def __init__(self, values: Mapping[str, Any], anchors: Mapping[str, list[Anchor]]) -> None:
        self.values, self.anchors = values, anchors

    def __call__(self, node: Node, args: Any, kwargs: Any) -> Any:
        """The result of a node on these arguments."""
        plain = node.op(*args, **kwargs)
        made = self.values.get(node.name)
        if all(a.aligned for a in self.anchors.get(node.name, ())) or not isinstance(made, Action):
            return plain
        made = made.walk()
        operands = pytree.tree_map(self._mirrored, (node.args, node.kwargs), (args, kwargs), is_leaf=_is_ref)
        mirrored = act(made, node.op(*operands[0], **operands[1]))
        return choose(plain, mirrored, CallAxes((), (), *swapped_channel(made.axes)))

    def _mirrored(self, leaf: Any, value: Any) -> Any:
        action = self.values.get(leaf.name) if isinstance(leaf, Ref) else None
        return act(action.walk(), value) if isinstance(action, Action) else value


def _is_ref(leaf: Any) -> bool:
    return isinstance(leaf, Ref)
