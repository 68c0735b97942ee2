"""What converted models are held to: the oracle's law, as they are and baked."""

from __future__ import annotations

from typing import Any

from oracle import assert_law, randomised
from torch import nn

from rcps_convert import bake

SPECS = ("inputs", "outputs", "layout")


def assert_exact(converted: nn.Module, example: Any, **how: Any) -> None:
    """A converted model obeys the law with random weights, and so does what it is baked to.

    Args:
        converted: not touched.
        example: what it is called with.
        how: keywords of `oracle.assert_law`; those of `convert_model` that say nothing of tensors are left out.
    """
    specs = {k: v for k, v in how.items() if k in SPECS}
    how = specs | {k: v for k, v in how.items() if k in ("lengths", "modes", "tolerance", "batch")}
    moved = randomised(
        converted, example, specs.get("inputs", "ACGT"), specs.get("layout", "auto"), how.get("batch", 5)
    )
    assert_law(moved, example, randomise=False, **how)
    assert_law(bake(moved), example, randomise=False, **{**how, "modes": ("eval",)})
