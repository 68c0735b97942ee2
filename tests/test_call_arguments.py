"""Arguments of a call that the example of the conversion did not have, or had with another value."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from by_hand import bases, conv, mirror, worst
from tiers import some
from torch import Tensor, nn

from rcps_convert import BreaksSymmetryError, apply_recipe, bake, convert_model, plan_conversion, recipe
from rcps_convert.convert import measured_call
from rcps_convert.tie import argument_guard
from rcps_convert.tie.parts import OtherPartError

TOLERANCE = 1e-10
EXAMPLE = torch.zeros(2, 4, 21)
X = bases(3)


class Switched(nn.Module):
    """A forward that goes another way where it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.a = conv(), nn.Linear(8, 2)

    def forward(
        self,
        x: Tensor,
        causal: bool = False,
        *,
        weights: Tensor | None = None,
        power: float = 1.0,
        way: str = "mean",
        **others: Any,
    ) -> Tensor:
        h = self.c(x).relu() ** power
        h = h.cumsum(-1) if causal or way == "sum" or "running" in others else h
        return self.a((h if weights is None else h * weights).mean(-1))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return convert_model(Switched(), EXAMPLE).double().eval()


X = bases()
REFUSED: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((X, True), {}),
    ((X,), {"causal": True}),
    ((X,), {"weights": torch.arange(21.0).double()}),
    ((X,), {"way": "sum"}),
    ((X,), {"running": True}),
    ((X,), {"running": torch.ones(2)}),
]


class Around(nn.Module):
    """What wrappers look like: it hands on whatever it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Switched()

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.model(*args, **kwargs)


@pytest.fixture(scope="module")
def around() -> nn.Module:
    torch.manual_seed(0)
    return convert_model(Around(), EXAMPLE, verify=False).double().eval()


@pytest.mark.parametrize("kwargs", [{"power": 2.0}, {"way": "mean"}, {"other": 3}])
def test_arguments_beside_some_without_names_are_measured(around: nn.Module, kwargs: Any) -> None:
    assert worst(around(X, **kwargs), around(mirror(X), **kwargs)) < TOLERANCE


@pytest.mark.parametrize("kwargs", [{"causal": True}, {"way": "sum"}, {"running": 1}])
def test_arguments_beside_some_without_names_are_refused(around: nn.Module, kwargs: Any) -> None:
    with pytest.raises(BreaksSymmetryError, match=r"(?s)is given as it was not.*now the strands disagree"):
        around(X, **kwargs)


@pytest.mark.parametrize(("args", "kwargs"), REFUSED)
def test_an_argument_that_was_not_traced_is_refused(model: nn.Module, args: Any, kwargs: Any) -> None:
    name = next(iter(kwargs), "causal")
    for each in (model, bake(model), apply_recipe(Switched(), recipe(model)).double()):
        with pytest.raises(BreaksSymmetryError, match=f"argument {name} is given as it was not"):
            each(*args, **kwargs)


TAKEN: list[dict[str, Any]] = [
    {"power": 2.0},
    {"way": "other"},
    {"weights": torch.rand(len(X), 1, 1).double()},
    {"unread": True, "count": 3},
]


@pytest.mark.parametrize("kwargs", some(TAKEN, 2))
def test_an_argument_with_which_the_strands_agree_is_taken(model: nn.Module, kwargs: Any) -> None:
    for each in (model, bake(model), apply_recipe(Switched(), recipe(model)).double().eval()):
        assert worst(each(mirror(X), **kwargs), each(X, **kwargs)) < TOLERANCE


def test_one_value_is_measured_once_and_of_many_numbers_a_few(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[Any] = []
    monkeypatch.setattr(measured_call, "fault_of", lambda *call: measured.append(call))
    model = copy.deepcopy(model)
    for _ in range(3):
        model(X, power=2.5)
    assert len(measured) == 1
    for i in range(30):
        model(X, power=1.5 + 0.95**i)
    assert len(measured) <= 2 * argument_guard.PATIENCE
    before = len(measured)
    model(X, power=7.5)
    model(X, causal=True)
    model(X, running=True)
    assert len(measured) == before + 3


def test_arguments_that_say_nothing_are_taken(model: nn.Module) -> None:
    said = {"causal": False, "weights": None, "power": 1.0, "way": "mean", "count": 3, "total": torch.tensor(3)}
    assert worst(model(mirror(X), **said), model(X)) < TOLERANCE
    assert torch.equal(model(X, False), model(x=X))


def test_counts_that_forward_gathers_are_measured_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a trainer gives the number of items of a batch; whether forward has it may decide the way, too."""
    torch.manual_seed(0)
    model, calls = convert_model(Switched(), EXAMPLE, verify=False).double().eval(), []
    measure = measured_call.fault_of
    monkeypatch.setattr(measured_call, "fault_of", lambda *given: calls.append(given) or measure(*given))
    for number in range(20, 60, 2):
        assert worst(model(mirror(X), count=number), model(X, count=number)) < TOLERANCE
    assert len(calls) == argument_guard.PATIENCE + 1  # and one that is larger than all by half
    model(X, total=torch.tensor(3)), model(X, total=torch.tensor(4))
    assert len(calls) == argument_guard.PATIENCE + 2
    for number in (1, 0.5, None, torch.tensor(1)):
        with pytest.raises(BreaksSymmetryError, match=r"(?s)argument running.*strands disagree"):
            model(X, running=number)


def test_an_argument_beside_inputs_with_names_is_measured() -> None:
    torch.manual_seed(0)
    model = convert_model(Switched(), {"x": EXAMPLE}, inputs={"x": "ACGT"}, verify=False).double().eval()
    assert worst(model(mirror(X), power=2.0, count=3), model(X, power=2.0, count=3)) < TOLERANCE
    with pytest.raises(BreaksSymmetryError, match=r"(?s)argument way.*strands disagree"):
        model(x=X, way="sum")


