"""What the package uses of torch beyond its documentation, in one place: each with a test of its own.

A version of torch that changes one of these breaks this file and its line in ``tests/test_private.py``.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch._library.custom_ops import CustomOpDef as CustomOpDef
from torch.fx import Node as FxNode
from torch.nn.modules.batchnorm import _NormBase as NormBase
from torch.nn.modules.conv import _ConvTransposeNd as ConvTransposeNd
from torch.nn.modules.instancenorm import _InstanceNorm as InstanceNorm
from torch.nn.utils import parametrize
from torch.overrides import _get_current_function_mode_stack
from torch.utils import _pytree as pytree  # `torch.utils.pytree` has no `is_leaf` and no `tree_map_only`
from torch.utils._python_dispatch import TorchDispatchMode as DispatchMode

__all__ = [
    "ENTER",
    "LEAVE",
    "OPERATORS",
    "PADS",
    "REPLICATE",
    "SETUP",
    "WRAPPERS",
    "ConvTransposeNd",
    "CustomOpDef",
    "DispatchMode",
    "InstanceNorm",
    "ModeState",
    "NormBase",
    "Tabled",
    "WeightNormKeys",
    "all_modules",
    "arguments",
    "caches_weights",
    "calling_modules",
    "chains",
    "convolve",
    "draws_random_numbers",
    "drop_hooks",
    "forward_gradients",
    "frames",
    "frames_in",
    "function_modes",
    "function_name",
    "has_modes",
    "hide_buffers",
    "hold_the_same",
    "holds",
    "hook_tables",
    "in_backward",
    "inputs_of",
    "is_compiling",
    "is_operator",
    "is_recomputed",
    "is_recorded",
    "is_replica",
    "is_scripting",
    "is_wrapper",
    "keep_whole",
    "leave_map",
    "make_hooks_picklable",
    "member_tables",
    "only_step",
    "op_name",
    "order_parameters",
    "out_spec",
    "output_padding",
    "overloads",
    "own_copying",
    "own_tensors",
    "parameter_order",
    "picklable",
    "plain_tensors",
    "plain_twin",
    "pre_hooks",
    "pytree",
    "quick_graphs",
    "reader",
    "refresh_recurrent",
    "replica",
    "returned",
    "right_lstm_shapes",
    "scope",
    "stored_name",
    "transform_level",
    "unguarded",
    "unseen",
    "value",
    "version",
    "writes",
]

# --- function modes ------------------------------------------------------------------------------

unseen = torch._C.DisableTorchFunction
"""Context in which function modes see no calls; the documented one hides calls from subclasses only."""

plain_tensors = torch._C.DisableTorchFunctionSubclass
"""Context in which subclasses of tensors are computed with as tensors."""

PADS: tuple[Any, ...] = (torch.nn.functional.pad, torch._C._nn.pad)
"""What a function mode may see of ``F.pad``: the function, or what it is bound to."""


def function_name(function: Any) -> str:
    """The name of a function, also of one of ``torch.nn.functional`` that picks among two."""
    return str(getattr(function, "__name__", function)).strip("_").removeprefix("boolean_dispatch")


_ENABLED: list[Any] = []
"""What lets modes catch calls again, for as long as it is held."""


class ModeState:
    """Which modes of torch are entered on this thread: one whose ``with`` block was interrupted stays for good."""

    def __init__(self) -> None:
        self.functions, self.dispatches = torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()
        self.caught = torch._C._is_torch_function_enabled()

    def restore(self) -> None:
        """Leave what was entered since."""
        while torch._C._len_torch_dispatch_stack() > self.dispatches:
            torch.utils._python_dispatch._pop_mode()
        while torch._C._len_torch_function_stack() > self.functions:
            torch._C._pop_torch_function_stack()
        if self.caught and not torch._C._is_torch_function_enabled():
            _ENABLED.append(torch._C._EnableTorchFunction())


# --- vmap ----------------------------------------------------------------------------------------

ENTER, LEAVE, SETUP = "_vmap_increment_nesting", "_vmap_decrement_nesting", "lazy_load_decompositions"
"""Names of the calls that ``torch.vmap`` leaves in an exported graph before, after, and for itself."""


def is_compiling() -> bool:
    """Whether the calls of this thread are compiled or exported: torch's own answer is one for all threads."""
    if not torch.compiler.is_compiling():
        return False
    return torch.compiler.is_dynamo_compiling() or torch._C._len_torch_dispatch_stack() > 0


