"""What a conversion took for given: settings, empty places, functions and constants that forward reads.

A stride that was 1, a flag that chose a branch, a bias that was not there, a table of numbers in a buffer: none of
them is a trained parameter, and what was inferred holds for them as they were. Some changes do no harm, such as a wider
symmetric padding. So the first call after a change is measured on both strands, and refused where these disagree.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from .._torch import empty_places, is_compiling, is_filled, is_recorded, is_replica, pytree, transform_level, version
from ..errors import Where
from ..graph.attributes import named_by_forward
from ..graph.sandbox import owner
from ..tie.checks import Check, attach_check, drop_checks
from ..tie.notes import noted
from ..tie.parts import OtherPartError, Parts
from .measured_call import fault_of
from .outline import fingerprint

PLAIN = {bool, int, float, str, type(None)}
"""Kinds of settings."""

FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, partial)
"""Kinds of functions that a module may keep as an attribute."""

KNOWN = 256
"""Changed states that were found to do no harm, at most."""

PATIENCE = 8
"""Values of a number that are measured, such as a temperature that falls at each step; if none did harm, none does."""

Place = tuple[nn.Module, str]
"""An attribute of a module."""


class Change(NamedTuple):
    """Something that is not as it was at the conversion.

    Attributes:
        place: where.
        was, now: in words.
        key: its value, or what stands for it.
    """

    place: Place
    was: str
    now: str
    key: Any

    @property
    def name(self) -> tuple[int, str]:
        """What tells its place from others."""
        return id(self.place[0]), self.place[1]


class Given(Check):
    """The check of a converted model that what its conversion took for given is as it was, or does no harm.

    Args:
        model: as it was converted.
        constants: names of the buffers whose values forward reads.

    Attributes:
        settings: the names of its settings, for each module that has some.
        values: of these.
        empty: places for parameters and buffers that hold none.
        functions: that modules keep as attributes.
        constants: the tensors that forward reads and that are not trained, each with a fingerprint of its values.
    """

    def __init__(self, model: nn.Module, constants: Iterable[str]) -> None:
        named = {cls: named_by_forward(cls) for cls in {type(module) for module in model.modules()}}
        self.settings: list[tuple[nn.Module, tuple[str, ...]]] = []
        places: dict[str, list[Place]] = {"function": [], "constant": [owner(model, name) for name in constants]}
        for module in model.modules():
            kinds = _kinds(module, *named[type(module)])
            settings = tuple(name for name, kind in kinds.items() if kind == "setting")
            self.settings += [(module, settings)] if settings else []
            for name, kind in kinds.items():
                places.setdefault(kind, []).append((module, name))
        self.empty = [(module, name) for module in model.modules() for name in empty_places(module)]
        self.functions = places["function"]
        self.constants = [(place, fingerprint(getattr(*place))) for place in places["constant"]]
        self.values = copy.deepcopy(self._values())
        self._start()

    def _start(self) -> None:
        """Know no objects yet: those of another process or copy are others."""
        self.seen: list[tuple[Any, int, Any]] = [(None, -1, None)] * len(self.constants)
        self.called: list[Any] | None = None
        self.known: dict[Any, None] = {}  # changed states that were found to do no harm
        self.tried: dict[tuple[int, str], set[Any]] = {}  # values of single numbers that were

    def __getstate__(self) -> dict[str, Any]:
        return {name: vars(self)[name] for name in ("settings", "empty", "functions", "constants", "values")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Measure the model if something changed, and refuse the call if the strands disagree.

        Raises:
            OtherPartError: they do, or that could not be measured.
        """
        if is_compiling() or is_replica(module):
            return
        changes = [*self._changes()]
        if not changes or all(map(self._is_tried, changes)):
            return
        state = (tuple((*c.name, c.key) for c in changes), module.training, _shapes((args, kwargs)))
        if state not in self.known:
            self._require_law(module, args, kwargs, changes[0])
            self._remember(state, changes)

    def _values(self) -> list[tuple[Any, ...]]:
        return [tuple(map(vars(module).get, names)) for module, names in self.settings]

    def _changes(self) -> Iterator[Change]:
        """What is not as it was."""
        now = self._values()
        if not _equal(now, self.values):
            yield from self._settings(now)
        for place in self.empty:
            if is_filled(*place):
                yield Change(place, "None", "set", _state(*place))
        functions = [vars(module).get(name) for module, name in self.functions]
        self.called = functions if self.called is None else self.called
        for place, was, function in zip(self.functions, self.called, functions, strict=True):
            if function is not was:
                yield Change(place, _said(was), _said(function), id(function))
        if not _is_watched():
            yield from self._constants()

    def _settings(self, now: list[tuple[Any, ...]]) -> Iterator[Change]:
        """The settings that are not as they were."""
        for (module, names), before, after in zip(self.settings, self.values, now, strict=True):
            for name, was, value in zip(names, before, after, strict=True):
                if not _equal(was, value):
                    yield Change((module, name), _said(was), _said(value), _key(value))

    def _constants(self) -> Iterator[Change]:
        """The constants that have other values."""
        for i, (place, was) in enumerate(self.constants):
            value = getattr(*place, None)
            if value is not self.seen[i][0] or _version(value) != self.seen[i][1]:
                self.seen[i] = (value, _version(value), _print(value))
            if self.seen[i][2] != was:
                yield Change(place, "a constant of forward", "other values", _state(*place))

    def _is_tried(self, change: Change) -> bool:
        """Whether a single number has done no harm often enough."""
        return type(change.key) in (int, float) and len(self.tried.get(change.name, ())) >= PATIENCE

    def _require_law(self, model: nn.Module, args: Any, kwargs: Any, change: Change) -> None:
        if _is_watched():
            fault: str | None = (
                "what it does cannot be measured in a transform or a trace: call the model as it is first"
            )
        else:
            fault = fault_of(model, args, kwargs, lambda check: isinstance(check, (Given, Parts)), bool(self.constants))
        if fault is not None:
            raise _refusal(model, change, fault)

    def _remember(self, state: Any, changes: list[Change]) -> None:
        """Measure this state no more."""
        if len(self.known) >= KNOWN:
            self.known.clear()
        self.known[state] = None
        for change in changes:
            self.tried.setdefault(change.name, set()).add(change.key)


