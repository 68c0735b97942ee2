"""Ids and randomness: embeddings, one-hot codes, dropout, random tensors."""

from __future__ import annotations

from typing import Any

import torch

from .. import axis as ax
from ..action import Action
from ..registry import rule

aten = torch.ops.aten


@rule(aten.embedding.default)
def embedding(node: Any, weight: Action, ids: Action, *settings: Any) -> Action:
    """The rows of the table are permuted as the ids are."""
    rows = weight.axes[0]
    ax.unify(rows, ids.value if ids.value is not None else ax.trivial(rows.size))
    return Action((*ids.axes, weight.axes[1]))


@rule(aten.one_hot.default)
def one_hot(node: Any, ids: Action, classes: int = -1) -> Action:
    """The new axis is permuted as the ids are."""
    size = node.shape[-1]
    return Action((*ids.axes, ids.value if ids.value is not None else ax.trivial(size)))


@rule(aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default, aten.feature_alpha_dropout.default)
@rule(aten.dropout_.default, aten.feature_dropout_.default, aten.alpha_dropout_.default)
def dropout(node: Any, x: Action, p: float, train: bool) -> Action:
    """The mask is drawn anew for every entry: the law holds in distribution, exactly in eval mode."""
    return x


@rule(aten.rand.default, aten.randn.default, aten.rand_like.default, aten.randn_like.default, aten.bernoulli.default)
@rule(aten.bernoulli.p, aten.bernoulli_.float, aten.uniform_.default, aten.normal_.default)
def noise(node: Any, *args: Any, **kwargs: Any) -> Action:
    """Independent noise is the same in distribution under any permutation."""
    axes = [ax.trivial(s) if s == 1 else ax.Var(s, unsigned=True) for s in node.shape]
    return Action(tuple(axes))
