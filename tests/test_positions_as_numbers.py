"""Numbers of positions, such as the place of a maximum, where a length is longer than the one they are known for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from by_hand import Net, bases, mirror, worst
from tiers import some
from torch import Tensor, nn

from rcps_convert import ConversionError, plan_conversion


def place_of_the_largest(m: Any, h: Tensor) -> Tensor:
    return h.argmax(-1).to(h.dtype)


def last_in_order(m: Any, h: Tensor) -> Tensor:
    return h.sort(-1).indices[..., -1].to(h.dtype)


def beside_the_largest(m: Any, h: Tensor) -> Tensor:
    return h.max(-1).indices.to(h.dtype)


def place_in_a_pool(m: Any, h: Tensor) -> Tensor:
    return nn.functional.adaptive_max_pool1d(h, 1, return_indices=True)[1].squeeze(-1).to(h.dtype)


@pytest.mark.parametrize("places", some([place_of_the_largest, last_in_order, beside_the_largest, place_in_a_pool], 2))
@pytest.mark.parametrize("read", some([True, False], 1))
def test_numbers_of_positions_at_other_lengths_are_mirrored_or_refused_by_name(
    places: Callable[[Any, Tensor], Tensor], read: bool
) -> None:
    def forward(m: Any, x: Tensor) -> Any:
        h = m.d(m.c(x))
        score = m.o(places(m, h))
        return (h, score.square()) if read else h

    torch.manual_seed(0)
    net = Net(forward, c=nn.Conv1d(4, 12, 4, padding=2), d=nn.Conv1d(12, 8, 3, padding=1), o=nn.Linear(8, 8))
    plan = plan_conversion(net, torch.zeros(2, 4, 64), on_unsupported="both_strands")
    assert not plan.problems
    model = plan.apply(net).double().eval()
    answered = 0
    for length in (64, 65, 32, 70, 128, 129):
        x = bases(6, length)
        try:
            y, r = model(x), model(mirror(x))
        except ConversionError:
            assert length != 64
            continue
        answered += 1
        y, r = (y[0], r[0]) if read else (y, r)
        assert worst(r, y.flip(-1)) < 1e-9
    assert answered
