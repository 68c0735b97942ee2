"""Actions as texts, and back: the form in which they are kept in files.

    8               8 entries that stay
    8r              8 entries in reversed order
    [1 0 3 2]       entry i comes from the i-th number
    -               one entry that changes its sign
    75r@length(75)  a length, come from 75 positions of the input
    24r@length(75: 1 -4, 1 0 3)   the same, and what operators did to it: times 1, minus 4; times 1, plus 0, over 3
    2@batch         samples
    1@edge          positions without a partner
    a * b, a + b    the product of factors, the sum of blocks; products bind closer, (...) group

An action on a tensor is written with a comma between its axes, in parentheses; ``of ids`` and a term follow where
the values of the tensor are permuted too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

from ..errors import ConversionError
from . import axis as ax
from .action import Action
from .axis import Axis, Leaf, Prod, Role, Step, Sum

TOKENS = re.compile(r"\s*(-?\d+r?|of ids|[a-z]+=?|\S)")
NUMBER, SIZE = re.compile(r"-?\d+"), re.compile(r"\d+r?")


# --- writing ------------------------------------------------------------------------------------


def write_axis(term: Axis) -> str:
    """The text of a known term.

    Raises:
        ValueError: it has free variables.
    """
    term = ax.walk(term)
    if ax.free(term):
        raise ValueError("the action is not known yet")
    return _written(term)


def write_action(action: Action) -> str:
    """The text of a known action.

    Raises:
        ValueError: it has free variables.
    """
    text = f"({', '.join(map(write_axis, action.axes))})"
    return text if action.value is None else f"{text} of ids {write_axis(action.value)}"


def write_step(step: Step) -> str:
    """The text of what one operator does to a length: multiplier, addend and divisor, then what is special."""
    numbers = [step.mul, step.add] + ([step.div] if step.div != 1 else [])
    optional = [f.name for f in fields(step) if f.default is None]
    special = [f"{name}={value}" for name in optional if (value := getattr(step, name)) is not None]
    return " ".join([*map(str, numbers), *special, *(["lopsided"] if step.lopsided else [])])


def _written(term: Axis) -> str:
    if isinstance(term, Sum):
        return " + ".join(_enclosed(p) if isinstance(p, Sum) else _written(p) for p in term.parts)
    if isinstance(term, Prod):
        return " * ".join(_enclosed(f) if isinstance(f, (Sum, Prod)) else _written(f) for f in term.factors)
    assert isinstance(term, Leaf)
    if term.negative:
        text = "-"
    elif isinstance(term.perm, tuple):
        text = f"[{' '.join(map(str, term.perm))}]"
    else:
        text = f"{term.size}{'r' if term.perm else ''}"
    return text + _written_role(term.role)


def _enclosed(term: Axis) -> str:
    return f"({_written(term)})"


def _written_role(role: Role | None) -> str:
    if role is None:
        return ""
    if role in (Role("batch"), Role("edge"), ax.STANDING):
        return f"@{role.name}"
    steps = "?" if role.steps is None else ", ".join(map(write_step, role.steps))
    return f"@{role.name}({role.start}{f': {steps}' if steps else ''})"


# --- reading ------------------------------------------------------------------------------------

T = TypeVar("T")


def read_axis(text: str) -> Axis:
    """The term that a text stands for.

    Raises:
        ConversionError: it is no text of a term.
    """
    return _read(text, "an axis", _TokenReader.sum)


def read_action(text: str) -> Action:
    """The action that a text stands for.

    Raises:
        ConversionError: it is no text of an action.
    """
    return _read(text, "an action", _TokenReader.action)


def read_step(text: str) -> Step:
    """The step that a text stands for.

    Raises:
        ConversionError: it is no text of a step.
    """
    return _read(text, "a step", _TokenReader.step)


def _read(text: Any, kind: str, read: Callable[[_TokenReader], T]) -> T:
    try:
        if not isinstance(text, str):
            raise ValueError(f"it is a {type(text).__name__}")
        reader = _TokenReader(text)
        found = read(reader)
        if reader.next:
            raise ValueError(f"{reader.next!r} is left over")
        return found
    except ValueError as reason:
        raise ConversionError(
            f"{text!r} is no text of {kind}",
            why=str(reason),
            do="give a recipe as it was written; see rcps_convert.algebra.texts for the form",
        ) from reason


class _TokenReader:
    """Reads the tokens of a text from left to right; a text that ends too early ends in empty tokens."""

    def __init__(self, text: str) -> None:
        self.tokens = TOKENS.findall(text)[::-1]

    @property
    def next(self) -> str:
        """The next token."""
        return self.tokens[-1] if self.tokens else ""

    def take(self, *wanted: str) -> str:
        """The next token, which must be one of some."""
        if wanted and self.next not in wanted:
            raise ValueError(f"{self.next or 'its end'!r} stands where {' or '.join(wanted)} is expected")
        return self.tokens.pop() if self.tokens else ""

    def number(self) -> int:
        """The next token, a whole number."""
        if not NUMBER.fullmatch(self.next):
            raise ValueError(f"{self.next or 'its end'!r} stands where a number is expected")
        return int(self.take())

    def action(self) -> Action:
        """Terms in parentheses, and one for the values."""
        self.take("(")
        axes = []
        while self.next != ")":
            axes.append(self.sum())
            if self.next != ")":
                self.take(",")
        self.take(")")
        if not self.next:
            return Action(tuple(axes))
        self.take("of ids")
        return Action(tuple(axes), self.sum())

    def sum(self) -> Axis:
        """Products with + between them."""
        parts = [self.product()]
        while self.next == "+":
            self.take()
            parts.append(self.product())
        return parts[0] if len(parts) == 1 else ax.walk(Sum(tuple(parts)))

    def product(self) -> Axis:
        """Leaves and groups with * between them."""
        factors = [self.factor()]
        while self.next == "*":
            self.take()
            factors.append(self.factor())
        return factors[0] if len(factors) == 1 else ax.walk(Prod(tuple(factors)))

    def factor(self) -> Axis:
        """A leaf, or a group in parentheses."""
        if self.next == "(":
            self.take()
            inner = self.sum()
            self.take(")")
            return inner
        size, perm, negative = self.permutation()
        return Leaf(size, perm, negative, self.role())

    def permutation(self) -> tuple[int, str | tuple[int, ...] | None, bool]:
        """Size, permutation and sign of a leaf."""
        if self.next == "-":
            self.take()
            return 1, None, True
        if self.next == "[":
            self.take()
            table = []
            while self.next != "]":
                table.append(self.number())
            self.take("]")
            ax.permutation(table)  # states that it is an involution
            return len(table), tuple(table), False
        if not SIZE.fullmatch(self.next):
            raise ValueError(f"{self.next or 'its end'!r} stands where a size is expected")
        text = self.take()
        return int(text.rstrip("r")), "reversed" if text.endswith("r") else None, False

    def role(self) -> Role | None:
        """What follows an @."""
        if self.next != "@":
            return None
        self.take()
        name = self.take("length", "batch", "edge", "standing")
        if self.next != "(":
            return Role(name)
        self.take()
        start, steps = self.number(), self.steps()
        self.take(")")
        return Role(name, start, steps)

    def steps(self) -> tuple[Step, ...] | None:
        """What follows a colon: what operators did to a length."""
        if self.next != ":":
            return ()
        self.take()
        if self.next == "?":
            self.take()
            return None
        found = [self.step()]
        while self.next == ",":
            self.take()
            found.append(self.step())
        return tuple(found)

    def step(self) -> Step:
        """What one operator does to a length."""
        mul, add = self.number(), self.number()
        special: dict[str, Any] = {"div": self.number()} if NUMBER.fullmatch(self.next) else {}
        while self.next in ("only=", "ceil=", "lopsided"):
            word = self.take()
            special[word.rstrip("=")] = True if word == "lopsided" else self.number()
        return Step(mul, add, **special)
