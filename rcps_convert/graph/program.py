"""Reading an exported program: nested graphs inlined, module paths and source lines attached."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule
from torch.fx import Node as FxNode

from .._torch import frames, frames_in, inputs_of, is_wrapper, out_spec, pytree, returned, scope, value
from ..algebra.arguments import Example, call_arguments
from ..errors import TraceError, Where
from ..geometry import MARK, Recorder
from .closed_modules import ModuleCall
from .sandbox import aliases
from .trace import EdgeCall, Node, Ref, Source, Trace
from .vmap import VmapCall, grouped
from .writes import written_results

TORCH_FOLDER = os.path.dirname(torch.__file__)

_HERE = os.path.dirname(os.path.dirname(__file__))


def read_program(
    program: Any, model: nn.Module, example: Example, closed: Mapping[tuple[str, int], ModuleCall], recorder: Recorder
) -> Trace:
    """The trace of an exported program.

    Args:
        program: made by ``torch.export``.
        model: what was exported.
        example: what it is called with.
        closed: the calls of modules that were not looked into.
        recorder: the calls that may read one edge only.
    """
    sources = dict(_sources(program, model, example))
    flattened = _Flattened()
    outputs = flattened.run(program.graph_module, {name: Ref(name) for name in sources}, "")
    kept = [out for out, mine in zip(outputs, returned(program), strict=True) if mine]
    written = written_results(flattened.nodes, sources)
    calls = tuple(flattened.calls(recorder))
    names = _first_names(model)
    return Trace(flattened.nodes, sources, kept, out_spec(program), written, closed, names, calls)


def _first_names(model: nn.Module) -> dict[str, str]:
    return {name: group[0] for group in aliases(model).values() for name in group}


def _sources(program: Any, model: nn.Module, example: Example) -> Iterator[tuple[str, Source]]:
    first_name = _first_names(model)
    state = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    given = iter(pytree.tree_leaves(call_arguments(example)))
    for name, kind, target in inputs_of(program):
        if kind == "PARAMETER":
            yield name, Source("parameter", first_name[target], state[target])
        elif kind == "BUFFER":
            yield name, Source("buffer", target, state[target])
        elif kind == "USER_INPUT":
            yield name, Source("input", name, next(given))
        else:
            value = program.constants[target]
            if not _has_values(value):
                raise without_value(None)
            parameter = _parameter(model, value)
            kind = "held" if parameter else "constant"
            yield name, Source(kind, parameter or _attribute(model, value) or target, value)


def without_value(where: Where | None) -> TraceError:
    """The refusal of a forward that makes a tensor of which a trace keeps nothing."""
    return TraceError(
        "a tensor that forward makes has no value in the trace",
        where=where,
        why="a transform inside of forward, such as torch.func.grad, makes tensors that torch.export does not keep",
        do='write out what the transform computes, or pass strategy="conjoined"',
    )


def _has_values(x: Any) -> bool:
    """Whether the numbers of a tensor can be read."""
    try:
        bool((x == 0).any())
    except Exception:  # torch has several classes of tensors without values, behind wrappers of its own
        return not isinstance(x, torch.Tensor)
    return True


def _parameter(model: nn.Module, value: torch.Tensor) -> str:
    """The name of the parameter whose memory a tensor is, given to forward in another way; empty if it is none's."""
    parameters = model.named_parameters() if isinstance(value, torch.Tensor) and value.numel() else ()
    return next((n for n, p in parameters if p.data_ptr() == value.data_ptr() and p.shape == value.shape), "")


def _attribute(model: nn.Module, value: torch.Tensor) -> str:
    """The name of the attribute, or of the list of one, in which a model holds a plain tensor; empty if it has none."""
    for path, module in model.named_modules():
        for name, held in vars(module).items():
            if name.startswith("_"):
                continue
            for key, leaf in pytree.tree_flatten_with_path(held)[0] if not isinstance(held, nn.Module) else ():
                if isinstance(leaf, torch.Tensor) and leaf.data_ptr() == value.data_ptr() and leaf.shape == value.shape:
                    return f"{path}.{name}{pytree.keystr(key)}".lstrip(".")
    return ""


@dataclass
class _Marks:
    """The marks of a call in a graph.

    Attributes:
        given, made: as of an `EdgeCall`.
        place: module path and line, and the modules being run.
        start, end: its nodes among all nodes; none if it has no end.
    """

    given: Any
    place: tuple[Where, tuple[tuple[str, str], ...]]
    start: int
    end: int = 0
    made: Any = None


