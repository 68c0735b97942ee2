"""Which layers of a model read the other strand, and how that strand's features are mapped back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from ..algebra import axis as ax
from ..algebra.action import Action
from ..algebra.opened import output_leaves
from ..errors import NeedsChoiceError
from ..graph.trace import Node, Ref
from ..measure.along_sequence import FOLLOWS, UNCLEAR, following
from ..measure.probe import Probe
from ..rules.registry import facts_of
from .conjoined import Merge
from .mixed import LAYERS, batch_axis, can_mix, mirrored_positions
from .stacked_runs import StackedRuns

Filter = Callable[[str, nn.Module], bool] | str | list[str] | tuple[str, ...] | None
"""Which layers mix: a function of path and module, or paths and patterns such as ``"tower.*"``; None for all."""


def layers_to_mix(runs: StackedRuns, chosen: Filter, merge: Merge) -> tuple[dict[str, Action], dict[str, str]]:
    """For each chosen layer, how the other strand's input is mapped back, or why it does not mix.

    Args:
        runs: the model, with its inputs and outputs read.
        chosen: which layers are asked for.
        merge: how the two readings of an output are merged.

    Raises:
        NeedsChoiceError: a pattern names no layer, or no layer is left.
    """
    layers = choose(runs.model, chosen)
    reader = _Reader(runs, layers, merge)
    mixed: dict[str, Action] = {}
    unmixed: dict[str, str] = {}
    for path, module in layers.items():
        found = reader.mapped_back(path, module)
        if isinstance(found, str):
            unmixed[path] = found
        else:
            mixed[path] = found
    if not mixed:
        raise NeedsChoiceError(
            "no layer is left to mix",
            got="; ".join(f"{p}: {why}" for p, why in unmixed.items()) or f"mix={chosen!r} selects none",
            why="a layer mixes if it is a stock convolution or linear layer behind another one",
            do='choose others with mix=, or use strategy="conjoined"',
        )
    return mixed, unmixed


class _Reader:
    """What layers read, recorded on copies of the model."""

    def __init__(self, runs: StackedRuns, layers: dict[str, nn.Module], merge: Merge) -> None:
        self.runs, self.layers, self.averages = runs, layers, merge in ("mean", "sum")
        self.call, self.other = self._recorded(1), self._recorded(2)
        self.measured: dict[str, list[list[str]]] | None = None

    def _recorded(self, seed: int) -> _Recording:
        """For one sequence, with other weights for each seed."""
        s = self.runs
        probe = Probe(s.model, s.example, s.specs, s.actions)
        probe.perturb(seed)
        return _record(probe, self.layers, probe.inputs(0))

    def mapped_back(self, path: str, module: nn.Module) -> Action | str:
        """How the other strand's input to a layer is mapped back, or why it does not mix."""
        calls = self.call.inputs[path]
        if not can_mix(module):
            return "its forward is not the stock one"
        if not calls:
            return "the forward does not call it"
        if all(torch.equal(a, b) for a, b in zip(calls, self.other.inputs[path], strict=True)):
            return "reads the sequence itself: mapped back, the other strand's is the same"
        if self.averages and all(_is_one_of(y, self.call.outputs) for y in self.call.results[path]):
            return "is an output: the other strand's reading is added to it anyway"
        actions = self._traced(path)
        if len(actions) != len(calls):
            actions = self._measured(path, calls)
        if any(a is None for a in actions):
            return "which axis of its input is the length could not be told"
        placed = [mirrored_positions(a) for a in actions if a is not None]
        if any(batch_axis(a) < 0 for a in placed):
            return "its input has no batch axis of its own"
        if any(_layout(a) != _layout(placed[0]) for a in placed):
            return "it is called in several places, whose inputs are laid out differently"
        return placed[0]

    def _traced(self, path: str) -> list[Action | None]:
        """What inference knows of a layer's inputs; nothing where they may lie behind a node that no rule takes."""
        inference, traced = self.runs.inference, self.runs.traced
        if inference is None or traced is None:
            return []
        found = [inference.values[0].get(n.args[0].name) for n in traced.nodes if _is_layer(n, path)]
        actions = [a if isinstance(a, Action) else None for a in found]
        along = [a is not None and any(ax.ends(t) is not None for t in a.axes) for a in actions]
        return actions if all(along) or not inference.problems else []

    def _measured(self, path: str, calls: list[Tensor]) -> list[Action | None]:
        if self.measured is None:
            probe = self.runs.probe
            given = iter(following(probe, lambda drawn: _flat(_record(probe, self.layers, drawn).inputs)))
            self.measured = {p: [next(given) for _ in found] for p, found in self.call.inputs.items()}
        return [self._as_action(v, x) for v, x in zip(self.measured[path], calls, strict=True)]

    def _as_action(self, verdicts: list[str], x: Tensor) -> Action | None:
        if UNCLEAR in verdicts or x.shape[0] != self.runs.batch:
            return None
        terms = [
            self.runs.positions(s) if v == FOLLOWS else ax.trivial(s) for s, v in zip(x.shape, verdicts, strict=True)
        ]
        return Action((ax.batch(x.shape[0]), *terms[1:]))


