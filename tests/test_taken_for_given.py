"""What a conversion took for given - settings, empty places, functions, constants - and is changed afterwards."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from by_hand import worst
from oracle import assert_law, mirror_bases
from planned import remembered
from tiers import some
from torch import Tensor, nn

from rcps_convert import (
    ConversionError,
    Permutation,
    apply_recipe,
    bake,
    convert_model,
    extend,
    load,
    plan_conversion,
    recipe,
    save,
)
from rcps_convert.convert import given, measured_call
from rcps_convert.convert.hook_checks import Hooks
from rcps_convert.graph.attributes import code_of, named_by_forward
from rcps_convert.tie.checks import checks_of
from rcps_convert.tie.parts import OtherPartError

DNA = torch.zeros(2, 4, 42)
TOLERANCE = 1e-10
WINDOW = torch.cat([torch.arange(1.0, 22), torch.arange(21.0, 0, -1)]) / 21
"""The same from either end, to the last place."""


class Net(nn.Module):
    """A tower without a stride, in which many things could be otherwise."""

    switched = False

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(4, 8, 5, padding=2, bias=False), nn.BatchNorm1d(8)
        self.drop, self.pool, self.out = nn.Dropout(0.1), nn.MaxPool1d(1), nn.Linear(8, 1)
        self.register_buffer("window", WINDOW.clone())
        self.scale, self.shift, self.skip, self.act = 1.0, 0, [1, 2], F.relu
        self.levels, self.seen = torch.ones(8, 1), None

    def forward(self, x: Tensor) -> Tensor:
        h = self.drop(self.act(self.norm(self.conv(x)))) * self.scale
        self.seen = h.detach()
        if self.switched:
            h = h.cumsum(-1)
        h = self.pool(h.roll(self.shift, -1) * self.window * self.levels)
        return self.out(h[..., self.skip[0] - 1 :].mean(-1))


def converted() -> Any:
    return remembered(Net, DNA, verify=False)


def exact(model: nn.Module) -> None:
    assert_law(model, DNA, tolerance=TOLERANCE, randomise=False, modes=("eval",))


def stride(model: Any) -> None:
    model.conv.stride, model.conv.padding = (2,), (2,)


def one_sided(model: Any) -> None:
    model.conv.padding_mode, model.conv._reversed_padding_repeated_twice = "constant", [0, 4]


def pooled(model: Any) -> None:
    model.pool.kernel_size = model.pool.stride = 4


def switched(model: Any) -> None:
    model.switched = True


def rolled(model: Any) -> None:
    model.shift = 3


def cropped(model: Any) -> None:
    model.skip[0] = 4


def biased(model: Any) -> None:
    model.conv.bias = nn.Parameter(torch.randn(8))


def summed(model: Any) -> None:
    model.act = lambda h: h.cumsum(-1)


def windowed(model: Any) -> None:
    model.window.mul_(torch.linspace(0, 1, 42))


def loaded(model: Any) -> None:
    model.load_state_dict({"window": torch.linspace(0, 1, 42)}, strict=False)


def levelled(model: Any) -> None:
    model.levels = torch.rand(8, 1)


HARMFUL = [stride, one_sided, pooled, switched, rolled, biased, summed, windowed, loaded, levelled]


@pytest.mark.parametrize("change", HARMFUL)
def test_a_change_that_breaks_the_law_is_refused_at_the_next_call(change: Callable[[Any], None]) -> None:
    model = converted()
    exact(model)
    change(model)
    for twin in (model, copy.deepcopy(model)):
        with pytest.raises(ConversionError, match=r"not what it was when|was not traced"):
            twin.eval()(torch.rand(2, 4, 42))


def replaced(model: Any) -> None:
    model.pool = nn.MaxPool1d(1)


def hidden(model: Any) -> None:
    model.levels.data[3] = 0.5  # no version counts this


def set_forward(model: Any) -> None:
    model.pool.forward = lambda h: h.cumsum(-1)


def subclass(model: Any) -> None:
    model.pool.__class__ = type("Pool", (nn.MaxPool1d,), {})


def hooked(model: Any) -> None:
    model.pool.register_forward_hook(lambda module, given, y: y.cumsum(-1))


CHANGES = [*HARMFUL, replaced, hidden, set_forward, subclass, hooked]


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen_at_a_call_of_a_form_that_passed(
    change: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call of such a form passes at once, but not where anything is otherwise than when it passed."""
    monkeypatch.setattr(given, "fault_of", lambda *call: "not measured")
    monkeypatch.setattr(measured_call, "fault_of", lambda *call: "not measured")
    model, x = converted().eval(), torch.rand(2, 4, 42)
    for _ in range(3):
        model(x)
    assert model.forward.passed
    change(model)
    with pytest.raises(ConversionError):
        model(x)


