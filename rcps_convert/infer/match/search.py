"""The search for a model's pairs: the evidence is gathered, partners are found, and the reordered model is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from ...algebra.action import Action, act
from ...algebra.arguments import Example
from ...algebra.opened import output_leaves
from ...algebra.specs import Spec
from ...graph.sandbox import owner, undisturbed_rng
from ...graph.trace import Node, Ref, Trace
from ...measure.change import repetitions
from ...measure.law import relative_change
from ...measure.probe import Probe
from ...rules.registry import facts_of
from ..inference import Inference
from ..leaving_out import plain_copy
from .evidence import Evidence
from .matching import Matcher, Matching, safe
from .refit import Refit
from .reorder import Moves, reorder
from .sequences import given_batches, random_batches
from .variables import Variables

BUDGET = 5e9
"""Multiplications that running the model on one strand may take; with sequences of the user's `GIVEN` times as many."""

STEP = 5e5
"""Multiplications for which the time is that of calling one operator."""

SAMPLES = 256
"""Most samples that are looked at; of the user's `GIVEN` times as many."""

GIVEN = 4

MEMORY, LIVE = 1e9, 64
"""Bytes that the results of all batches may take while layers are refitted, and bytes for each entry of the largest."""

LEAST = 4
"""Fewest batches."""

UNCHANGED = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Largest relative change of outputs that is taken for rounding."""


@dataclass
class Search:
    """What is needed to find the pairs of a model, or of another one of its architecture.

    Attributes:
        trace: of the eval-mode forward.
        found: the solution.
        variables: where open variables stand.
        example, specs, actions: as in `verify`.
        calls: input leaves of each call of the user's sequences; None for random DNA.
    """

    trace: Trace
    found: Inference
    variables: Variables
    example: Example
    specs: list[Spec | None]
    actions: list[Action | None]
    calls: list[list[Any]] | None = None
    marks: list[float] = field(default_factory=list)

    @staticmethod
    def of(
        trace: Trace,
        found: Inference,
        example: Example,
        specs: list[Spec | None],
        actions: list[Action | None],
        calls: list[list[Any]] | None,
        inside: dict[str, Action],
    ) -> Search:
        """The search in a solution; `inside` has the actions of parameters that it left out."""
        return Search(trace, found, Variables.of(found, inside), example, specs, actions, calls)

    def find(self, model: nn.Module) -> Matching:
        """The pairs of a model, and the reordering that leaves its function as it is.

        Args:
            model: of the traced architecture, not converted; not touched.
        """
        with undisturbed_rng():
            plain = plain_copy(model)
            probe = Probe(plain, self.example, self.specs, self.actions, own=True)
            evidence = Evidence(self.trace, self.found.open_terms.values, self.variables.wanted)
            batches = random_batches(probe) if self.calls is None else given_batches(self.calls, probe)
            evidence.gather(plain, islice(batches, self._count(probe.batch or 1)))
            matching = Matcher(self.variables, evidence, plain).run()
            self.marks = self._marks(model)
            return safe(matching, _Same(model, self))

    def refit(self, model: nn.Module) -> int:
        """Refit the layers of a reordered model on the user's sequences, in place; returns how many were."""
        refit = Refit(self.trace, self.found)
        if self.calls is None or not refit.possible:
            return 0
        with undisturbed_rng():
            probe = Probe(model, self.example, self.specs, self.actions, own=True)
            largest = max((n.value.numel() for n in self.trace.nodes if isinstance(n.value, Tensor)), default=1)
            most = min(self._count(probe.batch or 1), int(MEMORY / (LIVE * largest)))
            refit.run(model, islice(given_batches(self.calls, probe), max(LEAST, most)))
        return refit.count

    def agreement(self, model: nn.Module, converted: nn.Module, outputs: Sequence[Action | None]) -> list[float]:
        """Per output, the correlation of a converted model's with the mean of both readings of the model."""
        with undisturbed_rng():
            before, after = (Probe(m, self.example, self.specs, self.actions, own=True) for m in (model, converted))
            batches = random_batches(before) if self.calls is None else given_batches(self.calls, before)
            seen: list[list[tuple[Tensor, Tensor]]] = []
            for ours, theirs in islice(batches, max(LEAST, self._count(before.batch or 1) // 8)):
                given = ((before, ours), (before, theirs), (after, ours))
                seen.append(_compared([output_leaves(probe.outputs(x)) for probe, x in given], outputs))
        return [_correlation(pairs) for pairs in zip(*seen, strict=True)]

    def fits(self, model: nn.Module) -> bool:
        """Whether a model has the weights of the one that was searched last."""
        return self._marks(model) == self.marks

    def _marks(self, model: nn.Module) -> list[float]:
        held = (getattr(*owner(model, name)) for name in self.variables.carriers)
        values = [v.detach().double() for v in held if isinstance(v, Tensor)]
        return [float(n) for v in values for n in (v.sum(), v.square().sum())]

    def _count(self, batch: int) -> int:
        work = sum(map(self._work, self.trace.nodes))
        more = 1 if self.calls is None else GIVEN
        return max(LEAST, min(-(-SAMPLES * more // batch), int(BUDGET * more / max(1.0, work))))

    def _work(self, node: Node) -> float:
        """Multiplications of a node."""
        at = facts_of(node.op).weight
        weight = node.args[at] if at is not None else None
        source = self.trace.sources.get(weight.name) if isinstance(weight, Ref) else None
        made = node.value.numel() if isinstance(node.value, Tensor) else 0
        each = source.value.numel() / max(1, source.value.shape[0]) if source is not None else 1
        return STEP + made * each


def _compared(readings: list[list[Any]], outputs: Sequence[Action | None]) -> list[tuple[Tensor, Tensor]]:
    """For each output of numbers the mean of both readings, and what the converted model gives: rows x channels."""
    found = []
    for one, other, now, action in zip(*readings, outputs, strict=False):
        if isinstance(one, Tensor) and one.is_floating_point() and action is not None:
            mean = (one + act(action.walk(), other)) / 2
            found.append((repetitions(mean, action), repetitions(now, action)))
    return found


def _correlation(pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Of two tables that come in parts, each channel about its own mean."""
    a, b = (torch.cat([p[i].double() for p in pairs]) for i in (0, 1))
    a, b = a - a.mean(0), b - b.mean(0)
    return float((a * b).sum() / (a.norm() * b.norm()).clamp(min=1e-300))


class _Same:
    """Whether a model that is reordered computes the same as before, measured on random inputs.

    Args:
        model: not touched.
        search: has its variables and inputs.
    """

    def __init__(self, model: nn.Module, search: Search) -> None:
        self.probe = Probe(model, search.example, search.specs, search.actions)
        self.variables = search.variables
        self.drawn = self.probe.inputs(0)
        self.before = self._outputs()

    def _outputs(self) -> list[Tensor]:
        return [y for y in output_leaves(self.probe.outputs(self.drawn)) if isinstance(y, Tensor)]

    def __call__(self, moves: Moves) -> bool:
        """Whether the outputs stay as they are, but for rounding."""
        held = {name: getattr(*owner(self.probe.model, name)) for name in self.variables.carriers}
        kept = {name: v.detach().clone() for name, v in held.items() if isinstance(v, Tensor)}
        reorder(self.probe.model, moves, self.variables.carriers, self.variables.copy)
        try:
            after = self._outputs()
        finally:
            with torch.no_grad():
                for name, value in kept.items():
                    held[name].copy_(value)
        limit = UNCHANGED[self.probe.dtype]
        return all(relative_change(a, b) <= limit for a, b in zip(self.before, after, strict=True) if a.numel())
