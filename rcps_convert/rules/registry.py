"""The registry of rules: what each operator says about the actions of its operands and result."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor

from ..algebra import axis as ax
from ..algebra.action import Action
from ..errors import BreaksSymmetryError, NoRuleError, Refusal

Rule = Callable[..., Any]
F = TypeVar("F", bound=Rule)

OPERATORS = (torch._ops.OpOverload, torch._ops.OpOverloadPacket, torch._ops.HigherOrderOperator)
"""The classes of operators."""

RULES: dict[Any, Rule] = {}
"""Rules by operator overload."""


@dataclass(frozen=True)
class Const:
    """A tensor whose value is known when the model is analysed: a buffer, or made inside forward.

    Attributes:
        value: the tensor.
        buffer: name of the buffer it is, or None when it was computed.
    """

    value: Tensor
    buffer: str | None = None


def rule(*ops: Any, constants: bool = False, ids: bool = False) -> Callable[[F], F]:
    """Register the inference rule of one or more operators.

    A rule is called like its operator, after a first argument `node` (see `trace.Node`: ``node.shape``
    is the result's shape), with an `Action` in place of each tensor. It calls ``axis.unify`` on what
    must agree and returns the action of the result (a tuple for several results). A disagreement it
    does not catch is reported as `BreaksSymmetryError`; `refuse` states a better reason.

    Args:
        ops: operator overloads (``torch.ops.aten.relu.default``) or packets, which stand for all
            their overloads.
        constants: hand over operands of known value as `Const` rather than as their action.
        ids: the rule knows what to do with ids (`Action.value`), which other rules refuse as operands.

    Raises:
        ValueError: an operator has a rule already, or the function is registered with other settings.
        TypeError: something is no operator, or no function.

    Example:
        >>> @rule(torch.ops.mylib.swish.default)          # doctest: +SKIP
        ... def swish(node, x):
        ...     '''Pointwise and not odd.'''
        ...     require_unsigned(x, node, because="swish(-x) is not -swish(x)")
        ...     return x
    """
    for op in ops:
        if not (
            isinstance(op, OPERATORS) or hasattr(op, "_opoverload") or getattr(op, "__module__", "") == "_operator"
        ):
            raise TypeError(f"ops={op!r}: rule takes operators such as torch.ops.aten.relu.default")
    if not ops:
        raise TypeError("ops=(): rule needs at least one operator, such as torch.ops.aten.relu.default")
    if not (isinstance(constants, bool) and isinstance(ids, bool)):
        raise TypeError(f"constants={constants!r}, ids={ids!r}: give True or False")

    def register(function: F) -> F:
        if not callable(function) or isinstance(function, type):
            raise TypeError(f"rule(...) decorates a function of the node and the operands' actions, not {function!r}")
        found = _overloads(ops)
        taken = next((op for op in found if op in RULES), None)
        if taken is not None:
            raise ValueError(f"{taken} has a rule already: {RULES[taken].__name__}")
        if getattr(function, "settings", (constants, ids)) != (constants, ids):
            raise ValueError(f"{function.__name__} is registered twice, with other settings")
        function.settings = (constants, ids)  # type: ignore[attr-defined]
        RULES.update(dict.fromkeys(found, function))
        return function

    return register


def _overloads(ops: Iterable[Any]) -> list[Any]:
    found: list[Any] = []
    for op in ops:
        op = getattr(op, "_opoverload", op)  # what torch.library.custom_op returns holds its operator
        found += [getattr(op, name) for name in op.overloads()] if hasattr(op, "overloads") else [op]
    return found


@dataclass(frozen=True)
class Anchor:
    """A length of which an operator may read one edge and not the other.

    Attributes:
        size: the length before the operator, in positions.
        step: what the operator does to it.
        history: the input length it came from, with all steps, this one included; None if unknown.
        words: the arithmetic, for the plan.
        refusal: what to report where the call cannot be re-anchored.
    """

    size: int
    step: ax.Step
    history: tuple[int, tuple[ax.Step, ...]] | None
    words: str
    refusal: Refusal

    @property
    def aligned(self) -> bool:
        """Whether both edges are read alike at this length."""
        return self.step.aligned(self.size)


def refuse(what: str, *, why: str, do: str, never: bool = True, got: str | None = None) -> NoReturn:
    """Refuse a node: `BreaksSymmetryError`, or `NoRuleError` when `never` is False."""
    raise Refusal(BreaksSymmetryError if never else NoRuleError, what, why=why, do=do, got=got)


def refuse_later(node: Any, what: str, *, why: str, do: str, got: str | None = None) -> None:
    """Report a node as `BreaksSymmetryError` and go on, so that later problems are found too.

    For rules that know what their result would be.
    """
    node.deferred.append(Refusal(BreaksSymmetryError, what, why=why, do=do, got=got))


def require_unsigned(x: Action, node: Any, *, because: str) -> None:
    """State that no axis of a tensor may be signed.

    Args:
        x: the action of an operand.
        node: the node being inferred.
        because: the reason, for the report.

    Raises:
        Refusal: an axis is signed.
    """
    try:
        for term in x.axes:
            ax.forbid_sign(term)
    except ax.Mismatch as fact:
        refuse(
            f"{op_name(node.op)} of a tensor that changes its sign",
            why=f"{because}; {fact}",
            do="use an odd function there (tanh, identity), or declare the output invariant",
        )


def require_no_ids(operands: Iterable[Any], node: Any) -> None:
    """State that tensors hold numbers, not ids that reverse complement permutes.

    Raises:
        Refusal: the values of one are permuted ids.
    """
    if any(isinstance(x, Action) and x.value is not None and not ax.is_trivial(x.value) for x in operands):
        refuse(
            f"arithmetic ({op_name(node.op)}) on token ids",
            why="ids are names: reverse complement permutes them, and arithmetic does not follow",
            do="embed or one-hot encode the ids first",
            never=False,
        )


def op_name(op: Any) -> str:
    """The operator's plain name: ``conv1d`` for ``aten.conv1d.default``."""
    name = getattr(op, "_opname", None) or getattr(op, "__name__", str(op))
    return str(name)


def is_pointwise(op: Any) -> bool:
    """Whether torch itself tags an operator as pointwise."""
    return torch.Tag.pointwise in getattr(op, "tags", ())