def _refusal(model: nn.Module, change: Change, fault: str) -> OtherPartError:
    module, name = change.place
    path = next((path for path, held in model.named_modules() if held is module), "")
    return OtherPartError(
        f"{name} is not what it was when the model was converted",
        where=Where(path),
        got=f"{change.now}, and it was {change.was}",
        why=f"the conversion took it for given; {fault}",
        do="call extend(model, example), which ties the model as it is now; or set it back",
    )


def _is_watched() -> bool:
    """Whether tensors have no values of their own: in transforms of ``torch.func``, and where calls are recorded."""
    return transform_level() is not None or is_recorded()


# --- what there is ------------------------------------------------------------------------------


def _kinds(module: nn.Module, read: set[str], stored: set[str]) -> dict[str, str]:
    """The attributes that forward reads and does not set, of kinds that can be compared.

    Args:
        module: floats of torch's own modules, such as the probability of a dropout, are left out: any value does.
        read, stored: names that its forward reads and sets.
    """
    own = {name: value for base in reversed(type(module).__mro__) for name, value in vars(base).items()}
    inner = vars(nn.Module).keys() | vars(nn.Module()).keys()
    found = {}
    for name in sorted((read & {*own, *vars(module)}) - stored - inner):
        kind = _kind(vars(module)[name]) if name in vars(module) else "setting" if type(own[name]) in PLAIN else None
        is_float = type(vars(module).get(name)) is float and _is_torchs(module)
        if kind is not None and not is_float:
            found[name] = kind
    return found


def _kind(value: Any) -> str | None:
    if isinstance(value, Tensor):
        return "constant" if not isinstance(value, nn.Parameter) and value.is_leaf else None
    if isinstance(value, FUNCTIONS):
        return "function"
    plain = {*map(type, pytree.tree_leaves(value))} <= PLAIN
    return "setting" if plain else None


def _is_torchs(module: nn.Module) -> bool:
    """Whether the forward of a module is one of torch's own."""
    return type(module).forward.__module__.startswith("torch.")


def _equal(a: Any, b: Any) -> bool:
    """Whether two values are equal; what cannot be compared is not."""
    try:
        return bool(a == b)
    except (RuntimeError, ValueError, TypeError):  # tensors, arrays
        return False


def _version(value: Any) -> int:
    """How often a tensor was written into, where that is counted."""
    return version(value) if isinstance(value, Tensor) and not value.is_inference() else 0


def _print(value: Any) -> Any:
    return fingerprint(value) if isinstance(value, Tensor) and not value.is_meta else None


def _state(module: nn.Module, name: str) -> Any:
    """What stands for the values of a tensor; a trained one may have any."""
    value = getattr(module, name, None)
    return tuple(_print(value) or ()) if isinstance(value, Tensor) and not value.requires_grad else id(value)


def _key(value: Any) -> Any:
    """What stands for a setting."""
    return value if type(value) in PLAIN else repr(value) if not isinstance(value, Tensor) else id(value)


def _said(value: Any) -> str:
    text = getattr(value, "__qualname__", None) or repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _shapes(call: Any) -> tuple[Any, ...]:
    """The shapes of the tensors of a call, and its other arguments."""
    return tuple(tuple(v.shape) if isinstance(v, Tensor) else repr(v) for v in pytree.tree_leaves(call))


def watch_given(model: nn.Module) -> None:
    """Attach `Given` to a converted model as it is now, in place of one it has."""
    unwatch_given(model)
    attach_check(model, Given(model, (noted(model) or {}).get("constants", ())))


def unwatch_given(model: nn.Module) -> None:
    """Detach every `Given` of a model."""
    drop_checks(model, lambda check: isinstance(check, Given))
