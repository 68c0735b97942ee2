"""What is noted on a converted model: what cannot be seen on it, in plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

KEPT = "given"
"""What is kept beside the words, and is no part of a recipe: how the conversion was called."""

WORDS = ("settings", "averaged", "constants", "code")
"""What is noted: the settings as given, which buffers were averaged, which were taken for constants, and a fingerprint
of the forward that was converted."""

NOTE = "_rc_conversion"
"""The attribute of a converted model that holds it."""


def note(model: nn.Module, words: Mapping[str, Any]) -> None:
    """Note on a model what a conversion knew of it."""
    vars(model)[NOTE] = {name: words[name] for name in (*WORDS, KEPT) if name in words}


def noted(model: nn.Module) -> dict[str, Any] | None:
    """What is noted on a model: of a converted one something, even if nothing had to be attached."""
    return vars(model).get(NOTE)


def forget(model: nn.Module) -> None:
    """Undo `note`."""
    vars(model).pop(NOTE, None)
