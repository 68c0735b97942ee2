"""Axes that are turned round by a list of their places, as in ``h[:, torch.arange(n - 1, -1, -1)]``: read as ``flip``.

A length may be turned round in many spellings. All but one of them are rewritten here, so that what knows of lengths
that are read from either end knows one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .._torch import draws_random_numbers, pytree
from ..graph.trace import Node, Ref, Trace
from ..graph.writes import storage_roots, written_refs
from ..rules.directions import FLIP, NAMED
from ..rules.places import BY_TENSORS, COPIES, LISTS, same_everywhere
from ..rules.registry import facts_of

MOST_PLACES = 1 << 22
"""Most entries of a tensor of places that is looked at."""


def with_turns(trace: Trace) -> Trace:
    """The trace in which every operator that turns round one axis is ``flip``."""
    if not any(n.op in NAMED or n.op in LISTS or n.op is BY_TENSORS for n in trace.nodes):
        return trace
    places = _Places(trace)
    return replace(trace, nodes=[_turned(node, places) for node in trace.nodes])


def _turned(node: Node, places: _Places) -> Node:
    if node.op in NAMED:
        return _flip(node, NAMED[node.op])
    for dim, index in _taken(node):
        shape = places.shapes.get(node.args[0].name)
        if (
            dim is not None
            and shape is not None
            and shape == places.shapes.get(node.name)
            and _is_backwards(places.value(index), shape, dim)
        ):
            return _flip(node, dim)
    return node


def _flip(node: Node, dim: int) -> Node:
    return replace(node, op=FLIP, args=(node.args[0], [dim]), kwargs={})


def _taken(node: Node) -> Iterator[tuple[int | None, Any]]:
    """The axis of which a node takes entries, and the tensor of their places."""
    if node.op in LISTS:
        values = [*node.args[1:], *node.kwargs.values()]
        index = next((v for v in values if isinstance(v, Ref)), None)
        dim = next((v for v in values if type(v) is int), None)
        yield None if dim is None else dim % node.value.dim(), index
    elif node.op is BY_TENSORS:
        used = [(dim, index) for dim, index in enumerate(node.args[1]) if index is not None]
        yield from used if len(used) == 1 else ()


def _is_backwards(places: Tensor | None, shape: tuple[int, ...], dim: int) -> bool:
    """Whether places are those of an axis, the last first."""
    if places is None or places.dtype == torch.bool:
        return False
    if places.dim() == len(shape) > 1:
        places = same_everywhere(places.expand(shape), shape, dim)
    n = shape[dim]
    return places is not None and places.shape == (n,) and places.tolist() in (_last_first(n), _last_first(n, -n))


def _last_first(n: int, start: int = 0) -> list[int]:
    """The places of an axis, the last first; counted from its end with a start of -n."""
    return [*range(start + n - 1, start - 1, -1)]


class _Places:
    """Values of tensors that depend on no input, no parameter and no random number."""

    def __init__(self, trace: Trace) -> None:
        self.trace, self.values = trace, dict[str, Any]()
        sized = [n for n in trace.nodes if isinstance(n.value, Tensor) and all(type(s) is int for s in n.value.shape)]
        self.shapes = {n.name: n.shape for n in sized}
        for name, source in trace.sources.items():
            if isinstance(source.value, Tensor):
                self.shapes[name] = tuple(source.value.shape)
                if source.kind in ("buffer", "constant") and name not in trace.written and _is_small(source.value):
                    self.values[name] = source.value
        self.roots = storage_roots(trace.nodes)
        writing = [n for n in trace.nodes if n.op not in COPIES]
        self.written = {self.roots.get(r, r) for n in writing for r in written_refs(n)}
        self.known = {*self.values} - self.written
        for node in trace.nodes:
            if self._is_known(node):
                self.known.add(node.name)

    def value(self, x: Any) -> Tensor | None:
        """The value of a tensor of whole numbers; None if it is not known."""
        if not isinstance(x, Ref) or x.name not in self.known:
            return None
        needed = {x.name}
        for node in reversed(self.trace.nodes):
            needed.update(_read(node) if node.name in needed else ())
        try:
            for node in self.trace.nodes:
                if node.name in needed:
                    self.values[node.name] = self._made(node)
        except (RuntimeError, ValueError, IndexError, TypeError):
            return None
        found = self.values[x.name]
        return found if isinstance(found, Tensor) and not found.is_floating_point() else None

    def _is_known(self, node: Node) -> bool:
        changed = draws_random_numbers(node.op) or self.roots.get(node.name, node.name) in self.written
        sized = not isinstance(node.value, Tensor) or node.name in self.shapes  # not by the values of a tensor
        return not changed and sized and _is_small(node.value) and all(r in self.known for r in _read(node))

    def _made(self, node: Node) -> Any:
        read = _read(node)

        def fill(leaf: Any) -> Any:
            if not isinstance(leaf, Ref):
                return leaf
            return self.values[leaf.name] if leaf.name in read else torch.empty(()).expand(self.shapes[leaf.name])

        args, kwargs = pytree.tree_map(fill, (node.args, node.kwargs))
        return node.op(*args, **kwargs)


def _read(node: Node) -> list[str]:
    """Names of the results whose values a node reads; of those in the place of others it reads the shape only."""
    like = {node.args[i].name for i in facts_of(node.op).like if isinstance(node.args[i], Ref)}
    return [r for r in node.refs() if r not in like]


def _is_small(value: Any) -> bool:
    return not isinstance(value, Tensor) or value.numel() <= MOST_PLACES
