"""Outputs in classes of the user's own, as Hugging Face models return them: opened, and returned in the same class."""

from __future__ import annotations

import copy
import inspect
import json
from collections import OrderedDict, UserDict
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pytest
import torch
from lawful import assert_exact
from tiers import some
from torch import Tensor, nn
from torch.utils._pytree import register_pytree_node

from rcps_convert import (
    ConversionError,
    TraceError,
    apply_recipe,
    bake,
    convert_model,
    plan_conversion,
    recipe,
    unwrap,
)
from rcps_convert.algebra.opened import flatten, opened, output_leaves

DNA = torch.zeros(2, 4, 24)
TOLERANCE = 1e-10


@dataclass
class Out:
    profile: Tensor
    score: Tensor | None = None


@dataclass(frozen=True)
class Nested:
    inner: Out
    name: str = "model"


class ModelOutput(OrderedDict):
    """Registered with torch as Hugging Face's class is: without the keys of its entries."""


register_pytree_node(
    ModelOutput, lambda d: (list(d.values()), list(d.keys())), lambda v, keys: ModelOutput(zip(keys, v, strict=True))
)


class Net(nn.Module):
    """A profile and a score, wrapped by a function. (N, 4, L)."""

    def __init__(self, wrap: Any) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 6, 5, padding=2)
        self.deep = nn.Conv1d(6, 6, 3, padding=1)
        self.profile, self.score = nn.Conv1d(6, 2, 3, padding=1), nn.Linear(6, 3)
        self.wrap = wrap

    def forward(self, x: Tensor) -> Any:
        h = self.deep(self.conv(x).relu()).relu()
        return self.wrap(self.profile(h), self.score(h.mean(-1)))


WRAPS: dict[str, Any] = {
    "dataclass": Out,
    "nested": lambda p, s: Nested(Out(p, s)),
    "without a field": lambda p, s: (Out(p), s),
    "userdict": lambda p, s: UserDict({"profile": p, "score": s}),
    "pytree without keys": lambda p, s: ModelOutput(profile=p, score=s),
    "mixed": lambda p, s: [{"a": Out(p)}, ModelOutput(score=s)],
}
each_wrap = pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS.keys())


def types(value: Any) -> Any:
    """The classes of an output, nested as it is."""
    if isinstance(value, Out):
        return Out, types(value.profile), types(value.score)
    if isinstance(value, Nested):
        return Nested, types(value.inner), value.name
    if isinstance(value, (dict, UserDict)):
        return type(value), [(k, types(v)) for k, v in value.items()]
    return (type(value), [types(v) for v in value]) if isinstance(value, (tuple, list)) else type(value)


@each_wrap
@pytest.mark.parametrize("strategy", some(["tied", "conjoined", "mixed"], 1))
def test_the_class_of_an_output_stays_and_the_law_holds(wrap: Any, strategy: str) -> None:
    model = Net(wrap)
    converted = convert_model(model, DNA, strategy=strategy)
    assert types(converted(DNA)) == types(model(DNA))
    x = torch.eye(4, dtype=torch.float64)[torch.randint(4, (3, 24))].mT
    copy.deepcopy(converted).double()
    ours, theirs = (flatten(converted.double()(y))[0] for y in (x, x.flip(1, 2)))
    profile, score = (next(y for y in ours if torch.is_tensor(y) and y.dim() == d) for d in (3, 2))
    mirrored, same = (next(y for y in theirs if torch.is_tensor(y) and y.dim() == d) for d in (3, 2))
    assert float((profile - mirrored.flip(-1)).abs().max()) < TOLERANCE < float(profile.std())
    assert float((score - same).abs().max()) < TOLERANCE < float(score.std())


def test_specs_name_the_fields_of_a_dataclass() -> None:
    plan = plan_conversion(Net(Out), DNA, outputs={"profile": "+-", "score": "auto"})
    assert [line.partition(",")[0] for line in plan.outputs] == ["profile: tracks +-", "score: invariant (auto)"]
    converted = plan.apply(Net(Out))
    x = torch.eye(4, dtype=torch.float64)[torch.randint(4, (3, 24))].mT
    y, z = converted.double()(x).profile, converted(x.flip(1, 2)).profile
    assert float((y - z.flip(1, 2)).abs().max()) < TOLERANCE < float(y.std())


