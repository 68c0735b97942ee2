"""Which axes run along the sequence, measured."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models import Family
from models.basic import FAMILIES
from tiers import chosen, some
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from rcps_convert import NeedsChoiceError, plan_conversion
from rcps_convert.algebra import axis as ax
from rcps_convert.algebra.action import Action
from rcps_convert.algebra.nesting import input_actions
from rcps_convert.graph.closed_modules import Bundle, ModuleCall
from rcps_convert.graph.export import trace
from rcps_convert.infer.solve import infer
from rcps_convert.measure.along_sequence import FIXED, FOLLOWS, UNCLEAR, following, growing
from rcps_convert.measure.axis_roles import axis_roles
from rcps_convert.measure.probe import Probe


def measured(model: nn.Module, example: object, inputs: object = "ACGT") -> list[list[str]]:
    specs, actions = input_actions(example, inputs, "auto")  # type: ignore[arg-type]
    probe = Probe(model, example, specs, actions)  # type: ignore[arg-type]
    probe.perturb(0)
    return following(probe, lambda drawn: pytree.tree_leaves(probe.outputs(drawn)))


@pytest.mark.parametrize(
    "family", chosen(FAMILIES, lambda f: f.name in ("ConvThenPool", "StrandBias")), ids=[f.name for f in FAMILIES]
)
def test_what_is_measured_agrees_with_the_trace_or_is_unclear(family: Family) -> None:
    torch.manual_seed(0)
    model = family.make()
    _, actions = input_actions(family.example, family.how.get("inputs", "ACGT"), "auto")
    traced = trace(model, family.example)
    inferred = infer([traced], actions, ["auto"] * len(traced.outputs)).outputs
    found = measured(model, family.example, family.how.get("inputs", "ACGT"))
    for action, verdicts in zip(inferred, found, strict=True):
        assert action is not None
        for term, verdict in zip(action.axes, verdicts, strict=True):
            assert verdict in (UNCLEAR, FOLLOWS if ax.is_length(term) and term.size > 1 else FIXED)
    assert sum(v == UNCLEAR for verdicts in found for v in verdicts) <= 1


class Body(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv, self.out = nn.Conv1d(4, 16, 9, padding=4), nn.Linear(16, 3)
        self.rnn = nn.GRU(16, 8, bidirectional=True, batch_first=True)
        self.attention = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        self.all = nn.Linear(16 * 40, 40)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x).relu().mT
        if self.kind == "flat":
            return self.all(h.flatten(1))
        h = self.rnn(h)[0] if self.kind == "recurrent" else self.attention(h)
        return self.out(h) if self.kind != "reversed" else self.out(h.flip(1))


@pytest.mark.parametrize("kind", ["recurrent", "attention"])
def test_profiles_of_models_that_look_everywhere(kind: str) -> None:
    assert measured(Body(kind), torch.zeros(2, 4, 40)) == [[FIXED, FOLLOWS, FIXED]]


def test_an_axis_that_runs_backwards_is_not_taken_for_a_length() -> None:
    assert measured(Body("reversed"), torch.zeros(2, 4, 40)) == [[FIXED, UNCLEAR, FIXED]]


def test_an_output_that_answers_to_nothing_is_unclear() -> None:
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.new_ones(len(x), 5) + 0 * x.sum()

    assert measured(Constant(), torch.zeros(2, 4, 40)) == [[FIXED, UNCLEAR]]


# --- positions that each answer to much of the sequence ---


class Contacts(nn.Module):
    """Numbers per position, each gathered from a map of all pairs: no rule takes ``cdist``, so they are measured."""

    def __init__(self, gather: str) -> None:
        super().__init__()
        self.conv, self.mix, self.gather = nn.Conv1d(4, 6, 6), nn.Conv2d(1, 1, 3, padding=1), gather

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x).relu().mT
        pairs = torch.cdist(h, h)
        if self.gather == "softmax":
            return self.mix(pairs.unsqueeze(1)).relu().softmax(-1).sum(-2)
        if self.gather == "distances":
            return pairs.square().mean(-1)
        return (-pairs).softmax(-1) @ h.mean(-1, keepdim=True)


@pytest.mark.parametrize("gather", chosen(["softmax", "distances", "attention"], lambda gather: gather == "distances"))
@pytest.mark.parametrize("strategy", some(["conjoined", "mixed"], 1))
def test_positions_that_answer_to_much_of_the_sequence_are_no_fixed_channels(gather: str, strategy: str) -> None:
    for seed in range(3):
        torch.manual_seed(seed)
        plan = plan_conversion(Contacts(gather), torch.zeros(2, 4, 12), strategy=strategy)
        assert plan.problems or "unstranded profile (auto)" in plan.outputs[0]
        assert all(isinstance(p, NeedsChoiceError) for p in plan.problems)


# --- of a part of a model, whose weights stay ---


def lengths_of(module: Any, seed: int) -> frozenset[int]:
    """The length axes of what a module makes of a hidden tensor (2, 3, 24), by `axis_roles`."""
    drawn = (torch.randn(2, 3, 24, generator=torch.Generator().manual_seed(100 * seed + i)).relu() for i in (0, 1))
    calls = [ModuleCall(Bundle.of(((x,), {})), Bundle.of(module(x))) for x in drawn]
    with torch.no_grad():
        return axis_roles(module, calls, [Action((ax.batch(2), ax.trivial(3), ax.length(24)))], {}).lengths[0]


@pytest.mark.parametrize("channels", [2, 3])
def test_channels_behind_a_maximum_are_not_positions_by_chance(channels: int) -> None:
    for seed in range(24):
        torch.manual_seed(seed)
        layers = (nn.Conv1d(3, channels, 3), nn.ReLU(), nn.AdaptiveMaxPool1d(1), nn.Flatten())
        assert lengths_of(nn.Sequential(*layers), seed) == frozenset(), seed


@pytest.mark.parametrize("entries", [2, 3, 5])
def test_a_fixed_number_of_positions_is_a_length(entries: int) -> None:
    for seed in range(4):
        torch.manual_seed(seed)
        layers = (nn.Conv1d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveMaxPool1d(entries))
        assert lengths_of(nn.Sequential(*layers), seed) == {2}, seed


def test_axes_that_change_with_the_length_are_found() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return x.mean(-1), x[..., ::3].mT, x[..., :8].flatten(1)

    example = torch.zeros(2, 4, 40)
    probe = Probe(Net(), example, *input_actions(example, "ACGT", "auto"))
    assert growing(probe) == [frozenset(), frozenset({1}), frozenset()]


def test_channels_of_a_model_that_cannot_be_traced_stay_fixed() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.out = nn.Conv1d(4, 8, 5), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.conv(x).relu().mean(-1)
            return self.out(h) if float(h.sum()) > -1 else self.out(-h)

    torch.manual_seed(0)
    plan = plan_conversion(Net(), torch.zeros(2, 4, 40), strategy="conjoined")
    assert not plan.problems
    assert "invariant (auto)" in plan.outputs[0]
