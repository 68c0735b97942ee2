"""Which attributes the forward of a class reads and sets, by the names in its code."""

from __future__ import annotations

import dis
import hashlib
import inspect
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import nn

MOST_FUNCTIONS = 256
"""Functions beside methods that are looked into, at most."""

STORES = dis.opmap["STORE_ATTR"]

ENVIRONMENT = {"environ", "getenv"}
"""Names of what reads environment variables."""

BY_TEXT = {"getattr", "hasattr"}
"""Functions that are given the name of an attribute as text."""

NOT_READ = {"__init__", "__new__", "__post_init__", "__init_subclass__", "__setattr__"}
"""Special methods of an object that no forward reaches by using it."""


@dataclass
class Names:
    """Names in code.

    Attributes:
        read: what is read; names of functions and of globals are among them.
        own: attributes that methods set on the object they are called on.
        others: attributes that are set on anything else.
        numbers: numbers that the code holds, such as one that a count is compared with.
        globals: where functions look for what is global, each with the names that they read there.
        functions: those that have variables of a function around them, defaults or attributes.
        perhaps: texts in code that asks for attributes by text, which may not be there.
        environment: texts in code that reads environment variables, which may be the names of some.
    """

    read: set[str] = field(default_factory=set)
    own: set[str] = field(default_factory=set)
    others: set[str] = field(default_factory=set)
    numbers: set[float] = field(default_factory=set)
    globals: dict[str, set[str]] = field(default_factory=dict)
    functions: dict[FunctionType, None] = field(default_factory=dict)
    perhaps: set[str] = field(default_factory=set)
    environment: set[str] = field(default_factory=set)

    def __ior__(self, other: Names) -> Names:
        for kind in ("read", "own", "others", "numbers", "perhaps", "environment"):
            getattr(self, kind).update(getattr(other, kind))
        self.functions |= other.functions
        for name, names in other.globals.items():
            self.globals.setdefault(name, set()).update(names)
        return self


def named_by_forward(cls: type) -> Names:
    """The names that forward of a class of modules reads and sets, in the methods and functions it may reach."""
    return _names(cls, ["forward"]) if is_users(cls.__module__) else _named_by_layer(cls)


@lru_cache(1024)
def _named_by_layer(cls: type) -> Names:
    """The same of a class that is not the user's, whose code stays as it is."""
    return _names(cls, ["forward"])


def named_by_use(cls: type, read: Iterable[str]) -> Names:
    """The names that an object of a class reads and sets where it is used.

    Args:
        cls: its class.
        read: the names that code reads, of which some may be those of methods.
    """
    special = (n for c in cls.__mro__ for n in vars(c) if n.startswith("__") and n not in NOT_READ)
    return _names(cls, [*read, *special])


def named_by_function(function: Any) -> Names:
    """The names that a function reads and sets; none where it is none of Python's."""
    while isinstance(function, (partial, MethodType)):
        function = function.func if isinstance(function, partial) else function.__func__
    return (
        _names_of([], [function]) if isinstance(function, FunctionType) and is_users(function.__module__) else Names()
    )


def _names(cls: type, roots: Iterable[str]) -> Names:
    return _names_of([*_reached(cls, roots)], [])


def _names_of(methods: list[FunctionType], functions: list[FunctionType]) -> Names:
    found = Names()
    for function in methods + functions + [*_helpers(methods + functions)]:
        own = function.__code__.co_varnames[:1] if function in methods else ()
        if is_users(function.__module__) and (function.__closure__ or function.__defaults__ or vars(function)):
            found.functions[function] = None
        for code in _nested(function.__code__):
            found |= _named_by_code(code, own if code is function.__code__ else ())
            found.globals.setdefault(str(function.__module__), set()).update(_global_names(code))
            found.environment |= _of_environment(code, function.__globals__)
    return found


def _of_environment(code: CodeType, around: dict[str, Any]) -> set[str]:
    """The texts in some code that reads environment variables, and an empty one; none in other code.

    Args:
        code: of a function.
        around: the globals it reads.
    """
    held = [around.get(name) for name in _global_names(code)]
    reads = not ENVIRONMENT.isdisjoint(code.co_names) or any(v is os.environ or v is os.getenv for v in held)
    return {"", *(text for text in (*code.co_consts, *held) if isinstance(text, str))} if reads else set()


@lru_cache(4096)
def _named_by_code(code: CodeType, own: tuple[str, ...]) -> Names:
    """The names in some code.

    Args:
        code: of a function.
        own: the name by which it calls the object it is a method of.
    """
    found = Names({*code.co_names})
    for value in code.co_consts:
        found.numbers |= {n for n in (value if isinstance(value, tuple) else (value,)) if type(n) in (int, float)}
    texts = {text for text in code.co_consts if isinstance(text, str)}
    found.perhaps = {text for text in texts if text.isidentifier()} if BY_TEXT & {*code.co_names} else set()
    found.read |= found.perhaps
    found.others |= texts if "setattr" in code.co_names else set()
    before: Any = None
    for i in dis.get_instructions(code) if STORES in code.co_code[::2] else ():
        if i.opcode == STORES:
            loaded = before[-1] if isinstance(before, tuple) else before
            (found.own if loaded in own else found.others).add(i.argval)
        before = i.argval if i.opname.startswith("LOAD_FAST") else None
    return found


