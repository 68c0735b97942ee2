"""What forward reads of modules and of the objects they keep: settings, functions and constants that are no weights.

A setting may lie in a module, in an object that a module keeps (a configuration, a table of functions), in an object
inside of that one, or among the globals of the code.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._torch import has_numbers, hook_tables, pytree
from .attributes import Names, is_users, named_by_forward, named_by_function, named_by_use, variables_of
from .holders import (
    ByName,
    Environment,
    Globals,
    Holder,
    OfClass,
    OfFunction,
    Place,
    function_of,
    is_table,
    slots,
    table_of,
    value_at,
)

PLAIN = {bool, int, float, str, type(None)}
"""Kinds of settings."""

HARMLESS = {"p", "dropout", "momentum", "eps"}
"""Numbers with a point of torch's own modules that may have any value: with whichever of them, the law holds."""

MORE_PLAIN = (Enum, bytes, complex, range, slice, set, frozenset, torch.dtype, torch.Size)
"""More of them, which a setting seldom is."""

FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, partial)
"""Kinds of functions that a module may keep as an attribute."""

NOT_LOOKED_INTO = (nn.Module, Tensor, type, types.ModuleType, *FUNCTIONS)
"""What is no object that keeps settings."""

NAMESPACES = ("types.SimpleNamespace", "argparse.Namespace", "_thread._local")
"""Classes of Python's own whose objects keep settings."""

MOST_OBJECTS = 512
"""Objects that are looked into, at most."""

MOST_ENTRIES = 256
"""Entries of a table up to which it is looked into."""


class KeptObject(NamedTuple):
    """An object that is looked into.

    Attributes:
        place: where it is kept.
        value: the object.
        root: the module that keeps it, or an object it is in.
        label: its name in that module.
    """

    place: Place
    value: Any
    root: nn.Module
    label: str


@dataclass
class Read:
    """What forward reads.

    Attributes:
        settings: for each holder that has some the names of its settings.
        by_class: settings and methods that the holder has not, but its class, or that code asks for by text.
        functions, constants: places that hold one.
        counters: places of plain values that forward sets itself.
        kept: the objects that are looked into.
        numbers: numbers that the code holds.
    """

    settings: list[tuple[Holder, tuple[Any, ...]]] = field(default_factory=list)
    by_class: list[Place] = field(default_factory=list)
    functions: list[Place] = field(default_factory=list)
    constants: list[Place] = field(default_factory=list)
    counters: list[Place] = field(default_factory=list)
    kept: list[KeptObject] = field(default_factory=list)
    numbers: set[float] = field(default_factory=set)


def read_by_forward(modules: Sequence[nn.Module]) -> Read:
    """What the forward of a model reads of its modules and of what they keep.

    Args:
        modules: the model and all of its modules.
    """
    return _Collector(modules).found


def named_by_users_code(model: nn.Module) -> Names:
    """The names that the user's code reads: in forward, in hooks, and in the functions and objects that modules keep.

    Args:
        model: not touched.
    """
    modules = [*model.modules()]
    found = _Collector([module for module in modules if is_users(type(module).__module__)]).all
    tables = [vars(module) for module in modules] + [hooks for module in modules for hooks in hook_tables(module)]
    for value in (value for table in tables for value in table.values()):
        if isinstance(value, FUNCTIONS):
            found |= named_by_function(value)
        elif is_users(type(value).__module__) and not isinstance(value, nn.Module):
            found |= named_by_use(type(value), ())
    return found


def by_function(found: Read) -> dict[str, Globals]:
    """What holds variables of functions, by name; none of a name that several have."""
    places = (*found.settings, *found.constants, *found.functions)
    held = {id(function_of(h).function): h for h, _ in places if function_of(h) is not None}  # type: ignore[union-attr]
    names = [h.name for h in held.values()]
    return {h.name: h for h, _ in places if function_of(h) is not None and names.count(h.name) < 2}


def users_settings(model: nn.Module) -> list[str]:
    """The names of the settings that forward reads, but for those of torch's own modules.

    Args:
        model: not touched.
    """
    found = read_by_forward(list(model.modules()))
    paths = {module: path for path, module in model.named_modules()}
    named = []
    rows = [(h, n) for h, names in found.settings for n in names if not _is_torchs(h)]
    for holder, name in rows + [p for p in found.by_class if is_setting_of_class(p) and not _is_torchs(p[0])]:
        kept = next((one for one in found.kept if one.value is holder), None)
        if isinstance(holder, (OfClass, OfFunction)):  # those of the module are named by it
            continue
        if isinstance(holder, Environment):  # not all of the texts are names of variables
            named += [holder.name] if holder.name not in named else []
        elif isinstance(holder, Globals):
            named.append(f"{holder.name}.{name}")
        else:
            path = paths[holder] if kept is None else f"{paths[kept.root]}.{kept.label}"
            named.append(f"{path}.{name}".strip("."))
    return named


