"""Work before and after a module's forward, attached so that its class, keys and forward stay."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .._torch import drop_hooks, pre_hooks, unseen
from ..geometry import follow_replicas, unfollow_replicas


class StrandHook:
    """Work before and after a module's forward, attached as hooks: class, keys and forward stay."""

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


def hooks_of(module: nn.Module) -> list[StrandHook]:
    """The hooks attached to a module, in the order they see its arguments."""
    return [h.hook for h in pre_hooks(module) if isinstance(h, Before)]


def hook_of(module: nn.Module, kind: type = StrandHook) -> Any:
    """The first hook of a kind that is attached to a module, or None."""
    return next((h for h in hooks_of(module) if isinstance(h, kind)), None)


def uninstall(module: nn.Module, kind: type = StrandHook) -> None:
    """Detach our hooks of a kind from a module; the user's own stay."""
    drop_hooks(module, lambda h: isinstance(h, (Before, After)) and isinstance(h.hook, kind))
    if not hooks_of(module):
        hide_from_compiler(module)
