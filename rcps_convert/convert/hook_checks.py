"""Hooks and forwards that users set on a converted model: what changes something is measured, the rest is let be.

What a hook does is seen only when it runs. So a new one is put into a `WatchedHook`, in its place in torch's table.

What else is asked at each call: docs/how-it-works.md, "Which check runs when".
"""

from __future__ import annotations

from collections import deque
from typing import Any

from torch import Tensor, nn

from .._torch import (
    calling_modules,
    hook_tables,
    hooks_so_far,
    is_compiling,
    is_replica,
    pytree,
    tables_for_all,
    takes_kwargs,
)
from ..errors import Where
from ..geometry import AroundForward, replaced_forward
from ..tie.checks import Check, attach_check, checks_of, drop_checks
from ..tie.parts import OtherPartError, open_modules
from ..tie.watched_hooks import WatchedHook, bare_hooks, hooks_for_all, users_hooks
from .measured_call import KNOWN, MeasuredStates


class Hooks(Check):
    """The check of a converted model that looks for forward hooks and forwards that were attached, or removed, since.

    Args:
        model: as it was converted.

    Attributes:
        modules: of the model.
        keys: for each the keys of the user's hooks around its forward.
        set: whether each had a forward of the user's set on it.
    """

    needed = on_copies = False

    def __init__(self, model: nn.Module) -> None:
        self.modules = open_modules(model)
        self.keys = [_keys(module) for module in self.modules]
        self.set = [_is_users(module, module.__dict__.get("forward")) for module in self.modules]
        self._start()

    def _start(self) -> None:
        self.so_far = -1
        self.forwards: list[Any] | None = None
        self.with_forward: list[tuple[nn.Module, Any]] = []
        self.without: list[nn.Module] = []
        self.held: list[tuple[nn.Module, set[int]]] = []
        self.watching = self.judging = False
        self.states = MeasuredStates()
        self.judged: deque[Any] = deque(maxlen=KNOWN)
        self.call: tuple[Any, Any] = (), {}

    def __getstate__(self) -> dict[str, Any]:
        return {"modules": self.modules, "keys": self.keys, "set": self.set}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Watch the hooks that are new.

        Raises:
            OtherPartError: without one that was removed the strands disagree, or that could not be measured.
        """
        if is_compiling() or is_replica(module):
            return
        if not self._has_its_forwards():
            self._look_at_forwards(self._forwards(), args, kwargs)
        if not self._has_its_hooks():
            self.call = args, kwargs
            self._look(module)
        if self.watching:
            self.call = args, kwargs

    def stands(self) -> bool:
        """Whether there are the same hooks and forwards, and no hook is watched, which is told of every call."""
        return self._has_its_hooks() and not self.watching and self._has_its_forwards()

    def _has_its_forwards(self) -> bool:
        if self.forwards is None:
            return False
        for module, forward in self.with_forward:
            if module.__dict__.get("forward") is not forward:
                return False  # a loop, as a generator takes twice as long
        return not [1 for module in self.without if "forward" in module.__dict__]

    def look_again(self) -> None:
        """Ask of a call in the place of whose forward another one runs what is asked of the first one."""
        self.forwards = None

    def _has_its_hooks(self) -> bool:
        return self.so_far == hooks_so_far() and not (self.held and any(k - _keys(m) for m, k in self.held))

    def _forwards(self) -> list[Any]:
        return [m.__dict__.get("forward") for m in self.modules]

    def _look_at_forwards(self, forwards: list[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Measure the model with forwards that were set on modules since."""
        if self.judging:  # a forward on a copy that leads back to this model
            return
        before = self.forwards or [None] * len(forwards)
        for i, (module, now, was) in enumerate(zip(self.modules, forwards, before, strict=True)):
            fresh = now != was or now is None
            if fresh and _is_users(module, now) and not (self.forwards is None and self.set[i]):
                self.call = args, kwargs
                self.judge(module, now)
        self.forwards = forwards
        pairs = [*zip(self.modules, forwards, strict=True)]
        self.with_forward = [(module, forward) for module, forward in pairs if forward is not None]
        self.without = [module for module, forward in pairs if forward is None]

    def _look(self, model: nn.Module) -> None:
        so_far = hooks_so_far()
        for i, module in enumerate(self.modules):
            found = {key: (table, hook) for table, key, hook in users_hooks(module)}
            if not self.keys[i] <= found.keys():
                self.judge(module, None)
                self.keys[i] &= found.keys()
            for key in sorted(found.keys() - self.keys[i]):
                table, hook = found[key]
                if not isinstance(hook, WatchedHook):
                    before = table is hook_tables(module)[0]
                    table[key] = WatchedHook(hook, self.judge, before)
                    if module is model and before:
                        self._run_again(model, key, table[key])
        everywhere = self._watch_hooks_for_all(model)
        self.watching = everywhere or any(
            isinstance(hook, WatchedHook) for m in self.modules for _, _, hook in users_hooks(m)
        )
        self.held = [(m, keys) for m, keys in zip(self.modules, self.keys, strict=True) if keys]
        self.so_far = so_far

    def _watch_hooks_for_all(self, model: nn.Module) -> bool:
        """Watch the hooks around every module in this process; whether there are any."""
        for table, key, hook in hooks_for_all():
            before = table is tables_for_all()[0]
            table[key] = WatchedHook(hook, _judge_for_all, before)
            if before:
                self._run_again(model, key, table[key])
        return any(isinstance(hook, WatchedHook) for table in tables_for_all() for hook in table.values())

    def _run_again(self, model: nn.Module, key: int, hook: WatchedHook) -> None:
        """Run a hook that ran before the model, before it was seen, once more, on copies of the tensors."""
        args, kwargs = pytree.tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, self.call)
        hook(model, *((args, kwargs) if takes_kwargs(model, key) else (args,)))

    def judge(self, module: nn.Module, hook: Any, everywhere: bool = False) -> None:
        """Measure the model with a hook that changes something, or without one that was removed (None).

        Args:
            module: that the hook ran on.
            hook: the hook.
            everywhere: it is one around every module: the model is measured once with it.

        Raises:
            OtherPartError: the strands disagree, or that could not be measured.
        """
        self.judging = True
        try:
            fault = self.states.fault(self.modules[0], *self.call, (None if everywhere else id(module), id(hook)))
        finally:
            self.judging = False
        self.judged.append(hook)  # while it is known by its id, no other object may get that
        if fault is not None:
            what = "a forward hook that was there when the model was converted is gone"
            if hook is not None and hook is module.__dict__.get("forward"):
                what = "a forward was set on a module after the conversion"
            elif hook is None and replaced_forward(vars(module)) is not None:
                what = "the forward that the conversion set on a module is gone"
            elif hook is not None:
                what = "a forward hook that was attached after the conversion changes what it is given"
            raise OtherPartError(
                what,
                where=Where(next((path for path, held in self.modules[0].named_modules() if held is module), "")),
                got=None if hook is None else getattr(hook, "__qualname__", None) or type(hook).__name__,
                why=fault,
                do="attach what computes something to the plain model and convert that, or write it into forward; "
                "hooks that only look may be attached at any time",
            )


