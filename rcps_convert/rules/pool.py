"""Pooling and resampling: a reversed axis stays reversed where the windows reach both edges alike."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

from .._torch import op_name
from ..algebra import axis as ax
from ..algebra.action import Action
from ..algebra.axis import Axis, Step
from ..errors import BreaksSymmetryError, Refusal
from .common import GRIDS, advance, per_axis, slide
from .registry import aten, refuse, refuse_later, rule


@rule(
    aten.max_pool1d.default,
    aten.max_pool2d.default,
    aten.max_pool3d.default,
    because="max(-x) is not -max(x)",
    nonlinear=True,
)
def max_pool(
    node: Any, x: Action, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
) -> Action:
    """The largest of each window."""
    return _pool(node, x, kernel, stride, padding, dilation, ceil_mode)


@rule(
    aten.max_pool1d_with_indices.default,
    aten.max_pool2d_with_indices.default,
    because="max(-x) is not -max(x)",
    nonlinear=True,
)
@rule(aten.max_pool3d_with_indices.default, because="max(-x) is not -max(x)", nonlinear=True)
def max_pool_with_indices(node: Any, x: Action, kernel: Any, *settings: Any) -> tuple[Action, Action]:
    """The largest of each window, and its place among all positions."""
    rank = len(kernel)
    node = replace(node, node=replace(node.node, value=node.value[0]))
    values = max_pool(node, x, kernel, *settings)
    return values, Action(values.axes, ax.product(x.axes[-rank:]))


@rule(aten.max_unpool2d.default, aten.max_unpool3d.default, ids=True, signs=True)
def max_unpool(node: Any, x: Action, places: Action, size: Any, *settings: Any) -> Action:
    """Values put back where a pool found them; of equal values that is the first place, which is not mirrored."""
    rank, value = len(size), places.value
    if value is None or ax.is_trivial(value):
        for term in x.axes[-rank:]:
            ax.unify(term, ax.trivial(term.size))
        return Action((*x.axes[:-rank], *(ax.trivial(s) for s in node.shape[-rank:])))
    refuse_later(
        node,
        f"{op_name(node.op)} puts values back where a pool found them",
        why="of equal values, as all-zero columns (N) or repeats give them, a pool takes the first from the left, and "
        "on the other strand that is the last",
        do="upsample instead (nn.Upsample, F.interpolate, a transposed convolution)",
    )
    return Action((*x.axes[:-rank], *(ax.trivial(1) if s == 1 else ax.length(s) for s in node.shape[-rank:])))


@rule(aten.avg_pool1d.default, aten.avg_pool2d.default, aten.avg_pool3d.default, signs=True)
def avg_pool(
    node: Any,
    x: Action,
    kernel: Any,
    stride: Any = (),
    padding: Any = 0,
    ceil_mode: bool = False,
    *settings: Any,
    **more: Any,
) -> Action:
    """The mean of each window: linear, so signs pass."""
    return _pool(node, x, kernel, stride, padding, 1, ceil_mode)


def _pool(node: Any, x: Action, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool) -> Action:
    rank = len(kernel) if isinstance(kernel, (list, tuple)) else 1
    kernels = per_axis(kernel, rank)
    strides = per_axis(stride, rank) if stride else kernels
    pads, dilations = per_axis(padding, rank), per_axis(dilation, rank)
    settings = zip(x.axes[-rank:], kernels, strides, pads, dilations, node.shape[-rank:], strict=True)
    return Action((*x.axes[:-rank], *(_pool_axis(node, *s, ceil=ceil) for s in settings)))


def _pool_axis(node: Any, x: Axis, k: int, s: int, p: int, d: int, out: int, *, ceil: bool) -> Axis:
    tiles = s == k and p == 0 and d == 1 and k * out == x.size
    if tiles and not ax.is_length(x):
        result, window = ax.factor(x, out, k)
    else:
        result, window = slide(node, x, kernel=k, stride=s, dilation=d, pad=(p, p), out=out, ceil=ceil)
    ax.forbid_sign(window)
    return result


@rule(aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default, aten.adaptive_avg_pool3d.default, signs=True)
def adaptive_avg_pool(node: Any, x: Action, size: Any) -> Action:
    """Window i spans floor(i L / out) to ceil((i + 1) L / out): its own mirror image for every L."""
    sizes = per_axis(size, 1)
    axes = list(x.axes)
    for i, out in enumerate(sizes):
        dim = i - len(sizes)
        if out != axes[dim].size:
            axes[dim] = _adapted(node, axes[dim], out)
    return Action(tuple(axes))


@rule(
    aten.adaptive_max_pool1d.default,
    aten.adaptive_max_pool2d.default,
    aten.adaptive_max_pool3d.default,
    because="max(-x) is not -max(x)",
    nonlinear=True,
)
def adaptive_max_pool(node: Any, x: Action, size: Any) -> tuple[Action, Action]:
    """The windows of `adaptive_avg_pool`; the places of the largest are ids among all positions."""
    result = adaptive_avg_pool(node, x, size)
    return result, Action(result.axes, ax.product(x.axes[-len(per_axis(size, 1)) :]))


def _adapted(node: Any, term: Axis, out: int) -> Axis:
    if out > 1 and ax.lengthen(term):
        return advance(node, term, Step(0, out), out)
    if term.size % out == 0:
        result, window = ax.factor(term, out, term.size // out)
        ax.forbid_sign(window)
        return result
    return _fixed(term, out)


def _fixed(term: Axis, out: int) -> Axis:
    ax.unify(term, ax.trivial(term.size))
    return ax.trivial(out)


@rule(aten.upsample_nearest1d.vec, aten.upsample_nearest2d.vec, aten.upsample_nearest3d.vec, signs=True)
@rule(
    aten._upsample_nearest_exact1d.vec,
    aten._upsample_nearest_exact2d.vec,
    aten._upsample_nearest_exact3d.vec,
    signs=True,
)
def upsample_nearest(node: Any, x: Action, size: Any, scale: Any) -> Action:
    """Each position repeated a whole number of times."""
    rank = len(node.shape) - 2
    axes = list(x.axes)
    for i, dim in enumerate(range(-rank, 0)):
        n, out = axes[dim].size, node.shape[dim]
        uneven = None
        if out % n or not _exact(n, out, scale and scale[i]):
            uneven = Refusal(
                BreaksSymmetryError,
                f"nearest resampling from {n} to {out} positions",
                why=f"{out} positions do not repeat each of {n} equally often: the result is not its own mirror image",
                do="use a whole scale factor, or mode='linear'",
            )
        axes[dim] = _resampled(node, axes[dim], out, scale and scale[i], uneven)
    return Action(tuple(axes))


def _exact(n: int, out: int, scale: float | None) -> bool:
    """Whether a scale, if one was given, leads to this length without a remainder."""
    return scale is None or abs(n * scale - out) < 1e-9


@rule(aten.upsample_linear1d.vec, aten.upsample_bilinear2d.vec, aten.upsample_trilinear3d.vec, signs=True)
@rule(aten.upsample_bicubic2d.vec, aten._upsample_bilinear2d_aa.vec, aten._upsample_bicubic2d_aa.vec, signs=True)
def upsample_linear(node: Any, x: Action, size: Any, align_corners: bool, scale: Any) -> Action:
    """Interpolation is its own mirror image, aligned at corners or not, when the scale is exact."""
    rank = len(node.shape) - 2
    axes = list(x.axes)
    for i, dim in enumerate(range(-rank, 0)):
        n, out = axes[dim].size, node.shape[dim]
        uneven = None
        if not align_corners and not _exact(n, out, scale and scale[i]):
            uneven = Refusal(
                BreaksSymmetryError,
                f"interpolation of {n} positions by {scale[i]}",
                why=f"the grid is {n * scale[i]:g} wide but {out} positions are kept, all from the left",
                do="choose a scale that gives a whole length, or pass size=",
            )
        axes[dim] = _resampled(node, axes[dim], out, scale and scale[i], uneven)
    return Action(tuple(axes))


def _resampled(node: Any, term: Axis, out: int, scale: float | None, uneven: Refusal | None) -> Axis:
    """The axis after interpolation; a size without a scale is taken to grow with the length."""
    if term.size == out:
        return term
    if not ax.lengthen(term):
        return _fixed(term, out)
    ratio = Fraction(scale).limit_denominator(1000) if scale else Fraction(out, term.size)
    whole = ratio * term.size == out
    step = Step(ratio.numerator, 0, ratio.denominator) if whole else Step(0, out, only=term.size)
    return advance(node, term, replace(step, lopsided=uneven is not None), out, uneven)


NEAREST = 1
"""The number of the mode of `grid_sample` that does not interpolate."""


def _takes_nearest(node: Any) -> bool:
    """Whether a node takes the nearest position: at few lengths two are equally near."""
    return bool(node.args[2] == NEAREST)


@rule(aten.grid_sampler.default, signs=True, blind=_takes_nearest)
def grid_sample(node: Any, x: Action, grid: Action, mode: int, padding: int, align_corners: bool) -> Action:
    """Coordinates along a length change their sign, as 0 is its middle; the places that are read pass through."""
    if mode == NEAREST:
        refuse_later(
            node,
            "grid_sample takes the nearest position",
            why="of two that are equally near it takes the even one, which is not mirrored",
            do='interpolate: mode="bilinear"',
        )
    for term in (*x.axes[2:], *grid.axes[1:-1]):
        ax.forbid_sign(term)
    ax.unify(x.axes[0], grid.axes[0])
    try:
        ax.unify(grid.axes[-1], ax.total([_coordinate(term) for term in reversed(x.axes[2:])]))
    except ax.Mismatch:
        refuse(
            "the coordinates along a length, in the grid of grid_sample, do not change their sign",
            why="0 is the middle of the length, so on the other strand each is its negative; what was stacked beside "
            "other coordinates keeps its sign",
            do=f'{GRIDS}, or run the module on both strands with on_unsupported="both_strands"',
            never=False,
        )
    return Action((*x.axes[:2], *grid.axes[1:-1]))


def _coordinate(term: Axis) -> Axis:
    """How the coordinate along an axis transforms."""
    if term.size > 1 and ax.lengthen(term):
        return ax.SIGN
    ax.unify(term, ax.trivial(term.size))
    return ax.trivial(1)


@rule(aten.affine_grid_generator.default, signs=True)
def affine_grid(node: Any, theta: Action, size: list[int], align_corners: bool) -> Action:
    """Rows of the matrix are coordinates that are read; its columns are those of the result, whose lengths reverse."""
    made = [ax.trivial(1) if n == 1 else ax.length(n, ax.Role("length", steps=None)) for n in size[2:]]
    columns = [ax.trivial(1) if n == 1 else ax.SIGN for n in reversed(size[2:])]
    ax.unify(theta.axes[2], ax.total([*columns, ax.trivial(1)]))
    return Action((theta.axes[0], *made, theta.axes[1]))