def is_recorded() -> bool:
    """Whether the calls of this thread are compiled, exported, or traced by ``torch.jit``."""
    return is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]


def transform_level() -> int | None:
    """How many transforms such as ``torch.vmap`` are running, one in the other; None without any, or in a compiler."""
    return None if torch.compiler.is_dynamo_compiling() else torch._C._functorch.maybe_current_level()


def function_modes() -> list[Any]:
    """The torch function modes that are active, the outermost first."""
    return list(_get_current_function_mode_stack())


def has_modes() -> bool:
    """Whether any torch function mode is active: cheaper to ask than which."""
    return torch._C._len_torch_function_stack() > 0


def caches_weights() -> bool:
    """Whether ``torch.nn.utils.parametrize.cached`` is active."""
    return bool(parametrize._cache_enabled)


def only_step(module: nn.Module, name: str) -> tuple[Any, Any]:
    """The list of parametrizations of a tensor, and its only member; None in its place where there is more to run."""
    chain: Any = module._modules["parametrizations"]._modules[name]  # type: ignore[union-attr]
    steps = chain._modules
    watched = chain._forward_pre_hooks or chain._forward_hooks
    return chain, steps["0"] if len(steps) == 1 and not watched else None


def draws_random_numbers(overload: Any) -> bool:
    """Whether an operator's result depends on the state of a generator."""
    return torch.Tag.nondeterministic_seeded in getattr(overload, "tags", ())


def leave_map() -> None:
    """End the innermost ``torch.vmap``."""
    torch._C._functorch._vmap_decrement_nesting()


# --- autograd and checkpoints --------------------------------------------------------------------


def in_backward() -> bool:
    """Whether a backward pass runs on this thread, as when a checkpoint runs its function again."""
    return torch._C._current_graph_task_id() != -1


def forward_gradients() -> bool:
    """Whether forward-mode differentiation runs (``torch.autograd.forward_ad``, ``torch.func.jvp``)."""
    return int(torch.autograd.forward_ad._current_level) >= 0


def version(x: Tensor) -> int:
    """How often a tensor was written into."""
    return int(x._version)


def calling_modules() -> Iterator[nn.Module]:
    """The modules whose forward is running on this thread, the innermost first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name in ("_call_impl", "forward") and isinstance(frame.f_locals.get("self"), nn.Module):
            yield frame.f_locals["self"]
        frame = frame.f_back


def reader() -> tuple[str, str]:
    """The names of the module and the function that read a parametrized weight just now."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_globals.get("__name__") in _READING:
        frame = frame.f_back
    return ("", "") if frame is None else (str(frame.f_globals.get("__name__")), frame.f_code.co_name)


_READING = ("torch.nn.modules.module", "torch.nn.utils.parametrize", "rcps_convert.graph.parametrized")
"""Between a weight and who reads it."""

_SCRIPT = os.path.join("torch", "jit", "_script.py")


def is_scripting() -> bool:
    """Whether ``torch.jit.script`` is reading a module."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not frame.f_code.co_filename.endswith(_SCRIPT):
        frame = frame.f_back
    return frame is not None


_MODULE_CALL = os.path.join("torch", "nn", "modules", "module.py")
_CHECKPOINT = os.path.join("torch", "utils", "checkpoint.py")


def is_recomputed() -> bool:
    """Whether a checkpoint lies between a call and its module: the backward pass repeats it outside of the module."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not frame.f_code.co_filename.endswith(_MODULE_CALL):
        if frame.f_code.co_filename.endswith(_CHECKPOINT):
            return True
        frame = frame.f_back
    return False


# --- the compiler --------------------------------------------------------------------------------


def keep_whole(function: Callable[..., Any]) -> None:
    """Let ``torch.compile`` take a function as it is instead of looking inside."""
    torch.compiler.allow_in_graph(function)  # documented; it imports torch._dynamo, hence only when needed


# --- exported programs ---------------------------------------------------------------------------

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
    """Record graphs that are read and not run: no code is written for them, and lines are named by a shorter way."""
    module, lazy = import_module("torch.fx.proxy"), import_module("torch.fx._lazy_graph_module")
    usual = module.CapturedTraceback
    try:
        module.CapturedTraceback = _CallersLines  # type: ignore[attr-defined]
        with lazy._use_lazy_graph_module(True):
            yield
    finally:
        module.CapturedTraceback = usual  # type: ignore[attr-defined]


