"""Handling a user's modules without leaving a trace: copies, examples, modes."""

from __future__ import annotations

import functools
import gc
import inspect
import io
import logging
import os
import random
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, suppress
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn

from .._torch import ModeState, all_modules, own_tensors
from ..algebra.arguments import Example, call_arguments
from ..errors import ConversionError
from .copies import deep_copy
from .precision import FullFloat32

P = ParamSpec("P")
T = TypeVar("T")


def fresh_copy(model: nn.Module) -> nn.Module:
    """A deep copy that shares nothing with the original, not even its parametrized classes.

    ``copy.deepcopy`` shares the dynamic class of a parametrized module, so that removing a
    parametrization from the copy would remove it from the original too.

    Raises:
        ConversionError: the model cannot be copied.
    """
    try:
        with warnings.catch_warnings(), torch.inference_mode(False):
            warnings.simplefilter("ignore", FutureWarning)  # of torch, about its own graph modules
            twin = deep_copy(model)
    except Exception as reason:  # a module may raise anything from its own copying
        raise ConversionError(
            f"{type(model).__name__} cannot be copied, and conversions are tried on copies",
            why=f"{type(reason).__name__}: {str(reason).splitlines()[0] if str(reason) else 'no message'}",
            do="remove what cannot be copied; for weight norm, use torch.nn.utils.parametrizations.weight_norm",
        ) from reason
    _refuse_shared(model, twin)
    return twin


def free_young() -> None:
    """Free copies of models that were made not long ago and are held by nothing.

    Forwards that are set on modules lead back to them, so a copy would keep its memory until Python collects such
    cycles, which it does by the number of objects made, whatever their size.
    """
    gc.collect(1)


def _refuse_shared(model: nn.Module, twin: nn.Module) -> None:
    """Refuse a copy that holds a parameter or buffer of the original: to convert the one would change the other."""
    mine = {id(t) for m in all_modules(model) for t in own_tensors(m)}
    if any(id(t) in mine for m in all_modules(twin) for t in own_tensors(m)):
        held = [*twin.named_parameters(), *twin.named_buffers()]
        shared = [name for name, t in held if id(t) in mine]
        raise ConversionError(
            f"a copy of the {type(model).__name__} shares {shared[0]} with the original",
            got=f"{len(shared)} shared parameters and buffers",
            why="conversions are tried on copies, and would change the original through what is shared",
            do="remove the __deepcopy__ that shares it, or hold the shared module outside of the model",
        )


def call(model: nn.Module, example: Example) -> Any:
    """``model(...)`` on an example."""
    args, kwargs = call_arguments(example)
    return model(*args, **kwargs)


def positional_names(model: nn.Module) -> list[str]:
    """Names of the parameters of a model's forward that can be given by position."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):  # a forward without a signature is called by position
        return []
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


@contextmanager
def mode(model: nn.Module, training: bool) -> Iterator[list[nn.Module]]:
    """Put a model in train or eval mode, and every submodule back as it was afterwards; gives all of its modules."""
    modules = all_modules(model)
    before = [m.training for m in modules]
    if _set_modes_of_their_own(modules):
        model.train(training)
        found = all_modules(model)  # it may have made others
    else:
        _set_modes((m, training) for m, was in zip(modules, before, strict=True) if was is not training)
        found = modules
    try:
        yield found
    finally:
        now = [m.training for m in modules]
        if now != before:
            _set_modes((m, was) for m, is_, was in zip(modules, now, before, strict=True) if is_ is not was)


def evaluated(model: nn.Module) -> nn.Module:
    """A private copy of a model, put in eval mode, as most of its calls are: its modes need not be set for each."""
    modules = all_modules(model)
    if not _set_modes_of_their_own(modules):
        _set_modes((m, False) for m in modules if m.training)
    return model


def _set_modes(modes: Iterable[tuple[nn.Module, bool]]) -> None:
    """Set the mode of modules; where nothing but the attribute is set, by the shorter way past `nn.Module`."""
    for module, training in modes:
        if type(module).__setattr__ is nn.Module.__setattr__ and "training" in vars(module):
            vars(module)["training"] = training
        else:
            module.training = training


def _set_modes_of_their_own(modules: list[nn.Module]) -> bool:
    """Whether some of the modules have something of their own to do when the mode is set."""
    kinds: set[Any] = {*map(type, modules)}
    return any(cls.train is not nn.Module.train for cls in kinds) or True in ["train" in m.__dict__ for m in modules]


# --- what belongs to the whole process ----------------------------------------------------------


class ProcessState:
    """What belongs to the process as it is: random states, default dtype, logging, stderr, warnings.

    And of the thread: whether gradients are recorded, and the modes of torch. A mode is left for good if its
    ``with`` block is interrupted just before its end.
    """

    def __init__(self) -> None:
        self.gradients, self.modes = torch.is_grad_enabled(), ModeState()
        self.float32 = FullFloat32()
        self.dtype = torch.get_default_dtype()
        self.logging, self.stderr = logging.root.manager.disable, sys.stderr
        self.filters, self.show = warnings.filters, warnings.showwarning
        self.random = _RandomStates()

    def restore(self) -> None:
        """Bring everything back; doing so twice does no harm."""
        self.modes.restore()
        self.float32.restore()
        torch.set_grad_enabled(self.gradients)
        torch.set_default_dtype(self.dtype)
        logging.disable(self.logging)
        sys.stderr = self.stderr
        if warnings.filters is not self.filters:
            warnings.filters, warnings.showwarning = self.filters, self.show  # type: ignore[misc,assignment]
            warnings._filters_mutated()  # type: ignore[attr-defined]
        self.random.restore()


class _RandomStates:
    """The random states of Python, NumPy, the CPU and every initialised accelerator."""

    def __init__(self) -> None:
        self.python, self.numpy = random.getstate(), _numpy_random()
        self.drawn = None if self.numpy is None else self.numpy.get_state()
        self.torch = torch.default_generator.get_state()
        self.devices = [(g, g.get_state()) for g in _device_generators()]

    def restore(self) -> None:
        """Bring the random states back."""
        random.setstate(self.python)
        if self.numpy is not None:
            self.numpy.set_state(self.drawn)
        torch.default_generator.set_state(self.torch)
        for generator, state in self.devices:
            generator.set_state(state)


def _numpy_random() -> Any:
    """NumPy's module of random numbers, if the process uses NumPy."""
    return getattr(sys.modules.get("numpy"), "random", None)