def test_a_pytree_without_keys_obeys_the_oracle() -> None:
    how = {"outputs": {"profile": "+-", "score": "invariant"}}
    converted = convert_model(Net(lambda p, s: ModelOutput(profile=p, score=s)), DNA, **how)
    assert_exact(converted, DNA, tolerance=TOLERANCE, **how)


def test_unwrapped_and_baked_models_return_the_class() -> None:
    model = convert_model(Net(Out), DNA, strategy="conjoined")
    assert isinstance(bake(model)(DNA), Out)
    assert isinstance(unwrap(model)(DNA), Out)


def test_an_object_that_cannot_be_opened_is_refused() -> None:
    class Hidden:
        def __init__(self, p: Tensor, s: Tensor) -> None:
            self.p = p

    with pytest.raises(TraceError, match="an object of class Hidden"):
        convert_model(Net(Hidden), DNA, verify=False)


def test_opening_and_closing_are_inverse() -> None:
    a, b = torch.zeros(1), torch.ones(1)
    for value in (Nested(Out(a, b)), MappingProxyType({"a": a, "b": Out(b)}), UserDict(a=a, b=None), (a, [b, "x"]), a):
        leaves, again = flatten(value)
        assert all(x is y for x, y in zip(leaves, output_leaves(value), strict=True))
        assert type(again(leaves)) is type(value)
        assert all(x is y for x, y in zip(output_leaves(again(leaves)), leaves, strict=True))
        assert opened(again(leaves)) == opened(value)


# --- calls that give fewer outputs ------------------------------------------------------------------


class WithLoss(Net):
    """A loss where there is a target, as models of Hugging Face have it."""

    def __init__(self, keyed: bool = True) -> None:
        super().__init__(lambda p, s: s)
        self.keyed = keyed

    def forward(self, x: Tensor, target: Tensor | None = None, **more: Any) -> Any:
        score = super().forward(x)
        loss = {} if target is None else {"loss": (score - target).square().mean()}
        return ModelOutput(loss, score=score) if self.keyed else (*loss.values(), score)


@pytest.mark.parametrize("strategy", some(["tied", "conjoined", "mixed"], 1))
def test_a_call_without_target_gives_the_same_scores(strategy: str) -> None:
    example = {"x": DNA, "target": torch.zeros(2, 3)}
    how: dict[str, Any] = {"inputs": {"x": "ACGT", "target": "invariant"}, "strategy": strategy}
    model = convert_model(WithLoss(), example, **how).eval()
    again = copy.deepcopy(apply_recipe(WithLoss(), json.loads(json.dumps(recipe(model)))).eval())
    again.load_state_dict(model.state_dict())
    x = torch.eye(4)[torch.randint(4, (3, 24))].mT
    for converted in (model, again):
        whole = converted(x=x, target=torch.ones(3, 3))
        assert list(whole) == ["loss", "score"]
        assert torch.equal(converted(x=x)["score"], whole["score"])
        torch.testing.assert_close(converted(x=x.flip(1, 2))["score"], whole["score"])


def test_fewer_outputs_without_names_are_refused() -> None:
    example = {"x": DNA, "target": torch.zeros(2, 3)}
    how: dict[str, Any] = {"inputs": {"x": "ACGT", "target": "invariant"}, "strategy": "conjoined"}
    model = convert_model(WithLoss(keyed=False), example, **how)
    with pytest.raises(ConversionError, match="returned 1 values, and was converted for 2"):
        model(x=DNA)


def test_a_conjoined_forward_shows_no_further_arguments() -> None:
    how: dict[str, Any] = {"inputs": {"x": "ACGT"}, "strategy": "conjoined", "verify": False}
    model = convert_model(WithLoss(), {"x": DNA}, **how)
    assert list(inspect.signature(model.forward).parameters) == ["x", "target"]
    with pytest.raises(ConversionError, match="argument 'items' holds 1 tensors"):
        model(x=DNA, items=torch.tensor(2))
