"""Exceptions injected at chosen lines, and pictures of models and of the process to compare before and after."""

from __future__ import annotations

import logging
import random
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

WATCHED = ("rcps_convert", "torch/nn/utils/parametrize", "torch/nn/modules/module", "contextlib")
"""Parts of the paths of files whose lines are counted."""


class Injector:
    """Raises an exception at some line events, counted from the start of the `with` block.

    Args:
        at: numbers of the events.
        exception: what is raised.
        only: the name of the function whose lines are counted; of all that are watched if it is empty.

    Attributes:
        count: the line events so far.
        raised: how many exceptions were raised.
        ended: what was run came to its end; for whoever runs it to set.
        dropped: torch dropped what was raised: what was run ended, or failed with another error; likewise.
        where: the line of the last exception.
    """

    def __init__(
        self, at: tuple[int, ...] = (), exception: type[BaseException] = KeyboardInterrupt, only: str = ""
    ) -> None:
        self.only = only
        self.at, self.exception, self.count, self.raised, self.ended = at, exception, 0, 0, False
        self.dropped = False
        self.where = ""

    def __enter__(self) -> Injector:
        self.before = sys.gettrace()
        sys.settrace(self._called)
        return self

    def __exit__(self, *reason: Any) -> None:
        sys.settrace(self.before)

    def _called(self, frame: types.FrameType, event: str, arg: Any) -> Any:
        if self.only and frame.f_code.co_qualname != self.only:
            return None
        return self._line if any(part in frame.f_code.co_filename for part in WATCHED) else None

    def _line(self, frame: types.FrameType, event: str, arg: Any) -> Any:
        if event == "line":
            self.count += 1
            if self.count in self.at:
                self.raised += 1
                self.where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                raise self.exception(f"injected at {self.where}")
        return self._line


def events(run: Callable[[], Any]) -> int:
    """How many line events a function makes."""
    with Injector() as injector:
        run()
    return injector.count


def picture(model: nn.Module) -> Any:
    """Everything of a model that an undone change must leave as it was, down to the objects."""
    modules = [m for _, m in model.named_modules(remove_duplicate=False)]
    held = {id(m): (type(m), _entries(vars(m))) for m in modules}
    tensors = [t for m in modules for t in (*m._parameters.values(), *m._buffers.values()) if t is not None]
    return held, [_tensor(t) for t in tensors]


def _entries(own: dict[str, Any]) -> Any:
    found = []
    for name, value in own.items():
        if isinstance(value, dict):
            inside: Any = [(k, id(v)) for k, v in value.items()]
        elif isinstance(value, (list, set)):
            inside = [id(v) for v in value]
        else:
            inside = value if isinstance(value, (bool, int, float, str)) else None
        found.append((name, id(value) if inside is None or isinstance(inside, list) else None, inside))
    return found


def _tensor(t: Tensor) -> Any:
    grad = None if t.grad is None else (id(t.grad), t.grad.tolist())
    where = t.data_ptr(), tuple(t.shape), t.stride(), t.dtype
    return id(t), where, t.detach().tolist(), t.requires_grad, grad


def process() -> Any:
    """What belongs to the whole process."""
    numbers = torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()
    modes = torch.is_grad_enabled(), torch._C._len_torch_function_stack(), torch._C._is_torch_function_enabled()
    recorded = torch._C._len_torch_dispatch_stack(), torch._ops._len_torch_dispatch_stack_pre_dispatch()
    keys = [getattr(torch._C.DispatchKey, name) for name in ("Python", "PythonDispatcher", "PreDispatch")]
    return (
        modes,
        recorded,
        [torch._C._dispatch_tls_is_dispatch_key_included(key) for key in keys],
        torch.get_default_dtype(),
        logging.root.manager.disable,
        sys.stderr,
        warnings.filters,
        numbers,
    )
