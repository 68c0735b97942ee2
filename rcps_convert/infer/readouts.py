"""Read-outs behind a nonlinearity: where an output would turn a convolution's filters into palindromes.

In conv -> ReLU -> pool -> output nothing linear stands between the filters and an invariant output,
so the output's action reaches back and makes every filter its own reverse complement. The smallest
submodule that holds such a read-out can instead be run on both strands (`boundary`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .._torch import pytree
from ..algebra import axis as ax
from ..algebra.action import Action
from ..graph.trace import Node, Ref, Trace
from ..rules.pointwise import is_nonlinear
from .inference import Inference


def find_readouts(trace: Trace, inference: Inference) -> tuple[list[str], list[Node]]:
    """The submodules that hold a forced read-out, and the read-outs that no submodule holds.

    Args:
        trace: the model's first trace.
        inference: the solution whose `forced` filters are looked at.

    Returns: paths of submodules, and for each read-out without one the node at which the length is lost.
    """
    holders: dict[str, None] = {}
    unheld: dict[str, Node] = {}
    env = inference.values[0]
    for carriers in inference.forced:
        nodes = [n for n in trace.nodes if n.name in carriers]
        ends = [n for n in nodes if _loses_length(n, env)]
        passes_nonlinearity = any(_is_nonlinear(n) and _has_length(env.get(n.name)) for n in nodes)
        if not ends or not passes_nonlinearity:
            continue
        body = [n for n in nodes if _has_length(env.get(n.name))] + ends
        path = _holder(trace, env, body)
        if path:
            holders[path] = None
        else:
            unheld[ends[0].name] = ends[0]
    return list(holders), list(unheld.values())


def _is_nonlinear(node: Node) -> bool:
    return is_nonlinear(node.op, sum(isinstance(a, Ref) for a in node.args))


def _has_length(value: Any) -> bool:
    actions = (a for a in pytree.tree_leaves(value) if isinstance(a, Action))
    terms = (ax.walk(t) for a in actions for t in a.axes)
    return any(ax.is_length(f) and f.size > 1 for t in terms for f in (t.factors if isinstance(t, ax.Prod) else (t,)))


def _loses_length(node: Node, env: dict[str, Any]) -> bool:
    return not _has_length(env.get(node.name)) and any(_has_length(env.get(r)) for r in node.refs())


def _holder(trace: Trace, env: dict[str, Any], body: list[Node]) -> str | None:
    """The path of the smallest proper submodule that runs all of these nodes, once, from one tensor to one."""
    shared = [
        scope for scope, *others in zip(*(n.scope for n in body), strict=False) if all(o == scope for o in others)
    ]
    for path, call in reversed(shared):
        if path and _is_read_out(trace, env, path, call) and not _shares_weights(trace, path):
            return path
    return None


def _inside(nodes: Iterable[Node], path: str) -> list[Node]:
    return [n for n in nodes if any(p == path for p, _ in n.scope)]


def _is_read_out(trace: Trace, env: dict[str, Any], path: str, call: str) -> bool:
    """Whether a submodule is run once, from one batched tensor to one."""
    inside = _inside(trace.nodes, path)
    names = {n.name for n in inside}
    if any((path, call) not in n.scope for n in inside):
        return False
    outside = [r for n in trace.nodes if n.name not in names for r in n.refs()]
    read = {r for n in inside for r in n.refs()} - names
    sources = {r for r in read if not _is_state(trace, r) and isinstance(env.get(r), Action)}
    results = names & ({*outside} | {o.name for o in trace.outputs if isinstance(o, Ref)})
    if len(sources) != 1 or len(results) != 1:
        return False
    given, made = env[sources.pop()], env[results.pop()]
    role = ax.role(given.axes[0]) if given.axes else None
    return role is not None and role.name == "batch" and bool(made.axes) and made.axes[0].size == given.axes[0].size


def _is_state(trace: Trace, name: str) -> bool:
    return name in trace.sources and trace.sources[name].kind != "input"


def _shares_weights(trace: Trace, path: str) -> bool:
    """Whether a parameter of the module is used outside of it too."""
    inside = {n.name for n in _inside(trace.nodes, path)}
    used: dict[str, set[bool]] = {}
    for node in trace.nodes:
        for ref in node.refs():
            source = trace.sources.get(ref)
            if source is not None and source.kind == "parameter":
                used.setdefault(source.target, set()).add(node.name in inside)
    return any(len(places) == 2 for places in used.values())