class Told(nn.Module):
    """A forward that goes by a table, a number of its own, and by whether it has a mask. (N, 4, L) -> (N, 2)"""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.a = conv(), nn.Linear(8, 2)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        layers: tuple[int, ...] = (),
        how: dict[str, Any] | None = None,
        scale: Tensor | None = None,
    ) -> Tensor:
        h = self.c(x).relu()
        if 1 in layers or (how or {}).get("causal"):
            h = h.cumsum(-1)
        h = h if scale is None else h.cumsum(-1) * scale
        return self.a((h.cumsum(-1) if mask is None else h * mask).mean(-1))


def told() -> tuple[nn.Module, dict[str, Any]]:
    """A model converted with all of its arguments but one, and a call of it."""
    torch.manual_seed(0)
    example = {"x": EXAMPLE, "mask": torch.ones(2, 1, 21), "layers": (2,), "how": {"causal": False}}
    specs = {"x": "ACGT", "mask": "mask", "layers": "invariant", "how": {"causal": "invariant"}}
    model = convert_model(Told(), example, inputs=specs, verify=False).double().eval()
    return model, {"mask": torch.ones(len(X), 1, 21).double(), "layers": (2,), "how": {"causal": False}}


@pytest.mark.parametrize("other", [{}, {"layers": (3,)}, {"layers": [2]}, {"how": None}, {"how": {"causal": False}}])
def test_tables_and_numbers_that_do_no_harm_are_taken(other: dict[str, Any]) -> None:
    model, usual = told()
    assert worst(model(mirror(X), **{**usual, **other}), model(X, **{**usual, **other})) < TOLERANCE


@pytest.mark.parametrize(
    ("other", "name"),
    [
        ({"mask": None}, "mask"),
        ({"layers": (1,)}, "layers"),
        ({"layers": [2, 1]}, "layers"),
        ({"how": {"causal": True}}, "how"),
        ({"scale": torch.tensor(2.0)}, "scale"),
    ],
)
def test_tables_and_numbers_with_which_the_strands_disagree_are_refused(other: dict[str, Any], name: str) -> None:
    model, usual = told()
    with pytest.raises(BreaksSymmetryError, match=rf"(?s)argument {name} (is given|has another).*strands disagree"):
        model(X, **{**usual, **other})


def test_an_input_that_is_left_out_is_another_argument() -> None:
    model, usual = told()
    with pytest.raises(BreaksSymmetryError, match=r"(?s)argument mask is given as it was not.*None.*strands disagree"):
        model(X, layers=usual["layers"], how=usual["how"])


def test_a_value_of_the_example_is_the_one_that_is_taken() -> None:
    torch.manual_seed(0)
    model = convert_model(Switched(), {"x": EXAMPLE, "power": 2.0}).double().eval()
    assert worst(model(mirror(X), power=2.0), model(X, power=2.0)) < TOLERANCE
    with pytest.raises(BreaksSymmetryError, match=r"way is given as it was not(.|\n)*strands disagree"):
        model(X, power=2.0, way="sum")
    assert worst(model(mirror(X)), model(X)) < TOLERANCE  # its default is another


def test_a_plan_keeps_what_the_example_gave() -> None:
    plan = plan_conversion(Switched(), {"x": EXAMPLE, "way": "mean"})
    assert plan.to_dict()["arguments"] == [{"path": "", "given": {"x": [], "way": ["mean"]}}]
    plain = plan_conversion(nn.Sequential(conv(), nn.AdaptiveAvgPool1d(1)), EXAMPLE)
    assert "arguments" not in plain.to_dict()


class Block(nn.Module):
    """A layer with an attribute that decides what it does, and others that do not matter, or matter to words only."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.causal, self.idle, self.traced = nn.Conv1d(4, 8, 3, padding=1), False, False, True

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x).relu()
        assert self.traced in (True, False)
        return h.cumsum(-1) if self.causal else h


def test_an_attribute_that_decides_the_way_is_refused_once_turned() -> None:
    torch.manual_seed(0)
    model = convert_model(nn.Sequential(Block(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 2)), EXAMPLE)
    plain = nn.Sequential(Block(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 2))
    for each in (model, apply_recipe(plain, recipe(model))):
        each[0].idle = each[0].traced = True  # type: ignore[index,union-attr]
        assert worst(each.double()(mirror(X)), each(X)) < TOLERANCE
        each[0].causal = True  # type: ignore[index,union-attr]
        with pytest.raises(OtherPartError, match="causal is not what it was when the model was converted"):
            each(X)
        each[0].causal = False  # type: ignore[index,union-attr]
        each(X)


class WithLoss(nn.Module):
    """Logits, and their loss where labels are given, as models of ``transformers`` have them."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.a, self.power = conv(), nn.Linear(8, 2), 1.0

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        y = self.a((self.c(x).relu() ** self.power).mean(-1))
        return {"y": y} if labels is None else {"y": y, "loss": (y - labels).square().mean(-1)}


@pytest.mark.parametrize("labels", [True, False])
def test_a_call_may_leave_out_what_the_conversion_was_given(labels: bool) -> None:
    """Also while a changed setting is measured: its specs are those of what is given."""
    example = {"x": EXAMPLE, "labels": torch.zeros(2, 2)}
    model = convert_model(WithLoss(), example, inputs={"x": "ACGT", "labels": "invariant"}).double().eval()
    model.power = 2.0
    given = {"labels": torch.ones(len(X), 2).double()} if labels else {}
    assert worst(model(x=mirror(X), **given)["y"], model(x=X, **given)["y"]) < TOLERANCE
