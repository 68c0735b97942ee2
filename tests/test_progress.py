"""A line of progress: stages and seconds on the standard error, and nothing left of it."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest
import torch
from torch import nn

from rcps_convert import convert_model, plan_conversion
from rcps_convert.graph import progress
from rcps_convert.graph.progress import progress_shown, stage

X = torch.zeros(2, 4, 16)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def model() -> nn.Module:
    return nn.Sequential(nn.Conv1d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(56, 1))


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PATIENCE", 0.0)


def said(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, **settings: Any) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    convert_model(model(), X, **settings)
    return stream.getvalue()


@pytest.mark.parametrize("strategy", ["tied", "conjoined"])
def test_stages_are_said_in_a_terminal(monkeypatch: pytest.MonkeyPatch, strategy: str) -> None:
    text = said(monkeypatch, Terminal(), strategy=strategy)
    stages = [part.partition(" (")[0].strip() for part in text.split("\r") if part.strip()]
    assert stages[0] == "rcps_convert: looking at the model"
    assert "rcps_convert: measuring the law" in stages
    assert ("rcps_convert: tracing" in stages) == (strategy == "tied")
    assert "0 s)" in text
    assert "\n" not in text
    assert text.split("\r")[-1] == ""  # the line is empty at the end
    assert set(text.split("\r")[-2]) == {" "}


def test_elsewhere_and_on_demand_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(monkeypatch, io.StringIO()) == ""
    assert said(monkeypatch, Terminal(), progress=False) == ""
    assert "tracing" in said(monkeypatch, io.StringIO(), progress=True)


def test_quick_conversions_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PATIENCE", 1000.0)
    assert said(monkeypatch, Terminal()) == ""


def test_a_longer_line_is_overwritten() -> None:
    stream = Terminal()
    sys.stderr, before = stream, sys.stderr
    try:
        with progress_shown(None):
            stage("something that takes many words")
            stage("tracing")
    finally:
        sys.stderr = before
    first, second = stream.getvalue().split("\r")[1:3]
    assert len(second) == len(first)
    stage("outside nothing is said")
    assert "outside" not in stream.getvalue()


def test_a_terminal_that_is_gone_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(Terminal):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Gone())
    assert not plan_conversion(model(), X, progress=True).problems
    monkeypatch.setattr(sys, "stderr", None)
    assert not plan_conversion(model(), X).problems


def test_other_values_are_refused() -> None:
    for call in (convert_model, plan_conversion):
        with pytest.raises(TypeError, match="progress="):
            call(model(), X, progress="yes")  # type: ignore[operator]
