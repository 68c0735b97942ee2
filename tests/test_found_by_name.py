"""What code finds by name and users change later: objects, context and environment variables, functions."""

from __future__ import annotations

import copy
import os
import pickle
import sys
import threading
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rcps_convert import convert_model, plan_conversion
from rcps_convert.convert import given
from rcps_convert.tie.parts import OtherPartError

DNA = torch.zeros(2, 4, 12)
KEY = "RCPS_TEST_KEY"
SUMMED_NOW: ContextVar[bool] = ContextVar("summed", default=False)
OF_THREAD = threading.local()
SPACE = SimpleNamespace(summed=False)


@dataclass
class Inner:
    summed: bool = False


@dataclass
class Outer:
    inner: Inner = field(default_factory=Inner)

    def says(self) -> bool:
        return self.inner.summed


class Shared:
    """What its class holds is for all of its objects."""

    summed = False


TABLE: dict[str, Any] = {"kept": Inner()}
OUTER, SHARED, ROWS = Outer(), Shared(), [Inner(), Inner()]

SETTINGS: Any = ModuleType("rcps_test_settings")
SETTINGS.summed = False
sys.modules["rcps_test_settings"] = SETTINGS


def summed() -> bool:
    """Whether to."""
    return False


class Net(nn.Module):
    """Sums along the sequence where it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out, self.key = nn.Conv1d(4, 8, 5, padding=2), nn.Linear(8, 1), "RCPS_TEST_ATTRIBUTE"

    def asks(self) -> bool:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x).relu()
        return self.out((h.cumsum(-1) if self.asks() else h).mean(-1))


class ByGet(Net):
    def asks(self) -> bool:
        return os.environ.get("RCPS_TEST_GET", "0") == "1"


class ByKey(Net):
    def asks(self) -> bool:
        return os.getenv(KEY) is not None


class ByAttribute(Net):
    def asks(self) -> bool:
        return self.key in os.environ


class ByContext(Net):
    def asks(self) -> bool:
        return SUMMED_NOW.get()


class ByThread(Net):
    def asks(self) -> bool:
        return bool(getattr(OF_THREAD, "summed", False))


class BySpace(Net):
    def asks(self) -> bool:
        return SPACE.summed  # type: ignore[no-any-return]


class ByObject(Net):
    def asks(self) -> bool:
        return OUTER.says()


class ByShared(Net):
    def asks(self) -> bool:
        return SHARED.summed


class ByRow(Net):
    def asks(self) -> bool:
        return ROWS[1].summed


class ByFile(Net):
    def asks(self) -> bool:
        return SETTINGS.summed  # type: ignore[no-any-return]


class ByFunction(Net):
    def asks(self) -> bool:
        return summed()


class ByMethod(Net):
    def asks(self) -> bool:
        return False


class ByDefault(Net):
    """An attribute that is not there at the conversion."""

    def asks(self) -> bool:
        return hasattr(self, "more") and self.more is True


class ByTable(Net):
    def asks(self) -> bool:
        return "more" in TABLE


def in_context(monkeypatch: pytest.MonkeyPatch) -> None:
    token = SUMMED_NOW.set(True)
    monkeypatch.setattr(sys.modules[__name__], "RESET", lambda: SUMMED_NOW.reset(token), raising=False)


CHANGES: dict[type[Net], Callable[[Any], Any]] = {
    ByGet: lambda patch: patch.setenv("RCPS_TEST_GET", "1"),
    ByKey: lambda patch: patch.setenv(KEY, ""),
    ByAttribute: lambda patch: patch.setenv("RCPS_TEST_ATTRIBUTE", ""),
    ByContext: lambda patch: in_context(patch),
    ByThread: lambda patch: patch.setattr(OF_THREAD, "summed", True, raising=False),
    BySpace: lambda patch: patch.setattr(SPACE, "summed", True),
    ByObject: lambda patch: patch.setattr(OUTER, "inner", Inner(True)),
    ByShared: lambda patch: patch.setattr(Shared, "summed", True),
    ByRow: lambda patch: patch.setattr(ROWS[1], "summed", True),
    ByFile: lambda patch: patch.setattr(SETTINGS, "summed", True),
    ByFunction: lambda patch: patch.setattr(sys.modules[__name__], "summed", lambda: True),
    ByTable: lambda patch: patch.setitem(TABLE, "more", 1),
    ByMethod: lambda patch: patch.setattr(ByMethod, "asks", lambda self: True),
}
"""For each what changes what it finds."""


def back(monkeypatch: pytest.MonkeyPatch) -> None:
    reset = vars(sys.modules[__name__]).get("RESET")
    if reset is not None:
        reset()
    monkeypatch.undo()


@pytest.mark.parametrize("kind", CHANGES)
def test_a_change_of_what_code_finds_by_name_is_refused(kind: type[Net], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = convert_model(kind(), DNA, verify=False).double().eval()
    x = torch.randn(2, 4, 12, dtype=torch.float64)
    twins = model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    for one in twins:
        assert torch.allclose(one(x), one(x.flip(1, 2)), rtol=0, atol=1e-12)
    monkeypatch.setattr(given, "fault_of", _fault)
    CHANGES[kind](monkeypatch)
    try:
        assert not torch.allclose(kind.forward(model, x), kind.forward(model, x.flip(1, 2)), rtol=0, atol=1e-3)
        for one in twins:
            with pytest.raises(OtherPartError, match="is not what it was when the model was converted"):
                one(x)
    finally:
        back(monkeypatch)
    for one in twins:
        assert torch.allclose(one(x), one(x.flip(1, 2)), rtol=0, atol=1e-12)


def test_an_attribute_that_was_not_there_is_refused() -> None:
    model: Any = convert_model(ByDefault(), DNA, verify=False)
    model(DNA)
    model.more = False
    model(DNA)
    model.more = True
    with pytest.raises(OtherPartError, match="more is not what it was"):
        model(DNA)
    del model.more
    model(DNA)


def _fault(*_: Any) -> str:
    """What is measured is looked at elsewhere."""
    return "the strands disagree"


def test_a_change_by_name_that_does_no_harm_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = convert_model(ByGet(), DNA, verify=False)
    measured = list[int]()
    fault_of = given.fault_of
    monkeypatch.setattr(given, "fault_of", lambda *call: measured.append(1) or fault_of(*call))
    monkeypatch.setenv("RCPS_TEST_GET", "2")
    for _ in range(3):
        model(DNA)
    assert len(measured) == 1
    monkeypatch.setenv("RCPS_TEST_GET", "1")
    with pytest.raises(OtherPartError, match=r"os\.environ\.RCPS_TEST_GET is not what it was"):
        model(DNA)


def test_a_forward_that_reads_none_watches_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, said in ((ByFunction, False), (ByGet, True)):
        assert ("os.environ" in str(plan_conversion(kind(), DNA, verify=False))) is said


# --- after a model was loaded ---


def told() -> tuple[Callable[[], bool], dict[str, bool]]:
    """A function with a variable of its own, among the globals."""
    said = {"summed": False}

    def tells() -> bool:
        return said["summed"]

    return tells, said


TELLS, SAID = told()


class ByClosure(Net):
    def asks(self) -> bool:
        return TELLS()


def attributed() -> bool:
    return bool(attributed.summed)  # type: ignore[attr-defined]


attributed.summed = False  # type: ignore[attr-defined]


class ByFunctionsAttribute(Net):
    def asks(self) -> bool:
        return attributed()


def by_default(options: dict[str, bool] = {"summed": False}) -> bool:  # noqa: B006
    return options["summed"]


class ByDefaultOfFunction(Net):
    def asks(self) -> bool:
        return by_default()


KEPT: dict[type[Net], Callable[[Any], Any]] = {
    ByClosure: lambda patch: patch.setitem(SAID, "summed", True),
    ByFunctionsAttribute: lambda patch: patch.setattr(attributed, "summed", True),
    ByDefaultOfFunction: lambda patch: patch.setitem(by_default.__defaults__[0], "summed", True),  # type: ignore[index]
}


@pytest.mark.parametrize("kind", KEPT)
@pytest.mark.parametrize("called", [True, False])
def test_variables_of_functions_are_watched_in_a_loaded_model(
    kind: type[Net], called: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = pickle.dumps(convert_model(kind(), DNA, verify=False))
    model = pickle.loads(held)
    if called:
        model(DNA)
    monkeypatch.setattr(given, "fault_of", _fault)
    KEPT[kind](monkeypatch)
    for one in (model, pickle.loads(held)):
        with pytest.raises(OtherPartError, match=r"(summed|said|options) is not what it was"):
            one(DNA)
    monkeypatch.undo()
    model(DNA)


def test_other_code_of_a_function_is_seen_in_a_loaded_model(monkeypatch: pytest.MonkeyPatch) -> None:
    held = pickle.dumps(convert_model(ByFunction(), DNA, verify=False))

    def other() -> bool:
        return bool(1)

    other.__qualname__ = other.__name__ = "summed"
    monkeypatch.setattr(sys.modules[__name__], "summed", other)
    with pytest.raises(OtherPartError, match="is not what it was"):
        pickle.loads(held)(torch.rand(2, 4, 12))


# --- functions that are set on a module in the place of a method ---


class Helped(Net):
    """Asks a method of its own, and layers of torch's, which ask methods of theirs."""

    def asks(self) -> bool:
        return self.helper()

    def helper(self) -> bool:
        return False


