"""The two readings of a function that starts at the left edge of a length, and how they are put together.

A pool or a strided convolution whose windows leave a remainder reads from the left edge, its mirror
image from the right edge. Channels that reverse complement swaps take one reading each, a fixed
channel takes the mean of both: the result is equivariant at every length (`docs/geometry.md`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .._torch import function_name
from ..algebra.tables import is_computed
from ..errors import BreaksSymmetryError

Settings = dict[str, Any]


@dataclass(frozen=True)
class CallAxes:
    """What is known of a call: which axes are lengths, and which channels take which reading.

    Attributes:
        reads: axes of the tensor it reads that are lengths.
        makes: axes of its result that are lengths.
        channel: axis of the result whose entries are swapped; None if no axis has swapped entries.
        table: how they are swapped, entry i with ``table[i]``; None if the first half swaps with the second.
        ids: the tensor holds ids, of which no mean can be taken.
        spread: the tensor has one entry along `channel`, and is spread over so many before it is read; 0 if it is not.
    """

    reads: tuple[int, ...]
    makes: tuple[int, ...]
    channel: int | None = None
    table: tuple[int, ...] | None = None
    ids: bool = False
    spread: int = 0

    @property
    def halves(self) -> bool:
        """Whether the first half of the channels swaps with the second."""
        return self.channel is not None and self.table is None

    def words(self) -> str:
        """Which channels take which reading."""
        if self.halves:
            return "the first half of the channels reads from the left edge, the second from the right"
        if self.channel is None:
            return "the mean of the readings from both edges"
        return "of two swapped channels one reads from the left edge, the other from the right"


def choose(left: Tensor, right: Tensor, site: CallAxes) -> Tensor:
    """Each channel from its reading: the first of a swapped pair from the left edge, a fixed one the mean.

    Raises:
        BreaksSymmetryError: a mean of integers or truth values would be needed.
    """
    c = site.channel
    if c is not None and site.table is None:
        half = left.shape[c] // 2
        return torch.cat([left.narrow(c, 0, half), right.narrow(c, half, half)], c)
    if site.ids or not (left.is_floating_point() or left.is_complex()):
        ids = site.ids or left.dtype != torch.bool
        raise BreaksSymmetryError(
            f"two readings of a tensor of {left.dtype} that has no swapped channels",
            why="reading it from the left or from the right edge differs at this length, and "
            f"{'ids' if ids else 'truth values'} have no mean",
            do="crop or pad after the embedding or the one-hot encoding"
            if ids
            else "make it numbers before that (mask.float()), or crop or pad what it is computed from",
        )
    mean = (left + right) / 2
    if c is None or site.table is None:
        return mean
    sides = _kept_sides if is_computed(left) else _sides
    shape = [-1, *[1] * (left.dim() - c - 1)]
    first, swapped = (m.reshape(shape) for m in sides(site.table, left.device))
    return torch.where(swapped, torch.where(first, left, right), mean)


def _sides(table: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Which channels are the first of a pair, and which have a partner."""
    here, partner = torch.arange(len(table)), torch.tensor(table)
    return (here < partner).to(device), (here != partner).to(device)


