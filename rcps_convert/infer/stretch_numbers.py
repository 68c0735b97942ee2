"""The random actions and numbers on which the law of a stretch is measured.

A law that holds for random numbers of one size holds for all, if every operator is one function throughout. Where one
has pieces, as in ``torch.where(h.sum() > 1e4, h.cumsum(-1), h)``, numbers of the usual size may never leave the first:
then small and large ones are drawn too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from .._torch import op_name, pytree
from ..algebra import axis as ax
from ..algebra.action import Action
from ..algebra.axis import Axis
from ..graph.precision import WIDER
from ..graph.trace import Node
from ..rules.registry import Const

DRAWS = 7
"""Random inputs on which a law must hold."""

SIZED = 2**20
"""The seed of the first draw of small or large numbers."""

KINDS_OF_SIZE = (0, 3)
"""Kinds of numbers, normal and positive, that are drawn small and large; see `draw`."""

PIECEWISE = re.compile(
    "gt|lt|ge|le|eq|ne|greater|less|greater_equal|less_equal|not_equal|isclose|signbit|sign|sgn|abs|relu|relu6|clamp|"
    "clamp_min|clamp_max|clip|threshold|hardtanh|hardshrink|softshrink|hardsigmoid|hardswish|leaky_relu|prelu|elu|celu|"
    "selu|rrelu|maximum|minimum|fmax|fmin|max|min|amax|amin|aminmax|floor|ceil|round|trunc|frac|remainder|fmod|"
    "floor_divide|bucketize|searchsorted|heaviside|nan_to_num|isfinite|isinf|isnan|sort|topk|argmax|argmin|argsort|"
    "median|kthvalue|cummax|cummin"
)
"""Names of operators that compute one thing for some numbers and another for others."""

AROUND = 1e3
"""How many times larger, and smaller, than the numbers that a stretch holds others are drawn."""

LEAST = 30.0
"""A size that is tried beside: an exponential of it is finite."""


def sizes(nodes: Iterable[Node], given: Mapping[str, Any]) -> list[float]:
    """Sizes of random numbers that reach all pieces of the operators of a stretch; none if all are of one piece.

    Args:
        nodes: of the stretch.
        given: by name what they read from outside.
    """
    nodes = [*nodes]
    if not any(PIECEWISE.fullmatch(op_name(n.op)) or _counts(n) for n in nodes):
        return []
    leaves = pytree.tree_leaves([(n.args, n.kwargs) for n in nodes])
    leaves += [float(v.value) for v in given.values() if isinstance(v, Const) and _is_number(v.value)]
    found = [abs(x) for x in leaves if type(x) in (int, float) and 0 < abs(x) < float("inf")]
    return [min([1.0, *found]) / AROUND, LEAST, max([1.0, *found]) * AROUND]


def _is_number(x: Tensor) -> bool:
    return x.numel() == 1 and not x.is_complex()


def _counts(node: Node) -> bool:
    """Whether a node makes whole numbers or truth values of others."""
    made = [v for v in pytree.tree_leaves(node.value) if isinstance(v, Tensor)]
    return any(not (v.is_floating_point() or v.is_complex()) for v in made)


def random_action(v: ax.Var, number: int, seed: int, signed: bool) -> Axis:
    """A random involution of the entries of an open axis, with a random sign where it may have one.

    Whether it moves anything is read off a code of the variable's number, so that no two variables do the same in
    every draw, and none always moves or never.
    """
    code, generator = 0b101100 + 7 * number, torch.Generator().manual_seed(1000 * number + seed)
    order, table = torch.randperm(v.size, generator=generator).tolist(), list(range(v.size))
    if code >> (seed % 6) & 1:
        for i in range(0, v.size - 1, 2):
            table[order[i]], table[order[i + 1]] = order[i + 1], order[i]
    term = ax.permutation(table)
    negative = signed and bool((code * 5 + 3) >> (seed % 6) & 1)
    return ax.product([term, ax.SIGN]) if negative else term


def concrete(term: Axis, values: Mapping[ax.Var, Axis]) -> Axis:
    """A term with its open variables replaced."""
    return ax.replaced(term, values.__getitem__)


def concrete_action(action: Action, values: Mapping[ax.Var, Axis]) -> Action:
    """An action with its open variables replaced."""
    return action.replaced(values.__getitem__)


def draw(action: Action, dtype: torch.dtype, seed: int, generator: torch.Generator) -> Tensor:
    """Random numbers of one of several kinds: normal, positive, large, with ties, flags; ids and truth values as such.

    Flags are what masks hold: of other numbers, ``-10000 * (1 - mask)`` hides whatever is added to it.
    """
    shape = action.shape
    if action.value is not None:
        return torch.randint(action.value.size, shape, generator=generator).to(dtype)
    if dtype == torch.bool:
        return torch.rand(shape, generator=generator) < 0.5
    if not (dtype.is_floating_point or dtype.is_complex):
        return torch.randint(-3, 4, shape, generator=generator).to(dtype)
    double = WIDER.get(dtype, dtype)
    if double.is_complex:
        return torch.randn(shape, generator=generator, dtype=double)
    x = torch.randn(shape, generator=generator, dtype=double)
    kinds = (
        *(lambda: x, lambda: x.exp(), lambda: 5 * x, lambda: x.abs(), lambda: x.relu(), lambda: x.sigmoid()),
        lambda: (x > 0).to(double),
    )
    return kinds[seed % len(kinds)]()


def wide(value: Tensor) -> Tensor:
    """A constant in double precision."""
    return value.detach().to(WIDER.get(value.dtype, value.dtype))


def numbers(value: Tensor) -> Tensor:
    """A result as numbers that can be compared."""
    return value if value.is_complex() else value.double()
