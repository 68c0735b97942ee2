"""Entries of constants that no output depends on: reverse complement may do with them what it likes.

A table of distances from -L to L - 1 has an entry for -L that no pair of positions has; a bias has entries under a
mask. Such an entry has no mirror image, and needs none: it counts as zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .._torch import draws_random_numbers, pytree
from ..graph.closed_modules import CLOSED
from ..graph.run import interpret
from ..graph.sandbox import fix_randomness
from ..graph.trace import Node, Trace
from .stretch_law import still

ASSUMED = "entries of constants that nothing reads"
"""What is assumed where they count as zero; see `Inference.assumes`."""

DRAWS = 3
"""Random inputs and weights on which an entry must make no difference."""


class Unread:
    """The entries of a trace's constants that no output depends on.

    Args:
        trace: the trace. Where it computes ids or truth values from its inputs, what is read depends on these,
            and no entry is taken for unread.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace

    @cached_property
    def entries(self) -> dict[str, Tensor]:
        """By the name of a constant result or buffer, which entries are unread; those that have any."""
        met = self._met()
        if not met:
            return {}
        try:
            still = self._without_gradient(met)
            kept = {name: mask for name, mask in still.items() if bool(mask.any())}
            return {name: mask for name, mask in kept.items() if self._makes_no_difference(name, mask)}
        except Exception:  # operators raise anything
            return {}

    def without(self, name: str, value: Tensor) -> Tensor:
        """A constant with its unread entries zero."""
        mask = self.entries.get(name)
        return value if mask is None else value.masked_fill(mask, 0)

    def _met(self) -> set[str]:
        """Constants of several numbers that meet computed values; none where ids or truth values are computed."""
        computed = {name for name, s in self.trace.sources.items() if s.kind in ("input", "parameter")}
        if any(n.op is CLOSED for n in self.trace.nodes) or not all(map(_is_real, self._inputs())):
            return set()
        met: set[str] = set()
        values = {name: s.value for name, s in self.trace.sources.items()} | {n.name: n.value for n in self.trace.nodes}
        for node in self.trace.nodes:
            if computed.isdisjoint(node.refs()) and not draws_random_numbers(node.op):
                continue
            if not all(map(_is_real, pytree.tree_leaves(node.value))):
                return set()
            computed.add(node.name)
            met |= {r for r in node.refs() if r not in computed and _is_real(values[r]) and values[r].numel() > 1}
        return met - self.trace.written

    def _inputs(self) -> list[Any]:
        return [s.value for s in self.trace.sources.values() if s.kind == "input" and isinstance(s.value, Tensor)]

    def _without_gradient(self, met: set[str]) -> dict[str, Tensor]:
        """Entries along which no output has a slope, in any draw."""
        still: dict[str, Tensor] = {}
        for seed in range(DRAWS):
            held: dict[str, Tensor] = {}

            def hold(name: str, value: Tensor, held: dict[str, Tensor] = held) -> Tensor:
                held[name] = value.detach().clone().requires_grad_() if name in met else value
                return held[name]

            outputs = list(self._outputs(seed, hold))
            known = [held[name] for name in met]
            total = sum((y * torch.randn_like(y)).sum() for y in outputs)
            assert isinstance(total, Tensor)
            for name, g in zip(met, torch.autograd.grad(total, known, allow_unused=True), strict=True):
                flat = torch.ones_like(held[name], dtype=torch.bool) if g is None else g == 0
                still[name] = still.get(name, flat) & flat
        return still

    def _makes_no_difference(self, name: str, mask: Tensor) -> bool:
        """Whether what is no number may stand there, and the outputs are the same."""
        with torch.no_grad():
            usual = list(self._outputs(DRAWS, lambda _, value: value))
            other = self._outputs(DRAWS, lambda n, v: v.masked_fill(mask, float("nan")) if n == name else v)
            return all(torch.equal(a, b) for a, b in zip(usual, other, strict=True))

    def _outputs(self, seed: int, change: Any) -> Iterator[Tensor]:
        """The real outputs for random inputs and weights, with each constant changed when it is made."""
        fix_randomness(seed)
        values = {name: self._drawn(s.kind, s.value) for name, s in self.trace.sources.items()}
        values = {name: change(name, v) if _is_real(v) else v for name, v in values.items()}

        def run(node: Node, args: Any, kwargs: Any) -> Any:
            found = node.op(*still(node, args), **kwargs)
            return change(node.name, found) if _is_real(found) else found

        fix_randomness(seed)
        with torch.enable_grad():
            yield from filter(_is_real, interpret(self.trace, values, run=run))

    def _drawn(self, kind: str, value: Any) -> Any:
        if not _is_real(value) or kind not in ("input", "parameter"):
            return value.detach().clone() if isinstance(value, Tensor) else value
        size = 1.0 if kind == "input" else 0.1
        return value.detach() + size * torch.randn(value.shape, dtype=value.dtype)


def _is_real(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
