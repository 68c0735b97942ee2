"""Where in a call the code runs: backward passes, checkpoints, modules, scripting."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch._library.custom_ops import CustomOpDef as CustomOpDef


def in_backward() -> bool:
    """Whether a backward pass runs on this thread, as when a checkpoint runs its function again."""
    return torch._C._current_graph_task_id() != -1


def forward_gradients() -> bool:
    """Whether forward-mode differentiation runs (``torch.autograd.forward_ad``, ``torch.func.jvp``)."""
    return int(torch.autograd.forward_ad._current_level) >= 0


def version(x: Tensor) -> int:
    """How often a tensor was written into."""
    return int(x._version)


def versions(tensors: Iterable[Tensor]) -> list[int]:
    """How often each of some tensors was written into."""
    return [x._version for x in tensors]


def calling_modules() -> Iterator[nn.Module]:
    """The modules whose forward is running on this thread, the innermost first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name in ("_call_impl", "forward") and isinstance(frame.f_locals.get("self"), nn.Module):
            yield frame.f_locals["self"]
        frame = frame.f_back


def module_called() -> Any:
    """The module whose call runs the forward that asks; None where something else runs it."""
    frame = sys._getframe(2)
    return frame.f_locals["self"] if frame.f_code is _CALL else None


def call_of(module: nn.Module, checked: Any) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """What a module is called with, where its forward runs on this thread; else None.

    Args:
        module: its forward may be any function.
        checked: the code of a function of an object that has a `module`; None too where that of this module runs it.
    """
    own = getattr(module.forward, "__func__", module.forward)
    frame: FrameType | None = sys._getframe(1)
    found = None
    while frame is not None and not (frame.f_code is _CALL and frame.f_locals["self"] is module):
        if frame.f_code is checked and frame.f_locals["self"].module is module:
            return None
        if frame.f_code is getattr(own, "__code__", None):  # called without the module
            names = frame.f_code.co_varnames[: frame.f_code.co_argcount][own is not module.forward :]
            found = tuple(frame.f_locals[name] for name in names if name in frame.f_locals), dict[str, Any]()
        frame = frame.f_back
    return found if frame is None else (frame.f_locals["args"], frame.f_locals["kwargs"])


_CALL = nn.Module._call_impl.__code__


def stock_code(cls: type) -> Any:
    """The code of a class's forward where it is one of torch's own layers; else None."""
    forward = cls.forward  # type: ignore[attr-defined]
    return getattr(forward, "__code__", None) if str(forward.__module__).startswith("torch.nn.modules.") else None


def reader() -> tuple[str, str]:
    """The names of the module and the function that read a parametrized weight just now."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_globals.get("__name__") in _READING:
        frame = frame.f_back
    return ("", "") if frame is None else (str(frame.f_globals.get("__name__")), frame.f_code.co_name)


FUNCTIONAL_CALL = "torch.nn.utils._named_member_accessor"
"""The module of torch that puts the tensors of ``functional_call`` in the place of a model's own."""

_READING = ("torch.nn.modules.module", "torch.nn.utils.parametrize", "rcps_convert.graph.parametrized")
"""Between a weight and who reads it."""

_SCRIPT = os.path.join("torch", "jit", "_script.py")


def is_scripting() -> bool:
    """Whether ``torch.jit.script`` is reading a module."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not frame.f_code.co_filename.endswith(_SCRIPT):
        frame = frame.f_back
    return frame is not None


def looks_for_symbols() -> bool:
    """Whether who asks is asked by ``torch.fx.symbolic_trace``, what a model holds: it follows its class's forward."""
    code = sys._getframe(2).f_code
    asks = code.co_name == "collect_tensor_attrs" and code.co_filename.endswith(_SYMBOLIC)
    return asks and not sys._getframe(2).f_locals["prefix_atoms"]


_SYMBOLIC = os.path.join("torch", "fx", "_symbolic_trace.py")


def users_line(inside: int) -> tuple[str, int] | None:
    """File and line of a call if the user's own code makes it, not torch's, einops' or this package's.

    Args:
        inside: functions between the call and who asks.
    """
    frame = sys._getframe(inside + 1)
    file = frame.f_code.co_filename
    return None if file.startswith(_NOT_THE_USERS) else (file, frame.f_lineno)


def is_asked_by(code: Any) -> bool:
    """Whether some code calls the function that asks."""
    return sys._getframe(2).f_code is code


def is_asked_by_layer() -> bool:
    """Whether a layer or a function of torch's own makes the call of a torch function that a mode is asked about."""
    frame = sys._getframe(2)
    while frame.f_code.co_filename in _HANDLING and frame.f_back is not None:
        frame = frame.f_back
    return frame.f_code.co_filename.startswith(_LAYERS)


def asked_by_user() -> bool:
    """Whether code that is neither torch's nor this package's makes the call that a mode is asked about."""
    frame = sys._getframe(2)
    while frame.f_code.co_filename.startswith(_OWN) and frame.f_back is not None:
        frame = frame.f_back
    return not frame.f_code.co_filename.startswith(_TORCH)


_HANDLING = tuple(os.path.join(os.path.dirname(torch.__file__), name) for name in ("overrides.py", "_tensor.py"))
_LAYERS = os.path.dirname(torch.nn.__file__) + os.sep

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_OWN = (_PACKAGE + os.sep, *_HANDLING)
_TORCH = os.path.dirname(torch.__file__) + os.sep
_INSTALLED = [importlib.util.find_spec(name) for name in ("torch", "einops")]  # the second is seldom needed so early
_NOT_THE_USERS = tuple(
    path + os.sep for path in (*(os.path.dirname(str(s.origin)) for s in _INSTALLED if s is not None), _PACKAGE)
)

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
