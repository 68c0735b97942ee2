"""Modes, vmap and the compiler: what watches or records the calls of this thread."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import maybe_current_level
from torch._library.custom_ops import CustomOpDef as CustomOpDef
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx._symbolic_trace import is_fx_symbolic_tracing
from torch.nn.utils import parametrize
from torch.overrides import _get_current_function_mode_stack

from .memory import MadeOf

# --- function modes -------------------------------------------------------------------------------

unseen = torch._C.DisableTorchFunction
"""Context in which function modes see no calls; the documented one hides calls from subclasses only."""

plain_tensors = torch._C.DisableTorchFunctionSubclass
"""Context in which subclasses of tensors are computed with as tensors."""

as_plain_tensor = torch._C._disabled_torch_function_impl
"""The ``__torch_function__`` of a subclass of tensors whose results are plain tensors."""

PADS: tuple[Any, ...] = (torch.nn.functional.pad, torch._C._nn.pad)
"""What a function mode may see of ``F.pad``: the function, or what it is bound to."""


def function_name(function: Any) -> str:
    """The name of a function, also of one of ``torch.nn.functional`` that picks among two."""
    return str(getattr(function, "__name__", function)).strip("_").removeprefix("boolean_dispatch")


_KEYS = torch._C.DispatchKey

_HELD: list[Any] = []
"""What undoes that a ``with`` block was not left, for as long as it is held."""


class ModeState:
    """Which modes of torch are entered on this thread: one whose ``with`` block was interrupted stays for good."""

    def __init__(self) -> None:
        self.functions, self.dispatches = torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()
        self.caught = torch._C._is_torch_function_enabled()
        self.decomposed = _is_included(_KEYS.PythonDispatcher)
        self.recorded, self.recording = _is_included(_KEYS.PreDispatch), _recording()
        self.dispatched, self.all = _is_included(_KEYS.Python), _entered()

    def differ(self) -> bool:
        """Whether others are entered now."""
        return _entered() != self.all

    def restore(self) -> None:
        """Leave what was entered since."""
        while torch._C._len_torch_dispatch_stack() > self.dispatches:
            torch.utils._python_dispatch._pop_mode()
        while torch._C._len_torch_function_stack() > self.functions:
            torch._C._pop_torch_function_stack()
        if _is_included(_KEYS.PreDispatch) and not self.recorded:
            for key in _recording() - self.recording:
                torch._ops.unset_mode_pre_dispatch(key)
            torch._C._dispatch_tls_set_dispatch_key_included(_KEYS.PreDispatch, False)
        if _is_included(_KEYS.PythonDispatcher) and not self.decomposed:
            _HELD.append(torch._C._DisablePythonDispatcher())
            _HELD[-1].__enter__()
        if _is_included(_KEYS.Python) and not (self.dispatched or torch._C._len_torch_dispatch_stack()):
            torch._C._dispatch_tls_set_dispatch_key_included(_KEYS.Python, False)
        if self.caught and not torch._C._is_torch_function_enabled():
            _HELD.append(torch._C._EnableTorchFunction())


@contextmanager
def modes_left() -> Iterator[None]:
    """Leave the modes that an exception in the block did not: torch 2.9 stays in those of an export that failed."""
    before = ModeState()
    try:
        yield
    except BaseException:
        if before.differ():
            before.restore()
        raise


def _entered() -> tuple[Any, ...]:
    """What tells which modes are entered on this thread."""
    lengths = torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()
    keys = (_KEYS.Python, _KEYS.PythonDispatcher, _KEYS.PreDispatch)
    return lengths, torch._C._is_torch_function_enabled(), [*map(_is_included, keys)], _recording()


def _is_included(key: Any) -> bool:
    """Whether operators of this thread go by a dispatch key.

    ``PreDispatch``: they are recorded before they are dispatched. ``PythonDispatcher``: torch's own decompositions
    take their place. Both are so while ``torch.export`` runs.
    """
    return bool(torch._C._dispatch_tls_is_dispatch_key_included(key))


def _recording() -> set[Any]:
    """The kinds of mode that record operators before they are dispatched: a stack apart, which all threads share."""
    modes, keys = torch._ops.mode_stack_state_for_pre_dispatch(), torch._C._TorchDispatchModeKey
    return {key for i, key in enumerate((keys.PROXY, keys.FUNCTIONAL)) if modes.get(i) is not None}


# --- what watches ---------------------------------------------------------------------------------

_compiler, _traces_code = torch.compiler, torch.compiler.is_dynamo_compiling
_tracing, _level = torch._C._get_tracing_state, maybe_current_level
_functions, _dispatches = torch._C._len_torch_function_stack, torch._C._len_torch_dispatch_stack
_caller, _learns = sys._getframe, torch.is_grad_enabled

# --- vmap -----------------------------------------------------------------------------------------

ENTER, LEAVE, SETUP = "_vmap_increment_nesting", "_vmap_decrement_nesting", "lazy_load_decompositions"
"""Names of the calls that ``torch.vmap`` leaves in an exported graph before, after, and for itself."""


def is_compiling() -> bool:
    """Whether the calls of this thread are compiled or exported: torch's own answer is one for all threads."""
    if not torch.compiler.is_compiling():
        return False
    return torch.compiler.is_dynamo_compiling() or torch._C._len_torch_dispatch_stack() > 0


