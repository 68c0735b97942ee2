"""Results that the samples of a batch share: what moves with the strand of each cannot be shared by all.

The mean of ``h`` over the samples is its own mirror image if every sample is mirrored. If some are, it is no image of
anything, and what is computed with it changes for all. Only where nothing but linear steps follow, until reverse
complement moves the result no more, each sample adds the same on either strand. Random inputs show the difference only
where they reach what is not linear, such as a clamp that is open for all that are drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._torch import pytree
from ..algebra import axis as ax
from ..algebra.action import Action
from ..algebra.axis import Axis
from ..errors import BreaksSymmetryError, ConversionError
from ..graph.trace import Node, Trace
from ..rules.pointwise import is_nonlinear
from ..rules.registry import facts_of
from .mirrors import live_nodes


def shared_by_samples(trace: Trace, values: Mapping[str, Any]) -> list[ConversionError]:
    """The refusal of the first step by which samples influence each other otherwise on one strand than on the other.

    Args:
        trace: of an eval-mode forward.
        values: the solution: the action of every result.
    """
    live = live_nodes(trace)
    sampled, shared = {name for name in trace.sources if _has(values.get(name), _is_batch)}, set[str]()
    for node in (n for n in trace.nodes if n.name in live and not facts_of(n.op).shape_only):
        given = [r for r in node.refs() if r in sampled]
        if not given:
            continue
        sampled.add(node.name)
        made, moves = values.get(node.name), _has(values.get(node.name), _moves)
        joined = any(_has(values.get(r), _is_batch) for r in given) and not _has(made, _is_batch)
        mixed = [r for r in given if r in shared and _has(values.get(r), _moves)]
        mixed = mixed or (given if joined and moves else [])
        if mixed and is_nonlinear(node.op, len(given)):
            return [_refusal(node, values[mixed[0]])]
        if mixed and moves:
            shared.add(node.name)
    return []


def _has(value: Any, wanted: Any) -> bool:
    """Whether an action in a result has an axis of a kind."""
    actions = (a for a in pytree.tree_leaves(value) if isinstance(a, Action))
    return any(wanted(ax.walk(t)) for a in actions for t in a.axes)


def _is_batch(term: Axis) -> bool:
    """Whether an axis holds samples, alone or with something else."""
    role = ax.role(term)
    return (role is not None and role.name == "batch") or any(_is_batch(ax.walk(t)) for t in ax.children(term))


def _moves(term: Axis) -> bool:
    """Whether reverse complement moves entries along an axis, or turns their sign; samples stay where they are."""
    return not ax.is_trivial(term)


def _refusal(node: Node, action: Action) -> BreaksSymmetryError:
    return BreaksSymmetryError(
        "samples of one batch influence each other",
        where=node.where,
        got=f"a result of several samples that reverse complement moves, {action}",
        why="if the strand of one sample is turned, what the others get is neither what it was nor its mirror image",
        do="compute it for each sample, or of what no strand changes, such as a mean over positions behind a layer of "
        "fixed channels; statistics over samples belong into nn.BatchNorm1d",
    )
