"""Where nothing needs re-anchoring the stock forward runs: found out once per shape, and again for another."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from oracle import assert_law
from torch import Tensor, nn

from rcps_convert import convert_model
from rcps_convert.geometry import frames

X = torch.zeros(2, 4, 64)


class Pooled(nn.Module):
    """Pools in its own forward and in a module."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(4, 8, 3, padding=1), nn.Conv1d(8, 8, 3, padding=1)
        self.pool, self.head, self.window = nn.MaxPool1d(2), nn.Linear(8, 1), 4

    def forward(self, x: Tensor) -> Tensor:
        h = self.pool(self.first(x).relu())
        return self.head(torch.max_pool1d(self.second(h), self.window).relu().mean(-1))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return convert_model(Pooled(), X).eval()


@pytest.fixture
def framed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the modules whose calls were caught, in order."""
    seen: list[str] = []
    enter = frames.Frame.__enter__

    def entered(self: frames.Frame) -> frames.Frame:
        seen.append(self.table.path)
        return enter(self)

    monkeypatch.setattr(frames.Frame, "__enter__", entered)
    return seen


def caught(model: nn.Module, x: Tensor, framed: list[str]) -> list[str]:
    framed.clear()
    model(x)
    return [*framed]


def test_a_shape_that_needs_nothing_runs_the_stock_forward(model: nn.Module, framed: list[str]) -> None:
    assert caught(model, X, framed) == ["", "pool"]
    caught(model, X, framed)
    assert caught(model, X, framed) == []


def test_every_shape_is_looked_at(model: nn.Module, framed: list[str]) -> None:
    for length in (64, 64, 64, 61, 61, 61, 64, 60, 61):
        x = torch.randn(2, 4, length)
        model(x)
    assert caught(model, torch.randn(2, 4, 61), framed) != []
    assert caught(model, torch.randn(3, 4, 64), framed) != []
    assert_law(model, X, outputs="invariant", lengths=(64, 61, 63, 64, 59, 61))


def test_train_mode_of_a_forward_of_the_users_own_is_always_looked_at(model: nn.Module, framed: list[str]) -> None:
    model.train()
    for _ in range(3):
        assert caught(model, X, framed) == ["", "pool"]


def test_another_setting_is_another_way(model: nn.Module, framed: list[str]) -> None:
    for _ in range(3):
        caught(model, X, framed)
    model.window = 5
    assert caught(model, X, framed) != []
    assert_law(model, X, outputs="invariant")


def test_copies_and_pickles_find_out_anew(model: nn.Module, framed: list[str]) -> None:
    for _ in range(3):
        caught(model, X, framed)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert caught(twin, X, framed) == ["", "pool"]


def test_what_is_remembered_is_bounded(model: nn.Module) -> None:
    for samples in range(1, frames.REMEMBERED + 20):
        model(torch.zeros(samples, 4, 8))
    assert 0 < len(model.forward.stock) <= frames.REMEMBERED


def test_a_transform_around_the_model_is_looked_at(model: nn.Module) -> None:
    x = torch.randn(3, 2, 4, 61)
    for _ in range(3):
        model(x[0])
    rows = torch.vmap(model)(x)
    assert torch.allclose(rows, torch.stack([model(y) for y in x]), atol=1e-5)
