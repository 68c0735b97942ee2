"""Checks of a converted model's calls: work before a module's forward that changes nothing and may refuse.

A hook of torch's takes every call of its module the long way round, which costs a small model at batch 1 a twentieth
of its time. So a check runs in a forward that is set around the module's own. Only where the user's own hooks change
what forward gets does it run before them, as a hook: it judges what the caller gave.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from .._torch import drop_hooks, is_compiling, module_called, pre_hooks
from ..geometry import AroundForward, drop_around, forwards_of, place_around, require_whole_copy
from .hooks import Numbered


class Check(Numbered):
    """A check of the calls of a module.

    Attributes:
        needed: the law rests on it: there are calls that it refuses though nobody changed the model.
        on_copies: it is asked on a copy too on which the law is measured because something changed.
    """

    needed = on_copies = True

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuse a call, or let it pass."""
        raise NotImplementedError


class Checked(AroundForward):
    """A module's forward behind a check.

    Args:
        module: the module; a deep copy of it holds a copy of this, bound to the copy.
        check: what is asked first.
    """

    adds = "checks of its calls"

    def __init__(self, module: nn.Module, check: Check) -> None:
        self.module, self.check = module, check
        self.before: Any = module.__dict__.get("forward")

    @property
    def needed(self) -> bool:  # type: ignore[override]
        """Whether the law rests on the check."""
        return self.check.needed

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the module's own forward returns."""
        if not is_compiling():
            require_whole_copy(self.module, module_called())
        self.check(self.module, args, kwargs)
        return self._own(*args, **kwargs)

    def made_for(self, module: nn.Module) -> Checked:
        """The same around the forward of another module."""
        return Checked(module, self.check)


def attach_check(module: nn.Module, check: Check) -> None:
    """Let a check judge the calls of a module from now on, in place."""
    if pre_hooks(module):
        check.handle = module.register_forward_pre_hook(check, with_kwargs=True, prepend=True)
    else:
        place_around(module, Checked(module, check))


def checks_of(module: nn.Module) -> list[Check]:
    """The checks of a module's calls."""
    inside = [forward.check for forward in forwards_of(module) if isinstance(forward, Checked)]
    return [hook for hook in pre_hooks(module) if isinstance(hook, Check)] + inside


def drop_checks(model: nn.Module, kind: Callable[[Any], bool]) -> None:
    """Take the checks of a kind off a model and its parts, in place."""
    for module in model.modules():
        drop_hooks(module, lambda hook: isinstance(hook, Check) and kind(hook))
        drop_around(module, lambda forward: isinstance(forward, Checked) and kind(forward.check))
