"""A mutant put into the running process: the code of its function is exchanged, in every copy of the function."""

from __future__ import annotations

import functools
import gc
import importlib.abc
import importlib.machinery
import sys
import types
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .draw import PACKAGE
from .operators import Mutant, mutated

Key = tuple[str, int]


def tree_code(mutant: Mutant) -> types.CodeType:
    """The code of a whole file with one change."""
    path = PACKAGE / mutant.file
    return compile(mutated(path.read_text(), mutant), str(path), "exec", dont_inherit=True)


def codes(code: types.CodeType, *, below: bool = False) -> dict[Key, types.CodeType]:
    """The code of the functions of a file, by name and first line; with `below`, those inside them too."""
    found: dict[Key, types.CodeType] = {}
    for inner in (c for c in code.co_consts if isinstance(c, types.CodeType)):
        is_function = bool(inner.co_flags & 2)  # optimised: a function, not the body of a class
        if is_function:
            found.setdefault((inner.co_name, inner.co_firstlineno), inner)
        if below or not is_function:
            found |= codes(inner, below=below)
    return found


class Living:
    """What is alive of the package: its functions, and those of them that remember results.

    Looked for once, before processes are forked: touching every object in each of them would copy all memory.
    """

    def __init__(self) -> None:
        self.functions: dict[str, list[types.FunctionType]] = defaultdict(list)
        self.caches: list[Any] = []
        for o in every_object():
            if type(o) is types.FunctionType and o.__code__.co_filename.startswith(str(PACKAGE)):
                self.functions[o.__code__.co_filename].append(o)
            if type(o) is functools._lru_cache_wrapper and str(getattr(o, "__module__", "")).startswith("rcps_convert"):
                self.caches.append(o)

    def forget(self) -> None:
        """Empty the caches of the package's functions."""
        for cache in self.caches:
            cache.cache_clear()


def every_object() -> list[Any]:
    """All that is alive, also what the garbage collector was told to leave out of its rounds."""
    frozen = gc.get_freeze_count() > 0
    gc.unfreeze()
    found = gc.get_objects()
    if frozen:
        gc.freeze()
    return found


def exchange(mutant: Mutant, living: Living) -> dict[types.FunctionType, types.CodeType]:
    """Put a mutant into its function and all copies of it.

    Returns: the code that was there.
    Raises: ValueError: no living function has the change, or it needs other variables around it.
    """
    path = str(PACKAGE / mutant.file)
    plain = compile((PACKAGE / mutant.file).read_text(), path, "exec", dont_inherit=True)
    new, old = codes(tree_code(mutant), below=True), codes(plain, below=True)
    keys = {k for k in new if k not in old or new[k] != old[k]}
    before: dict[types.FunctionType, types.CodeType] = {}
    for function in living.functions.get(path, ()):
        key = function.__code__.co_name, function.__code__.co_firstlineno
        if key in keys:
            before[function] = function.__code__
            function.__code__ = new[key]
    if not before:
        raise ValueError(f"{mutant.key} is in no living function")
    living.forget()
    return before


@contextmanager
def alive(mutant: Mutant) -> Iterator[None]:
    """A mutant inside the block, the plain function before and after."""
    living = Living()
    before = exchange(mutant, living)
    try:
        yield
    finally:
        for function, code in before.items():
            function.__code__ = code
        Living().forget()


class Importer(importlib.abc.MetaPathFinder):
    """Imports one file of the package with a change, for changes that take effect at import.

    Args:
        mutant: the change.
    """

    def __init__(self, mutant: Mutant) -> None:
        parts = ("rcps_convert", *mutant.file.removesuffix(".py").split("/"))
        self.name = ".".join(parts).removesuffix(".__init__")
        self.mutant = mutant

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """The module's usual spec, with a loader of our own."""
        if name != self.name:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        assert spec is not None
        spec.loader = _Loader(self.mutant, name, str(PACKAGE / self.mutant.file))
        return spec

    def install(self) -> None:
        """Take part in imports from now on; the package must not be imported yet."""
        assert "rcps_convert" not in sys.modules
        sys.meta_path.insert(0, self)


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, mutant: Mutant, name: str, path: str) -> None:
        super().__init__(name, path)
        self.mutant = mutant

    def get_code(self, fullname: str) -> types.CodeType:
        return tree_code(self.mutant)
