"""Reordering the channels of a model: what a matched conversion does first must not change the model's function."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from models import Family
from oracle import examples, parts, randomised, run
from torch import Tensor, nn

from rcps_convert.infer.match.reorder import Copies, Moves, reorder


def inputs_for(family: Family) -> Any:
    specs = {k: v for k, v in family.how.items() if k in ("inputs", "layout")}
    return examples(family.example, **specs, batch=None)


def moved(model: nn.Module, family: Family) -> nn.Module:
    """A float64 copy with other weights and statistics."""
    specs = {k: v for k, v in family.how.items() if k in ("inputs", "layout")}
    return randomised(model, family.example, **specs)


def tensors(value: Any) -> Iterator[Tensor]:
    inside = parts(value)
    if inside is not None:
        for each in inside.values():
            yield from tensors(each)
    elif isinstance(value, Tensor):
        yield value


def distance(model: nn.Module, other: nn.Module, x: Any) -> float:
    """The largest difference of two models' outputs, relative to the largest entry of each, in float64."""
    one, two = (list(tensors(run(copy.deepcopy(m).double(), x))) for m in (model, other))
    assert len(one) == len(two) > 0
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(one, two, strict=True))


def shuffle(plan: Any, seed: int) -> Moves:
    """A random reordering of everything that the plan reorders."""
    g = torch.Generator().manual_seed(seed)

    def order(n: int) -> Tensor:
        return torch.randperm(n, generator=g)

    moves = plan.start.found.moves
    copies = {
        v: Copies(c.outer, torch.stack([order(v.size) for _ in range(c.outer.size)])) for v, c in moves.copies.items()
    }
    return Moves({v: order(v.size) for v in moves.orders}, copies)


def reordered(model: nn.Module, plan: Any, moves: Moves) -> nn.Module:
    model, variables = copy.deepcopy(model), plan.start.search.variables
    reorder(model, moves, variables.carriers, variables.copy)
    return model


def assert_reordering_changes_nothing(model: nn.Module, plan: Any, family: Family) -> None:
    """Neither what a plan reorders changes the function of a model, nor any other order of the same channels."""
    x, found = inputs_for(family), plan.start.found
    assert found.moves.variables
    assert not found.kept
    assert any(not torch.equal(p, torch.arange(len(p))) for p in found.moves.orders.values()) or found.moves.copies
    plain = moved(model, family)
    planned = copy.deepcopy(plain)
    found.apply(planned)
    assert distance(plain, planned, x) < 1e-12
    assert distance(plain, reordered(plain, plan, shuffle(plan, 1)), x) < 1e-12
