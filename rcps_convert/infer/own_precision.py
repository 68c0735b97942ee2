"""Constants in the precision the model computes them in: where float64 rounds to another number, that one counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._torch import pytree
from ..graph.trace import Node, Ref, Trace
from ..rules.registry import Const, facts_of

NEARLY = 1e-5
"""Largest difference of mirrored entries, relative to the largest entry, that is rounding of float32 at most."""

ROUNDING = 1e-4
"""Relative difference between precisions that is rounding; a step taken the other way is larger."""


LARGER = 1.0 + 0.3**5
"""Factor that makes a number no whole one."""


class OwnPrecision:
    """Evaluates the nodes that depend on no input as the model does, beside their values in float64.

    Args:
        trace: where the nodes are from; it knows the precision of every result.

    Attributes:
        steps: sizes of axes along which a node takes whole numbers, or truth values, from numbers that arithmetic with
            fractions made their own mirror image: at some sizes two mirrored ones end up on different sides of a step.
    """

    def __init__(self, trace: Trace) -> None:
        self.dtypes = {n.name: n.value.dtype for n in trace.nodes if isinstance(n.value, Tensor)}
        self.values: dict[str, Any] = {}
        self.fractions: set[str] = set()  # what is computed from a quotient, which is whole by chance
        self.steps: set[int] = set()
        self.centred: set[int] = set()

    def settle(self, node: Node, env: dict[str, Any], wide: Any) -> Any:
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
        self._note(node, [*zip(leaves, values, strict=False)], own)
        tensors = isinstance(own, Tensor) and isinstance(wide, Tensor)
        return own.to(wide.dtype) if tensors and not _same(own, wide) else wide

    def _note(self, node: Node, operands: Sequence[tuple[Any, Any]], own: Any) -> None:
        """Note along which axes fractions become their own mirror image, and where such are rounded."""
        given = [leaf.name in self.fractions if isinstance(leaf, Ref) else False for leaf, _ in operands]
        floats = isinstance(own, Tensor) and own.is_floating_point()
        if floats and (facts_of(node.op).fractions or (any(given) and not self._rounds(node))):
            self.fractions.add(node.name)
        fractions = [x for (_, x), known in zip(operands, given, strict=True) if _is_fraction(x, known)]
        mirrored = set[int]().union(*map(_mirrored, fractions))
        if _is_fraction(own, node.name in self.fractions):
            sizes = {n for x in fractions for n in x.shape}
            self.centred |= (_mirrored(own) & sizes) - mirrored
        elif isinstance(own, Tensor):
            self.steps |= mirrored & self.centred & {*own.shape}

    def _rounds(self, node: Node) -> bool:
        """Whether the result of a node is whole when quotients among its operands are a little larger."""

        def fill(leaf: Any) -> Any:
            value: Any = self.values.get(leaf.name) if isinstance(leaf, Ref) else leaf
            return value * LARGER if isinstance(leaf, Ref) and leaf.name in self.fractions else value

        try:
            args, kwargs = pytree.tree_map(fill, (node.args, node.kwargs))
            return _is_whole(node.op(*args, **kwargs))
        except Exception:  # as where a quotient is no operand that may be another
            return False

    def _operand(self, name: str, wide: Tensor) -> Tensor:
        """A constant in the model's precision; its own memory, as forward may write into it."""
        if name not in self.values:
            self.values[name] = wide.detach().to(self.dtypes.get(name, wide.dtype), copy=True)
        found: Tensor = self.values[name]
        return found


def _is_fraction(x: Any, known: bool = False) -> bool:
    """Whether a tensor holds other numbers than halves of whole ones, which arithmetic rounds, or is known to."""
    if not isinstance(x, Tensor) or not x.is_floating_point() or not x.numel() or not bool(x.isfinite().all()):
        return False
    return known or not _is_whole(2 * x)


def _is_whole(x: Any) -> bool:
    return isinstance(x, Tensor) and bool((x == x.round()).all())


def _mirrored(x: Tensor) -> set[int]:
    """The sizes of axes along which a tensor is its own mirror image, give or take rounding."""
    limit = NEARLY * float(x.abs().max())
    return {x.shape[d] for d in range(x.dim()) if x.shape[d] > 1 and float((x - x.flip(d)).abs().max()) <= limit}


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
