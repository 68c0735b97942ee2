"""Checks of a converted model's calls: work before a module's forward that changes nothing and may refuse.

A hook of torch's takes every call of its module the long way round, which costs a small model at batch 1 a twentieth
of its time. So all checks of a module run in one forward that is set around the module's own. Only where the user's
own hooks change what forward gets does a check run before them, as a hook: it judges what the caller gave.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling

from .._torch import (
    call_of,
    drop_hooks,
    is_compiling,
    is_unwatched,
    may_share_parts,
    module_called,
    not_compiled,
    pre_hooks,
    told_to_compiler,
)
from ..geometry import (
    AroundForward,
    accept_forward,
    change_around,
    forwards_inside,
    forwards_of,
    place_around,
    replaced_forward,
    require_whole_copy,
)
from .hooks import Numbered

CHANGED = "the model is no longer what was converted, or a hook or setting is another: call it once as it is"
"""What a compiler says that may not break the graph."""

KNOWN = 256
"""Forms of calls that were found to do, at most."""


class Check(Numbered):
    """A check of the calls of a module.

    Attributes:
        needed: the law rests on it: there are calls that it refuses though nobody changed the model.
        on_copies: it is asked on a copy too on which the law is measured because something changed.
        by_form: of a call with one tensor and nothing else it asks for the form of that and for the module's mode.
    """

    needed = on_copies = True
    by_form = False

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuse a call, or let it pass."""
        raise NotImplementedError

    def look_again(self) -> None:
        """Judge the next call as if none had been judged: another forward runs in the place of the one that asks."""

    def stands(self) -> bool:
        """Whether all that it goes by beside the form of a call is as when a call passed; asked at each call."""
        return self.by_form


class Checked(AroundForward):
    """A module's forward behind its checks: the one place that says which of them is asked when.

    A call passes at once if one of its form passed all checks, and each of them still `stands`. Any other call is
    given to every check, in order.

    Args:
        module: the module; a deep copy of it holds a copy of this, bound to the copy.
        checks: what is asked first, the outermost first.

    Attributes:
        watching: those that go by more than the form of a call.
        passed: the forms of calls that passed since the last time that one of these did not stand.
    """

    adds = "checks of its calls"

    def __init__(self, module: nn.Module, checks: Sequence[Check]) -> None:
        self.module, self.before = module, module.__dict__.get("forward")
        self._start(checks)

    def _start(self, checks: Sequence[Check]) -> None:
        self.checks, self.passed = tuple(checks), set[Any]()
        self.watching = [check for check in checks if not check.by_form]
        self.stood = told_to_compiler(self._has_stood)
        self.ask_apart = not_compiled(self._ask, CHANGED)

    def __getstate__(self) -> dict[str, Any]:
        return {name: vars(self)[name] for name in ("module", "before", "checks")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start(self.checks)

    @property
    def needed(self) -> bool:  # type: ignore[override]
        """Whether the law rests on a check."""
        return any(check.needed for check in self.checks)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the module's own forward returns."""
        module, form = self.module, None
        if len(args) == 1 and not kwargs and type(x := args[0]) is Tensor and is_unwatched() and not x.__dict__:
            form = x.shape, x.dtype, x.layout, module.training
            if form in self.passed and not may_share_parts(module) and self._stand():
                before = self.before
                return before.unwatched(x, form[0]) if isinstance(before, AroundForward) else self._own(x)
        if (form is not None or not is_compiling()) and may_share_parts(module):
            require_whole_copy(module, module_called())
        if form is None or form not in self.passed or not self._stand():
            self._ask(form, args, kwargs)
        return self._own(*args, **kwargs)

    def _stand(self) -> bool:
        """Whether every check stands."""
        for check in self.watching:  # noqa: SIM110 - a generator takes twice as long
            if not check.stands():
                return False
        return True

    def _has_stood(self) -> bool:
        """Whether every check stands when a call is compiled; one that was never asked is asked now."""
        try:
            for check in (check for check in self.watching if not check.stands()):
                check(self.module, (), {})
        except Exception:  # something changed, and the call that it is measured with is not known here
            return False
        return self._stand()

    def _ask(self, form: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Give a call to every check.

        Args:
            form: of the call; None where it is no single tensor, or something watches.
            args, kwargs: the call.
        """
        if is_dynamo_compiling() and not self.stood():
            self.ask_apart(form, args, kwargs)
            return
        if not is_compiling() and self.passed and (len(self.passed) >= KNOWN or not self._stand()):
            self.passed.clear()  # a compiler follows no more of this than the checks themselves
        for check in self.checks:
            check(self.module, args, kwargs)
        if form is not None and self._stand():
            self.passed.add(form)

    def made_for(self, module: nn.Module) -> Checked:
        """The same around the forward of another module."""
        return Checked(module, self.checks)

    def without(self, kind: Callable[[Any], bool]) -> Checked | None:
        """The same without the checks of a kind; None where none is left."""
        left = [check for check in self.checks if not kind(check)]
        if len(left) == len(self.checks):
            return self
        rest = Checked(self.module, left)
        rest.before = self.before
        return rest if left else None


def attach_check(module: nn.Module, check: Check) -> None:
    """Let a check judge the calls of a module from now on, before those it has, in place."""
    around = module.__dict__.get("forward")
    if pre_hooks(module):
        check.handle = module.register_forward_pre_hook(check, with_kwargs=True, prepend=True)
    elif isinstance(around, Checked):
        more = Checked(module, [check, *around.checks])
        more.before = around.before
        place_around(module, more)
    else:
        place_around(module, Checked(module, [check]))


def ask_replaced(attributes: dict[str, Any]) -> None:
    """Ask the checks of a converted model that runs a forward which the user put in the place of theirs.

    Args:
        attributes: the model's own.
    """
    outermost = replaced_forward(attributes)
    lost = [forward for forward in forwards_inside(outermost) if isinstance(forward, Checked)]
    call = call_of(lost[0].module, Checked.__call__.__code__) if lost else None
    if call is not None:
        for check in (check for forward in lost for check in forward.checks):
            check.look_again()
            check(lost[0].module, *call)


def checks_of(module: nn.Module) -> list[Check]:
    """The checks of a module's calls, in the order in which they are asked."""
    inside = [check for forward in forwards_of(module) if isinstance(forward, Checked) for check in forward.checks]
    return [hook for hook in pre_hooks(module) if isinstance(hook, Check)] + inside


def drop_checks(model: nn.Module, kind: Callable[[Any], bool]) -> None:
    """Take the checks of a kind off a model and its parts, in place; a forward in the place of theirs needs none."""
    for module in model.modules():
        accept_forward(module)
        drop_hooks(module, lambda hook: isinstance(hook, Check) and kind(hook))
        change_around(module, lambda forward: forward.without(kind) if isinstance(forward, Checked) else forward)
