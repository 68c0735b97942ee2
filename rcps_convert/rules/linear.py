"""Contractions: contracted axes agree, the others pass through."""

from __future__ import annotations

from typing import Any

import torch

from .. import axis as ax
from ..action import Action
from ..axis import Axis
from ..registry import refuse, rule
from .common import broadcast

aten = torch.ops.aten


@rule(aten.linear.default)
def linear(node: Any, x: Action, w: Action, b: Action | None = None) -> Action:
    """x.last = w.in; w.out = b = y.last."""
    ax.unify(x.axes[-1], w.axes[-1])
    if b is not None:
        ax.unify(b.axes[0], w.axes[0])
    return Action((*x.axes[:-1], *w.axes[:-1]))


@rule(aten.matmul.default, aten.bmm.default, aten.mm.default, aten.mv.default, aten.dot.default)
def matmul(node: Any, a: Action, b: Action) -> Action:
    """a.last = b.second to last; leading axes broadcast."""
    if len(b.axes) == 1:
        ax.unify(a.axes[-1], b.axes[0])
        return Action(a.axes[:-1])
    ax.unify(a.axes[-1], b.axes[-2])
    lead = broadcast(node, [Action(a.axes[:-2]), Action(b.axes[:-2])])
    rows = a.axes[-2:-1] if len(a.axes) > 1 else ()
    return Action((*lead.axes, *rows, b.axes[-1]))


@rule(aten.addmm.default, aten.addbmm.default, aten.baddbmm.default, aten.addmv.default)
def add_matmul(node: Any, base: Action, a: Action, b: Action, beta: float = 1, alpha: float = 1) -> Action:
    """The sum of a tensor and a matrix product."""
    out = matmul(node, a, b)
    if len(out.axes) > len(node.shape):  # addbmm also sums over the batch
        out = Action(out.axes[1:])
    return broadcast(node, [out, base])


@rule(aten.outer.default)
def outer(node: Any, a: Action, b: Action) -> Action:
    """Nothing is contracted."""
    return Action((a.axes[0], b.axes[0]))


@rule(aten.einsum.default)
def einsum(node: Any, equation: str, operands: list[Action], path: Any = None) -> Action:
    """Axes of one letter agree; letters of the result pass through."""
    inputs, _, output = equation.replace(" ", "").partition("->")
    terms = inputs.split(",")
    if "->" not in equation:
        letters = [c for c in sorted(set(inputs)) if c.isalpha()]
        output = ("..." if "..." in inputs else "") + "".join(c for c in letters if inputs.count(c) == 1)
    known: dict[str, Axis] = {}
    rest: list[Action] = []
    for term, x in zip(terms, operands, strict=True):
        named, hidden = _letters(term, x)
        rest.append(Action(hidden))
        for letter, axis in named:
            _agree(known, letter, axis)
    dots = broadcast(node, rest).axes
    before, _, after = output.partition("...")
    middle = dots if "..." in output else ()
    if dots and "..." not in output:
        refuse("einsum drops its ellipsis", why="summed ellipses are not covered", do="name the axes", never=False)
    return Action((*(known[c] for c in before), *middle, *(known[c] for c in after)))


def _letters(term: str, x: Action) -> tuple[list[tuple[str, Axis]], tuple[Axis, ...]]:
    before, dots, after = term.partition("...")
    if not dots:
        return list(zip(before, x.axes, strict=True)), ()
    end = len(x.axes) - len(after)
    named = [*zip(before, x.axes, strict=False), *zip(after, x.axes[end:], strict=True)]
    return named, x.axes[len(before) : end]


def _agree(known: dict[str, Axis], letter: str, axis: Axis) -> None:
    if letter not in known or known[letter].size == 1 < axis.size:
        known[letter] = axis
    elif axis.size == known[letter].size:
        ax.unify(known[letter], axis)
        if ax.role(axis) and not ax.role(known[letter]):
            known[letter] = axis
