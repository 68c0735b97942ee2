"""Copies of whole models, as ``deepcopy`` makes them but quicker: most of a module is numbers and empty tables."""

from __future__ import annotations

import copy
import copyreg
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.nn.utils import parametrize

from .._torch import all_modules, hook_tables, own_tensors
from .attributes import OURS
from .parametrized import WHOLE, computed, copies_attributes, own_class
from .values import ATOMS, TABLES, is_row

OWN_WAYS = ("__deepcopy__", "__getnewargs__", "__getnewargs_ex__")
"""Methods with which a class has a say in how it is copied."""

USUAL = tuple(getattr(nn.Module, name, None) for name in ("__new__", "__reduce__", "__reduce_ex__"))
"""What a class may have a say with too, as modules have it."""

OBJECTS = tuple(getattr(object, name) for name in ("__new__", "__reduce__", "__reduce_ex__"))
"""The same as plain objects have it."""


SHARES = "shared_by_copies"
"""The method of a module that names what nobody writes into, so that a copy has the same."""


def deep_copy(model: nn.Module) -> nn.Module:
    """What ``copy.deepcopy`` makes of a model, but that each parametrized module gets a class of its own.

    Modules whose class has no say in it are copied attribute by attribute, the others by ``deepcopy``.
    """
    modules = all_modules(model)
    kinds = {type(m) for m in modules}
    plain = {cls for cls in kinds if _is_plain(cls)}
    by_attributes = [m for m in modules if type(m) in plain or copies_attributes(m)]
    twins = [(m, m.__new__(type(m))) for m in by_attributes]
    memo: dict[int, Any] = {**computed(modules), id(WHOLE): None, **{id(m): twin for m, twin in twins}}
    memo |= {id(v): v for m in modules if hasattr(m, SHARES) for v in getattr(m, SHARES)()}
    _copy_tensors(modules, memo)
    for module, twin in reversed(twins):  # the inner ones first
        if type(module) in plain:
            twin.__setstate__(_copied_values(_state(module), memo))
        else:
            vars(twin).update(_copied_values(vars(module), memo))
            own_class(twin)
    copied = copy.deepcopy(model, memo)
    for module in all_modules(copied):
        if type(module) in kinds and parametrize.is_parametrized(module):
            own_class(module)
    return copied


def keeps_hooks(module: nn.Module) -> bool:
    """Whether a copy of a module has the hooks that were set on it.

    A class that is copied in a way of its own may make the copy from a description of the module.
    """
    if _is_plain(type(module)) or copies_attributes(module):
        return True
    twin = deep_copy(module)
    twin.register_forward_pre_hook(_nothing)
    return any(_nothing in table.values() for table in hook_tables(deep_copy(twin)))


def _nothing(module: nn.Module, given: Any) -> None:
    """A hook that does nothing."""


def _copy_tensors(modules: list[nn.Module], memo: dict[int, Any]) -> None:
    """Copy parameters, and buffers with nothing attached, by the short way; views of their memory become views."""
    storages = memo.setdefault("torch", {})  # type: ignore[call-overload]  # where ``deepcopy`` looks for it
    for t in (t for m in modules for t in own_tensors(m) if id(t) not in memo):
        if type(t) is Parameter:
            memo[id(t)] = Parameter(t.data.clone(), t.requires_grad)
        elif type(t) is Tensor and _is_bare(t) and (key := t.untyped_storage()._cdata) not in storages:
            memo[id(t)] = twin = t.clone()
            storages[key] = twin.untyped_storage()


def _is_bare(t: Tensor) -> bool:
    """Whether a tensor fills its memory in order, and has nothing but its numbers."""
    if t.requires_grad or t.layout is not torch.strided or t.is_complex() or t.is_quantized or vars(t):
        return False
    return t.is_contiguous() and not t.is_neg() and t.untyped_storage().nbytes() == t.numel() * t.itemsize


def _is_plain(cls: Any) -> bool:
    """Whether ``deepcopy`` copies modules of a class by their attributes, and then sets their state."""
    usual = tuple(getattr(cls, name, None) for name in ("__new__", "__reduce__", "__reduce_ex__"))
    if usual != USUAL or any(hasattr(cls, name) for name in OWN_WAYS) or copyreg._slotnames(cls):  # type: ignore[attr-defined]
        return False
    state = getattr(cls, "__getstate__", None)
    ours = str(getattr(state, "__module__", "")).startswith(OURS)  # leaves out attributes, and nothing else
    return ours or state is getattr(nn.Module, "__getstate__", None)


def _state(module: Any) -> dict[str, Any]:
    """The attributes of a module that are copied."""
    found = module.__getstate__() if hasattr(module, "__getstate__") else vars(module)
    return dict(found)


def _copied_values(state: dict[str, Any], memo: dict[int, Any]) -> dict[str, Any]:
    """A copy of each value."""
    return {name: value if type(value) in ATOMS else _copied(value, memo) for name, value in state.items()}


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    """A copy of a value; a table is made anew, which ``deepcopy`` does the long way."""
    kind: Any = type(value)
    if kind in TABLES and not value:
        return memo.setdefault(id(value), kind())
    if kind is dict:
        return memo[id(value)] if id(value) in memo else _copied_table(value, memo)
    if is_row(value):
        return value
    if kind is list and id(value) not in memo and ATOMS.issuperset(map(type, value)):
        memo[id(value)] = twin = [*value]
        return twin
    return _copied_object(value, memo) if _is_simple(kind) else copy.deepcopy(value, memo)


@cache
def _is_simple(cls: Any) -> bool:
    """Whether ``deepcopy`` makes an object of a class anew, and copies its attributes one by one."""
    usual = tuple(getattr(cls, name, None) for name in ("__new__", "__reduce__", "__reduce_ex__"))
    own = any(hasattr(cls, name) for name in (*OWN_WAYS, "__setstate__")) or copyreg._slotnames(cls)  # type: ignore[attr-defined]
    usual_state = getattr(cls, "__getstate__", None) is getattr(object, "__getstate__", None)
    other = cls in copyreg.dispatch_table or issubclass(cls, type) or not cls.__dictoffset__
    return usual == OBJECTS and usual_state and not own and not other


def _copied_object(value: Any, memo: dict[int, Any]) -> Any:
    """A copy of an object that has attributes and nothing else."""
    if id(value) not in memo:
        twin = memo[id(value)] = object.__new__(type(value))
        if vars(value):
            vars(twin).update(_copied_values(vars(value), memo))
    return memo[id(value)]


def _copied_table(table: dict[Any, Any], memo: dict[int, Any]) -> dict[Any, Any]:
    """A copy of a table, such as that of the parameters of a module."""
    twin: dict[Any, Any] = {}
    memo[id(table)] = twin  # before what it holds, which may lead back to it
    for name, value in table.items():
        key = name if type(name) in ATOMS else copy.deepcopy(name, memo)
        begun = memo.get(id(value)) if isinstance(value, nn.Module) else None  # a module of the table of its parent
        if begun is None:  # one that is only begun has no length yet, and cannot be asked whether it is true
            begun = value if type(value) in ATOMS else _copied(value, memo)
        twin[key] = begun
    return twin
