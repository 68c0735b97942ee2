"""Constants in the precision the model computes them in: where float64 rounds to another number, that one counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .._torch import pytree
from ..graph.precision import WIDER
from ..graph.trace import Node, Ref, Trace
from ..rules.common import is_uniform
from ..rules.registry import Const, facts_of

NEARLY = 1e-5
"""Largest difference of mirrored entries, relative to the largest entry, that is rounding of float32 at most."""

ROUNDING = 1e-4
"""Relative difference between precisions that is rounding; a step taken the other way is larger."""


LARGER = 1.0 + 0.3**5
"""Factor that makes a number no whole one."""

PARTS = 1024
"""Of what whole parts numbers are with which arithmetic is exact."""


class Steps:
    """Where forward rounds fractions of positions: two mirrored ones may differ by rounding.

    Args:
        values: of every node so far, by name; filled as it goes.
        held: names of the tensors that forward holds, or makes of numbers of Python.
        numbers: whether fractional numbers of Python are looked at, which forward may compute from the length.

    Attributes:
        sizes: of axes along which a node takes whole numbers, or truth values, from fractions that run evenly from one
            end to the other, or that arithmetic with such made their own mirror image, or its negative: at some sizes
            two mirrored ones end up on different sides of a step, or the middle one beside its own.
    """

    def __init__(self, values: dict[str, Any], held: Iterable[str], numbers: bool) -> None:
        self.values, self.numbers = values, numbers
        self.fractions = set(held)  # results that are whole, if they are, by chance of the size
        self.centred: set[int] = set()
        self.sizes: set[int] = set()

    def note(self, node: Node, operands: Sequence[tuple[Any, Any]], own: Any) -> None:
        """Note along which axes fractions become their own mirror image, and where such are rounded."""
        given = [isinstance(leaf, Ref) and leaf.name in self.fractions for leaf, _ in operands]
        if isinstance(own, Tensor) and own.is_floating_point() and self._makes_fractions(node, operands, given):
            self.fractions.add(node.name)
        fractions = [x for (_, x), known in zip(operands, given, strict=True) if _is_fraction(x, known)]
        if _is_fraction(own, node.name in self.fractions):
            made = not any(isinstance(x, Tensor) for _, x in operands)
            turned = [_varies(own)] if made else [_varies(x) - _mirrored(x) for x in fractions]
            self.centred |= _mirrored(own) & set[int]().union(*turned)
        elif isinstance(own, Tensor) and not own.is_complex():
            stepped = (_mirrored(x) & self.centred | _mirrored(x, about_zero=False) for x in fractions)
            self.sizes |= set[int]().union(*stepped) & {*own.shape}

    def _makes_fractions(self, node: Node, operands: Sequence[tuple[Any, Any]], given: Sequence[bool]) -> bool:
        if not facts_of(node.op).whole or (self.numbers and any(type(leaf) is float for leaf, _ in operands)):
            return True
        return any(given) and not self._rounds(node)

    def _rounds(self, node: Node) -> bool:
        """Whether the result of a node is whole when fractions among its operands are a little larger."""

        def fill(leaf: Any) -> Any:
            value: Any = self.values.get(leaf.name) if isinstance(leaf, Ref) else leaf
            return value * LARGER if isinstance(leaf, Ref) and leaf.name in self.fractions else value

        try:
            args, kwargs = pytree.tree_map(fill, (node.args, node.kwargs))
            return _is_whole(node.op(*args, **kwargs))
        except Exception:  # as where a fraction is no operand that may be another
            return False


class OwnPrecision:
    """Evaluates the nodes that depend on no input as the model does, beside their values in float64.

    Args:
        trace: where the nodes are from; it knows the precision of every result.

    Attributes:
        steps: where fractions are rounded, at any length.
        by_numbers: the same if the fractional numbers that forward is given are others at other lengths.
    """

    def __init__(self, trace: Trace) -> None:
        known = (*((n.name, n.value) for n in trace.nodes), *((k, s.value) for k, s in trace.sources.items()))
        self.dtypes = {name: value.dtype for name, value in known if isinstance(value, Tensor)}
        self.values: dict[str, Any] = {}
        held = [name for name, source in trace.sources.items() if source.kind == "constant"]
        self.steps, self.by_numbers = (Steps(self.values, held, numbers) for numbers in (False, True))

    def settle(self, node: Node, env: Mapping[str, Any], wide: Any) -> Any:
        """The value of a node: as computed in float64, or as the model computes it where that is another number.

        Args:
            node: its operands are known.
            env: the value of each result so far.
            wide: the value in float64.
        """

        def fill(leaf: Any) -> Any:
            value = env[leaf.name] if isinstance(leaf, Ref) else leaf
            return self._operand(leaf.name, value.value) if isinstance(value, Const) else value

        try:
            args, kwargs = pytree.tree_map(fill, (node.args, node.kwargs))
            own = self.values[node.name] = node.op(*args, **kwargs)
        except Exception:  # what half precision lacks on this machine is taken from float64
            return wide
        leaves, values = (pytree.tree_leaves(nested) for nested in ((node.args, node.kwargs), (args, kwargs)))
        for steps in (self.steps, self.by_numbers):
            steps.note(node, [*zip(leaves, values, strict=False)], own)
        tensors = isinstance(own, Tensor) and isinstance(wide, Tensor)
        return own.to(wide.dtype) if tensors and not _same(own, wide) else wide

    def wide(self, name: str) -> torch.dtype:
        """The dtype of a result where float64 is computed with; that for what no node computes, such as a reading."""
        own = self.dtypes.get(name, torch.float64)
        return WIDER.get(own, own)

    def _operand(self, name: str, wide: Tensor) -> Tensor:
        """A constant in the model's precision; its own memory, as forward may write into it."""
        if name not in self.values:
            self.values[name] = wide.detach().to(self.dtypes.get(name, wide.dtype), copy=True)
        found: Tensor = self.values[name]
        return found


