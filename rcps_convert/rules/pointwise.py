"""Pointwise operators: operands agree where they broadcast, signs pass only odd functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .._torch import op_name, plain_twin
from ..algebra import axis as ax
from ..algebra.action import Action
from ..algebra.axis import Axis
from .common import broadcast, function_of_ids, permuted_ids, same_ids, sum_of
from .registry import RULES, Const, Facts, aten, facts_of, is_pointwise, require_unsigned, rule

ODD = {
    "neg", "tanh", "sin", "asin", "sinh", "asinh", "atan", "atanh", "tan", "erf", "erfinv", "sign", "sgn",
    "hardtanh_symmetric", "softsign", "trunc", "fix", "reciprocal", "tanhshrink", "hardshrink", "softshrink",
    "round",
}  # fmt: skip
"""Functions with f(-x) = -f(x)."""

BETWEEN, NOT_NEGATIVE, NOT_POSITIVE = "lies between 0 and 1", "is never negative", "is never positive"

RANGES = {
    "sigmoid": BETWEEN, "hardsigmoid": BETWEEN, "softmax": BETWEEN, "log_sigmoid": NOT_POSITIVE,
    "log_softmax": NOT_POSITIVE, "relu": NOT_NEGATIVE, "relu6": NOT_NEGATIVE, "softplus": NOT_NEGATIVE,
    "exp": NOT_NEGATIVE, "exp2": NOT_NEGATIVE, "abs": NOT_NEGATIVE, "square": NOT_NEGATIVE, "sqrt": NOT_NEGATIVE,
    "rsqrt": NOT_NEGATIVE, "cosh": NOT_NEGATIVE,
}  # fmt: skip
"""Operators whose result cannot change its sign, by plain name, and what is known of it."""

IDENTITY = {"to", "_to_copy", "alias", "detach", "clone", "contiguous", "lift_fresh_copy", "lift_fresh", "type_as"}
"""Operators that return the values of their first argument."""

LINEAR = {"add", "sub", "rsub", "lerp"}
"""Sums of tensors: signed when all their operands are."""


def pointwise(node: Any, *args: Any, **kwargs: Any) -> Action:
    """Operands agree where they broadcast; signed axes only pass through odd functions and sums."""
    operands = [a for a in (*args, *kwargs.values()) if isinstance(a, Action)]
    if permuted_ids(operands):
        return function_of_ids(node, args, kwargs)
    name = op_name(node.op).strip("_")
    summands = [a for a in args[:2] if a != 0]
    if name in LINEAR and len(operands) == len(summands):  # all of them tensors
        return sum_of(node, operands)
    if name not in ODD and not _is_odd_here(name, args):
        for x in operands:
            require_unsigned(x, node, because=f"{name}(-x) is not -{name}(x)")
    return broadcast(node, operands)


def _is_odd_here(name: str, args: Sequence[Any]) -> bool:
    """Whether a function is odd with these arguments: an odd power, or limits that are alike on both sides."""
    if name == "pow":
        return len(args) == 2 and isinstance(args[1], (int, float)) and args[1] % 2 == 1
    low_high = args[1:3]
    numbers = len(low_high) == 2 and all(isinstance(a, (int, float)) for a in low_high)
    return name in ("clamp", "hardtanh") and numbers and low_high[0] == -low_high[1]


pointwise.facts = Facts(ids=True, signs=True)  # type: ignore[attr-defined]


def rule_of(op: Any) -> Any:
    """An operator's rule: its own, that of its plain twin, or `pointwise` where torch tags it so; None without one."""
    twin = plain_twin(op)
    found = RULES.get(op) or RULES.get(twin)
    return found or (pointwise if is_pointwise(op) or is_pointwise(twin) else None)


def range_of(op: Any) -> str:
    """What keeps an operator's result from changing its sign, in words; empty where nothing is known to."""
    name = op_name(op).strip("_")
    words = RANGES.get(name, "")
    return f"the result of {name} {words}" if words else ""


def is_nonlinear(op: Any, tensors: int) -> bool:
    """Whether an operator is nonlinear in its operands.

    Args:
        op: the operator.
        tensors: number of its operands that are tensors.
    """
    if facts_of(op).nonlinear:
        return True
    name = op_name(op).rstrip("_")
    affine = name in LINEAR or name in IDENTITY or name == "neg" or (name in ("mul", "div") and tensors < 2)
    return is_pointwise(op) and not affine


@rule(aten.__and__.Tensor, aten.__and__.Scalar, aten.__or__.Tensor, aten.__or__.Scalar, ids=True, signs=True)
@rule(aten.__xor__.Tensor, aten.__xor__.Scalar, ids=True, signs=True)
@rule(aten.floor_divide.default, aten.floor_divide.Scalar, ids=True, signs=True)
def untagged(node: Any, *args: Any, **kwargs: Any) -> Action:
    """As `pointwise`, for operators torch does not tag so."""
    return pointwise(node, *args, **kwargs)


@rule(aten.eq.Scalar, aten.ne.Scalar, ids=True, signs=True)
def compare(node: Any, x: Action, other: float) -> Action:
    """As `pointwise`; an id that reverse complement leaves as it is, such as padding, may be looked for."""
    if x.value is None:
        return pointwise(node, x, other)
    same_ids([x, Const(torch.tensor(other))])
    return Action(x.axes)


