"""Handling a user's modules without leaving a trace: copies, examples, modes."""

from __future__ import annotations

import copy
import inspect
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils import _pytree as pytree

from ..algebra.arguments import Example, call_arguments
from ..errors import ConversionError


def fresh_copy(model: nn.Module) -> nn.Module:
    """A deep copy that shares nothing with the original, not even its parametrized classes.

    ``copy.deepcopy`` shares the dynamic class of a parametrized module, so that removing a
    parametrization from the copy would remove it from the original too.

    Raises:
        ConversionError: the model cannot be copied.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of torch, about its own graph modules
            twin = copy.deepcopy(model, _computed(model))
    except Exception as reason:  # a module may raise anything from its own copying
        raise ConversionError(
            f"{type(model).__name__} cannot be copied, and conversions are tried on copies",
            why=f"{type(reason).__name__}: {str(reason).splitlines()[0] if str(reason) else 'no message'}",
            do="remove what cannot be copied; for weight norm, use torch.nn.utils.parametrizations.weight_norm",
        ) from reason
    own_classes(twin)
    return twin


def _computed(model: nn.Module) -> dict[int, Any]:
    """A memo for ``deepcopy``: tensors that modules keep of an earlier computation are copied as values.

    Old-style weight norm keeps such a tensor, ``weight``; ``deepcopy`` refuses them.
    """
    held = (t for m in model.modules() for t in pytree.tree_leaves(list(vars(m).values())))
    return {id(t): t.detach().clone() for t in held if isinstance(t, Tensor) and not t.is_leaf}


def own_classes(model: nn.Module) -> None:
    """Give each parametrized module of a model a dynamic class of its own."""
    for module in model.modules():
        if parametrize.is_parametrized(module):
            cls = type(module)
            module.__class__ = type(cls.__name__, cls.__bases__, dict(cls.__dict__))
            keep_copyable(module)


def keep_copyable(module: nn.Module) -> None:
    """Let ``deepcopy`` take the values of what a parametrized module keeps of its last call.

    A recurrent layer keeps the weights it was called with; when they were computed, ``deepcopy`` would
    refuse them. One that is no longer parametrized gets its parameters back.
    """
    if parametrize.is_parametrized(module):
        own = vars(type(module)).get("__deepcopy__")  # torch's, unless the user's class has one
        if own is not None and not isinstance(own, _CopyOfValues):
            type(module).__deepcopy__ = _CopyOfValues(own)  # type: ignore[attr-defined]
    elif isinstance(module, nn.RNNBase):
        module._init_flat_weights()


class _CopyOfValues:
    """A ``__deepcopy__`` that takes computed tensors as values."""

    def __init__(self, copy_module: Any) -> None:
        self.copy_module = copy_module

    def __get__(self, module: nn.Module, cls: type) -> Any:
        def copied(memo: dict[int, Any]) -> Any:
            memo.update({k: v for k, v in _computed(module).items() if k not in memo})
            return self.copy_module(module, memo)

        return copied


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
def mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Put a model in train or eval mode, and every submodule back as it was afterwards."""
    before = [(m, m.training) for m in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, was in before:
            module.training = was


@contextmanager
def undisturbed_rng() -> Iterator[None]:
    """Restore the random states of the CPU and of every initialised accelerator afterwards."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
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