@contextmanager
def right_lstm_shapes() -> Iterator[None]:
    """Let torch state the shapes of an LSTM's last states as they are: up to 2.11 it leaves an axis of size 1 in."""
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


# --- operators -----------------------------------------------------------------------------------


OPERATORS: tuple[type, ...] = (torch._ops.OpOverload, torch._ops.OpOverloadPacket, torch._ops.HigherOrderOperator)
"""What torch's operators are instances of."""


def overloads(op: Any) -> list[Any]:
    """The overloads of a packet; an operator that is none, or the one that a custom operator's definition holds."""
    if hasattr(op, "overloads") and not isinstance(op, torch._ops.OpOverload):
        return [getattr(op, name) for name in op.overloads()]
    return [getattr(op, "_opoverload", op)]


def is_operator(op: Any) -> bool:
    """Whether something is an operator, a packet of its overloads, or a custom operator's definition."""
    return isinstance(op, OPERATORS) or hasattr(op, "_opoverload")


def op_name(op: Any) -> str:
    """The operator's plain name: ``conv1d`` for ``aten.conv1d.default``."""
    return str(getattr(op, "_opname", None) or getattr(op, "__name__", str(op)))


def arguments(op: Any) -> list[Any]:
    """The arguments an operator's schema names, each with ``name`` and ``alias_info``; none if it has no schema."""
    schema = getattr(op, "_schema", None)
    return list(schema.arguments) if schema is not None else []


def writes(argument: Any) -> bool:
    """Whether an operator writes into this argument."""
    return argument.alias_info is not None and bool(argument.alias_info.is_write)


def plain_twin(op: Any) -> Any:
    """The operator that an in-place one is named after; None for other operators, and if there is none."""
    name = op_name(op)
    if not arguments(op) or not name.endswith("_") or name.endswith("__"):
        return None
    packet = getattr(getattr(torch.ops, op.namespace), name[:-1], None)
    return getattr(packet, op._overloadname, None) or getattr(packet, "default", None)


# --- modules -------------------------------------------------------------------------------------


def pre_hooks(module: nn.Module) -> list[Any]:
    """What runs before a module's forward, in order."""
    return list(module._forward_pre_hooks.values())


def hook_tables(module: nn.Module) -> list[Any]:
    """A module's tables of what runs before its forward and after it."""
    return [module._forward_pre_hooks, module._forward_hooks]


def drop_hooks(module: nn.Module, matches: Callable[[Any], bool]) -> None:
    """Remove the hooks around a module's forward that match, and what the module notes of them."""
    pre = (module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs)
    post = (module._forward_hooks, module._forward_hooks_with_kwargs, module._forward_hooks_always_called)
    for hooks, *flags in (pre, post):
        for key in [k for k, h in hooks.items() if matches(h)]:
            del hooks[key]
            for table in flags:
                table.pop(key, None)


def holds(module: nn.Module) -> tuple[nn.Module | None, ...]:
    """What is in the places for submodules of a module."""
    return tuple(module._modules.values())


def hold_the_same(before: list[tuple[nn.Module, tuple[nn.Module | None, ...]]]) -> bool:
    """Whether modules hold what they held: quick, as it is asked at each call of a model."""
    return all(tuple(module._modules.values()) == held for module, held in before)


def all_modules(model: nn.Module) -> list[nn.Module]:
    """A model and the modules it holds, each once, in the order of ``modules()``, which takes twice as long."""
    found: dict[nn.Module, None] = {}
    rest: list[nn.Module | None] = [model]
    while rest:
        module = rest.pop()
        if module is not None and module not in found:
            found[module] = None
            rest += reversed(module._modules.values())
    return [*found]


def own_tensors(module: nn.Module) -> list[Tensor]:
    """The parameters and buffers that a module holds itself, as they are stored."""
    return [t for t in (*module._parameters.values(), *module._buffers.values()) if t is not None]


def member_tables(module: nn.Module) -> list[dict[str, Any]]:
    """What a module holds: its attributes, parameters, buffers and submodules."""
    return [vars(module), module._parameters, module._buffers, module._modules]


