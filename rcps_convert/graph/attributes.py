"""Which attributes the forward of a class reads and sets, by the names in its code."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Iterator
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
    methods = _methods(cls)
    read: set[str] = set()
    stored: set[str] = set()
    rest, seen = ["forward"], {"forward"}
    while rest:
        for code in methods.get(rest.pop(), ()):
            found = {*code.co_names}
            read |= found
            stored |= {i.argval for i in dis.get_instructions(code) if i.opname == "STORE_ATTR"}
            stored |= {text for text in code.co_consts if isinstance(text, str)} if "setattr" in found else set()
            new = (found & methods.keys()) - seen
            seen |= new
            rest += new
    return read, stored


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
