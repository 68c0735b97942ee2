"""Long examples are checked at a shorter length, and once at their own: what fails at either is found."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rcps_convert import plan_conversion
from rcps_convert.algebra import axis as ax
from rcps_convert.algebra.action import Action
from rcps_convert.algebra.arguments import leaves
from rcps_convert.algebra.specs import read_spec
from rcps_convert.convert import tied_plan
from rcps_convert.measure.lengths import LEAST, WIDE, Variants
from rcps_convert.measure.probe import Probe

LONG = 2**15


class Tower(nn.Module):
    """(N, 4, L) -> (N, 3); five pools of 4 leave few positions."""

    def __init__(self, pools: int = 5) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv1d(8 if i else 4, 8, 5, padding=2) for i in range(pools))
        self.head = nn.Linear(8, 3)

    def features(self, x: Tensor) -> Tensor:
        for conv in self.layers:
            x = torch.max_pool1d(conv(x).relu(), 4)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean(-1))


class WrongWhenLong(Tower):
    """Reads one edge in positions of which short sequences have none."""

    def features(self, x: Tensor) -> Tensor:
        h = super().features(x)
        edge = x[:, :, : max(0, x.shape[-1] - LONG // 2)].detach().numpy()  # hidden from the trace
        return h if edge.shape[-1] == 0 else h * (1 + float(edge[:, 0].sum()) / edge.size)


class WrongWhenShort(Tower):
    """The same below a quarter of the length, where no other call tells that it goes another way."""

    def features(self, x: Tensor) -> Tensor:
        h = super().features(x)
        return h * (1 + float(x.detach().numpy()[:, 0, :7].sum())) if x.shape[-1] < LONG // 4 else h


def actions(length: int, samples: int = 1) -> list[Action | None]:
    return [Action((ax.batch(samples), ax.permutation([3, 2, 1, 0]), ax.length(length)))]


def examples_seen(monkeypatch: pytest.MonkeyPatch, model: nn.Module, length: int) -> tuple[Any, list[int]]:
    """The plan of a model, and the lengths of the examples on which its law was measured with all kinds of input."""
    seen: list[int] = []

    def watched(model: nn.Module, example: Any, *given: Any, **settings: Any) -> Any:
        draws = given[3] if len(given) > 3 else settings.get("draws", 2)
        if draws > 1 and settings.get("diagnose", True):
            seen.append(leaves(example)[0].shape[-1])
        return verify(model, example, *given, **settings)

    verify = tied_plan.verify
    monkeypatch.setattr(tied_plan, "verify", watched)
    return plan_conversion(model, torch.zeros(1, 4, length)), seen


def test_a_long_example_meets_all_kinds_of_input_at_a_shorter_length(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, seen = examples_seen(monkeypatch, Tower(), LONG)
    assert not plan.problems
    assert seen == [4096]  # 4^5 = 1,024 positions make one: three need 3,072, and 4,096 divides
    assert max(plan.checked) > LONG
    assert plan.verification is not None
    assert "float32" in str(plan.verification)


def test_a_quick_example_is_measured_at_its_own_length(monkeypatch: pytest.MonkeyPatch) -> None:
    _, seen = examples_seen(monkeypatch, Tower(2), 256)
    assert seen == [256]


def test_what_fails_at_the_shorter_length_is_measured_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, seen = examples_seen(monkeypatch, Tower(3), LONG)
    assert seen == [256]
    plan, seen = examples_seen(monkeypatch, WrongWhenShort(3), LONG)
    assert not plan.problems
    assert seen[-1] == LONG
    assert any("exact at length" in note or "refused" in note for note in plan.notes + plan.warnings)


def test_what_fails_at_the_length_of_the_example_alone_is_found() -> None:
    plan = plan_conversion(WrongWhenLong(3), torch.zeros(1, 4, LONG))
    assert plan.problems


def test_the_shorter_length_is_wide_and_aligned() -> None:
    model = Tower()
    variants = Variants(model, torch.zeros(1, 4, LONG), actions(LONG))
    found = variants.survey()
    short = variants.short(found, lambda n: n % 1024 == 0)
    assert short is not None
    assert short.length == 4096
    assert found.narrowest(short.run) >= WIDE
    low = Variants(Tower(1), torch.zeros(1, 4, LONG), actions(LONG))
    short = low.short(low.survey(), lambda n: n % 4 == 0)
    assert short is not None
    assert LEAST <= short.length < 2 * LEAST


def test_random_numbers_of_one_seed_move_a_probe_once() -> None:
    probe = Probe(Tower(2), torch.zeros(2, 4, 64), [read_spec("ACGT")], actions(64, 2))
    before = [p.clone() for p in probe.model.parameters()]
    probe.perturb(0)
    once = [p.clone() for p in probe.model.parameters()]
    probe.at(torch.zeros(2, 4, 32), actions(32, 2)).perturb(0)
    assert all(torch.equal(a, b) for a, b in zip(once, probe.model.parameters(), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(once, before, strict=True))
