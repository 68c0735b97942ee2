"""What a conversion took for given: settings, empty places, functions and constants that forward reads.

A stride that was 1, a flag that chose a branch, a bias that was not there, a table of numbers in a buffer: none of
them is a trained parameter, and what was inferred holds for them as they were. Some changes do no harm, such as a wider
symmetric padding. So the first call after a change is measured on both strands, and refused where these disagree.

What else is asked at each call: docs/how-it-works.md, "Which check runs when".
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from operator import is_
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._torch import (
    Numbers,
    empty_places,
    is_compiling,
    is_filled,
    is_replica,
    sample_of,
    version,
)
from ..errors import Where
from ..graph.attributes import code_of
from ..graph.held_objects import FUNCTIONS, PLAIN, by_function, is_array, is_setting_of_class, read_by_forward
from ..graph.holders import Globals, OfClass, Place, is_gone, reader, size_of, source, value_at
from ..graph.sandbox import owner
from ..strands.conjoined import conjoined
from ..tie.checks import Check, attach_check, checks_of, drop_checks
from ..tie.notes import noted
from ..tie.parts import OtherPartError, Parts, open_modules, watch
from .hook_checks import unwatch_hooks, watch_hooks
from .measured_call import CANNOT, KNOWN, fault_of, is_watched, shapes_of
from .outline import fingerprint

KEPT = (
    "modules",
    "settings",
    "by_class",
    "empty",
    "functions",
    "constants",
    "kept",
    "buffers",
    "values",
    "another",
    "code",
)
"""Attributes of a `Given` that are kept in files and copies."""

SMALL = 2**15
"""Bytes of a constant up to which all of them are compared at each call; of a larger one some are."""

LARGE = 2**20
"""The same for an array, of which no writes are counted."""

PATIENCE = 8
"""Values that are measured of what goes on changing, such as a temperature that falls at each step."""


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
        return id(self.place[0]), str(self.place[1])


class Given(Check):
    """The check of a converted model that what its conversion took for given is as it was, or does no harm.

    Args:
        model: as it was converted.
        constants: names of the buffers whose values forward reads.
        another: the conversion was worked out for a model whose forward or settings were others.

    Attributes:
        modules: of the model as it was converted.
        settings: the names of its settings, for each module and each object kept by one that has some.
        values: of these.
        by_class: settings that the class of a module has, or may be set later, and the module has not.
        empty: places for parameters and buffers that hold none.
        functions: that modules keep as attributes.
        constants: the tensors that forward reads and that are not trained, each with a fingerprint of its values.
        kept: the objects, kept by modules, that were looked into.
        buffers: the constants that are buffers, by name.
    """

    needed = on_copies = False

    def __init__(self, model: nn.Module, constants: Iterable[str] = (), another: bool = False) -> None:
        self.modules, self.buffers = open_modules(model), (*constants,)
        found = read_by_forward(self.modules)
        self.settings, self.by_class = found.settings, found.by_class
        self.functions, self.kept = found.functions, found.kept
        self.empty = [(module, name) for module in self.modules for name in empty_places(module)]
        held = found.constants + [owner(model, name) for name in self.buffers]
        self.constants = [(place, _print(value_at(*place))) for place in held]
        self.values = copy.deepcopy([reader(h, names)(source(h))[:-1] for h, names in self.settings])
        self.another, self.code = another, self._code()
        self._start([value_at(*place) for place in self.functions])
        for i, (place, print_) in enumerate(self.constants):
            self.seen[i] = _Sight(value_at(*place), print_)

    def _start(self, called: Sequence[Any]) -> None:
        """Know no tensors yet: those of a copy are others.

        Args:
            called: the functions; of a copy what they are called.
        """
        self.read: list[Any] | None = None
        self.seen = [_Sight(None)] * len(self.constants)
        self.called = [*called]
        self.classes: list[type] | None = None
        self.known: dict[Any, None] = {}  # changed states that were found to do no harm
        self.tried: dict[tuple[int, str], set[Any]] = {}  # values that were, of what goes on changing

    def _get_ready(self) -> None:
        """Prepare what is asked at each call: only now is a copy complete."""
        self._find_functions()
        rows = [
            (h, reader(h, names), (*row, row[0])) for (h, names), row in zip(self.settings, self.values, strict=True)
        ]
        usual = [row for row in rows if isinstance(row[0], nn.Module)]
        others = [row for row in rows if not isinstance(row[0], nn.Module)]
        self.read, self.expected = [(m, get) for m, get, _ in usual], [row for *_, row in usual]
        self.beside, self.expected_beside = [(h, get) for h, get, _ in others], [row for *_, row in others]
        of_modules = [one for one in self.kept if isinstance(one.place[0], nn.Module) and size_of(one.value) is None]
        self.held = [(*one.place, one.value) for one in of_modules]
        self.held_beside = [(one, size_of(one.value)) for one in self.kept if one not in of_modules]
        self.asked = _rows(self.functions)

    def __getstate__(self) -> dict[str, Any]:
        called = [was if isinstance(was, str) else _said(was) for was in self.called]
        return {**{name: vars(self)[name] for name in KEPT}, "named": called}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.kept, self.buffers = [], ()  # those of another version of the package have none
        self.__dict__.update(state)
        self._start(self.__dict__.pop("named"))

    def _find_functions(self) -> None:
        """Find those again by name that a file could not hold; what is not found is other code."""
        if not any(is_gone(h) for h, _ in (*self.settings, *self.functions, *(place for place, _ in self.constants))):
            return
        known = by_function(read_by_forward(self.modules))

        def again(holder: Any) -> Any:
            return known.get(holder.name) if is_gone(holder) else holder

        rows = [((again(h), n), row) for (h, n), row in zip(self.settings, self.values, strict=True)]
        self.settings, self.values = _present(rows)
        self.constants = [*zip(*_present([((again(h), n), print_) for (h, n), print_ in self.constants]), strict=True)]
        self.seen = [_Sight(None)] * len(self.constants)
        called = [((again(h), n), was) for (h, n), was in zip(self.functions, self.called, strict=True)]
        self.functions, self.called = _present(called)

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Measure the model if something changed, and refuse the call if the strands disagree.

        Raises:
            OtherPartError: they do, or that could not be measured.
        """
        if is_compiling() or is_replica(module):
            return
        classes = [*map(type, self.modules)]
        if classes != self.classes:  # also where one has changed since the model was saved
            self.classes, self.another = classes, self.another or self.code != self._code()
        if self.stands():
            return
        if not self._keeps_its_objects():
            self._follow_objects(module, args, kwargs)
            return
        changes = [change for change in self._changes(module) if not self._is_tried(change)]
        state = (tuple((*c.name, c.key) for c in changes), module.training, shapes_of((args, kwargs)))
        if changes and state not in self.known:
            self._require_law(module, args, kwargs, changes[0])
            self._remember(state, changes)

    def stands(self) -> bool:
        """Whether nothing changed."""
        if [*map(type, self.modules)] != self.classes:
            return False
        if self.read is None:
            self._get_ready()
        try:
            return self._holds_what_it_held()
        except (LookupError, RuntimeError, ValueError, TypeError, AttributeError):  # deleted, or no plain value now
            return False

    def _holds_what_it_held(self) -> bool:
        """The same.

        Raises:
            Exception: something was deleted, or is of another kind now.
        """
        if [get(m.__dict__) for m, get in self.read] != self.expected:  # type: ignore[union-attr]
            return False
        if self.kept and not self._keeps_its_objects():
            return False
        if self.beside and [get(source(h)) for h, get in self.beside] != self.expected_beside:
            return False
        if self.another or (self.empty and any([is_filled(*place) for place in self.empty])):
            return False
        same = not any([name in getattr(holder, "__dict__", ()) for holder, name in self.by_class])
        return same and (not (self.asked or self.constants) or self._has_its_objects())

    def _keeps_its_objects(self) -> bool:
        """Whether the objects that were looked into are the same ones."""
        same = False not in [m.__dict__.get(name) is value for m, name, value in self.held]
        return same and all([value_at(*o.place) is o.value and size_of(o.value) == n for o, n in self.held_beside])

    def _follow_objects(self, model: nn.Module, args: Any, kwargs: Any) -> None:
        """Take what is kept now for given, if it says what was kept before, or does no harm."""
        now = Given(model, self.buffers, self.another)
        before, found = self._described(), now._described()
        differ = [key for key in {**before, **found} if not _equal(before.get(key), found.get(key))]
        if differ and not self._is_kept_by_forward(differ, now):
            root, *name = differ[0]
            was, is_ = (_said(said.get(differ[0], "not there")) for said in (before, found))
            self._require_law(model, args, kwargs, Altered((root, ".".join(map(str, name))), was, is_, None))
        if not is_watched():
            kept = {name: vars(self)[name] for name in ("code", "known", "tried")}
            self.__dict__.update({**vars(now), **kept})

    def _is_kept_by_forward(self, differ: list[tuple[Any, ...]], now: Given) -> bool:
        """Whether only constants differ in a table that did no harm often enough, as where forward keeps results."""
        places = {one._place_of(*place) for one in (self, now) for place, _ in one.constants}
        tables = {(id(root), ".".join(map(str, name[:-1]))) for root, *name in differ}
        if not places.issuperset(differ) or len(tables) > 1:
            return False
        times = self.tried.setdefault(tables.pop(), set())
        if len(times) < PATIENCE:
            times.add(len(times))
            return False
        return True

    def _described(self) -> dict[tuple[Any, ...], Any]:
        """What was taken for given, by the module that leads to it and its name there."""
        said: dict[tuple[Any, ...], Any] = {}
        for (holder, names), row in zip(self.settings, self.values, strict=True):
            said |= {self._place_of(holder, name): value for name, value in zip(names, row, strict=True)}
        said |= {self._place_of(*place): _name_of(was) for place, was in zip(self.functions, self.called, strict=True)}
        return said | {self._place_of(*place): was for place, was in self.constants}

    def _place_of(self, holder: Any, name: Any) -> tuple[Any, ...]:
        """The module that leads to a place, and the name of the place there."""
        if isinstance(holder, nn.Module):
            return holder, str(name)
        kept = next((one for one in self.kept if one.value is holder), None)
        return (self.modules[0], holder.name, name) if kept is None else (kept.root, kept.label, name)

    def _has_its_objects(self) -> bool:
        """Whether functions and constants are the same objects as at the last call, and as they were."""
        same = [all(map(is_, get(source(h)), [self.called[i] for i in at])) for h, get, at in self.asked]
        for (place, numbers), seen in zip(self.constants, self.seen, strict=True):
            same.append(seen.is_of(value_at(*place)) and seen.print == numbers)
        return all(same)

    def _code(self) -> str:
        return code_of({type(module) for module in self.modules})

    def _changes(self, model: nn.Module) -> Iterator[Altered]:
        """What is not as it was."""
        if self.another:
            yield Altered(
                (model, "forward"), "that of the conversion", "other code, or the settings it reads", "another"
            )
        for (holder, names), values in zip(self.settings, self.values, strict=True):
            for name, was in zip(names, values, strict=True):
                now = value_at(holder, name)
                if not _equal(was, now):
                    tried = type(now) in (int, float, list, dict)
                    yield Altered((holder, name), _said(was), _said(now), _key(now), tried)
        for place in self.empty:
            if is_filled(*place):
                yield Altered(place, "None", "set", _state(*place))
        for holder, name in self.by_class:
            was, now = getattr(type(holder), name, None), value_at(holder, name)
            if name in getattr(holder, "__dict__", ()) and not _equal(was, now):
                yield Altered((holder, name), _said(was), _said(now), _key(now), type(now) in (int, float))
        yield from self._other_functions()
        if not is_watched():
            yield from self._other_constants()

    def _other_functions(self) -> Iterator[Altered]:
        """The functions that were replaced."""
        for i, (place, was) in enumerate(zip(self.functions, self.called, strict=True)):
            now = value_at(*place)
            if was == _name_of(now):  # that of a copy
                self.called[i] = now
            elif now is not was:
                yield Altered(place, _name_of(was), _said(now), _key(now))

    def _other_constants(self) -> Iterator[Altered]:
        """The constants that have other values."""
        for i, (place, was) in enumerate(self.constants):
            value = value_at(*place)
            if not self.seen[i].is_of(value):
                self.seen[i] = _Sight(value)
            if self.seen[i].print != was:
                sets = isinstance(place[0], Globals) or size_of(place[0]) is not None  # forward may, at each call
                yield Altered(place, "a constant of forward", "other values", _state(*place), sets)

    def _is_tried(self, change: Altered) -> bool:
        """Whether what goes on changing has done no harm often enough."""
        return change.counts and len(self.tried.get(change.name, ())) >= PATIENCE

    def _require_law(self, model: nn.Module, args: Any, kwargs: Any, change: Altered) -> None:
        if is_watched():
            fault: str | None = CANNOT
        else:
            fault = fault_of(model, args, kwargs, bool(self.constants))
        if fault is not None:
            root, *name = self._place_of(*change.place)
            raise _refusal(model, root, ".".join(map(str, name)), change, fault)

    def _remember(self, state: Any, changes: list[Altered]) -> None:
        """Measure this state no more."""
        if len(self.known) >= KNOWN:
            self.known.clear()
        self.known[state] = None
        for change in changes:
            self.tried.setdefault(change.name, set()).add(change.key)