class _Flattened:
    """Nodes of a graph with nested graphs inlined."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.marks: dict[int, _Marks] = {}

    def run(self, module: GraphModule, env: dict[str, Any], prefix: str) -> list[Any]:
        """Append the nodes of one graph; `env` maps its placeholders; returns its outputs."""
        for node in grouped(list(module.graph.nodes)):
            if isinstance(node, VmapCall):
                self._mapped(node, env, prefix)
            elif node.op == "output":
                return list(pytree.tree_leaves(self._arguments(node.args, env)))
            elif node.op == "get_attr":
                env[node.name] = getattr(module, str(node.target))
            elif node.op == "call_function":
                env[node.name] = self._call(node, env, prefix)
        raise AssertionError("a graph without output")

    def _call(self, node: FxNode, env: dict[str, Any], prefix: str) -> Any:
        args, kwargs = self._arguments(node.args, env), self._arguments(node.kwargs, env)
        if is_wrapper(node):
            return self._inline(node, args, prefix)
        if node.target is operator.getitem and not isinstance(args[0], Ref):
            return args[0][args[1]]
        where, modules = _where(node)
        if node.target is MARK:
            x, number, part = args
            self._mark(x, number, part, (where, modules))
            return x
        name = prefix + node.name
        where = Where(where.path, where.source, name)
        self.nodes.append(Node(name, node.target, args, kwargs, where, modules, value(node)))
        return Ref(name)

    def _mapped(self, call: VmapCall, env: dict[str, Any], prefix: str) -> None:
        """A whole vmap as one node, and one more for each of several results."""
        where, modules = _where(next(c for c in call.calls if scope(c) or c is call.calls[-1]))
        name = prefix + call.calls[0].name
        values = [value(r) for r in call.results]
        whole, args = Ref(name), tuple(env[n.name] for n in call.operands)
        made = values[0] if len(values) == 1 else tuple(values)
        self.nodes.append(Node(name, call, args, {}, Where(where.path, where.source, name), modules, made))
        env.update({r.name: whole for r in call.results[:1]})
        for i, r in enumerate(call.results if len(values) > 1 else []):
            at = Where(where.path, where.source, prefix + r.name)
            self.nodes.append(Node(at.node or "", operator.getitem, (whole, i), {}, at, modules, values[i]))
            env[r.name] = Ref(prefix + r.name)

    def _mark(self, x: Any, number: int, part: str, place: tuple[Where, tuple[tuple[str, str], ...]]) -> None:
        """Note where a call begins or ends; the marks themselves are no operators of the model."""
        if part == "given":
            self.marks[number] = _Marks(x, place, len(self.nodes))
        elif number in self.marks:
            marks = self.marks[number]
            marks.end = marks.end or len(self.nodes)
            marks.made = x if part == "made" else marks.made

    def calls(self, recorder: Recorder) -> Iterator[EdgeCall]:
        """The calls whose marks are in the graph."""
        for number, marks in sorted(self.marks.items()):
            if isinstance(marks.given, Ref):
                nodes = tuple(n.name for n in self.nodes[marks.start : marks.end])
                yield EdgeCall(*recorder.calls[number], marks.given, marks.made, nodes, *marks.place)

    def _inline(self, node: FxNode, args: tuple[Any, ...], prefix: str) -> list[Any]:
        at = next(i for i, a in enumerate(args) if isinstance(a, GraphModule))
        inner, operands = args[at], args[at + 1 :]
        names = [n.name for n in inner.graph.nodes if n.op == "placeholder"]
        return self.run(inner, dict(zip(names, operands, strict=True)), f"{prefix}{node.name}.")

    def _arguments(self, args: Any, env: dict[str, Any]) -> Any:
        return torch.fx.node.map_arg(args, lambda n: env[n.name])


def _where(node: FxNode) -> tuple[Where, tuple[tuple[str, str], ...]]:
    modules = scope(node)
    return Where(modules[-1][0] if modules else "", innermost(frames(node))), modules


def source_line(stack: str | None) -> str | None:
    """The innermost frame of a printed stack that lies outside torch and this package."""
    return innermost(frames_in(stack or ""))


def innermost(places: Sequence[tuple[str, int]]) -> str | None:
    """The last of several places, outermost first, that lies outside torch and this package, as ``file:line``."""
    mine = [(f, n) for f, n in places if not f.startswith((TORCH_FOLDER, _HERE, "<string>", "<frozen", "<eval"))]
    if not mine:
        return None
    file, number = mine[-1]
    near = os.path.relpath(file)
    return f"{file if near.startswith('..') else near}:{number}"
