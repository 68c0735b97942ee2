"""Reductions: the axis disappears; its permutation does not matter, its signs do."""

from __future__ import annotations

from typing import Any

from .._torch import op_name
from ..algebra import axis as ax
from ..algebra.action import Action
from .common import broadcast, dims_of
from .registry import aten, declare, require_unsigned, rule


def _reduced(x: Action, dims: list[int], keepdim: bool) -> Action:
    axes = [(ax.trivial(1) if i in dims else t) for i, t in enumerate(x.axes) if keepdim or i not in dims]
    return Action(tuple(axes))


@rule(aten.sum.default, aten.mean.default, aten.amax.default, aten.amin.default, aten.prod.default, signs=True)
@rule(
    aten.sum.dim_IntList,
    aten.mean.dim,
    aten.logsumexp.default,
    aten.any.dim,
    aten.all.dim,
    aten.prod.dim_int,
    signs=True,
)
@rule(
    aten.linalg_vector_norm.default,
    aten.count_nonzero.default,
    aten.any.default,
    aten.all.default,
    aten.max.default,
    signs=True,
)
@rule(
    aten.min.default, aten.nansum.default, aten.nanmean.default, aten.median.default, aten.quantile.scalar, signs=True
)
@rule(
    aten.norm.ScalarOpt_dim,
    aten.linalg_norm.default,
    aten.linalg_norm.ord_str,
    aten.any.dims,
    aten.all.dims,
    signs=True,
)
def reduction(node: Any, x: Action, *given: Any, **kwargs: Any) -> Action:
    """Symmetric in its operands along the reduced axes."""
    args = list(given)
    if op_name(node.op) in ("linalg_vector_norm", "linalg_norm", "norm", "quantile") and args:
        args.pop(0)
    dims = dims_of(args[0] if args else kwargs.get("dim"), len(x.axes))
    keepdim = bool(args[1]) if len(args) > 1 and isinstance(args[1], bool) else bool(kwargs.get("keepdim"))
    if op_name(node.op) in ("sum", "mean"):
        _unsigned_axes(node, x, dims)
    else:
        require_unsigned(x, node, because=f"{op_name(node.op)} is not odd")
    return _reduced(x, dims, keepdim)


def _unsigned_axes(node: Any, x: Action, dims: list[int]) -> None:
    reduced = Action(tuple(x.axes[d] for d in dims))
    require_unsigned(reduced, node, because="a sum over a signed axis is neither invariant nor odd")


@rule(
    aten.var.dim,
    aten.std.dim,
    aten.var.correction,
    aten.std.correction,
    aten.var.default,
    aten.std.default,
    because="a variance is even",
)
def variance(node: Any, x: Action, dims: Any = None, *args: Any, keepdim: bool = False, **kwargs: Any) -> Action:
    """Variance and standard deviation: symmetric along the reduced axes."""
    dims = dims_of(dims if not isinstance(dims, bool) else None, len(x.axes))
    keepdim = keepdim or (len(args) > 1 and bool(args[1]))
    return _reduced(x, dims, keepdim)


@rule(
    aten.var_mean.dim,
    aten.std_mean.dim,
    aten.var_mean.correction,
    aten.std_mean.correction,
    because="a variance is even",
)
@rule(aten.var_mean.default, aten.std_mean.default, because="a variance is even")
def variance_and_mean(node: Any, x: Action, *args: Any, **kwargs: Any) -> tuple[Action, Action]:
    """As `variance`, and the mean of the same axes."""
    result = variance(node, x, *args, **kwargs)
    return result, result


@rule(aten.aminmax.default, because="an extreme is not odd")
def both_extremes(node: Any, x: Action, *, dim: int | None = None, keepdim: bool = False) -> tuple[Action, Action]:
    """The smallest and the largest."""
    result = _reduced(x, dims_of(dim, len(x.axes)), keepdim)
    return result, result


@rule(aten.kthvalue.default)
def ranked(node: Any, x: Action, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Action, Action]:
    """As `extreme`."""
    return extreme(node, x, dim, keepdim)


@rule(aten.topk.default, because="an order is not odd")
def top(node: Any, x: Action, k: int, dim: int = -1, *settings: Any) -> tuple[Action, Action]:
    """The largest by rank, whatever their order was; their places are ids that the axis permutes (ties aside)."""
    values = x.with_axis(dim, ax.trivial(k))
    return values, Action(values.axes, value=x.axes[dim])


@rule(aten.sort.default, because="an order is not odd")
def order(node: Any, x: Action, dim: int = -1, descending: bool = False) -> tuple[Action, Action]:
    """As `top`, of all entries."""
    return top(node, x, x.axes[dim].size, dim)


@rule(aten.sort.stable, because="an order is not odd")
def stable_order(node: Any, x: Action, *, stable: bool | None = None, dim: int = -1, descending: bool = False) -> Any:
    """As `order`."""
    return order(node, x, dim)


@rule(aten.max.dim, aten.min.dim, aten.median.dim)
def extreme(node: Any, x: Action, dim: int, keepdim: bool = False) -> tuple[Action, Action]:
    """The values lose the axis; the positions name entries of it."""
    (at,) = dims_of(dim, len(x.axes))
    values = _reduced(x, [at], keepdim)
    return values, Action(values.axes, value=x.axes[at])


@rule(aten.argmax.default, aten.argmin.default)
def arg_extreme(node: Any, x: Action, dim: int, keepdim: bool = False) -> Action:
    """Positions along an axis are ids that its action permutes (ties aside)."""
    return extreme(node, x, dim, keepdim)[1]


@rule(aten.cosine_similarity.default, signs=True)
def similarity(node: Any, a: Action, b: Action, dim: int = 1, eps: float = 1e-8) -> Action:
    """A contraction along one axis, normalised."""
    whole = broadcast(node, [a, b])
    result = _reduced(whole, dims_of(dim, len(whole.axes)), False)
    require_unsigned(result, node, because="the signs of both meet")
    return result


@rule(aten.pairwise_distance.default, because="a distance has no sign")
def distance(node: Any, a: Action, b: Action, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Action:
    """The norm of a difference, over the last axis."""
    whole = broadcast(node, [a, b])
    require_unsigned(whole, node, because="a distance has no sign")
    return _reduced(whole, [len(whole.axes) - 1], keepdim)


declare(
    aten.cumsum, aten.cumprod, aten.cummax, aten.cummin, aten.logcumsumexp,
    unruled="at each position it has read what lies to the left; on the other strand that lies to the right: one from "
    "either end, joined, obeys the law (positions that are counted, as by cumsum of a mask, come from torch.arange, or "
    "from a rotary or relative encoding)",
)  # fmt: skip
