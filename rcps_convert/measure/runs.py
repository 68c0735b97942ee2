"""Runs of a plain forward: what it calls, reads and makes on an example.

Where that takes long it is run without numbers, with shapes alone, as far as this is seen to tell the same.
"""

from __future__ import annotations

import itertools
import math
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._torch import pytree, without_numbers
from ..algebra.arguments import Example
from ..geometry import CallNames
from ..graph.sandbox import call, fresh_copy, mode, quiet, undisturbed_rng
from ..graph.users_state import caches_kept_clean

LONG = 2**28
"""Entries of all tensors a forward makes, from which on it is run with shapes alone where that tells the same."""

OFTEN = 4
"""How often the same calls follow each other where they are taken for those of a loop."""

PERIOD = 64
"""Largest number of calls of one turn of a loop."""


@dataclass(frozen=True)
class Run:
    """What a forward did on an example.

    Attributes:
        names: of the edge functions it called, in order.
        parameters: ids of the parameters it read.
        shapes: of the tensors it made, in order.
        fractions: the numbers of Python it gave to functions that are no halves of whole ones.
        pairs: of functions that it called directly after each other, also those that no edge matters to.
    """

    names: tuple[str, ...]
    parameters: frozenset[int]
    shapes: tuple[tuple[int, ...], ...]
    fractions: frozenset[float] = frozenset()
    pairs: frozenset[tuple[Any, Any]] = frozenset()

    @property
    def way(self) -> tuple[tuple[Any, ...], frozenset[int]]:
        """What tells one way through a forward from another; how often a loop over positions runs does not."""
        return without_repeats(self.names), self.parameters

    @property
    def work(self) -> int:
        """The number of entries of all tensors it made."""
        return sum(map(math.prod, self.shapes))

    @cached_property
    def sizes(self) -> list[int]:
        """The sizes of the axes of all tensors it made, in order."""
        return [*itertools.chain(*self.shapes)]

    @cached_property
    def ranks(self) -> list[int]:
        """The numbers of axes of all tensors it made, in order."""
        return [*map(len, self.shapes)]

    def is_like(self, other: Run) -> bool:
        """Whether the two made tensors of the same numbers of axes."""
        return self.ranks == other.ranks


def without_repeats(names: Sequence[str]) -> tuple[Any, ...]:
    """Names with each turn of a loop once, in a tuple of its own."""
    found: list[Any] = []
    at = 0
    while at < len(names):
        period = next((p for p in range(1, PERIOD + 1) if _repeats(names, at, p) >= OFTEN), None)
        if period is None:
            found.append(names[at])
            at += 1
        else:
            found.append(tuple(names[at : at + period]))
            at += period * _repeats(names, at, period)
    return tuple(found)


def _repeats(names: Sequence[str], at: int, period: int) -> int:
    """How often some names follow each other from a place on."""
    count, turn = 1, names[at : at + period]
    while names[at + count * period : at + (count + 1) * period] == turn:
        count += 1
    return count


def run_of(model: nn.Module, example: Example, *, gradients: bool = False) -> Run | None:
    """What a model's eval-mode forward does on an example; None if it fails.

    Args:
        model: the plain model.
        example: what to call it with.
        gradients: record gradients.
    """
    with undisturbed_rng(), quiet():
        return tried(model, example, CallNames(), gradients=gradients)[0]


Line = tuple[str, int]
"""File and number of a line."""


def tried(model: nn.Module, example: Example, seen: CallNames, *, gradients: bool) -> tuple[Run | None, Line | None]:
    """What forward does, or the line of the user's at which it fails; random states are brought back by who asks."""
    try:
        with torch.set_grad_enabled(gradients), mode(model, False), seen:
            call(model, example)
    except Exception as error:  # the model's own errors: this length is none of its own
        return None, _line(error)
    fractions, pairs = frozenset(seen.fractions), frozenset(seen.pairs)
    return Run(tuple(seen.names), frozenset(seen.parameters), tuple(seen.shapes), fractions, pairs), None


_LIBRARIES = (str(Path(torch.__file__).parent), sysconfig.get_paths()["stdlib"], str(Path(__file__).parents[1]))


def _line(error: Exception) -> Line | None:
    """The innermost line of an error that is neither torch's nor this package's."""
    found, frame = None, error.__traceback__
    while frame is not None:
        file = frame.tb_frame.f_code.co_filename
        found = found if file.startswith(_LIBRARIES) else (file, frame.tb_lineno)
        frame = frame.tb_next
    return found


class _Outline(CallNames):
    """Notes as well whether entries are looked up by numbers.

    Attributes:
        looks_up: whether they are: numbers may be out of bounds, and shapes do not show that.
    """

    def __init__(self) -> None:
        super().__init__()
        self.looks_up = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [v for v in pytree.tree_leaves((args, kwargs)) if isinstance(v, Tensor)]
        whole = [not (v.is_floating_point() or v.is_complex() or v.dtype == torch.bool) for v in given]
        self.looks_up = self.looks_up or (any(whole) and (not all(whole) or func not in _COUNTS) and len(given) > 1)
        return super().__torch_function__(func, types, args, kwargs)


_COUNTS = {
    *(getattr(Tensor, name) for name in ("add", "sub", "mul", "__add__", "__radd__", "__sub__", "__rsub__", "__mul__")),
    *(Tensor.__rmul__, torch.add, torch.sub, torch.mul, torch.minimum, torch.maximum),
}
"""Functions that make whole numbers of whole numbers."""


class Outlines:
    """Runs of a forward whose tensors have shapes and no numbers: they take no time, however long the inputs are.

    What they show is believed where none looks entries up by numbers. That forward fails is believed once a run with
    numbers failed on the same line.

    Args:
        model: in eval mode; what is run with numbers.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model, self.twin = model, fresh_copy(model)
        self.same = dict(zip(map(id, self.twin.parameters()), map(id, model.parameters()), strict=True))
        self.failed: set[Line] = set()

    @contextmanager
    def entered(self) -> Iterator[nn.Module]:
        """Let tensors be without numbers; what is then to be run is a copy."""
        with caches_kept_clean(self.twin), without_numbers():
            yield self.twin

    def run(self, example: Example, *, gradients: bool = False) -> Run | None:
        """What forward does on an example; None if it fails."""
        found, line = self.outline(example, gradients=gradients)
        if found is not None or line in self.failed:
            return found
        found, failed = tried(self.model, example, CallNames(), gradients=gradients)
        if failed is not None and failed == line:
            self.failed.add(failed)
        return found

    def outline(self, example: Example, *, gradients: bool = False) -> tuple[Run | None, Line | None]:
        """What a run without numbers shows, or where it fails; nothing where it is not to be believed."""
        seen = _Outline()
        with self.entered() as twin:
            run, line = tried(twin, example, seen, gradients=gradients)
        if run is None or seen.looks_up:
            return None, line
        return replace(run, parameters=frozenset(self.same.get(p, p) for p in run.parameters)), None


def outlines_of(model: nn.Module, example: Example, run: Run | None) -> Outlines | None:
    """Runs without numbers, where they are quicker and show on the example what a run with numbers did; else None."""
    if run is None or run.work < LONG:
        return None
    outlines = Outlines(model)
    return outlines if outlines.outline(example)[0] == run else None
