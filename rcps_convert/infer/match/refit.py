"""Weights by least squares: each tied layer answers as the trained one does on average over both strands.

The mean of two weights that are only nearly alike is not the tied weight that serves best. Layer by layer, in the
order of the trace, the tied layer reads what the tied layers before it give, and is to give the mean of the trained
layer's two readings. Both obey the law, so the best linear layer does too, and it has a closed form. No labels.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..._torch import pytree
from ...algebra import axis as ax
from ...algebra.action import Action, act
from ...graph.closed_modules import CLOSED
from ...graph.sandbox import mode, owner
from ...graph.trace import Node, Ref, Trace
from ...rules.registry import facts_of
from ..first_failure import Reanchoring
from ..inference import Inference
from .evidence import Batch
from .normal import Normal, windows

Env = dict[str, Any]
"""Results of nodes by name, for one batch on one strand."""


@dataclass(frozen=True)
class Layer:
    """A node that applies a weight of its own.

    Attributes:
        given, weight, bias: names of what it reads.
        settings: of a convolution: stride, padding and dilation; None for a dense layer.
    """

    given: str
    weight: str
    bias: str | None
    settings: tuple[Any, ...] | None


class Refit:
    """Refits the layers of a model that is reordered and not tied yet.

    Args:
        trace: of the eval-mode forward.
        found: the solution.
    """

    def __init__(self, trace: Trace, found: Inference) -> None:
        self.trace, self.found = trace, found
        self.layers = {n.name: layer for n in trace.nodes if (layer := self._layer(n)) is not None}
        self.last = {r: n.name for n in trace.nodes for r in n.refs()}
        self.shown = {o.name for o in trace.outputs if isinstance(o, Ref)}
        self.runs = Reanchoring(found.values[0], found.anchors[0])
        self.count = 0

    @property
    def possible(self) -> bool:
        """Whether the trace shows all there is, and has a layer to refit."""
        return bool(self.layers) and all(n.op is not CLOSED for n in self.trace.nodes)

    def run(self, model: nn.Module, batches: Iterable[Batch]) -> None:
        """Refit the layers of a model, in place.

        Args:
            model: reordered, not tied.
            batches: inputs, as large as the example's, on both strands.
        """
        self.state = [self._held(model), self._held(model)]
        self._tie(self.state[1])
        envs = [[[self._inputs(x), self._inputs(x)] for x in both] for both in batches]
        with torch.no_grad(), mode(model, False):
            for node in self.trace.nodes:
                self._step(node, envs)
            for name, source in self.trace.sources.items():
                if source.kind in ("parameter", "buffer") and isinstance(self.state[1][name], Tensor):
                    getattr(*owner(model, source.target)).copy_(self.state[1][name])

    # --- values ---

    def _held(self, model: nn.Module) -> Env:
        """The values of the sources that are no inputs."""
        held = {}
        for name, s in self.trace.sources.items():
            own = s.kind in ("parameter", "buffer")
            value = getattr(*owner(model, s.target)) if own else s.value
            held[name] = value.detach().clone() if isinstance(value, Tensor) else value
        return {n: v for n, v in held.items() if self.trace.sources[n].kind != "input"}

    def _inputs(self, x: Sequence[Any]) -> Env:
        names = [n for n, s in self.trace.sources.items() if s.kind == "input"]
        return {n: v.clone() if isinstance(v, Tensor) else v for n, v in zip(names, x, strict=True)}

    def _tie(self, state: Env) -> None:
        """Make every weight and statistic what projecting makes it."""
        by_target = {s.target: n for n, s in self.trace.sources.items() if s.kind in ("parameter", "buffer")}
        for target, action in {**self.found.parameters, **self.found.statistics}.items():
            name, original = by_target.get(target), self.found.mirrors.originals.get(target)
            if name is None or (original is None and self.found.mirrors.partner(target) is not None):
                continue
            other = by_target[original] if original is not None else name
            mean = (state[name] + act(action.walk(), state[other])) / 2
            state[other] = act(action.walk(), mean)
            state[name] = mean

    # --- one node, over all batches ---

    def _step(self, node: Node, envs: list[list[list[Env]]]) -> None:
        for both in envs:
            for strand in both:
                strand[0][node.name] = self._result(node, strand[0], self.state[0], None)
        if node.name in self.layers:
            self._fit(node, self.layers[node.name], envs)
        self._recalibrate(node, envs)
        for both in envs:
            for strand in both:
                strand[1][node.name] = self._result(node, strand[1], self.state[1], self.runs)
                for ref in {*node.refs()} & strand[0].keys():
                    if self.last[ref] == node.name and ref not in self.shown:
                        strand[0].pop(ref)
                        strand[1].pop(ref)

    def _result(self, node: Node, env: Env, state: Env, run: Reanchoring | None) -> Any:
        def fill(leaf: Any) -> Any:
            if not isinstance(leaf, Ref):
                return leaf
            return env[leaf.name] if leaf.name in env else state[leaf.name]

        args, kwargs = pytree.tree_map(fill, (node.args, node.kwargs))
        return node.op(*args, **kwargs) if run is None or node.op is operator.getitem else run(node, args, kwargs)

    def _recalibrate(self, node: Node, envs: list[list[list[Env]]]) -> None:
        """The running statistics of a norm over samples become those of what it reads now."""
        facts = facts_of(node.op)
        refs = [node.args[i] for i in facts.statistics]
        if not facts.over_samples or not all(isinstance(r, Ref) for r in refs):
            return
        given = [strand[1][node.args[0].name] for both in envs for strand in both]
        values = torch.cat([x.transpose(0, 1).flatten(1) for x in given], 1).double()
        for ref, value in zip(refs, (values.mean(1), values.var(1)), strict=True):
            self.state[1][ref.name] = value.to(self.state[1][ref.name])

    # --- a layer ---

    def _layer(self, node: Node) -> Layer | None:
        """What a node is as a layer with a weight of its own that may be refitted."""
        facts, known = facts_of(node.op), self.found.values[0].get(node.name)
        if facts.weight != 1 or not isinstance(known, Action) or node.kwargs:
            return None
        given, weight, bias, settings = *node.args[:2], (*node.args, None)[2], node.args[3:]
        if not all(self._own(r) for r in (weight, bias) if r is not None) or given.name in self.trace.sources:
            return None
        edges = self.found.anchors[0].get(node.name, ())
        sampled = any((role := ax.role(t)) is not None and role.name == "batch" for t in known.axes)
        grouped = len(settings) > 3 and settings[3] != 1
        if not sampled or grouped or not all(a.aligned for a in edges):
            return None
        size = self.trace.sources[weight.name].value.dim()
        slides = facts.filters == 0 and size in (3, 4) and len(known.axes) == size
        if not slides and (facts.filters is not None or size != 2):
            return None
        return Layer(given.name, weight.name, bias and bias.name, tuple(settings[:3]) if slides else None)

    def _own(self, ref: Any) -> bool:
        """Whether a weight is a parameter that one node reads, once."""
        source = self.trace.sources.get(ref.name) if isinstance(ref, Ref) else None
        if source is None or source.kind != "parameter" or self.found.mirrors.partner(source.target) is not None:
            return False
        readers = Counter(r for n in self.trace.nodes for r in n.refs())
        return sum(readers[n] for n, s in self.trace.sources.items() if s.target == source.target) == 1

    def _fit(self, node: Node, layer: Layer, envs: list[list[list[Env]]]) -> None:
        state, action = self.state[1], self.found.values[0][node.name].walk()
        weight = state[layer.weight]
        flat = weight.flatten(1)
        normal = Normal(flat.shape[1], len(flat), sum(map(len, envs)), layer.bias is not None)
        if not normal.small:
            return
        for both in envs:
            for strand, other in zip(both, reversed(both), strict=True):
                wanted = (strand[0][node.name] + act(action, other[0][node.name])) / 2
                channel = -1 if layer.settings is None else 1
                rows = windows(strand[1][layer.given], weight, layer.settings)
                normal.add(rows, wanted.movedim(channel, -1).flatten(0, -2))
        solved = normal.solve(flat, state[layer.bias] if layer.bias else None)
        if solved is None:
            return
        self.count += 1
        for name, value in zip((layer.weight, layer.bias), solved, strict=True):
            if name is not None and value is not None:
                value = value.reshape(state[name].shape).to(state[name])
                rho = self.found.parameters[self.trace.sources[name].target].walk()
                state[name] = (value + act(rho, value)) / 2