def _refusal(model: nn.Module, root: nn.Module, name: str, change: Altered, fault: str) -> OtherPartError:
    path = next((path for path, held in model.named_modules() if held is root), "")
    return OtherPartError(
        f"{name} is not what it was when the model was converted",
        where=Where(path),
        got=f"{change.now}, and it was {change.was}",
        why=f"the conversion took it for given; {fault}",
        do="call extend(model, example), which ties the model as it is now; or set it back",
    )


def print_of(model: nn.Module) -> str:
    """A fingerprint of what forward of a plain model does beside its tensors: its code, and the settings it reads."""
    given = Given(model)
    paths = {module: path for path, module in model.named_modules()}

    def place(holder: Any, *name: Any) -> tuple[Any, ...]:
        root, *rest = given._place_of(holder, *name)
        return (paths[root], *rest)

    held: list[Any] = []
    for (holder, names), row in zip(given.settings, given.values, strict=True):
        named = [*zip(names, row, strict=True)]
        in_object = not isinstance(holder, nn.Module)
        held.append((*place(holder, ""), *named) if in_object else (paths[holder], *named))
    called = zip(given.functions, given.called, strict=True)
    held += [(*place(*at), _name_of(was)) for at, was in called if not isinstance(at[0], OfClass)]  # that is its code
    of_classes = (at for at in given.by_class if is_setting_of_class(at))
    held += [(*place(*at), getattr(type(at[0]), at[1])) for at in of_classes]
    held += [(paths[m], name) for m, name in given.empty] + [(*place(*at), f) for at, f in given.constants]
    return hashlib.sha256(f"{given.code} {held!r}".encode()).hexdigest()[:16]


