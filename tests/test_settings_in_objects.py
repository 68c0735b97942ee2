"""Settings that lie in objects a module keeps, or among the globals of its code, and are changed after conversion."""

from __future__ import annotations

import copy
import pickle
from array import array
from collections import deque, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracle import assert_law
from tiers import chosen
from torch import Tensor, nn
from torch.torch_version import TorchVersion

from rcps_convert import apply_recipe, convert_model, recipe
from rcps_convert.convert import given
from rcps_convert.tie.parts import OtherPartError

DNA = torch.zeros(2, 4, 21)
TOLERANCE = 1e-10
SUMMED = False


class Pooling(Enum):
    MEAN = 1
    SUMMED = 2


@dataclass
class Options:
    pool: str = "mean"


@dataclass
class Slotted:
    __slots__ = ("pool",)
    pool: str


class Own:
    """An object with a property, and with a class attribute that it may set itself."""

    pool = "mean"

    def __init__(self, **values: Any) -> None:
        vars(self).update(values)

    @property
    def summed(self) -> bool:
        return self.way == "summed"  # type: ignore[attr-defined,no-any-return]


class Function:
    """A function with a setting."""

    def __init__(self) -> None:
        self.summed = False

    def __call__(self, h: Tensor) -> Tensor:
        return h.cumsum(-1) if self.summed else h


def by_helper(module: Any) -> bool:
    return bool(module.held.pool == "summed")


READINGS: dict[str, Callable[[Any], bool]] = {
    "attribute": lambda m: m.held.pool == "summed",
    "inner": lambda m: m.held.inner.pool == "summed",
    "text": lambda m: getattr(m.held, "pool") == "summed",  # noqa: B009
    "property": lambda m: m.held.summed,
    "enum": lambda m: m.held is Pooling.SUMMED,
    "helper": by_helper,
    "global": lambda m: SUMMED,
}


class Net(nn.Module):
    """A tower that sums along the sequence where it is told to."""

    def __init__(self, held: Any, way: str = "attribute") -> None:
        super().__init__()
        self.conv, self.out = nn.Conv1d(4, 8, 5, padding=2), nn.Linear(8, 1)
        self.held, self.reads = held, READINGS[way]

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x).relu()
        return self.out((h.cumsum(-1) if self.reads(self) else h).mean(-1))


class Calling(nn.Module):
    """A tower whose activation lies in a table."""

    def __init__(self, act: Any) -> None:
        super().__init__()
        self.conv, self.out, self.held = nn.Conv1d(4, 8, 5, padding=2), nn.Linear(8, 1), {"act": act, "power": 1}

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.held["act"](self.conv(x)).mean(-1))


def pool_set(model: Any) -> None:
    model.held.pool = "summed"


def inner_set(model: Any) -> None:
    model.held.inner.pool = "summed"


def inner_replaced(model: Any) -> None:
    model.held.inner = Options("summed")


def replaced(model: Any) -> None:
    model.held = Options("summed")


def enum_replaced(model: Any) -> None:
    model.held = Pooling.SUMMED


def way_set(model: Any) -> None:
    model.held.way = "summed"


def act_replaced(model: Any) -> None:
    model.held["act"] = lambda h: h.cumsum(-1)


def act_set(model: Any) -> None:
    model.held["act"].summed = True


