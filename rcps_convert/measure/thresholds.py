"""Sizes that forward compares with a number: where a comparison comes out otherwise, it may take another way.

``if x.shape[-1] > 500: h = h[..., :500]`` does nothing at the lengths around an example of 200. So forward is run with
sizes that note what they are compared with, on the example and beside it, and where a comparison turns is read off:
the difference of its two sides grows in proportion to the length, or to the number of samples.

This file and `ways` say where to look; whether the law holds there is measured by `convert.length_checks`.
"""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .._torch import users_line
from ..algebra.arguments import Example
from ..algebra.axis import Step
from ..graph.sandbox import call, mode, quiet, undisturbed_rng
from .known_sizes import SHAPE
from .lengths import Survey, Variants

Place = tuple[str, int, int]
"""File and line of a comparison, and how many were made there before."""

MOST = 3
"""Places on either side of the example at which a comparison turns that are looked at."""

LARGEST = 128
"""Divisors up to which every rest is tried."""

MOST_WORK = 2**26
"""Entries of all tensors that forwards may make while the rests of a division are tried."""

COUNTED = (16, 64)
"""Numbers of samples that are tried where forward asks for the ``len`` of a tensor, which cannot note anything."""


class Compared:
    """What sizes were compared with in one run: by place the difference of the two sides.

    Attributes:
        differences: the size less the number; also of the largest and the smallest of whole numbers in a tensor.
        rests: of comparisons of the rest of a division, the dividend, the divisor, and whether it held.
        counted: whether forward asked for the ``len`` of a tensor, which is a plain number.
        looked_up: whether a size was looked up in a table or a set, or read as text or by its bits.
        laid: whether forward asked how a tensor lies in memory.
    """

    def __init__(self) -> None:
        self.differences: dict[Place, float] = {}
        self.rests: dict[Place, tuple[int, int, bool]] = {}
        self.counted = self.looked_up = self.laid = False
        self._times: Counter[tuple[str, int]] = Counter()

    def note(self, size: int, number: float, inside: int = 3) -> None:
        """Note a comparison that the user's code makes, some functions further out."""
        place = self._place(inside)
        if place is not None:
            self.differences[place] = int(size) - number

    def note_rest(self, rest: _Rest, holds: bool) -> bool:
        """Note whether a comparison of the rest of a division holds; the same."""
        place = self._place()
        if place is not None:
            self.rests[place] = *rest.division, holds
        return holds

    def _place(self, inside: int = 3) -> Place | None:
        line = users_line(inside)
        if line is None:
            return None
        self._times[line] += 1
        return *line, self._times[line]


class _Size(int):
    """A size that notes what it is compared with; sums, differences, products and quotients of it do too."""

    seen: Compared

    def of(self, seen: Compared) -> _Size:
        self.seen = seen
        return self


class _Rest(int):
    """The rest of a division of a size, which notes what comparisons of it give."""

    seen: Compared
    division: tuple[int, int]

    def of(self, seen: Compared, dividend: int, divisor: int) -> _Rest:
        self.seen, self.division = seen, (dividend, divisor)
        return self

    def __bool__(self) -> bool:
        return self.seen.note_rest(self, int(self) != 0)


def _comparison_of_rest(compare: Callable[[Any, Any], Any]) -> Callable[[_Rest, Any], Any]:
    def noted(rest: _Rest, other: Any) -> Any:
        return rest.seen.note_rest(rest, compare(int(rest), int(other))) if isinstance(other, int) else NotImplemented

    return noted


def _rest(size: _Size, divisor: Any) -> Any:
    if not isinstance(divisor, int):
        return NotImplemented
    return _Rest(int(size) % int(divisor)).of(size.seen, int(size), int(divisor))


def _comparison(compare: Callable[[Any, Any], Any]) -> Callable[[_Size, Any], Any]:
    def noted(size: _Size, other: Any) -> Any:
        if type(other) not in (int, float, _Size):
            return NotImplemented
        size.seen.note(size, other if type(other) is float else int(other))
        return compare(int(size), other if type(other) is float else int(other))

    return noted


def _arithmetic(name: str) -> Callable[..., Any]:
    compute = getattr(int, name)

    def noted(size: _Size, *others: Any) -> Any:
        result = compute(size, *others)
        return _Size(result).of(size.seen) if type(result) is int else result

    return noted


def _looking_up(name: str) -> Callable[..., Any]:
    compute = getattr(int, name)

    def noted(size: _Size, *others: Any) -> Any:
        size.seen.looked_up = True
        return compute(size, *others)

    return noted


for _compare in (operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne):
    setattr(_Size, f"__{_compare.__name__}__", _comparison(_compare))
    setattr(_Rest, f"__{_compare.__name__}__", _comparison_of_rest(_compare))
