"""What a forward may ask for beside its inputs' values: precision, autocast, gradients, a device, who traces it.

A branch on any of these takes another way than the one that was traced and measured. Where the code of forward names
one of them, forward is run as it would be there; where it then calls other functions, the law is measured there too.
Precision and gradients are told to the user's code only, so that all is still computed in float64.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from .._torch import asked_by_user, function_name, users_line, without_numbers
from ..algebra.arguments import Example
from ..graph.attributes import is_users
from ..graph.held_objects import named_by_users_code
from ..graph.sandbox import fresh_copy
from ..graph.users_state import caches_kept_clean
from .probe import own_dtype
from .ways import Way, way_of

Context = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Situation:
    """Something that a forward may ask for.

    Attributes:
        words: where it is so, in words.
        names: code that asks names one of them.
        enter: lets it be so for a while.
        precision: nothing else than that a model of this precision is run.
    """

    words: str
    names: frozenset[str]
    enter: Context
    precision: torch.dtype | None = None


class _Told(TorchFunctionMode):
    """Tells the user's code other things of tensors of numbers than are so; torch and this package are told the truth.

    Args:
        answers: by the name of what is asked for; a function makes one of the truth, the tensor, and further arguments.

    Attributes:
        asked: the names of what the user's code asked for.
    """

    def __init__(self, answers: Mapping[str, Any]) -> None:
        super().__init__()
        self.answers, self.asked = answers, set[str]()
        self.device: torch.device | None = None  # where tensors are that are told to be elsewhere

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.device is not None:
            args, kwargs = [self._truly(v) for v in args], {name: self._truly(v) for name, v in kwargs.items()}
        found = func(*args, **kwargs)
        name = _asked(func)
        if name in OF_TENSORS and (name in OF_ANY or args[0].is_floating_point()) and asked_by_user():
            self.asked.add(name)
            if name == "device" and name in self.answers:
                self.device = found
            answer = self.answers.get(name, found)
            return answer(found, *args) if isinstance(answer, FunctionType) else answer
        return found

    def _truly(self, given: Any) -> Any:
        """An argument; where it names the place that tensors are told to be in, the one where they are."""
        told = self.answers["device"]
        is_told = isinstance(given, (str, torch.device)) and str(given) in (str(told), told.type)
        return self.device if is_told else given


def _asked(func: Any) -> str:
    """The name of the attribute of a tensor that a function reads; its own name where it is a method."""
    owner: Any = getattr(func, "__self__", None)
    return str(getattr(owner, "__name__", "")) if getattr(func, "__name__", "") == "__get__" else function_name(func)


def _told(**answers: Any) -> Context:
    return lambda: _Told(answers)


def _precision(dtype: torch.dtype) -> dict[str, Any]:
    return {"dtype": dtype, "element_size": dtype.itemsize, "itemsize": dtype.itemsize}


@contextmanager
def _autocast() -> Iterator[None]:
    """Autocast, which leaves float64 as it is; results are said to be bfloat16."""
    with ExitStack() as stack:
        for kind in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
            stack.enter_context(torch.autocast(kind, torch.bfloat16))
        yield


@contextmanager
def _autocast_seen() -> Iterator[None]:
    with _autocast(), _Told(_precision(torch.bfloat16)):
        yield


@contextmanager
def _other_default() -> Iterator[None]:
    """Another precision of new tensors."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32 if before == torch.float64 else torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _deterministic() -> Iterator[None]:
    """Deterministic algorithms, with warnings where an operator has none."""
    before = torch.are_deterministic_algorithms_enabled()
    only_warned = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=only_warned)


@contextmanager
def _answered(answers: Mapping[str, Any]) -> Iterator[None]:
    """Functions that answer the user's code on this thread something else; all else is told the truth.

    Args:
        answers: by the name of the function.
    """
    places = [(table, name, f) for name, f in _functions(answers) for table in _tables_with(name, f)]
    thread = threading.get_ident()
    try:
        for table, name, function in places:
            table[name] = _answer(function, thread, answers[name])
        yield
    finally:
        for table, name, function in places:
            table[name] = function


def _answer(function: Callable[..., Any], thread: int, said: Any) -> Callable[..., Any]:
    def answer(*args: Any, **kwargs: Any) -> Any:
        told = _IDENT() == thread and users_line(1) is not None
        return said if told else function(*args, **kwargs)

    return answer


_IDENT = threading.get_ident  # the user's code may be told another one


def _functions(names: Iterable[str]) -> list[tuple[str, Any]]:
    return [(n, vars(place)[n]) for place in PLACES for n in names if n in vars(place)]


