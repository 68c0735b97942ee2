"""Normalisations: affine parameters and running statistics act like the axes they scale."""

from __future__ import annotations

from typing import Any

from ..algebra import axis as ax
from ..algebra.action import Action
from .registry import aten, refuse_later, rule

BECAUSE = "the shift and the statistics are not odd"


@rule(aten.batch_norm.default, because=BECAUSE, statistics=(3, 4), over_samples=True)
def batch_norm(
    node: Any,
    x: Action,
    weight: Action | None,
    bias: Action | None,
    mean: Action | None,
    var: Action | None,
    *settings: Any,
) -> Action:
    """weight = bias = running mean = running variance = x.C; pooling over swapped channels is `norm`'s work."""
    if node.one_of_two and mean is None:  # kept statistics are refused as a pair of buffers
        refuse_later(
            node,
            "a batch norm inside one of two readings of a length, from either end",
            why="its statistics go over the samples of a batch, so one sample's result would depend on the strand of "
            "the others",
            do="normalise behind the place where the two are joined, or each sample by itself (LayerNorm, GroupNorm)",
        )
    return _per_channel(x, x.axes[1], (weight, bias, mean, var))


@rule(aten.instance_norm.default, because=BECAUSE, statistics=(3, 4))
def instance_norm(
    node: Any,
    x: Action,
    weight: Action | None,
    bias: Action | None,
    mean: Action | None,
    var: Action | None,
    *settings: Any,
) -> Action:
    """As batch norm, with statistics of each sample."""
    return _per_channel(x, x.axes[1], (weight, bias, mean, var))


def _per_channel(x: Action, channel: ax.Axis, vectors: tuple[Action | None, ...]) -> Action:
    for vector in vectors:
        if vector is not None:
            ax.unify(vector.axes[0], channel)
    return x


@rule(aten.group_norm.default, because=BECAUSE)
def group_norm(
    node: Any, x: Action, groups: int, weight: Action | None = None, bias: Action | None = None, *settings: Any
) -> Action:
    """x.C = groups x members; weight = bias = x.C."""
    ax.factor(x.axes[1], groups, x.axes[1].size // groups)
    return _per_channel(x, x.axes[1], (weight, bias))


@rule(aten._weight_norm.default, signs=True)
def weight_norm(node: Any, v: Action, g: Action, dim: int = 0) -> Action:
    """g = v along one axis; the norm over the others does not see permutations, nor signs."""
    for i, term in enumerate(g.axes):
        ax.unify(term, v.axes[i] if i == dim and term.size > 1 else ax.trivial(1))
        ax.forbid_sign(term)
    return v


@rule(aten.layer_norm.default, aten.rms_norm.default, because=BECAUSE)
def layer_norm(
    node: Any, x: Action, shape: list[int], weight: Action | None = None, bias: Any = None, *settings: Any
) -> Action:
    """weight = bias = the trailing axes that are normalised."""
    for vector in (weight, bias):
        if isinstance(vector, Action):
            for a, b in zip(vector.axes, x.axes[-len(shape) :], strict=True):
                ax.unify(a, b)
    return x
