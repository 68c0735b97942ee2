"""Catching the calls a module makes itself, and re-anchoring those that read one edge only.

A module whose forward calls such functions gets an instance attribute ``forward``, an `Anchored`:
class, class name, parameters and keys stay. It runs the class's forward under a torch function mode,
which compares each call with those seen when the model was traced.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .._torch import (
    function_modes,
    has_modes,
    is_compiling,
    is_uncaught,
    is_unwatched,
    keep_whole,
    stock_code,
    transform_level,
    unseen,
)
from ..algebra.plain import listed, tupled
from ..errors import BreaksSymmetryError, ConversionError, Where
from .around import AroundForward, drop_around, forwards_of, place_around
from .readings import CallAxes
from .table import EDGE_FUNCTIONS

PLAIN = {bool, int, float, str, type(None)}
"""Kinds of values that a forward may branch on."""

REMEMBERED = 64
"""Calls of a module that are known to need no re-anchoring, at most."""


class UnplannedCallError(BreaksSymmetryError):
    """A call that was not seen when the model was traced."""


@dataclass(frozen=True)
class Entry:
    """A call seen in a trace.

    Attributes:
        function: its name.
        pattern: sizes of the tensor it reads; None for lengths, batches, and all axes of a constant.
        site: which axes are lengths; None for a constant, which is read as it is.
        fixed: axes that reverse complement leaves alone: another size of them changes nothing.
    """

    function: str
    pattern: tuple[int | None, ...]
    site: CallAxes | None
    fixed: tuple[int, ...] = ()

    def fits(self, function: str, shape: torch.Size, *, loosely: bool = False) -> bool:
        """Whether a call may be this one; loosely, if sizes of fixed axes do not count."""
        if function != self.function or len(shape) != len(self.pattern):
            return False
        pairs = zip(self.pattern, shape, strict=True)
        if not loosely:
            return all([p is None or p == n for p, n in pairs])
        return all(p is None or p == n or d in self.fixed for d, (p, n) in enumerate(pairs))


@dataclass(frozen=True)
class Table:
    """The calls of one module.

    Attributes:
        path: module path.
        runs: for each time the module was traced, its calls in order.
        free: the module runs on both strands: its calls are left alone.
        strict: forward is known to have other ways to go, for which there is no solution.
        lengths: of the whole model, at which lengths of its inputs nothing is re-anchored, as plain values.
        by_function: the calls by the name of the function, each once.
    """

    path: str
    runs: tuple[tuple[Entry, ...], ...] = ()
    free: bool = False
    strict: bool = False
    lengths: tuple[Any, ...] = ()
    by_function: dict[str, list[Entry]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        found: dict[str, list[Entry]] = {}
        for entry in dict.fromkeys(e for run in self.runs for e in run):
            found.setdefault(entry.function, []).append(entry)
        object.__setattr__(self, "by_function", found)

    def __deepcopy__(self, memo: dict[int, Any]) -> Table:
        """The same: nothing about it changes."""
        return self

    def plain(self) -> dict[str, Any]:
        """The table as plain values, for `read_table`."""
        runs = [[_plain_entry(entry) for entry in run] for run in self.runs]
        lengths = {"lengths": [*self.lengths]} if self.lengths else {}
        return {"path": self.path, "runs": runs, "free": self.free, "strict": self.strict, **lengths}

    def find(self, seen: list[str], function: str, shape: torch.Size) -> tuple[CallAxes | None, bool]:
        """What is known of a call, and whether that depends on its place among the calls.

        Args:
            seen: names of the functions called before.
            function: its name.
            shape: of the tensor it reads.

        Raises:
            UnplannedCallError: no call like it was traced, or several that differ.
        """
        known = self.by_function.get(function, ())
        sites = {e.site for e in known if e.fits(function, shape)}
        loosely = not sites  # such as another number of samples on an axis not known to be the batch
        if loosely:
            sites = {e.site for e in known if e.fits(function, shape, loosely=True)}
        if len(sites) == 1:
            return next(iter(sites)), False
        here = len(seen)
        same = [run[here] for run in self.runs if len(run) > here and [e.function for e in run[:here]] == seen]
        placed = {e.site for e in same if e.fits(function, shape, loosely=loosely)}
        if len(placed) == 1:
            return next(iter(placed)), True
        blurred = _mean_of(sites)
        if blurred is None:
            raise self._unplanned(function, shape, bool(sites))
        return blurred, False

    def complete(self, seen: list[str]) -> bool:
        """Whether a finished forward made the calls of one of the traced ones."""
        return any([e.function for e in run] == seen for run in self.runs) or not (seen or self.runs)

    def other_calls(self, seen: list[str]) -> UnplannedCallError:
        """The refusal of a forward that made other calls than the traced ones."""
        return UnplannedCallError(
            f"forward called {', '.join(seen) or 'nothing'}",
            where=Where(self.path),
            got=f"when traced: {' or '.join(', '.join(e.function for e in run) or 'nothing' for run in self.runs)}",
            why="a branch of forward ran that was not traced, so how reverse complement acts there is not known",
            do="convert with an example that takes this branch (another length)",
        )

    def _unplanned(self, function: str, shape: torch.Size, ambiguous: bool) -> UnplannedCallError:
        if any(len(e.pattern) == len(shape) + 1 for e in self.by_function.get(function, ())):
            return UnplannedCallError(
                f"{function} is called on a tensor of {len(shape)} axes, and one of {len(shape) + 1} was converted",
                where=Where(self.path),
                got=f"shape {tuple(shape)}",
                why="the model was converted with batches, and the axes of its tensors are told by their places",
                do="give a single sequence a batch axis: model(x[None])",
            )
        return UnplannedCallError(
            f"{function} is called on a tensor of shape {tuple(shape)}, "
            + ("whose channels may be swapped in several ways" if ambiguous else "as it was not when converted"),
            where=Where(self.path),
            why="a branch of forward ran that was not traced, so how reverse complement acts there is not known",
            do="convert with an example that takes this branch (another length), or put the step into a module of "
            "its own",
        )


def _plain_entry(entry: Entry) -> dict[str, Any]:
    site = None if entry.site is None else listed(asdict(entry.site))
    if site is not None and not site["spread"]:
        del site["spread"]  # as recipes were before there was any
    return {"function": entry.function, "pattern": [*entry.pattern], "site": site, "fixed": [*entry.fixed]}


def read_table(data: Mapping[str, Any]) -> Table:
    """The table that `Table.plain` describes."""
    runs = tuple(tuple(map(_read_entry, run)) for run in data["runs"])
    return Table(data["path"], runs, data["free"], data["strict"], tuple(data.get("lengths", ())))


def _read_entry(data: Mapping[str, Any]) -> Entry:
    site = None if data["site"] is None else CallAxes(**tupled(data["site"]))
    return Entry(data["function"], tuple(data["pattern"]), site, tuple(data["fixed"]))


def _mean_of(sites: Iterable[CallAxes | None]) -> CallAxes | None:
    """Of calls that differ in their channels only, the mean of both readings serves all."""
    known = [s for s in sites if s is not None]
    if not known or len(known) < len(list(sites)):
        return None
    lengths = {(s.reads, s.makes) for s in known}
    reads, makes = known[0].reads, known[0].makes
    return CallAxes(reads, makes, ids=any(s.ids for s in known)) if len(lengths) == 1 else None


class Frame(TorchFunctionMode):
    """One run of a module's forward.

    Args:
        table: the module's calls.

    Attributes:
        level: of the transforms (``torch.func.vmap``, ``grad``) that run around the outermost converted module.
    """

    def __init__(self, table: Table) -> None:
        super().__init__()
        self.table, self.level = table, _level_outside()
        self.seen: list[str] = []
        self.placed = self.read_twice = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a call; those of the table with both readings where the edges are not read alike."""
        kwargs = kwargs or {}
        edge_function = EDGE_FUNCTIONS.get(func)
        if edge_function is None:
            return func(*args, **kwargs)
        with unseen():  # the modules around this one do not see its calls
            settings = edge_function.bind(args, kwargs)
            x = settings["input"]
            if (
                self.table.free
                or not isinstance(x, Tensor)
                or is_in_transform(self.level)
                or edge_function.indifferent(settings)
            ):
                return func(*args, **kwargs)
            site, placed = self.table.find(self.seen, edge_function.name, x.shape)
            self.seen.append(edge_function.name)
            self.placed = self.placed or placed
            if site is None or edge_function.aligned(settings, site):
                return func(*args, **kwargs)
            self.read_twice = True
            return edge_function.both(settings, site)

    def finish(self) -> None:
        """Check that the calls were the traced ones, where that is needed.

        Calls told apart by their place need it, and so does a forward with ways that must not be taken; and a
        compiler might hide calls from the mode.

        Raises:
            UnplannedCallError: the forward made other calls.
        """
        checked = self.placed or self.table.strict or (is_compiling() and not self.table.free)
        if checked and not self.table.complete(self.seen):
            raise self.table.other_calls(self.seen)


