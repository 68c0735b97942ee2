"""Work before and after a module's forward, attached so that its class, keys and forward stay."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn

from ..geometry import follow_replicas, unfollow_replicas, unseen


class StrandHook:
    """Work before and after a module's forward, attached as hooks: class, keys and forward stay.

    A hook on a module with one tensor in and one out has `before` and `after`; others have `enter` and `leave`.
    """

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """The arguments the module gets instead: the first tensor, given by position or by name, is replaced."""
        with unseen():
            if args:
                return (self.before(module, args[0]), *args[1:]), kwargs
            name = next(iter(kwargs))
            return args, {**kwargs, name: self.before(module, kwargs[name])}

    def leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """What the caller gets instead of the output."""
        with unseen():
            return self.after(module, args[0] if args else next(iter(kwargs.values())), output)

    def before(self, module: nn.Module, x: Tensor) -> Tensor:
        """The tensor the module gets instead of x."""
        raise NotImplementedError

    def after(self, module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """What the caller gets instead of y; x is what the module got."""
        raise NotImplementedError


class Before:
    """The forward pre-hook of a `StrandHook`."""

    def __init__(self, hook: StrandHook) -> None:
        self.hook = hook

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """Replace the arguments."""
        return self.hook.enter(module, args, kwargs)


class After:
    """The forward hook of a `StrandHook`."""

    def __init__(self, hook: StrandHook) -> None:
        self.hook = hook

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Replace the output."""
        return self.hook.leave(module, args, kwargs, output)


def install(module: nn.Module, hook: StrandHook) -> None:
    """Attach a hook to a module: next to its forward, inside the hooks the user has attached."""
    module.register_forward_pre_hook(Before(hook), with_kwargs=True)
    module.register_forward_hook(After(hook), with_kwargs=True, prepend=True)
    show_to_compiler(module)


def show_to_compiler(module: nn.Module) -> None:
    """Set a module's forward on the module itself, to what it is anyway.

    ``torch.compile`` does not look at hooks when it decides whether code it made for one module fits another of
    the same class; it does look at whether forward is the class's own.
    """
    if "forward" not in module.__dict__:
        module.forward = module.forward
        follow_replicas(module)


def hide_from_compiler(module: nn.Module) -> None:
    """Undo `show_to_compiler`; another forward that was set on the module stays."""
    own = module.__dict__.get("forward")
    if inspect.ismethod(own) and own.__self__ is module and own.__func__ is type(module).forward:
        del module.__dict__["forward"]
        unfollow_replicas(module)


def hook_of(module: nn.Module) -> StrandHook | None:
    """The hook attached to a module, if there is one."""
    return next((h.hook for h in module._forward_pre_hooks.values() if isinstance(h, Before)), None)


def uninstall(module: nn.Module) -> None:
    """Detach our hooks from a module; the user's own stay."""
    detach(module, Before, After)


def detach(module: nn.Module, before: type, after: type) -> None:
    """Remove the forward pre-hooks of one class and the forward hooks of another from a module."""
    drop(module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs, before)
    drop(module._forward_hooks, module._forward_hooks_with_kwargs, after)
    hide_from_compiler(module)


def drop(hooks: Any, flags: Any, kind: type) -> None:
    """Remove the hooks of a class from one of a module's tables, and what the module notes about them."""
    for key in [k for k, h in hooks.items() if isinstance(h, kind)]:
        del hooks[key]
        flags.pop(key, None)