def clipped(*limits: float) -> nn.Module:
    """A score that changes its sign, kept between two limits."""
    head = nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 1, bias=False)
    return nn.Sequential(nn.Conv1d(4, 8, 5, padding=2), nn.ReLU(), *head, nn.Hardtanh(*limits))


def framed() -> nn.Module:
    """A score of each position that changes its sign, between zeros."""
    last = nn.Conv1d(8, 1, 1, bias=False), nn.ConstantPad1d(2, 0.0)
    return nn.Sequential(nn.Conv1d(4, 8, 5, padding=2), nn.ReLU(), *last)


OF_TORCHS_OWN: list[tuple[Any, Any, str]] = [
    (lambda: clipped(-1.0, 1.0), "antisymmetric", "min_val"),
    (lambda: clipped(-2.0, 2.0), "antisymmetric", "max_val"),
    (framed, Permutation([0], [-1]), "value"),
]
"""Models, their outputs, and a number with a point in their last layer."""


@pytest.mark.parametrize(("make", "outputs", "name"), some(OF_TORCHS_OWN, 2))
def test_a_number_of_torchs_own_layers_that_breaks_the_law_is_refused(make: Any, outputs: Any, name: str) -> None:
    torch.manual_seed(0)
    model: Any = convert_model(make(), DNA, outputs=outputs, verify=False).eval()
    x = torch.rand(2, 4, 42)
    model(x)
    setattr(model[-1], name, 0.001)
    with pytest.raises(ConversionError, match=f"{name} is not what it was when"):
        model(x)


def wider(model: Any) -> None:
    model.conv.padding, model.window = (3,), torch.ones(44)


def scaled(model: Any) -> None:
    model.scale = 0.5


def other_act(model: Any) -> None:
    model.act = torch.tanh


def dropped(model: Any) -> None:
    model.drop.p = 0.5


def free_bias(model: Any) -> None:
    model.out.bias = nn.Parameter(torch.randn(1))


def doubled(model: Any) -> None:
    model.window.mul_(2)


HARMLESS = [wider, scaled, other_act, dropped, free_bias, doubled, cropped]


@pytest.mark.parametrize("change", some(HARMLESS, 4))
def test_a_change_that_keeps_the_law_is_not(change: Callable[[Any], None]) -> None:
    model = converted()
    change(model)
    x, state = torch.rand(2, 4, 42), torch.get_rng_state()
    kept = {key: value.clone() for key, value in model.state_dict().items()}
    model.eval()(x)
    assert torch.equal(torch.get_rng_state(), state)
    exact(model)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in kept.items())
    exact(pickle.loads(pickle.dumps(model)))


@pytest.mark.parametrize("change", some([stride, biased, pooled], 1))
def test_extend_ties_a_model_as_it_is_now(change: Callable[[Any], None]) -> None:
    model = converted()
    model.window = torch.ones(1)
    change(model)
    exact(extend(model, DNA))