CASES = [
    pytest.param(lambda: Net(SimpleNamespace(pool="mean")), pool_set, "held.pool", id="namespace"),
    pytest.param(lambda: Net(Options()), pool_set, "held.pool", id="dataclass"),
    pytest.param(lambda: Net(Options()), replaced, "held.pool", id="replaced"),
    pytest.param(lambda: Net(Slotted("mean")), pool_set, "held.pool", id="slots"),
    pytest.param(lambda: Net(Own()), pool_set, "held.pool", id="of its class"),
    pytest.param(lambda: Net(Own(way="mean"), "property"), way_set, "held.way", id="property"),
    pytest.param(lambda: Net(Own(inner=Options()), "inner"), inner_set, "held.inner.pool", id="inner"),
    pytest.param(lambda: Net(Own(inner=Options()), "inner"), inner_replaced, "held.inner.pool", id="inner replaced"),
    pytest.param(lambda: Net(Options(), "text"), pool_set, "held.pool", id="text"),
    pytest.param(lambda: Net(Pooling.MEAN, "enum"), enum_replaced, "held", id="enum"),
    pytest.param(lambda: Net(Options(), "helper"), pool_set, "held.pool", id="helper"),
    pytest.param(lambda: Calling(F.relu), act_replaced, "held.act", id="table"),
    pytest.param(lambda: Calling(Function()), act_set, "held.act.summed", id="function"),
]
QUICK = ("namespace", "slots", "of its class", "inner replaced", "enum", "function")


@pytest.mark.parametrize(("make", "change", "name"), [c for c in CASES if c.id in QUICK])
def test_a_harmful_setting_in_an_object_is_refused(make: Any, change: Any, name: str) -> None:
    model: Any = convert_model(make(), DNA, verify=False)
    twin = copy.deepcopy(model)
    change(model)
    with pytest.raises(OtherPartError, match=rf"^{name} is not what it was"):
        model(DNA)
    twin(DNA)


@pytest.mark.slow
@pytest.mark.variation
@pytest.mark.parametrize(("make", "change", "name"), [c for c in CASES if c.id not in QUICK])
def test_others_are_refused_too(make: Any, change: Any, name: str) -> None:
    test_a_harmful_setting_in_an_object_is_refused(make, change, name)


@pytest.mark.parametrize(
    "twin", chosen([copy.deepcopy, lambda m: apply_recipe(Net(Own(pool="mean")), recipe(m))], lambda _: True)
)
def test_a_copy_watches_objects_of_its_own(twin: Callable[[nn.Module], Any]) -> None:
    model: Any = convert_model(Net(Own(pool="mean")), DNA, verify=False)
    other = twin(model)
    other(DNA)
    pool_set(other)
    with pytest.raises(OtherPartError, match=r"held\.pool"):
        other(DNA)
    model(DNA)


def test_a_pickle_does(tmp_path: Any) -> None:
    model: Any = convert_model(Calling(Function()), DNA, verify=False)
    other = pickle.loads(pickle.dumps(model))
    other(DNA)
    act_set(other)
    with pytest.raises(OtherPartError, match=r"held\.act\.summed"):
        other(DNA)


def test_an_object_with_the_same_settings_is_taken_and_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = convert_model(Net(Options()), DNA, verify=False)
    measured: list[int] = []
    monkeypatch.setattr(given, "fault_of", lambda *_: measured.append(1))
    model.held = Options()
    model(DNA)
    assert not measured
    pool_set(model)
    model(DNA)
    assert measured


def test_an_object_that_does_no_harm_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = convert_model(Net(Options()), DNA, verify=False)
    model.held = Own(pool="max", way=2)
    model(DNA)
    assert_law(model, DNA, tolerance=TOLERANCE, randomise=False, modes=("eval",))
    monkeypatch.setattr(given, "fault_of", lambda *_: "measured again")
    model(DNA)
    pool_set(model)
    with pytest.raises(OtherPartError, match="measured again"):
        model(DNA)


def test_a_global_that_forward_reads_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    model = convert_model(Net(None, "global"), DNA, verify=False)
    twin = copy.deepcopy(model)
    monkeypatch.setitem(globals(), "SUMMED", True)
    for one in (model, twin):
        with pytest.raises(OtherPartError, match=r"SUMMED is not what it was"):
            one(DNA)
    monkeypatch.setitem(globals(), "SUMMED", False)
    twin(DNA)


# --- numbers in arrays, and tensors in tables ---

CENTRED = (torch.arange(21.0) - 10).abs()
RAMP = torch.arange(21.0)
TABLE = CENTRED.clone()

