"""What a spec is, and its layouts: which axis of a tensor is the batch, which the channels, which the length."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

from ..errors import NeedsChoiceError
from . import axis as ax
from .action import Action
from .axis import Axis


@dataclass(frozen=True)
class Spec:
    """What a tensor is; subclasses say how reverse complement acts on its channel axis.

    Attributes:
        layout: axes in einops letters: ``n`` batch, ``c`` channels, ``l`` length, ``f`` features that stay, ``1`` unit;
            or ``"auto"``.
    """

    def channel(self) -> Axis | None:
        """Action on the channel axis, or None when there is no such axis."""
        return None

    def along(self, size: int) -> Axis:
        """Action on the axis of positions.

        Raises:
            NeedsChoiceError: the offset is so large that no position has a partner.
        """
        offset = getattr(self, "offset", 0)
        if offset and size <= abs(offset):
            raise NeedsChoiceError(
                f"with offset={offset} no two of {size} positions are mirrored to each other",
                why=f"position i goes to {size} - 1 - i - ({offset}), which none of them is",
                do="give a smaller offset, or a longer example",
            )
        return ax.positions(size, offset)

    def parts(self) -> tuple[Spec, ...]:
        """The specs of consecutive blocks of the channel axis; one, unless it holds several kinds."""
        return (self,)

    def action(self, shape: Sequence[int], layout: str = "auto") -> Action:
        """The action on a tensor of this shape.

        Raises:
            NeedsChoiceError: the layout does not fit, or several readings do.
        """
        own = getattr(self, "layout", "auto")
        layout = own if own != "auto" else layout
        check_layout(layout)
        readings = self.readings(tuple(shape)) if layout == "auto" else [axes_of(layout)]
        if not readings:
            raise NeedsChoiceError(
                f"no axis of shape {tuple(shape)} fits {self}",
                why=f"the axes must be read as {self.forms()}",
                do='check the alphabet or the tracks, or say which axis is which: layout="n c l"',
            )
        if len(readings) > 1:
            listed = " or ".join(f'"{" ".join(r)}"' for r in readings)
            raise NeedsChoiceError(
                f"shape {tuple(shape)} can be read as {listed}",
                why=f"both fit {self}",
                do=f'say which: layout="{" ".join(readings[0])}"',
            )
        return self._placed(tuple(shape), readings[0])

    def actions(self, shape: Sequence[int]) -> list[Action]:
        """The actions of every reading of a shape; empty when none fits."""
        own = getattr(self, "layout", "auto")
        if own != "auto":
            return [self.action(shape)]
        return [self._placed(tuple(shape), reading) for reading in self.readings(tuple(shape))]

    def forms(self) -> str:
        """The layouts this spec can be read from, in words."""
        return "n (batch), c (channels) and l (length)"

    def readings(self, shape: tuple[int, ...]) -> list[tuple[str, ...]]:
        """Every layout that fits a shape."""
        channel = self.channel()
        names = ["l"] if channel is None else ["c", "l"]
        return arrangements(shape, names, channel.size if channel else 0)

    def _placed(self, shape: tuple[int, ...], letters: tuple[str, ...]) -> Action:
        channel = self.channel()
        channels = 0 if channel is None else 1
        found = [c for axis in letters for c in inside(axis)].count("c")
        fits = found == channels or (found == 0 and channel is not None and channel.size == 1)
        if len(letters) != len(shape) or not fits:
            raise NeedsChoiceError(
                f"layout {' '.join(letters)!r} does not fit shape {shape}",
                why=f"a layout names each axis with one of n, c, l, f, 1, and {self} has {channels or 'no'} axis c",
                do='write one letter per axis, such as layout="n c l"',
            )
        axes: list[Axis] = []
        for size, axis in zip(shape, letters, strict=True):
            makers = {"n": ax.batch, "l": self.along, "f": ax.trivial, "1": ax.trivial}
            axes.append(
                ax.product(
                    channel if letter == "c" and channel is not None else makers[letter](n)
                    for letter, n in zip(inside(axis), self.sizes(axis, size, shape, letters), strict=True)
                )
            )
        return Action(tuple(axes))

    def sizes(self, axis: str, size: int, shape: Sequence[int], letters: Sequence[str]) -> list[int]:
        """The sizes of what an axis of a layout holds, the outermost first.

        Raises:
            NeedsChoiceError: they do not make up the size of the axis.
        """
        channel = self.channel()
        known = {"1": 1, **({"c": channel.size} if channel is not None else {})}
        wanted = math.prod(known.get(c, 1) for c in inside(axis))
        open_ones = [c for c in inside(axis) if c not in known]
        if len(open_ones) > 1 or size % wanted or (not open_ones and size != wanted):
            raise NeedsChoiceError(
                f"layout {' '.join(letters)!r} does not fit shape {tuple(shape)}",
                why=f"axis {axis!r} has {size} entries, {self} has {wanted}",
                do="name the axes in the order of the tensor, and check the alphabet or the tracks",
            )
        return [known.get(c, size // wanted) for c in inside(axis)]


LETTERS = "nclf1"
"""What a layout is written in."""

LAYOUTS = (
    "axes in einops letters (n batch, c channels, l length, f features, 1 unit), such as 'n c l', or 'auto'; "
    "what is flattened into one axis stands in parentheses, as in 'n (c l)'"
)
"""What a layout is."""


def axes_of(layout: str) -> tuple[str, ...]:
    """The axes that a layout names: a letter, or what is flattened into one axis, ``"(c l)"``."""
    return tuple(re.findall(r"\([^()]*\)|[^\s()]+|[()]", layout))


def inside(axis: str) -> list[str]:
    """The letters of one axis of a layout, the outermost first."""
    return axis.strip("()").split()


def check_layout(layout: Any) -> None:
    """Refuse what is no layout.

    Raises:
        TypeError: it is no string.
        NeedsChoiceError: it has other letters.
    """
    if not isinstance(layout, str):
        raise TypeError(f"layout={layout!r}: give {LAYOUTS}")
    axes = axes_of(layout)
    if layout != "auto" and not (axes and all(inside(axis) and set(inside(axis)) <= set(LETTERS) for axis in axes)):
        raise NeedsChoiceError(
            f"layout {layout!r} does not fit any shape: give {LAYOUTS}",
            why="a layout names each axis with one of n, c, l, f, 1",
            do='write one letter per axis, such as layout="n c l"',
        )


def arrangements(shape: tuple[int, ...], names: Sequence[str], channels: int) -> list[tuple[str, ...]]:
    """Layouts of a batched tensor whose non-unit axes are `names`; ``c`` must have its size."""
    if len(shape) == len(names):  # no batch axis
        spots, lead = tuple(range(len(shape))), []
    else:
        spots, lead = tuple(range(1, len(shape))), ["n"]
    found = []
    for chosen in permutations(spots, len(names)):
        placed = dict(zip(chosen, names, strict=True))
        rest_is_unit = all(i in placed or shape[i] == 1 for i in spots)
        channel_fits = all(name != "c" or shape[i] == channels for i, name in placed.items())
        if rest_is_unit and channel_fits:
            found.append(tuple([*lead, *(placed.get(i, "1") for i in spots)]))
    same_action = {tuple("l" if s == 1 and c == "1" else c for s, c in zip(shape, r, strict=True)): r for r in found}
    return list(same_action.values())
