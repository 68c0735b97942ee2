"""Ids and randomness: embeddings, one-hot codes, dropout, random tensors."""

from __future__ import annotations

from typing import Any

import torch

from ..algebra import axis as ax
from ..algebra.action import Action
from .common import rows_of_ids
from .registry import Const, aten, declare, refuse, require_unsigned, rule

MAX = 2
"""The mode of an embedding bag that takes the largest entries."""


@rule(aten.embedding.default, constants=True, ids=True, signs=True)
def embedding(node: Any, weight: Any, ids: Any, *settings: Any) -> Action:
    """The rows of the table are permuted as the ids are; of ids in order, as their axis is."""
    if isinstance(weight, Const):
        weight = node.constant(weight)
    rows = weight.axes[0]
    if isinstance(ids, Const):
        return _numbered(node, weight, ids)
    rows_of_ids(rows, ids)
    return Action((*ids.axes, weight.axes[1]))


def _numbered(node: Any, weight: Action, ids: Const) -> Action:
    """Rows by constant ids: a learned embedding of positions 0, 1, 2, ... is an axis like any other.

    Of other ids, such as buckets of distances, the rows are permuted as the places of the ids are.
    """
    rows, count = weight.axes[0], ids.value.shape[-1] if ids.value.dim() else 0
    first = int(ids.value.flatten()[0]) if count else 0
    in_order = torch.arange(first, first + count)
    if not count or not torch.equal(ids.value, in_order.expand_as(ids.value)):
        ax.forbid_sign(rows)
        return Action((*node.constant(ids, rows).axes, weight.axes[1]))
    taken = ax.split(rows, [first, count, rows.size - first - count])[1]
    lead = [ax.Var(s, unsigned=True) for s in ids.value.shape[:-1]]
    return Action((*lead, taken, weight.axes[1]))


@rule(aten.embedding_bag.default, aten.embedding_bag.padding_idx, constants=True, ids=True, signs=True)
def embedding_bag(
    node: Any, weight: Any, ids: Any, offsets: Any, scale: bool = False, mode: int = 0, sparse: bool = False,
    weights: Any = None, last: bool = False, padding: int | None = None,
) -> tuple[Action, ...]:  # fmt: skip
    """The sum, mean or maximum over the ids of each bag; rows of the table are permuted as the ids are."""
    bags, each = len(node.value[0]), ids.axes[0].size // max(1, len(node.value[0]))
    if last or not isinstance(offsets, Const) or not torch.equal(offsets.value, each * torch.arange(bags)):
        refuse(
            "an embedding bag of bags of several sizes",
            why="which ids belong to a bag is said by their places in one long row, which is not mirrored bag by bag",
            do="give ids as rows of one length, (N, L), with padding_idx for what is not there",
        )
    table = node.constant(weight) if isinstance(weight, Const) else weight
    if mode == MAX:
        require_unsigned(table, node, because="max(-x) is not -max(x)")
    rows_of_ids(table.axes[0], ids)
    if isinstance(weights, Action):
        ax.unify(weights.axes[0], ids.axes[0])
    batch, _ = ax.factor(ids.axes[0], bags, each)
    whose, _, largest = (v.shape for v in node.value[1:])
    made = Action((batch, table.axes[1]))
    of_each = Action(ids.axes if whose[0] else (ax.trivial(0),))
    return made, of_each, Action((batch,)), Action(made.axes[: len(largest)], ids.value if mode == MAX else None)


@rule(aten.one_hot.default, ids=True, signs=True)
def one_hot(node: Any, ids: Action, classes: int = -1) -> Action:
    """The new axis is permuted as the ids are; classes that no id has stay."""
    size = node.shape[-1]
    if ids.value is None or ids.value.size >= size:
        return Action((*ids.axes, ids.value if ids.value is not None else ax.trivial(size)))
    return Action((*ids.axes, ax.total([ids.value, ax.trivial(size - ids.value.size)])))


@rule(
    aten.dropout.default,
    aten.feature_dropout.default,
    aten.alpha_dropout.default,
    aten.feature_alpha_dropout.default,
    signs=True,
)
@rule(aten.dropout_.default, aten.feature_dropout_.default, aten.alpha_dropout_.default, signs=True)
def dropout(node: Any, x: Action, p: float, train: bool) -> Action:
    """The mask is drawn anew for every entry: the law holds in distribution, exactly in eval mode."""
    return x


@rule(aten.bernoulli.default, aten.poisson.default, because="a rate or a probability has no sign")
def draw(node: Any, x: Action, *settings: Any) -> Action:
    """Drawn anew for every entry: the law holds in distribution."""
    return x


@rule(
    aten.rand.default, aten.randn.default, aten.rand_like.default, aten.randn_like.default, aten.bernoulli.p, signs=True
)
@rule(aten.bernoulli_.float, aten.uniform_.default, aten.normal_.default, aten.exponential_.default, signs=True)
def noise(node: Any, *args: Any, **kwargs: Any) -> Action:
    """Independent noise is the same in distribution under any permutation."""
    axes = [ax.trivial(s) if s == 1 else ax.Var(s, unsigned=True) for s in node.shape]
    return Action(tuple(axes))


declare(aten.zeros_like, aten.ones_like, aten.full_like, aten.new_zeros, aten.new_ones, aten.new_full, shape_only=True)
declare(aten.empty_like, aten.new_empty, shape_only=True, blank=True)
declare(aten.empty, blank=True)
