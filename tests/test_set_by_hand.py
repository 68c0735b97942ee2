"""Parameters and statistics of a converted model that are set, deleted, loaded in part, pruned or fused by hand."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import assert_law
from planned import remembered
from tiers import some
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval, prune

from rcps_convert import ConversionError, bake, convert_model, extend, recipe, save
from rcps_convert.convert.fast.attached import Choice, accelerate_layer
from rcps_convert.convert.fast.layers import candidates
from rcps_convert.convert.fast.operator import Ways

DNA = torch.zeros(2, 4, 42)
TOLERANCE = 1e-10


class Net(nn.Module):
    """A norm that folds and one that does not."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv1d(4, 8, 5, padding=2), nn.BatchNorm1d(8)
        self.conv, self.odd, self.out = nn.Conv1d(8, 7, 3, padding=1), nn.BatchNorm1d(7), nn.Linear(7, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.stem(x)).relu()
        return self.out(self.odd(self.conv(h)).relu().mean(-1))


def converted() -> Any:
    return remembered(Net, DNA, verify=False)


def exact(model: nn.Module) -> None:
    assert_law(model, DNA, tolerance=TOLERANCE, randomise=False, modes=("eval",))


# --- parameters -----------------------------------------------------------------------------------


def test_a_parameter_that_is_assigned_is_stored() -> None:
    model = converted()
    kept, wanted = model.stem.parametrizations.weight.original, torch.randn(8, 4, 5)
    model.stem.weight = nn.Parameter(wanted)
    assert torch.equal(model.stem.weight[:4], wanted[:4])
    assert model.stem.parametrizations.weight.original is kept
    model.odd.weight = nn.Parameter(torch.rand(7) + 0.5, requires_grad=False)
    assert not model.odd.parametrizations.weight.original.requires_grad
    model.conv.register_parameter("bias", nn.Parameter(torch.randn(7)))
    exact(model)
    twin = copy.deepcopy(model)
    twin.stem.weight = nn.Parameter(torch.zeros(8, 4, 5))
    assert torch.equal(model.stem.weight[:4], wanted[:4])
    plain = bake(model)
    plain.stem.weight = nn.Parameter(wanted)
    assert plain.stem.weight is dict(plain.named_parameters())["stem.weight"]


def test_a_parameter_of_another_shape_is_refused() -> None:
    model = converted()
    with pytest.raises(ConversionError, match=r"values of another shape"):
        model.stem.weight = nn.Parameter(torch.randn(8, 4, 7))
    exact(model)


def test_other_attributes_of_a_tied_layer_are_set_and_deleted_as_ever() -> None:
    model = converted()
    model.stem.extra, model.stem.more = nn.Parameter(torch.ones(1)), 3
    assert "extra" in dict(model.stem.named_parameters())
    del model.stem.extra, model.stem.more
    assert not hasattr(model.stem, "extra")
    assert not hasattr(model.stem, "more")


REPLACED: dict[str, Callable[[Any], Any]] = {
    "is tied, so it cannot be deleted": lambda model: delattr(model.stem, "weight"),
    r"fuse_conv_bn_eval on a tied weight.*bake\(model\)": lambda model: fuse_conv_bn_eval(model.stem, model.norm),
    r"functional_call on a tied weight.*named_parameters": lambda model: torch.func.functional_call(
        model, {"stem.weight": torch.randn(8, 4, 5)}, torch.rand(2, 4, 42)
    ),
}


@pytest.mark.parametrize("words", REPLACED)
def test_what_would_take_the_place_of_a_tied_weight_says_what_to_do(words: str) -> None:
    model = converted().eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ConversionError, match=f"(?s){words}"):
        REPLACED[words](model)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())
    exact(model)


# --- statistics -----------------------------------------------------------------------------------


def copied(model: Any) -> None:
    model.odd.running_mean.copy_(torch.randn(7))


def replaced(model: Any) -> None:
    model.odd.running_var = torch.rand(7) + 0.5


def loaded(model: Any) -> None:
    model.load_state_dict({"odd.running_mean": torch.randn(7), "odd.running_var": torch.rand(7) + 0.5}, strict=False)


@pytest.mark.parametrize("write", [copied, replaced, loaded])
def test_statistics_that_are_written_are_averaged_before_they_are_read(write: Callable[[Any], None]) -> None:
    model = converted().eval()
    model(torch.rand(2, 4, 42))
    write(model)
    wanted = bake(copy.deepcopy(model)).odd.running_mean
    model(torch.rand(2, 4, 42))
    exact(model)
    mean, table = model.odd.running_mean, torch.tensor([3, 4, 5, 0, 1, 2, 6])
    torch.testing.assert_close(mean, (wanted + wanted[table]) / 2)
    exact(pickle.loads(pickle.dumps(model)))


