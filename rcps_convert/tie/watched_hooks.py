"""The user's forward hooks on a converted model: each is watched for whether it changes what it is given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from .._torch import (
    hook_tables,
    is_compiling,
    is_recorded,
    modes_aside,
    pytree,
    tables_for_all,
    transform_level,
    version,
)
from ..geometry import Frame
from ..graph.attributes import OURS

MEASURING: ContextVar[bool] = ContextVar("measuring", default=False)
"""Whether a copy of a model is measured: hooks that only look would see what the user never gave."""


class WatchedHook:
    """A hook of the user's, and whether it changes what it is given; what looks for the hook's class finds it.

    Args:
        hook: the user's.
        judge: is given its module and the hook when it does, and may refuse that.
        before: it runs before the module's forward.

    Attributes:
        acts: it did so once.
    """

    def __init__(self, hook: Any, judge: Callable[[nn.Module, Any], None], before: bool) -> None:
        self.hook, self.judge, self.before, self.acts = hook, judge, before, False

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(self.hook)

    def __getattr__(self, name: str) -> Any:
        if name == "hook" or name.startswith("__"):  # of one that is only begun
            raise AttributeError(name)
        return getattr(self.hook, name)

    def __call__(self, module: nn.Module, *given: Any) -> Any:
        """What the hook returns."""
        if is_compiling():
            return self.hook(module, *given)
        if MEASURING.get() and not self.acts:
            return None
        with modes_aside(Frame):  # its calls are none of forward's
            before = _versions(given)
            result = self.hook(module, *given)
            passes = result is None or self._gives_back(result, given)
            if not passes or _versions(given) != before:
                self.acts = True
                self.judge(module, self.hook)
            return result

    def _gives_back(self, result: Any, given: tuple[Any, ...]) -> bool:
        """Whether what a hook returns has the values that it was given, such as copies on which gradients are seen."""
        if not self.before:
            return _equal(result, given[-1])
        return _equal(result if isinstance(result, tuple) else (result,), given[0] if len(given) == 1 else given)


def _equal(a: Any, b: Any) -> bool:
    """Whether two results are equal, tensor by tensor."""
    (mine, how), (others, other_how) = pytree.tree_flatten(a), pytree.tree_flatten(b)
    return bool(how == other_how) and all(_same(x, y) for x, y in zip(mine, others, strict=True))


def _same(x: Any, y: Any) -> bool:
    if x is y or not (isinstance(x, Tensor) and isinstance(y, Tensor)):
        return x is y
    if transform_level() is not None or is_recorded():  # they have no values of their own
        return False
    with torch.no_grad():
        return x.shape == y.shape and x.dtype == y.dtype and bool(torch.equal(x, y))


def _versions(given: Any) -> list[int]:
    """How often the tensors that a hook sees were written into."""
    return [version(x) for x in pytree.tree_leaves(given) if isinstance(x, Tensor) and not x.is_inference()]


def users_hooks(module: nn.Module) -> Iterator[tuple[dict[int, Any], int, Any]]:
    """The user's hooks around a module's forward: the table, the key there and the hook."""
    for table in hook_tables(module):
        for key, hook in [*table.items()]:
            if isinstance(hook, WatchedHook) or not str(type(hook).__module__).startswith(OURS):
                yield table, key, hook


def hooks_for_all() -> Iterator[tuple[dict[int, Any], int, Any]]:
    """The user's hooks around the forward of every module in this process: the table, the key there and the hook."""
    rows = ((table, key, hook) for table in tables_for_all() for key, hook in [*table.items()])
    return (row for row in rows if not str(getattr(row[2], "__module__", "")).startswith(("torch.", OURS)))


def bare_hooks(modules: Iterable[nn.Module]) -> None:
    """Take hooks out of their `WatchedHook`s, in place."""
    for table, key, hook in _watched(modules):
        table[key] = hook.hook


def keep_acting_hooks(modules: Iterable[nn.Module]) -> None:
    """Drop the hooks that change nothing, on a copy of a model: they would see what the user never gave."""
    for table, key, hook in _watched(modules):
        hook.judge = _lets_pass
        if not hook.acts:
            del table[key]


def _watched(modules: Iterable[nn.Module]) -> Iterator[tuple[dict[int, Any], int, WatchedHook]]:
    found = (row for module in modules for row in users_hooks(module))
    return ((table, key, hook) for table, key, hook in found if isinstance(hook, WatchedHook))


def _lets_pass(module: nn.Module, hook: Any) -> None:
    """Judge nothing."""
