"""Where nothing needs re-anchoring the stock forward runs: found out once per shape, and again for another."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from oracle import assert_law
from planned import remembered
from tiers import some
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from rcps_convert import BreaksSymmetryError, ConversionError, apply_recipe, bake, convert_model, recipe
from rcps_convert.geometry import CallAxes, forwards_of, frames

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
    return remembered(Pooled, X).eval()


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


@pytest.mark.parametrize("values", some([pytest.param(v) for v in (((2,), (2,), (5,)), (2, 2, 5), (2, 2, [5]))], 1))
def test_another_setting_of_a_layer_is_another_way(model: nn.Module, framed: list[str], values: Any) -> None:
    model.pool.kernel_size, model.pool.stride, other = values
    model.pool.note = "first"  # no setting of torch's
    twin = pickle.loads(pickle.dumps(model))
    twin.pool.forward.settings.append("note")  # as if it had been there when the model was converted
    twin = copy.deepcopy(twin)
    for _ in range(3):
        caught(twin, X, framed)
    assert framed == []
    del twin.pool.note
    assert caught(twin, X, framed) == ["pool"]
    twin.pool.kernel_size = twin.pool.stride = other
    for _ in range(3):
        assert caught(twin, torch.zeros(2, 4, 61), framed)[-1] == "pool"
    assert_law(twin, X, outputs="invariant", lengths=(64, 61))


def test_copies_and_pickles_find_out_anew(model: nn.Module, framed: list[str]) -> None:
    for _ in range(3):
        caught(model, X, framed)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert caught(twin, X, framed) == ["", "pool"]


def test_a_mode_around_the_model_sees_no_more_than_of_the_plain_forward() -> None:
    class Seen(TorchFunctionMode):
        def __init__(self) -> None:
            super().__init__()
            self.names: list[str] = []

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.names.append(getattr(func, "__name__", ""))
            return func(*args, **(kwargs or {}))

    class Pool(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.max_pool1d(x, 4)

    plain, anchored = Pool().eval(), Pool().eval()
    known = frames.Entry("max_pool1d", (None, 4, None), CallAxes((2,), (2,)))
    frames.anchor(anchored, {"": frames.Table("", ((known,),))})
    for _ in range(2):
        modes = Seen(), Seen()
        for pool, mode in zip((plain, anchored), modes, strict=True):
            with mode:
                pool(X)
        assert {*modes[1].names} <= {*modes[0].names}


def test_what_is_remembered_is_bounded(model: nn.Module) -> None:
    for samples in range(1, frames.REMEMBERED + 20):
        model(torch.zeros(samples, 4, 8))
    (around,) = (forward for forward in forwards_of(model) if isinstance(forward, frames.Anchored))
    assert 0 < len(around.stock) <= frames.REMEMBERED


def test_a_transform_around_the_model_is_looked_at(model: nn.Module) -> None:
    x = torch.randn(3, 2, 4, 61)
    for _ in range(3):
        model(x[0])
    rows = torch.vmap(model)(x)
    assert torch.allclose(rows, torch.stack([model(y) for y in x]), atol=1e-5)


# --- baked for one length -----------------------------------------------------------------------------


def test_what_is_baked_for_a_length_runs_the_stock_forward(model: nn.Module, framed: list[str]) -> None:
    x = torch.randn(2, 4, 64)
    baked = bake(model, length=64)
    assert caught(baked, x, framed) == []
    assert torch.allclose(baked(x), model(x), atol=1e-6)
    assert list(baked.state_dict()) == list(Pooled().state_dict())
    assert_law(baked, X, outputs="invariant", randomise=False)


def test_another_length_is_refused(model: nn.Module) -> None:
    baked = bake(model, length=72)
    assert baked(torch.randn(3, 4, 72)).shape == (3, 1)
    for again in (baked, copy.deepcopy(baked), pickle.loads(pickle.dumps(baked))):
        for length in (64, 61, 80):
            with pytest.raises(BreaksSymmetryError, match="72"):
                again(torch.randn(3, 4, length))
    with pytest.raises(BreaksSymmetryError, match="72"):
        baked(x=torch.randn(3, 4, 64))


def test_a_length_that_needs_re_anchoring_is_not_baked_for(model: nn.Module) -> None:
    with pytest.raises(ConversionError, match="56 or 64"):
        bake(model, length=61)
    for wrong in (0, -8):
        with pytest.raises(ValueError, match="length="):
            bake(model, length=wrong)
    with pytest.raises(TypeError, match="length="):
        bake(model, length="64")  # type: ignore[arg-type]


def test_a_model_that_needs_nothing_at_any_length_takes_every_length() -> None:
    plain = convert_model(nn.Sequential(nn.Conv1d(4, 8, 3, padding=1), nn.ReLU(), nn.Conv1d(8, 1, 1)), X)
    baked = bake(plain.eval(), length=50)
    assert baked(torch.zeros(2, 4, 51)).shape == (2, 1, 51)


def test_a_recipe_and_a_file_keep_what_a_length_needs(model: nn.Module) -> None:
    fresh = apply_recipe(Pooled(), recipe(model)).eval()
    assert torch.equal(bake(fresh, length=64)(X), fresh(X))
    assert recipe(fresh) == recipe(model)


# --- reading tied weights -----------------------------------------------------------------------------


@pytest.mark.parametrize("gradients", some([False, True], 1))
def test_a_tied_weight_is_never_stale(model: nn.Module, gradients: bool) -> None:
    stored = model.first.parametrizations.weight.original
    with torch.set_grad_enabled(gradients):
        for change in (lambda: stored.data.mul_(2), lambda: stored.data.copy_(torch.randn(stored.shape))):
            change()
            weight = model.first.weight
            assert torch.equal(weight[:4], stored)
            assert torch.equal(weight[4:], stored.flip(1, 2))
            assert weight.requires_grad == gradients


def test_torchs_cache_and_hooks_of_parametrizations_are_respected(model: nn.Module) -> None:
    with torch.nn.utils.parametrize.cached():
        assert model.first.weight is model.first.weight
    assert model.first.weight is not model.first.weight


def test_a_large_weight_is_read_alike_with_and_without_gradients() -> None:
    for size in (8, 64, 256):
        tied = convert_model(
            nn.Sequential(nn.Conv1d(4, size, 9), nn.Conv1d(size, size, 5), nn.Conv1d(size, 1, 1)), X, verify=False
        )
        with torch.no_grad():
            without = tied[1].weight
        assert torch.equal(without, tied[1].weight)
