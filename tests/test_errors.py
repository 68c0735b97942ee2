"""Refusals: class, place (module path and source line), reason and remedy; and the model left as it was."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiers import some
from torch import Tensor, nn

from rcps_convert import (
    BreaksSymmetryError,
    ConversionError,
    NeedsChoiceError,
    NoRuleError,
    TraceError,
    VerificationError,
    convert_model,
    plan_conversion,
    rule,
)
from rcps_convert.rules.registry import RULES


class Holder(nn.Module):
    """A stem, the step under test as submodule `step`, and a pooled read-out."""

    def __init__(self, step: nn.Module) -> None:
        super().__init__()
        self.stem, self.bn, self.step, self.out = (
            nn.Conv1d(4, 8, 5, padding=2),
            nn.BatchNorm1d(8),
            step,
            nn.LazyLinear(2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.step(torch.relu(self.bn(self.stem(x)))).flatten(1))


class LastPosition(nn.Module):
    def forward(self, h: Tensor) -> Tensor:
        return h[:, :, -1]  # here


class FirstPosition(nn.Module):
    def forward(self, h: Tensor) -> Tensor:
        return h[:, :, 0]  # here


class IndicesOfPool(nn.Module):
    def forward(self, h: Tensor) -> Tensor:
        return F.max_pool1d(h, 4, return_indices=True)[0]  # here


class UncaughtPool(nn.Module):
    def forward(self, h: Tensor) -> Tensor:
        return torch.ops.aten.max_pool1d(h, [4])  # here


class Cumulative(nn.Module):
    def forward(self, h: Tensor) -> Tensor:
        return h.cumsum(-1)  # here


class Sinusoid(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        at = torch.arange(42.0)[:, None] / torch.tensor([3.0, 7.0, 11.0, 13.0])
        self.register_buffer("encoding", torch.cat([at.sin(), at.cos()], 1).T)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.encoding  # here


class Ramp(nn.Module):
    def forward(self, h: Tensor) -> Tensor:
        return h * torch.linspace(0, 1, h.shape[-1])  # here


class Halves(nn.Module):
    def forward(self, h: Tensor) -> Tensor:
        left, right = h.chunk(2, -1)  # here
        return left - 2 * right


class RunningMean(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, h: Tensor) -> Tensor:
        self.mean.mul_(0.9).add_(0.1 * h.detach().mean((0, 2)))
        return h - self.mean[:, None]


@dataclass(frozen=True)
class Refused:
    """A step, with the class, phrases of the report, and whether it names a line of this file."""

    step: Callable[[], nn.Module]
    error: type[ConversionError]
    phrases: tuple[str, ...]
    path: str = "step"
    line: bool = True
    how: dict[str, Any] = field(default_factory=dict)


REFUSED = [
    Refused(LastPosition, BreaksSymmetryError, ("the last position", "becomes the first", "pool over positions")),
    Refused(FirstPosition, BreaksSymmetryError, ("the first position", "becomes the last", "pool over positions")),
    Refused(IndicesOfPool, BreaksSymmetryError, ("42 = 4*10 + 2", "lengths that work are 40 and 44")),
    Refused(UncaughtPool, BreaksSymmetryError, ("42 = 4*10 + 2", "lengths that work are 40 and 44")),
    Refused(Cumulative, NoRuleError, ("no rule for aten.cumsum", "rcps_convert.rule")),
    Refused(Sinusoid, BreaksSymmetryError, ("buffer step.encoding is not invariant", "symmetrise_buffers=True")),
    Refused(Ramp, BreaksSymmetryError, ("a constant made in forward is not invariant", "make it symmetric or learned")),
    Refused(Halves, BreaksSymmetryError, ("cuts a length of 42", "the first piece becomes the last")),
    Refused(RunningMean, NoRuleError, ("buffer step.mean is updated", "outside of forward"), line=False),
]


def line_of(cls: Any) -> int:
    lines, start = inspect.getsourcelines(cls)
    return start + next(i for i, text in enumerate(lines) if "# here" in text)


def state(model: nn.Module) -> dict[str, Any]:
    """Everything a failed conversion must leave alone."""
    return {
        "state": copy.deepcopy(model.state_dict()),
        "ids": [id(p) for p in model.parameters()],
        "modes": [m.training for m in model.modules()],
        "hooks": [(list(m._forward_hooks), list(m._forward_pre_hooks)) for m in model.modules()],
        "classes": [type(m) for m in model.modules()],
        "rng": torch.get_rng_state(),
    }


def assert_untouched(model: nn.Module, before: dict[str, Any]) -> None:
    after = state(model)
    assert all(torch.equal(v, after["state"][k]) for k, v in before["state"].items())
    assert torch.equal(before.pop("rng"), after.pop("rng"))
    before.pop("state")
    after.pop("state")
    assert before == after


@pytest.mark.parametrize("case", REFUSED, ids=[r.step.__name__ for r in REFUSED])  # type: ignore[attr-defined]
@pytest.mark.parametrize("in_place", some([False, True], 1))
def test_refusal_names_place_reason_and_remedy(case: Refused, in_place: bool) -> None:
    model = Holder(case.step())
    model(torch.zeros(2, 4, 42))
    model.bn.eval()
    before = state(model)
    with pytest.raises(case.error) as caught:
        convert_model(model, torch.zeros(2, 4, 42), in_place=in_place)
    assert_untouched(model, before)
    (problem,) = caught.value.problems
    text = str(problem)
    for phrase in case.phrases:
        assert phrase in text
    assert problem.where is not None
    assert problem.where.path == case.path
    assert problem.why
    assert problem.do
    if case.line:
        assert f"test_errors.py:{line_of(case.step)}" in text
        assert problem.where.node


def test_symmetrised_buffer_converts_and_says_so() -> None:
    model = Holder(Sinusoid())
    model(torch.zeros(2, 4, 42))
    plan = plan_conversion(model, torch.zeros(2, 4, 42), symmetrise_buffers=True)
    assert not plan.problems
    assert "buffer step.encoding: averaged with its mirror image" in str(plan)
    converted = plan.apply(model).eval()
    x = torch.randn(2, 4, 42)
    torch.testing.assert_close(converted(x.flip(1, 2)), converted(x), rtol=0, atol=1e-5)


def test_middle_of_an_odd_length_is_read_exactly() -> None:
    class Middle(nn.Module):
        def forward(self, h: Tensor) -> Tensor:
            return h[:, :, h.shape[-1] // 2]

    model = Holder(Middle())
    model(torch.zeros(2, 4, 43))
    assert not plan_conversion(model, torch.zeros(2, 4, 43)).problems


def test_all_problems_are_reported_together() -> None:
    model = Holder(nn.Sequential(UncaughtPool(), LastPosition()))
    model(torch.zeros(2, 4, 42))
    plan = plan_conversion(model, torch.zeros(2, 4, 42))
    assert [type(p) for p in plan.problems] == [BreaksSymmetryError] * 2  # 42 = 4*10 + 2, and the last position

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.last, self.sum = nn.Conv1d(4, 8, 5), LastPosition(), Cumulative()

        def forward(self, x: Tensor) -> Tensor:
            h = self.stem(x)
            return self.last(h) + self.sum(h).mean(-1)

    with pytest.raises(BreaksSymmetryError) as caught:
        convert_model(Branches(), torch.zeros(2, 4, 42))
    assert [type(p) for p in caught.value.problems] == [BreaksSymmetryError, NoRuleError]
    assert re.search(r"(?s)2 problems.*1\. BreaksSymmetryError.*2\. NoRuleError", str(caught.value))


SIMPLE = nn.Sequential(nn.Conv1d(4, 8, 5), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 2))


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv1d(4, 8, 5), nn.Linear(3, 8)

    def forward(self, x: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.relu(self.a(x)).mean(-1) + self.b(cell)
        return h.sum(-1), h.amax(-1)


CHOICES = [
    (SIMPLE, torch.zeros(4, 4, 4), {}, 'say which: layout="n c l"'),
    (SIMPLE, torch.zeros(2, 5, 40), {}, "check the alphabet"),
    (SIMPLE, torch.zeros(2, 4, 40), {"inputs": "ACGTN"}, "check the alphabet"),
    (SIMPLE, torch.zeros(2, 4, 40), {"layout": "n l c"}, "check the alphabet"),
    (SIMPLE, torch.zeros(2, 4, 40), {"layout": "n c"}, "one letter per axis"),
    (TwoInputs(), (torch.zeros(2, 4, 40), torch.zeros(2, 3)), {}, 'inputs=("ACGT", "invariant")'),
    (TwoInputs(), (torch.zeros(2, 4, 40), torch.zeros(2, 3)), {"inputs": ("ACGT",)}, "one spec in the place"),
    (
        TwoInputs(),
        (torch.zeros(2, 4, 40), torch.zeros(2, 3)),
        {"inputs": ("ACGT", "invariant"), "outputs": "invariant"},
        "give one per tensor",
    ),
    (SIMPLE, torch.zeros(2, 4, 40), {"outputs": "+-.."}, "name the axes"),
    (nn.Conv1d(4, 2, 5), torch.zeros(2, 4, 40), {"outputs": "invariant"}, "state how it transforms"),
]


@pytest.mark.parametrize(("model", "example", "how", "remedy"), CHOICES)
def test_ambiguity_needs_a_choice(model: nn.Module, example: Any, how: dict[str, Any], remedy: str) -> None:
    before = state(model)
    with pytest.raises(NeedsChoiceError) as caught:
        convert_model(model, example, **how)
    assert remedy in str(caught.value)
    assert_untouched(model, before)


@pytest.mark.parametrize(
    "how", [{"inputs": "ACGX"}, {"inputs": "+"}, {"outputs": "AACC"}, {"init": "zero"}, {"inputs": ""}]
)
def test_unreadable_settings_are_value_errors(how: dict[str, Any]) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        convert_model(SIMPLE, torch.zeros(2, 4, 40), **how)
    assert not isinstance(caught.value, ConversionError)


def test_trace_errors_repeat_the_reason() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(4, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.conv(x)
            return h.mean(-1) if h.sum() > 0 else h.amax(-1)

    with pytest.raises(TraceError) as caught:
        convert_model(Branch(), torch.ones(2, 4, 30))
    assert "data-dependent" in str(caught.value)
    assert "torch.where" in str(caught.value)
    with pytest.raises(TraceError, match="does not run on the example"):
        convert_model(SIMPLE, torch.zeros(2, 4, 3))


@pytest.fixture
def wrong_operator() -> Any:
    @torch.library.custom_op("rcps_test::tilt", mutates_args=())
    def tilt(x: Tensor) -> Tensor:
        return x * torch.linspace(0, 1, x.shape[-1], dtype=x.dtype)

    tilt.register_fake(lambda x: torch.empty_like(x))
    op = torch.ops.rcps_test.tilt.default
    yield op
    RULES.pop(op, None)


def test_a_wrong_rule_is_caught_and_the_first_node_named(wrong_operator: Any) -> None:
    class Tilted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.after, self.out = nn.Conv1d(4, 8, 5), nn.Conv1d(8, 8, 3), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(self.stem(x))
            return self.out(torch.relu(self.after(wrong_operator(h))).mean(-1))

    with pytest.raises(NoRuleError, match=r"rcps_test.*tilt"):
        convert_model(Tilted(), torch.zeros(2, 4, 40))

    @rule(wrong_operator)
    def claims_to_commute(node: Any, x: Any) -> Any:
        """Wrong: it weighs positions by where they are."""
        return x

    with pytest.raises(ValueError, match="has a rule already"):
        rule(wrong_operator)(claims_to_commute)
    model = Tilted()
    before = state(model)
    with pytest.raises(VerificationError) as caught:
        convert_model(model, torch.zeros(2, 4, 40))
    assert caught.value.where is not None
    assert caught.value.where.node is not None
    assert caught.value.where.node.startswith("tilt")
    assert_untouched(model, before)


def test_errors_survive_pickling() -> None:
    with pytest.raises(NeedsChoiceError) as caught:
        convert_model(SIMPLE, torch.zeros(4, 4, 4))
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
