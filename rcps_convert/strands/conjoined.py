"""The conjoined reading: one call of the untouched model on both strands, and the two answers merged.

The model gets x and its reverse complement stacked on the batch axis, sample by sample: x0, rc(x0), x1, rc(x1).
So what halves a batch, into samples and their references say, halves it between samples. Every other sample of
what the model returns is the other strand's reading, which is mapped back and merged with the one before it.
Attached as hooks to the user's module: class, forward and state_dict keys stay.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._torch import pytree
from ..algebra.action import Action, ActionMap
from ..algebra.arguments import Example, argument_names, call_arguments, check_choice, leaves, places
from ..algebra.nesting import output_fields
from ..algebra.opened import flatten
from ..algebra.plain import plain_structure, read_structure
from ..algebra.runs import Runs, read_runs
from ..algebra.specs import Spec, Tokens
from ..algebra.texts import read_action, write_action
from ..errors import ConversionError
from ..geometry import AroundForward, drop_around, place_around, require_whole_copy
from ..graph.sandbox import positional_names
from ..tie.hooks import StrandHook, hook_of, install, uninstall

Merge = str | Callable[[Tensor, Tensor], Tensor]
"""How two readings of an output become one."""

WHOLE = "whole"
"""In the place of an action: a tensor that belongs to no sample, the same for both strands."""

MERGES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": lambda ours, theirs: (ours + theirs) / 2,
    "sum": torch.add,
    "max": torch.maximum,
}
"""Merges by name."""


class Conjoined(StrandHook):
    """What a conjoined model does around its forward.

    Args:
        names: of the positional parameters of the model's forward.
        inputs: for each argument, by name (by position where it has none), the action of each of its
            leaves; `WHOLE` for a tensor that is handed over as it is, None for what was no tensor.
        outputs: the action of each output leaf; None for a leaf that is returned as it is.
        merge: ``"mean"``, ``"sum"``, ``"max"``, or a symmetric function of the two readings.
        post_hoc: read both strands in eval mode only.
        example: arguments of the example's shapes and types, for `bake`.
        runs: where the sequences lie in padded rows of ids, by argument and place among its leaves.
        fields: names of the output leaves, where they are known by name: a call may return some of them.

    Attributes:
        stacked: for each thread between `before` and the model's forward, the model whose arguments are stacked.
        running: threads inside of the model's forward.
        answered: for each thread behind it, the number of samples of both strands, and the orders of padded rows.
        orders: for each thread inside of it, the orders of padded rows.
        kept: the orders of the calls whose backward pass may come.
        answered_back: whether a layer ran again in the backward pass of the last of these.
    """

    def __init__(
        self,
        names: Sequence[str],
        inputs: Mapping[str, Sequence[Action | str | None]],
        outputs: Sequence[Action | None],
        merge: Merge = "mean",
        post_hoc: bool = False,
        example: tuple[tuple[Any, ...], dict[str, Any]] = ((), {}),
        runs: Mapping[tuple[str, int], Runs] | None = None,
        fields: Sequence[str] = (),
    ) -> None:
        self.names = tuple(names)
        self.inputs = {key: tuple(map(_ready, actions)) for key, actions in inputs.items()}
        self.outputs = tuple(map(_ready, outputs))
        self.merge, self.post_hoc, self.example = merge, post_hoc, example
        self.stacked: dict[int, nn.Module] = {}
        self.running: set[int] = set()
        self.answered: dict[int, tuple[int, list[Tensor]]] = {}
        self.runs, self.fields = dict(runs or {}), tuple(fields)
        self.orders: dict[int, list[Tensor]] = {}
        self.kept: list[list[Tensor]] = []
        self.answered_back = False

    def __getstate__(self) -> dict[str, Any]:
        """Copies are in the middle of no call."""
        return {**vars(self), "stacked": {}, "running": set(), "answered": {}, "orders": {}, "kept": []}

    def plain(self) -> dict[str, Any]:
        """The reading as plain values, for `read_reading`.

        Raises:
            ConversionError: the readings are merged by a function.
        """
        if not isinstance(self.merge, str):
            raise ConversionError(
                f"merge={getattr(self.merge, '__name__', self.merge)} is a function, which a recipe cannot hold",
                why="a recipe has plain values only, and code is none",
                do='save the whole model, torch.save(model, ...), or merge by "mean", "sum" or "max"',
            )
        return {
            "names": [*self.names],
            "inputs": {name: [*map(_plain, held)] for name, held in self.inputs.items()},
            "outputs": [*map(_plain, self.outputs)],
            "merge": self.merge,
            "post_hoc": self.post_hoc,
            "example": plain_structure(self.example),
            **({"runs": [*map(_plain_runs, self.runs.items())]} if self.runs else {}),
            **({"fields": [*self.fields]} if self.fields else {}),
        }

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
        """Both strands of every argument; a model that calls itself does so on both strands already."""
        thread = this_thread()
        if thread in self.running or not self.reads_both(module):
            return None
        self.stacked.pop(thread, None)
        self.answered.pop(thread, None)
        stacked = self.stack(args, kwargs)
        self.stacked[thread] = module
        return stacked

    def run(self, module: nn.Module, own: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The model's forward on both strands; the merged readings where it was called by itself.

        Args:
            module: the model.
            own: its forward, given the model.
            args, kwargs: stacked by `before`; as they come where ``model.forward`` was called directly.
        """
        thread = this_thread()
        if thread in self.running or not self.reads_both(module):
            return own(module, *args, **kwargs)
        called = self.stacked.pop(thread, None)
        require_whole_copy(module, called)
        if called is None:
            args, kwargs = self.stack(args, kwargs)
        read = self.size(args, kwargs), self.rows(args, kwargs)
        try:
            self.running.add(thread)
            self._keep(thread, read[1])
            output = own(called or module, *args, **kwargs)
        finally:
            self.running.discard(thread)
            self.orders.pop(thread, None)
        if called is None:
            return self.merged(output, *read)
        self.answered[thread] = read
        return output

    def _keep(self, thread: int, orders: list[Tensor]) -> None:
        """Let layers that mix see the orders of a call, also in its backward pass."""
        if not self.runs:
            return
        self.orders[thread] = orders
        if torch.is_grad_enabled():
            self.kept = [*([] if self.answered_back else self.kept[-1:]), orders]
            self.answered_back = False

    def after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """The merged readings; after an exception, nothing."""
        thread = this_thread()
        if thread in self.running:
            return None
        unread, read = self.stacked.pop(thread, None), self.answered.pop(thread, None)
        if unread is not None and output is not None:  # another forward was set on the model since
            read = self.size(args, kwargs), self.rows(args, kwargs)
        return None if read is None else self.merged(output, *read)

    def reads_both(self, module: nn.Module) -> bool:
        """Whether a call reads both strands, in the mode the model is in."""
        return not (self.post_hoc and module.training)

    def stack(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Both strands of every argument.

        Raises:
            ConversionError: the call has a tensor the conversion did not see.
        """
        orders = self.rows(args, kwargs, apart=1)
        stacked = [self._stacked(name, value, orders) for name, value in zip(self._names(len(args)), args, strict=True)]
        return tuple(stacked), {name: self._stacked(name, value, orders) for name, value in kwargs.items()}

    def rows(self, args: tuple[Any, ...], kwargs: dict[str, Any], apart: int = 2) -> list[Tensor]:
        """For each argument of padded rows of ids, where the entries of one strand's rows come from on the other.

        Args:
            args, kwargs: of a call.
            apart: distance of one sample from the next, two where both strands are stacked.
        """
        if not self.runs:
            return []
        given = dict([*zip(self._names(len(args)), args, strict=True), *kwargs.items()])
        held = [(runs, pytree.tree_leaves(given.get(name))[place]) for (name, place), runs in self.runs.items()]
        return [runs.order(ids[::apart]) for runs, ids in held if isinstance(ids, Tensor)]

    def recalled(self) -> list[Tensor]:
        """The orders of the call that runs, or of the last one where its backward pass runs a layer again.

        Raises:
            ConversionError: several calls may be the one whose backward pass runs.
        """
        thread = this_thread()
        if thread in self.orders:
            return self.orders[thread]
        self.answered_back = True
        if len(self.kept) > 1 and not all(map(torch.equal, *self.kept)):
            raise ConversionError(
                "a mixed layer is run again in a backward pass, for one of several calls",
                why="how the rows of each call are padded is known of the last one only",
                do="run the backward pass after each call, pad alike, or do without activation checkpointing",
            )
        return self.kept[-1] if self.kept else []

    def _names(self, count: int) -> list[str]:
        return argument_names(self.names, count)

    def _stacked(self, name: str, value: Any, orders: list[Tensor]) -> Any:
        leaves, spec = pytree.tree_flatten(value)
        mirrors = self.inputs.get(name, ())
        known = len(leaves) == len(mirrors) and all(
            m is not None for x, m in zip(leaves, mirrors, strict=True) if _is_tensor(x)
        )
        if not known:
            tensors = sum(map(_is_tensor, leaves))
            if not tensors:
                return value
            raise ConversionError(
                f"argument {name!r} holds {tensors} tensors, and the model was converted for "
                f"{sum(m is not None for m in mirrors)}",
                why="how reverse complement acts on the others is not known",
                do="call the model as in the example, or convert it with an example that has them all",
            )
        both = [_both(leaf, mirror, orders) for leaf, mirror in zip(leaves, mirrors, strict=True)]
        return pytree.tree_unflatten(both, spec)

    def size(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
        """Samples of both strands together in a call whose arguments are stacked."""
        given = [*zip(self._names(len(args)), args, strict=True), *kwargs.items()]
        for name, value in given:
            for leaf, mirror in zip(pytree.tree_leaves(value), self.inputs.get(name, ()), strict=False):
                if isinstance(mirror, ActionMap) and isinstance(leaf, Tensor):
                    return leaf.shape[0]
        return 0

    def merged(self, output: Any, size: int, orders: Sequence[Tensor] = ()) -> Any:
        """The two readings of every output as one.

        Args:
            output: of the model, for both strands.
            size: samples of both strands together.
            orders: as `rows` returns them.

        Raises:
            ConversionError: the model returned other tensors than it did for the example.
        """
        leaves, again = flatten(output)
        mirrors = self.outputs if len(leaves) == len(self.outputs) else self._by_field(output, len(leaves))
        joined = [self._one(y, mirror, size, orders) for y, mirror in zip(leaves, mirrors, strict=True)]
        return again(joined)

    def _by_field(self, output: Any, count: int) -> list[ActionMap | str | None]:
        """What is done with the leaves of an output that has others than at conversion, by their names."""
        known = dict(zip(self.fields, self.outputs, strict=False))
        names = output_fields(output) if known else []
        if not names or not set(names) <= known.keys():
            raise ConversionError(
                f"the model returned {count} values, and was converted for {len(self.outputs)}",
                why="how reverse complement acts on the others is not known",
                do="convert it with an example for which it returns them all",
            )
        return [known[name] for name in names]

    def _one(self, y: Any, mirror: ActionMap | str | None, size: int, orders: Sequence[Tensor]) -> Any:
        if not isinstance(mirror, ActionMap) or not isinstance(y, Tensor):
            return y
        if y.dim() == 0 or y.shape[0] != size:
            raise ConversionError(
                f"the model returned a tensor of shape {tuple(y.shape)} for {size} samples",
                why="the first axis of an output must be the batch, on which both strands are stacked",
                do="return one entry per sample",
            )
        ours, theirs = y.unflatten(0, (size // 2, 2)).unbind(1)
        function = MERGES[self.merge] if isinstance(self.merge, str) else self.merge
        one = function(ours, mirror(theirs, orders))
        if not isinstance(one, Tensor) or one.shape != ours.shape:
            raise ConversionError(
                f"the merge gave {tuple(one.shape) if isinstance(one, Tensor) else type(one).__name__} "
                f"for two readings of shape {tuple(ours.shape)}",
                why="a merged reading takes the place of one strand's",
                do="return a tensor of the shape of either reading",
            )
        return one


def _is_tensor(x: Any) -> bool:
    return isinstance(x, Tensor)


def _ready(action: Action | str | None) -> ActionMap | str | None:
    return ActionMap(action.walk()) if isinstance(action, Action) else action


def _plain(mirror: ActionMap | str | None) -> str | None:
    return write_action(mirror.action) if isinstance(mirror, ActionMap) else mirror


def _plain_runs(row: tuple[tuple[str, int], Runs]) -> dict[str, Any]:
    (argument, place), runs = row
    return {"argument": argument, "place": place, **runs.plain()}


def _read(text: str | None) -> Action | str | None:
    return text if text is None or text == WHOLE else read_action(text)


def read_reading(data: Mapping[str, Any]) -> Conjoined:
    """The reading that `Conjoined.plain` describes.

    Raises:
        ConversionError: an action cannot be read, or no merge has this name.
    """
    check_choice("merge", data["merge"], (*MERGES,))
    return Conjoined(
        data["names"],
        {name: [*map(_read, held)] for name, held in data["inputs"].items()},
        [None if text is None else read_action(text) for text in data["outputs"]],
        data["merge"],
        data["post_hoc"],
        read_structure(data["example"]),
        {(row["argument"], row["place"]): read_runs(row) for row in data.get("runs", ())},
        data.get("fields", ()),
    )


def _both(x: Any, mirror: ActionMap | str | None, orders: Sequence[Tensor]) -> Any:
    """A tensor and its mirror image, (2N, ...), sample by sample."""
    if not isinstance(mirror, ActionMap) or not isinstance(x, Tensor):
        return x
    return torch.stack([x, mirror(x, orders)], 1).flatten(0, 1)


# --- attaching ----------------------------------------------------------------------------------


class StackedForward(AroundForward):
    """The forward of a conjoined model: ``model.forward(x)`` reads both strands as ``model(x)`` does.

    Args:
        module: the model; a deep copy of it holds a copy of this, bound to the copy.
        reading: how it reads both strands.
    """

    def __init__(self, module: nn.Module, reading: Conjoined) -> None:
        self.module, self.reading = module, reading
        self.before = module.__dict__.get("forward")

    @property
    def __signature__(self) -> inspect.Signature:
        """Without ``**kwargs``: a tensor of a name that the example did not have is refused.

        Callers that look for it, such as trainers that hand over the number of samples a loss is divided by, pass
        nothing more then.
        """
        whole = super().__signature__
        return whole.replace(parameters=[p for p in whole.parameters.values() if p.kind != p.VAR_KEYWORD])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model's own forward, on both strands."""
        return self.reading.run(self.module, self._own, args, kwargs)

    def _own(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if self.before is not None:
            return self.before(*args, **kwargs)
        return type(module).forward(module, *args, **kwargs)

    def made_for(self, module: nn.Module) -> StackedForward:
        """The same around the forward of another module."""
        return StackedForward(module, self.reading)


def this_thread() -> int:
    """A number of the running thread; 0 for a compiler, which follows one.

    ``is_compiling`` is true for all threads while one of them exports.
    """
    return 0 if torch.compiler.is_dynamo_compiling() else threading.get_ident()


def conjoin(model: nn.Module, reading: Conjoined) -> None:
    """Make a model read both strands, in place; hooks of its own stay, and run inside of ours."""
    forward = StackedForward(model, reading)
    install(model, reading, outside=True, always=True)
    place_around(model, forward)


def conjoined(model: nn.Module) -> Conjoined | None:
    """How a model reads both strands, or None where it does not."""
    return hook_of(model, Conjoined)


def part(model: nn.Module) -> None:
    """Make a conjoined model read one strand again, in place."""
    drop_around(model, lambda forward: isinstance(forward, StackedForward))
    uninstall(model, Conjoined)


# --- from a call --------------------------------------------------------------------------------


def by_argument(
    model: nn.Module, example: Example, actions: Sequence[Action | None]
) -> dict[str, list[Action | str | None]]:
    """What `Conjoined` does with a call's leaves, by argument.

    Args:
        model: what is called.
        example: with what.
        actions: of each leaf that is stacked, in order; None for the others.
    """
    args, kwargs = call_arguments(example)
    leaves = pytree.tree_leaves((args, kwargs))
    given = iter(WHOLE if a is None and _is_tensor(x) else a for x, a in zip(leaves, actions, strict=True))
    named = [*zip(argument_names(positional_names(model), len(args)), args, strict=True), *kwargs.items()]
    return {name: [next(given) for _ in pytree.tree_leaves(value)] for name, value in named}


def runs_by_argument(model: nn.Module, example: Example, specs: Sequence[Spec | None]) -> dict[tuple[str, int], Runs]:
    """Where the sequences lie in padded rows of ids, by argument and place among its leaves.

    Args:
        model: what is called.
        example: with what.
        specs: of each leaf.
    """
    found = zip(places(positional_names(model), example), leaves(example), specs, strict=True)
    ids = [(place, s.runs) for place, x, s in found if isinstance(s, Tokens) and _is_tensor(x) and x.dim() == 2]
    return {place: runs for place, runs in ids if runs is not None}
