"""Results that are one position of a tensor each, and what puts them together again, the last first.

``torch.stack(h.unbind(1)[::-1], 1)`` is ``h.flip(1)``, and so is what puts together pieces of ``split`` or ``chunk``.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..graph.trace import Node, Ref, Trace
from ..rules.directions import EXCHANGES, FLIP, ORDER, PARTS, PILES, ROWS, SELECT, SLICE, UNBIND, UNSQUEEZE


@dataclass(frozen=True)
class Position:
    """One position of a tensor.

    Attributes:
        given: name of the tensor.
        dim: its axis.
        place: on that axis.
        kept: where the result has that axis, of one entry; None where it has it no more.
    """

    given: str
    dim: int
    place: int
    kept: int | None = None


def positions(trace: Trace) -> dict[str, Position]:
    """For each result that is one position of a tensor, which one."""
    nodes, found = {n.name: n for n in trace.nodes}, dict[str, Position]()
    for node in trace.nodes:
        at = _position(trace, nodes, node, found)
        if at is not None:
            found[node.name] = at
    return found


def _position(trace: Trace, nodes: Mapping[str, Node], node: Node, found: Mapping[str, Position]) -> Position | None:
    if node.op is SELECT:
        dim = node.args[1] % (len(node.shape) + 1)
        size = shape_of(trace, nodes, node.args[0].name)[dim]
        return Position(_whole(nodes, node.args[0].name), dim, node.args[2] % size)
    if node.op is operator.getitem:
        return _item(nodes, node)
    if node.op is SLICE:
        return _slice(trace, nodes, node)
    before = found.get(node.args[0].name) if node.op is UNSQUEEZE and isinstance(node.args[0], Ref) else None
    if before is None or before.kept is not None:
        return None
    return replace(before, kept=node.args[1] % len(node.shape))


def _item(nodes: Mapping[str, Node], node: Node) -> Position | None:
    """A piece of what was cut into pieces of one position each."""
    cut = nodes.get(node.args[0].name)
    if cut is None or cut.op not in PARTS | {UNBIND} or not isinstance(cut.args[0], Ref):
        return None
    rank = len(node.shape) + (cut.op is UNBIND)
    dim = _dim_of(cut, 1 if cut.op is UNBIND else 2) % rank
    whole = _whole(nodes, cut.args[0].name)
    if cut.op is UNBIND:
        return Position(whole, dim, node.args[1])
    alone = all(isinstance(y, Tensor) and y.shape[dim] == 1 for y in cut.value)
    return Position(whole, dim, node.args[1], kept=dim) if alone else None


def _slice(trace: Trace, nodes: Mapping[str, Node], node: Node) -> Position | None:
    """A slice of one position."""
    dim = (node.args[1] if len(node.args) > 1 else 0) % len(node.shape)
    size = shape_of(trace, nodes, node.args[0].name)[dim]
    if node.shape[dim] != 1 or size == 1:
        return None
    start = node.args[2] if len(node.args) > 2 and node.args[2] is not None else 0
    if type(start) is not int:
        return None
    return Position(_whole(nodes, node.args[0].name), dim, start if start >= 0 else max(0, start + size), kept=dim)


def _dim_of(node: Node, at: int) -> int:
    return int(node.args[at] if len(node.args) > at else node.kwargs.get("dim", 0))


def shape_of(trace: Trace, nodes: Mapping[str, Node], name: str) -> tuple[int, ...]:
    """The shape of a result, or of an input or weight."""
    return nodes[name].shape if name in nodes else tuple(trace.sources[name].value.shape)


def _whole(nodes: Mapping[str, Node], name: str) -> str:
    """The tensor of which slices take all."""
    node = nodes.get(name)
    while node is not None and node.op is SLICE and nodes.get(node.args[0].name) is not None:
        before = nodes[node.args[0].name]
        if before.shape != node.shape:
            break
        name, node = before.name, before
    return name


# --- put together, the last first -----------------------------------------------------------------


def with_piles_as_turns(trace: Trace) -> Trace:
    """The trace in which all positions of a tensor, put together the last first, are the tensor turned round."""
    if not any(n.op in PILES | ROWS for n in trace.nodes):
        return trace
    known, by_name = positions(trace), {n.name: n for n in trace.nodes}
    made = {n.name: turn for n in trace.nodes if (turn := _turn(trace, by_name, n, known))}
    if not made:
        return trace
    nodes = [new for n in trace.nodes for new in made.get(n.name, [n])]
    kept = _without_unread(trace, nodes, known)
    left_out = {n.name for n in nodes} - {n.name for n in kept}
    return replace(trace, nodes=kept, left_out=trace.left_out | left_out)


def _turn(trace: Trace, nodes: Mapping[str, Node], node: Node, known: Mapping[str, Position]) -> list[Node]:
    """What turns a tensor round in the place of a node; empty where the node does not."""
    if node.op not in PILES | ROWS or not isinstance(node.args[0], Sequence):
        return []
    at = [known.get(part.name) if isinstance(part, Ref) else None for part in node.args[0]]
    first = at[0] if at else None
    if first is None:
        return []
    to = _dim_of(node, 1) % len(node.shape)
    shape = shape_of(trace, nodes, first.given)
    kept = to if node.op in ROWS else None
    every = [replace(first, place=place, kept=kept) for place in reversed(range(shape[first.dim]))]
    return [*_flipped(trace, nodes, node, first, to)] if at == every else []


def _flipped(trace: Trace, nodes: Mapping[str, Node], node: Node, at: Position, to: int) -> Iterator[Node]:
    ways = [(name, axes, _order(axes, at.dim, to)) for name, axes in _before_exchanges(trace, nodes, at.given)]
    given, axes, order = next((way for way in ways if way[2] == sorted(way[2])), ways[0])
    flip: Any = (Ref(given), [axes[at.dim]])
    if order == sorted(order):
        yield replace(node, op=FLIP, args=flip, kwargs={})
        return
    source, name = trace.sources.get(given), f"{node.name}_from_the_end"
    value: Any = nodes[given].value if source is None else source.value
    yield replace(node, name=name, op=FLIP, args=flip, kwargs={}, value=value)
    yield replace(node, op=ORDER, args=(Ref(name), order), kwargs={})


def _order(axes: Sequence[int], dim: int, to: int) -> list[int]:
    """Axes, one of which is moved to another place."""
    order = [axis for d, axis in enumerate(axes) if d != dim]
    order.insert(to, axes[dim])
    return order


def _before_exchanges(trace: Trace, nodes: Mapping[str, Node], name: str) -> Iterator[tuple[str, list[int]]]:
    """A result, and the tensors whose axes were exchanged to make it: where its axes are in each."""
    axes = [*range(len(shape_of(trace, nodes, name)))]
    yield name, axes
    while name in nodes and nodes[name].op in EXCHANGES:
        node = nodes[name]
        placed = node.op(torch.empty([*range(len(axes))]), *node.args[1:])  # sizes that tell the axes apart
        name, axes = node.args[0].name, [placed.shape[axis] for axis in axes]
        yield name, axes


def _without_unread(trace: Trace, nodes: list[Node], known: Mapping[str, Position]) -> list[Node]:
    """Nodes without those that take positions, or cut a tensor into them, and that nothing reads any more."""
    read = {o.name for o in trace.outputs if isinstance(o, Ref)}
    kept: list[Node] = []
    for node in reversed(nodes):
        if node.name in read or not (node.name in known or node.op in PARTS | {UNBIND}):
            kept.append(node)
            read.update(node.refs())
    return kept[::-1]