def padded(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.conv1d(torch.nn.functional.pad(x, (4, 0)), weight, bias)


SET: dict[str, Callable[[Any], Any]] = {
    "method": lambda m: setattr(m, "helper", lambda: True),
    "method of torch's": lambda m: setattr(m.conv, "_conv_forward", padded),
    "the one that is asked first": lambda m: vars(m).update(asks=lambda: True),
}


@pytest.mark.parametrize("name", SET)
def test_a_function_in_the_place_of_a_method_is_refused(name: str) -> None:
    model: Any = convert_model(Helped(), DNA, verify=False).double().eval()
    x = torch.randn(2, 4, 12, dtype=torch.float64)
    twin = copy.deepcopy(model)
    for one in (model, twin):
        one(x)
        SET[name](one)
        with pytest.raises(OtherPartError, match=r"(helper|_conv_forward|asks) is not what it was"):
            one(x)


def test_a_function_that_does_the_same_is_taken() -> None:
    model: Any = convert_model(Helped(), DNA, verify=False).double().eval()
    x = torch.randn(2, 4, 12, dtype=torch.float64)
    model.helper = lambda: False
    model.conv._conv_forward = lambda x, w, b: torch.conv1d(x, w, b, padding=2)
    assert torch.allclose(model(x), model(x.flip(1, 2)), rtol=0, atol=1e-12)


def test_code_that_belongs_to_no_file_converts() -> None:
    names: dict[str, Any] = {"nn": nn}
    exec("def forward(self, x):\n    return self.o(self.c(x).relu().mean(-1))", names)
    assert names["forward"].__module__ is None
    kind = type("Nameless", (nn.Module,), {"forward": names["forward"]})
    model = kind()
    model.c, model.o = nn.Conv1d(4, 8, 5, padding=2), nn.Linear(8, 2)
    converted, x = convert_model(model, torch.zeros(2, 4, 12)).double().eval(), torch.randn(3, 4, 12).double()
    assert torch.allclose(converted(x), converted(x.flip(1, 2)), rtol=0, atol=1e-12)
