"""The registry of rules: what each operator says about the actions of its operands and result."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor

from .._torch import is_operator, op_name, overloads, plain_twin
from ..algebra import axis as ax
from ..algebra.action import Action
from ..errors import BreaksSymmetryError, NoRuleError, Refusal
from .aliases import usual

Rule = Callable[..., Any]
F = TypeVar("F", bound=Rule)

RULES: dict[Any, Rule] = {}
"""Rules by operator overload."""


@dataclass(frozen=True)
class Missing:
    """An operator that the running version of torch does not have; `rule` passes over it.

    Attributes:
        name: its dotted name.
    """

    name: str

    def __getattr__(self, overload: str) -> Missing:
        if overload.startswith("__"):
            raise AttributeError(overload)
        return Missing(f"{self.name}.{overload}")


class _Names:
    """The operators of a namespace, or the overloads of an operator; `Missing` where torch has none of a name.

    Args:
        found: what torch has.
        name: its dotted name.
    """

    def __init__(self, found: Any, name: str) -> None:
        self._found, self._name = found, name

    def __getattr__(self, part: str) -> Any:
        name, found = f"{self._name}.{part}", getattr(self._found, part, None)
        if found is None:
            return Missing(name)
        return _Names(found, name) if hasattr(found, "overloads") else found


aten: Any = _Names(torch.ops.aten, "aten")
"""``torch.ops.aten`` for rules: an operator that another version of torch renames does not stop the import."""

MISSING: list[str] = []
"""Operators that have a rule and that the running version of torch does not have."""


@dataclass(frozen=True)
class Turned:
    """What a constant would be if calls that read one edge of a length had read the other one.

    Attributes:
        value: the tensor.
        calls: names of the results of these calls.
    """

    value: Tensor
    calls: tuple[str, ...]


@dataclass(frozen=True)
class Const:
    """A tensor whose value is known when the model is analysed: a buffer, or made inside forward.

    Attributes:
        value: the tensor.
        buffer: name of the buffer it is, or None when it was computed.
        entries_of: name of the buffer whose entries it holds, some or all, perhaps in another layout or precision.
        attribute: name of the attribute in which the model holds it, a plain tensor.
        rounded: it holds numbers that the model rounded to float32, or that are computed from such.
        turned: what it would be if it had been padded from the other edge, where that is something else.
    """

    value: Tensor
    buffer: str | None = None
    entries_of: str | None = None
    rounded: bool = False
    attribute: str | None = None
    turned: Turned | None = None


@dataclass(frozen=True)
class Facts:
    """What is known of an operator beside its law.

    Attributes:
        constants: its rule takes operands of known value as `Const` rather than as their action.
        ids: its rule knows what to do with ids (`Action.value`); otherwise operands that hold some are refused.
        signs: its rule knows what to do with signed axes; otherwise operands that have some are refused.
        because: why signed operands are refused, in words.
        weight: position of the operand that is the weight of a layer.
        filters: axis of that weight that counts filters.
        statistics: positions of the operands that are running statistics, which act like the channels.
        over_samples: its statistics are gathered over the samples of the batch.
        nonlinear: it is nonlinear, though torch does not tag it as pointwise.
        shape_only: it reads the shape and the dtype of its operand, and no values.
        like: positions of the operands of which it reads the shape and the dtype, and no values.
        blank: its result has no values yet.
        unruled: why it has no rule, in words, for the report.
        blind: of which nodes random numbers do not show that the law fails; no test on numbers stands in for the rule.
        whole: of whole numbers it makes whole ones, whatever the size of its operands.
    """

    constants: bool = False
    ids: bool = False
    signs: bool = False
    because: str = ""
    weight: int | None = None
    filters: int | None = None
    statistics: tuple[int, ...] = ()
    over_samples: bool = False
    nonlinear: bool = False
    shape_only: bool = False
    like: tuple[int, ...] = ()
    blank: bool = False
    unruled: str = ""
    blind: Callable[[Any], bool] | None = None
    whole: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, bool) and not isinstance(value, bool):
                raise TypeError(f"{field.name}={value!r}: give True or False")


FACTS: dict[Any, Facts] = {}
"""Facts by operator overload; an operator that is not in it has none."""


def facts_of(op: Any) -> Facts:
    """What is known of an operator; an in-place operator shares the facts of its plain twin."""
    if op in FACTS:
        return FACTS[op]
    return FACTS.get(plain_twin(op), Facts())


def declare(*ops: Any, **facts: Any) -> None:
    """State facts about operators, beside those that their rules state; they need none.

    Args:
        ops: operator overloads, or packets, which stand for all their overloads.
        facts: attributes of `Facts`.
    """
    FACTS.update({op: dataclasses.replace(FACTS.get(op, Facts()), **facts) for op in _overloads(ops)})


def rule(*ops: Any, replace: bool = False, **facts: Any) -> Callable[[F], F]:
    """Register the inference rule of one or more operators.

    A rule is called like its operator, after a first argument `node` (a `RuleNode`: ``node.shape`` is the
    result's shape), with an `Action` in place of each tensor. It calls ``axis.unify`` on what must agree
    and returns the action of the result (a tuple for several results). A disagreement it does not catch
    is reported as `BreaksSymmetryError`; `refuse` states a better reason.

    Args:
        ops: operator overloads (``torch.ops.aten.relu.default``) or packets, which stand for all
            their overloads; those that the running version of torch lacks are passed over (`aten`).
        replace: take the place of a rule that is registered already. A function of the same qualified name, as
            in a notebook cell that is run again, does so anyway.
        facts: attributes of `Facts`: what the rule takes (``constants``, ``ids``, ``signs``), and what else is
            known of the operator.

    Raises:
        TypeError: something is no operator or no function, or a fact that does not exist.
        ValueError: an operator has a rule already, or the function is registered with other facts.

    Example:
        >>> @rule(torch.ops.mylib.swish.default)          # doctest: +SKIP
        ... def swish(node, x):
        ...     '''Pointwise and not odd: a signed x is refused, as `signs` is not set.'''
        ...     return x
    """
    known = Facts(**facts)
    strange = [op for op in ops if not isinstance(op, Missing) and not (isinstance(op, _Names) or is_operator(op))]
    if strange or not ops:
        raise TypeError(
            f"rule takes operators, such as torch.ops.mylib.swish.default, not {strange[0] if strange else 'nothing'!r}"
        )

    def register(function: F) -> F:
        if not callable(function) or isinstance(function, type):
            raise TypeError(f"rule(...) decorates a function of the node and the operands' actions, not {function!r}")
        found = _overloads(ops)
        MISSING.extend(op.name for op in ops if isinstance(op, Missing))
        taken = next((op for op in found if op in RULES and not (replace or _same(RULES[op], function))), None)
        if taken is not None:
            raise ValueError(
                f"{taken} has a rule already, {RULES[taken].__name__}: pass replace=True to take its place"
            )
        if getattr(function, "facts", known) != known:
            raise ValueError(f"{function.__name__} is registered twice, with other facts")
        function.facts = known  # type: ignore[attr-defined]
        RULES.update(dict.fromkeys(found, function))
        FACTS.update(dict.fromkeys(found, known))
        return function

    return register


def _same(old: Rule, new: Rule) -> bool:
    """Whether a function is another definition of a registered one: a notebook cell that is run again."""
    return old is not new and (old.__module__, old.__qualname__) == (new.__module__, new.__qualname__)


def _overloads(ops: Iterable[Any]) -> list[Any]:
    return [usual(o) for op in ops if not isinstance(op, Missing) for o in overloads(op)]


def is_silent(op: Any) -> bool:
    """Whether an operator makes no tensor: it checks something, or computes a size."""
    return op_name(op).startswith(("_assert", "sym_"))


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


def require_fit(facts: Facts, operands: Iterable[Any], node: Any) -> None:
    """State that operands are such as a rule takes.

    Raises:
        Refusal: one holds ids or has a signed axis, and the rule does not know what becomes of these.
    """
    given = [x for x in operands if isinstance(x, Action)]
    if not facts.ids:
        require_no_ids(given, node)
    for x in given if not facts.signs else ():
        name = op_name(node.op)
        require_unsigned(x, node, because=facts.because or f"{name}(-x) is not -{name}(x)")


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


def is_pointwise(op: Any) -> bool:
    """Whether torch itself tags an operator as pointwise."""
    return torch.Tag.pointwise in getattr(op, "tags", ())