def test_statistics_are_left_alone_while_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    from rcps_convert.tie.norms import PooledNorm

    model, shared = converted(), []
    monkeypatch.setattr(PooledNorm, "share", lambda self, module: shared.append(module))
    for _ in range(2):
        model.train()(torch.rand(2, 4, 42))
        for _ in range(3):
            model.eval()(torch.rand(2, 4, 42))
    assert len(shared) == 1  # the first time; what a train-mode forward gathers is the same on both strands


class Own(nn.Module):
    """Statistics in a buffer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv1d(4, 8, 5), nn.Linear(8, 1)
        self.register_buffer("center", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        if self.training:
            self.center.mul_(0.9).add_(0.1 * h.detach().mean((0, 2)))
        return self.out((h - self.center[:, None]).relu().mean(-1))


@pytest.mark.parametrize("how", some(["copied", "loaded"], 1))
def test_own_statistics_that_are_written_are_averaged_too(how: str) -> None:
    model: Any = remembered(Own, DNA, verify=False)
    model.eval()(torch.rand(2, 4, 42))
    values = torch.randn(8)
    model.center.copy_(values) if how == "copied" else model.load_state_dict({"center": values}, strict=False)
    exact(model)


@pytest.mark.parametrize("name", ["weight", "bias", "running_mean", "running_var"])
def test_both_halves_of_a_shared_vector_are_refused(name: str) -> None:
    model = converted().eval()
    value = torch.ones(8)
    setattr(model.norm, name, value if "running" in name else nn.Parameter(value))
    with pytest.raises(ConversionError, match=f"(?s)the {name} of a BatchNorm1d was set to 8.*half of each is stored"):
        model(torch.rand(2, 4, 42))


# --- pruning --------------------------------------------------------------------------------------


def test_a_pruned_model_is_baked_with_its_zeros_and_says_what_a_file_needs(tmp_path: Path) -> None:
    model = converted().eval()
    stored = model.conv.parametrizations.weight
    prune.l1_unstructured(stored, "original", amount=0.5)
    x = torch.rand(2, 4, 42)
    plain = bake(model)
    assert isinstance(plain.conv.weight, nn.Parameter)
    assert torch.equal(plain.conv.weight, model.conv.weight)
    exact(model)
    exact(pickle.loads(pickle.dumps(model)))
    for refused in (recipe, lambda m: save(m, tmp_path / "model.rc"), lambda m: extend(m, DNA)):
        with pytest.raises(ConversionError, match=r"(?s)with a pruned weight.*prune\.remove"):
            refused(model)
    before = model(x)
    prune.remove(stored, "original")
    assert torch.equal(model(x), before)
    assert recipe(model)["parameters"] == recipe(converted())["parameters"]


# --- other tools ----------------------------------------------------------------------------------


class Functional(Net):
    """A pool in the forward of the model itself."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.avg_pool1d(x, 4))


class Bare(nn.Module):
    """A weight of the model's own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.out = nn.Parameter(torch.randn(8, 4, 5)), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(nn.functional.conv1d(x, self.weight).relu().mean(-1))


@pytest.mark.parametrize(
    ("make", "how"), [(Bare, {}), (Net, {"strategy": "conjoined"}), (Functional, {}), (Functional, {"baked": True})]
)
def test_a_symbolic_trace_keeps_the_law_or_is_refused(make: type[nn.Module], how: dict[str, Any]) -> None:
    """It follows the forward of the class, without what is set on the model or hooked to it."""
    given = dict(how)
    baked = given.pop("baked", False)
    model = convert_model(make(), DNA, verify=False, **given).eval()
    with pytest.raises(ConversionError, match=r"(?s)torch\.fx\.symbolic_trace of a model with.*torch\.export"):
        torch.fx.symbolic_trace(bake(model) if baked else model)
    exact(model)


def test_a_symbolic_trace_of_layers_is_trained() -> None:
    """A tied layer is a layer of torch's own to it; else its weight would be read once and for all."""
    model = torch.fx.symbolic_trace(converted().eval())
    exact(model)
    before = model(torch.ones(2, 4, 42))
    for _ in range(2):
        model(torch.rand(4, 4, 42)).sum().backward()
        torch.optim.SGD(model.parameters(), 0.1).step()
    assert not torch.equal(model(torch.ones(2, 4, 42)), before)
    assert model.stem.parametrizations.weight.original.grad is not None
    exact(model)


def test_an_accelerated_layer_computes_with_what_it_is_set_to() -> None:
    model, plain, x = converted().eval(), converted().eval(), torch.rand(2, 4, 42)
    for candidate in candidates(model):
        ways = Ways("torch", "torch", "torch")
        accelerate_layer(candidate, Choice(candidate.product, candidate.reading, ways, None, "cpu"))
    for padding in ((1,), (2,), "same"):
        for one in (model, plain):
            one.conv.padding = padding
        torch.testing.assert_close(model(x), plain(x))
    exact(model)
