"""What a conversion took for given: settings, empty places, functions and constants that forward reads.

A stride that was 1, a flag that chose a branch, a bias that was not there, a table of numbers in a buffer: none of
them is a trained parameter, and what was inferred holds for them as they were. Some changes do no harm, such as a wider
symmetric padding. So the first call after a change is measured on both strands, and refused where these disagree.
"""

from __future__ import annotations

import copy
import hashlib
import types
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from .._torch import (
    Numbers,
    empty_places,
    is_compiling,
    is_filled,
    is_recorded,
    is_replica,
    pytree,
    transform_level,
    version,
)
from ..errors import Where
from ..graph.attributes import code_of, named_by_forward
from ..graph.sandbox import owner
from ..strands.conjoined import conjoined
from ..tie.checks import Check, attach_check, checks_of, drop_checks
from ..tie.notes import noted
from ..tie.parts import OtherPartError, Parts, parts_of, watch
from .measured_call import fault_of
from .outline import fingerprint

PLAIN = {bool, int, float, str, type(None)}
"""Kinds of settings."""

FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, partial)
"""Kinds of functions that a module may keep as an attribute."""

KNOWN = 256
"""Changed states that were found to do no harm, at most."""

SMALL = 2**15
"""Bytes of a constant up to which its numbers are compared at each call."""

PATIENCE = 8
"""Values that are measured of what goes on changing, such as a temperature that falls at each step."""

Place = tuple[nn.Module, str]
"""An attribute of a module."""


class Altered(NamedTuple):
    """Something that is not as it was at the conversion.

    Attributes:
        place: where.
        was, now: in words.
        key: its value, or what stands for it.
        counts: it is a number or a list, which may go on changing.
    """

    place: Place
    was: str
    now: str
    key: Any
    counts: bool = False

    @property
    def name(self) -> tuple[int, str]:
        """What tells its place from others."""
        return id(self.place[0]), self.place[1]