class Anchored(AroundForward):
    """The forward of a module some of whose calls are re-anchored.

    Args:
        module: the module; a deep copy of it holds a copy of this, bound to the copy.
        table: its calls.
    """

    def __init__(self, module: nn.Module, table: Table) -> None:
        self.module, self.table = module, table
        self.before: Any = module.__dict__.get("forward")
        self.stock: dict[Any, None] = {}  # calls in which nothing was re-anchored
        self.is_stock = stock_code(type(module)) is not None
        own = {name: value for name, value in vars(module).items() if not name.startswith("_")}
        self.settings = [name for name, v in own.items() if {*map(type, v if type(v) is tuple else (v,))} <= PLAIN]
        self._start()

    def _start(self) -> None:
        """Know of no calls yet."""
        self.aligned: dict[torch.Size, Any] = {}  # of a layer of torch's, the shapes and settings of these calls
        self.read_settings: Any = itemgetter(*self.settings) if self.is_stock and self.settings else None
        _show_pads_to_compiler()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "stock": {}, "aligned": {}, "read_settings": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module's own forward, its calls caught."""
        if len(args) == 1 and not kwargs and type(x := args[0]) is Tensor and is_uncaught():
            return self.unwatched(x, x.shape)
        return self._caught(args, kwargs)

    def unwatched(self, x: Tensor, shape: torch.Size) -> Any:
        """A call with one tensor, which nothing catches; quick where nothing is re-anchored in it."""
        module, known = self.module, self.aligned.get(shape)
        if self.before is None:
            try:  # a layer of torch's is told by the shape and by the settings that it reads
                is_known = self._is_known(x) if known is None else known == self.read_settings(module.__dict__)
            except KeyError:  # a setting was deleted
                is_known = False
            if is_known:
                return type(module).forward(module, x)
        return self._caught((x,), {})

    def _caught(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The same, of a call that may need both readings.

        Raises:
            ConversionError: it is traced by ``torch.jit``.
        """
        if not is_compiling() and torch.jit.is_tracing():  # type: ignore[attr-defined]
            raise _refuse_recording()
        like = self._like(args, kwargs)
        if like is not None and like in self.stock:
            return self._own(*args, **kwargs)
        frame = Frame(self.table)
        with frame:
            out = self._own(*args, **kwargs)
        frame.finish()
        if like is not None and not frame.read_twice:
            self._remember(like, args, kwargs)
        return out

    def _remember(self, like: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note a call in which nothing was re-anchored."""
        if len(self.stock) >= REMEMBERED:
            self.stock.clear()
            self.aligned.clear()
        self.stock[like] = None
        if self.read_settings is not None and self.before is None and len(args) == 1 and not kwargs:
            with unseen(), suppress(KeyError):  # a setting was deleted
                self.aligned[args[0].shape] = self.read_settings(vars(self.module))

    def _is_known(self, x: Tensor) -> bool:
        """Whether nothing is re-anchored in a call of a forward of the user's: the quick way to `_like`."""
        module = self.module
        if self.is_stock or self.table.strict or module.training or not self.stock or not is_unwatched():
            return False
        return (torch.is_grad_enabled(), x.shape, x.dtype, *_plain_values(module)) in self.stock

    def _like(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What tells one call from another whose lengths may not fit; None where that cannot be told.

        A module in which nothing is re-anchored is run as it is where no module around it has its calls caught.
        A forward of the user's own may take another way for another setting of its module, or at random in train
        mode; so may one that is known to have ways for which there is no solution.
        """
        module, is_stock = self.module, self.is_stock and self.before is None
        if self.table.strict or (module.training and not is_stock) or not (is_unwatched() or _is_unframed()):
            return None
        found: list[Any] = [torch.is_grad_enabled(), *kwargs]
        for value in (*args, *kwargs.values()):
            if type(value) is Tensor:
                found += _look(value)
            elif type(value) in PLAIN:
                found.append(value)
            else:
                return None
        held = vars(module)
        if not is_stock:
            return (*found, *_plain_values(module))
        settings = [held.get(name) for name in self.settings]
        return (*found, *settings) if all(type(v) in PLAIN or type(v) is tuple for v in settings) else None

    def made_for(self, module: nn.Module) -> Anchored:
        """The same around the forward of another module."""
        return Anchored(module, self.table)


def _plain_values(module: nn.Module) -> list[Any]:
    """The numbers and names among the attributes of a module, by which a forward may take another way."""
    return [value for value in vars(module).values() if type(value) in PLAIN]


def _look(x: Tensor) -> tuple[Any, ...]:
    """Shape and precision; modes are not shown the look, which would take longer than it does."""
    if not has_modes():
        return x.shape, x.dtype
    with unseen():
        return x.shape, x.dtype


def _refuse_recording() -> ConversionError:
    return ConversionError(
        "torch.jit.trace of a model some of whose calls are re-anchored",
        why="which edge a window is read from depends on the length, and jit.trace records it for one length",
        do="use torch.export or torch.compile, which keep both readings",
    )


@cache
def _show_pads_to_compiler() -> None:
    """Keep ``F.pad`` whole in ``torch.compile``, which would otherwise look inside it and show it to no mode."""
    keep_whole(torch.nn.functional.pad)


def anchor(model: nn.Module, tables: Mapping[str, Table]) -> None:
    """Re-anchor the calls of modules, in place."""
    found: dict[nn.Module, Table] = {}
    for path, table in tables.items():
        module = model.get_submodule(path)
        known = found.get(module)  # a module of several names
        found[module] = table if known is None else _both(known, table)
    for module, table in found.items():
        place_around(module, Anchored(module, table))


def _both(a: Table, b: Table) -> Table:
    """What is known of the calls of a module by one of its names and by another."""
    return Table(b.path, a.runs + b.runs, a.free or b.free, a.strict or b.strict, a.lengths or b.lengths)


def anchored(model: nn.Module) -> dict[str, Table]:
    """The table of each module whose calls are re-anchored, by path."""
    found = {path: forwards_of(module) for path, module in model.named_modules()}
    return {path: f.table for path, forwards in found.items() for f in forwards if isinstance(f, Anchored)}


def unanchor(model: nn.Module) -> None:
    """Give every module its own forward back, in place."""
    for module in model.modules():
        drop_around(module, lambda forward: isinstance(forward, Anchored))


def is_in_transform(outside: int | None = None) -> bool:
    """Whether a transform such as ``torch.vmap`` runs that was entered inside of forward.

    Inference takes the whole of it as one operator, whose law was tested as it is. One that runs around the model
    changes nothing about its calls.

    Args:
        outside: level of the transforms around the model.
    """
    return not torch.compiler.is_dynamo_compiling() and transform_level() != outside


def _is_unframed() -> bool:
    """Whether what watches this thread is neither a compiler, nor a transform, nor the frame of a module around."""
    if is_compiling() or transform_level() is not None:
        return False
    return not (has_modes() and any(isinstance(m, Frame) for m in function_modes()))


def _level_outside() -> int | None:
    """The level of the transforms around the outermost converted module that is being run."""
    if torch.compiler.is_dynamo_compiling():
        return None
    outermost = next((m for m in function_modes() if isinstance(m, Frame)), None)
    return transform_level() if outermost is None else outermost.level