class _Collector:
    """Goes from modules to what they keep, and to what their code finds by name."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.files: dict[str, set[str]] = {}
        classes = {cls: named_by_forward(cls) for cls in dict.fromkeys(map(type, modules))}
        self.all = Names()
        for names in classes.values():
            self.all |= names
        for _ in range(2):  # the first time shows what else is called
            self.found, self.seen = Read(), set[int]()
            for module in modules:
                self._look(module, classes[type(module)], module, "")
        self.found.numbers = self.all.numbers
        self._look_by_name(modules)

    def _look_by_name(self, modules: Sequence[nn.Module]) -> None:
        """What code finds by name: among globals, in classes, in the variables of functions, in the environment."""
        for _ in range(2):  # the first time shows what methods of objects read
            for name, read in sorted({**self.all.globals}.items()):
                self._look_at_globals(name, {*read})
        users = (cls for module in modules for cls in type(module).__mro__ if is_users(cls.__module__))
        for cls in dict.fromkeys(users):
            self._note(OfClass(cls), {"forward"} | (self.all.read - self.all.own - self.all.others))
        for function in [*self.all.functions]:
            self._note(OfFunction(function), {*variables_of(function)})
        if self.all.environment:
            texts = {v for holder, names in self.found.settings for n in names if type(v := value_at(holder, n)) is str}
            named = sorted(text for text in texts | self.all.environment if text.isidentifier())
            self._note(Environment((*named,)), {*named})

    def _look(self, holder: Holder, names: Names, root: nn.Module, label: str) -> None:
        """Sort what a holder holds by kind."""
        table = table_of(holder)
        stored = names.own | self.all.others
        read = names.read | self.all.read
        own = table.keys() if is_table(holder) else read & table.keys() - _left_out(holder)
        kinds = {name: _kind_in(holder, name, table[name]) for name in sorted(own, key=str)}
        if not is_table(holder):
            self.found.counters += [(holder, n) for n, kind in kinds.items() if n in stored and kind == "setting"]
            kinds = {name: kind for name, kind in kinds.items() if name not in stored}
        self.found.constants += [(holder, name) for name, kind in kinds.items() if kind == "constant"]
        functions = [name for name, kind in kinds.items() if kind == "function"]
        self.found.functions += [(holder, name) for name in functions]
        for name in functions:
            self._add(named_by_function(table[name]))
        rows = tuple(name for name, kind in kinds.items() if kind == "setting")
        self.found.settings += [(holder, rows)] if rows else []
        self.found.by_class += [(holder, name) for name in _of_class(holder, table, read - stored, names.perhaps)]
        for name in (name for name, kind in kinds.items() if kind == "object"):
            self._look_into((holder, name), table[name], root, f"{label}.{name}".lstrip("."))

    def _look_into(self, place: Place, value: Any, root: nn.Module, label: str) -> None:
        """Look at an object, once; the places that hold it are noted each."""
        self.found.kept.append(KeptObject(place, value, root, label))
        if id(value) in self.seen or len(self.seen) >= MOST_OBJECTS:
            return
        self.seen.add(id(value))
        names = named_by_use(type(value), self.all.read) if not is_table(value) else Names()
        self._add(names)
        self._look(value, names, root, label)

    def _add(self, names: Names) -> None:
        """Note the names in code that forward calls; what is set on an object itself is of that object only."""
        self.all |= replace(names, own=set())

    def _look_at_globals(self, name: str, names: set[str], further: bool = True) -> None:
        """What is global in a module of Python, of some names; and in the modules of Python among that."""
        new = names - self.files.get(name, set())
        if not new or not is_users(name) or name not in sys.modules:
            return
        self.files.setdefault(name, set()).update(new)
        self._note(Globals(name), new)
        held = [vars(sys.modules[name]).get(n) for n in sorted(new)] if further else []
        for file in (value for value in held if isinstance(value, types.ModuleType)):
            self._look_at_globals(file.__name__, {*self.all.read}, further=False)

    def _note(self, holder: Globals, names: set[str]) -> None:
        """Note what a holder has by kind."""
        table = holder.table
        kinds = {n: kind_of(table[n]) for n in sorted(names & table.keys(), key=str)}
        plain = tuple(n for n, kind in kinds.items() if kind == "setting" and not str(n).startswith("__"))
        if plain:
            self.found.settings.append((holder, plain))
        self.found.constants += [(holder, n) for n, kind in kinds.items() if kind == "constant"]
        self.found.functions += [(holder, n) for n, kind in kinds.items() if kind == "function"]
        for n in (n for n, kind in kinds.items() if kind == "object"):
            self._note_object(ByName(holder, n), table[n])

    def _note_object(self, holder: ByName, value: Any) -> None:
        """Note what an object holds that code finds by name, once."""
        if id(value) in self.seen or len(self.seen) >= MOST_OBJECTS:
            return
        self.seen.add(id(value))
        if not is_table(value) and not isinstance(value, ContextVar):
            self._add(named_by_use(type(value), self.all.read))
        table = holder.table
        every = is_table(value) or isinstance(value, ContextVar)
        self._note(holder, {*table} if every else self.all.read & table.keys())
        absent = () if every else tuple(sorted(self.all.perhaps - table.keys()))
        if absent:
            self.found.settings.append((holder, absent))


def _kind_in(holder: Holder, name: Any, value: Any) -> str | None:
    """The kind of a value; None for a number of one of torch's own modules that may have any value."""
    return None if name in HARMLESS and type(value) is float and _is_torchs(holder) else kind_of(value)