Row = namedtuple("Row", "table")
HOLDING: dict[str, Callable[[Tensor], Any]] = {
    "array": lambda t: t.numpy().copy(),
    "list": lambda t: [t.clone()],
    "dict": lambda t: {"table": t.clone()},
    "named tuple": lambda t: Row(t.clone()),
    "deque": lambda t: deque([t.clone()]),
    "nested": lambda t: {"a": [{"b": t.clone()}]},
    "array in an object": lambda t: Own(table=t.numpy().copy()),
    "array in a list": lambda t: [t.numpy().copy()],
    "array of Python": lambda t: array("f", t.tolist()),
}


def innermost(held: Any) -> Any:
    while not isinstance(held, (Tensor, np.ndarray, array)):
        held = held.table if isinstance(held, Own) else next(iter(getattr(held, "values", held.__iter__)()))
    return held


class Weighted(nn.Module):
    """Weighs positions by numbers that are no buffer."""

    def __init__(self, held: Any) -> None:
        super().__init__()
        self.conv, self.out, self.held = nn.Conv1d(4, 8, 5, padding=2), nn.Linear(8, 1), held

    def forward(self, x: Tensor) -> Tensor:
        table = innermost(self.held)
        return self.out((self.conv(x).relu() * torch.as_tensor(table).to(x)).mean(-1))


class OfAll(Weighted):
    def forward(self, x: Tensor) -> Tensor:
        return self.out((self.conv(x).relu() * TABLE.to(x)).mean(-1))


def agree(model: nn.Module, x: Tensor) -> None:
    assert torch.allclose(model(x), model(x.flip(1, 2)), rtol=0, atol=TOLERANCE)


class ByClass(nn.Module):
    """Reads what all objects of its class share."""

    summed, options, row, table = False, {"summed": False}, [False], CENTRED.clone()

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv1d(4, 8, 5, padding=2), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x).relu() * self.table.to(x)
        is_summed = self.summed or self.options["summed"] or self.row[0]
        return self.out((h.cumsum(-1) if is_summed else h).mean(-1))


def kept_apart() -> tuple[Any, dict[str, bool]]:
    options = {"summed": False}
    return (lambda: options["summed"]), options


def by_default(options: dict[str, bool] = {"summed": False}) -> bool:  # noqa: B006
    return options["summed"]


class ByFunction(nn.Module):
    """Asks functions of its own."""

    def __init__(self, asked: Any) -> None:
        super().__init__()
        self.conv, self.out, self.asked = nn.Conv1d(4, 8, 5, padding=2), nn.Linear(8, 1), asked

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x).relu()
        return self.out((h.cumsum(-1) if self.asked() else h).mean(-1))


@pytest.mark.parametrize("name", ["closure", "default"])
def test_what_a_function_keeps_between_calls_is_watched(name: str) -> None:
    asked, options = kept_apart() if name == "closure" else (by_default, by_default.__defaults__[0])  # type: ignore[index]
    model = convert_model(ByFunction(asked), DNA, verify=False).double().eval()
    x = torch.randn(2, 4, 21, dtype=torch.float64)
    twin = copy.deepcopy(model)
    agree(model, x)
    options["summed"] = True
    for one in (model, twin):
        with pytest.raises(OtherPartError, match="options is not what it was"):
            one(x)
    options["summed"] = False
    agree(model, x)
    if name == "default":
        agree(pickle.loads(pickle.dumps(model)), x)


OF_CLASS = {"summed": True, "options": {"summed": True}, "row": [True], "table": RAMP}


