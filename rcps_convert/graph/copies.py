"""Copies of whole models, as ``deepcopy`` makes them but quicker: most of a module is numbers and empty tables."""

from __future__ import annotations

import copy
import copyreg
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from .._torch import all_modules
from .attributes import OURS
from .parametrized import WHOLE, computed, copies_attributes, own_class
from .values import ATOMS, TABLES, is_row

OWN_WAYS = ("__deepcopy__", "__getnewargs__", "__getnewargs_ex__")
"""Methods with which a class has a say in how it is copied."""

USUAL = tuple(getattr(nn.Module, name, None) for name in ("__new__", "__reduce__", "__reduce_ex__"))
"""What a class may have a say with too, as modules have it."""


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


def _is_plain(cls: Any) -> bool:
    """Whether ``deepcopy`` copies modules of a class by their attributes, and then sets their state."""
    usual = tuple(getattr(cls, name, None) for name in ("__new__", "__reduce__", "__reduce_ex__"))
    if usual != USUAL or any(hasattr(cls, name) for name in OWN_WAYS) or copyreg._slotnames(cls):  # type: ignore[attr-defined]
        return False
    state = getattr(cls, "__getstate__", None)
    ours = getattr(state, "__module__", "").startswith(OURS)  # leaves out attributes, and nothing else
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
    kind = type(value)
    if kind in TABLES and not value:
        return memo.setdefault(id(value), kind())
    if kind is dict:
        return memo[id(value)] if id(value) in memo else _copied_table(value, memo)
    return value if is_row(value) else copy.deepcopy(value, memo)


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