def _device_generators() -> list[torch.Generator]:
    """The generators of the accelerators in use."""
    return list(torch.cuda.default_generators) if torch.cuda.is_initialized() else []


def fix_randomness(seed: int = 0) -> None:
    """Seed every source of random numbers; an accelerator that is not in use stays so."""
    random.seed(seed)
    numpy = _numpy_random()
    if numpy is not None:
        numpy.seed(seed)
    for generator in (torch.default_generator, *_device_generators()):
        generator.manual_seed(seed)


@contextmanager
def undisturbed_rng() -> Iterator[None]:
    """Restore the random states of Python, NumPy, the CPU and every initialised accelerator afterwards."""
    before = _RandomStates()
    try:
        yield
    finally:
        before.restore()


_ALONE = threading.RLock()
"""Held by the one thread that runs models in a way the rest of the process could notice."""


def _renew_lock() -> None:
    """A forked process starts with a lock that nobody holds."""
    global _ALONE
    _ALONE = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


INTERRUPTIONS = (KeyboardInterrupt, SystemExit, MemoryError)
"""What may be raised at any line, so that a ``with`` block is not left as it should be."""


def _let_go(error: BaseException | None, outside: BaseException | None, *, left: bool) -> None:
    """Empty the frames that an error came through: a guard of torch's that is left in one acts when it is freed.

    Later it would switch on again what was on when it was made, such as the decompositions of an export. Some of what
    interrupts is dropped by torch, and told as another error: of any, torch's frames and those of the package are
    emptied; the user's are for a debugger to look at.

    Args:
        error: the exception on its way, if there is one.
        outside: what the caller was handling before.
        left: a mode of torch's is on that was not.
    """
    chain: list[BaseException] = []
    errors = [error]
    while errors:
        one = errors.pop()
        if one is not None and one is not outside and all(one is not e for e in chain):
            chain.append(one)
            errors += [one.__cause__, one.__context__]
    interrupted = any(isinstance(one, INTERRUPTIONS) for one in chain)
    for frame in (frame for one in chain for frame, _ in traceback.walk_tb(one.__traceback__)):
        if interrupted or frame.f_code.co_filename.startswith(_INTERNAL):
            with suppress(RuntimeError):  # it still runs
                frame.clear()
    if interrupted or left:
        gc.collect()  # a guard may lie in a cycle


_INTERNAL = tuple(os.path.dirname(path) + os.sep for path in (torch.__file__, os.path.dirname(__file__)))
"""Where the code of torch and of the package is."""


class _Turn:
    """A turn of a thread with the process: the lock, and the state to bring back."""

    def __init__(self) -> None:
        self.lock, self.held = _ALONE, False
        self.before: ProcessState | None = None
        self.outside = sys.exc_info()[1]

    def begin(self) -> None:
        """Wait for the lock, and note the state."""
        self.held = self.lock.acquire()
        self.before = ProcessState()

    def end(self) -> None:
        """Bring the state back and give up the lock; doing so twice does no harm."""
        if self.before is not None:
            _let_go(sys.exc_info()[1], self.outside, left=self.before.modes.differ())
            self.before.restore()
            self.before = None
        if self.held:
            self.held = False
            self.lock.release()


def alone(function: Callable[P, T]) -> Callable[P, T]:
    """Let a function run models without leaving a trace in the process, whatever interrupts it.

    One thread at a time is in such a function. What belongs to the process is as before when it returns or
    raises; gradients are recorded as outside of ``torch.inference_mode``, ``torch.autocast`` is off, and so is TF32.
    """

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        turn = _Turn()
        try:
            try:
                turn.begin()
                with _plain_tensors():
                    return function(*args, **kwargs)
            finally:
                turn.end()
        finally:
            turn.end()  # again: the first time may have been interrupted itself

    return wrapper


@contextmanager
def _plain_tensors() -> Iterator[None]:
    """Tensors that can be trained, in the precision that is asked for."""
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        float32 = FullFloat32()
        stack.callback(float32.restore)
        float32.set()
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """Keep torch's own logs and warnings about exporting from the user: errors repeat what matters."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def aliases(model: nn.Module) -> dict[str, list[str]]:
    """Each parameter's first name with all of its names: shared parameters have several."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {group[0]: group for group in names.values()}


def owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that holds a parameter or buffer, and its name there."""
    path, _, leaf = name.rpartition(".")
    return model.get_submodule(path), leaf
