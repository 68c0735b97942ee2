"""Which attributes the forward of a class reads and sets, by the names in its code."""

from __future__ import annotations

import dis
import hashlib
import inspect
from collections.abc import Iterable, Iterator
from functools import cached_property
from types import CodeType
from typing import Any

from torch import nn


def named_by_forward(cls: type) -> tuple[set[str], set[str]]:
    """The names that forward and the methods it may reach read, and those of attributes that they set.

    Names of functions and of globals are among them.

    Args:
        cls: a class of modules.
    """
    read: set[str] = set()
    stored: set[str] = set()
    for code in _reached(cls):
        read |= {*code.co_names}
        stored |= {i.argval for i in dis.get_instructions(code) if i.opname == "STORE_ATTR"}
        if "setattr" in code.co_names:
            stored |= {text for text in code.co_consts if isinstance(text, str)}
    return read, stored


def code_of(classes: Iterable[type]) -> str:
    """A fingerprint of the code of forward, and of the methods it may reach, in classes that are not torch's.

    Args:
        classes: of modules; other versions of Python give another fingerprint.
    """
    own = {cls for given in classes for cls in given.__mro__ if not cls.__module__.startswith(NOT_THE_USERS)}
    texts = (text for cls in sorted(own, key=_name) for text in (_name(cls), *map(_text, _reached(cls))))
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


NOT_THE_USERS = ("torch.", "builtins", __name__.partition(".")[0] + ".")
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


def _reached(cls: type) -> Iterator[CodeType]:
    """The code of forward and of the methods that it may reach."""
    methods = _methods(cls)
    rest, seen = ["forward"], {"forward"}
    while rest:
        for code in methods.get(rest.pop(), ()):
            yield code
            new = sorted({*code.co_names} & methods.keys() - seen)
            seen.update(new)
            rest += new


def _methods(cls: type) -> dict[str, list[CodeType]]:
    """The code of each method of a class and those it inherits, with what is defined inside."""
    found: dict[str, list[CodeType]] = {}
    for base in cls.__mro__:
        if base not in (nn.Module, object):
            for name, value in vars(base).items():
                found.setdefault(name, []).extend(_codes(value))
    return found


def _codes(value: Any) -> Iterator[CodeType]:
    """The code of a method, a property or another descriptor."""
    if isinstance(value, (staticmethod, classmethod)):
        value = value.__func__
    if isinstance(value, property):
        value = value.fget
    if isinstance(value, cached_property):
        value = value.func
    code = getattr(inspect.unwrap(value), "__code__", None) if callable(value) else None
    if isinstance(code, CodeType):
        yield from _nested(code)


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for value in code.co_consts:
        if isinstance(value, CodeType):
            yield from _nested(value)