class Given(Check):
    """The check of a converted model that what its conversion took for given is as it was, or does no harm.

    Args:
        model: as it was converted.
        constants: names of the buffers whose values forward reads.
        another: the conversion was worked out for a model whose forward or settings were others.

    Attributes:
        modules: of the model as it was converted.
        settings: the names of its settings, for each module that has some.
        values: of these.
        by_class: settings that the class of a module has, and the module has not.
        empty: places for parameters and buffers that hold none.
        functions: that modules keep as attributes.
        constants: the tensors that forward reads and that are not trained, each with a fingerprint of its values.
    """

    needed = False

    def __init__(self, model: nn.Module, constants: Iterable[str] = (), another: bool = False) -> None:
        self.modules = modules = _open(model)
        named = {cls: named_by_forward(cls) for cls in {type(module) for module in modules}}
        stored = set().union(*(names for _, names in named.values()))
        kinds = [(module, _kinds(module, named[type(module)][0] - stored)) for module in modules]
        rows = [(m, tuple(name for name, kind in found.items() if kind == "setting")) for m, found in kinds]
        self.settings = [(module, names) for module, names in rows if names]
        self.by_class = [(m, name) for m in modules for name in _of_class(m, named[type(m)][0] - stored)]
        self.empty = [(module, name) for module in modules for name in empty_places(module)]
        self.functions = [(m, name) for m, found in kinds for name, kind in found.items() if kind == "function"]
        held = [(m, name) for m, found in kinds for name, kind in found.items() if kind == "constant"]
        held += [owner(model, name) for name in constants]
        self.constants = [(place, _print(getattr(*place))) for place in held]
        self.values = copy.deepcopy([tuple(map(vars(module).get, names)) for module, names in self.settings])
        self.another, self.code = another, self._code()
        self._start([vars(module)[name] for module, name in self.functions])
        for i, (place, found) in enumerate(self.constants):
            value = getattr(*place)
            self.seen[i] = _Sight(value, found)

    def _start(self, called: Sequence[Any]) -> None:
        """Know no tensors yet: those of a copy are others.

        Args:
            called: the functions; of a copy what they are called.
        """
        self.read = [itemgetter(*names, *names[:1]) for _, names in self.settings]  # never of one name alone
        self.expected = [(*values, values[0]) for values in self.values]
        self.seen = [_Sight(None)] * len(self.constants)
        self.called = [*called]
        self.loaded = False
        self.known: dict[Any, None] = {}  # changed states that were found to do no harm
        self.tried: dict[tuple[int, str], set[Any]] = {}  # values that were, of what goes on changing

    def __getstate__(self) -> dict[str, Any]:
        kept = ("modules", "settings", "by_class", "empty", "functions", "constants", "values", "another", "code")
        called = [was if isinstance(was, str) else _said(was) for was in self.called]
        return {**{name: vars(self)[name] for name in kept}, "named": called}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start(self.__dict__.pop("named"))
        self.loaded = True

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Measure the model if something changed, and refuse the call if the strands disagree.

        Raises:
            OtherPartError: they do, or that could not be measured.
        """
        if is_compiling() or is_replica(module):
            return
        if self.loaded:  # the class may have changed since it was saved
            self.loaded, self.another = False, self.another or self.code != self._code()
        if self._is_as_it_was():
            return
        changes = [change for change in self._changes(module) if not self._is_tried(change)]
        state = (tuple((*c.name, c.key) for c in changes), module.training, _shapes((args, kwargs)))
        if changes and state not in self.known:
            self._require_law(module, args, kwargs, changes[0])
            self._remember(state, changes)

    def _is_as_it_was(self) -> bool:
        """Whether nothing changed; asked at each call."""
        try:
            if [get(m.__dict__) for get, (m, _) in zip(self.read, self.settings)] != self.expected:  # noqa: B905
                return False
        except (KeyError, RuntimeError, ValueError, TypeError):  # deleted, or no plain value any more
            return False
        changed = [module for module, name in self.empty if is_filled(module, name)]
        changed += [module for module, name in self.by_class if name in module.__dict__]
        return not (changed or self.another) and self._has_its_objects()

    def _has_its_objects(self) -> bool:
        """Whether functions and constants are the same objects as at the last call, and as they were."""
        same = [m.__dict__.get(name) is was for (m, name), was in zip(self.functions, self.called, strict=True)]
        for (place, numbers), seen in zip(self.constants, self.seen, strict=True):
            same.append(seen.is_of(getattr(*place, None)) and seen.print == numbers)
        return all(same)

    def _code(self) -> str:
        return code_of({type(module) for module in self.modules})

    def _changes(self, model: nn.Module) -> Iterator[Altered]:
        """What is not as it was."""
        if self.another:
            yield Altered(
                (model, "forward"), "that of the conversion", "other code, or the settings it reads", "another"
            )
        for (module, names), values in zip(self.settings, self.values, strict=True):
            for name, was in zip(names, values, strict=True):
                now = vars(module).get(name)
                if not _equal(was, now):
                    tried = type(now) in (int, float, list, dict)
                    yield Altered((module, name), _said(was), _said(now), _key(now), tried)
        for place in self.empty:
            if is_filled(*place):
                yield Altered(place, "None", "set", _state(*place))
        for module, name in self.by_class:
            was, now = getattr(type(module), name, None), vars(module).get(name, getattr(type(module), name, None))
            if not _equal(was, now):
                yield Altered((module, name), _said(was), _said(now), _key(now), type(now) in (int, float))
        yield from self._other_functions()
        if not _is_watched():
            yield from self._other_constants()

    def _other_functions(self) -> Iterator[Altered]:
        """The functions that were replaced."""
        for i, (place, was) in enumerate(zip(self.functions, self.called, strict=True)):
            now = vars(place[0]).get(place[1])
            if was == _said(now):  # that of a copy
                self.called[i] = now
            elif now is not was:
                yield Altered(place, was if isinstance(was, str) else _said(was), _said(now), _key(now))

    def _other_constants(self) -> Iterator[Altered]:
        """The constants that have other values."""
        for i, (place, was) in enumerate(self.constants):
            value = getattr(*place, None)
            if not self.seen[i].is_of(value):
                self.seen[i] = _Sight(value)
            if self.seen[i].print != was:
                yield Altered(place, "a constant of forward", "other values", _state(*place))

    def _is_tried(self, change: Altered) -> bool:
        """Whether what goes on changing has done no harm often enough."""
        return change.counts and len(self.tried.get(change.name, ())) >= PATIENCE

    def _require_law(self, model: nn.Module, args: Any, kwargs: Any, change: Altered) -> None:
        if _is_watched():
            fault: str | None = "in a transform or a trace that cannot be measured: call the model as it is first"
        else:
            fault = fault_of(model, args, kwargs, lambda check: isinstance(check, (Given, Parts)), bool(self.constants))
        if fault is not None:
            raise _refusal(model, change, fault)

    def _remember(self, state: Any, changes: list[Altered]) -> None:
        """Measure this state no more."""
        if len(self.known) >= KNOWN:
            self.known.clear()
        self.known[state] = None
        for change in changes:
            self.tried.setdefault(change.name, set()).add(change.key)


def _refusal(model: nn.Module, change: Altered, fault: str) -> OtherPartError:
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


def print_of(model: nn.Module) -> str:
    """A fingerprint of what forward of a plain model does beside its tensors: its code, and the settings it reads."""
    given = Given(model)
    paths = {module: path for path, module in model.named_modules()}
    held = [
        (paths[m], *zip(names, row, strict=True)) for (m, names), row in zip(given.settings, given.values, strict=True)
    ]
    held += [(paths[m], name, _said(was)) for (m, name), was in zip(given.functions, given.called, strict=True)]
    held += [(paths[m], name, getattr(type(m), name)) for m, name in given.by_class]
    held += [(paths[m], name) for m, name in given.empty] + [(paths[m], name, f) for (m, name), f in given.constants]
    return hashlib.sha256(f"{given.code} {held!r}".encode()).hexdigest()[:16]


# --- what there is ------------------------------------------------------------------------------


def _open(model: nn.Module) -> list[nn.Module]:
    """The modules of a model, without those of ties."""
    return [model, *(part for part in parts_of(model, ()) if not isinstance(part, ParametrizationList))]


def _kinds(module: nn.Module, names: set[str]) -> dict[str, str]:
    """The attributes of a module that can be compared, and of which kind each is.

    Args:
        module: floats of torch's own modules, such as the probability of a dropout, are left out: any value does.
        names: those that its forward reads and no forward sets.
    """
    found = {}
    for name in sorted((names & vars(module).keys()) - vars(nn.Module()).keys()):
        value = vars(module)[name]
        kind = None if type(value) is float and _is_torchs(module) else _kind(value)
        if kind is not None:
            found[name] = kind
    return found


def _of_class(module: nn.Module, names: set[str]) -> list[str]:
    """The settings that only the class of a module has."""
    of_class = {name: value for base in reversed(type(module).__mro__[:-2]) for name, value in vars(base).items()}
    return [name for name in sorted(names & of_class.keys() - vars(module).keys()) if type(of_class[name]) in PLAIN]


def _kind(value: Any) -> str | None:
    if isinstance(value, Tensor):
        return "constant" if value.is_leaf and not value.requires_grad else None
    if isinstance(value, FUNCTIONS):
        return "function"
    is_filling = isinstance(value, (list, dict)) and not value
    return "setting" if not is_filling and {*map(type, pytree.tree_leaves(value))} <= PLAIN else None


def _is_torchs(module: nn.Module) -> bool:
    """Whether the forward of a module is one of torch's own."""
    return type(module).forward.__module__.startswith("torch.")


