"""Which channels answer alike on the two strands: activations on x and on its reverse complement, compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...algebra.action import Action
from ...algebra.axis import Axis, Var
from ...graph.run import interpret
from ...graph.sandbox import mode, owner
from ...graph.trace import Trace
from ...rules.registry import facts_of
from .sites import Likeness, Site, is_direction, sites_of

ROWS = 2048
"""Most rows of one site that are taken from one batch."""

SITES = 6
"""Most sites of one variable that are looked at."""

Sighting = tuple[Site, Likeness]
"""A site, and what was gathered there."""

Batch = tuple[list[Any], list[Any]]
"""The input leaves of one call, and their reverse complement."""


class Evidence:
    """Tables of similarities for the sites of variables.

    Args:
        trace: of the eval-mode forward.
        values: the actions of its results, variables open.
        variables: those that partners are looked for.
    """

    def __init__(self, trace: Trace, values: Mapping[str, Action], variables: Iterable[Var]) -> None:
        self.trace = trace
        self.sites: dict[str, list[Sighting]] = {}
        for name, site in _chosen(trace, values, list(variables)):
            self.sites.setdefault(name, []).append((site, Likeness(math.prod(site.sizes))))

    def gather(self, model: nn.Module, batches: Iterable[Batch]) -> None:
        """Run the trace with a model's weights on both strands of each batch."""
        sources = {n: _value(model, s.kind, s.target, s.value) for n, s in self.trace.sources.items()}
        with torch.no_grad(), mode(model, False):
            for ours, theirs in batches:
                seen: dict[tuple[str, int], Tensor] = {}
                self._run(model, sources, ours, lambda at, site, y, seen=seen: seen.__setitem__(at, _rows(site, y)))
                self._run(model, sources, theirs, lambda at, site, y, seen=seen: self._add(at, seen[at], site, y))

    def _add(self, at: tuple[str, int], ours: Tensor, site: Site, y: Tensor) -> None:
        name, place = at
        self.sites[name][place][1].add(ours, site.rows(y, ROWS, mirrored=True))

    def _run(self, model: nn.Module, sources: Mapping[str, Any], given: Sequence[Any], see: Callable[..., Any]) -> None:
        inputs = iter(given)
        values = {n: next(inputs) if s.kind == "input" else sources[n] for n, s in self.trace.sources.items()}
        values = {n: v.clone() if isinstance(v, Tensor) and n in self.trace.written else v for n, v in values.items()}

        def each(node: Any, result: Any) -> None:
            for place, (site, _) in enumerate(self.sites.get(node.name, ())):
                see((node.name, place), site, result)

        interpret(self.trace, values, each, model)

    def tables(self, *keys: Axis) -> list[Sighting]:
        """The sites that hold some variables, with the likeness of their entries."""
        found = [pair for group in self.sites.values() for pair in group]
        return [seen for seen in found if all(any(_is(k, f) for f in seen[0].keys) for k in keys)]


def _is(a: Axis, b: Axis) -> bool:
    return a is b or (is_direction(a) and is_direction(b))


def _rows(site: Site, y: Tensor) -> Tensor:
    return site.rows(y, ROWS).clone()


def _value(model: nn.Module, kind: str, name: str, default: Any) -> Any:
    """What a model has for a source of the trace."""
    if kind in ("parameter", "buffer"):
        module, leaf = owner(model, name)
        return getattr(module, leaf).detach()
    return default


def _chosen(trace: Trace, values: Mapping[str, Action], variables: Sequence[Var]) -> list[tuple[str, Site]]:
    """For each variable a few sites: results of layers with weights where there are some, spread over the depth."""
    made = {n.name for n in trace.nodes if facts_of(n.op).weight is not None}
    every = [(n.name, s) for n in trace.nodes if n.name in values for s in sites_of(values[n.name])]
    found: dict[tuple[str, Site], None] = {}
    for v in variables:
        mine = [at for at in every if v in at[1].keys]
        first = [at for at in mine if at[0] in made] or mine
        alone = [at for at in first if len(at[1].keys) == 1]
        for group in (alone, [at for at in first if at not in alone]):
            step = max(1, math.ceil(len(group) / SITES))
            found.update(dict.fromkeys(group[::step]))
    return list(found)


def contracted(table: Tensor, site: Site, kept: Sequence[Axis], known: Mapping[Axis, Tensor]) -> Tensor:
    """The similarities of the entries of some keys, averaged over the others.

    Of another key whose partners are known, entries are compared with those of their partners. Of one whose partners
    are not known, each entry is compared with the one it fits best.

    Args:
        table: of all keys of the site.
        site: the site.
        kept: keys that stay, in the order of the result.
        known: partners of other keys.

    Returns: float64, (entries of the kept keys, the same).
    """
    others = [k for k in site.keys if not any(_is(k, f) for f in kept)]
    partners = [_partners(k, known) for k in others]
    sure = [k for k, p in zip(others, partners, strict=True) if p is not None]
    open_ = [k for k, p in zip(others, partners, strict=True) if p is None]
    order = [next(i for i, f in enumerate(site.keys) if _is(f, k)) for k in (*kept, *sure, *open_)]
    n = len(site.keys)
    t = table.reshape(*site.sizes, *site.sizes).permute(*order, *(i + n for i in order))
    sizes = [math.prod(k.size for k in group) for group in (kept, sure, open_)]
    t = t.reshape(*sizes, *sizes)
    image = torch.zeros(1, dtype=torch.int64)
    for k in sure:
        image = (image[:, None] * k.size + _partners(k, known)).flatten()  # type: ignore[operator]
    t = t.index_select(4, image).diagonal(dim1=1, dim2=4).mean(-1)
    return (t.amax(3).mean(1) + t.amax(1).mean(2)) / 2


def _partners(key: Axis, known: Mapping[Axis, Tensor]) -> Tensor | None:
    return torch.tensor([1, 0]) if is_direction(key) else known.get(key)
