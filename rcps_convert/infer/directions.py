"""A length that is read from either end by layers of the user's own, as in ``cat([f(h), g(h.flip(1)).flip(1)], 2)``.

Where `f` and `g` compute alike, reverse complement makes what the one reads what the other read, from the other end:
so the two change places if the weights of `g` are those of `f`, mirrored, as in a bidirectional recurrent layer. Within
one reading the positions stay in their places, on both strands; so any operator may be used there, recurrences and
causal ones too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch

from .._torch import pytree
from ..graph.trace import Node, Ref, Trace
from ..rules.directions import COMMUTES, EXCHANGES, PILES, ROWS, TURNS, keeps_places
from ..rules.node import Swap
from ..rules.registry import facts_of
from .mirrors import computed_alike, live_nodes
from .positions import shape_of

ASSUMED = "readings from either end"
"""In words, what a solution may assume; one without problems needs it not."""


@dataclass
class Reading:
    """What is computed from either end of one length.

    Attributes:
        given: name of the tensor that is read, and the axis of the length.
        dim: that axis.
        turned: name of the same, turned round.
        twins: each result of the second reading with its like in the first.
        unturned: results of the second reading, turned round again, with their like.
        back: the axes along which they were turned round.
        joins: names of the nodes that join both.
    """

    given: str
    dim: int
    turned: str
    twins: dict[str, str] = field(default_factory=dict)
    unturned: dict[str, str] = field(default_factory=dict)
    back: dict[str, int] = field(default_factory=dict)
    joins: set[str] = field(default_factory=set)

    @property
    def start(self) -> str:
        """A name for what both readings start from."""
        return f"{self.given}, read along {self.dim}"

    def like(self, name: str) -> str | None:
        """What the first reading has in place of a result of the second."""
        return self.unturned.get(name) or self.twins.get(name)

    def turned_back(self, join: Node) -> int | None:
        """The axis along which the second reading was turned round again before a join; None if it was not."""
        return next((self.back[r] for r in join.refs() if r in self.back), None)

    def seen(self, node: Node) -> Node:
        """A node of either reading, which starts from the same."""
        ours = {self.given if node.name in self.twins.values() else self.turned}

        def renamed(leaf: object) -> object:
            return Ref(self.start) if isinstance(leaf, Ref) and leaf.name in ours else leaf

        args, kwargs = pytree.tree_map(renamed, (node.args, node.kwargs))
        return replace(node, args=args, kwargs=kwargs)


class Directions:
    """Finds the readings of a trace.

    Args:
        trace: a traced model.

    Attributes:
        by_node: the reading that a node is part of, or joins.
        swaps: weights that change places.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace, self.by_node, self.swaps = trace, dict[str, Reading](), list[Swap]()
        turns = [n for n in trace.nodes if n.op in TURNS and len(n.args[1]) == 1]
        if not turns:
            return
        self.nodes = {n.name: n for n in trace.nodes}
        self.live = live_nodes(trace)
        self.readers: dict[str, list[Node]] = defaultdict(list)
        for node in trace.nodes:
            for name in dict.fromkeys(node.refs()):
                self.readers[name].append(node)
        self.apart = self._apart_from_inputs()
        for turn in turns:
            found = None if turn.name in self.by_node else self._reading(turn)
            if found is not None:
                made = {*found.twins, *found.twins.values(), *found.unturned, *found.unturned.values()}
                inside = made - {found.given, found.turned}
                self.by_node |= dict.fromkeys(inside | found.joins, found)
                self.swaps += self._swapped(found)

    def of(self, node: Node) -> Reading | None:
        """The reading that a node is part of, or joins."""
        return self.by_node.get(node.name)

    def _apart_from_inputs(self) -> set[str]:
        apart = {name for name, source in self.trace.sources.items() if source.kind != "input"}
        for node in self.trace.nodes:
            if all(r in apart for r in node.refs()) or facts_of(node.op).shape_only:
                apart.add(node.name)
        return apart

    def _reading(self, turn: Node) -> Reading | None:
        """What starts where a length is turned round; None if its like is not found, or the two are not joined."""
        dim = turn.args[1][0] % len(turn.shape)
        found = Reading(turn.args[0].name, dim, turn.name, {turn.name: turn.args[0].name})
        for node in self.trace.nodes:
            if node.name not in self.live or not any(r in found.twins or r in found.unturned for r in node.refs()):
                continue
            if not self._goes_on(found, node):
                return None
        firsts = {*found.twins.values(), *found.unturned.values()} - {found.given}
        inside = {*found.twins, *firsts, *found.unturned, *found.joins}
        shown = {o.name for o in self.trace.outputs if isinstance(o, Ref)} & (inside - found.joins)
        leaks = any(n.name in self.live and n.name not in inside for name in firsts for n in self.readers[name])
        return found if found.joins and not shown and not leaks else None

    def _goes_on(self, found: Reading, node: Node) -> bool:
        """Note a node that reads what the second reading made; False if it is none that is understood."""
        if not any(r in found.unturned for r in node.refs()):
            like = self._like(found, node)
            if like is not None:
                found.twins[node.name] = like.name
                return True
            if node.op in TURNS and len(node.args[1]) == 1:
                found.unturned[node.name] = found.twins[node.args[0].name]
                found.back[node.name] = node.args[1][0] % len(node.shape)
                return True
        elif self._goes_on_behind(found, node):
            return True
        if self._joins(found, node):
            found.joins.add(node.name)
            return True
        return False

    def _goes_on_behind(self, found: Reading, node: Node) -> bool:
        """Note what is done to each entry of the second reading after it was turned round again, as to the first."""
        refs = node.refs()
        back = self._place_of(node, found.back[refs[0]]) if len(refs) == 1 else None
        if back is None:
            return False
        near = (n for n in self.readers[found.unturned[refs[0]]] if computed_alike(n, node) and n.name in self.live)
        like = next((n.name for n in near), None)
        if like is None:
            return False
        found.unturned[node.name], found.back[node.name] = like, back
        return True

    def _place_of(self, node: Node, dim: int) -> int | None:
        """Where an operator that keeps or exchanges axes, and the entries on them, has an axis of its operand."""
        if keeps_places(node.op):
            return dim
        if node.op not in EXCHANGES:
            return None
        place = node.op(torch.empty([2 if i == dim else 1 for i in range(len(node.shape))]), *node.args[1:])
        return next(i for i, size in enumerate(place.shape) if size == 2)

    def _like(self, found: Reading, node: Node) -> Node | None:
        """The node of the first reading that does the same."""
        first = next(r for r in node.refs() if r in found.twins)
        taken = {node.name, *found.twins, *found.twins.values()}
        near = (n for n in self.readers[found.twins[first]] if n.op is node.op and n.name in self.live - taken)
        return next((n for n in near if self._alike(found, node, n)), None)

    def _alike(self, found: Reading, a: Node, b: Node) -> bool:
        return computed_alike(a, b) and all(
            found.twins[x] == y if x in found.twins else self._weighs_alike(x, y)
            for x, y in zip(a.refs(), b.refs(), strict=True)
        )

    def _weighs_alike(self, a: str, b: str) -> bool:
        """Whether two results that depend on no input are weights of one kind, or the same number."""
        if a not in self.apart or b not in self.apart:
            return False
        if a == b:
            return True
        one, other = self.trace.sources.get(a), self.trace.sources.get(b)
        if one is not None and other is not None:
            if one.kind == other.kind == "parameter":
                return bool(one.value.shape == other.value.shape)
            return one.kind == other.kind and torch.equal(one.value, other.value)
        first, second = self.nodes.get(a), self.nodes.get(b)
        if first is None or second is None:
            return False
        if not computed_alike(first, second):
            made, like = map(self._filled, (first, second))
            return made is not None and like is not None and torch.equal(made, like)
        if facts_of(first.op).shape_only:
            return first.shape == second.shape
        return all(map(self._weighs_alike, first.refs(), second.refs()))

    def _filled(self, node: Node) -> torch.Tensor | None:
        """What a node makes of nothing, or of a shape, such as zeros in one of several ways; None of any other."""
        facts = facts_of(node.op)
        if facts.blank or not (facts.shape_only or (facts.whole and not node.refs())):
            return None

        def blank(leaf: object) -> object:
            return torch.empty(shape_of(self.trace, self.nodes, leaf.name)) if isinstance(leaf, Ref) else leaf

        made = node.op(*pytree.tree_map(blank, node.args), **node.kwargs)
        return made if isinstance(made, torch.Tensor) else None

    def _joins(self, found: Reading, node: Node) -> bool:
        refs = node.refs()
        listed = node.op in ROWS | PILES or (node.op in COMMUTES and not node.kwargs)
        if not listed or len(refs) != 2:
            return False
        return any(found.like(a) == b and b != found.given for a, b in (refs, reversed(refs)))

    def _swapped(self, found: Reading) -> Iterator[Swap]:
        """The weights that change places: in both readings, whatever reads them."""
        for second, first in found.twins.items():
            if second == found.turned:
                continue
            for a, b in zip(self.nodes[second].refs(), self.nodes[first].refs(), strict=True):
                if a in self.apart:
                    yield from (Swap(a, b, n) for n in (second, first))