# --- what there is ------------------------------------------------------------------------------


def _equal(a: Any, b: Any) -> bool:
    """Whether two values are equal; what cannot be compared is not."""
    try:
        return bool(a == b)
    except (RuntimeError, ValueError, TypeError):  # tensors, arrays
        return False


def _present(rows: Sequence[tuple[Place, Any]]) -> tuple[list[Any], list[Any]]:
    """Places that have a holder, and what belongs to each."""
    kept = [row for row in rows if row[0][0] is not None]
    return [place for place, _ in kept], [what for _, what in kept]


def _rows(places: Sequence[Place]) -> list[tuple[Any, Any, list[int]]]:
    """Each holder, how to read what it has in its places, and the numbers of these."""
    found: dict[int, tuple[Any, list[int]]] = {}
    for i, (holder, _) in enumerate(places):
        found.setdefault(id(holder), (holder, []))[1].append(i)
    return [(h, reader(h, tuple(places[i][1] for i in at)), at) for h, at in found.values()]


class _Sight:
    """A constant when its values were last looked at.

    A write into ``value.data`` is not counted, so the numbers are compared; of a large one some, and its place.

    Args:
        value: the tensor; or what else is found in its place.
        found: its fingerprint, where it was taken already.
    """

    __slots__ = ("mark", "numbers", "print", "value")

    def __init__(self, value: Any, found: Any = None) -> None:
        self.value, self.mark, self.print = value, _mark(value), _print(value) if found is None else found
        is_small = isinstance(value, Tensor) and value.is_cpu and value.nbytes <= SMALL
        self.numbers: Any = Numbers(value) if is_small else _content(value)

    def is_of(self, value: Any) -> bool:
        """Whether a tensor is the same, and has the same values."""
        same = value is self.value and _mark(value) == self.mark
        if not same or self.numbers is None:
            return same
        return self.numbers.are_in(value) if isinstance(self.numbers, Numbers) else self.numbers == _content(value)


