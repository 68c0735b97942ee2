"""From traces and inferred actions to what each module's calls need: which axes are lengths, which channels swap."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..algebra import axis as ax
from ..algebra.action import Action
from ..errors import Where
from ..geometry import CallAxes, Entry, Table
from ..graph.trace import EdgeCall, Trace
from ..rules.registry import Const
from .inference import Inference
from .one_sided import Spread
from .swapped import swapped_channel, varies


@dataclass(frozen=True)
class AnchoredCall:
    """A call that may be re-anchored, for the plan.

    Attributes:
        where: its place.
        function: its name.
        arithmetic: per length, how the operator's windows fit, in words.
        aligned: both edges are read alike at the example's length.
        site: which channels take which edge.
        notes: what the user should know of it.
    """

    where: Where
    function: str
    arithmetic: tuple[str, ...]
    aligned: bool
    site: CallAxes
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        place = self.where.path or "forward"
        source = f" ({self.where.source})" if self.where.source else ""
        text = f"{place}{source}: {self.function}, {', '.join(self.arithmetic)}"
        return f"re-anchored at other lengths: {text}" if self.aligned else f"re-anchored: {text}; {self.site.words()}"


def plan_calls(
    traces: list[Trace], inference: Inference, cuts: Collection[str] = (), strict: bool = False
) -> tuple[dict[str, Table], list[AnchoredCall]]:
    """The tables of every module that makes such calls, and a row for each call that may be re-anchored.

    Both are empty when no call can ever be misaligned, and nothing is to be refused.

    Args:
        traces: of the model.
        inference: its actions.
        cuts: paths of modules that were not looked into; their calls are left alone.
        strict: forward has other ways to go than the traced ones, and they are to be refused.
    """
    runs: dict[str, dict[tuple[int, str], list[Entry]]] = {}
    rows: list[AnchoredCall] = []
    matters = strict
    tested = [{n for t in found for n in t.nodes} for found in inference.tested] or [set[str]() for _ in traces]
    spread = inference.spread or [dict[str, Spread]() for _ in traces]
    for number, (trace, env) in enumerate(zip(traces, inference.values, strict=True)):
        for call in trace.calls:
            path, frame = call.scope[-1] if call.scope else ("", "")
            as_it_is = any(n in tested[number] or n in inference.as_they_are for n in call.nodes)
            as_it_is = as_it_is or all(n in trace.left_out for n in call.nodes)
            entry = entry_of(call, {} if as_it_is else env, spread[number])
            runs.setdefault(path, {}).setdefault((number, frame), []).append(entry)
            if entry.site is not None and call.edge_function.concerns(call.settings, entry.site):
                matters = True
                rows += _rows(trace, call, entry.site, inference.anchors[number])
    if not matters:
        return {}, []
    tables = {
        path: Table(path, tuple(dict.fromkeys(map(tuple, frames.values()))), strict=strict)
        for path, frames in runs.items()
    }
    tables |= {path: Table(path, free=True) for path in cuts}
    tables.setdefault("", Table("", strict=strict))
    return tables, list(dict.fromkeys(rows))


def _rows(trace: Trace, call: EdgeCall, site: CallAxes, anchors: dict[str, list[Any]]) -> list[AnchoredCall]:
    found = [a for name in call.nodes for a in anchors.get(name, ())]
    if not found:
        return []
    words = tuple(dict.fromkeys(a.words for a in found))
    aligned = all(a.aligned for a in found)
    notes = () if aligned else tuple(_notes(trace, call, site))
    return [AnchoredCall(call.where, call.edge_function.name, words, aligned, site, notes)]


def _notes(trace: Trace, call: EdgeCall, site: CallAxes) -> Iterator[str]:
    place, apart = Where(call.where.path, call.where.source), call.edge_function.apart(call.settings, site)
    name = call.edge_function.name
    source = trace.sources.get(call.given.name)
    channelwise = not call.edge_function.mixes
    if source is not None and source.kind == "input" and site.channel is not None and channelwise:
        yield (
            f"{name} at {place} splits the input: half of the bases (or tracks) is read from the left "
            "edge, their complements from the right; crop or pad behind the first convolution to keep them together"
        )
    if (source is None or source.kind == "input") and apart * 10 > max(
        call.settings["input"].shape[d] for d in site.reads
    ):
        yield (
            f"the two readings of {name} at {place} lie {apart} positions apart: what follows compares "
            "channels that saw different stretches of the sequence; crop both ends alike to keep them together"
        )


def entry_of(call: EdgeCall, env: dict[str, Any], spread: Mapping[str, Spread] | None = None) -> Entry:
    """What is known of a call, and the sizes by which it is recognised; no site for what is read as it is."""
    name = call.edge_function.name
    given, made = env.get(call.given.name), env.get(call.made.name) if call.made is not None else None
    if not isinstance(given, Action):
        rank = given.value.dim() if isinstance(given, Const) else call.settings["input"].dim()
        found = (spread or {}).get(call.made.name) if call.made is not None and env else None
        if found is None:
            return Entry(name, (None,) * rank, None)
        lengths = tuple(d for d in range(rank) if d != found.dim)
        pattern = tuple(1 if d == found.dim else None for d in range(rank))
        return Entry(name, pattern, CallAxes(lengths, lengths, found.dim, found.table, spread=found.size))
    given = given.walk()
    reads = tuple(d for d, t in enumerate(given.axes) if ax.is_length(t))
    ids = given.value is not None and not ax.is_trivial(given.value)
    listed = call.edge_function.listed(call.settings)
    rows = {d for d in listed if d not in reads and not ax.is_trivial(given.axes[d])}  # computed for each position
    free = {d for d, t in enumerate(given.axes) if (varies(t) and d not in listed) or d in rows}
    shape = tuple(None if d in free else t.size for d, t in enumerate(given.axes))
    fixed = tuple(d for d, t in enumerate(given.axes) if shape[d] is not None and ax.is_trivial(t))
    if isinstance(made, Const):  # only its shape is read
        return Entry(name, shape, None, fixed)
    if not isinstance(made, Action):
        return Entry(name, shape, CallAxes(reads, (), ids=ids), fixed)
    axes = made.walk().axes
    makes = tuple(d for d, t in enumerate(axes) if ax.is_length(t))
    channel, table = swapped_channel(axes)
    return Entry(name, shape, CallAxes(reads, makes, channel, table, ids), fixed)


def cut_to_length(traces: list[Trace], inference: Inference) -> list[tuple[str, int]]:
    """Axes of parameters, as (name, dimension), that a slice cuts to a length: learned positions, some unused."""
    found: dict[tuple[str, int], None] = {}
    for trace in traces:
        for call in trace.calls:
            source = trace.sources.get(call.given.name)
            if source is not None and source.kind != "input" and source.target in inference.parameters:
                for dim, term in enumerate(inference.parameters[source.target].walk().axes):
                    if isinstance(term, ax.Sum) and any(ax.is_length(p) and p.size > 1 for p in term.parts):
                        found[source.target, dim] = None
    return list(found)