def test_what_cannot_be_tied_as_it_is_now_is_set_back() -> None:
    model = converted()
    switched(model)
    with pytest.raises(ConversionError, match="cumsum"):
        extend(model, DNA)
    model.switched = False
    exact(model)


def test_a_number_that_goes_on_changing_is_measured_a_few_times_only(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(given, "fault_of", lambda *call: asked.append(1))
    model = converted().eval()
    x = torch.rand(2, 4, 42)
    for _ in range(2 * given.PATIENCE):
        model.scale *= 0.9
        model(x)
        model(x)
    assert len(asked) == given.PATIENCE
    model.switched = True
    for length in (42, 42):
        model(torch.rand(2, 4, length))
    assert len(asked) == given.PATIENCE + 1


def test_in_a_transform_a_change_is_refused_that_was_not_measured_before() -> None:
    model = converted().eval()
    scaled(model)
    x = torch.rand(3, 4, 42)
    each = torch.func.vmap(lambda one: model(one[None])[0])
    model.seen = None
    with pytest.raises(OtherPartError, match="in a transform or a trace that cannot be measured"):
        each(x)
    model(x[:1])
    torch.testing.assert_close(each(x), each(mirror_bases(x)))


def test_a_baked_model_is_an_ordinary_one() -> None:
    plain = bake(converted())
    rolled(plain)
    assert not any(isinstance(check, given.Given) for check in checks_of(plain))
    plain(torch.rand(2, 4, 42))


# --- the forward itself ---------------------------------------------------------------------------


def test_a_plan_for_other_settings_is_measured_at_the_first_call() -> None:
    plan = plan_conversion(Net(), DNA, verify=False)
    exact(plan.apply(Net()))
    other = Net()
    rolled(other)
    with pytest.raises(OtherPartError, match="forward is not what it was when the model was converted"):
        plan.apply(other)(torch.rand(2, 4, 42))
    scaled_only = Net()
    scaled(scaled_only)
    exact(plan.apply(scaled_only))


def test_a_recipe_for_other_settings_is_measured_at_the_first_call(tmp_path: Path) -> None:
    model = converted()
    again = apply_recipe(Net(), recipe(model))
    assert recipe(again) == recipe(model)
    assert not any(check.another for check in checks_of(again) if isinstance(check, given.Given))
    save(model, tmp_path / "model.rc")
    for make in (lambda other: apply_recipe(other, recipe(model)), lambda other: load(tmp_path / "model.rc", other)):
        other = Net()
        rolled(other)
        with pytest.raises(OtherPartError, match="other code, or the settings it reads"):
            make(other)(torch.rand(2, 4, 42))


def test_a_class_that_changed_since_the_model_was_saved_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = converted()
    held, said = pickle.dumps(model), recipe(model)
    exact(pickle.loads(held))

    def forward(self: Any, x: Tensor) -> Tensor:
        return self.out((self.act(self.conv(x)).cumsum(-1) * self.window).mean(-1))

    monkeypatch.setattr(Net, "forward", forward)
    for twin in (pickle.loads(held), apply_recipe(Net(), said)):
        with pytest.raises(OtherPartError, match="forward is not what it was"):
            twin(torch.rand(2, 4, 42))

    def renamed(self: Any, x: Tensor) -> Tensor:
        return self.out((self.act(self.norm(self.conv(x))) * self.window * self.scale).mean(-1))

    monkeypatch.setattr(Net, "forward", renamed)
    exact(pickle.loads(held))


def test_a_recipe_without_a_fingerprint_is_taken_as_it_is() -> None:
    said = recipe(converted())
    del said["code"]
    model = apply_recipe(Net(), said)
    assert "code" not in recipe(model)
    exact(model)


# --- reading code ---------------------------------------------------------------------------------


class Reached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.unread = 1

    @property
    def width(self) -> int:
        return self.own_width

    def helper(self) -> int:
        setattr(self, "by_text", 1)  # noqa: B010
        return (lambda: self.inner)()

    def other(self) -> int:
        return self.unread

    def forward(self, x: Tensor) -> Tensor:
        self.kept = x
        return x * self.width + self.helper() + self.by_text


def test_the_names_that_forward_reads_and_sets() -> None:
    names = named_by_forward(Reached)
    assert {"own_width", "inner", "by_text", "width", "helper"} <= names.read
    assert "unread" not in names.read
    assert "kept" in names.own
    assert "by_text" in names.others
    assert not {"own_width", "inner", "unread"} & (names.own | names.others)


def test_the_fingerprint_of_code_is_of_what_forward_reaches() -> None:
    before = code_of([Reached, nn.Conv1d])
    assert before == code_of([Reached])

    class Other(Reached):
        def other(self) -> int:
            return 2

    class Helped(Reached):
        def helper(self) -> int:
            return 2

    Other.__qualname__ = Helped.__qualname__ = "Child"
    assert code_of([Other]) != code_of([Helped])
    assert code_of([Other]) == code_of([Other, Reached])


# --- models that read both strands ----------------------------------------------------------------


@pytest.mark.parametrize("strategy", some(["conjoined", "mixed"], 1))
def test_a_model_on_both_strands_may_be_changed_at_will(strategy: str) -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.more, self.out = nn.Conv1d(4, 6, 5), nn.Conv1d(6, 6, 3), nn.Linear(6, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.more(self.conv(x).relu()).relu().mean(-1))

    model: Any = convert_model(Small(), DNA, strategy=strategy, verify=False)
    assert [type(check) for check in checks_of(model)] == [Hooks]
    model.conv.stride = (3,)
    exact(model)


# --- the number of samples of a call -------------------------------------------------------------


class Counts(nn.Module):
    """Reads each base with those before it where it is asked to, or for a number of samples. (N, 4, L) -> (N, 2)"""

    def __init__(self, takes: int | None = None) -> None:
        super().__init__()
        self.conv, self.out, self.scale = nn.Conv1d(4, 8, 3, padding=1), nn.Linear(8, 2), 1.0
        self.takes, self.summed, self.count = takes, False, 0

    def forward(self, x: Tensor, count: int = 0) -> Tensor:
        h = self.conv(x) * self.scale
        if self.takes is not None:
            h = h.view(self.takes, 8, x.shape[-1])
        if self.summed or len(x) == self.count or len(x) == count:
            h = h.cumsum(-1)
        return self.out(h.relu().mean(-1))


def counted(takes: int | None = None) -> Any:
    return convert_model(Counts(takes), torch.zeros(2, 4, 16), verify=False).double().eval()


@pytest.mark.parametrize("takes", some([2, None], 1))
def test_a_model_of_one_number_of_samples_is_measured_with_that_number(takes: int | None) -> None:
    model = counted(takes)
    x = torch.rand(2, 4, 16).double()
    model.scale = 2.0
    assert worst(model(mirror_bases(x)), model(x)) < TOLERANCE
    model.summed = True
    with pytest.raises(OtherPartError, match="strands disagree"):
        model(x)


@pytest.mark.parametrize("samples", some([3, 5, 7], 1))
def test_a_change_that_counts_for_one_number_of_samples_is_refused_there(samples: int) -> None:
    model, x = counted(), torch.rand(samples, 4, 16).double()
    with pytest.raises(ConversionError, match=r"(?s)argument count.*strands disagree"):
        model(x, count=samples)
    model.count = samples
    with pytest.raises(OtherPartError, match=r"(?s)count is not what it was.*strands disagree"):
        model(x)


def test_a_hook_that_counts_samples_is_refused_there() -> None:
    model = counted()
    model.conv.register_forward_hook(lambda module, args, out: out.cumsum(-1) if len(out) == 3 else out)
    with pytest.raises(OtherPartError, match="strands disagree"):
        model(torch.rand(3, 4, 16).double())
