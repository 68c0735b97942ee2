"""Which nodes of a trace write into a tensor, and which results share a storage."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import Any

from .._torch import arguments, pytree, writes
from ..errors import ConversionError, NoRuleError, Where
from .trace import Node, Ref, Source, Trace


def is_inplace(op: Any) -> bool:
    """Whether an operator writes into its first argument."""
    return any(map(writes, arguments(op)[:1]))


def written_refs(node: Node) -> list[str]:
    """Names of the results that a node writes into: the target of an in-place operator, or ``out=``."""
    known = arguments(node.op)
    given = {a.name: value for a, value in zip(known, node.args, strict=False)} | node.kwargs
    marked = [given.get(a.name) for a in known if writes(a)]
    return [leaf.name for leaf in pytree.tree_leaves(marked) if isinstance(leaf, Ref)]


def is_view(op: Any) -> bool:
    """Whether an operator may return a view of its first argument."""
    return any(a.alias_info is not None and not writes(a) for a in arguments(op)[:1])


def storage_roots(nodes: list[Node]) -> dict[str, str]:
    """For each result, the result whose storage it may share."""
    roots: dict[str, str] = {}
    for node in nodes:
        shares = is_view(node.op) or node.op is operator.getitem
        refs = node.refs() if shares else written_refs(node)
        if refs:
            roots[node.name] = roots.get(refs[0], refs[0])
    return roots


def written_results(nodes: list[Node], sources: dict[str, Source]) -> frozenset[str]:
    """Tensors that an in-place operator fills with values computed from the inputs: created ones, and buffers.

    What was computed before may be among them: whether ``zeros_like(h)`` is, its operator tells (`rules.registry`).
    """
    given = {name for name, s in sources.items() if s.kind in ("input", "parameter")}
    computed = {*given}
    roots, by_name = storage_roots(nodes), {n.name: n for n in nodes}
    written: set[str] = set()
    for node in nodes:
        if not any(r in computed for r in node.refs()):
            continue
        computed.add(node.name)
        for root in (roots.get(r, r) for r in written_refs(node)):
            if root not in given and (root in by_name or root in sources):
                written.add(root)
    return frozenset(written)


def changed_parameters(trace_: Trace) -> Iterator[tuple[Node, str]]:
    """The nodes that write into a parameter, each with its name in the model."""
    roots = storage_roots(trace_.nodes)
    for node in trace_.nodes:
        for name in {roots.get(r, r) for r in written_refs(node)}:
            source = trace_.sources.get(name)
            if source is not None and source.kind == "parameter":
                yield node, source.target


def made_by_a_call(parameters: Sequence[str]) -> ConversionError:
    """The refusal of a model whose first call makes parameters.

    Args:
        parameters: their names.
    """
    named = ", ".join(parameters[:3]) + ", ..." * (len(parameters) > 3)
    return NoRuleError(
        f"forward makes parameters when it is called first: {named}",
        where=Where(parameters[0].rpartition(".")[0]),
        why="they are not there yet, and a conversion ties the parameters that a model has",
        do="call the model once before converting it, or make them in __init__",
    )


def changed_in_forward(parameter: str, by: str = "", where: Where | None = None) -> ConversionError:
    """The refusal of a forward that writes into a parameter.

    Args:
        parameter: its name.
        by: the operator that does it, where that is known.
        where: its place, where that is known.
    """
    return NoRuleError(
        f"{by or 'something'} changes the parameter {parameter} in forward",
        where=where or Where(parameter.rpartition(".")[0]),
        why="a tied parameter is computed whenever it is read, so what is written into it would be lost",
        do="change it between training steps, or compute a changed one and use that (w / w.norm(), w.clamp(-1, 1))",
    )