@rule(aten.fill_.Scalar, aten.fill.Scalar, aten.zero_.default, aten.zero.default, signs=True)
def fill(node: Any, x: Action, value: float = 0) -> Action:
    """One value in place of all: any action passes, signs only if it is 0."""
    if value:
        require_unsigned(x, node, because="the value does not change its sign")
    return x


@rule(aten.to.dtype, aten.to.device, aten.to.dtype_layout, aten._to_copy.default, ids=True, signs=True)
@rule(aten.alias.default, aten.detach.default, aten.clone.default, aten.contiguous.default, ids=True, signs=True)
@rule(aten.lift_fresh_copy.default, ids=True, signs=True)
def identity(node: Any, x: Action, *args: Any, **kwargs: Any) -> Action:
    """The same values: any action passes."""
    return x


@rule(aten.to.other, aten.type_as.default, ids=True, signs=True, like=(1,))
def cast_as(node: Any, x: Action, other: Action, *args: Any, **kwargs: Any) -> Action:
    """The same values, in the precision of another tensor."""
    return x


@rule(aten.copy_.default, aten.copy.default, signs=True)
def copy_into(node: Any, target: Action, source: Action, non_blocking: bool = False) -> Action:
    """The values of the source, broadcast into the target."""
    return sum_of(node, [source, target])


@rule(aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar, ids=True, signs=True)
@rule(aten.mul_.Tensor, aten.div_.Tensor, ids=True, signs=True)
def multiply(node: Any, a: Any, b: Any, **kwargs: Any) -> Action:
    """Axes agree where they broadcast; signs multiply."""
    operands = [x for x in (a, b) if isinstance(x, Action)]
    if permuted_ids(operands):
        return function_of_ids(node, (a, b), kwargs)
    if len(operands) == 1:
        return operands[0]
    bare, negative = zip(*(_strip(x) for x in operands), strict=True)
    small = min(bare, key=lambda x: (len(x.axes), _numel(x)))
    if small is bare[0] and _numel(bare[0]) == _numel(bare[1]):
        small = bare[1]
    large = bare[1] if small is bare[0] else bare[0]
    require_unsigned(small, node, because="only one factor may change its sign")
    out = _product_shape(node, large, small)
    if sum(negative) % 2 == 0:
        return out
    return out.with_axis(-1, ax.product([out.axes[-1], ax.SIGN]))


def _numel(x: Action) -> int:
    return int(torch.Size(x.shape).numel())


def _strip(x: Action) -> tuple[Action, bool]:
    """An action without its uniform signs, and whether their product is -1."""
    axes, negative = [], False
    for term in map(ax.walk, x.axes):
        factors: Sequence[Axis] = term.factors if isinstance(term, ax.Prod) else (term,)
        negative ^= ax.SIGN in factors
        axes.append(ax.product(f for f in factors if f != ax.SIGN))
    return Action(tuple(axes)), negative


def _product_shape(node: Any, large: Action, small: Action) -> Action:
    """Broadcast without tying the open sign of a size-1 axis of `large` to `small`."""
    rank = len(node.shape)
    wide = [ax.trivial(1)] * (rank - len(large.axes)) + list(large.axes)
    open_ones = {i for i, t in enumerate(wide) if t.size == 1 == node.shape[i] and ax.free(t)}
    masked = Action(tuple(ax.trivial(1) if i in open_ones else t for i, t in enumerate(wide)))
    out = broadcast(node, [masked, small])
    return Action(tuple(wide[i] if i in open_ones else t for i, t in enumerate(out.axes)))


@rule(
    aten.where.self,
    aten.where.ScalarOther,
    aten.where.ScalarSelf,
    aten.where.Scalar,
    because="a choice between x and y is not odd in both",
)
def where(node: Any, *args: Any) -> Action:
    """A choice per entry; a mask that changes its sign has no meaning."""
    operands = [a for a in args if isinstance(a, Action)]
    return broadcast(node, operands)


@rule(aten.prelu.default, nonlinear=True)
def prelu(node: Any, x: Action, weight: Action) -> Action:
    """One slope for all, or one per channel: the slope axis is the channel axis."""
    for slope in weight.axes:
        ax.unify(slope, x.axes[1] if slope.size > 1 else ax.trivial(1))
    return x


@rule(
    aten.softplus.default,
    aten.rrelu.default,
    aten.gelu.default,
    aten.mish.default,
    aten.hardswish.default,
    nonlinear=True,
)
@rule(
    aten.relu6.default,
    aten.selu.default,
    aten.celu.default,
    aten.log_sigmoid.default,
    aten.rrelu_.default,
    nonlinear=True,
)
@rule(aten.selu_.default, aten.celu_.default, aten.relu6_.default, aten.threshold.default, nonlinear=True)
@rule(aten.leaky_relu.default, nonlinear=True)
def activation(node: Any, x: Action, *args: Any, **kwargs: Any) -> Action:
    """Pointwise and not odd, whether or not torch tags it."""
    return x


@rule(aten.glu.default, because="a gate is not odd", nonlinear=True)
def glu(node: Any, x: Action, dim: int = -1) -> Action:
    """The two halves of an axis agree: one gates the other."""
    term = x.axes[dim]
    value, gate = ax.split(term, [term.size // 2] * 2)
    ax.unify(value, gate)
    return x.with_axis(dim, value)


@rule(aten.softmax.int, aten.log_softmax.int, aten._softmax.default, aten._log_softmax.default, nonlinear=True)
def softmax(node: Any, x: Action, *args: Any, **kwargs: Any) -> Action:
    """Normalising along an axis commutes with any permutation of it, not with signs."""
    return x
