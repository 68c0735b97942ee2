"""The parts of a converted model: a call of one that is no longer what was converted is refused.

A layer that was put into a converted model later is not tied: with it the outputs are no longer equivariant, and
nothing would show it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.compiler import is_dynamo_compiling
from torch.nn.utils.parametrize import ParametrizationList

from .._torch import are_empty, calling_modules, held_by, holds, is_compiling, is_replica, tables_of
from ..errors import ConversionError, Where
from .checks import Check, attach_check, drop_checks

DO = (
    "call extend(model, example), which ties what was added; or bake(model) for a plain model, change that one, and "
    "convert it"
)


READY = ("asked_of", "leaves", "holders", "expected", "orders")
"""Attributes of a `Parts` that no copy has: they are prepared when it is first asked."""


class OtherPartError(ConversionError):
    """A call of a model that has other parts than when it was converted."""


class Parts(Check):
    """The check of a converted model that compares its modules with those that were converted.

    Modules are compared, one by one; a wrapper of torch's own around one of them counts as that one. A module that was
    added may stay, unless a call of the model reaches it.

    Args:
        model: as it was converted.

    Attributes:
        known: its modules, in the order of `parts_of`.
        paths: of each.
        open: those of them that are looked into.
        held: what the model and each of these holds, by name.
        added: modules that were put beside them later; each has an `AddedPart`.
    """

    needed = on_copies = False
    model: nn.Module | None = None
    """The model; None in files of older versions."""

    def __init__(self, model: nn.Module) -> None:
        names = {id(module): path for path, module in model.named_modules()}
        self.known = parts_of(model, ())
        self.paths = [names[id(module)] for module in self.known]
        self.open = [part for part in self.known if not isinstance(part, ParametrizationList)]
        self.held = held_by((model, *self.open))
        self.asked_of: nn.Module | None = None
        self.model = model
        self.added: list[nn.Module] = []

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in READY}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({**state, "asked_of": None})

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuse a call if a module is missing, or has been replaced, or stands in the place of another.

        Raises:
            OtherPartError: one is.
        """
        if is_replica(module) or is_dynamo_compiling() or self._holds(module):  # `Checked` tells that compiler
            return
        if is_compiling():  # an exporter: what was added may stay
            self._require_places(module, {id(part) for part in self.known})
        else:
            self._compare(module)

    def stands(self) -> bool:
        """Whether every module is in its place."""
        return self.model is not None and self._holds(self.model)

    def _holds(self, model: nn.Module) -> bool:
        if model is not self.asked_of:
            self._get_ready(model)
        if not are_empty(self.leaves):
            return False
        tables = tables_of(self.holders)
        return tables == self.expected and [*map(list, tables)] == self.orders

    def _get_ready(self, model: nn.Module) -> None:
        """Sort what is asked at each call: only now is a copy complete."""
        rows = [*zip((model, *self.open), self.held, strict=True)]
        self.leaves = [part for part, held in rows if not held]
        self.holders = [part for part, held in rows if held]
        self.expected = [held for held in self.held if held]
        self.orders = [[*held] for held in self.expected]  # a forward may go through the modules of a dict
        self.asked_of = model

    def _compare(self, model: nn.Module) -> None:
        """Name what differs, or let what was added refuse calls."""
        known = {id(part) for part in self.known}
        now = self._require_places(model, known)
        for part in now:
            if id(part) not in known and not any(part is other for other in self.added):
                path = next(path for path, module in model.named_modules() if module is part)
                attach_check(part, AddedPart(model, path))
                self.added.append(part)

    def _require_places(self, model: nn.Module, known: set[int]) -> list[nn.Module]:
        """Name what is missing or stands in another place; the parts that there are."""
        now = parts_of(model, known)
        missing = known - {id(part) for part in now}
        if missing:
            place = next(path for path, part in zip(self.paths, self.known, strict=True) if id(part) in missing)
            raise _refusal(place, *self._words(model, place))
        self._compare_places(model, known)
        return now

    def _compare_places(self, model: nn.Module, known: set[int]) -> None:
        """Name the first of the known modules that stands in the place of another."""
        for table, before in zip(tables_of((model, *self.open)), self.held, strict=True):
            common = [name for name in table if name in before]
            for name, then in zip(common, [name for name in before if name in table], strict=True):
                now, was = (None if m is None else _unwrapped(m, known) for m in (table[name], before[then]))
                if now is None or was is None or now is was or not {id(now), id(was)} <= known:
                    continue
                path = self.paths[next(i for i, part in enumerate(self.known) if part is was)]
                raise _refusal(path, f"the {_name(now)} of another place", f"a {_name(was)} was converted")

    def _words(self, model: nn.Module, path: str) -> tuple[str, str]:
        """What lies at a path now, and what was there."""
        there = dict(model.named_modules()).get(path)
        known = dict(zip(self.paths, self.known, strict=True))[path]
        return f"a {type(there).__name__}" if there is not None else "nothing", f"a {_name(known)} was converted"


class AddedPart(Check):
    """The check of a module that was added to a converted model.

    Args:
        model: the converted model.
        path: of the module.
    """

    def __init__(self, model: nn.Module, path: str) -> None:
        self.model, self.path = (model,), path  # in a tuple, as it is no part of the module

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuse a call by the converted model.

        Raises:
            OtherPartError: the converted model runs.
        """
        if any(running is self.model[0] for running in calling_modules()):
            raise _refusal(self.path, f"a {type(module).__name__}", "nothing was there")


def _name(module: nn.Module) -> str:
    return type(module).__name__.removeprefix("Parametrized")


def _refusal(path: str, now: str, then: str) -> OtherPartError:
    return OtherPartError(
        "the model is no longer what was converted",
        where=Where(path),
        got=f"{now}, where {then}",
        why="what was put there is not tied, so the outputs would not be equivariant",
        do=DO,
    )


def parts_of(model: nn.Module, known: Iterable[int]) -> list[nn.Module]:
    """The modules of a model without itself, each once; of a tie no more than that it is there.

    Args:
        model: not touched.
        known: ids of modules; a wrapper of torch's own that holds one of them and nothing else stands for it.
    """
    found: list[nn.Module] = []
    seen, rest = set(), [model]
    while rest:
        for held in holds(rest.pop()):
            child = _unwrapped(held, known) if known and held is not None else held
            if child is not None and id(child) not in seen:
                seen.add(id(child))
                found.append(child)
                if not isinstance(child, ParametrizationList):
                    rest.append(child)
    return found


def open_modules(model: nn.Module) -> list[nn.Module]:
    """The modules of a model, without those of ties."""
    return [model, *(part for part in parts_of(model, ()) if not isinstance(part, ParametrizationList))]


def _unwrapped(module: nn.Module, known: Iterable[int]) -> nn.Module:
    """The module in a wrapper of torch's own, such as what ``torch.compile`` and checkpointing put around it."""
    inner = module
    while id(inner) not in known and str(type(inner).__module__).startswith("torch."):
        held = [part for part in holds(inner) if part is not None]
        if len(held) != 1:
            return module
        inner = held[0]
    return inner if id(inner) in known else module


def watch(model: nn.Module) -> None:
    """Attach `Parts` to a model as it is now, in place of those it has."""
    unwatch(model)
    attach_check(model, Parts(model))


def unwatch(model: nn.Module) -> None:
    """Detach every `Parts` and `AddedPart` of a model."""
    drop_checks(model, lambda check: isinstance(check, (Parts, AddedPart)))
