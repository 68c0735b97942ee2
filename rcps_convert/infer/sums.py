"""Sums of several terms, regrouped so that two readings of a length meet: ``x + f(x) + g(x.flip(1)).flip(1)``.

Reverse complement swaps what a length gives from either end, so only both together have a law. A sum is read from the
left, and its first term would meet one reading alone. The same holds for products, and for the largest of several.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .._torch import draws_random_numbers, pytree
from ..graph.closed_modules import CLOSED
from ..graph.trace import Node, Ref, Trace
from ..graph.writes import storage_roots, written_refs
from ..rules.aliases import usual
from ..rules.directions import COMMUTES, TURNS, keeps_places
from .directions import Directions
from .loops import turned_loops
from .one_by_one import with_positions_as_pieces
from .parts_written import with_writes_as_results
from .positions import with_piles_as_turns
from .turns import with_turns


def regrouped(trace: Trace) -> Trace:
    """The trace with sums regrouped, where that shows more readings of a length from either end; else as it is.

    Of the forms that show as many, the first.
    """
    trace = replace(trace, nodes=[replace(n, op=usual(n.op)) for n in trace.nodes])
    trace = turned_loops(with_piles_as_turns(with_turns(with_writes_as_results(trace))))
    trace = with_positions_as_pieces(trace)
    if not any(n.op in TURNS for n in trace.nodes):
        return trace
    once = with_results_once(trace)
    every = (trace, _with_sums_regrouped(trace), once, _with_sums_regrouped(once))
    forms = list({id(form): form for form in every}.values())
    return max(forms, key=lambda form: len(Directions(form).by_node)) if len(forms) > 1 else trace


def _with_sums_regrouped(trace: Trace) -> Trace:
    """The trace in which a term that was turned round meets its like before the other terms."""
    for found in _sums(trace):
        trace = _meeting(trace, found) or trace
    return trace


def with_results_once(trace: Trace) -> Trace:
    """The trace with each result computed once, as where ``f(norm(h))`` and ``g(norm(h).flip(1))`` compute one twice.

    What reads a later one reads the first; what is written into, and what is drawn at random, is left as it is.
    """
    roots = storage_roots(trace.nodes)
    written = {roots.get(r, r) for n in trace.nodes for r in written_refs(n)}
    first: dict[str, Node] = {}
    again: dict[str, str] = {}

    def renamed(leaf: object) -> object:
        return Ref(again.get(leaf.name, leaf.name)) if isinstance(leaf, Ref) else leaf

    nodes = []
    for node in trace.nodes:
        args, kwargs = pytree.tree_map(renamed, (node.args, node.kwargs))
        nodes.append(replace(node, args=args, kwargs=kwargs))
        fixed = all(roots.get(r, r) not in written for r in (node.name, *node.refs()))
        if fixed and node.op is not CLOSED and not draws_random_numbers(node.op):
            known = first.setdefault(f"{node.op} {args} {kwargs}", node)
            if known is not node:
                again[node.name] = known.name
    unread = frozenset(again) - {o.name for o in trace.outputs if isinstance(o, Ref)}
    kept = [n for n in nodes if n.name not in unread]
    return replace(trace, nodes=kept, left_out=trace.left_out | unread) if again else trace


@dataclass(frozen=True)
class _Sum:
    """A sum of several terms: its last node, the nodes that make up partial sums, and its terms."""

    last: Node
    partial: tuple[Node, ...]
    terms: tuple[str, ...]


def _sums(trace: Trace) -> Iterator[_Sum]:
    """Sums of three terms and more, each partial sum read by the next one only."""
    nodes = {n.name: n for n in trace.nodes}
    readers = Counter(r for n in trace.nodes for r in n.refs())
    readers.update(o.name for o in trace.outputs if isinstance(o, Ref))
    inner = {r for n in trace.nodes for r in n.refs() if _adds(n) and r in nodes and nodes[r].op is n.op}

    def opened(name: str, op: object) -> Iterator[Node | str]:
        node = nodes.get(name)
        if node is None or node.op is not op or not _adds(node) or readers[name] > 1:
            yield name
            return
        for r in node.refs():
            yield from opened(r, op)
        yield node

    for node in trace.nodes:
        if _adds(node) and not (node.name in inner and readers[node.name] == 1):
            parts = [part for r in node.refs() for part in opened(r, node.op)]
            terms = tuple(p for p in parts if isinstance(p, str))
            if len(terms) > 2:
                yield _Sum(node, tuple(p for p in parts if isinstance(p, Node)), terms)


def _adds(node: Node) -> bool:
    return node.op in COMMUTES and not node.kwargs and len(node.refs()) == len(node.args) == 2


def _meeting(trace: Trace, found: _Sum) -> Trace | None:
    """The trace with a term that was turned round next to its like; None if it has none of these."""
    nodes = {n.name: n for n in trace.nodes}
    for second in found.terms:
        made = _made_by(nodes, second)
        if made is None:
            continue
        for first in reversed([t for t in found.terms if t != second]):
            if _ends_with(nodes, first, made):
                return _joined(trace, found, first, second)
    return None


def _made_by(nodes: dict[str, Node], name: str) -> list[object] | None:
    """The last operators behind a term, from its end, but the one that turned it round; None if none did."""
    ops: list[object] = []
    node = nodes.get(name)
    while node is not None and node.op not in TURNS and len(node.refs()) == 1 and keeps_places(node.op):
        ops.append(node.op)
        node = nodes.get(node.refs()[0])
    if node is None or node.op not in TURNS:
        return None
    before = nodes.get(node.args[0].name)
    return None if before is None else [*ops, before.op]


def _ends_with(nodes: dict[str, Node], name: str, ops: list[object]) -> bool:
    """Whether a term comes from these operators, from its end."""
    for op in ops:
        node = nodes.get(name)
        if node is None or node.op is not op:
            return False
        name = next(iter(node.refs()), "")
    return True


def _joined(trace: Trace, found: _Sum, first: str, second: str) -> Trace:
    """The trace with two terms added before the others, at the place of the last node."""
    rest = list(found.terms)
    rest.remove(first)
    rest.remove(second)
    shapes = {n.name: tuple(n.value.shape) for n in trace.nodes if isinstance(n.value, Tensor)}
    shapes |= {name: tuple(s.value.shape) for name, s in trace.sources.items() if isinstance(s.value, Tensor)}
    given, made = first, list[Node]()
    for i, term in enumerate([second, *rest]):
        name = found.last.name + (f"_regrouped_{i}" if i < len(rest) else "")
        shapes[name] = torch.broadcast_shapes(shapes[given], shapes[term])
        value = found.last.value.new_empty(shapes[name])
        made.append(replace(found.last, name=name, args=(Ref(given), Ref(term)), value=value))
        given = name
    dropped = {n.name for n in found.partial}
    kept = [n for n in trace.nodes if n.name not in dropped]
    at = kept.index(found.last)
    return replace(trace, nodes=[*kept[:at], *made, *kept[at + 1 :]])
