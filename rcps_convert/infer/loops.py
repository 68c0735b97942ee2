"""Loops over positions that run backwards, as in ``for t in reversed(range(n))`` and ``for x in xs[::-1]``.

Position by position, a trace shows no tensor that was turned round. So the loop is rewritten as one that runs forwards
over the tensor turned round, and whose results are turned back: the two readings of a length that `directions` knows.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from functools import reduce
from typing import Any

from .._torch import pytree
from ..graph.trace import Node, Ref, Trace
from ..graph.writes import is_inplace
from ..rules.directions import COMMUTES, FLIP, PILES, ROWS, SELECT
from ..rules.registry import facts_of
from .directions import Directions
from .positions import positions, shape_of

FORTH, BACK, BOTH = "forth", "back", "both"
"""Loops that a result belongs to."""

Position = tuple[str, int, int]
"""A tensor, one of its axes, and a place on it."""


def turned_loops(trace: Trace) -> Trace:
    """The trace with loops that run backwards rewritten, where that shows readings from either end; else as it is."""
    for given, dim in dict.fromkeys(at[:2] for at in positions_alone(trace).values()):
        loops = Loops(trace, given, dim)
        new = loops.rewritten() if loops.run_backwards() else trace
        if new is not trace and len(Directions(new).by_node) > len(Directions(trace).by_node):
            trace = new
    return trace


def positions_alone(trace: Trace) -> dict[str, Position]:
    """For each result that is one position of a tensor, without its axis, which one."""
    return {name: (at.given, at.dim, at.place) for name, at in positions(trace).items() if at.kept is None}


class Loops:
    """The loops over the positions of one axis.

    Args:
        trace: a traced model.
        given, dim: the tensor, and the axis.

    Attributes:
        taken: the position that a result is.
        reads: for each result, the positions it depends on, as bits.
        kinds: the loop that a result of several positions belongs to.
    """

    def __init__(self, trace: Trace, given: str, dim: int) -> None:
        self.trace, self.given, self.dim = trace, given, dim
        self.nodes = {n.name: n for n in trace.nodes}
        self.taken = {n: at[2] for n, at in positions_alone(trace).items() if at[:2] == (given, dim)}
        self.size = shape_of(trace, self.nodes, given)[dim]
        self.reads: dict[str, int] = {}
        for node in trace.nodes:
            refs = [] if facts_of(node.op).shape_only else [self.reads[r] for r in node.refs() if r in self.reads]
            if node.name in self.taken:
                self.reads[node.name] = 1 << self.taken[node.name]
            elif refs:
                self.reads[node.name] = reduce(operator.or_, refs)
        self.kinds = {n: kind for n, read in self.reads.items() if (kind := self._partial(read))}
        self.loops_of_one = self._loops_of_one()
        for node in trace.nodes:
            if self._is_full(node.name):
                self.kinds[node.name] = self._full(node)

    def run_backwards(self) -> bool:
        """Whether every position is read, and some loop runs backwards, or puts together its last result first."""
        written = any(is_inplace(n.op) for n in self.trace.nodes if n.name in self.reads)
        if written or len({*self.taken.values()}) < self.size or self.size < 3:
            return False
        return {FORTH, BACK} <= {*self.kinds.values()} or any(map(self._is_descending, self.trace.nodes))

    def _partial(self, read: int) -> str:
        """The loop of a result that has read some of the positions, from either end; empty for one, or all."""
        if read & (read - 1) == 0 or read == (1 << self.size) - 1:
            return ""
        if read & (read + 1) == 0:
            return FORTH
        return BACK if (read | ((read & -read) - 1)) == (1 << self.size) - 1 else BOTH

    def _is_full(self, name: str) -> bool:
        return self.reads.get(name) == (1 << self.size) - 1

    def _full(self, node: Node) -> str:
        """The loop of a result that has read all positions: a last step, what follows it, or what joins both loops."""
        refs = [r for r in node.refs() if r in self.reads]
        before = {self.kinds[r] for r in refs if r in self.kinds}
        if any(map(self._is_full, refs)):
            before |= {kind for r in refs if r not in self.kinds for kind in self.loops_of_one.get(r, ())}
        return before.pop() if len(before) == 1 else BOTH

    def _loops_of_one(self) -> dict[str, set[str]]:
        """For each result of one position, the loops that read it, perhaps by way of others."""
        found: dict[str, set[str]] = defaultdict(set)
        for node in reversed(self.trace.nodes):
            kinds = {self.kinds[node.name]} if node.name in self.kinds else found[node.name]
            for r in node.refs():
                if r in self.reads and r not in self.kinds and not self._is_full(r):
                    found[r] |= kinds - {BOTH}
        return found

    def _is_descending(self, node: Node) -> bool:
        """Whether results of a loop are put together the last first."""
        order = [self.reads.get(r, 0).bit_count() for r in node.refs()]
        if node.op not in ROWS | PILES or order != list(range(self.size, 0, -1)):
            return False
        each = node.op in PILES or node.shape[_dim(node)] == self.size
        return each and self.kinds.get(node.name) != BOTH

    # --- rewriting ---

    def rewritten(self) -> Trace:
        """The trace with the loop that runs backwards over the tensor turned round."""
        readers = self._loops_of_one()
        back = {n for n, kinds in readers.items() if BACK in kinds} | {n for n, k in self.kinds.items() if k == BACK}
        both = {n for n in back if FORTH in readers.get(n, ())}
        names = {n: f"{n}_turned" if n in both else n for n in back}
        made: list[Node] = []
        first = next((n for n in self.trace.nodes if n.name in self.reads and back), None)
        for node in self.trace.nodes:
            if node is first:
                made.append(self._turn(node))
            if self.kinds.get(node.name) == BOTH:
                made += self._joined(node, names)
            elif node.name not in back - both:
                made += self._forth(node, bool(back))
            if node.name in back:
                made += self._back(node, names)
        read = {r for n in made for r in n.refs()} | {o.name for o in self.trace.outputs if isinstance(o, Ref)}
        return replace(self.trace, nodes=[n for n in made if n.name in read or self.kinds.get(n.name) != BOTH])

    def _turn(self, like: Node) -> Node:
        source = self.trace.sources.get(self.given)
        value = self.nodes[self.given].value if source is None else source.value
        args: Any = (Ref(self.given), [self.dim])
        return replace(like, name=f"{self.given}_from_the_end", op=FLIP, args=args, kwargs={}, value=value)

    def _forth(self, node: Node, turned: bool) -> list[Node]:
        if node.name in self.taken and turned:
            args: Any = (Ref(self.given), self.dim, self.taken[node.name])
            return [replace(node, op=SELECT, args=args, kwargs={})]
        return _turned_back(node) if self._is_descending(node) else [node]

    def _back(self, node: Node, names: Mapping[str, str]) -> list[Node]:
        if node.name in self.taken:
            at: Any = (Ref(f"{self.given}_from_the_end"), self.dim, self.size - 1 - self.taken[node.name])
            return [replace(node, name=names[node.name], op=SELECT, args=at, kwargs={})]
        new = _renamed(node, names, names[node.name])
        return _turned_back(new) if self._is_descending(node) else [new]

    def _joined(self, node: Node, names: Mapping[str, str]) -> list[Node]:
        """What reads both loops; rows or sums for each position, piled up, become one of two piles."""
        joins = [self.nodes[r] for r in node.refs() if r in self.nodes]
        if node.op not in PILES or len(joins) != self.size or not _alike(joins):
            return [node]
        dim = _dim(node)
        made: list[Node] = []
        for number, refs in enumerate(zip(*(j.refs() for j in joins), strict=True)):
            shape, name = self.nodes[refs[0]].shape, f"{node.name}_pile_{number}"
            value = node.value.new_empty((*shape[:dim], self.size, *shape[dim:]))
            pile = replace(node, name=name, args=([*map(Ref, refs)], dim), kwargs={}, value=value)
            made += _turned_back(pile) if self.reads[refs[0]] > self.reads[refs[-1]] else [pile]
        piles = [Ref(f"{node.name}_pile_{n}") for n in (0, 1)]
        return [*made, replace(node, op=joins[0].op, args=_joining(joins[0], dim, piles), kwargs={})]


def _dim(node: Node) -> int:
    """The axis along which results are put together."""
    return int(node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)) % len(node.shape)


def _alike(joins: list[Node]) -> bool:
    """Whether each is a row, or a sum, of two."""
    first = joins[0]
    same = all(j.op is first.op and not j.kwargs and len(j.refs()) == 2 for j in joins)
    rows = first.op in ROWS and all(j.args[1:] == first.args[1:] for j in joins)
    return same and (rows or (first.op in COMMUTES and len(first.args) == 2))


def _joining(join: Node, dim: int, piles: list[Ref]) -> tuple[Any, ...]:
    if join.op not in ROWS:
        return (*piles,)
    at = _dim(join)
    return (piles, at + (at >= dim))


def _turned_back(node: Node) -> list[Node]:
    """Results that are put together the last first: put together as the loop made them, and turned round."""
    name, rows = f"{node.name}_of_the_loop", type(node.args[0])
    return [
        replace(node, name=name, args=(rows(reversed(node.args[0])), *node.args[1:])),
        replace(node, op=FLIP, args=(Ref(name), [_dim(node)]), kwargs={}),
    ]


def _renamed(node: Node, names: Mapping[str, str], name: str) -> Node:
    def other(leaf: Any) -> Any:
        return Ref(names.get(leaf.name, leaf.name)) if isinstance(leaf, Ref) else leaf

    args, kwargs = pytree.tree_map(other, (node.args, node.kwargs))
    return replace(node, name=name, args=args, kwargs=kwargs)
