"""How reverse complement passes a module that runs on both strands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..algebra import axis as ax
from ..algebra.action import Action
from ..algebra.texts import read_action, write_action


@dataclass
class Passage:
    """How reverse complement passes a module that runs on both strands.

    Attributes:
        given: action of each input tensor, None for constants, which are the same for both strands.
        made: action of each output tensor.
        given_batch: batch axis of each input tensor, None for one that both strands share.
        made_batch: batch axis of each output tensor.
        stacks: both strands fit into one batch; otherwise the module is called twice.
    """

    given: tuple[Action | None, ...]
    made: tuple[Action, ...]
    given_batch: tuple[int | None, ...] = ()
    made_batch: tuple[int | None, ...] = ()
    stacks: bool = False
    calls: int = 1

    def plain(self) -> dict[str, Any]:
        """The passage as plain values, for `read_passage`."""
        return {
            "given": [None if a is None else write_action(a) for a in self.given],
            "made": [write_action(a) for a in self.made],
            "given_batch": list(self.given_batch),
            "made_batch": list(self.made_batch),
            "stacks": self.stacks,
            "calls": self.calls,
        }

    def join(self, other: Passage) -> None:
        """Unify with another call of the same module.

        Raises:
            Mismatch: the calls do not act alike.
        """
        if len(self.given) != len(other.given) or len(self.made) != len(other.made):
            raise ax.Mismatch("its calls take or return different numbers of tensors")
        for a, b in zip((*self.given, *self.made), (*other.given, *other.made), strict=True):
            if (a is None) != (b is None):
                raise ax.Mismatch("a tensor is a constant in one of its calls only")
            if a is not None and b is not None:
                _agree(a, b)
        self.stacks = self.stacks and (self.given_batch, self.made_batch) == (other.given_batch, other.made_batch)
        self.calls += 1


def read_passage(data: Mapping[str, Any]) -> Passage:
    """The passage that `Passage.plain` describes.

    Raises:
        ConversionError: an action cannot be read.
    """
    return Passage(
        tuple(None if text is None else read_action(text) for text in data["given"]),
        tuple(map(read_action, data["made"])),
        tuple(data["given_batch"]),
        tuple(data["made_batch"]),
        data["stacks"],
        data["calls"],
    )


def _agree(a: Action, b: Action) -> None:
    """Two tensors act alike; lengths and batches may have other sizes."""
    if len(a.axes) != len(b.axes):
        raise ax.Mismatch("its calls take or return tensors with different numbers of axes")
    for s, t in zip(a.axes, b.axes, strict=True):
        roles = [r.name if (r := ax.role(x)) else None for x in (s, t)]
        if roles[0] is None or roles[0] != roles[1]:
            ax.unify(s, t)
