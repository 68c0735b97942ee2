"""Numbers computed from the weights alone, such as the spectral norm of one: they are the same on both strands.

No rule is needed for such a number, nor for what only goes into it, whatever it does to the weights; and no
law for the state it keeps, such as the vectors of a power iteration.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from .._torch import draws_random_numbers
from ..algebra import axis as ax
from ..algebra.action import Action
from ..graph.trace import Ref, Trace
from ..graph.writes import storage_roots, written_refs


@dataclass(frozen=True)
class WeightNumbers:
    """What of a trace stands apart from the inputs.

    Attributes:
        numbers: nodes that make a single number out of several, computed from parameters and not from inputs.
        private: nodes, and buffers that the forward updates, that only go into such numbers.
    """

    numbers: frozenset[str] = frozenset()
    private: frozenset[str] = frozenset()

    def __contains__(self, name: str) -> bool:
        return name in self.numbers or name in self.private


def find_weight_numbers(trace: Trace) -> WeightNumbers:
    """The numbers a model computes from its weights alone, and what only goes into them.

    Args:
        trace: a traced model.
    """
    units = _units(trace)
    apart, given = _apart(trace, units)
    numbers = _numbers(trace) & apart
    readers: dict[str, set[str]] = defaultdict(set)
    for node in trace.nodes:
        for ref in node.refs():
            readers[units[ref]].add(node.name)
    buffers = {name for name in trace.written if name in trace.sources and units[name] not in given}
    shown = {units[leaf.name] for leaf in trace.outputs if isinstance(leaf, Ref)}
    kept = {units[n] for n in apart | buffers if units[n] not in trace.sources or units[n] in buffers} - shown
    while True:
        private = {u for u in kept if all(r in numbers or units[r] in kept for r in readers[u])}
        if private == kept:
            break
        kept = private
    return WeightNumbers(frozenset(numbers), frozenset(n for n in (apart | buffers) - numbers if units[n] in private))


def free_apart(traces: Iterable[tuple[Trace, WeightNumbers]], parameters: Mapping[str, Action]) -> None:
    """Leave parameters that only go into such numbers as they are: their open axes become trivial.

    Args:
        traces: of one model, each with its numbers.
        parameters: action of each parameter.
    """
    read: set[str] = set()
    for trace, weight_numbers in traces:
        refs = {r for n in trace.nodes if n.name not in weight_numbers for r in n.refs()}
        refs |= {leaf.name for leaf in trace.outputs if isinstance(leaf, Ref)}
        read |= {trace.sources[r].target for r in refs & trace.sources.keys()}
    for name in parameters.keys() - read:
        for term in parameters[name].axes:
            ax.trivialise(term)


def _units(trace: Trace) -> dict[str, str]:
    """For each result the one it stands and falls with: of a storage that is written into, the first."""
    roots = storage_roots(trace.nodes)
    written = {roots[n.name] for n in trace.nodes if written_refs(n)}
    names = [*trace.sources, *(n.name for n in trace.nodes)]
    return {name: roots[name] if roots.get(name) in written else name for name in names}


def _apart(trace: Trace, units: dict[str, str]) -> tuple[set[str], set[str]]:
    """Nodes that depend on parameters or on what the forward wrote, but neither on inputs nor on chance; what does."""
    given = {name for name, source in trace.sources.items() if source.kind == "input"}
    weighed = {name for name, source in trace.sources.items() if source.kind == "parameter"}
    size = -1
    while size != len(given) + len(weighed):
        size = len(given) + len(weighed)
        for node in trace.nodes:
            refs = {r for name in node.refs() for r in (name, units[name])}
            made = {node.name, units[node.name]} if written_refs(node) else {node.name}
            if refs & given or draws_random_numbers(node.op):
                given |= made
            if refs & weighed:
                weighed |= made
    return {n.name for n in trace.nodes if n.name in weighed - given}, given


def _numbers(trace: Trace) -> set[str]:
    """Nodes that make one number out of several."""
    values: dict[str, Any] = {name: s.value for name, s in trace.sources.items()}
    values |= {n.name: n.value for n in trace.nodes}
    single = {
        name
        for name, v in values.items()
        if isinstance(v, torch.Tensor) and all(type(n) is int and n == 1 for n in v.shape)
    }
    real = {n.name for n in trace.nodes if n.name in single and n.value.is_floating_point()}
    return {n.name for n in trace.nodes if n.name in real and not set(n.refs()) <= single}


def _is_single(value: torch.Tensor) -> bool:
    """Whether a tensor has one entry; a size that depends on values is no number yet."""
    return all(type(n) is int and n == 1 for n in value.shape)