def _helpers(functions: Iterable[FunctionType]) -> Iterator[FunctionType]:
    """The user's functions that functions name, and those that these name."""
    rest = [*functions]
    seen = {*rest}
    while rest and len(seen) < MOST_FUNCTIONS:
        for found in _named_in(rest.pop()):
            if found not in seen:
                seen.add(found)
                rest.append(found)
                yield found


@lru_cache(4096)
def _global_names(code: CodeType) -> frozenset[str]:
    """The names of globals that some code reads."""
    return frozenset(i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME"))


def _named_in(function: FunctionType) -> Iterator[FunctionType]:
    """The functions that a function names: global ones, those of files, and those of the function it was made in."""
    codes = [*_nested(function.__code__)]
    read = {name for code in codes for name in _global_names(code)}
    held = [function.__globals__.get(name) for name in sorted(read)] + _closed_over(function)
    files = [v for v in held if isinstance(v, ModuleType) and is_users(v.__name__)]
    names = {name for code in codes for name in code.co_names}
    for value in held + [vars(file).get(name) for file in files for name in sorted(names)]:
        if isinstance(value, FunctionType) and is_users(value.__module__):
            yield inspect.unwrap(value) if isinstance(inspect.unwrap(value), FunctionType) else value


def variables_of(function: FunctionType) -> dict[str, Any]:
    """What a function finds by name beside its arguments: of the function it was made in, its defaults, attributes."""
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    defaults = dict(zip(reversed(names), reversed(function.__defaults__ or ()), strict=False))
    closed = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            closed[name] = cell.cell_contents
        except ValueError:  # a variable without value yet
            continue
    return {**vars(function), **defaults, **closed}


def _closed_over(function: FunctionType) -> list[Any]:
    """What a function reads of the function it was made in."""
    found = []
    for cell in function.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:  # a variable without value yet
            continue
    return found


def is_users(name: str | None) -> bool:
    """Whether a module of Python, by its name, is neither torch's, nor Python's, nor of this package."""
    top = (name or "").partition(".")[0]
    return bool(top) and not f"{name}.".startswith(NOT_THE_USERS) and top not in _STANDARD


_STANDARD = sys.stdlib_module_names - {"__main__"}


def code_of(classes: Iterable[type]) -> str:
    """A fingerprint of the code of forward, and of what it may reach, in classes that are not torch's.

    Args:
        classes: of modules; other versions of Python give another fingerprint.
    """
    own = {cls for given in classes for cls in given.__mro__ if not f"{cls.__module__}.".startswith(NOT_THE_USERS)}
    methods = {cls: [*_reached(cls, ["forward"])] for cls in own}
    codes = {cls: [code for method in methods[cls] for code in _nested(method.__code__)] for cls in own}
    texts = [text for cls in sorted(own, key=_name) for text in (_name(cls), *map(_text, codes[cls]))]
    named = [*_helpers(method for cls in own for method in methods[cls])]
    texts += sorted(_text(code) for function in named for code in _nested(function.__code__))
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


OURS = f"{__name__.partition('.')[0]}."
"""Beginning of the names of this package's modules."""

NOT_THE_USERS = ("torch.", "builtins.", OURS)
"""Beginnings of the modules of classes that are not the user's."""


def _name(cls: type) -> str:
    return cls.__qualname__.rpartition("<locals>.")[2]


def _text(code: CodeType) -> str:
    """What a function does."""
    constants = [
        sorted(map(repr, value)) if isinstance(value, frozenset) else value
        for value in code.co_consts
        if not isinstance(value, CodeType)
    ]
    return f"{code.co_code.hex()} {code.co_names} {constants!r}"


def _reached(cls: type, roots: Iterable[str]) -> Iterator[FunctionType]:
    """The methods of a class that some of its methods may reach, these first."""
    methods = _methods(cls)
    rest = [*dict.fromkeys(name for name in roots if name in methods)]
    seen = {*rest}
    while rest:
        for method in methods[rest.pop()]:
            yield method
            names = {name for code in _nested(method.__code__) for name in code.co_names}
            new = sorted(names & methods.keys() - seen)
            seen.update(new)
            rest += new


def _methods(cls: type) -> dict[str, list[FunctionType]]:
    """The functions of each method of a class and those it inherits."""
    found: dict[str, list[FunctionType]] = {}
    for base in cls.__mro__:
        if base not in (nn.Module, object):
            for name, value in vars(base).items():
                found.setdefault(name, []).extend(_function(value))
    return found


def _function(value: Any) -> Iterator[FunctionType]:
    """The function of a method, a property or another descriptor."""
    if isinstance(value, (staticmethod, classmethod)):
        value = value.__func__
    if isinstance(value, property):
        value = value.fget
    if isinstance(value, cached_property):
        value = value.func
    function = inspect.unwrap(value) if callable(value) else None
    if isinstance(function, FunctionType):
        yield function


def _nested(code: CodeType) -> Iterator[CodeType]:
    """The code of a function, and of those that are defined inside."""
    yield code
    for value in code.co_consts:
        if isinstance(value, CodeType):
            yield from _nested(value)