for _name in ("__add__", "__radd__", "__sub__", "__rsub__", "__mul__", "__rmul__", "__floordiv__", "__neg__"):
    setattr(_Size, _name, _arithmetic(_name))
for _name in ("__hash__", "__str__", "__format__", "__and__", "__rand__", "__or__", "__ror__", "__xor__", "__rxor__"):
    setattr(_Size, _name, _looking_up(_name))
_Size.__mod__ = _rest  # type: ignore[method-assign,assignment]
_Rest.__hash__ = int.__hash__  # type: ignore[method-assign]

_OF_TENSORS = {
    *(Tensor.lt, Tensor.le, Tensor.gt, Tensor.ge, torch.lt, torch.le, torch.gt, torch.ge),
    *(Tensor.less, Tensor.less_equal, Tensor.greater, Tensor.greater_equal),
    *(torch.less, torch.less_equal, torch.greater, torch.greater_equal),
    *(Tensor.clamp, Tensor.clamp_min, Tensor.clamp_max, torch.clamp, torch.clamp_min, torch.clamp_max),
    *(Tensor.clamp_, Tensor.clamp_min_, Tensor.clamp_max_, Tensor.clip, Tensor.clip_, torch.clip),
}
"""Functions that compare the entries of a tensor with numbers."""


_OF_MEMORY = {Tensor.is_contiguous, Tensor.stride, Tensor.dim_order}
"""Functions that tell how a tensor lies in memory."""


class _Sizes(tuple[Any, ...]):
    """The sizes of a tensor, as ``torch.Size`` has them."""

    def numel(self) -> int:
        return math.prod(map(int, self))


class _Watching(TorchFunctionMode):
    """Gives forward sizes that note what they are compared with."""

    def __init__(self, seen: Compared) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _OF_TENSORS and isinstance(args[0], Tensor) and _counts(args[0]):
            self._note_entries(args[0], [*args[1:], *(kwargs or {}).values()])
        self.seen.laid |= func in _OF_MEMORY
        if func is Tensor.__len__:
            self.seen.counted = True
        if func is Tensor.size and type(result) is int:
            return _Size(result).of(self.seen)
        if func is Tensor.size or func == SHAPE:
            return _Sizes(_Size(n).of(self.seen) for n in result)
        return result

    def _note_entries(self, x: Tensor, numbers: list[Any]) -> None:
        for number in [n for n in numbers if type(n) in (int, float)]:
            for entry in x.aminmax():
                self.seen.note(int(entry), number, inside=4)


def _counts(x: Tensor) -> bool:
    """Whether a tensor has whole numbers, such as positions."""
    return x.numel() > 0 and not x.is_floating_point() and not x.is_complex() and x.dtype != torch.bool


def compared(model: nn.Module, example: Example) -> Compared | None:
    """What sizes are compared with in the eval-mode forward of a model; None where it does not run so.

    Args:
        model: the plain model.
        example: what to call it with.
    """
    seen = Compared()
    try:
        with undisturbed_rng(), quiet(), torch.no_grad(), mode(model, False), _Watching(seen):
            call(model, example)
    except Exception:  # the model's own errors, or a size that is no plain number
        return None
    return seen


def compared_at(variants: Variants, example: Example) -> Compared | None:
    """What sizes are compared with on a variant of the example; told by shapes alone where these suffice."""
    if variants.outlines is not None:
        with variants.outlines.entered() as twin:
            found = compared(twin, example)
        if found is not None:
            return found
    return compared(variants.model, example)


