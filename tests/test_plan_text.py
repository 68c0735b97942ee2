"""What is printed of plans and reports: a summary first, nothing twice, and HTML that folds."""

from __future__ import annotations

import re
import warnings

import pytest
import torch
from models import FAMILIES
from planned import plan_of
from torch import Tensor, nn

from rcps_convert import check_equivariance, plan_conversion
from rcps_convert.algebra.printed import Printed, Section, alike, listed, together
from rcps_convert.convert.plan import ConversionPlan

SUMMARY = ["parameters:", "verified:", "lengths:", "inserted:", "warnings:"]

DNA = torch.zeros(2, 4, 60)


class Attentive(nn.Module):
    """Attention blocks that are alike, with a positional parameter of one sample."""

    def __init__(self, depth: int = 6) -> None:
        super().__init__()
        self.stem, self.place = nn.Conv1d(4, 8, 5, padding=2), nn.Parameter(torch.zeros(1, 60, 8))
        layers = [nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0) for _ in range(depth)]
        self.blocks, self.out = nn.Sequential(*layers), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.blocks(self.stem(x).mT + self.place).mean(1))


def summary_of(plan: ConversionPlan) -> list[str]:
    return [line.split()[0] for line in str(plan).splitlines()[1:6]]


@pytest.fixture(scope="module")
def attentive() -> ConversionPlan:
    return plan_conversion(Attentive(), DNA)


def test_a_plan_starts_with_its_summary(attentive: ConversionPlan) -> None:
    symmetric = plan_conversion(nn.Sequential(nn.Flatten(), nn.Softmax(-1)), DNA, outputs="ACGT")
    assert symmetric.problems or symmetric.symmetric or summary_of(symmetric) == SUMMARY
    assert summary_of(attentive) == SUMMARY
    for strategy in ("conjoined", "mixed"):
        assert summary_of(plan_of(FAMILIES[0], strategy)) == SUMMARY
    line = str(attentive).splitlines()[1]
    before, after = attentive.before, attentive.after
    assert f"{before:,} -> {after:,} ({100 * after / before:.0f} %)" in line


def test_an_empty_line_separates_parts_and_no_title_from_the_first() -> None:
    parts = [Section("a", lines=["first"]), Section("nothing"), Section("b", lines=["second"])]
    assert str(Printed("title", [], parts)).splitlines() == ["title", "first", "", "second"]
    assert str(Printed("title", [("x", "y")], parts)).splitlines()[2:] == ["", "first", "", "second"]


def test_modules_that_are_alike_are_said_once(attentive: ConversionPlan) -> None:
    text = str(attentive)
    assert re.search(r"blocks\.0-5\.self_attn +in_proj_weight +\(24, 8\)", text)
    assert text.count("in_proj_weight") == 1
    assert len(text.splitlines()) < 40
    assert str(plan_conversion(Attentive(7), DNA, verify=False)).count("\n") == text.count("\n")
    rows = [line for line in text.splitlines() if re.match(r"  \S", line)]
    assert len(rows) == len(set(rows))


def test_no_batch_is_said_of_a_parameter(attentive: ConversionPlan) -> None:
    words = {row.names[0]: row.words() for row in attentive.parameters}
    assert words["place"][2].startswith("1 fixed, 60 reversed")
    assert not any("batch" in line for name in words for line in words[name])


def test_the_representation_is_one_short_line(attentive: ConversionPlan) -> None:
    assert repr(attentive) == (
        "<Conversion plan for Attentive (tied weights, init='keep'): "
        f"{attentive.before:,} -> {attentive.after:,} parameters>"
    )
    refused = plan_conversion(nn.Sequential(nn.Conv1d(4, 8, 5), nn.GLU(-1)), DNA)
    assert "1 problem" in repr(refused)
    assert len(repr(refused)) < 120


def test_html_folds_and_escapes(attentive: ConversionPlan) -> None:
    page = attentive._repr_html_()
    assert page.count("<details>") == page.count("</details>") >= 2
    assert page.index("parameters:") < page.index("<details>")
    assert "max-width:100%" in page
    assert "(22)" not in page.split("<details>")[0]
    report = check_equivariance(nn.Sequential(nn.Conv1d(4, 2, 3), nn.Flatten()), DNA)
    assert "NOT equivariant" in report._repr_html_()
    assert "<details>" in report._repr_html_()
    tagged = Printed("a < b", [("x", "<y>")], [Section("<t>", lines=["<l>"])]).html()
    assert "<y>" not in tagged
    assert "&lt;y&gt;" in tagged
    assert "&lt;l&gt;" in tagged


def test_notes_are_printed_and_warnings_are_raised() -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.out = nn.Conv1d(4, 8, 5, padding=2), nn.Linear(8, 1)
            half = torch.linspace(0, 1, 30, dtype=torch.float32).cos()
            self.register_buffer("place", torch.cat([half, half.flip(0)]))

        def forward(self, x: Tensor) -> Tensor:
            return self.out((self.conv(x).relu() * self.place).mean(-1))

    plan = plan_conversion(nn.Sequential(nn.MaxPool1d(7), nn.Conv1d(4, 8, 3), nn.Flatten(), nn.Linear(48, 1)), DNA)
    assert len(plan.notes) == 1
    assert plan.warnings == []
    assert "note: max_pool1d" in str(plan)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan.apply(nn.Sequential(nn.MaxPool1d(7), nn.Conv1d(4, 8, 3), nn.Flatten(), nn.Linear(48, 1)))
    bare = nn.Sequential(nn.Conv1d(4, 8, 5), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    plan = plan_conversion(bare, DNA)
    assert len(plan.warnings) == 1
    assert re.search(r"warnings: +the read-out at 2", str(plan))
    with pytest.warns(UserWarning, match="the read-out at 2"):
        plan.apply(bare)
    assert plan_conversion(Table(), DNA).warnings == []


class Set(nn.Module):
    """A setting of its own, and an argument that an example may leave out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.factor = nn.Conv1d(4, 8, 5), 2.0

    def forward(self, x: Tensor, halved: bool = False) -> Tensor:
        return self.conv(x).mean((1, 2)) * (self.factor / 2 if halved else self.factor)


def test_a_plan_says_what_is_watched_at_each_call(attentive: ConversionPlan) -> None:
    says = "; a change is measured on both strands, and refused if they disagree"
    assert f"watched at each call: hooks, functions, constants, settings{says}" in str(attentive).splitlines()
    found = str(plan_conversion(Set(), DNA, verify=False)).splitlines()
    assert f"watched at each call: hooks, functions, constants, arguments, settings (factor){says}" in found


@pytest.mark.parametrize(
    ("paths", "text"),
    [
        (["a"], "a"),
        (["a.0", "a.1", "a.2"], "a.0-2"),
        (["a.0", "a.1", "a.5"], "a.0-1,5"),
        (["a.0.c1", "a.0.c2", "a.1.c1", "a.1.c2"], "a.0-1.c1-2"),
        (["a.0.c1", "a.1.c2"], "a.0.c1, a.1.c2"),
        (["a.10", "a.9"], "a.9-10"),
    ],
)
def test_paths_together(paths: list[str], text: str) -> None:
    assert together(paths) == text
    assert listed(["stem", *paths]) == f"stem, {text}"


def test_only_what_is_alike_is_put_together() -> None:
    assert alike([("a.0", "x"), ("b", "x"), ("a.1", "x"), ("a.2", "y")]) == [("a.0-1", "x"), ("b", "x"), ("a.2", "y")]
