"""A change of a model that happens as a whole or not at all, whatever interrupts it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .._torch import own_tensors

T = TypeVar("T")

TABLES = (dict, list, set)
"""The kinds of containers directly on a module whose entries are restored: parameters, hooks and the like."""


class Snapshot:
    """A model's modules and tensors as they are: `restore` brings them back exactly.

    Args:
        model: the model; not touched.
    """

    def __init__(self, model: nn.Module) -> None:
        modules = list(model.modules())
        self.modules = [(m, type(m), dict(vars(m)), _tables(m)) for m in modules]
        with torch.inference_mode(False):
            self.tensors = [_Held(t) for t in _tensors(modules)]

    def restore(self) -> None:
        """Bring everything back; doing so twice does no harm."""
        for module, cls, own, tables in self.modules:
            module.__class__ = cls
            vars(module).clear()
            vars(module).update(own)
            for table, entries in tables:
                _refill(table, entries)
        with torch.inference_mode(False), torch.no_grad():
            for held in self.tensors:
                held.restore()


class _Held:
    """One tensor: its storage, its values, its gradient."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.grad, self.requires_grad = tensor, tensor.grad, tensor.requires_grad
        lazy = nn.parameter.is_lazy(tensor)
        self.storage = None if lazy else tensor.data
        self.values = None if self.storage is None else self.storage.clone()

    def restore(self) -> None:
        """Bring the tensor back: the same object, in the same place, with the same values."""
        if self.storage is not None and self.values is not None:
            self.storage.copy_(self.values)
            self.tensor.data = self.storage
        self.tensor.requires_grad_(self.requires_grad)
        self.tensor.grad = self.grad


def _tensors(modules: list[nn.Module]) -> list[Tensor]:
    """Parameters and buffers, each once."""
    held = [t for m in modules for t in own_tensors(m)]
    return list({id(t): t for t in held if t.is_leaf}.values())


def _tables(module: nn.Module) -> list[tuple[Any, Any]]:
    """The containers of a module, each with a copy of what it holds."""
    return [(table, table.copy()) for table in vars(module).values() if isinstance(table, TABLES)]


def _refill(table: Any, entries: Any) -> None:
    table.clear()
    table.extend(entries) if isinstance(table, list) else table.update(entries)


def all_or_nothing(model: nn.Module, change: Callable[[], T]) -> T:
    """Change a model in place; on any exception, an interruption included, it is what it was before.

    Args:
        model: what is changed.
        change: changes it.

    Returns: what `change` returns.
    """
    before = Snapshot(model)
    try:
        try:
            return change()
        except BaseException:
            before.restore()
            raise
    except BaseException:
        before.restore()  # again: the first time may have been interrupted itself
        raise
