"""Exported programs: their nodes, inputs, outputs and lines of source."""

from __future__ import annotations

import inspect
import operator
import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from types import FrameType
from typing import Any

import torch
from torch._library.custom_ops import CustomOpDef as CustomOpDef
from torch.fx import Node as FxNode

from .modes import modes_left

WRAPPERS = ("wrap_with_set_grad_enabled", "wrap_with_autocast", "tag_activation_checkpoint", "wrap")
"""Higher-order operators that only run a nested graph."""

_FRAME = re.compile(r'File "([^"]+)", line (\d+)')


def is_wrapper(node: FxNode) -> bool:
    """Whether a node only runs a nested graph."""
    return getattr(node.target, "__name__", "") in WRAPPERS or str(node.target) in WRAPPERS


def scope(node: FxNode) -> tuple[tuple[str, str], ...]:
    """The modules being run when a node was recorded, outermost first, each as (path, call)."""
    stack = node.meta.get("nn_module_stack") or {}
    return tuple((path, str(call_id)) for call_id, (path, _) in stack.items())


def frames(node: FxNode) -> list[tuple[str, int]]:
    """Files and lines that were being run when a node was recorded, outermost first."""
    return frames_in(node.meta.get("stack_trace") or "")


def frames_in(stack: str) -> list[tuple[str, int]]:
    """Files and lines of a printed stack, outermost first."""
    return [(file, int(line)) for file, line in _FRAME.findall(stack)]


def value(node: FxNode) -> Any:
    """Fake tensors of the shape and dtype of a node's result."""
    return node.meta.get("val")


def inputs_of(program: torch.export.ExportedProgram) -> Iterator[tuple[str, str, Any]]:
    """Placeholder, kind (``"PARAMETER"``, ``"BUFFER"``, ``"USER_INPUT"``, other) and target of each graph input."""
    for spec in program.graph_signature.input_specs:
        yield spec.arg.name, spec.kind.name, spec.target


def returned(program: torch.export.ExportedProgram) -> list[bool]:
    """For each output of the graph, whether the model returns it (others are changed buffers)."""
    return [spec.kind.name == "USER_OUTPUT" for spec in program.graph_signature.output_specs]


def out_spec(program: torch.export.ExportedProgram) -> Any:
    """The nesting of what the model returns."""
    return program.call_spec.out_spec


def unguarded(program: torch.export.ExportedProgram) -> torch.fx.GraphModule:
    """The module of an exported program, without checks of its input shapes where the version of torch has them."""
    known = inspect.signature(program.module).parameters
    return program.module(**({"check_guards": False} if "check_guards" in known else {}))  # type: ignore[return-value]


def require_size(graph: torch.fx.GraphModule, node: Any, after: Any, dim: int, size: int, says: str) -> None:
    """Let a graph refuse a tensor of another size, by functions of torch's own.

    Args:
        graph: to be recompiled afterwards.
        node: the tensor.
        after: the node behind which it is looked at.
        dim, size: of the tensor.
        says: what the error says.
    """
    with graph.graph.inserting_after(after):
        given = graph.graph.call_function(torch.ops.aten.sym_size.int, (node, dim))
    with graph.graph.inserting_after(given):
        same = graph.graph.call_function(operator.eq, (given, size))
    with graph.graph.inserting_after(same):
        graph.graph.call_function(torch._assert, (same, says))


def picklable(graph: torch.fx.GraphModule, name: str) -> torch.fx.GraphModule:
    """A graph module without the exporter's tracer, which cannot be pickled."""
    graph.graph._tracer_cls = None
    return torch.fx.GraphModule(graph, graph.graph, name)


class _CallersLines:
    """Where a call comes from, as what records a graph asks for it: torch's own frames, hundreds of them, left out."""

    def __init__(self) -> None:
        self.found: list[traceback.FrameSummary] = []
        frame: FrameType | None = sys._getframe(2)
        while frame is not None:
            code = frame.f_code
            if code.co_name == "forward" or not code.co_filename.startswith(_TORCH):
                self.found.append(traceback.FrameSummary(code.co_filename, frame.f_lineno, code.co_name, line=""))
            frame = frame.f_back

    @classmethod
    def extract(cls, **settings: Any) -> _CallersLines:
        """Where the caller's caller is."""
        return cls()

    def summary(self) -> traceback.StackSummary:
        """The frames, outermost first."""
        return traceback.StackSummary.from_list(self.found[::-1])


_TORCH = os.path.dirname(torch.__file__)


@contextmanager
def quick_graphs() -> Iterator[None]:
    """Record graphs that are read and not run: no code is written for them, and lines are named by a shorter way.

    Nodes say what they make by a fake tensor; in other words (strides, layouts) they do not.
    """
    module, lazy = import_module("torch.fx.proxy"), import_module("torch.fx._lazy_graph_module")
    proxies: Any = import_module("torch.fx.experimental.proxy_tensor")
    usual, words = module.CapturedTraceback, proxies._extract_tensor_metadata
    try:
        module.CapturedTraceback = _CallersLines  # type: ignore[attr-defined]
        proxies._extract_tensor_metadata = _nothing
        with lazy._use_lazy_graph_module(True):
            yield
    finally:
        module.CapturedTraceback = usual  # type: ignore[attr-defined]
        proxies._extract_tensor_metadata = words


def _nothing(*args: Any, **kwargs: Any) -> None:
    """In the place of what nobody reads."""


@contextmanager
def unvalidated_distributions() -> Iterator[None]:
    """Let ``torch.distributions`` not look at the values of parameters and samples, which a trace has none of."""
    kind = torch.distributions.Distribution
    usual = kind._validate_args
    kind.set_default_validate_args(False)
    try:
        yield
    finally:
        kind.set_default_validate_args(usual)


@contextmanager
def recurrent_shapes() -> Iterator[None]:
    """Let torch state the shapes of a recurrent layer's results by one step, and not by a step for each position.

    Up to 2.11 it also leaves an axis of size 1 in the shapes of an LSTM's last states.
    """
    module = import_module("torch._decomp.decompositions")
    choose, layer = module.select_one_layer_lstm_function, module.one_layer_rnn

    def chosen(*args: Any) -> Any:
        return partial(_one_layer, choose(*args))

    module.select_one_layer_lstm_function = chosen  # type: ignore[attr-defined]
    module.one_layer_rnn = partial(_one_layer, layer)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        module.select_one_layer_lstm_function = choose  # type: ignore[attr-defined]
        module.one_layer_rnn = layer  # type: ignore[attr-defined]


@contextmanager
def exporting() -> Iterator[None]:
    """What the package needs of torch while it exports a module: the three above, and no mode that stays behind."""
    with modes_left(), recurrent_shapes(), quick_graphs(), unvalidated_distributions():
        yield


def _one_layer(run: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """One layer of a recurrence over the first axis of x; where none of its steps is recorded, one stands for all."""
    fake, proxies = import_module("torch._subclasses.fake_tensor"), import_module("torch.fx.experimental.proxy_tensor")
    short = isinstance(x, fake.FakeTensor) and proxies.get_proxy_mode() is None
    out, states = run(x[:1] if short else x, *args, **kwargs)
    out = out.repeat(len(x), 1, 1) if short else out
    if isinstance(states, tuple):
        states = tuple(s.squeeze(0) if s.dim() == 3 else s for s in states)
    return out, states