@dataclass(frozen=True)
class Turn:
    """Where a comparison comes out otherwise than on the example.

    Attributes:
        size: the first length, in positions, or number of samples.
        side: 1 where that is more than the example has, -1 where it is less.
        beyond: a size behind it at which forward was seen to run; 0 if none is known.
        samples: with how many samples a length was; None where that does not matter.
    """

    size: int
    side: int
    beyond: int = 0
    samples: int | None = None

    @property
    def before(self) -> Step:
        """What is aligned at the lengths before it: none is left of those from there on."""
        return Step(-1, self.size) if self.side > 0 else Step(1, -self.size)

    @property
    def tried(self) -> list[int]:
        """Sizes behind it: the first, the next, and one well behind, as quotients round."""
        far = self.size + self.side * (self.size // 8 + 8)
        sizes = dict.fromkeys((self.size, self.size + self.side, far, self.beyond))
        return [n for n in sizes if n > 0]


def turns(here: Compared, there: Compared, size: int, other: int) -> list[Turn]:
    """Where comparisons come out otherwise than on the example: the nearest few on either side.

    Args:
        here, there: what was compared at two sizes, such as two lengths: on the example, and elsewhere.
        size, other: these sizes.
    """
    found = set()
    for place, difference in here.differences.items():
        slope = (there.differences.get(place, difference) - difference) / (other - size)
        if slope and math.isfinite(difference):
            turn = size - difference / slope
            found |= {Turn(math.ceil(turn) + (turn == size), 1)} if turn >= size else set()
            found |= {Turn(math.floor(turn) - (turn == size), -1)} if turn <= size else set()
    by_distance = sorted((t for t in found if t.size > 0), key=lambda t: abs(t.size - size))
    return [t for side in (1, -1) for t in [t for t in by_distance if t.side == side][:MOST]]


@dataclass(frozen=True)
class Seen:
    """What forward compares, on the example and beside it.

    Attributes:
        here: on the example.
        other: another length that forward takes; 0 if none is known.
        there: at that length.
    """

    here: Compared | None
    other: int
    there: Compared | None


def seen_of(variants: Variants, survey: Survey) -> Seen:
    """What forward compares: one run on the example, and one at another length."""
    own, samples = variants.longest, survey.samples
    here = compared_at(variants, variants.example if samples is None else variants.with_samples(samples).example)
    other = next((n for n in (2 * own, own + 1, own - 1) if survey.at(n)), 0)
    if here is None or not other:
        return Seen(here, 0, None)
    return Seen(here, other, compared_at(variants, next(variants.at(other, samples)).example))


def turns_of(variants: Variants, survey: Survey, seen: Seen) -> tuple[list[Turn], list[Turn]]:
    """Where comparisons of forward come out otherwise: at which lengths, and with how many samples."""
    here, samples = seen.here, survey.samples
    if here is None:
        return [], []
    lengths = turns(here, seen.there, variants.longest, seen.other) if seen.there is not None else []
    numbers = list[Turn]()
    if samples is not None:
        there = compared_at(variants, variants.with_samples(samples + 1).example)
        numbers = turns(here, there, samples, samples + 1) if there is not None else []
    return lengths, numbers + [Turn(n, 1) for n in COUNTED if here.counted]


@dataclass(frozen=True)
class Rests:
    """Where comparisons of the rest of a division come out otherwise than on the example.

    Attributes:
        lengths: some longer ones at which they do, and forward runs.
        all_tried: whether every rest was tried that may matter: long forwards are run a few times only.
        period: lengths that differ by it, in positions, leave the same rests; 0 if that was not seen.
    """

    lengths: list[int]
    all_tried: bool = True
    period: int = 0


def rests_of(variants: Variants, survey: Survey, seen: Seen) -> Rests:
    """Where comparisons of the rest of a division come out otherwise.

    The period is told where forward was seen to run at no length that leaves other rests, as behind an ``assert``.
    """
    own, samples, start = variants.longest, survey.samples, survey.start
    if seen.here is None or not seen.here.rests or start is None or not any(variants.lengths):
        return Rests([])
    left, found, ran = _of_lengths(seen.here, seen.there), list[int](), False
    periods = [abs(divisor) * -(-own // max(1, dividend)) for dividend, divisor, _ in left.values()]
    period = max(periods, default=1)
    after = range(own + 1, own + 1 + period)
    every = list(dict.fromkeys([after[-1] - (after[-1] % period), *after]))  # first where nothing is left over
    tried = every[: min(LARGEST, max(2, MOST_WORK // max(1, start.work)))]
    for n in tried if left else []:
        there = compared_at(variants, next(variants.at(n, samples)).example)
        ran = ran or (there is not None and (n - own) % period != 0)
        turned = [p for p, rest in left.items() if there is not None and there.rests.get(p, rest)[2] is not rest[2]]
        left = {p: rest for p, rest in left.items() if p not in turned}
        found += [n] if turned else []
        if not left:
            break
    all_tried = not left or tried == every
    common = 0 if all_tried or ran else math.lcm(*periods)
    return Rests(found, all_tried, common if common and _is_same(variants, samples, seen.here, common) else 0)


def _is_same(variants: Variants, samples: int | None, here: Compared, period: int) -> bool:
    """Whether comparisons of rests come out as on the example at the next two lengths of a period."""
    for n in (variants.longest + period, variants.longest + 2 * period):
        there = compared_at(variants, next(variants.at(n, samples)).example)
        if there is None or any(there.rests.get(p, rest)[2] is not rest[2] for p, rest in here.rests.items()):
            return False
    return True


def _of_lengths(here: Compared, there: Compared | None) -> dict[Place, tuple[int, int, bool]]:
    """The comparisons of rests whose dividend goes by the length, as a number of channels or samples does not."""
    others = there.rests if there is not None else {}
    return {p: rest for p, rest in here.rests.items() if p not in others or others[p][0] != rest[0]}
