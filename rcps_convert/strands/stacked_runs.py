"""What a model takes and returns when both strands are stacked on its batch axis.

The model is run on a copy, on one strand and on both. Which axes of an output are lengths is asked
of the trace where there is one, else measured.
"""

from __future__ import annotations

from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from .._torch import pytree
from ..algebra import axis as ax
from ..algebra.action import Action
from ..algebra.arguments import Example, call_arguments, leaves
from ..algebra.nesting import input_actions, leaf_names, output_fields, output_specs, structure_names
from ..algebra.opened import opened, output_leaves, require_dense
from ..algebra.specs import Invariant, Spec
from ..errors import BreaksSymmetryError, ConversionError, NeedsChoiceError, NoRuleError, TraceError, Where, first_line
from ..graph.export import does_not_run, trace
from ..graph.trace import Trace
from ..infer.inference import Inference
from ..infer.outputs import AUTO, auto_words
from ..infer.solve import infer
from ..measure.along_sequence import FIXED, FOLLOWS, UNCLEAR, following, growing, lengthened, one_sided
from ..measure.probe import Probe
from .mixed import mirrored_positions


class StackedRuns:
    """How a model's inputs are stacked and its outputs taken apart.

    Args:
        model: the model; not touched.
        example: what it is called with.
        lines: lines of words, one per input and one per output, are appended to its two lists.

    Attributes:
        specs, actions: per input leaf.
        stacked: the actions of the leaves that are stacked; None for those that are handed over as they are.
        batch: samples of the example.
        probe: a copy of the model, with other weights.
        names, fields: of the output leaves; the latter where all are known by key.
        values: output leaves for one random input.
        wanted: the specs of the output leaves.
        outputs: the actions of those that have an entry per sample; None for the others.
    """

    def __init__(self, model: nn.Module, example: Example, lines: tuple[list[str], list[str]]) -> None:
        self.model, self.example, self.lines = model, example, lines

    # --- inputs ---

    def read_inputs(self, inputs: Any, layout: Any) -> None:
        """Specs and actions of the inputs; what is stacked and what is handed over as it is."""
        self.specs, self.actions = input_actions(self.example, inputs, layout)
        self.stacked = list(self.actions)
        names, values = leaf_names(self.example), leaves(self.example)
        sizes = set()
        for name, value, spec, action in zip(names, values, self.specs, self.actions, strict=True):
            if not isinstance(value, Tensor) or action is None:
                continue
            self.lines[0].append(f"{name}: {spec}, shape {tuple(value.shape)}, {action}")
            if not isinstance(spec, Invariant):
                _require_batch(name, value, action)
                sizes.add(value.shape[0])
        if len(sizes) != 1:
            raise NoRuleError(
                f"the inputs have {len(sizes)} batch sizes: {sorted(sizes)}" if sizes else "no input is a sequence",
                why="both strands of every sequence are stacked on the batch axis",
                do="give sequences of one batch size, each as an input of its own",
            )
        (self.batch,) = sizes
        for i, (value, spec) in enumerate(zip(values, self.specs, strict=True)):
            if isinstance(spec, Invariant) and (value.dim() == 0 or value.shape[0] != self.batch):
                self.stacked[i] = None  # one for all samples

    # --- outputs ---

    def read_outputs(self, outputs: Any, post_hoc: bool) -> None:
        """Run the model on one strand and on both stacked; find the outputs' actions."""
        try:
            self.probe = Probe(self.model, self.example, self.specs, self.actions)
            one = self.probe.outputs(self.probe.inputs(0))
        except ConversionError:
            raise
        except Exception as reason:  # the model may raise anything
            raise does_not_run(reason) from reason
        both = self._stacked_run()
        one, both = opened(one, loosely=True), opened(both, loosely=True)
        self.names, self.fields = structure_names(one), output_fields(one)
        self.kinds = _kinds(one, both, self.names, self.batch)
        if not post_hoc:
            self._same_in_training(one)
        self.probe.perturb(0)
        self.values = pytree.tree_leaves(one)
        self.wanted = output_specs(outputs, one)
        self.outputs = self._output_actions(self.wanted)

    def _stacked_run(self) -> Any:
        try:
            return self.probe.outputs(self._stacked_inputs(0))
        except Exception as reason:  # the model may raise anything
            raise _fixed_batch(self.batch, first_line(reason)) from reason

    def _stacked_inputs(self, seed: int) -> list[Any]:
        drawn = self.probe.inputs(seed)
        other = self.probe.mirrored(drawn)
        triples = zip(drawn, other, self.stacked, strict=True)
        apart = [(x, y) if a is not None and isinstance(x, Tensor) else (x, None) for x, y, a in triples]
        return [x if y is None else torch.stack([x, y], 1).flatten(0, 1) for x, y in apart]

    def _same_in_training(self, one: Any) -> None:
        try:
            trained = self.probe.outputs(self._stacked_inputs(0), training=True)
        except Exception:  # verification tells what train mode does
            return
        trained = opened(trained, loosely=True)
        if pytree.tree_structure(trained) != pytree.tree_structure(one):
            raise NoRuleError(
                "the model returns other outputs in train mode",
                got=f"{len(pytree.tree_leaves(trained))} in train mode, {len(pytree.tree_leaves(one))} in eval mode",
                why="each output's readings are merged by what it is in eval mode",
                do="return the same outputs in both modes, or merge in eval mode only: post_hoc=True",
            )

    def _output_actions(self, wanted: list[Spec | str]) -> list[Action | None]:
        found: list[Action | None] = []
        for i, (value, spec, batched) in enumerate(zip(self.values, wanted, self.kinds, strict=True)):
            if not batched:
                found.append(None)
                continue
            shape, name = tuple(value.shape), self.names[i]
            action = self._auto(i, value) if isinstance(spec, str) else _placed(spec, shape, name)
            taken = str(spec) if spec != AUTO else auto_words(action)
            self.lines[1].append(f"{name}: {taken}, shape {shape}, {action.walk()}")
            found.append(action)
        return found

    def _auto(self, index: int, value: Tensor) -> Action:
        """What an output is; axes of one entry that grow with the length are looked at on a longer example."""
        action = self._auto_on_example(index, value)
        single = [d for d, n in enumerate(value.shape) if d and n == 1]
        grown = [d for d in single if d in self._growing[index]]
        longer = lengthened(self.probe, index, grown) if grown else None
        found = following(longer, partial(_leaves_of, longer))[index] if longer is not None else [UNCLEAR] * value.dim()
        for d in grown:
            if found[d] == UNCLEAR:
                raise self._unclear(index, tuple(value.shape), d, "it has one entry on the example")
        axes = [self._term(t.size, found[d]) if d in grown else t for d, t in enumerate(action.axes)]
        return Action(tuple(axes))

    def _term(self, size: int, verdict: str) -> ax.Axis:
        """What reverse complement does to an axis that follows the sequence, or does not."""
        return self.positions(size) if verdict == FOLLOWS else ax.trivial(size)

    def _unclear(self, index: int, shape: tuple[int, ...], dim: int, because: str) -> NeedsChoiceError:
        return NeedsChoiceError(
            f"output {self.names[index]} of shape {shape}: is axis {dim} a length?",
            why=f"{because}, and running the model does not tell whether this axis follows the sequence",
            do='say what the output is: outputs="invariant", tracks such as "+-", or Tracks(".", layout="n c l")',
        )

    def _auto_on_example(self, index: int, value: Tensor) -> Action:
        """What an output is, from the trace where there is one, else measured.

        What is behind a node that no rule takes is not known, so there only the lengths of the trace are.
        """
        inference = self.inference
        traced = inference.outputs[index] if inference and index < len(inference.outputs) else None
        if inference is None or traced is None or traced.shape != tuple(value.shape):
            return self._measured_output(index, tuple(value.shape))
        action = _unstranded(traced.walk(), self.names[index])
        if not inference.problems:
            return action
        known = {d for d, t in enumerate(action.axes) if ax.ends(t) is not None}
        return self._measured_output(index, tuple(value.shape), frozenset(known))

    def _measured_output(self, index: int, shape: tuple[int, ...], known: frozenset[int] = frozenset()) -> Action:
        verdicts = [FOLLOWS if d in known else v for d, v in enumerate(self._verdicts[index])]
        lengths = {x.shape[d] for x, a in self._sequences() for d, t in enumerate(a.axes) if ax.ends(t) is not None}
        still = [d for d, v in enumerate(verdicts) if d and shape[d] > 1 and v == FIXED]
        along = self._growing[index] if still else frozenset()
        doubtful = [d for d, v in enumerate(verdicts) if v == UNCLEAR]
        doubtful += [d for d in still if shape[d] in lengths or d in along]
        if doubtful:
            raise self._unclear(index, shape, doubtful[0], "the model cannot be traced")
        terms = [*map(self._term, shape, verdicts)]
        return Action((ax.batch(shape[0]), *terms[1:]))

    @cached_property
    def _verdicts(self) -> list[list[str]]:
        return following(self.probe, partial(_leaves_of, self.probe))

    @cached_property
    def _growing(self) -> list[frozenset[int]]:
        return growing(self.probe)

    def one_sided_outputs(self) -> list[str]:
        """What the user should know of outputs each entry of which answers to one side of its position only."""
        sides = one_sided(self.probe, self.outputs, partial(_leaves_of, self.probe))
        return [_one_sided_note(name, side) for name, side in zip(self.names, sides, strict=True) if side]

    def positions(self, size: int) -> ax.Axis:
        """The action on an axis of a size that runs along the sequence: that of an input, with ends that stay."""
        terms = [t for _, a in self._sequences() for t in a.axes if t.size == size and ax.ends(t) is not None]
        return next((t for t in terms if not ax.is_length(t)), ax.length(size))

    def _sequences(self) -> list[tuple[Tensor, Action]]:
        pairs = zip(leaves(self.example), self.actions, strict=True)
        return [(x, a) for x, a in pairs if isinstance(x, Tensor) and a is not None]

    # --- the trace, where it can be had ---

    @cached_property
    def traced(self) -> Trace | None:
        """The eval-mode trace; None where the model cannot be traced."""
        try:
            return trace(self.model, self.example)
        except TraceError:
            return None

    @cached_property
    def inference(self) -> Inference | None:
        """What each tensor of the trace is, as far as the rules know; its problems do not matter here."""
        if self.traced is None:
            return None
        try:
            return infer([self.traced], self.actions, [AUTO] * len(self.traced.outputs), restarts=0)
        except Exception:  # a graph that inference cannot take is measured, like one that cannot be had
            return None


