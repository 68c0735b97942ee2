"""Which axes of a module's outputs are batches and which are lengths, found by running it.

Used for modules that run on both strands: their outputs may act in any way on channels, but positions
must stay positions, and samples samples. No size is guessed from: the batch is what doubles when the
inputs are doubled, and a length is what inference, as far as it came, knows for one, what changes with
the lengths of the inputs, or what their positions move along.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..algebra import axis as ax
from ..algebra.action import Action
from ..graph.closed_modules import Bundle, ModuleCall
from ..graph.sandbox import quiet
from .along_sequence import BLOCKS, FOLLOWS, answers, replaced, verdict

RESIZES: tuple[Callable[[int], int], ...] = (
    lambda n: n // 2 if n % 2 == 0 else 0,
    lambda n: n * 3 // 4 if n % 4 == 0 else 0,
    lambda n: n - 1,
    lambda n: n - 2,
    lambda n: n - 4,
    lambda n: n - 8,
    lambda n: n * 2,
)
"""Other lengths to try, in positions; 0 where one does not exist."""

DRAWS, MISSES = 8, 1
"""Inputs on which a module is run before an axis is said to follow the sequence, and on how many of them it may not.
Two channels behind a maximum listen in order on one of five inputs, by chance."""


class Undecided(Exception):  # noqa: N818 - a fact, turned into a refusal by the caller
    """Running the module did not show what an axis is."""


@dataclass(frozen=True)
class AxisRoles:
    """What running a module showed.

    Attributes:
        given_batch: per input tensor, its batch axis, or None.
        made_batch: per output tensor, its batch axis, or None.
        lengths: per output tensor, its length axes.
        stacks: the module was seen to treat samples independently, so both strands fit into one batch.
    """

    given_batch: tuple[int | None, ...]
    made_batch: tuple[int | None, ...]
    lengths: tuple[frozenset[int], ...]
    stacks: bool


Hints = Mapping[tuple[int, ...], frozenset[int]]
"""Length axes that are known, by the shape of an output."""


def branches(module: nn.Module, call: ModuleCall) -> bool:
    """Whether a module may branch on values: then one branch taken for a whole batch would serve both strands."""
    args, kwargs = call.given.filled(call.given.tensors)
    try:
        with quiet():
            torch.export.export(module, args, kwargs, strict=False)
    except Exception:  # torch.export raises anything
        return True
    return False


def axis_roles(
    module: nn.Module, calls: Sequence[ModuleCall], given: Sequence[Action | None], hints: Hints
) -> AxisRoles:
    """What is a batch and what is a length in a module's outputs.

    Args:
        module: runs in its present mode and precision; a copy, as running may change its state.
        calls: two calls of it, with inputs of the same shapes and different values.
        given: per input tensor its action, None for a constant; only roles matter.
        hints: length axes that are known.

    Raises:
        Undecided: an axis changes with the length of the input and is no length, or may be one.
    """
    runs = _Runs(module, calls, given, hints)
    made_batch, stacks = runs.batches()
    lengths = tuple(runs.lengths(i, made_batch[i]) for i in range(len(runs.made)))
    return AxisRoles(tuple(runs.given_batch), made_batch, lengths, stacks)


class _Runs:
    """Runs a module on variations of the inputs it was seen with."""

    def __init__(
        self, module: nn.Module, calls: Sequence[ModuleCall], given: Sequence[Action | None], hints: Hints
    ) -> None:
        self.module, self.shape, self.hints = module, calls[0].given, hints
        self.x, self.other = calls[0].given.tensors, calls[1].given.tensors
        self.given, names = given, [roles(a) for a in given]
        self.given_batch = [r.index("batch") if "batch" in r else None for r in names]
        self.given_lengths = [[d for d, name in enumerate(r) if name == "length"] for r in names]
        self.made, self.others = self.run(self.x) or [], self.run(self.other) or []
        self.resized = self._resized()
        self.profiles = self._profiles(self.x, self.other)
        self.more: list[list[list[Tensor]]] | None = None

    def run(self, tensors: Sequence[Tensor]) -> list[Tensor] | None:
        """The output tensors for other inputs; None where the module cannot run on them."""
        args, kwargs = self.shape.filled(x.clone() for x in tensors)
        try:
            with torch.no_grad():
                return [y.clone() for y in Bundle.of(self.module(*args, **kwargs)).tensors]  # it may keep its results
        except Exception:  # a module may raise anything on inputs it was not made for
            return None

    # --- batches ---

    def batches(self) -> tuple[tuple[int | None, ...], bool]:
        """The batch axis of each output, and whether samples are independent of each other."""
        pairs = list(zip(self.x, self.other, self.given_batch, strict=True))
        doubled = self.run([x if d is None else torch.cat([x, y], d) for x, y, d in pairs])
        sizes = {x.shape[d] for x, _, d in pairs if d is not None}
        if doubled is None or len(doubled) != len(self.made):
            return tuple(0 if y.dim() and y.shape[0] in sizes else None for y in self.made), False
        dims = [_doubled(y, z) for y, z in zip(self.made, doubled, strict=True)]
        one_by_one = zip(self.made, self.others, doubled, dims, strict=True)
        independent = all(d is not None and _equal(torch.cat([y, o], d), z) for y, o, z, d in one_by_one)
        return tuple(dims), independent and not self._depends_without_batch()

    def _depends_without_batch(self) -> bool:
        """Whether an input without a batch axis follows the sequence: it has no place for both strands."""
        inputs = zip(self.given, self.given_batch, self.x, self.other, strict=True)
        return any(a is not None and d is None and not torch.equal(x, y) for a, d, x, y in inputs)

    # --- lengths ---

    def lengths(self, index: int, batch: int | None) -> frozenset[int]:
        """The length axes of an output."""
        y = self.made[index]
        return frozenset(d for d in range(y.dim()) if d != batch and y.shape[d] > 1 and self._is_length(index, d))

    def _is_length(self, index: int, dim: int) -> bool:
        shape = tuple(self.made[index].shape)
        if dim in self.hints.get(shape, ()) or self._follows(index, dim):
            return True
        if self.resized is not None:
            change, made = self.resized
            grown = abs(made[index].shape[dim] - shape[dim])
            if grown > change:
                raise Undecided(
                    f"axis {dim} of its output {shape} changes with the length of its input, but not like it"
                )
            return grown > 0
        if shape not in self.hints and shape[dim] in self._sizes():
            raise Undecided(f"it takes one length only, and axis {dim} of its output {shape} may be a length or not")
        return False

    def _sizes(self) -> set[int]:
        """The lengths of the inputs, in positions."""
        return {x.shape[d] for x, dims in zip(self.x, self.given_lengths, strict=True) for d in dims}

    def _resized(self) -> tuple[int, list[Tensor]] | None:
        """The outputs at another length, and by how much the longest input differs; None if there is no such length."""
        longest = max(self._sizes(), default=0)
        for resize in RESIZES if longest else ():
            inputs = [_resize(x, dims, resize) for x, dims in zip(self.x, self.given_lengths, strict=True)]
            made = None if any(x is None for x in inputs) else self.run([x for x in inputs if x is not None])
            if made is not None and [y.dim() for y in made] == [y.dim() for y in self.made]:
                return abs(resize(longest) - longest), made
        return None

    def _follows(self, index: int, dim: int) -> bool:
        """Whether an axis follows an axis of an input, on nearly all of several inputs."""
        candidates = [i for i, p in enumerate(self.profiles) if verdict(p[index], dim) == FOLLOWS]
        if not candidates:
            return False
        if self.more is None:
            self.more = [self._profiles(*self._drawn_anew(draw)) for draw in range(1, DRAWS)]
        others = [p for p in self.more if len(p) == len(self.profiles)]
        return any(sum(verdict(p[i][index], dim) != FOLLOWS for p in others) <= MISSES for i in candidates)

    def _profiles(self, x: Sequence[Tensor], other: Sequence[Tensor]) -> list[list[Tensor]]:
        """Per length axis of an input and output: how much each output entry changes with each stretch of the axis."""
        found = []
        base = self.made if x is self.x else self.run(x)
        for i, dims in enumerate(self.given_lengths if base is not None else ()):
            for d in (d for d in dims if x[i].shape[d] >= BLOCKS):
                changed = [self.run(_replaced(x, other, i, d, b)) for b in range(BLOCKS)]
                if all(r is not None and len(r) == len(self.made) for r in changed):
                    by_output = zip(*(r for r in changed if r is not None), strict=True)
                    found.append([answers(y, each) for y, each in zip(base or (), by_output, strict=True)])
        return found

    def _drawn_anew(self, draw: int) -> tuple[list[Tensor], list[Tensor]]:
        """Both inputs with their positions in another order."""
        generator = torch.Generator().manual_seed(draw)
        pairs = []
        for pair, dims in zip(zip(self.x, self.other, strict=True), self.given_lengths, strict=True):
            for d in dims:
                order = torch.randperm(pair[0].shape[d], generator=generator).to(pair[0].device)
                pair = (pair[0].index_select(d, order), pair[1].index_select(d, order))
            pairs.append(pair)
        return [x for x, _ in pairs], [other for _, other in pairs]


def _replaced(x: Sequence[Tensor], other: Sequence[Tensor], index: int, dim: int, block: int) -> list[Tensor]:
    """The inputs, one block of one axis taken from the other inputs."""
    return [replaced(t, other[i], dim, [block]) if i == index else t for i, t in enumerate(x)]


def roles(action: Action | None) -> tuple[str | None, ...]:
    """The name of the role of each axis of more than one entry; a batch may be of one."""
    found = [(t, ax.role(t)) for t in (action.axes if action is not None else ())]
    return tuple(r.name if r is not None and (t.size > 1 or r.name == "batch") else None for t, r in found)


def _doubled(y: Tensor, z: Tensor) -> int | None:
    if y.dim() != z.dim():
        return None
    dims = [d for d in range(y.dim()) if y.shape[d] != z.shape[d]]
    return dims[0] if len(dims) == 1 and z.shape[dims[0]] == 2 * y.shape[dims[0]] else None


def _equal(a: Tensor, b: Tensor) -> bool:
    limit = 1e-9 if a.dtype in (torch.float64, torch.complex128) else 1e-3
    return a.shape == b.shape and torch.allclose(
        a, b, rtol=limit, atol=limit * float(a.abs().max() if a.numel() else 0)
    )


def _resize(x: Tensor, dims: Sequence[int], resize: Callable[[int], int]) -> Tensor | None:
    """Other lengths along some axes: the first positions, repeated if there are not enough."""
    for d in dims:
        size = resize(x.shape[d])
        if size < 1:
            return None
        x = torch.cat([x, x], d).narrow(d, 0, size)
    return x