def parameter_order(module: nn.Module) -> list[str]:
    """The names of a module's own parameters, in the order of ``state_dict``."""
    return list(module._parameters)


REPLICATE = "_replicate_for_data_parallel"
"""The method of a module that makes a replica for ``nn.DataParallel``."""


def is_replica(module: nn.Module) -> bool:
    """Whether a module is a replica that ``nn.DataParallel`` made."""
    return "_is_replica" in vars(module)


def replica(module: nn.Module) -> Any:
    """A replica for ``nn.DataParallel``, as the module's class makes it."""
    return type(module)._replicate_for_data_parallel(module)  # type: ignore[operator]


def order_parameters(module: nn.Module, order: list[str]) -> None:
    """Bring a module's own parameters into an order; those not named come last."""
    here = module._parameters
    module._parameters = {n: here[n] for n in [*(n for n in order if n in here), *(n for n in here if n not in order)]}


def hide_buffers(module: nn.Module, like: nn.Module) -> None:
    """Keep the buffers of a module that another one does not have out of its ``state_dict``."""
    module._non_persistent_buffers_set |= module._buffers.keys() - like._buffers.keys()


def convolve(module: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """What a convolution would compute with another weight and no bias."""
    return module._conv_forward(x, weight, None)  # type: ignore[operator,union-attr]


def output_padding(module: nn.Module, x: Tensor, size: list[int]) -> list[int]:
    """What a transposed convolution pads so that its result has a size."""
    rank = len(module.kernel_size)  # type: ignore[arg-type]
    return module._output_padding(x, size, module.stride, module.padding, module.kernel_size, rank, module.dilation)  # type: ignore[operator,union-attr]


def refresh_recurrent(module: nn.RNNBase) -> None:
    """Let a recurrent layer read its weights anew."""
    module._init_flat_weights()


# --- parametrizations ----------------------------------------------------------------------------


def chains(module: nn.Module) -> dict[str, Any]:
    """The lists of parametrizations of a module by the name of the parameter; empty without any."""
    return dict(module.parametrizations.items()) if nn.utils.parametrize.is_parametrized(module) else {}  # type: ignore[union-attr,operator]


class Tabled(nn.Module):
    """A module whose buffers follow from its settings: ``to_empty``, which takes their values, gives them back."""

    def tables(self) -> dict[str, Tensor]:
        """The buffers, made anew."""
        raise NotImplementedError

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        made = super()._apply(fn, recurse)
        held = {name: b for name, b in self._buffers.items() if b is not None and b.device.type != "meta"}
        if held:
            for name, value in self.tables().items():
                held[name].copy_(value)
        return made


class WeightNormKeys:
    """What renames the keys of old checkpoints for ``weight_norm``: torch's is a local function, this can be pickled.

    Args:
        name: of the normed parameter.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, state_dict: dict[str, Any], prefix: str, *given: Any) -> None:
        """Rename the two keys of a normed parameter, in place."""
        keys = [f"{prefix}{self.name}_{part}" for part in "gv"]
        if all(key in state_dict for key in keys):
            for i, key in enumerate(keys):
                state_dict[f"{prefix}parametrizations.{self.name}.original{i}"] = state_dict.pop(key)


def make_hooks_picklable(module: nn.Module) -> None:
    """Put `WeightNormKeys` in the place of torch's own, in a module that ``weight_norm`` was applied to."""
    table: dict[int, Any] = module._load_state_dict_pre_hooks
    for key, wrapped in table.items():
        hook = getattr(wrapped, "hook", wrapped)
        if getattr(hook, "__qualname__", "") == "weight_norm.<locals>._weight_norm_compat_hook":
            name = hook.__closure__[hook.__code__.co_freevars.index("name")].cell_contents
            table[key] = type(wrapped)(WeightNormKeys(name)) if wrapped is not hook else WeightNormKeys(name)


def stored_name(path: str, leaf: str) -> str:
    """The key in ``state_dict`` of what a parametrized parameter is computed from."""
    return f"{path}.parametrizations.{leaf}.original".lstrip(".")


def own_copying(module: nn.Module) -> Any:
    """``__deepcopy__`` as torch put it on the class of a parametrized module; None if the user's class has one."""
    return vars(type(module)).get("__deepcopy__")
