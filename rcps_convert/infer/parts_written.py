"""Writes into parts of a tensor, as in ``out[:, :, 1:] = h``: read as results of their own.

A trace shows such a write as a change of a view, after which the whole tensor holds other values. Here each one is
rewritten as ``slice_scatter`` or ``select_scatter``, whose result the readers behind it read. A tensor that is written
position by position is a ``stack``.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

from torch import Tensor

from .._torch import plain_twin, pytree
from ..graph.trace import EdgeCall, Node, Ref, Trace
from ..graph.writes import is_inplace, storage_roots, written_refs
from ..rules.directions import PILES, SELECT
from ..rules.places import COPIES_INTO, EXPAND, PUTS
from .positions import shape_of


def with_writes_as_results(trace: Trace) -> Trace:
    """The trace with each write into slices and single positions of a created tensor as a result; else as it is."""
    if not any(is_inplace(n.op) for n in trace.nodes):
        return trace
    writes = _Writes(trace)
    return _Rewritten(trace, writes).trace() if writes.by_root else trace


class _Writes:
    """The writes into parts of tensors that can be read as results.

    Attributes:
        by_root: for each tensor, the nodes that write into a part of it.
        chains: for each of these nodes, the views it writes through, outermost first.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace, self.nodes = trace, {n.name: n for n in trace.nodes}
        self.place = {n.name: i for i, n in enumerate(trace.nodes)}
        self.roots = storage_roots(trace.nodes)
        self.readers: dict[str, list[int]] = defaultdict(list)
        for n in trace.nodes:
            for r in n.refs():
                self.readers[r].append(self.place[n.name])
        for out in trace.outputs:
            if isinstance(out, Ref):
                self.readers[out.name].append(len(trace.nodes))
        found: dict[str, list[Node]] = defaultdict(list)
        for n in trace.nodes:
            for r in written_refs(n):
                found[self.roots.get(r, r)].append(n)
        self.chains = {n.name: self._chain(n) for writes in found.values() for n in writes}
        self.by_root = {root: writes for root, writes in found.items() if self._can_be_read(root, writes)}

    def _chain(self, node: Node) -> list[Node] | None:
        """The views that a node writes through; None where they are others than slices and single positions."""
        chain, name = list[Node](), node.args[0].name if node.args and isinstance(node.args[0], Ref) else ""
        while name in self.roots:
            view = self.nodes[name]
            if view.op not in PUTS or view.kwargs:
                return None
            chain.insert(0, view)
            name = view.args[0].name
        return chain

    def fits(self, node: Node) -> bool:
        """Whether a copy writes a tensor of the shape of where it is written."""
        return shape_of(self.trace, self.nodes, node.args[1].name) == node.shape

    def _can_be_read(self, root: str, writes: list[Node]) -> bool:
        """Whether a tensor is made by a node, and each write is understood, with no view of it read across a write."""
        chains = [self.chains[n.name] for n in writes]
        if root not in self.nodes or None in chains or not any(chains) or not all(map(_is_understood, writes)):
            return False
        views = [name for name, r in self.roots.items() if r == root]
        times = [self.place[n.name] for n in writes]
        return not any(self.place[v] < t < max(self.readers[v], default=0) for v in views for t in times)


def _is_understood(node: Node) -> bool:
    """Whether a write is a copy, or has a twin that returns what is written."""
    if not isinstance(node.value, Tensor) or not is_inplace(node.op):
        return False
    return isinstance(node.args[1], Ref) if node.op in COPIES_INTO else plain_twin(node.op) is not None