def _left_out(holder: Holder) -> Iterable[str]:
    """What every module has."""
    return _OF_A_MODULE if isinstance(holder, nn.Module) else ()


_OF_A_MODULE = vars(nn.Module()).keys()


def kind_of(value: Any) -> str | None:
    """Whether a value is a setting, a function, a constant or an object that may keep such; None for anything else."""
    if isinstance(value, Tensor):
        return "constant" if value.is_leaf and not value.requires_grad and has_numbers(value) else None
    if isinstance(value, FUNCTIONS):
        return "function"
    if is_array(value):
        return "constant"
    if isinstance(value, (list, dict)) and not value:
        return None
    if all(type(leaf) in PLAIN or isinstance(leaf, MORE_PLAIN) for leaf in pytree.tree_leaves(value)):
        return "setting"
    return "object" if _keeps(value) else None


def is_array(value: Any) -> bool:
    """Whether a value keeps numbers in memory that Python can look at, as arrays do, and they can be changed."""
    try:
        return not isinstance(value, bytes) and memoryview(value).nbytes >= 0
    except (TypeError, ValueError, BufferError):  # no array, or one of objects or dates
        return False


def _keeps(value: Any) -> bool:
    """Whether a value is an object that may keep settings."""
    if isinstance(value, NOT_LOOKED_INTO):
        return False
    if isinstance(value, ContextVar):
        return True
    if is_table(value):
        return 0 < len(value) <= MOST_ENTRIES
    cls = type(value)
    is_namespace = f"{cls.__module__}.{cls.__qualname__}" in NAMESPACES
    return (is_namespace or is_users(cls.__module__)) and (hasattr(value, "__dict__") or any(slots(value)))


def _is_torchs(holder: Holder) -> bool:
    """Whether a holder is a module whose forward is one of torch's own."""
    return isinstance(holder, nn.Module) and str(type(holder).forward.__module__).startswith("torch.")


def _of_class(holder: Holder, table: Any, names: Iterable[str], perhaps: Iterable[str]) -> list[str]:
    """The settings that only the class of a holder has, or nothing has that may be asked for."""
    if is_table(holder):
        return []
    absent = [] if _is_torchs(holder) else [n for n in sorted({*perhaps} & {*names}) if not hasattr(holder, n)]
    bases = type(holder).__mro__[: -2 if isinstance(holder, nn.Module) else -1]
    of_class = {name: value for base in reversed(bases) for name, value in vars(base).items()}
    plain = [n for n in sorted({*names} & of_class.keys() - table.keys()) if type(of_class[n]) in PLAIN]
    return absent + plain + _methods(holder, of_class, names)


def is_setting_of_class(place: Place) -> bool:
    """Whether what the class of a holder has in a place is a setting."""
    return hasattr(type(place[0]), place[1]) and type(getattr(type(place[0]), place[1])) in PLAIN


def _methods(holder: Holder, of_class: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """The methods that a function which is set on a module may take the place of; its forward is looked at apart."""
    if not isinstance(holder, nn.Module):
        return []
    return [n for n in sorted({*names} & of_class.keys() - {"forward"}) if isinstance(of_class[n], types.FunctionType)]
