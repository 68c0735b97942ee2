"""Losses: what a model computes of its outputs and the targets it is given."""

from __future__ import annotations

from typing import Any

from ..algebra import axis as ax
from ..algebra.action import Action
from .common import broadcast
from .registry import aten, rule


@rule(
    aten.mse_loss.default,
    aten.l1_loss.default,
    aten.smooth_l1_loss.default,
    aten.huber_loss.default,
    aten.kl_div.default,
    aten.poisson_nll_loss.default,
    aten.soft_margin_loss.default,
    aten.binary_cross_entropy.default,
    aten.binary_cross_entropy_with_logits.default,
    because="a loss of -x is not that of x, nor minus that",
    nonlinear=True,
)
def entrywise_loss(node: Any, x: Action, target: Action, *settings: Any, **kwargs: Any) -> Action:
    """Operands agree, entry by entry; the mean or the sum of all entries does not depend on their order."""
    operands = [a for a in (x, target, *settings, *kwargs.values()) if isinstance(a, Action)]
    entries = broadcast(node, operands)
    return entries if node.shape else Action(())


@rule(
    aten.cross_entropy_loss.default,
    aten.nll_loss.default,
    aten.nll_loss2d.default,
    aten.nll_loss_nd.default,
    because="a loss of -x is not that of x, nor minus that",
    ids=True,
    nonlinear=True,
)
def class_loss(node: Any, x: Action, target: Action, weight: Action | None = None, *settings: Any, **kw: Any) -> Action:
    """Classes are permuted as the ids of the target are, or agree with its probabilities; places agree."""
    weight = weight or kw.get("weight")
    at = min(1, len(x.axes) - 1)
    classes, places = x.axes[at], Action((*x.axes[:at], *x.axes[at + 1 :]))
    if len(target.axes) == len(x.axes):
        broadcast(node, [x, target])
    else:
        ax.unify(classes, target.value if target.value is not None else ax.trivial(classes.size))
        broadcast(node, [places, Action(target.axes)])
    if weight is not None:
        ax.unify(weight.axes[0], classes)
    return places if node.shape else Action(())
