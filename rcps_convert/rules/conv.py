"""Convolutions: contracted channels agree, the kernel is reversed along every length."""

from __future__ import annotations

import math
from typing import Any

from .._torch import op_name
from ..algebra import axis as ax
from ..algebra.action import Action
from ..algebra.axis import Axis, Step
from ..errors import BreaksSymmetryError, Refusal
from .common import (
    advance,
    forbid_signs,
    is_reversal,
    per_axis,
    read_as_positions,
    require_edges,
    require_fixed,
    reversal,
    slide,
)
from .registry import aten, rule


@rule(aten.conv1d.default, aten.conv2d.default, aten.conv3d.default, signs=True, weight=1, filters=0)
@rule(aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding, signs=True, weight=1, filters=0)
def conv(
    node: Any,
    x: Action,
    w: Action,
    b: Action | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Action:
    """x.C = groups x w.in; y.C = b = groups x filters = w.out but for signs; w.K and y.L reversed as x.L is."""
    spatial = len(w.axes) - 2
    channel = len(x.axes) - spatial - 1
    group, into = _groups(x.axes[channel], groups)
    ax.unify(into, w.axes[1])
    filters = _filters(group, w.axes[0], one_tap=all(t.size == 1 for t in w.axes[2:])) if groups > 1 else w.axes[0]
    if b is not None:
        ax.unify(b.axes[0], filters)
    positions: list[Axis] = []
    settings = zip(
        x.axes[channel + 1 :],
        w.axes[2:],
        per_axis(stride, spatial),
        _pads(padding, w, per_axis(dilation, spatial), spatial),
        per_axis(dilation, spatial),
        node.shape[channel + 1 :],
        strict=True,
    )
    for length, taps, s, pad, d, out in settings:
        y, kernel = slide(node, length, kernel=taps.size, stride=s, dilation=d, pad=pad, out=out)
        ax.unify(taps, kernel)
        positions.append(y)
    if b is not None:
        forbid_signs([*x.axes[:channel], *positions])
    return Action((*x.axes[:channel], filters, *positions))


def _groups(channels: Axis, groups: int) -> tuple[Axis, Axis]:
    """Channels as groups x channels of each; the sign of a lone channel belongs to the channel."""
    return ax.factor(channels, groups, channels.size // groups) if groups > 1 else (ax.trivial(1), channels)


def _filters(group: Axis, w: Axis, *, one_tap: bool) -> Axis:
    """The channels that groups of filters make: groups x filters, as in the weight.

    Args:
        group: the axis of groups of the operand.
        w: the filters of the weight.
        one_tap: the filters have one tap.
    """
    group = ax.walk(group)
    parts = [ax.walk(p) for p in (group.parts if isinstance(group, ax.Sum) else (group,))]
    each = w.size // group.size
    if any(map(_is_negative, parts)):
        return _signed_filters(parts, w, each, odd=each > 1 or not one_tap)
    same_group, _ = ax.factor(w, group.size, each)
    ax.unify(group, same_group)
    ax.forbid_sign(group)  # it meets itself in the product of x and w
    return w


def _signed_filters(parts: list[Axis], w: Axis, each: int, *, odd: bool) -> Axis:
    """The same where groups change their sign: what reads such a group does too, or its filters are odd.

    Args:
        parts: the axis of groups in blocks, each of one sign.
        w: the filters of the weight.
        each: number of filters per group.
        odd: filters can be odd without being zero.
    """
    read, made = [], []
    for part in parts:
        sign = [ax.SIGN] if _is_negative(part) else []
        group = ax.product([part, *sign])
        ax.forbid_sign(group)
        filters = [group, *([ax.Var(each)] if each > 1 else []), *([ax.Var(1)] if sign and odd else [])]
        read.append(ax.product(filters))
        made.append(ax.product([*filters, *sign]))
    ax.unify(w, ax.total(read))
    return ax.total(made)


def _is_negative(part: Axis) -> bool:
    """Whether all entries of a block are known to change their sign."""
    return ax.SIGN in (part.factors if isinstance(part, ax.Prod) else (part,))


def _pads(padding: Any, w: Action, dilation: list[int], spatial: int) -> list[tuple[int, int]]:
    if padding == "valid":
        return [(0, 0)] * spatial
    if padding == "same":
        totals = [d * (k.size - 1) for d, k in zip(dilation, w.axes[2:], strict=True)]
        return [(t // 2, t - t // 2) for t in totals]
    return [(p, p) for p in per_axis(padding, spatial)]


@rule(aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input, signs=True, weight=1)
def conv_transpose(
    node: Any,
    x: Action,
    w: Action,
    b: Action | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Action:
    """x.C = w.in; groups x w.out = b = y.C; w.K and y.L reversed as x.L is."""
    spatial = len(w.axes) - 2
    channel = len(x.axes) - spatial - 1
    ax.unify(x.axes[channel], w.axes[0])
    group, _ = _groups(x.axes[channel], groups)
    if groups > 1:
        ax.forbid_sign(group)
    channels = ax.product([group, w.axes[1]])
    if b is not None:
        ax.unify(b.axes[0], channels)
    settings = zip(
        x.axes[channel + 1 :],
        w.axes[2:],
        per_axis(stride, spatial),
        per_axis(padding, spatial),
        per_axis(output_padding, spatial),
        per_axis(dilation, spatial),
        node.shape[channel + 1 :],
        strict=True,
    )
    positions = [_transposed_axis(node, *each) for each in settings]
    if b is not None:
        forbid_signs([*x.axes[:channel], *positions])
    return Action((*x.axes[:channel], channels, *positions))


def _transposed_axis(
    node: Any, x: Axis, taps: Axis, stride: int, pad: int, extra: int, dilation: int, out: int
) -> Axis:
    """One axis of a transposed convolution: windows are added up instead of read."""
    plain = pad == extra == 0 and dilation == 1
    if plain and stride == taps.size == 1:
        ax.unify(taps, ax.trivial(1))
        return x
    read_as_positions(node, x)
    if ax.lengthen(x):
        ax.unify(taps, ax.length(taps.size))
        grown = dilation * (taps.size - 1) + 1 - stride - 2 * pad + extra
        return advance(node, x, Step(stride, grown, lopsided=extra > 0), out, _extra(node, extra))
    if is_reversal(x):
        require_edges(node, x.size, Step(1, 0, lopsided=extra > 0))
        ax.unify(taps, reversal(taps.size))
        return reversal(out, x)
    require_fixed(node, x)
    if plain and x.size == 1:
        return taps
    ax.unify(taps, ax.trivial(taps.size))
    return ax.trivial(out)


def _extra(node: Any, extra: int) -> Refusal | None:
    if not extra:
        return None
    return Refusal(
        BreaksSymmetryError,
        f"{op_name(node.op)} adds {extra} positions on the right (output_padding)",
        why="the reverse complement needs them on the left",
        do="choose kernel, stride and padding that give the wanted length with output_padding=0",
    )


@rule(aten.im2col.default, constants=True, signs=True)
def unfold(node: Any, x: Action, kernel_size: Any, dilation: Any, padding: Any, stride: Any) -> Action:
    """Patches: x.C x window = y.C, the windows' grid is reversed as the lengths are."""
    grid, taps = [], []
    for term, k, d, p, s in zip(x.axes[-2:], kernel_size, dilation, padding, stride, strict=True):
        out = (term.size + 2 * p - d * (k - 1) - 1) // s + 1
        y, kernel = slide(node, term, kernel=k, stride=s, dilation=d, pad=(p, p), out=out)
        grid.append(y)
        taps.append(kernel)
    assert math.prod(t.size for t in taps) * x.axes[-3].size == node.shape[-2]
    return Action((*x.axes[:-3], ax.product([x.axes[-3], *taps]), ax.product(grid)))
