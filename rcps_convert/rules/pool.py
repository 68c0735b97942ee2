"""Pooling and resampling: a reversed axis stays reversed where the windows reach both edges alike."""

from __future__ import annotations

from typing import Any

import torch

from .. import axis as ax
from ..action import Action
from ..axis import Axis, Step
from ..registry import op_name, refuse, require_unsigned, rule
from .common import advance, per_axis, slide

aten = torch.ops.aten


@rule(aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default)
def max_pool(
    node: Any, x: Action, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
) -> Action:
    """The largest of each window."""
    require_unsigned(x, node, because="max(-x) is not -max(x)")
    return _pool(node, x, kernel, stride, padding, dilation)


@rule(aten.avg_pool1d.default, aten.avg_pool2d.default, aten.avg_pool3d.default)
def avg_pool(node: Any, x: Action, kernel: Any, stride: Any = (), padding: Any = 0, *settings: Any, **more: Any) -> Action:
    """The mean of each window: linear, so signs pass."""
    return _pool(node, x, kernel, stride, padding, 1)


def _pool(node: Any, x: Action, kernel: Any, stride: Any, padding: Any, dilation: Any) -> Action:
    rank = len(kernel) if isinstance(kernel, (list, tuple)) else 1
    kernels = per_axis(kernel, rank)
    strides = per_axis(stride, rank) if stride else kernels
    lead, pooled = x.axes[:-rank], x.axes[-rank:]
    settings = zip(pooled, kernels, strides, per_axis(padding, rank), per_axis(dilation, rank), node.shape[-rank:], strict=True)
    return Action((*lead, *(_pool_axis(node, *s) for s in settings)))


def _pool_axis(node: Any, x: Axis, k: int, s: int, p: int, d: int, out: int) -> Axis:
    tiles = s == k and p == 0 and d == 1 and k * out == x.size
    if tiles and not ax.is_length(x):
        return ax.factor(x, out, k)[0]
    return slide(node, x, kernel=k, stride=s, dilation=d, pad=(p, p), out=out)[0]


@rule(aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default, aten.adaptive_avg_pool3d.default)
@rule(aten.adaptive_max_pool1d.default, aten.adaptive_max_pool2d.default, aten.adaptive_max_pool3d.default)
def adaptive_pool(node: Any, x: Action, size: Any) -> Any:
    """Window i spans floor(i L / out) to ceil((i + 1) L / out): its own mirror image for every L."""
    is_max = "max" in op_name(node.op)
    if is_max:
        require_unsigned(x, node, because="max(-x) is not -max(x)")
    sizes = per_axis(size, 1)
    axes = list(x.axes)
    for i, out in enumerate(sizes):
        dim = i - len(sizes)
        term = axes[dim]
        if out == term.size:
            continue
        if out == 1:
            axes[dim] = ax.trivial(1)
        elif ax.is_length(term):
            axes[dim] = advance(node, term, Step(0, out), out)
        else:
            axes[dim] = ax.factor(term, out, term.size // out)[0] if term.size % out == 0 else _fixed(term, out)
    result = Action(tuple(axes))
    return (result, result) if is_max else result


def _fixed(term: Axis, out: int) -> Axis:
    ax.unify(term, ax.trivial(term.size))
    return ax.trivial(out)


@rule(aten.upsample_nearest1d.vec, aten.upsample_nearest2d.vec, aten.upsample_nearest3d.vec)
@rule(aten._upsample_nearest_exact1d.vec, aten._upsample_nearest_exact2d.vec, aten._upsample_nearest_exact3d.vec)
def upsample_nearest(node: Any, x: Action, size: Any, scale: Any) -> Action:
    """Each position repeated a whole number of times."""
    rank = len(node.shape) - 2
    axes = list(x.axes)
    for dim in range(-rank, 0):
        n, out = axes[dim].size, node.shape[dim]
        if out % n:
            refuse(
                f"nearest upsampling from {n} to {out} positions",
                why=f"{out} is no multiple of {n}: the repeats are not their own mirror image",
                do="use a whole scale factor, or mode='linear'",
            )
        axes[dim] = _resampled(node, axes[dim], Step(out // n, 0), out)
    return Action(tuple(axes))


@rule(aten.upsample_linear1d.vec, aten.upsample_bilinear2d.vec, aten.upsample_bicubic2d.vec, aten.upsample_trilinear3d.vec)
def upsample_linear(node: Any, x: Action, size: Any, align_corners: bool, scale: Any) -> Action:
    """Interpolation is its own mirror image, aligned at corners or not, when the scale is exact."""
    rank = len(node.shape) - 2
    axes = list(x.axes)
    for i, dim in enumerate(range(-rank, 0)):
        n, out = axes[dim].size, node.shape[dim]
        if scale is not None and not align_corners and abs(n * scale[i] - out) > 1e-9:
            refuse(
                f"interpolation of {n} positions by {scale[i]}",
                why=f"the grid is {n * scale[i]:g} wide but {out} positions are kept, all from the left",
                do="choose a scale that gives a whole length, or pass size=",
            )
        step = Step(int(scale[i]), 0) if scale is not None and float(scale[i]).is_integer() else Step(0, out)
        axes[dim] = _resampled(node, axes[dim], step, out)
    return Action(tuple(axes))


def _resampled(node: Any, term: Axis, step: Step, out: int) -> Axis:
    if term.size == out:
        return term
    if ax.is_length(term):
        return advance(node, term, step, out)
    ax.unify(term, ax.trivial(term.size))
    return ax.trivial(out)
