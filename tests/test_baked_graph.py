"""A baked graph that computes something else than its model, however it differs, is found before it is returned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiers import slow
from torch import Tensor, nn

from rcps_convert import Tokens, TraceError, bake, convert_model
from rcps_convert.algebra.action import Action
from rcps_convert.algebra.specs import OneHot
from rcps_convert.measure.lengths import Variant
from rcps_convert.strands import baked_graph
from rcps_convert.tie.parts import OtherPartError

LONG = 100


class Tower(nn.Module):
    """Two layers, and what is done with their outputs. (N, 4, L) -> (N, 2)"""

    def __init__(
        self, last: Callable[[Tensor, bool], Any], first: Callable[[Tensor, bool], Tensor] | None = None
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.scan, self.mix, self.out = nn.Conv1d(4, 8, 5, padding=2), nn.Conv1d(8, 8, 3), nn.Linear(8, 2)
        self.first, self.last = first, last

    def forward(self, x: Tensor) -> Any:
        is_long = x.shape[-1] > LONG
        if self.first is not None:
            x = nn.functional.one_hot(self.first(x, is_long), 4).mT.to(self.scan.weight.dtype)
        return self.last(self.out(self.mix(self.scan(x).relu()).mean(-1)), is_long)


def as_it_is(y: Tensor, is_long: bool) -> Tensor:
    return y


LAST: dict[str, Callable[[Tensor, bool], Any]] = {
    "zero for the model only": lambda y, is_long: y * 0 if is_long else y,
    "undefined for the model only": lambda y, is_long: y * float("nan") if is_long else y,
    "infinite for the graph only": lambda y, is_long: y if is_long else y / 0,
    "one output less": lambda y, is_long: [y] if is_long else [y, y],
    "small beside another": lambda y, is_long: torch.cat([1e6 * y, y * (2 if is_long else 1)]),
    "whole numbers": lambda y, is_long: (y > 0) == is_long,
    "behind a gate that is closed": lambda y, is_long: (y - 50).relu() * (2 if is_long else 1),
    "behind a sign": lambda y, is_long: (y - 1).relu() * (2 if is_long else 1),
}
FIRST: dict[str, Callable[[Tensor, bool], Tensor]] = {
    "ids turned round": lambda x, is_long: x.sort(-1).values if is_long else x,
    "ids left out": lambda x, is_long: x.where(x < 3, 0) if is_long else x,
}


def variant(length: int, ids: bool) -> Variant:
    spec = Tokens("ACGT") if ids else OneHot("ACGT")
    x = torch.zeros(2, length, dtype=torch.long) if ids else torch.zeros(2, 4, length)
    action: Action = spec.action(tuple(x.shape))
    return Variant((x,), (action,), length, f"length {length}")


class Short(nn.Module):
    """A graph of a model for short inputs, with its parameters."""

    def __init__(self, model: Tower) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Any:
        whole, self.model.first = self.model.first, self.model.first and (lambda x, is_long: whole(x, False))  # type: ignore[misc]
        last, self.model.last = self.model.last, lambda y, is_long: last(y, False)
        try:
            return self.model(x)
        finally:
            self.model.first, self.model.last = whole, last


@pytest.mark.parametrize("name", [*LAST, *FIRST])
def test_a_graph_of_another_function_is_found(name: str) -> None:
    model = Tower(LAST.get(name, as_it_is), FIRST.get(name))
    here, there = (variant(n, name in FIRST) for n in (64, 128))
    kept = [p.clone() for p in model.parameters()]
    state = torch.get_rng_state()
    with pytest.raises(TraceError, match="at length 128 forward takes another than at 64"):
        baked_graph._require_same(Short(model), model, here, [there])
    baked_graph._require_same(model, model, here, [there])
    assert all(map(torch.equal, kept, model.parameters()))
    assert torch.equal(state, torch.get_rng_state())


class Noisy(Tower):
    """The same with noise."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x + torch.randn_like(x))


def test_noise_is_no_other_function() -> None:
    model = Noisy(as_it_is)
    baked_graph._require_same(Short(model), model, variant(64, False), [variant(128, False)])


@slow
@pytest.mark.parametrize("name", ["zero for the model only", "undefined for the model only"])
def test_a_model_that_is_another_function_elsewhere_is_not_baked(name: str) -> None:
    mixed: Any = convert_model(Tower(LAST[name]), torch.zeros(2, 4, 64), strategy="mixed", verify=False).eval()
    with pytest.raises(TraceError, match=r"(?s)another function.*at length \d+ forward takes another than at 64"):
        bake(mixed)


ASKED: dict[str, tuple[Callable[[Tensor, Tensor], Any], str]] = {
    "autocast": (lambda x, h: torch.is_autocast_enabled("cpu"), "under autocast"),
    "precision": (lambda x, h: h.dtype == torch.float16, "in float16"),
    "memory": (lambda x, h: x.storage_offset() > 0, "with an input that is a part of another tensor"),
}


class Asking(Tower):
    """The same, doubled where something is asked for."""

    def __init__(self, asks: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__(as_it_is)
        self.asks, self.follows = asks, True

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y * (2 if self.follows and self.asks(x, y) else 1)


@pytest.mark.parametrize("name", ASKED)
def test_a_graph_does_not_follow_what_a_forward_asks_for(name: str) -> None:
    asks, words = ASKED[name]
    model, graph = Asking(asks), Asking(asks)
    graph.follows = False
    with pytest.raises(TraceError, match=f"{words} forward takes another"):
        baked_graph._require_same(graph, model, variant(64, False), [])
    baked_graph._require_same(model, model, variant(64, False), [])


@slow
def test_a_model_that_refuses_its_calls_is_not_baked() -> None:
    mixed: Any = convert_model(Tower(as_it_is), torch.zeros(2, 4, 64), strategy="mixed", verify=False).eval()
    mixed.scan.register_forward_hook(lambda module, args, out: out + out.roll(1, 0))
    with pytest.raises(OtherPartError, match="changes what it is given"):
        bake(mixed)