def _tables_with(name: str, function: Any) -> list[dict[str, Any]]:
    """Where code may find a function by its name: where it is defined, and among the globals of the user's code."""
    files = [file for path, file in [*sys.modules.items()] if is_users(path) or path in ASKED]
    return [vars(file) for file in files if getattr(file, "__dict__", {}).get(name) is function]


PLACES = (
    *(torch, torch.compiler, torch.jit, torch.onnx, torch.cuda, torch.distributed),
    *(torch.backends.mps, torch.backends.cuda, torch.utils.data, threading, os),
)
"""What tells whether gradients are recorded, a model is compiled, traced or exported, and about the machine."""

ASKED = tuple(place.__name__ for place in PLACES)


def _answering(**answers: Any) -> Context:
    return lambda: _answered(answers)


@contextmanager
def _recorded(answers: Mapping[str, Any]) -> Iterator[None]:
    """Gradients are said to be recorded."""
    with _answered({"is_grad_enabled": True}), _Told(answers):
        yield


def _recording(**answers: Any) -> Context:
    return lambda: _recorded(answers)


_OF_DEVICE = frozenset({"is_cuda", "is_cpu", "device", "get_device"})
_OF_PRECISION = frozenset({"dtype", "element_size", "itemsize"})
_OF_GRADIENTS = frozenset({"requires_grad", "is_leaf", "grad_fn"})
_RECORDED = _OF_GRADIENTS | {"is_grad_enabled"}
_OF_AUTOCAST = frozenset(
    {"is_autocast_enabled", "is_autocast_cpu_enabled", "get_autocast_dtype", "get_autocast_gpu_dtype"}
    | {"get_autocast_cpu_dtype", "is_autocast_cache_enabled"}
)

_OF_MEMORY = frozenset({"storage_offset", "_base", "storage", "untyped_storage", "_version", "output_nr"})
_OF_PLACE = frozenset({"is_shared", "is_pinned"})
_OF_BITS = frozenset({"is_neg", "is_conj"})
_OF_KEPT_GRADIENTS = frozenset({"grad", "retains_grad", "_backward_hooks"})

_PART = {"storage_offset": 1, "_version": 1, "output_nr": 1}
"""What is told of a tensor that is a part of another one, which was written into."""


def _twice(found: Any, *_: Any) -> Any:
    """A storage of twice the size."""
    if isinstance(found, torch.UntypedStorage):
        return torch.UntypedStorage(2 * found.nbytes(), device=found.device)
    return torch.TypedStorage(wrap_storage=_twice(found.untyped()), dtype=found.dtype, _internal=True)


def _another(found: Any, x: torch.Tensor, *_: Any) -> Any:
    """A tensor in the place of none."""
    return torch.ones_like(x) if found is None else found


def _expanded(found: Any, x: torch.Tensor, dim: int | None = None) -> Any:
    """The strides of a tensor whose samples are all the same one."""
    if dim is None:
        return (0, *found[1:])
    return found if dim % x.dim() else 0


_MADE = {"requires_grad": True, "is_leaf": False, "grad_fn": "a step before"}
"""What is told of a tensor that was computed while gradients are recorded."""

_COMPILED = ("is_compiling", "is_dynamo_compiling", "is_exporting")
_OF_WORKERS = ("get_num_threads", "get_num_interop_threads", "cpu_count", "process_cpu_count", "active_count")
_OF_SEVERAL = {"is_initialized": True, "get_rank": 1, "get_world_size": 2, "device_count": 2}
_OF_KERNELS = ("flash_sdp_enabled", "mem_efficient_sdp_enabled", "math_sdp_enabled", "cudnn_sdp_enabled")


def _where(words: str, **answers: Any) -> Situation:
    """Functions give these answers, by name."""
    return Situation(words, frozenset(answers), _answering(**answers))


def _on_a_thread() -> Context:
    """The user's code is told that another thread than it is runs."""
    return _answering(current_thread=threading.Thread(name="worker"), get_ident=1, get_native_id=1)


