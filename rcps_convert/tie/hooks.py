"""Work before and after a module's forward, attached so that its class and its keys stay."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn
from torch.fx import Proxy
from torch.utils.hooks import RemovableHandle

from .._torch import drop_hooks, is_scripting, is_unwatched, looks_for_symbols, pre_hooks, unseen
from ..errors import refuse_scripting, refuse_symbols
from ..geometry import (
    AroundForward,
    drop_around,
    follow_replicas,
    forwards_of,
    place_around,
    unfollow_replicas,
)


class StrandHook:
    """Work before and after a module's forward; class and keys stay."""

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
        """The arguments the module gets instead; None for those it was given."""
        raise NotImplementedError

    def after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """What the caller gets instead of the output; None for the output itself."""
        raise NotImplementedError


class TensorHook(StrandHook):
    """A hook on a module with one tensor in and one out; its methods see these alone."""

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """The arguments with the first tensor, given by position or by name, replaced."""
        with unseen():
            if args:
                return (self.tensor_before(module, args[0]), *args[1:]), kwargs
            name = next(iter(kwargs))
            return args, {**kwargs, name: self.tensor_before(module, kwargs[name])}

    def after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """What the caller gets instead of the output."""
        with unseen():
            return self.tensor_after(module, args[0] if args else next(iter(kwargs.values())), output)

    def around(self, module: nn.Module, x: Tensor) -> Tensor:
        """All of a call, where nothing watches."""
        return self.tensor_after(module, x, type(module).forward(module, self.tensor_before(module, x)))

    def tensor_before(self, module: nn.Module, x: Tensor) -> Tensor:
        """The tensor the module gets instead of x."""
        raise NotImplementedError

    def tensor_after(self, module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """What the caller gets instead of y; x is what the module got."""
        raise NotImplementedError


class Numbered:
    """A hook that is pickled with the handle of torch that numbers it.

    Hooks are kept by numbers that each process counts from 0. Loading the handle makes the process count on from
    there; otherwise the user's next hook might take the place of this one.

    Attributes:
        handle: of the hook, once it is attached.
    """

    handle: RemovableHandle | None = None

    @property
    def __name__(self) -> str:
        if is_scripting():
            raise refuse_scripting(f"a {type(self).__name__}")
        raise AttributeError("__name__")


class Before(Numbered):
    """The forward pre-hook of a `StrandHook`."""

    def __init__(self, hook: StrandHook) -> None:
        self.hook = hook

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
        """Replace the arguments."""
        return self.hook.before(module, args, kwargs)


class After(Numbered):
    """The forward hook of a `StrandHook`."""

    def __init__(self, hook: StrandHook) -> None:
        self.hook = hook

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Replace the output."""
        return self.hook.after(module, args, kwargs, output)


class Inside(AroundForward):
    """The forward of a module with a hook around it that the user's own hooks see nothing of.

    Args:
        module: the module; a deep copy of it holds a copy of this, bound to the copy.
        hook: what to do.
    """

    def __init__(self, module: nn.Module, hook: StrandHook) -> None:
        self.module, self.hook = module, hook
        self.before: Any = module.__dict__.get("forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module's own forward, with other arguments, and what is made of its output."""
        if args and type(args[0]) is Proxy:
            raise refuse_symbols(self.adds)
        if (
            len(args) == 1
            and not kwargs
            and self.before is None
            and is_unwatched()
            and isinstance(self.hook, TensorHook)
        ):
            return self.hook.around(self.module, args[0])
        given, named = self.hook.before(self.module, args, kwargs) or (args, kwargs)
        output = self._own(*given, **named)
        made = self.hook.after(self.module, given, named, output)
        return output if made is None else made

    def made_for(self, module: nn.Module) -> Inside:
        """The same around the forward of another module."""
        return type(self)(module, self.hook)


def install_inside(module: nn.Module, hook: StrandHook) -> None:
    """Attach a hook to a module's forward itself: what hooks of the user's see stays what it was."""
    place_around(module, Inside(module, hook))


def install(module: nn.Module, hook: StrandHook, *, outside: bool = False, always: bool = False) -> None:
    """Attach a hook to a module.

    Args:
        module: the module, changed in place.
        hook: what to do.
        outside: around the hooks the user has attached; else next to forward, inside of them.
        always: `StrandHook.after` is called after an exception too, with None for the output.
    """
    before, after = Before(hook), After(hook)
    before.handle = module.register_forward_pre_hook(before, with_kwargs=True, prepend=outside)
    after.handle = module.register_forward_hook(after, with_kwargs=True, prepend=not outside, always_call=always)
    show_to_compiler(module)


HOOKED = "_rc_hooked"
"""The attribute of a module that holds a `Hooked`."""


class Hooked:
    """Lies in a module whose hooks the law rests on: ``torch.fx.symbolic_trace`` of the module would drop them."""

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        if looks_for_symbols():
            raise refuse_symbols(AroundForward.adds)
        return type(self)


def show_to_compiler(module: nn.Module) -> None:
    """Set a module's forward on the module itself, to what it is anyway.

    ``torch.compile`` does not look at hooks when it decides whether code it made for one module fits another of
    the same class; it does look at whether forward is the class's own.
    """
    if "forward" not in module.__dict__:
        module.forward = module.forward
        module.__dict__[HOOKED] = Hooked()
        follow_replicas(module)


def hide_from_compiler(module: nn.Module) -> None:
    """Undo `show_to_compiler`; another forward that was set on the module stays."""
    own = module.__dict__.get("forward")
    if inspect.ismethod(own) and own.__self__ is module and own.__func__ is type(module).forward:
        del module.__dict__["forward"]
        module.__dict__.pop(HOOKED, None)
        unfollow_replicas(module)


def hooks_of(module: nn.Module) -> list[StrandHook]:
    """The hooks attached to a module, in the order they see its arguments."""
    inside = [forward.hook for forward in forwards_of(module) if isinstance(forward, Inside)]
    return [h.hook for h in pre_hooks(module) if isinstance(h, Before)] + inside


def hook_of(module: nn.Module, kind: type = StrandHook) -> Any:
    """The first hook of a kind that is attached to a module, or None."""
    return next((h for h in hooks_of(module) if isinstance(h, kind)), None)


def uninstall(module: nn.Module, kind: type = StrandHook) -> None:
    """Detach our hooks of a kind from a module; the user's own stay."""
    drop_around(module, lambda forward: isinstance(forward, Inside) and isinstance(forward.hook, kind))
    drop_hooks(module, lambda h: isinstance(h, (Before, After)) and isinstance(h.hook, kind))
    if not hooks_of(module):
        hide_from_compiler(module)
