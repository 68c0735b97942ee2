"""TODO."""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule
from torch.fx import Node as FxNode
from torch.utils import _pytree as pytree

from ..algebra.arguments import Example, call_arguments
from ..errors import Where
from ..geometry import MARK, Recorder
from .closed_modules import ModuleCall
from .sandbox import aliases
from .trace import EdgeCall, Node, Ref, Source, Trace
from .vmap import VmapCall, grouped
from .writes import written_results

WRAPPERS = ("wrap_with_set_grad_enabled", "wrap_with_autocast", "tag_activation_checkpoint", "wrap")
"""Higher-order operators that only run a nested graph; it is inlined."""

TORCH_FOLDER = os.path.dirname(torch.__file__)

_HERE = os.path.dirname(os.path.dirname(__file__))

_FRAME = re.compile(r'File "([^"]+)", line (\d+)')


def read_program(
    program: Any, model: nn.Module, example: Example, closed: Mapping[tuple[str, int], ModuleCall], recorder: Recorder
) -> Trace:
    sources = dict(_sources(program, model, example))
    flattened = _Flattened()
    outputs = flattened.run(program.graph_module, {name: Ref(name) for name in sources}, "")
    kept = [
        out
        for out, spec in zip(outputs, program.graph_signature.output_specs, strict=True)
        if spec.kind.name == "USER_OUTPUT"
    ]
    written = written_results(flattened.nodes, sources)
    calls = tuple(flattened.calls(recorder))
    names = _first_names(model)
    return Trace(flattened.nodes, sources, kept, program.call_spec.out_spec, written, closed, names, calls)


def _first_names(model: nn.Module) -> dict[str, str]:
    return {name: group[0] for group in aliases(model).values() for name in group}


def _sources(program: Any, model: nn.Module, example: Example) -> Iterator[tuple[str, Source]]:
    first_name = _first_names(model)
    state = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    given = iter(pytree.tree_leaves(call_arguments(example)))
    for spec in program.graph_signature.input_specs:
        kind, name = spec.kind.name, spec.arg.name
        if kind == "PARAMETER":
            yield name, Source("parameter", first_name[spec.target], state[spec.target])
        elif kind == "BUFFER":
            yield name, Source("buffer", spec.target, state[spec.target])
        elif kind == "USER_INPUT":
            yield name, Source("input", name, next(given))
        else:
            yield name, Source("constant", spec.target, program.constants[spec.target])


class _Flattened:
    """Nodes of a graph with nested graphs inlined."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.marks: dict[int, dict[str, list[Any]]] = {}
        self.places: dict[int, tuple[Where, tuple[tuple[str, str], ...]]] = {}

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
        if getattr(node.target, "__name__", "") in WRAPPERS or str(node.target) in WRAPPERS:
            return self._inline(node, args, prefix)
        if node.target is operator.getitem and not isinstance(args[0], Ref):
            return args[0][args[1]]
        where, scope = _where(node)
        number, part = (node.meta.get("custom") or {}).get(MARK, (None, None))
        if number is not None and node.target is torch.ops.aten.alias.default:
            self.marks.setdefault(number, {}).setdefault(part, []).append(args[0])
            self.places.setdefault(number, (where, scope))
            return args[0]
        name = prefix + node.name
        if number is not None:
            self.marks.setdefault(number, {}).setdefault("nodes", []).append(name)
        where = Where(where.path, where.source, name)
        self.nodes.append(Node(name, node.target, args, kwargs, where, scope, node.meta.get("val")))
        return Ref(name)

    def _mapped(self, call: VmapCall, env: dict[str, Any], prefix: str) -> None:
        """A whole vmap as one node, and one more for each of several results."""
        where, scope = _where(next(c for c in call.calls if c.meta.get("nn_module_stack") or c is call.calls[-1]))
        name = prefix + call.calls[0].name
        values = [r.meta.get("val") for r in call.results]
        whole, args = Ref(name), tuple(env[n.name] for n in call.operands)
        value = values[0] if len(values) == 1 else tuple(values)
        self.nodes.append(Node(name, call, args, {}, Where(where.path, where.source, name), scope, value))
        env.update({r.name: whole for r in call.results[:1]})
        for i, r in enumerate(call.results if len(values) > 1 else []):
            at = Where(where.path, where.source, prefix + r.name)
            self.nodes.append(Node(at.node or "", operator.getitem, (whole, i), {}, at, scope, values[i]))
            env[r.name] = Ref(prefix + r.name)

    def calls(self, recorder: Recorder) -> Iterator[EdgeCall]:
        """The calls whose marks are in the graph."""
        for number, marks in sorted(self.marks.items()):
            if number in self.places and isinstance(marks.get("given", [None])[0], Ref):
                made = next(iter(marks.get("made", ())), None)
                nodes = tuple(marks.get("nodes", ()))
                yield EdgeCall(*recorder.calls[number], marks["given"][0], made, nodes, *self.places[number])

    def _inline(self, node: FxNode, args: tuple[Any, ...], prefix: str) -> list[Any]:
        at = next(i for i, a in enumerate(args) if isinstance(a, GraphModule))
        inner, operands = args[at], args[at + 1 :]
        names = [n.name for n in inner.graph.nodes if n.op == "placeholder"]
        return self.run(inner, dict(zip(names, operands, strict=True)), f"{prefix}{node.name}.")

    def _arguments(self, args: Any, env: dict[str, Any]) -> Any:
        return torch.fx.node.map_arg(args, lambda n: env[n.name])


def _where(node: FxNode) -> tuple[Where, tuple[tuple[str, str], ...]]:
    stack = node.meta.get("nn_module_stack") or {}
    scope = tuple((path, str(call_id)) for call_id, (path, _) in stack.items())
    path = scope[-1][0] if scope else ""
    return Where(path, source_line(node.meta.get("stack_trace"))), scope


def source_line(stack: str | None) -> str | None:
    """The innermost frame outside torch and this package."""
    frames = [(f, n) for f, n in _FRAME.findall(stack or "") if not f.startswith((TORCH_FOLDER, _HERE))]
    if not frames:
        return None
    file, number = frames[-1]
    near = os.path.relpath(file)
    return f"{file if near.startswith('..') else near}:{number}"
