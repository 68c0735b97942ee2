"""Statistics that a model keeps in buffers of its own: which buffers these are, and whose forward writes them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from torch import nn

from ..algebra.action import Action
from ..graph.trace import Node, Ref, Trace
from ..graph.writes import storage_roots, written_refs
from ..rules.registry import facts_of
from ..tie.norms import needs_statistics
from .inference import Inference
from .weight_numbers import WeightNumbers


def train_mode_states(traces: Iterable[tuple[Trace, WeightNumbers]]) -> frozenset[str]:
    """Buffers of fractions that train-mode forwards write, and no other forward does.

    Args:
        traces: of one model, each with the numbers it computes from weights alone; their state is none of these.
    """
    written: dict[bool, set[str]] = {False: set(), True: set()}
    for trace, numbers in traces:
        held = [trace.sources[n] for n in trace.written if n in trace.sources and n not in numbers.private]
        written[trace.training] |= {s.target for s in held if s.kind == "buffer" and s.value.is_floating_point()}
    return frozenset(written[True] - written[False])


def reads_uneven_buffers(trace: Trace) -> bool:
    """Whether a forward reads buffers of fractions that differ, which may be statistics that train-mode forwards write.

    Until these are known to be no constants, they stand in the way like any constant that is not its mirror image.
    """
    read = (n.args[i] for n in trace.nodes for i in facts_of(n.op).statistics)
    norms = {given.name for given in read if isinstance(given, Ref)}
    held = (s.value for name, s in trace.sources.items() if s.kind == "buffer" and name not in norms)
    return any(v.is_floating_point() and v.numel() > 1 and bool((v != v.flatten()[0]).any()) for v in held)


def kept_states(model: nn.Module, traces: Iterable[Trace], found: Inference) -> dict[str, dict[str, Action]]:
    """By the path of the module whose forward writes them, how reverse complement acts on buffers.

    The statistics of norm modules are not among them.

    Args:
        model: the model that was solved.
        traces: its traces.
        found: the solution.
    """
    kept: dict[str, dict[str, Action]] = {}
    for trace in traces:
        for node, target in _writes(model, trace, found):
            path = _common(node.where.path, target.rpartition(".")[0])
            action = found.statistics[target].walk()
            if not action.is_trivial():
                kept.setdefault(path, {})[target[len(path) + 1 if path else 0 :]] = action
    return kept


def _writes(model: nn.Module, trace: Trace, found: Inference) -> Iterator[tuple[Node, str]]:
    """The nodes that write such a buffer, or that may do so in train mode, each with its name in the model."""
    roots = storage_roots(trace.nodes)
    for node in trace.nodes:
        sources = [trace.sources.get(roots.get(r, r)) for r in written_refs(node)]
        yield from ((node, s.target) for s in sources if s is not None and s.target in found.states)
        held = [node.args[i] for i in facts_of(node.op).statistics]
        if not needs_statistics(model.get_submodule(node.where.path)):
            known = [trace.sources.get(r.name) for r in held if isinstance(r, Ref)]
            yield from ((node, s.target) for s in known if s is not None and s.kind == "buffer")


def _common(one: str, other: str) -> str:
    """The innermost module that holds two."""
    pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one.split("."), other.split("."), strict=False))
    return ".".join(part for part, _ in pairs)