class _Rewritten:
    """Writes a trace anew, node by node.

    Args:
        trace: the trace.
        writes: its writes into parts.
    """

    def __init__(self, trace: Trace, writes: _Writes) -> None:
        self.old, self.writes = trace, writes
        self.nodes: list[Node] = []
        self.now: dict[str, str] = {}
        self.given: dict[str, str] = {}
        self.into = {n.name: root for root, found in writes.by_root.items() for n in found}
        mine = [n.name for n in trace.nodes if n.name in self.into]
        called = {name for call in trace.calls for name in call.nodes}
        self.views = {v.name for name in mine for v in writes.chains[name] or ()} - called
        self.views = set(filter(self._only_written, self.views))
        self.piles = {root: pile for root in writes.by_root if (pile := self._pile(root)) is not None}

    def _only_written(self, view: str) -> bool:
        """Whether a view is nothing but the target of a copy, or a step towards one."""
        readers = [*self.old.nodes, None]
        return all(self._copies_into(readers[i], view) for i in self.writes.readers[view])

    def _copies_into(self, reader: Node | None, view: str) -> bool:
        """Whether a reader, None for the model's output, copies into a view, perhaps by way of another view."""
        if reader is None:
            return False
        if reader.op in COPIES_INTO:
            return bool(reader.args[0] == Ref(view))
        return reader.name in self.views and self._only_written(reader.name)

    def _pile(self, root: str) -> tuple[int, dict[str, int]] | None:
        """The axis along which a tensor is written position by position before it is read, and which write is where."""
        found, dims = dict[str, int](), set[int]()
        for node in self.writes.by_root[root]:
            chain = self.writes.chains[node.name] or []
            if len(chain) != 1 or chain[0].op is not SELECT or node.op not in COPIES_INTO or not self.writes.fits(node):
                return None
            shape = self.writes.nodes[root].shape
            dims.add(int(chain[0].args[1]) % len(shape))
            found[node.name] = int(chain[0].args[2]) % shape[int(chain[0].args[1])]
        last = max(self.writes.place[name] for name in found)
        early = [i for i in self.writes.readers[root] if i < last and self.old.nodes[i].name not in self.views]
        every = sorted(found.values()) == [*range(self.writes.nodes[root].shape[min(dims)])]
        return (dims.pop(), found) if len(dims) == 1 and every and not early and last else None

    def trace(self) -> Trace:
        """The trace, rewritten."""
        starts = {call.nodes[0]: call for call in self.old.calls if call.nodes}
        for node in self.old.nodes:
            if node.name in starts:
                self.given[node.name] = self._current(starts[node.name].given.name)
            if node.name in self.into:
                self._write(node)
            elif node.name not in self.views:
                self.nodes.append(self._read(node))
        outputs = [Ref(self._current(o.name)) if isinstance(o, Ref) else o for o in self.old.outputs]
        calls = tuple(map(self._call, self.old.calls))
        written = self.old.written - self.writes.by_root.keys()
        return replace(self.old, nodes=self.nodes, outputs=outputs, calls=calls, written=written)

    def _call(self, call: EdgeCall) -> EdgeCall:
        return replace(call, given=Ref(self.given.get(call.nodes[0], call.given.name)) if call.nodes else call.given)

    def _current(self, name: str) -> str:
        return self.now.get(name, name)

    def _read(self, node: Node) -> Node:
        """A node that reads what was written."""
        if not any(r in self.now for r in node.refs()):
            return node
        args, kwargs = pytree.tree_map(self._renamed, (node.args, node.kwargs))
        return replace(node, args=args, kwargs=kwargs)

    def _renamed(self, leaf: Any) -> Any:
        return Ref(self._current(leaf.name)) if isinstance(leaf, Ref) else leaf

    def _write(self, node: Node) -> None:
        root = self.into[node.name]
        chain = self.writes.chains[node.name] or []
        if root in self.piles:
            self._stacked(node, root)
            return
        value = self._written(node, chain)
        self.now[node.name] = value
        bases = [self._current(root)]
        for i, view in enumerate(chain[:-1]):
            bases.append(self._made(node, f"part_{i}", view.op, (Ref(bases[-1]), *view.args[1:]), view.value))
        for i, (view, base) in reversed([*enumerate(zip(chain, bases, strict=True))]):
            whole = self.writes.nodes[root].value if i == 0 else chain[i - 1].value
            value = self._made(node, f"with_part_{i}", PUTS[view.op], (Ref(base), Ref(value), *view.args[1:]), whole)
        self.now[root] = value

    def _written(self, node: Node, chain: list[Node]) -> str:
        """The name of what is written, of the shape of where it is written."""
        if node.op not in COPIES_INTO:
            new = self._read(replace(node, op=plain_twin(node.op)))
            self.nodes.append(replace(new, name=f"{node.name}_made"))
            return f"{node.name}_made"
        source = self._renamed(node.args[1])
        if self.writes.fits(node):
            return str(source.name)
        return self._made(node, "made", EXPAND, (source, list(node.shape)), node.value)

    def _stacked(self, node: Node, root: str) -> None:
        """Put together what was written position by position, behind the last write."""
        dim, places = self.piles[root]
        self.now[node.name] = self._current(node.args[1].name)
        if node.name == [*places][-1]:
            order = sorted(places, key=places.__getitem__)
            parts = [Ref(self.now[name]) for name in order]
            self.now[root] = self._made(node, "stacked", next(iter(PILES)), (parts, dim), self.writes.nodes[root].value)

    def _made(self, like: Node, name: str, op: Any, args: tuple[Any, ...], value: Any) -> str:
        name = f"{like.name}_{name}"
        where = replace(like.where, node=name)
        self.nodes.append(replace(like, name=name, op=op, args=args, kwargs={}, where=where, value=value))
        return name
