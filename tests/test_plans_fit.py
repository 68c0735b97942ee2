"""A plan fits the model it was made for, both ways: modules, parameters and buffers more, fewer or others."""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Callable

import pytest
import torch
from planned import remembered
from tiers import some
from torch import Tensor, nn

from rcps_convert import ConversionPlan, apply_recipe, plan_conversion, recipe
from rcps_convert.errors import ConversionError

EXAMPLE = torch.zeros(2, 4, 40)


class Net(nn.Module):
    """Weights positions by their distance to the middle, a constant."""

    def __init__(self, change: Callable[[Net], object] | None = None) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(4, 8, 3, padding=1), nn.BatchNorm1d(8), nn.Tanh(), nn.Conv1d(8, 8, 1))
        self.more, self.out = nn.Identity(), nn.Linear(8, 1)
        self.register_buffer("near", 1 - (torch.arange(40) - 19.5).abs() / 20)
        self.register_buffer("unread", torch.zeros(3))
        self.note = "plain Python attributes need not be the same"
        if change is not None:
            change(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.more((self.body(x) * self.near).mean(-1)))


def longer(m: Net) -> None:
    m.body.append(nn.Conv1d(8, 8, 3, padding=1))


def other_activation(m: Net) -> None:
    m.body[2] = nn.ReLU()


def no_bias(m: Net) -> None:
    m.out = nn.Linear(8, 1, bias=False)


def wider(m: Net) -> None:
    m.out = nn.Linear(8, 2)


def extra_parameter(m: Net) -> None:
    m.scale = nn.Parameter(torch.ones(8))


def layer_for_identity(m: Net) -> None:
    m.more = nn.Linear(8, 8)


def other_values(m: Net) -> None:
    m.near = torch.linspace(0, 1, 40)


def one_value(m: Net) -> None:
    m.near[3] += 1e-3


def buffer_missing(m: Net) -> None:
    del m._buffers["unread"]


def buffer_more(m: Net) -> None:
    m.register_buffer("offset", torch.zeros(8))


def other_buffer(m: Net) -> None:
    m.unread = torch.zeros(4)


def subclass(m: Net) -> None:
    m.__class__ = type("Other", (Net,), {"forward": lambda self, x: self.out(self.body(x)[..., 0])})


OTHERS = {
    f.__name__: (f, where)
    for f, where in [
        (longer, r"body\.4"), (other_activation, r"body\.2"), (no_bias, r"out\.bias"), (wider, r"out\.weight"),
        (extra_parameter, "scale"), (layer_for_identity, "more"), (other_values, "near"), (one_value, "near"),
        (buffer_missing, "unread"), (buffer_more, "offset"), (other_buffer, "unread"), (subclass, "the model itself"),
    ]
}  # fmt: skip


@functools.cache
def plan_of(strategy: str) -> ConversionPlan:
    return plan_conversion(Net(), EXAMPLE, strategy=strategy)