# --- facts about inputs and outputs -------------------------------------------------------------


def _leaves_of(probe: Probe, drawn: list[Any]) -> list[Any]:
    """The output leaves for input leaves."""
    return output_leaves(probe.outputs(drawn), loosely=True)


def _require_batch(name: str, value: Tensor, action: Action) -> None:
    role = ax.role(action.axes[0]) if action.axes else None
    if role is None or role.name != "batch":
        raise NoRuleError(
            f"input {name} of shape {tuple(value.shape)} does not have the batch in front",
            got=str(action),
            why="both strands are stacked on the first axis, which must be the batch",
            do="wrap the model in one that takes (N, ...) and moves the axes, or add a batch axis",
        )


def _one_sided_note(name: str, side: str) -> str:
    other = "before" if side == "later" else "after"
    return (
        f"output {name}: entry i does not depend on {side} positions, and in the other strand's reading not on those "
        f"{other} it. The mean of the two is right where both speak of position i. If entry i predicts a neighbouring "
        "base, the readings predict the neighbours on opposite sides, and their mean is of two different bases: shift "
        'the output by one position in forward, so that entry i predicts base i, and say outputs="ACGT" if it has a '
        "channel per base; or use the plain model"
    )


def _fixed_batch(batch: int, got: str) -> BreaksSymmetryError:
    return BreaksSymmetryError(
        f"the model does not run on {2 * batch} samples, only on the {batch} of the example",
        got=got,
        why="both strands are stacked on the batch axis, so the model sees twice the samples",
        do="write the batch size as x.shape[0] in its forward",
    )