def _equal(a: Any, b: Any) -> bool:
    """Whether two values are equal; what cannot be compared is not."""
    try:
        return bool(a == b)
    except (RuntimeError, ValueError, TypeError):  # tensors, arrays
        return False


class _Sight:
    """A constant when its values were last looked at.

    A write into ``value.data`` is not counted, so the numbers of a small one are compared; of a large one its place.

    Args:
        value: the tensor; or what else is found in its place.
        found: its fingerprint, where it was taken already.
    """

    __slots__ = ("mark", "numbers", "print", "value")

    def __init__(self, value: Any, found: Any = None) -> None:
        self.value, self.mark, self.print = value, _mark(value), _print(value) if found is None else found
        is_small = isinstance(value, Tensor) and value.is_cpu and value.nbytes <= SMALL
        self.numbers = Numbers(value) if is_small else None

    def is_of(self, value: Any) -> bool:
        """Whether a tensor is the same, and has the same values."""
        same = value is self.value and _mark(value) == self.mark
        return same and (self.numbers is None or self.numbers.are_in(value))


def _mark(value: Any) -> Any:
    """How often a tensor was written into, where that is counted, and where its values are."""
    if not isinstance(value, Tensor):
        return None
    return 0 if value.is_inference() else version(value), value.data_ptr()


def _print(value: Any) -> Any:
    if not isinstance(value, Tensor) or value.is_meta:
        return None
    return fingerprint(torch.view_as_real(value.resolve_conj()) if value.is_complex() else value)


def _state(module: nn.Module, name: str) -> Any:
    """What stands for the values of a tensor; a trained one may have any."""
    value = getattr(module, name, None)
    return tuple(_print(value) or ()) if isinstance(value, Tensor) and not value.requires_grad else value


def _key(value: Any) -> Any:
    """What stands for a setting: itself, where it can; an object that is kept is no other's later."""
    return value if type(value) in PLAIN or isinstance(value, (Tensor, *FUNCTIONS)) else repr(value)


def _said(value: Any) -> str:
    text = getattr(value, "__qualname__", None) or repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _shapes(call: Any) -> tuple[Any, ...]:
    """The shapes of the tensors of a call, and its other arguments."""
    return tuple(tuple(v.shape) if isinstance(v, Tensor) else repr(v) for v in pytree.tree_leaves(call))


def watch_given(model: nn.Module, another: bool = False) -> None:
    """Attach `Given` to a model with tied weights as it is now; one that reads both strands may be anything.

    Args:
        model: changed.
        another: as of `Given`.
    """
    unwatch_given(model)
    if conjoined(model) is None:
        attach_check(model, Given(model, (noted(model) or {}).get("constants", ()), another))
    if any(isinstance(check, Parts) for check in checks_of(model)):
        watch(model)  # around it: whether a module is another one is asked first


def unwatch_given(model: nn.Module) -> None:
    """Detach every `Given` of a model."""
    drop_checks(model, lambda check: isinstance(check, Given))