def told_to_compiler(ask: Callable[[], Any]) -> Callable[[], Any]:
    """A function whose answer the compiler takes for a constant: it is asked when a call is compiled."""

    def asked() -> Any:
        return ask()

    asked._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return asked


def not_compiled(work: Callable[..., None], why: str) -> Callable[..., None]:
    """A function that is called as it is where its caller is compiled.

    Args:
        work: the function.
        why: what the compiler says where it may not break the graph.
    """

    def called(*args: Any) -> None:
        torch._dynamo.disable(work)(*args)

    called._torchdynamo_disable, called._torchdynamo_disable_msg = True, why  # type: ignore[attr-defined]
    return called


def is_recorded() -> bool:
    """Whether the calls of this thread are compiled, exported, or traced by ``torch.jit`` or ``torch.fx``."""
    if not (_traces_code() or _compiler._is_compiling_flag or _tracing() or is_fx_symbolic_tracing()):
        return False  # most often, and asked at each read of a weight
    return is_compiling() or torch.jit.is_tracing() or is_fx_symbolic_tracing()  # type: ignore[attr-defined]


def transform_level() -> int | None:
    """How many transforms such as ``torch.vmap`` are running, one in the other; None without any, or in a compiler."""
    return None if torch.compiler.is_dynamo_compiling() else torch._C._functorch.maybe_current_level()


def is_mapped() -> bool:
    """Whether a ``torch.vmap`` is the innermost transform that is running; others take gradients."""
    if transform_level() is None:
        return False
    functorch: Any = torch._C._functorch
    return bool(functorch.peek_interpreter_stack().key() == functorch.TransformType.Vmap)


def function_modes() -> list[Any]:
    """The torch function modes that are active, the outermost first."""
    return list(_get_current_function_mode_stack())


def has_modes() -> bool:
    """Whether any torch function mode is active: cheaper to ask than which."""
    return torch._C._len_torch_function_stack() > 0


@contextmanager
def modes_aside(kind: type) -> Iterator[None]:
    """Let modes of a kind see no calls; those around and inside of them do."""
    if not has_modes():
        yield
        return
    modes = function_modes()
    _enter_instead([mode for mode in modes if not isinstance(mode, kind)])
    try:
        yield
    finally:
        _enter_instead(modes)


def _enter_instead(modes: list[Any]) -> None:
    """Put function modes in the place of those that are active."""
    while has_modes():
        torch._C._pop_torch_function_stack()
    for mode in modes:
        torch._C._push_on_torch_function_stack(mode)


def is_unwatched() -> bool:
    """Whether nothing compiles, records, catches, transforms or caches what this thread computes."""
    return not (
        _traces_code()
        or _compiler._is_compiling_flag
        or _functions()
        or _tracing()
        or _dispatches()
        or _level() is not None
        or parametrize._cache_enabled
    )


