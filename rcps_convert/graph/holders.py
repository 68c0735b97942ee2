"""What holds settings, functions and constants: modules, objects and tables, and what code finds by name."""

from __future__ import annotations

import os
import sys
import types
from collections import deque
from collections.abc import Iterator, Mapping, MutableMapping
from contextvars import ContextVar
from operator import attrgetter, itemgetter
from typing import Any

from .attributes import is_users, variables_of

Holder = Any
"""What holds settings: a module, another object, a table, or `Globals`."""

Place = tuple[Holder, Any]
"""An attribute of a holder, or an entry of it."""


class Globals:
    """The globals of a module of Python; a copy of it is itself.

    Args:
        name: of the module.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def table(self) -> Mapping[str, Any]:
        """What is global there."""
        return vars(sys.modules[self.name]) if self.name in sys.modules else {}


class OfClass(Globals):
    """The attributes of a class; a copy of it is itself.

    Args:
        cls: the class.
    """

    def __init__(self, cls: type) -> None:
        self.cls, self.name = cls, cls.__qualname__.rpartition("<locals>.")[2]

    @property
    def table(self) -> Mapping[str, Any]:
        """What it holds itself."""
        return vars(self.cls)


class OfFunction(Globals):
    """The variables of a function that outlive its calls; a copy of it is itself, and in files it holds none.

    Args:
        function: the function; None where it is not known any more.
        name: of one that is not.
    """

    def __init__(self, function: types.FunctionType | None, name: str = "") -> None:
        self.function = function
        self.name = name if function is None else function.__qualname__.rpartition("<locals>.")[2]

    def __deepcopy__(self, memo: dict[int, Any]) -> OfFunction:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return OfFunction, (None, self.name)  # no file can hold a function that was made in another

    @property
    def table(self) -> Mapping[str, Any]:
        """Its variables."""
        return {} if self.function is None else variables_of(self.function)


class ByName(Globals):
    """An object that code finds by name, looked up anew each time: what it and its class hold, or its value.

    Args:
        holder: where it is found.
        key: its name there.
    """

    def __init__(self, holder: Globals, key: Any) -> None:
        self.holder, self.key, self.name = holder, key, f"{holder.name}.{key}"

    @property
    def table(self) -> Mapping[Any, Any]:
        """What it holds now; of a context variable the value, of a list or a dict also how many entries."""
        value = value_at(self.holder, self.key)
        if isinstance(value, ContextVar):
            return _NoneElse({VALUE: value.get(None)})
        if is_table(value):
            return _NoneElse({SIZE: len(value), **table_of(value)})
        bases = (cls for cls in reversed(type(value).__mro__) if is_users(cls.__module__))
        return _NoneElse({name: v for cls in bases for name, v in vars(cls).items()} | (table_of(value) or {}))


class _NoneElse(dict[Any, Any]):
    """A table that has None for what is not in it."""

    def __missing__(self, key: Any) -> None:
        return None


VALUE, SIZE = "value", "number of entries"
"""The name of what a context variable holds, and of how many entries a table has."""


class Environment(Globals):
    """The environment variables of some names.

    Args:
        names: of those that code may read; others are none of a model's business.
    """

    name = "os.environ"

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    @property
    def table(self) -> Mapping[str, Any]:
        """Their values; None of one that is not set."""
        return {name: os.environ.get(name) for name in self.names}


def function_of(holder: Holder) -> OfFunction | None:
    """The variables of a function among which a holder is, or is found by name; None of any other."""
    while isinstance(holder, ByName):
        holder = holder.holder
    return holder if isinstance(holder, OfFunction) else None


def is_gone(holder: Holder) -> bool:
    """Whether a holder is a function that is not known any more."""
    found = function_of(holder)
    return found is not None and found.function is None


def table_of(holder: Holder) -> Any:
    """What a holder holds, by name."""
    if isinstance(holder, Globals):
        return holder.table
    if isinstance(holder, (list, tuple, deque)):
        return dict(enumerate(holder))
    if isinstance(holder, MutableMapping):
        return holder
    held = getattr(holder, "__dict__", None)
    return {n: getattr(holder, n) for n in slots(holder) if hasattr(holder, n)} if held is None else held


def reader(holder: Holder, names: tuple[Any, ...]) -> Any:
    """A quick function of what holds the values (see `source`) that gives those of some names as a row."""
    twice = (*names, names[0])  # never of one name alone
    return attrgetter(*twice) if _has_slots(holder) else itemgetter(*twice)


def source(holder: Holder) -> Any:
    """What `reader` is asked of."""
    if isinstance(holder, Globals):
        return holder.table
    return holder if is_table(holder) or _has_slots(holder) else holder.__dict__


def value_at(holder: Holder, name: Any) -> Any:
    """What is in a place; None where there is nothing."""
    if isinstance(holder, Globals):
        return holder.table.get(name)
    try:
        return holder[name] if is_table(holder) else getattr(holder, name)
    except (AttributeError, KeyError, IndexError):
        return None


def size_of(value: Any) -> int | None:
    """The number of entries of a table; None for another object."""
    return len(value) if is_table(value) else None


def _has_slots(holder: Holder) -> bool:
    return not hasattr(holder, "__dict__") and not is_table(holder)


def slots(holder: Holder) -> Iterator[str]:
    """The names of what an object without a table of attributes holds."""
    for base in type(holder).__mro__:
        names = vars(base).get("__slots__", ())
        yield from (names,) if isinstance(names, str) else names


def is_table(holder: Holder) -> bool:
    """Whether a holder is a list or a dict, or the like of one."""
    return isinstance(holder, (list, tuple, deque, MutableMapping))
