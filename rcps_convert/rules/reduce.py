"""Reductions: the axis disappears; its permutation does not matter, its signs do."""

from __future__ import annotations

from typing import Any

import torch

from .. import axis as ax
from ..action import Action
from ..registry import op_name, require_no_ids, require_unsigned, rule
from .common import broadcast, dims_of

aten = torch.ops.aten


def _reduced(x: Action, dims: list[int], keepdim: bool) -> Action:
    axes = [(ax.trivial(1) if i in dims else t) for i, t in enumerate(x.axes) if keepdim or i not in dims]
    return Action(tuple(axes))


@rule(aten.sum.default, aten.mean.default, aten.amax.default, aten.amin.default, aten.prod.default)
@rule(aten.sum.dim_IntList, aten.mean.dim, aten.logsumexp.default, aten.any.dim, aten.all.dim, aten.prod.dim_int)
@rule(aten.linalg_vector_norm.default, aten.count_nonzero.default, aten.any.default, aten.all.default, aten.max.default)
@rule(aten.min.default, aten.norm.ScalarOpt_dim, aten.nansum.default, aten.nanmean.default)
def reduction(node: Any, x: Action, *given: Any, **kwargs: Any) -> Action:
    """Symmetric in its operands along the reduced axes."""
    args = list(given)
    if op_name(node.op) in ("linalg_vector_norm", "norm") and args:
        args.pop(0)
    dims = dims_of(args[0] if args else kwargs.get("dim"), len(x.axes))
    keepdim = bool(args[1]) if len(args) > 1 and isinstance(args[1], bool) else bool(kwargs.get("keepdim"))
    if op_name(node.op) in ("sum", "mean"):
        _unsigned_axes(node, x, dims)
    else:
        require_no_ids(x, node)
        require_unsigned(x, node, because=f"{op_name(node.op)} is not odd")
    return _reduced(x, dims, keepdim)


def _unsigned_axes(node: Any, x: Action, dims: list[int]) -> None:
    require_no_ids(x, node)
    reduced = Action(tuple(x.axes[d] for d in dims))
    require_unsigned(reduced, node, because="a sum over a signed axis is neither invariant nor odd")


@rule(aten.var.dim, aten.std.dim, aten.var.correction, aten.std.correction, aten.var.default, aten.std.default)
def spread(node: Any, x: Action, dims: Any = None, *args: Any, keepdim: bool = False, **kwargs: Any) -> Action:
    """Variance and standard deviation: symmetric along the reduced axes."""
    require_unsigned(x, node, because="a variance is even")
    dims = dims_of(dims if not isinstance(dims, bool) else None, len(x.axes))
    keepdim = keepdim or (len(args) > 1 and bool(args[1]))
    return _reduced(x, dims, keepdim)


@rule(aten.max.dim, aten.min.dim, aten.median.dim)
def extreme(node: Any, x: Action, dim: int, keepdim: bool = False) -> tuple[Action, Action]:
    """The values lose the axis; the positions name entries of it."""
    require_no_ids(x, node)
    require_unsigned(x, node, because=f"{op_name(node.op)} is not odd")
    (at,) = dims_of(dim, len(x.axes))
    values = _reduced(x, [at], keepdim)
    return values, Action(values.axes, value=x.axes[at])


@rule(aten.argmax.default, aten.argmin.default)
def arg_extreme(node: Any, x: Action, dim: int, keepdim: bool = False) -> Action:
    """Positions along an axis are ids that its action permutes (ties aside)."""
    return extreme(node, x, dim, keepdim)[1]


@rule(aten.cosine_similarity.default)
def similarity(node: Any, a: Action, b: Action, dim: int = 1, eps: float = 1e-8) -> Action:
    """A contraction along one axis, normalised."""
    whole = broadcast(node, [a, b])
    return _reduced(whole, dims_of(dim, len(whole.axes)), False)
