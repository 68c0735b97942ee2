"""Specs of several kinds of channels in one tensor, and of contact maps kept as their upper triangle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import NeedsChoiceError
from . import axis as ax
from .axis import Axis
from .layouts import Spec, arrangements, check_layout
from .specs import SpecLike, Tracks, read_spec


@dataclass(frozen=True, init=False)
class Channels(Spec):
    """Channels of several kinds in one tensor, in this order.

    Args:
        parts: strings or specs, such as ``Channels("ACGT", "+-", "..")``: bases, two stranded tracks, two that stay.
        layout: axes in einops letters when shapes alone leave a choice, such as ``"n l c"``.

    Raises:
        ValueError: a part cannot be read, or says nothing of channels.
    """

    kinds: tuple[Spec, ...]
    layout: str = "auto"

    def __init__(self, *parts: SpecLike, layout: str = "auto") -> None:
        check_layout(layout)
        found = [read_spec(part, "a part of Channels(...)") for part in parts]
        for spec in found:
            if spec.channel() is None or getattr(spec, "offset", 0) != 0 or isinstance(spec, UpperTriangle):
                raise ValueError(
                    f"{spec} is no kind of channels that a tensor holds beside others: give alphabets, tracks or "
                    'Permutation(...), such as Channels("ACGT", "+-", "..")'
                )
        if not found:
            raise ValueError('Channels() has no parts: give one per kind, such as Channels("ACGT", "+-", "..")')
        object.__setattr__(self, "kinds", tuple(part for spec in found for part in spec.parts()))
        object.__setattr__(self, "layout", layout)

    def parts(self) -> tuple[Spec, ...]:
        """The specs of consecutive blocks of the channel axis."""
        return self.kinds

    def channel(self) -> Axis:
        """Each block as its own spec says."""
        return ax.total(part.channel() or ax.trivial(0) for part in self.kinds)

    def __str__(self) -> str:
        return "channels " + ", ".join(map(str, self.kinds))


@dataclass(frozen=True)
class UpperTriangle(Spec):
    """Contacts between bins, of which only those above a diagonal are kept, in the order of ``numpy.triu_indices``.

    Contact (i, j) of n bins goes to (n - 1 - j, n - 1 - i).

    Args:
        diagonal: the first diagonal that is kept; 0 is the main one.
        tracks: of the maps, one character each; they lie on an axis of their own, if there is one.
        layout: axes in einops letters; ``l`` is the axis of the contacts.

    Raises:
        ValueError: a negative diagonal, or tracks that cannot be read.

    Source: the layer ``SwitchReverseTriu`` of Baskerville (Akita), layers.py.
    """

    diagonal: int = 2
    tracks: str = "."
    layout: str = "auto"

    def __post_init__(self) -> None:
        if type(self.diagonal) is not int or self.diagonal < 0:
            raise ValueError(f"diagonal={self.diagonal!r}: give a whole number of at least 0")
        check_layout(self.layout)
        self.channel()

    def channel(self) -> Axis:
        """The tracks of the maps."""
        return Tracks(self.tracks).channel()

    def along(self, size: int) -> Axis:
        """Each contact from its mirror image."""
        bins = self.bins(size)
        if bins is None:
            raise NeedsChoiceError(
                f"{size} contacts are no triangle above diagonal {self.diagonal}",
                why="n bins have m (m + 1) / 2 contacts, with m = n - diagonal",
                do="check the diagonal, and which axis holds the contacts",
            )
        return ax.permutation(mirrored_contacts(bins, self.diagonal))

    def bins(self, size: int) -> int | None:
        """The number of bins of a map with so many contacts above the diagonal; None if no map has."""
        kept = (math.isqrt(8 * size + 1) - 1) // 2
        return kept + self.diagonal if size and kept * (kept + 1) // 2 == size else None

    def readings(self, shape: tuple[int, ...]) -> list[tuple[str, ...]]:
        """With an axis of tracks, or without if there is one track only."""
        alone = self.tracks == "." and len(shape) <= 2
        found = arrangements(shape, ["l"] if alone else ["c", "l"], len(self.tracks))
        return [r for r in found if self.bins(shape[r.index("l")])]

    def forms(self) -> str:
        """The layouts this spec can be read from, in words."""
        return f"n (batch), c ({len(self.tracks)} tracks) and l (contacts above diagonal {self.diagonal})"

    def __str__(self) -> str:
        return f"upper triangle of {self.tracks} from diagonal {self.diagonal}"


def mirrored_contacts(bins: int, diagonal: int) -> Sequence[int]:
    """For each contact above a diagonal of a map of n bins, the place of its mirror image."""
    contacts = [(i, j) for i in range(bins) for j in range(i + diagonal, bins)]
    place = {contact: k for k, contact in enumerate(contacts)}
    return [place[bins - 1 - j, bins - 1 - i] for i, j in contacts]