def _kinds(one: Any, both: Any, names: list[str], batch: int) -> list[bool]:
    """For each output leaf, whether it has an entry per sample; what is no tensor or has no batch is returned as is."""
    found = []
    ones, boths = pytree.tree_leaves(one), pytree.tree_leaves(both)
    if len(ones) != len(boths):
        raise _fixed_batch(batch, f"{len(ones)} outputs for {batch} samples, {len(boths)} for {2 * batch}")
    for name, x, y in zip(names, ones, boths, strict=True):
        require_dense(x)
        if not isinstance(x, Tensor):
            _require_plain(name, x)
            found.append(False)
            continue
        if not isinstance(y, Tensor):
            raise _only_sometimes(name, y)
        if x.shape == y.shape and (x.dim() == 0 or x.shape[0] != batch):
            found.append(False)
            continue
        if (x.shape[0], y.shape[0]) != (batch, 2 * batch) or x.shape[1:] != y.shape[1:]:
            raise _output_without_batch(name, x, y, batch)
        found.append(True)
    return found


def _output_without_batch(name: str, x: Tensor, y: Tensor, batch: int) -> ConversionError:
    got = f"output {name} is {tuple(x.shape)} for {batch} samples, {tuple(y.shape)} for {2 * batch}"
    if x.shape == y.shape:
        return _fixed_batch(batch, got)
    return NoRuleError(
        f"output {name} does not have the batch in front",
        got=got,
        why="the two strands' readings are taken apart on the first axis, which must be the batch",
        do="return tensors of shape (N, ...)",
    )


