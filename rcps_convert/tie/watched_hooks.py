"""The user's forward hooks on a converted model: each is watched for whether it changes what it is given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from .._torch import hook_tables, is_compiling, modes_aside, pytree, version
from ..geometry import Frame

OURS = f"{__name__.partition('.')[0]}."
"""Beginning of the modules of this package."""


class WatchedHook:
    """A hook of the user's, and whether it changes what it is given.

    Args:
        hook: the user's.
        judge: is given its module and the hook when it does, and may refuse that.

    Attributes:
        acts: it did so once.
    """

    def __init__(self, hook: Any, judge: Callable[[nn.Module, Any], None]) -> None:
        self.hook, self.judge, self.acts = hook, judge, False

    def __call__(self, module: nn.Module, *given: Any) -> Any:
        """What the hook returns."""
        if is_compiling():
            return self.hook(module, *given)
        with modes_aside(Frame):  # its calls are none of forward's
            before = _versions(given)
            result = self.hook(module, *given)
            if result is not None or _versions(given) != before:
                self.acts = True
                self.judge(module, self.hook)
            return result


def _versions(given: Any) -> list[int]:
    """How often the tensors that a hook sees were written into."""
    return [version(x) for x in pytree.tree_leaves(given) if isinstance(x, Tensor) and not x.is_inference()]


def users_hooks(module: nn.Module) -> Iterator[tuple[dict[int, Any], int, Any]]:
    """The user's hooks around a module's forward: the table, the key there and the hook."""
    for table in hook_tables(module):
        for key, hook in [*table.items()]:
            if isinstance(hook, WatchedHook) or not type(hook).__module__.startswith(OURS):
                yield table, key, hook


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
