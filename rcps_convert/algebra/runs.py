"""Special tokens and padding: which entries of a row of ids are the sequence, and which stay where they are."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

BRACKETED = re.compile(r"[\[<({|]+\s*(/?\w+)\s*[\])}>|]+")
"""A special token: a word in brackets."""

ENDS = re.compile("cls|sep|/?s|[bes]os|[be]od|start|end|begin|(start|end)oftext")
"""Words of the special tokens that tokenizers put before and after a sequence."""

PADDING = re.compile("pad(ding)?")
"""Words of the special token that fills a batch up."""


def is_special(text: str, words: re.Pattern[str]) -> bool:
    """Whether a text is a special token with one of some words, `ENDS` or `PADDING`."""
    found = BRACKETED.fullmatch(text)
    return found is not None and words.fullmatch(found[1].lower()) is not None


@dataclass(frozen=True)
class Runs:
    """Where the sequence lies in each row of ids: between padding and the special tokens at its ends.

    Attributes:
        prefix, suffix: entries before and after the sequence that stay, in each row.
        pads: ids that fill a row up.
    """

    prefix: int
    suffix: int
    pads: tuple[int, ...]

    def plain(self) -> dict[str, Any]:
        """The same as plain values, for `read_runs`."""
        return {"prefix": self.prefix, "suffix": self.suffix, "pads": [*self.pads]}

    def order(self, ids: Tensor) -> Tensor:
        """The position that each entry comes from under reverse complement, (N, L), for ids (N, L)."""
        at = torch.arange(ids.shape[1], device=ids.device)
        kept = torch.stack([ids != pad for pad in self.pads]).all(0)
        start = torch.where(kept, at, ids.shape[1]).amin(1, keepdim=True) + self.prefix
        stop = torch.where(kept, at, -1).amax(1, keepdim=True) - self.suffix
        return torch.where((at >= start) & (at <= stop), start + stop - at, at)


def read_runs(data: Mapping[str, Any]) -> Runs:
    """What `Runs.plain` describes."""
    return Runs(data["prefix"], data["suffix"], tuple(data["pads"]))


def fitting(orders: Sequence[Tensor], size: int, samples: int) -> Tensor | None:
    """The first of several orders for an axis of a size, in a batch; None where none fits."""
    return next((o for o in orders if o.shape[1] == size and samples in (1, o.shape[0])), None)
