"""Traces of many small functions, from one export for a few dozen of them: an export takes as long as ten operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from torch import Tensor, nn

from rcps_convert.errors import Where
from rcps_convert.graph.export import trace
from rcps_convert.graph.trace import Trace


class Call(nn.Module):
    """A function of tensors as a module."""

    def __init__(self, function: Callable) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: Tensor):
        return self.function(*tensors)


class Together(nn.Module):
    """Several functions, each of tensors of its own."""

    def __init__(self, functions: Sequence[Callable], counts: Sequence[int]) -> None:
        super().__init__()
        self.each, self.counts = nn.ModuleList(map(Call, functions)), counts

    def forward(self, *tensors: Tensor):
        given = iter(tensors)
        return [call(*islice(given, n)) for call, n in zip(self.each, self.counts, strict=True)]


def traces(functions: Sequence[Callable], given: Sequence[tuple[Tensor, ...]]) -> list[Trace]:
    """What `trace` finds for each function by itself; of one that cannot be traced, nothing is found for any."""
    counts = [len(tensors) for tensors in given]
    whole = trace(Together(functions, counts), tuple(x for tensors in given for x in tensors))
    outputs = iter(whole.outputs)
    inputs = iter([name for name, s in whole.sources.items() if s.kind == "input"])
    found = []
    of_each: Any = whole.out_spec
    specs = of_each.children() if hasattr(of_each, "children") else of_each.children_specs  # torch 2.9
    for i, (count, spec) in enumerate(zip(counts, specs, strict=True)):
        own = _of_one(whole, f"each.{i}", [*islice(inputs, count)])
        found.append(replace(own, outputs=[*islice(outputs, spec.num_leaves)], out_spec=spec))
    return found


def _of_one(whole: Trace, path: str, inputs: list[str]) -> Trace:
    """The part of a trace that belongs to one of the functions, as if it were the whole model."""
    nodes = [_alone(n) for n in whole.nodes if n.where.path == path]
    read = {r for n in nodes for r in n.refs()}
    names = [n for n, s in whole.sources.items() if n in inputs or (s.kind != "input" and n in read)]
    return replace(
        whole,
        nodes=nodes,
        sources={n: whole.sources[n] for n in names},
        written=whole.written & {n.name for n in nodes},
        calls=tuple(_alone(c) for c in whole.calls if c.where.path == path),
    )


def _alone(piece: Any) -> Any:
    """A node or a call, with the function as the model."""
    (_, call), *inner = piece.scope[1:]
    where = Where("", piece.where.source, piece.where.node)
    return replace(piece, where=where, scope=(("", call), *inner))
