"""Pieces of a length that are worked on one by one and joined again, as in ``cat([f(p) for p in h.chunk(4, 1)], 1)``.

Reverse complement swaps the first piece with the last, each reversed. So what is computed from them obeys the law
once all is joined again, if the first and the last piece were treated alike: by the same
operators, weights and numbers.
"""

from __future__ import annotations

import operator

from .._torch import op_name
from ..errors import BreaksSymmetryError, ConversionError, Where
from ..graph.trace import Node, Ref, Trace
from ..rules.pieces import JOINS
from .mirrors import computed_alike


class Torn:
    """Which results of a trace are computed from pieces of a length that were not joined yet.

    Args:
        trace: its nodes are noted in order.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace, self.nodes = trace, {n.name: n for n in trace.nodes}
        self.outputs = [o.name for o in trace.outputs if isinstance(o, Ref)]
        self.cuts: dict[str, int] = {}  # nodes that cut a length, with the number of pieces
        self.torn: dict[str, Where] = {}

    def cut(self, node: Node) -> None:
        """Note a node that cuts a length into pieces."""
        self.cuts[node.name] = len(node.value)
        self.torn[node.name] = node.where

    def rejoined(self, cut: Node) -> bool:
        """Whether all that is computed from the results of a node goes through joins of nothing else."""
        carried, joins = {cut.name}, False
        for node in self.trace.nodes:
            if node.name == cut.name or carried.isdisjoint(node.refs()):
                continue
            refs = node.args[0] if op_name(node.op) in JOINS and node.args else None
            if isinstance(refs, (list, tuple)) and all(isinstance(r, Ref) and r.name in carried for r in refs):
                joins = True
            else:
                carried.add(node.name)
        return joins and carried.isdisjoint(self.outputs)

    def mends(self, node: Node) -> bool:
        """Whether a node joins pieces in an order that reverse complement reverses."""
        refs = node.args[0] if op_name(node.op) in JOINS and node.args else None
        if not isinstance(refs, (list, tuple)) or not all(isinstance(r, Ref) and r.name in self.torn for r in refs):
            return False
        names = [r.name for r in refs]
        return all(self._alike(a, b) for a, b in zip(names, reversed(names), strict=True))

    def carry(self, node: Node) -> None:
        """Note a node that computes something from pieces."""
        found = next((self.torn[r] for r in node.refs() if r in self.torn), None)
        if found is not None and not self.mends(node):
            self.torn.setdefault(node.name, found)

    def problems(self) -> list[ConversionError]:
        """What is returned though it was computed from some pieces only."""
        returned = [self.torn[name] for name in self.outputs if name in self.torn]
        return [_problem(where) for where in dict.fromkeys(returned)]

    def _alike(self, a: str, b: str) -> bool:
        """Whether two results are computed alike, the one from pieces that reverse complement swaps for the other's."""
        first, second = self.nodes.get(a), self.nodes.get(b)
        if first is None or second is None or (a not in self.torn and a == b):
            return a == b
        if first.op is operator.getitem and first.args[0].name in self.cuts:
            whole, i = first.args[0].name, first.args[1]
            return second.op is operator.getitem and second.args == (Ref(whole), self.cuts[whole] - 1 - i)
        return computed_alike(first, second) and all(map(self._alike, first.refs(), second.refs()))


def _problem(where: Where) -> ConversionError:
    return BreaksSymmetryError(
        "a length is cut into pieces that are not joined again",
        where=where,
        why="under reverse complement the first piece becomes the last",
        do="process the whole length, crop both ends alike, or treat all pieces alike and join them in order",
    )