def _only_sometimes(name: str, value: Any) -> NoRuleError:
    return NoRuleError(
        f"output {name} is a tensor in one call, and a {type(value).__name__} in another",
        why="the merged readings are not equivariant where one strand's is not there",
        do="return the same outputs for every sequence",
    )


def _require_plain(name: str, value: Any) -> None:
    if value is not None and not isinstance(value, (bool, int, float, complex, str)):
        raise NoRuleError(
            f"output {name} is a {type(value).__name__}",
            why="the tensors in it are not seen, so their readings could not be merged",
            do="return tensors, tuples, lists or dicts, or register the class as a pytree of torch",
        )


def _placed(spec: Spec, shape: tuple[int, ...], name: str) -> Action:
    try:
        return spec.action(shape)
    except NeedsChoiceError as error:
        error.where = Where(f"output {name}")
        raise


def _unstranded(action: Action, name: str) -> Action:
    """A traced output as `"auto"` reads it: lengths reversed, everything else fixed."""
    unclear = [d for d, t in enumerate(action.axes) if not (ax.is_trivial(t) or ax.ends(t) is not None)]
    if unclear:
        raise NeedsChoiceError(
            f"output {name} has an axis {unclear[0]} that reverse complement permutes: {action}",
            why='"auto" takes outputs for invariant or for unstranded profiles',
            do='say what it is in outputs=: an alphabet, tracks such as "+-", or Tracks("+-", layout="n l c")',
        )
    return Action(tuple(_lengths(t) for t in action.axes))


def _lengths(term: ax.Axis) -> ax.Axis:
    return mirrored_positions(Action((term,))).axes[0]


def skeleton(example: Example, stacked: list[Action | None]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of the example's shapes and types, which take no memory; with two samples at least."""
    spec = pytree.tree_structure(call_arguments(example))
    values = []
    for leaf, action in zip(leaves(example), stacked, strict=True):
        if isinstance(leaf, Tensor):
            shape = list(leaf.shape)
            if action is not None:
                shape[0] = max(2, shape[0])
            leaf = torch.zeros((), dtype=leaf.dtype).expand(shape)
        values.append(leaf)
    args, kwargs = pytree.tree_unflatten(values, spec)
    return args, kwargs
