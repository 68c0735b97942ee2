"""Forwards that are set on a module around the one it had, one around the other."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from .._torch import is_scripting, looks_for_symbols, share_parts
from ..errors import ConversionError, refuse_scripting, refuse_symbols
from .replicas import follow_replicas, rebound, unfollow_replicas


class AroundForward:
    """A callable in the place of a module's forward that looks like the forward inside it: torch.export reads that.

    Attributes:
        module: the module.
        before: the forward that was set on the module itself; None where its class's is meant.
        adds: what it adds, in words.
        needed: the law rests on it.
    """

    module: nn.Module
    before: Any
    adds = "calls that read both edges of a length, or both strands"
    needed = True

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.before or type(self.module).forward.__get__(self.module))

    @property
    def __code__(self) -> Any:
        return (self.before or type(self.module).forward).__code__

    @property
    def __name__(self) -> str:
        return "forward"

    @property
    def __globals__(self) -> Any:
        if is_scripting():
            raise refuse_scripting(self.adds)
        raise AttributeError("__globals__")

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        if looks_for_symbols():
            found = next((forward for forward in forwards_of(self.module) if forward.needed), None)
            if found is not None:
                raise refuse_symbols(found.adds)
        return type(self)

    def _own(self, *args: Any, **kwargs: Any) -> Any:
        """The forward inside."""
        if self.before is not None:
            return self.before(*args, **kwargs)
        return type(self.module).forward(self.module, *args, **kwargs)

    def unwatched(self, x: Any, shape: Any) -> Any:
        """A call with one plain tensor and nothing else, which nothing watches; its shape is known."""
        called: Any = self
        return called(x)

    def made_for(self, module: nn.Module) -> AroundForward:
        """The same around the forward of another module."""
        raise NotImplementedError

    def bound_to(self, replica: nn.Module) -> AroundForward:
        """The same for a replica of the module, around what this is around."""
        twin = self.made_for(replica)
        twin.before = None if self.before is None else rebound(self.before, self.module, replica)
        return twin


def forwards_of(module: nn.Module) -> list[Any]:
    """The `AroundForward`s that are set on a module, the outermost first."""
    return forwards_inside(module.__dict__.get("forward"))


def forwards_inside(forward: Any) -> list[Any]:
    """The `AroundForward`s of a module from one of its forwards on, the outermost first."""
    found: list[Any] = []
    while isinstance(forward, AroundForward):
        found.append(forward)
        forward = forward.before
    return found


def require_whole_copy(module: nn.Module, called: Any) -> None:
    """Refuse a call of a shallow copy of a module that differs from the module: the copy runs the module's forward.

    Args:
        module: what a forward is bound to.
        called: the module that is called.

    Raises:
        ConversionError: it is a copy that ``copy.copy`` made, and it or the module was changed since.
    """
    if called is module or called is None or not share_parts(called, module):
        return
    mine, its = vars(module), vars(called)
    differs = [name for name in {**mine, **its} if mine.get(name, its) is not its.get(name, mine)]
    if differs:
        raise ConversionError(
            f"a shallow copy of a converted {type(called).__name__} is called, and differs from it: {differs[0]}",
            why="copy.copy shares the forward that the conversion set, so this copy would compute as the original does",
            do="make the copy with copy.deepcopy",
        )


def place_around(module: nn.Module, forward: AroundForward) -> None:
    """Set a forward around the one that a module has, in place."""
    module.forward = forward  # type: ignore[assignment,method-assign]
    follow_replicas(module)


def drop_around(module: nn.Module, matches: Callable[[Any], bool]) -> None:
    """Take the `AroundForward`s that match off a module, in place; those around and inside of them stay."""
    change_around(module, lambda forward: None if matches(forward) else forward)


def change_around(module: nn.Module, change: Callable[[Any], Any]) -> None:
    """Put others in the place of the `AroundForward`s of a module, in place.

    Args:
        module: changed.
        change: gives what stands in the place of one, around what that was around; None for nothing.
    """
    outer: Any = None
    for forward in forwards_of(module):
        now = change(forward)
        if now is not forward:
            inside = forward.before if now is None else now
            if outer is None:
                _set_forward(module, inside)
            else:
                outer.before = inside
        outer = outer if now is None else now


def _set_forward(module: nn.Module, forward: Any) -> None:
    """Set the forward of a module on it; None for its class's own."""
    del module.__dict__["forward"]
    if forward is not None:
        module.forward = forward  # type: ignore[assignment,method-assign]
    if isinstance(forward, AroundForward) or (inspect.ismethod(forward) and forward.__self__ is module):
        follow_replicas(module)
    else:
        unfollow_replicas(module)
