"""Positions that are worked on one by one and put together again: ``stack([f(h[:, :, i]) for i in range(n)], -1)``.

Each alone is a single position, which has no law. So they are read as the pieces of a length that was cut into pieces
of one position, which `torn` knows: joined in order, and treated alike, they are a length again.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from .._torch import pytree
from ..graph.trace import Node, Ref, Trace
from ..rules.directions import CUT, PILES, ROWS, SQUEEZE
from .loops import Loops, positions_alone
from .torn import Torn

ENDING = "_in_pieces"
"""Of the names of nodes that cut a tensor into positions."""


def with_positions_as_pieces(trace: Trace) -> Trace:
    """The trace in which positions that go one by one into a pile are pieces of the tensor; else as it is."""
    for given, dim in dict.fromkeys(at[:2] for at in positions_alone(trace).values()):
        found = Loops(trace, given, dim)
        if {*found.taken.values()} == {*range(found.size)} and found.size > 1 and _one_by_one(found):
            new = _in_pieces(found)
            trace = new if _is_whole_again(new) else trace
    return trace


def _one_by_one(found: Loops) -> bool:
    """Whether what reads several positions is a pile of all of them, in order, each computed from one."""
    single = {n: read for n, read in found.reads.items() if read & (read - 1) == 0}
    every = [1 << place for place in range(found.size)]
    joins = (n for n in found.trace.nodes if n.name in found.reads and n.name not in single)
    joins = (n for n in joins if any(r in single for r in n.refs()))
    return all(n.op in PILES | ROWS and [single.get(r) for r in n.refs()] in (every, every[::-1]) for n in joins)


def _is_whole_again(trace: Trace) -> bool:
    """Whether all that is cut here is treated alike, from either end, until it is joined."""
    torn = Torn(trace)
    for node in trace.nodes:
        if node.op is CUT and node.name.endswith(ENDING):
            torn.cut(node)
        torn.carry(node)
    return not any(n.op in PILES | ROWS and n.name in torn.torn for n in trace.nodes)


def _in_pieces(found: Loops) -> Trace:
    names = {name: f"{name}_of_the_pieces" for name in found.taken}
    made: list[Node] = []
    for node in found.trace.nodes:
        if node.name in names:
            made += _piece(found, node, names[node.name], first=node.name == next(iter(names)))
        else:
            made.append(_renamed(node, names))
    return replace(found.trace, nodes=made, left_out=found.trace.left_out | names.keys())


def _piece(found: Loops, node: Node, name: str, *, first: bool) -> Iterator[Node]:
    """The piece that a position is, without its axis; before the first one the tensor is cut."""
    shape = node.shape
    one = node.value.new_empty((*shape[: found.dim], 1, *shape[found.dim :]))
    whole, item = f"{found.given}_along_{found.dim}{ENDING}", f"{name}_with_its_axis"
    if first:
        given: Any = (Ref(found.given), 1, found.dim)
        yield replace(node, name=whole, op=CUT, args=given, kwargs={}, value=[one] * found.size)
    at: Any = (Ref(whole), found.taken[node.name])
    yield replace(node, name=item, op=operator.getitem, args=at, kwargs={}, value=one)
    yield replace(node, name=name, op=SQUEEZE, args=(Ref(item), found.dim), kwargs={})


def _renamed(node: Node, names: dict[str, str]) -> Node:
    def other(leaf: Any) -> Any:
        return Ref(names.get(leaf.name, leaf.name)) if isinstance(leaf, Ref) else leaf

    args, kwargs = pytree.tree_map(other, (node.args, node.kwargs))
    return replace(node, args=args, kwargs=kwargs)
