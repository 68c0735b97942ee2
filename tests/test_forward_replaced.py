"""A forward that is put in the place of a converted model's own, and never calls it."""

from __future__ import annotations

import copy
import io
from types import MethodType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from by_hand import bases, mirror, worst
from planned import remembered
from torch import Tensor, nn

from rcps_convert import ConversionError, extend
from rcps_convert.tie.parts import OtherPartError

DNA = torch.zeros(2, 4, 21)
X = bases(3)


class Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool, self.out = nn.Conv1d(4, 8, 5, padding=2), nn.MaxPool1d(4), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.pool(self.conv(x).relu()).mean(-1))


class ByFunction(Tower):
    """Its pool is moved by what the conversion sets around its own forward."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.max_pool1d(self.conv(x).relu(), 4).mean(-1))


def ramp(h: Tensor) -> Tensor:
    return (h * torch.arange(h.shape[-1], dtype=h.dtype)).mean(-1)


def by_layers(self: Any, x: Tensor) -> Tensor:
    return self.out(ramp(self.pool(self.conv(x).relu())))


def by_functions(self: Any, x: Tensor) -> Tensor:
    return F.linear(ramp(F.conv1d(x, self.conv.weight, self.conv.bias, padding=2)), self.out.weight)


def of_one_layer(self: Any, x: Tensor) -> Tensor:
    return self.out(x[..., :8].mean(1))


def lawful(self: Any, x: Tensor) -> Tensor:
    return self.out(self.conv(x).sigmoid().amax(-1))


def converted(kind: type[nn.Module] = Tower) -> Any:
    return remembered(kind, DNA).double().eval()


def loaded(model: nn.Module) -> Any:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS = {
    "at once": lambda model: model,
    "after a call": lambda model: (model(X), model)[1],
    "a copy": copy.deepcopy,
    "a copy that was called": lambda model: (model(X), copy.deepcopy(model))[1],
    "from a file": loaded,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("forward", [by_layers, by_functions, of_one_layer])
def test_one_that_breaks_the_law_is_refused(way: str, forward: Any) -> None:
    model = WAYS[way](converted())
    model.forward = MethodType(forward, model)
    for _ in range(2):
        with pytest.raises(OtherPartError, match="a forward was set on a module after"):
            model(X)


def test_one_that_is_called_without_the_model_is_refused() -> None:
    model = converted()
    model(X)
    model.forward = MethodType(by_layers, model)
    with pytest.raises(OtherPartError, match="the strands disagree"):
        model.forward(X)


def test_a_function_that_holds_the_model_is_refused_too() -> None:
    model = converted()
    model.forward = lambda x: by_layers(model, x)
    with pytest.raises(OtherPartError, match="the strands disagree"):
        model(X)


def test_one_that_obeys_it_is_let_be_and_the_other_checks_still_judge() -> None:
    model = converted()
    model.forward = MethodType(lawful, model)
    for x in (X, bases(2)[..., :17]):
        assert worst(model(x), model(mirror(x))) < 1e-10
    model.conv = nn.Conv1d(4, 8, 5, padding=2).double()
    with pytest.raises(ConversionError, match="no longer what was converted"):
        model(X)


@pytest.mark.parametrize("of_class", [True, False])
def test_the_forward_of_its_class_does_not_move_pools(of_class: bool) -> None:
    model = converted(ByFunction)
    if of_class:
        model.forward = MethodType(ByFunction.forward, model)
    else:
        del model.forward
    x = bases(3)[..., :20]
    assert worst(model(x), model(mirror(x))) < 1e-10  # the pool's windows cover this length
    with pytest.raises(OtherPartError, match=r"a forward was set on a module|conversion set on a module is gone"):
        model(X)


def test_one_that_calls_it_is_judged_by_what_it_adds() -> None:
    model = converted()
    own = model.forward
    model.forward = lambda x: own(x) * 2
    assert worst(model(X), model(mirror(X))) < 1e-10
    model.forward = lambda x: own(x) * x[:, 0, :1]
    with pytest.raises(OtherPartError, match="the strands disagree"):
        model(X)
    model.forward = own
    assert worst(model(X), model(mirror(X))) < 1e-10


def test_extend_ties_what_the_new_forward_asks_for() -> None:
    model = converted()
    model.forward = MethodType(lawful, model)
    extend(model, DNA.double())
    assert worst(model(X), model(mirror(X))) < 1e-10
    model.forward = MethodType(by_layers, model)
    with pytest.raises(ConversionError):
        extend(model, DNA.double())