def _mark(value: Any) -> Any:
    """How often a tensor was written into, where that is counted, and where its values are."""
    if not isinstance(value, Tensor):
        return None
    return 0 if value.is_inference() else version(value), value.data_ptr()


def _content(value: Any) -> bytes | tuple[bytes, ...] | None:
    """What lies in the memory of an array, or some of it; None of what is not in the memory of Python."""
    if is_array(value):
        return memoryview(value).tobytes() if memoryview(value).nbytes <= LARGE else sample_of(value)
    return sample_of(value) if type(value) in (Tensor, nn.Parameter, nn.Buffer) and value.is_cpu else None


def _print(value: Any) -> Any:
    if is_array(value):
        return hashlib.sha256(memoryview(value).tobytes()).hexdigest()[:16]
    if not isinstance(value, Tensor) or value.is_meta:
        return None
    return fingerprint(torch.view_as_real(value.resolve_conj()) if value.is_complex() else value)


def _state(module: Any, name: Any) -> Any:
    """What stands for the values of a tensor; a trained one may have any."""
    value = value_at(module, name)
    if is_array(value):
        return _print(value)
    return tuple(_print(value) or ()) if isinstance(value, Tensor) and not value.requires_grad else value


def _key(value: Any) -> Any:
    """What stands for a setting: itself, where it can; an object that is kept is no other's later."""
    return value if type(value) in PLAIN or isinstance(value, (Tensor, *FUNCTIONS)) else repr(value)


def _name_of(value: Any) -> str:
    """What a function is called, also where that is all that is known of it."""
    return value if isinstance(value, str) else _said(value)


def _said(value: Any) -> str:
    text = getattr(value, "__qualname__", None) or repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def watch_given(model: nn.Module, another: bool = False) -> None:
    """Attach `Given` to a model with tied weights as it is now, and `Hooks` to any.

    Args:
        model: changed. Where it reads both strands, settings may be anything; a hook may change what is given to it
            before, or what it returns after, both are read.
        another: as of `Given`.
    """
    unwatch_given(model)
    if conjoined(model) is None:
        attach_check(model, Given(model, (noted(model) or {}).get("constants", ()), another))
    watch_hooks(model)
    if any(isinstance(check, Parts) for check in checks_of(model)):
        watch(model)  # around it: whether a module is another one is asked first


def has_given(model: nn.Module) -> bool:
    """Whether a model has a `Given`: it was converted to tied weights, or needed none."""
    return any(isinstance(check, Given) for check in checks_of(model))


def unwatch_given(model: nn.Module) -> None:
    """Detach every `Given` and `Hooks` of a model."""
    unwatch_hooks(model)
    drop_checks(model, lambda check: isinstance(check, Given))
