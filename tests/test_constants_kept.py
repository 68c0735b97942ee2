"""Buffers that forward reads as constants, given other values after the conversion."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from by_hand import bases, conv, mirror, worst
from tiers import some
from torch import Tensor, nn

from rcps_convert import apply_recipe, bake, convert_model, recipe
from rcps_convert.tie.parts import OtherPartError

EXAMPLE = torch.zeros(2, 4, 21)
X = bases(3)


class Weighted(nn.Module):
    """Positions weighted by a buffer that is its own mirror image when the model is made."""

    window: Tensor

    def __init__(self, persistent: bool = True) -> None:
        super().__init__()
        self.c, self.a = conv(), nn.Linear(8, 2)
        self.register_buffer("window", torch.ones(21), persistent=persistent)

    def forward(self, x: Tensor) -> Tensor:
        return self.a((self.c(x).relu() * self.window).mean(-1))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return convert_model(Weighted(), EXAMPLE).double().eval()


RAMP = torch.arange(21.0).double()


def in_place(m: Any) -> None:
    m.window.copy_(RAMP)


def by_state(m: Any) -> None:
    m.load_state_dict({**m.state_dict(), "window": RAMP})


def another_tensor(m: Any) -> None:
    m.window = RAMP.clone()


def by_data(m: Any) -> None:
    m.window.data = RAMP.clone()


def into_data(m: Any) -> None:
    m.window.data.copy_(RAMP)


@pytest.mark.parametrize("change", some([in_place, by_state, another_tensor, by_data, into_data], 3))
def test_other_values_of_a_constant_are_refused(model: nn.Module, change: Any) -> None:
    twin = copy.deepcopy(model)
    twin(X)
    change(twin)
    with pytest.raises(OtherPartError, match="window is not what it was when the model was converted"):
        twin(X)
    change_back = copy.deepcopy(model.window)
    twin.window = change_back
    assert worst(twin(mirror(X)), twin(X)) < 1e-10


def test_the_same_values_are_taken_in_any_precision(model: nn.Module) -> None:
    twin = copy.deepcopy(model)
    twin.load_state_dict(model.state_dict())
    assert worst(twin(mirror(X)), twin(X)) < 1e-10
    assert twin.bfloat16()(X.bfloat16()).shape == (3, 2)
    whole = torch.load(_saved(model), weights_only=False)
    assert torch.equal(whole(X), model(X))


def _saved(model: nn.Module) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return file


def test_a_recipe_keeps_what_the_values_were(model: nn.Module) -> None:
    again: Any = apply_recipe(Weighted(), recipe(model)).double()
    again(X)
    again.window.copy_(RAMP)
    with pytest.raises(OtherPartError):
        again(X)


def test_a_baked_model_is_a_plain_one(model: nn.Module) -> None:
    baked: Any = bake(model)
    baked.window.copy_(RAMP)
    assert worst(baked(mirror(X)), baked(X)) > 1e-3