def is_uncaught() -> bool:
    """Whether nothing compiles, records, or catches what this thread calls; transforms may run, and modes below."""
    return not (_traces_code() or _compiler._is_compiling_flag or _functions() or _tracing())


def read_by(code: Any, module: nn.Module, name: str) -> tuple[Any, Any]:
    """`only_step` of a parametrized tensor that some code reads just now, while nothing watches; else None for both.

    Args:
        code: of the function that calls who asks.
        module, name: where the tensor is.
    """
    if not is_unwatched() or sys._getframe(2).f_code is not code:
        return None, None
    return only_step(module, name)


def made_before(code: Any, module: nn.Module, name: str) -> Tensor | None:
    """What the only parametrization of a tensor made last, if it holds and what is asked of `read_by` does.

    None else. This says once more what others here say, as a call of each would take as long as all of this.

    Args:
        code, module, name: as of `read_by`. The parametrization keeps a `MadeOf` as ``seen``, or has none; and the
            attributes of a model as ``owner``, whose forward is the ``usual`` one.
    """
    if _traces_code() or _compiler._is_compiling_flag or _caller(2).f_code is not code:  # a compiler sees no callers
        return None
    if _functions() or _dispatches() or _tracing() or parametrize._cache_enabled or _level() is not None:
        return None
    chain: Any = module._modules["parametrizations"]._modules[name]  # type: ignore[union-attr]
    steps = chain._modules
    if len(steps) != 1 or chain._forward_pre_hooks or chain._forward_hooks:
        return None
    held, stored = steps["0"].__dict__, chain._parameters
    if "seen" not in held or type(seen := held["seen"]) is not MadeOf or not (owner := held.get("owner")):
        return None
    if owner.get("forward") is not held.get("usual", held):
        return None
    if "original" not in stored or type(x := stored["original"]) is not nn.Parameter or (_learns() and x.requires_grad):
        return None
    return seen.of(x)


def caches_weights() -> bool:
    """Whether ``torch.nn.utils.parametrize.cached`` is active."""
    return bool(parametrize._cache_enabled)


def only_step(module: nn.Module, name: str) -> tuple[Any, Any]:
    """What a parametrized tensor is computed from, and its only parametrization.

    None for either where there is more of it, or hooks watch.
    """
    chain: Any = module._modules["parametrizations"]._modules[name]  # type: ignore[union-attr]
    steps = chain._modules
    if len(steps) != 1 or chain._forward_pre_hooks or chain._forward_hooks:
        return None, None
    return chain._parameters.get("original"), steps["0"]


def draws_random_numbers(overload: Any) -> bool:
    """Whether an operator's result depends on the state of a generator."""
    return torch.Tag.nondeterministic_seeded in getattr(overload, "tags", ())


def leave_map() -> None:
    """End the innermost ``torch.vmap``."""
    torch._C._functorch._vmap_decrement_nesting()


# --- the compiler ---------------------------------------------------------------------------------


def own_attributes(x: Tensor) -> dict[str, Any]:
    """The attributes of a tensor, but for what the compiler notes on its sizes, or was told of them."""
    return {n: value for n, value in vars(x).items() if not n.startswith("_dynamo_") and n not in _OF_SIZES}


_OF_SIZES = ("_has_dynamo_dim_marking", "_specialize_on")


def uncompiled() -> AbstractContextManager[Any]:
    """Context in which functions that ``torch.compile`` returned run as they were written."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled; it takes a second to import
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


def keep_whole(function: Callable[..., Any]) -> None:
    """Let ``torch.compile`` take a function as it is instead of looking inside."""
    torch.compiler.allow_in_graph(function)  # documented; it imports torch._dynamo, hence only when needed


# --- tensors without numbers ----------------------------------------------------------------------


def without_numbers() -> AbstractContextManager[Any]:
    """Context in which operators make tensors that have shapes and no numbers, of any; what asks for numbers raises."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def has_numbers(x: Tensor) -> bool:
    """Whether a tensor has numbers that can be read: none that a trace, or a transform that has ended, left behind."""
    return not (x.is_meta or isinstance(x, FakeTensor) or torch._C._functorch.is_functorch_wrapped_tensor(x))
