"""Random architectures for which no tied weights exist, and why.

A coordinate from -1 to 1 changes its sign when the sequence is reversed, and what a recurrence makes of the two
directions is swapped, whatever the weights. Some blocks apply to such channels, with no weight before, a function that
is not odd, or functions that differ. A law of the result would be an equation between functions that are linearly
independent, so what is added to such a channel, or reads it, would have to be zero.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from random_models import Block, Plan, Random

MIXES = {"conv", "gate", "grouped", "up", "raw", "recur", "ends", "flip", "split"}
"""Blocks whose every channel is read by weights: what they make of other channels has neither sign nor partner yet."""

VARIES = {"attend", "rotate", "stock"}
"""Blocks that add to a coordinate what depends on the sequence; its sign stays."""

NOT_ODD = {
    "residual": "h + relu(y): where h changes its sign relu(y) would have to, so it would be zero",
    "pieces": "h + silu(y): where h changes its sign silu(y) would have to, and silu(-y) is no multiple of silu(y)",
    "split": "relu(h) and sigmoid(h) become relu(-h) and sigmoid(-h), which are no multiples of them",
    "norm": "gelu(-h) is no multiple of gelu(h), and a mean over channels loses its meaning if one changes its sign",
    "stock": "a mean over channels, which a layer norm takes, loses its meaning if one changes its sign",
    "pool": "the largest of a window becomes minus the smallest",
    "max": "the largest of all becomes minus the smallest",
    "ends": "the larger of two becomes minus the smaller",
}
"""Blocks and heads that no channel which changes its sign passes, and why."""

TORN = "relu of a channel would become the sigmoid of its partner"
"""Why the two directions of a recurrence cannot be split at any place."""


APART = "a group would become parts of two groups"
"""Why channels of a recurrence in two directions do not fit the groups of a layer."""


def blocked(plan: Plan) -> tuple[int, str] | None:
    """The first block, or the head, which makes tied weights impossible, and why; None if there is none."""
    signed, varies, length, c = False, False, plan.length, plan.channels
    directions: list[range] = []  # channels whose first half is swapped with the second
    for i, ((kind, _, extra), block) in enumerate(zip(plan.blocks, Random(plan).blocks, strict=True)):
        constant = kind == "pool" and not varies and i == len(plan.blocks) - 1 and plan.head in ("mean", "max")
        if signed and kind in NOT_ODD and _is_not_odd(kind, extra, block.grow(length) < length) and not constant:
            return i, NOT_ODD[kind]
        if kind == "split" and any(extra % c in r[1:] for r in directions):
            return i, TORN
        if any(_are_apart(r, _groups(kind, extra, block), c) for r in directions):
            return i, APART
        signed = (signed and kind not in MIXES) or (kind == "place" and extra % 2 == 0)
        varies = signed and (varies or kind in VARIES)
        directions = _directions(kind, extra, block, directions, block.width - c)
        c, length = block.width, block.grow(length)
    return (len(plan.blocks), NOT_ODD[plan.head]) if varies and plan.head in ("max", "ends") else None


def _groups(kind: str, extra: int, block: Block) -> int:
    """The groups of channels that a block keeps apart; 1 for none."""
    if kind == "grouped" or (kind == "norm" and extra == 1):
        layer: Any = block.layer
        return int(layer.groups if kind == "grouped" else layer.num_groups)
    return 1


def _are_apart(directions: range, groups: int, channels: int) -> bool:
    """Whether swapping the halves of some channels brings the channels of one group into several."""
    each, half = channels // groups, len(directions) // 2
    first = directions[:half]
    images = {(i // each, (i + half) // each) for i in first} | {((i + half) // each, i // each) for i in first}
    return len({group for group, _ in images}) < len(images)


def _is_not_odd(kind: str, extra: int, shorter: bool) -> bool:
    """Whether a block applies a function that is not odd: a pool of maxima does, and a layer with a norm."""
    return {"stock": extra % 2 == 1, "pool": extra % 2 == 1 and shorter}.get(kind, kind != "ends")


def _directions(kind: str, extra: int, block: Block, before: list[range], more: int) -> list[range]:
    """The channels that are two directions, after a block that has some `more` channels than the one before."""
    if (kind == "recur" and extra <= 3) or (kind == "ends" and extra <= 1):
        return [range(block.width)]
    if kind == "concat" and extra % 2 == 0:
        return [range(r.start + more, r.stop + more) for r in before]
    return [] if kind in MIXES else before


def mixed(plan: Plan) -> Plan:
    """The plan with a convolution, which mixes the channels, before each block that makes tied weights impossible."""
    while (found := blocked(plan)) is not None:
        at = found[0]
        plan = replace(plan, blocks=(*plan.blocks[:at], ("conv", 6, 2), *plan.blocks[at:]))
    return plan
