"""Modules the trace does not look into.

In the traced copy the forward of such a module is one operator, `CLOSED`, whose results have the shapes
a real run gave. So `torch.export` never sees what is inside, and the graph still shows which tensors
go in and come out of each call.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .._torch import pytree, version

_LIBRARY = torch.library.Library("rcps_convert", "FRAGMENT")
_LIBRARY.define("closed(Tensor[] tensors, str path, int call) -> Tensor[]")

CLOSED = torch.ops.rcps_convert.closed.default
"""A call of a module the trace does not look into: tensors in, module path, number of the call."""


@dataclass(frozen=True)
class Bundle:
    """A nested structure with its tensors apart.

    Attributes:
        leaves: its leaves, in order.
        spec: its nesting.
    """

    leaves: tuple[Any, ...]
    spec: Any

    @staticmethod
    def of(structure: Any) -> Bundle:
        """The bundle of a nested structure."""
        leaves, spec = pytree.tree_flatten(structure)
        return Bundle(tuple(leaves), spec)

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors among the leaves, in order."""
        return [leaf for leaf in self.leaves if isinstance(leaf, Tensor)]

    @property
    def rest(self) -> list[Any]:
        """The other leaves, in order."""
        return [leaf for leaf in self.leaves if not isinstance(leaf, Tensor)]

    def filled(self, values: Iterable[Any]) -> Any:
        """The structure with other values in the place of its tensors, in order."""
        given = iter(values)
        return pytree.tree_unflatten([next(given) if isinstance(v, Tensor) else v for v in self.leaves], self.spec)

    def like(self, other: Bundle) -> bool:
        """Whether another structure nests alike and has tensors in the same places."""
        places = [[isinstance(v, Tensor) for v in b.leaves] for b in (self, other)]
        return bool(self.spec == other.spec) and places[0] == places[1]


@dataclass(frozen=True)
class ModuleCall:
    """One call of a module, as a real run saw it.

    Attributes:
        given: the arguments, ``(args, kwargs)``.
        made: what the module returned.
        changed: the module wrote into a tensor it was given.
    """

    given: Bundle
    made: Bundle
    changed: bool = False


Calls = Mapping[tuple[str, int], ModuleCall]
"""Calls by module path and number, in the order of the run."""

_CALLS: ContextVar[Calls] = ContextVar("calls")


def _shapes(tensors: list[Tensor], path: str, call: int) -> list[Tensor]:
    made = _CALLS.get()[path, call].made.tensors
    return [torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=t.device) for t in made]


torch.library.register_fake("rcps_convert::closed", _shapes, lib=_LIBRARY)


class _Recorder:
    """Stands for the forward of a module and notes what goes in and comes out."""

    def __init__(self, path: str, forward: Callable[..., Any], calls: dict[tuple[str, int], ModuleCall]) -> None:
        self.path, self.forward, self.calls, self.count = path, forward, calls, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given = Bundle.of((args, kwargs))
        kept = Bundle(tuple(v.detach().clone() if isinstance(v, Tensor) else v for v in given.leaves), given.spec)
        versions = [version(t) for t in given.tensors]
        result = self.forward(*args, **kwargs)
        made = Bundle.of(pytree.tree_map(lambda v: v.detach() if isinstance(v, Tensor) else v, result))
        changed = versions != [version(t) for t in given.tensors]
        self.calls[self.path, self.count] = ModuleCall(kept, made, changed)
        self.count += 1
        return result


class _ClosedForward:
    """Stands for the forward of a module in a trace."""

    def __init__(self, path: str, calls: list[ModuleCall]) -> None:
        self.path, self.calls, self.count = path, calls, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        index = self.count % len(self.calls)
        self.count += 1
        return self.calls[index].made.filled(CLOSED(Bundle.of((args, kwargs)).tensors, self.path, index))


class _NotesFailure:
    """Stands for the forward of a module and notes the first that raises."""

    def __init__(self, path: str, forward: Callable[..., Any], raised: list[str]) -> None:
        self.path, self.forward, self.raised = path, forward, raised

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self.forward(*args, **kwargs)
        except Exception:
            self.raised.append(self.path)
            raise


@contextmanager
def _forwards(model: nn.Module, stand_ins: Mapping[str, Any]) -> Iterator[None]:
    """Other forwards for some modules of a model, for a while."""
    modules = {path: model.get_submodule(path) for path in stand_ins}
    before = {path: module.__dict__.get("forward") for path, module in modules.items()}
    for path, module in modules.items():
        module.__dict__["forward"] = stand_ins[path]
    try:
        yield
    finally:
        for path, module in modules.items():
            module.__dict__.pop("forward", None)
            if before[path] is not None:
                module.__dict__["forward"] = before[path]


@contextmanager
def recording(model: nn.Module, paths: Collection[str]) -> Iterator[dict[tuple[str, int], ModuleCall]]:
    """Note the calls of some modules while the model runs."""
    calls: dict[tuple[str, int], ModuleCall] = {}
    with _forwards(model, {p: _Recorder(p, model.get_submodule(p).forward, calls) for p in paths}):
        yield calls


@contextmanager
def closed(model: nn.Module, calls: Calls) -> Iterator[None]:
    """Make the modules with recorded calls opaque to `torch.export`."""
    by_path: dict[str, list[ModuleCall]] = {}
    for (path, _), call in calls.items():
        by_path.setdefault(path, []).append(call)
    token = _CALLS.set(calls)
    try:
        with _forwards(model, {path: _ClosedForward(path, held) for path, held in by_path.items()}):
            yield
    finally:
        _CALLS.reset(token)


@contextmanager
def watching(model: nn.Module) -> Iterator[list[str]]:
    """Note the paths of the submodules that raise, the innermost first."""
    raised: list[str] = []
    paths = [path for path, _ in model.named_modules() if path]
    with _forwards(model, {p: _NotesFailure(p, model.get_submodule(p).forward, raised) for p in paths}):
        yield raised


def outermost(paths: Iterable[str]) -> list[str]:
    """The paths that lie in no other, in order."""
    every = list(dict.fromkeys(paths))
    return [p for p in every if not any(p != other and p.startswith(f"{other}.") for other in every)]