@pytest.mark.parametrize("strategy", some(["tied", "conjoined", "mixed"], 2))
@pytest.mark.parametrize("name", OTHERS)
def test_a_plan_is_not_applied_to_another_model(name: str, strategy: str) -> None:
    change, where = OTHERS[name]
    if strategy != "tied" and change in (other_values, one_value):
        return  # nothing is analysed, so no value was taken for a constant
    plan = plan_of(strategy)
    other = Net(change)
    before = {k: v.clone() for k, v in other.state_dict().items()}
    for in_place in (False, True):
        with pytest.raises(ConversionError, match=f"the plan was made for another model: {where}"):
            plan.apply(other, in_place=in_place)
    assert all(torch.equal(v, before[k]) for k, v in other.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_plan_is_applied_to_models_like_its_own(dtype: torch.dtype) -> None:
    plan = plan_of("tied")

    def changed(m: Net) -> None:
        m.note = 7  # type: ignore[assignment]
        m.unread += 1
        m.body[1].running_mean += 1
        m.body[1].num_batches_tracked += 5
        m.eval()
        for p in m.parameters():
            p.requires_grad_(False)

    model = plan.apply(Net(changed).to(dtype)).double().eval()
    x = torch.randn(2, 4, 40).double()
    if dtype != torch.bfloat16:
        assert (model(x) - model(x.flip(1, 2))).abs().max() < 1e-6 * model(x).abs().max()


def test_a_plan_of_a_symmetric_model_is_held_to_its_buffers_too() -> None:
    class Sums(nn.Module):
        def __init__(self, sign: float) -> None:
            super().__init__()
            self.register_buffer("per_base", torch.tensor([[1.0], [2.0], [2.0], [sign]]))

        def forward(self, x: Tensor) -> Tensor:
            return (x * self.per_base).sum((1, 2))

    plan = plan_conversion(Sums(1.0), EXAMPLE)
    assert plan.symmetric
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plan.apply(Sums(1.0))
        with pytest.raises(ConversionError, match="another model: per_base"):
            plan.apply(Sums(5.0))


def test_a_plan_of_a_parametrized_model_fits_its_like() -> None:
    def normed(m: Net) -> None:
        nn.utils.parametrizations.weight_norm(m.out)

    plan = plan_conversion(Net(normed), EXAMPLE)
    plan.apply(Net(normed))
    with pytest.raises(ConversionError, match="another model: out"):
        plan.apply(Net())


# --- the same parts in another order ---


class ByName(nn.Module):
    """Goes through the modules of a dict, through its own modules, or through the parameters of a dict, in order."""

    def __init__(self, kind: str, order: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = {"b": nn.Conv1d(4, 6, 3), "a": nn.Conv1d(6, 4, 3), "c": nn.Sequential(nn.Conv1d(4, 4, 3), nn.ReLU())}
        self.kind = kind
        if kind == "dict":
            self.layers = nn.ModuleDict({name: layers[name] for name in order})
        elif kind == "own":
            for name in order:
                setattr(self, name, layers[name])
        else:
            self.weights = nn.ParameterDict()
            for name in order:
                self.weights[name] = nn.Parameter(torch.randn(4, 4, 3))

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "weights":
            for w in self.weights.values():
                x = nn.functional.conv1d(x, w).relu()
            return x.mean(-1).square().sum(-1)
        for layer in self.layers.values() if self.kind == "dict" else self.children():
            x = layer(x)
        return x.mean(-1).square().sum(-1)


@functools.cache
def plan_by_name(kind: str) -> ConversionPlan:
    return plan_conversion(ByName(kind, "bac"), EXAMPLE)


@pytest.mark.parametrize("kind", ["dict", "own", "weights"])
def test_a_plan_is_not_applied_to_the_same_parts_in_another_order(kind: str) -> None:
    plan = plan_by_name(kind)
    assert plan.apply(ByName(kind, "bac"))(EXAMPLE).shape == (2,)
    with pytest.raises(ConversionError, match="the plan was made for another model"):
        plan.apply(ByName(kind, "cba"))


@pytest.mark.parametrize("kind", ["dict", "own"])
def test_a_recipe_is_not_applied_to_the_same_parts_in_another_order(kind: str) -> None:
    told = recipe(plan_by_name(kind).apply(ByName(kind, "bac")))
    with pytest.raises(ConversionError, match="the order of its modules"):
        apply_recipe(ByName(kind, "cba"), told)
    alike = json.loads(json.dumps(told, sort_keys=True))
    assert apply_recipe(ByName(kind, "bac"), alike)(EXAMPLE).shape == (2,)


def exchanged(model: nn.Module) -> None:
    model.layers["b"], model.layers["d"] = model.layers["d"], model.layers["b"]


def reordered(model: nn.Module) -> None:
    model.layers["a"] = model.layers.pop("a")


def across(model: nn.Module) -> None:
    model.layers["c"][0], model.layers["d"] = model.layers["d"], model.layers["c"][0]


def four_parts() -> nn.Module:
    plain = ByName("dict", "bac")
    plain.layers["d"] = nn.Conv1d(4, 4, 3)
    return plain


@pytest.mark.parametrize("change", [exchanged, reordered, across])
def test_the_parts_of_a_converted_model_stay_in_their_places(change: Callable[[nn.Module], None]) -> None:
    model = remembered(four_parts, EXAMPLE)
    model.layers["a"] = model.layers["a"]
    assert model(EXAMPLE).shape == (2,)
    change(model)
    with pytest.raises(ConversionError, match="the model is no longer what was converted"):
        model(EXAMPLE)