def _is_fraction(x: Any, known: bool = False) -> bool:
    """Whether a tensor holds other numbers than halves, quarters and so on, which arithmetic rounds, or is known to."""
    if not isinstance(x, Tensor) or not x.is_floating_point() or not x.numel() or not bool(x.isfinite().all()):
        return False
    return known or not _is_whole(PARTS * x)


def _is_whole(x: Any) -> bool:
    return isinstance(x, Tensor) and bool((x == x.round()).all())


def _mirrored(x: Tensor, *, about_zero: bool = True) -> set[int]:
    """The sizes of axes along which a tensor is its own mirror image or its negative, give or take rounding.

    Args:
        x: a constant.
        about_zero: if not, those along which it is the negative of its mirror image but for a number: positions.
    """
    limit = NEARLY * float(x.abs().max())
    found = set()
    for d in (d for d in range(x.dim()) if x.shape[d] > 1):
        same, sums = (x - x.flip(d)).abs().amax(), x + x.flip(d)
        kept = float(torch.minimum(same, sums.abs().amax())) <= limit
        shifted = float((sums - sums.narrow(d, 0, 1)).abs().amax()) <= limit
        found |= {x.shape[d]} if kept == about_zero and (kept or shifted) else set()
    return found


def _varies(x: Tensor) -> set[int]:
    """The sizes of axes along which not all entries are alike."""
    return {x.shape[d] for d in range(x.dim()) if x.shape[d] > 1 and not is_uniform(x, d)}


def _same(own: Tensor, wide: Tensor) -> bool:
    """Whether two values differ by rounding at most; undefined and infinite entries must be the same."""
    if own.shape != wide.shape:
        return True  # nothing to choose between: the operator's rule reports what is wrong
    if not (wide.is_floating_point() or wide.is_complex()):
        return torch.equal(own, wide.to(own.dtype))
    near = wide.abs()[wide.isfinite()]
    scale = float(near.max()) if near.numel() else 0.0
    rounding = ROUNDING if torch.finfo(own.dtype).bits >= 32 else 100 * ROUNDING
    return torch.allclose(own.to(wide.dtype), wide, rtol=rounding, atol=rounding * scale, equal_nan=True)