def _judge_for_all(module: nn.Module, hook: Any) -> None:
    """Let the converted model that runs judge a hook around every module; where none does, it may do what it likes."""
    found = (check for running in calling_modules() for check in checks_of(running) if isinstance(check, Hooks))
    check = next(found, None)
    if check is not None and not check.judging:
        check.judge(module, hook, everywhere=True)


def _is_users(module: nn.Module, forward: Any) -> bool:
    """Whether a forward that is set on a module is not the package's, and not its class's where that was set before."""
    own = forward is None or (getattr(forward, "__func__", None) is type(module).forward and forward.__self__ is module)
    return not (isinstance(forward, AroundForward) or (own and replaced_forward(vars(module)) is None))


def _keys(module: nn.Module) -> set[int]:
    """The keys of the user's hooks around a module's forward."""
    return {key for _, key, _ in users_hooks(module)}


def watch_hooks(model: nn.Module) -> None:
    """Attach `Hooks` to a model as it is now, in place of those it has."""
    unwatch_hooks(model)
    attach_check(model, Hooks(model))


def unwatch_hooks(model: nn.Module) -> None:
    """Detach every `Hooks` of a model, and take hooks out of their `WatchedHook`s, in place."""
    drop_checks(model, lambda check: isinstance(check, Hooks))
    bare_hooks(model.modules())