@pytest.mark.parametrize("name", OF_CLASS)
def test_what_a_class_holds_is_watched(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = convert_model(ByClass(), DNA, verify=False).double().eval()
    twin = pickle.loads(pickle.dumps(model))
    x = torch.randn(2, 4, 21, dtype=torch.float64)
    monkeypatch.setattr(ByClass, name, OF_CLASS[name])
    for one in (model, twin):
        with pytest.raises(OtherPartError, match=rf"ByClass\.{name} is not what it was"):
            one(x)
    monkeypatch.undo()
    for one in (model, twin):
        agree(one, x)


def write(table: Any, values: Tensor) -> None:
    for i, value in enumerate(values.tolist()):
        table[i] = value


@pytest.mark.parametrize("name", HOLDING)
def test_numbers_that_are_no_buffer_are_watched(name: str) -> None:
    model: Any = convert_model(Weighted(HOLDING[name](CENTRED)), DNA, verify=False).double().eval()
    x = torch.randn(2, 4, 21, dtype=torch.float64)
    agree(model, x)
    table = innermost(model.held)
    write(table, 2 * CENTRED)  # as good
    agree(model, x)
    write(table, RAMP)
    with pytest.raises(OtherPartError, match=r"held.* is not what it was"):
        model(x)
    write(table, CENTRED)
    agree(model, x)
    model.held = HOLDING[name](RAMP)
    with pytest.raises(OtherPartError, match="is not what it was"):
        model(x)


def test_a_global_tensor_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    model = convert_model(OfAll(None), DNA, verify=False).double().eval()
    x = torch.randn(2, 4, 21, dtype=torch.float64)
    model(x)
    monkeypatch.setitem(globals(), "TABLE", RAMP)
    with pytest.raises(OtherPartError, match=r"test_settings_in_objects\.TABLE is not what it was"):
        model(x)


@pytest.mark.parametrize("kind", ["entry", "row", "cache"])
def test_a_table_that_forward_fills_is_measured_a_few_times(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind != "cache" and TorchVersion(torch.__version__) < (2, 10):
        pytest.skip("this version of torch cannot export a forward that writes tensors into a list")

    class Keeping(Weighted):
        def forward(self, x: Tensor) -> Tensor:
            h, n = self.conv(x).relu(), x.shape[-1]
            if kind == "entry":
                self.held[0] = h.detach().mean()
            elif kind == "row":
                self.held.append(h.detach().mean())
            elif n not in self.held:
                self.held[n] = (torch.arange(n) - (n - 1) / 2).abs()
            return self.out((h * self.held[n].to(h) if kind == "cache" else h).mean(-1))

    measured = list[int]()
    measure = given.fault_of
    monkeypatch.setattr(given, "fault_of", lambda *call: measured.append(1) or measure(*call))
    plain = Keeping({} if kind == "cache" else [torch.zeros(())])
    plain(torch.randn(2, 4, 21))
    model = convert_model(plain, DNA, verify=False).double().eval()
    for n in (21, 21, 22, 24, 21, 22) * 4:
        agree(model, torch.randn(2, 4, n, dtype=torch.float64))
    assert len(measured) <= 2 * given.PATIENCE


LARGE: dict[str, Callable[[Tensor], Any]] = {
    "array": lambda t: t.repeat(2**14, 1).numpy().copy(),
    "tensor": lambda t: t.repeat(2**12, 1),
    "list": lambda t: [t.repeat(2**14, 1).numpy().copy()],
}


@pytest.mark.parametrize("name", LARGE)
def test_what_is_written_all_over_a_large_table_is_seen(name: str) -> None:
    """Nothing counts a write into an array, or into ``data``."""

    class OfMany(Weighted):
        def forward(self, x: Tensor) -> Tensor:
            table = torch.as_tensor(innermost(self.held))[7]
            return self.out((self.conv(x).relu() * table.to(x)).mean(-1))

    model: Any = convert_model(OfMany(LARGE[name](CENTRED)), DNA, verify=False).double().eval()
    x = torch.randn(2, 4, 21, dtype=torch.float64)
    agree(model, x)
    table = torch.as_tensor(innermost(model.held))
    table.data.copy_(RAMP)
    with pytest.raises(OtherPartError, match=r"held.* is not what it was"):
        model(x)
    table.data.copy_(CENTRED)
    agree(model, x)