SITUATIONS = (
    Situation("with an input that requires a gradient", _RECORDED, _recording(requires_grad=True, is_leaf=True)),
    Situation("with an input that other gradients flow to", _RECORDED, _recording(**_MADE)),
    Situation("with parameters that are frozen", _OF_GRADIENTS, _told(requires_grad=False, grad_fn=None)),
    Situation("in inference mode", frozenset({"is_inference_mode_enabled", "is_inference"}), torch.inference_mode),
    Situation("with an input made in inference mode", frozenset({"is_inference"}), _told(is_inference=True)),
    Situation("under autocast", _OF_AUTOCAST, _autocast),
    Situation("under autocast", _OF_AUTOCAST | _OF_PRECISION, _autocast_seen),
    *(
        Situation(f"in {str(kind).removeprefix('torch.')}", _OF_PRECISION, _told(**_precision(kind)), kind)
        for kind in (torch.bfloat16, torch.float16, torch.float32)
    ),
    Situation("on a GPU", _OF_DEVICE, _told(is_cuda=True, is_cpu=False, device=torch.device("cuda", 0), get_device=0)),
    Situation("on a CPU", _OF_DEVICE, _told(is_cuda=False, is_cpu=True, device=torch.device("cpu"), get_device=-1)),
    Situation(
        "with an input that is a part of another tensor",
        _OF_MEMORY,
        _told(**_PART, _base=_another, storage=_twice, untyped_storage=_twice),
    ),
    Situation("with an input that is expanded", frozenset({"stride"}), _told(stride=_expanded)),
    Situation("with an input in shared or pinned memory", _OF_PLACE, _told(is_shared=True, is_pinned=True)),
    Situation(
        "with an input that is negated or conjugated when it is read", _OF_BITS, _told(is_neg=True, is_conj=True)
    ),
    Situation("with an input that has a gradient", _OF_KEPT_GRADIENTS, _told(grad=_another, retains_grad=True)),
    _where("where a GPU is available", is_available=True),
    _where("compiled or exported", **dict.fromkeys(_COMPILED, True)),
    _where("traced", is_tracing=True),
    _where("scripted", is_scripting=True),
    _where("exported to ONNX", is_in_onnx_export=True),
    _where("with one thread", **dict.fromkeys(_OF_WORKERS, 1)),
    _where("with many threads", **dict.fromkeys(_OF_WORKERS, 64)),
    _where("with several processes or GPUs", **_OF_SEVERAL),
    _where("in a worker of a data loader", get_worker_info=True),
    _where("where anomalies are looked for", is_anomaly_enabled=True),
    _where("with quicker products of matrices", get_float32_matmul_precision="medium"),
    _where("with other kernels of attention", **dict.fromkeys(_OF_KERNELS, True)),
    _where("without kernels of attention", **dict.fromkeys(_OF_KERNELS, False)),
    Situation("on another thread", frozenset({"current_thread", "get_ident", "get_native_id"}), _on_a_thread()),
    Situation("with another default dtype", frozenset({"get_default_dtype"}), _other_default),
    Situation("with deterministic algorithms", frozenset({"are_deterministic_algorithms_enabled"}), _deterministic),
)
"""Those that are tried."""

OF_ANY = {"stride", *_OF_DEVICE, *_OF_MEMORY, *_OF_PLACE, *_OF_BITS}
"""What is asked of a tensor of any kind of numbers."""

OF_TENSORS = {"is_inference", *OF_ANY, *_OF_PRECISION, *_OF_GRADIENTS, *_OF_KEPT_GRADIENTS}
"""What is asked of a tensor."""


def turning_situations(model: nn.Module, example: Example, is_long: bool = False) -> Iterator[Situation]:
    """The situations in which forward takes another way than on the example as it is, in eval or train mode.

    Args:
        model: copied, never touched.
        example: what it is called with; an input may be shorter than what the user gave.
        is_long: running it takes long, so shapes alone tell the way where they can.
    """
    named = named_by_users_code(model).read
    if not named and not any("forward" in vars(module) for module in model.modules()):
        return  # torch's own layers ask for nothing that matters
    twin, told = fresh_copy(model), _Told({})
    with told:
        usual = _ways(twin, example, is_long)
    if is_long and None in usual:  # numbers are needed
        yield from turning_situations(model, example)
        return
    asked = told.asked | (named - OF_TENSORS)
    own = own_dtype(model)
    for situation in (one for one in SITUATIONS if one.names & asked and one.precision != own):
        with situation.enter():
            ways = _ways(twin, example, is_long)
        was = usual
        if is_long and None in ways:
            other = fresh_copy(model)
            was = _ways(other, example, False)
            with situation.enter():
                ways = _ways(other, example, False)
        if any(None not in (a, b) and a != b for a, b in zip(ways, was, strict=True)):
            yield situation


def _ways(model: nn.Module, example: Example, is_long: bool) -> list[Way | None]:
    """The ways that forward takes in eval and train mode."""
    with caches_kept_clean(model) if is_long else nullcontext(), without_numbers() if is_long else nullcontext():
        return [way_of(model, example, training) for training in (False, True)]