def choose(model: nn.Module, chosen: Filter) -> dict[str, nn.Module]:
    """The convolutions and linear layers a filter selects; without one, those whose weight is trained.

    Raises:
        NeedsChoiceError: a name or pattern fits no layer.
    """
    every = {p: m for p, m in model.named_modules() if isinstance(m, LAYERS)}
    if chosen is None:
        return {p: m for p, m in every.items() if _is_trained(m)}
    if callable(chosen):
        return {p: m for p, m in every.items() if chosen(p, m)}
    patterns = [chosen] if isinstance(chosen, str) else list(chosen)
    for pattern in patterns:
        if not any(fnmatchcase(p, pattern) for p in every):
            raise NeedsChoiceError(
                f"mix={pattern!r} names no convolution or linear layer",
                got=", ".join(every) or "none in this model",
                why="a layer is named by its path in the model; * stands for anything",
                do="name layers of the list above",
            )
    return {p: m for p, m in every.items() if any(fnmatchcase(p, pattern) for pattern in patterns)}


def _is_trained(module: nn.Module) -> bool:
    return any(p.requires_grad for name, p in module.named_parameters() if name.partition(".")[0] != "bias")


@dataclass(frozen=True)
class _Recording:
    """One call of a model: what each layer read and gave, in order of its calls, and the outputs."""

    inputs: dict[str, list[Tensor]]
    results: dict[str, list[Tensor]]
    outputs: list[Any]


def _record(probe: Probe, layers: dict[str, nn.Module], drawn: list[Any]) -> _Recording:
    inputs: dict[str, list[Tensor]] = {path: [] for path in layers}
    results: dict[str, list[Tensor]] = {path: [] for path in layers}

    def record(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> None:
            inputs[path].append((args[0] if args else next(iter(kwargs.values()))).detach().clone())
            results[path].append(result.detach().clone())

        return hook

    handles = [probe.model.get_submodule(path).register_forward_hook(record(path), with_kwargs=True) for path in layers]
    try:
        outputs = probe.outputs(drawn)
    finally:
        for handle in handles:
            handle.remove()
    return _Recording(inputs, results, output_leaves(outputs, loosely=True))


def _is_one_of(x: Tensor, outputs: list[Any]) -> bool:
    """Whether a result is an output, give or take its shape."""
    same_size = [y for y in outputs if isinstance(y, Tensor) and y.numel() == x.numel()]
    return any(torch.equal(x.flatten(), y.flatten()) for y in same_size)


def _flat(recorded: dict[str, list[Tensor]]) -> list[Tensor]:
    return [x for calls in recorded.values() for x in calls]


def _is_layer(node: Node, path: str) -> bool:
    return (
        facts_of(node.op).weight is not None
        and node.where.path == path
        and bool(node.args)
        and isinstance(node.args[0], Ref)
    )


def _layout(action: Action) -> list[Any]:
    """What `mixed.Cross` does to an input, comparable: dims that are flipped, and tables."""
    flips = [(d, ax.ends(t)) for d, t in enumerate(action.axes) if ax.ends(t) is not None]
    tables = [
        (d, ax.indices(t).tolist()) for d, t in enumerate(action.axes) if ax.ends(t) is None and not ax.is_trivial(t)
    ]
    return [len(action.axes), flips, tables, batch_axis(action)]
