"""From a model to a list of operators: ``torch.export``, flattened, with module paths and lines.

The graph is used for analysis only; the converted model runs the user's own ``forward``.
"""

from __future__ import annotations

import operator
import os
import re
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule
from torch.fx import Node as FxNode
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from .errors import TraceError, Where
from .geometry import MARK, Reading, Recorder, Settings, unanchor
from .mapped import Mapped, grouped
from .modules import Example, aliases, call, call_arguments, fresh_copy, mode, quiet, undisturbed_rng
from .opaque import OPAQUE, opaque, recording, watching
from .opaque import Call as ModuleCall

WRAPPERS = ("wrap_with_set_grad_enabled", "wrap_with_autocast", "tag_activation_checkpoint", "wrap")
"""Higher-order operators that only run a nested graph; it is inlined."""

_TORCH = os.path.dirname(torch.__file__)
_HERE = os.path.dirname(__file__)
_FRAME = re.compile(r'File "([^"]+)", line (\d+)')


@dataclass(frozen=True)
class Ref:
    """A reference to the result of an earlier node or to an input."""

    name: str


@dataclass(frozen=True)
class Node:
    """One operator call.

    Attributes:
        name: unique in the graph.
        op: the ATen operator, or ``operator.getitem``.
        args, kwargs: its arguments; tensors are `Ref`.
        where: module path, source line and name.
        scope: the modules being run, outermost first, each as (path, call).
        value: fake tensor, or nested fake tensors, with the result's shape and dtype.
    """

    name: str
    op: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    where: Where
    scope: tuple[tuple[str, str], ...]
    value: Any

    def refs(self) -> list[str]:
        """Names of the results this node reads."""
        return [leaf.name for leaf in pytree.tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Ref)]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a single tensor result."""
        return tuple(int(s) for s in self.value.shape)


@dataclass(frozen=True)
class Call:
    """A call of a function that may read one edge of a length and not the other (`geometry`).

    Attributes:
        reading: how that function reads edges.
        settings: its arguments by name.
        given: the tensor it reads.
        made: its result; None if that is no single tensor.
        nodes: names of the nodes it consists of.
        where, scope: as of a node.
    """

    reading: Reading
    settings: Settings
    given: Ref
    made: Ref | None
    nodes: tuple[str, ...]
    where: Where
    scope: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Source:
    """Where a graph input comes from.

    Attributes:
        kind: ``"parameter"``, ``"buffer"``, ``"constant"`` or ``"input"``.
        target: name in the model (a shared parameter's first name); for inputs, the placeholder.
        value: the tensor; for inputs, the leaf of the example.
    """

    kind: str
    target: str
    value: Any


@dataclass(frozen=True)
class Trace:
    """A traced model.

    Attributes:
        nodes: operator calls in execution order.
        sources: graph inputs by name; those of kind ``"input"`` in the order of the example's leaves.
        outputs: references to the output leaves; a leaf that is no tensor stands as it is.
        out_spec: the outputs' nesting.
        written: names of created tensors that an in-place operator later fills with computed values.
        opaque: calls of the modules that were not looked into, by path and number.
        first_name: each name of a parameter with its first name.
        calls: calls of functions that may read one edge only, in order.
    """

    nodes: list[Node]
    sources: dict[str, Source]
    outputs: list[Any]
    out_spec: Any
    written: frozenset[str] = field(default_factory=frozenset)
    opaque: Mapping[tuple[str, int], ModuleCall] = field(default_factory=dict)
    first_name: Mapping[str, str] = field(default_factory=dict)
    calls: tuple[Call, ...] = ()


def trace(model: nn.Module, example: Example, *, training: bool = False, cuts: Collection[str] = ()) -> Trace:
    """Trace a copy of a model.

    Args:
        model: any module ``torch.export`` understands.
        example: what the model is called with.
        training: trace the train-mode forward.
        cuts: paths of modules that are not looked into; each call of one is a single node, `OPAQUE`.

    Raises:
        TraceError: the model cannot be run or exported; repeats torch's reason and names the innermost
            module that raised it.
    """
    twin = fresh_copy(model)
    unanchor(twin)
    args, kwargs = call_arguments(example)
    with undisturbed_rng(), mode(twin, training), quiet():
        try:
            calls = _record(model, example, training, cuts) if cuts else {}
            with opaque(twin, calls), _right_lstm_shapes(), Recorder() as recorder:
                program = torch.export.export(twin, args, kwargs, strict=False)
        except Exception as reason:  # torch.export raises anything, the model's own errors included
            raise _trace_error(model, example, training, cuts, reason) from reason
    return _read(program, twin, example, calls, recorder)


@contextmanager
def _right_lstm_shapes() -> Iterator[None]:
    """Let torch state the shapes of an LSTM's last states as they are: 2.9 and older leave an axis of size 1 in."""
    module = import_module("torch._decomp.decompositions")
    choose = module.select_one_layer_lstm_function

    def chosen(*args: Any) -> Any:
        return partial(_one_lstm_layer, choose(*args))

    module.select_one_layer_lstm_function = chosen  # type: ignore[attr-defined]
    try:
        yield
    finally:
        module.select_one_layer_lstm_function = choose  # type: ignore[attr-defined]


def _one_lstm_layer(run: Any, *args: Any, **kwargs: Any) -> Any:
    out, states = run(*args, **kwargs)
    return out, tuple(s.squeeze(0) if s.dim() == 3 else s for s in states)


def _record(
    model: nn.Module, example: Example, training: bool, cuts: Collection[str]
) -> dict[tuple[str, int], ModuleCall]:
    """The calls of some modules, from a real run of a copy."""
    twin = fresh_copy(model)
    with mode(twin, training), torch.no_grad(), recording(twin, cuts) as calls:
        call(twin, example)
    return calls


def _failing_module(model: nn.Module, example: Example, training: bool, cuts: Collection[str]) -> str:
    """The innermost module that ``torch.export`` fails in; ``""`` when it is the model's own forward."""
    twin = fresh_copy(model)
    args, kwargs = call_arguments(example)
    with mode(twin, training), watching(twin) as raised:
        try:
            with opaque(twin, _record(model, example, training, cuts) if cuts else {}):
                torch.export.export(twin, args, kwargs, strict=False)
        except Exception:  # the same as before; only its place is wanted
            return raised[0] if raised else ""
    return ""


def _trace_error(
    model: nn.Module, example: Example, training: bool, cuts: Collection[str], reason: Exception
) -> TraceError:
    lines = [line.strip() for line in str(reason).strip().splitlines() if line.strip()]
    first = f"{type(reason).__name__}: {lines[0] if lines else 'no message'}"
    calls = _Calls()
    try:
        with torch.no_grad(), calls:
            call(fresh_copy(model), example)
    except Exception as own:
        told = str(own).strip().splitlines() or ["no message"]
        return TraceError(
            "the model does not run on the example",
            why=f"{type(own).__name__}: {told[0]}",
            do="pass as `example` exactly what model(...) takes: a tensor, a tuple, or a dict of keyword arguments",
        )
    path = _failing_module(model, example, training, cuts)
    source = _source_line(str(reason)) or _forward_line(reason)
    where = Where(path, source) if source or path else None
    if "_pack_padded_sequence" in calls.names:
        return TraceError(
            "a packed sequence cannot be traced",
            where=where,
            why=f"its layout depends on the values of the lengths ({first})",
            do="run the recurrent layer on the padded batch and pool over the positions that count, or convert the "
            "model for sequences of one length",
        )
    return TraceError(
        "torch.export cannot trace the model",
        where=where,
        why=first,
        do="replace branches and loops that depend on tensor values (torch.where, fixed lengths), "
        + (
            f'declare how {path} acts with rc_leaf, or pass on_unsupported="both_strands"'
            if path
            else "or move them into a submodule, which rc_leaf can declare"
        ),
    )


class _Calls(TorchFunctionMode):
    """Collects the names of torch functions that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(getattr(func, "__name__", ""))
        return func(*args, **(kwargs or {}))


def _forward_line(reason: Exception) -> str | None:
    """Where in the user's code an exception arose while torch was running it."""
    frames = [(f.filename, f.lineno) for f in traceback.extract_tb(reason.__traceback__)]
    inside = next((i for i, (name, _) in enumerate(frames) if name.startswith(_TORCH)), len(frames))
    return _source_line("\n".join(f'File "{name}", line {line}' for name, line in frames[inside:]))


# --- reading an exported program ---------------------------------------------------------------


def _read(
    program: Any, model: nn.Module, example: Example, opaque: Mapping[tuple[str, int], ModuleCall], recorder: Recorder
) -> Trace:
    sources = dict(_sources(program, model, example))
    flattened = _Flattened()
    outputs = flattened.run(program.graph_module, {name: Ref(name) for name in sources}, "")
    kept = [
        out
        for out, spec in zip(outputs, program.graph_signature.output_specs, strict=True)
        if spec.kind.name == "USER_OUTPUT"
    ]
    written = _written(flattened.nodes, sources)
    calls = tuple(flattened.calls(recorder))
    names = _first_names(model)
    return Trace(flattened.nodes, sources, kept, program.call_spec.out_spec, written, opaque, names, calls)


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


@dataclass
class _Marks:
    """The marks of a call in a graph.

    Attributes:
        given, made: as of a `Call`.
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
            if isinstance(node, Mapped):
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
        if node.target is MARK:
            x, number, part = args
            self._mark(x, number, part, (where, scope))
            return x
        name = prefix + node.name
        where = Where(where.path, where.source, name)
        self.nodes.append(Node(name, node.target, args, kwargs, where, scope, node.meta.get("val")))
        return Ref(name)

    def _mapped(self, call: Mapped, env: dict[str, Any], prefix: str) -> None:
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

    def _mark(self, x: Any, number: int, part: str, place: tuple[Where, tuple[tuple[str, str], ...]]) -> None:
        """Note where a call begins or ends; the marks themselves are no operators of the model."""
        if part == "given":
            self.marks[number] = _Marks(x, place, len(self.nodes))
        elif number in self.marks:
            marks = self.marks[number]
            marks.end = marks.end or len(self.nodes)
            marks.made = x if part == "made" else marks.made

    def calls(self, recorder: Recorder) -> Iterator[Call]:
        """The calls whose marks are in the graph."""
        for number, marks in sorted(self.marks.items()):
            if isinstance(marks.given, Ref):
                nodes = tuple(n.name for n in self.nodes[marks.start : marks.end])
                yield Call(*recorder.calls[number], marks.given, marks.made, nodes, *marks.place)

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
    return Where(path, _source_line(node.meta.get("stack_trace"))), scope


def _source_line(stack: str | None) -> str | None:
    """The innermost frame outside torch and this package."""
    frames = [(f, n) for f, n in _FRAME.findall(stack or "") if not f.startswith((_TORCH, _HERE))]
    if not frames:
        return None
    file, number = frames[-1]
    near = os.path.relpath(file)
    return f"{file if near.startswith('..') else near}:{number}"


# --- running parts of a graph ------------------------------------------------------------------

WIDER = {torch.float32: torch.float64, torch.float16: torch.float64, torch.bfloat16: torch.float64}
WIDER[torch.complex64] = torch.complex128


def widened(argument: Any) -> Any:
    """An argument of an operator with a dtype replaced by its double-precision kin."""
    return WIDER.get(argument, argument) if isinstance(argument, torch.dtype) else argument


@contextmanager
def double_precision() -> Iterator[None]:
    """New tensors are float64 unless their dtype is named."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


# --- in-place writes ---------------------------------------------------------------------------


def is_inplace(op: Any) -> bool:
    """Whether an operator writes into its first argument."""
    schema = getattr(op, "_schema", None)
    first = schema.arguments[0] if schema is not None and schema.arguments else None
    return first is not None and first.alias_info is not None and first.alias_info.is_write


def written_refs(node: Node) -> list[str]:
    """Names of the results that a node writes into: the target of an in-place operator, or ``out=``."""
    schema = getattr(node.op, "_schema", None)
    if schema is None:
        return []
    given = {a.name: value for a, value in zip(schema.arguments, node.args, strict=False)} | node.kwargs
    marked = [given.get(a.name) for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    return [leaf.name for leaf in pytree.tree_leaves(marked) if isinstance(leaf, Ref)]


def is_view(op: Any) -> bool:
    """Whether an operator may return a view of its first argument."""
    schema = getattr(op, "_schema", None)
    first = schema.arguments[0] if schema is not None and schema.arguments else None
    return first is not None and first.alias_info is not None and not first.alias_info.is_write


def storage_roots(nodes: list[Node]) -> dict[str, str]:
    """For each result, the result whose storage it may share."""
    roots: dict[str, str] = {}
    for node in nodes:
        refs = written_refs(node)
        if is_view(node.op) or node.op is operator.getitem:
            refs = node.refs()
        if refs:
            roots[node.name] = roots.get(refs[0], refs[0])
    return roots


def _written(nodes: list[Node], sources: dict[str, Source]) -> frozenset[str]:
    """Created tensors that an in-place operator fills with values computed from the inputs."""
    computed = {name for name, s in sources.items() if s.kind in ("input", "parameter")}
    roots, by_name = storage_roots(nodes), {n.name: n for n in nodes}
    written: set[str] = set()
    for node in nodes:
        if not any(r in computed for r in node.refs()):
            continue
        computed.add(node.name)
        for root in (roots.get(r, r) for r in written_refs(node)):
            if root not in computed and (root in by_name or root in sources):
                written.add(root)
    return frozenset(written)


def changed_parameters(trace_: Trace) -> Iterator[tuple[Node, str]]:
    """The nodes that write into a parameter, each with its name in the model."""
    roots = storage_roots(trace_.nodes)
    for node in trace_.nodes:
        for name in {roots.get(r, r) for r in written_refs(node)}:
            source = trace_.sources.get(name)
            if source is not None and source.kind == "parameter":
                yield node, source.target


def interpret(
    trace_: Trace,
    values: dict[str, Any],
    each: Callable[[Node, Any], None] | None = None,
    model: nn.Module | None = None,
    run: Callable[[Node, Any, Any], Any] | None = None,
) -> list[Any]:
    """Run a trace on values for its sources; `each` sees every node and its result.

    Args:
        trace_: a traced model.
        values: a value for each source, by name.
        each: called after each node.
        model: has the modules that the trace does not look into; needed if there are any.
        run: computes a node from its arguments, instead of its operator.

    Returns: the output leaves.
    """
    env = dict(values)

    def fill(leaf: Any) -> Any:
        return env[leaf.name] if isinstance(leaf, Ref) else leaf

    for node in trace_.nodes:
        args, kwargs = pytree.tree_map(fill, (node.args, node.kwargs))
        if node.op is OPAQUE:
            env[node.name] = _run_module(trace_, model, *args)
        else:
            env[node.name] = run(node, args, kwargs) if run else node.op(*args, **kwargs)
        if each is not None:
            each(node, env[node.name])
    return [fill(out) for out in trace_.outputs]


def _run_module(trace_: Trace, model: nn.Module | None, tensors: list[Any], path: str, number: int) -> list[Any]:
    assert model is not None
    args, kwargs = trace_.opaque[path, number].given.filled(tensors)
    return [v for v in pytree.tree_leaves(model.get_submodule(path)(*args, **kwargs)) if isinstance(v, torch.Tensor)]
