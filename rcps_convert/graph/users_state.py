"""What of the user's own a model reaches when it runs: hooks that only watch, and cached tables."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from .._torch import all_modules, hook_tables, member_tables, pytree, version
from ..algebra.arguments import Example
from ..algebra.opened import output_leaves
from .attributes import OURS
from .sandbox import call, fix_randomness
from .values import ATOMS, ROWS, TABLES

CACHED = type(lru_cache(lambda: None))
"""The class of functions that keep their results."""

PASSIVE = ATOMS | TABLES | ROWS
"""Types of most of what modules hold, none of which is a function."""

_READ: weakref.WeakSet[Any] = weakref.WeakSet()
"""Cached functions that some run of a model has read."""


# --- hooks --------------------------------------------------------------------------------------


def without_watchers(twin: nn.Module, example: Example) -> None:
    """Take the user's forward hooks that change nothing off a copy, so that they see no tensors without values.

    A hook changes something if it returns a value, writes into a tensor, or sets an attribute of its module. It is
    run on real tensors to see. If the copy computes something else without the others, all of them stay.

    Args:
        twin: a copy of the model, in the mode it is traced in.
        example: what it is called with.
    """
    tables = [table for m in twin.modules() for table in hook_tables(m)]
    found = [(table, key, hook) for table in tables for key, hook in table.items() if _is_users(hook)]
    if not found:
        return
    watched = {id(hook): _Watched(hook) for _, _, hook in found}
    try:
        for table, key, hook in found:
            table[key] = watched[id(hook)]
        before = outputs_of(twin, example)
    finally:
        for table, key, hook in found:
            table[key] = hook
    for table, key, hook in found:
        if not watched[id(hook)].acts:
            del table[key]
    if before is None or not same_leaves(before, outputs_of(twin, example)):
        for table in tables:
            kept = {k: h for t, k, h in found if t is table} | dict(table)
            table.clear()
            table.update({k: kept[k] for k in sorted(kept)})


def _is_users(hook: Any) -> bool:
    return not str(type(hook).__module__).startswith((OURS, "torch."))


class _Watched:
    """A hook, and whether it changes anything."""

    def __init__(self, hook: Any) -> None:
        self.hook, self.acts = hook, False

    def __call__(self, module: nn.Module, *given: Any) -> Any:
        before = _marks(module, given)
        result = self.hook(module, *given)
        self.acts = self.acts or result is not None or before != _marks(module, given)
        return result


def _marks(module: nn.Module, given: Any) -> Any:
    """What a hook leaves different if it writes into a tensor or sets an attribute."""
    tensors = [t for t in pytree.tree_leaves(given) if isinstance(t, Tensor)]
    held = [*module.parameters(), *module.buffers(), *tensors]
    return [version(t) for t in held], [{k: id(v) for k, v in table.items()} for table in member_tables(module)]


def outputs_of(model: nn.Module, example: Example) -> list[Any] | None:
    """The output leaves of one call with fixed random numbers; None where it fails."""
    buffers = [(b, b.detach().clone()) for b in model.buffers()]
    fix_randomness()
    try:
        with torch.no_grad():
            return output_leaves(call(model, example), loosely=True)
    except Exception:  # the model's own errors are reported where it is traced
        return None
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


def same_leaves(a: list[Any], b: list[Any] | None) -> bool:
    """Whether two calls gave the same tensors."""
    if b is None or len(a) != len(b):
        return False
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if isinstance(x, Tensor) and isinstance(y, Tensor)]
    return all(x.shape == y.shape and torch.equal(x.nan_to_num(), y.nan_to_num()) for x, y in pairs)


# --- caches -------------------------------------------------------------------------------------


@contextmanager
def caches_kept_clean(model: nn.Module, known: list[Any] | None = None) -> Iterator[None]:
    """Empty the user's cached functions that a run of the model filled: what it computed is in another precision.

    Args:
        model: what is run.
        known: its `cached_functions`, where they were looked for before.
    """
    caches = cached_functions(model) if known is None else known
    for cached in caches:
        if cached in _READ:  # what a run in another precision left there would be read now
            cached.cache_clear()
    before = [c.cache_info() for c in caches]
    try:
        yield
    finally:
        for cached, info in zip(caches, before, strict=True):
            now = cached.cache_info()
            if (now.hits, now.misses) != (info.hits, info.misses):
                _READ.add(cached)
            if now.misses != info.misses:
                cached.cache_clear()


def cached_functions(model: nn.Module) -> list[Any]:
    """The cached functions a model's code can call by name.

    Found are the functions decorated with ``functools.cache`` or ``lru_cache`` in the modules that define the
    model's classes, in the classes, and on the instances.
    """
    modules = all_modules(model)
    kinds = dict.fromkeys(c for cls in dict.fromkeys(map(type, modules)) for c in cls.__mro__)
    classes = [c for c in kinds if not str(c.__module__).startswith(("torch.", "builtins"))]
    files = dict.fromkeys(c.__module__ for c in classes if c.__module__ in sys.modules)
    places: list[Any] = [vars(m) for m in modules] + [vars(c) for c in classes]
    places += [vars(sys.modules[name]) for name in files]
    places += [_closed_over(f) for c in classes for f in vars(c).values()]
    held = [v for place in places for v in list(place.values()) if type(v) not in PASSIVE]
    found = [getattr(v, "__func__", v) for v in held]
    return list({id(c): c for c in found if isinstance(c, CACHED)}.values())


def _closed_over(function: Any) -> dict[str, Any]:
    """What a function reads that is neither its own nor its module's."""
    names = getattr(getattr(function, "__code__", None), "co_freevars", ())
    cells = getattr(function, "__closure__", None) or ()
    found = {}
    for name, cell in zip(names, cells, strict=False):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # a variable without value yet
            continue
    return found