@cache
def _kept_sides(table: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """The same, made once: a copy to a GPU makes it wait and breaks a CUDA graph."""
    with torch.inference_mode(False):
        return _sides(table, device)


class EdgeFunction:
    """How one function reads the edges of a length; subclasses know its arithmetic.

    Args:
        function: the function, which takes all of its arguments by position.
        names: their names; the first is the tensor that is read.
        defaults: values of those that may be left out.
    """

    keeps_axes = True
    """Whether each axis of the result is the same axis of the tensor that is read."""

    widens = False
    """Whether entries are added at the edges, of which a mask beside them would tell."""

    mixes = False
    """Whether each channel of the result reads all channels of its group."""

    def __init__(self, function: Callable[..., Any], names: str, **defaults: Any) -> None:
        self.function, self.names, self.defaults = function, tuple(names.split()), defaults
        self.name = function_name(function)

    def bind(self, args: Sequence[Any], kwargs: dict[str, Any]) -> Settings:
        """The arguments of a call by name, the tensor that is read as ``"input"``."""
        placed = {name: args[i] for i, name in enumerate(self.names[: len(args)])}  # torch.compile fails on uneven zips
        found = {**self.defaults, **placed, **kwargs}
        return {("input" if n == self.names[0] else n): v for n, v in found.items()}

    def call(self, s: Settings, **changed: Any) -> Any:
        """The function itself, with some arguments changed."""
        s = {**s, **changed}
        return self.function(s["input"], *(s[n] for n in self.names[1:]))

    def indifferent(self, s: Settings) -> bool:
        """Whether the call reads both edges of every axis alike, at every length."""
        return False

    def listed(self, s: Settings) -> tuple[int, ...]:
        """Axes whose entries are taken by a list; one of positions is symmetric at the traced length only."""
        return ()

    def concerns(self, s: Settings, site: CallAxes) -> bool:
        """Whether the call may read the edges of these lengths differently, at this or another length."""
        raise NotImplementedError

    def aligned(self, s: Settings, site: CallAxes) -> bool:
        """Whether the call reads both edges of these lengths alike."""
        raise NotImplementedError

    def apart(self, s: Settings, site: CallAxes) -> int:
        """How many positions the two readings of a crop lie apart; 0 for windows, which are at most a stride apart."""
        return 0

    def leaves(self, s: Settings, dim: int | None) -> bool:
        """Whether each entry of an axis of the result reads the same entry only of the tensor that is read."""
        return True

    def right(self, s: Settings, site: CallAxes) -> Tensor:
        """The reading that starts at the right edge: the mirror image of what is read from the mirror image."""
        flipped: Tensor = self.call(s, input=s["input"].flip(site.reads))
        return flipped.flip(site.makes)

    def both(self, s: Settings, site: CallAxes) -> Tensor:
        """The re-anchored call."""
        x, c = s["input"], site.channel
        if site.spread and c is not None:
            x = x.expand([site.spread if d == c else -1 for d in range(x.dim())])
            s = {**s, "input": x}
        if not (site.halves and self.keeps_axes and self.leaves(s, site.channel)):
            return choose(self.call(s), self.right(s, site), site)
        assert c is not None
        first, second = x.chunk(2, c)  # one node of autograd; two slices would each fill a gradient of the whole
        return torch.cat([self.call({**s, "input": first}), self.right({**s, "input": second}, site)], c)


def setting_per_axis(value: Any, rank: int) -> list[int]:
    """A setting per axis, from one number or a sequence."""
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return values * rank if len(values) == 1 else values


@dataclass
class Window:
    """A window sliding along one axis.

    Attributes:
        dim: the axis, from the front.
        size: its entries.
        extent, stride: of the window.
        left, right: entries padded on each side.
    """

    dim: int
    size: int
    extent: int
    stride: int
    left: int
    right: int

    @property
    def shift(self) -> int:
        """How far right of the windows from the left edge those from the right edge lie."""
        rest = (self.size + self.left + self.right - self.extent) % self.stride
        return rest + self.left - self.right


class Sliding(EdgeFunction):
    """Windows that slide along the last axes: pools, patches, convolutions."""

    def windows(self, s: Settings, site: CallAxes) -> list[Window]:
        """The windows along lengths."""
        x = s["input"]
        rank = self.rank(s)
        kernel = setting_per_axis(self.kernel(s), rank)
        stride = setting_per_axis(s["stride"], rank) if s.get("stride") not in (None, (), []) else kernel
        dilation = setting_per_axis(s.get("dilation", 1), rank)
        found = []
        for i in range(rank):
            dim = x.dim() - rank + i
            if dim in site.reads:
                extent = dilation[i] * (kernel[i] - 1) + 1
                left, right = self.pads(s, i, rank, extent)
                found.append(Window(dim, x.shape[dim], extent, stride[i], left, right))
        return found

    def rank(self, s: Settings) -> int:
        """Number of axes the window slides along."""
        raise NotImplementedError

    def kernel(self, s: Settings) -> Any:
        """Size of the window, per axis or for all."""
        return s["kernel_size"]

    def pads(self, s: Settings, i: int, rank: int, extent: int) -> tuple[int, int]:
        """Entries padded on the left and right of axis i."""
        p = setting_per_axis(s.get("padding", 0), rank)[i]
        return p, p

    def leaves(self, s: Settings, dim: int | None) -> bool:
        """No axis that the windows slide along."""
        return dim is None or dim < s["input"].dim() - self.rank(s)

    def indifferent(self, s: Settings) -> bool:
        """A stride of 1 leaves no remainder."""
        rank = self.rank(s)
        stride = s.get("stride")
        if stride in (None, (), []):
            stride = self.kernel(s)
        alike = all(left == right for left, right in (self.pads(s, i, rank, 1) for i in range(rank)))
        return alike and all(n == 1 for n in setting_per_axis(stride, rank))

    def concerns(self, s: Settings, site: CallAxes) -> bool:
        """Windows that may leave a remainder."""
        return any(w.stride > 1 or w.shift for w in self.windows(s, site))

    def aligned(self, s: Settings, site: CallAxes) -> bool:
        """The windows end at the right edge."""
        return all(w.shift == 0 for w in self.windows(s, site))
