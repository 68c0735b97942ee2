"""Some samples of a batch mirrored, and the others not: what is compared with what, value by value."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from by_hand import Net, bases, mirror, worst
from tiers import some
from torch import Tensor, nn

from rcps_convert import convert_model, plan_conversion
from rcps_convert.measure.axis_roles import _Runs
from rcps_convert.measure.law import Law

Y = torch.arange(1.0, 9.0)[:, None].expand(8, 3) * torch.tensor([1.0, 2.0, 3.0])
R = -Y


def law() -> Any:
    found = Law.__new__(Law)
    found.usual, found.stepped, found.alive = {}, {}, set()
    return found


def blended(mixed: Tensor, chosen: list[bool], dim: int = 0, y: Tensor = Y, r: Tensor = R) -> tuple[Any, float]:
    found = law()
    return found, found._blend(0, dim, torch.tensor(chosen), y, r, mixed)


def of(rows: list[bool]) -> Tensor:
    return torch.where(torch.tensor(rows)[:, None], R, Y)


FEW = [True, False, True, True, False, False, True, False]


@pytest.mark.parametrize("dim", [0, 1])
def test_each_sample_by_itself_is_no_deviation(dim: int) -> None:
    mixed, y, r = (t if dim == 0 else t.mT for t in (of(FEW), Y, R))
    assert blended(mixed, FEW, dim, y, r)[1] == 0.0
    assert blended(r, FEW, dim, y, r)[1] > 1  # all, where a few were to be


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        ([True, True, False, False, False, False, True, True], 0.0),  # each sample's entries together
        ([True, False, False, True, True, False, False, True], 0.0),  # the samples' entries in turn
        ([True, False, True, False, False, True, False, True], 2.0),  # neither
    ],
)
def test_several_entries_of_a_sample_lie_together_or_in_turn(rows: list[bool], error: float) -> None:
    found, measured = blended(of(rows), [True, False, False, True])
    assert measured == error
    assert not found.stepped  # entries of one axis are no samples


def test_the_largest_deviation_of_several_batches_is_kept() -> None:
    found = law()
    found.blended = {False: {}, True: {}}
    for error in (0.5, 2.0, 1.0):
        found._note_blended(0, error, False)
    assert found.blended == {False: {0: 2.0}, True: {}}


def test_whether_an_output_steps_is_looked_at_once_there_are_enough_samples() -> None:
    assert blended(of(FEW), FEW)[0].stepped == {0: False}
    signs = Y.sign()
    assert blended(signs, FEW, 0, signs, signs)[0].stepped == {0: True}
    assert blended(Y[:3], FEW[:3], 0, Y[:3], R[:3])[0].stepped == {}
    found = law()
    found.stepped[0] = True
    found._blend(0, 0, torch.tensor(FEW), Y, R, of(FEW))
    assert found.stepped == {0: True}  # what was seen before stays


@pytest.mark.parametrize(
    ("action", "batch", "other", "depends"),
    [
        ("an action", None, R, True),
        ("an action", None, Y, False),  # the same for other sequences
        ("an action", 0, R, False),  # it has a place for both strands
        (None, None, R, False),  # no tensor that reverse complement acts on
    ],
)
def test_an_input_without_a_batch_that_follows_the_sequence(
    action: Any, batch: Any, other: Tensor, depends: bool
) -> None:
    runs: Any = SimpleNamespace(given=[action], given_batch=[batch], x=[Y], other=[other])
    assert _Runs._depends_without_batch(runs) is depends


class Gated(nn.Module):
    """Less a mean over the batch, behind a gate that is closed for random bases with most weights."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv, self.mix = nn.Conv1d(4, 2, 3, padding=1), nn.Conv1d(2, 6, 2, stride=3, padding=1)
        self.norm, self.out = nn.LayerNorm(6, elementwise_affine=False), nn.Linear(6, 1, bias=False)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        h = self.mix(self.conv(x) * self.conv(z).relu().amax(-1, keepdim=True))
        h = h - h.mean((0, 2), keepdim=True)
        return self.out(self.norm((h + torch.sin(torch.arange(h.shape[-1]) * 0.3)).mT).mean(1))


@pytest.mark.parametrize("seed", some([35, 31, 21, 17], 1))
def test_samples_that_influence_each_other_behind_a_closed_gate_are_refused(seed: int) -> None:
    example = torch.zeros(2, 4, 37), torch.zeros(2, 4, 14)
    plan = plan_conversion(Gated(seed), example, inputs=("ACGT", "ACGT"), outputs="invariant")
    (problem,) = plan.problems
    assert "samples of one batch influence each other" in problem.what


class InTraining(nn.Module):
    """Something between the samples of a batch that is done in train mode only."""

    def __init__(self, mix: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.mix, self.conv, self.out = mix, nn.Conv1d(4, 6, 3, padding=1), nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        return self.out((self.mix(h) if self.training else h).relu().mean(-1))


MIXED: list[Callable[[Tensor], Tensor]] = [
    lambda h: (h - h.mean((0, 2), keepdim=True)) / h.std((0, 2), keepdim=True),  # a batch norm written by hand
    lambda h: h - h.mean(0),
    lambda h: 0.7 * h + 0.3 * h.flip(0),
    lambda h: h * h.roll(1, 0).sigmoid(),
]


@pytest.mark.parametrize("samples", some([1, 2], 1))
@pytest.mark.parametrize("mix", some(MIXED, 1))
def test_samples_that_influence_each_other_in_train_mode_are_told(
    mix: Callable[[Tensor], Tensor], samples: int
) -> None:
    plan = plan_conversion(InTraining(mix), torch.zeros(samples, 4, 12))
    assert not plan.problems
    assert any("in train mode the samples of a batch influence each other" in text for text in plan.warnings)


def test_batch_norm_is_exact_for_each_sample_in_train_mode_and_nothing_is_told() -> None:
    model = nn.Sequential(nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    plan = plan_conversion(model, torch.zeros(2, 4, 12), outputs="invariant")
    assert not [text for text in plan.warnings if "influence each other" in text]


class Compared(nn.Module):
    """How alike samples are: (N, 4, L) -> (N, N), or what becomes of that."""

    def __init__(self, alike: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.alike, self.conv = alike, nn.Conv1d(4, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.alike(self.conv(x).relu().mean(-1))


ALIKE: list[Callable[[Tensor], Tensor]] = [
    lambda z: z @ z.mT,
    lambda z: torch.cdist(z, z),
    lambda z: (z @ z.mT).flatten(),
    lambda z: torch.pdist(z),
]


@pytest.mark.parametrize("alike", some(ALIKE, 1))
def test_an_output_for_each_pair_of_samples_is_none_of_each_alone(alike: Callable[[Tensor], Tensor]) -> None:
    """Their channels are swapped where one of them is mirrored, and not where both are."""
    (problem,) = plan_conversion(Compared(alike), torch.zeros(2, 4, 12)).problems
    assert problem.what == "samples of one batch influence each other"


def test_an_output_for_each_pair_of_samples_of_invariant_numbers_converts() -> None:
    plan = plan_conversion(Compared(lambda z: z.sum(1) * z.sum(1)[:, None]), torch.zeros(2, 4, 12))
    assert not plan.problems, str(plan)


BEHIND: list[Callable[[Tensor], Tensor]] = [
    lambda h: h - (h - 50).relu().mean(0),
    lambda h: torch.where((h > 50).any(0), h.square(), h),
    lambda h: h + nn.functional.threshold(h, 80.0, 0.0).amax(0),
]


class Open(nn.Module):
    """Something between samples that only large activations reach."""

    def __init__(self, mix: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.mix, self.conv, self.out = mix, nn.Conv1d(4, 6, 3, padding=1), nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.mix(self.conv(x)).relu().mean(-1))


@pytest.mark.parametrize("mix", some(BEHIND, 1))
def test_samples_that_influence_each_other_where_activations_are_large_are_refused(
    mix: Callable[[Tensor], Tensor],
) -> None:
    (problem,) = plan_conversion(Open(mix), torch.zeros(2, 4, 12)).problems
    assert problem.what == "samples of one batch influence each other"


@pytest.mark.parametrize("mix", some([torch.exp, lambda h: h / h.norm(), lambda h: h.softmax(-1) * h], 1))
def test_large_parameters_are_no_fault_of_a_model_whose_samples_are_apart(mix: Callable[[Tensor], Tensor]) -> None:
    plan = plan_conversion(Open(mix), torch.zeros(2, 4, 12))
    assert not plan.problems, str(plan)


# --- results that all samples share -------------------------------------------------------------


def net(step: Callable[[Any, Tensor], Any]) -> Any:
    torch.manual_seed(0)
    parts = {"c": nn.Conv1d(4, 8, 5, padding=2), "d": nn.Conv1d(8, 8, 5, padding=2), "o": nn.Linear(8, 2)}
    return Net(step, **parts, norm=nn.BatchNorm1d(8))


def centred(m: Any, x: Tensor) -> Tensor:
    return m.d(m.c(x) - m.c(x).mean(0, keepdim=True)).sum(-1)  # type: ignore[no-any-return]


SHARED: dict[str, tuple[Callable[[Any, Tensor], Any], str]] = {
    "a clamp that stays open": (lambda m, x: m.o(nn.functional.hardtanh(centred(m, x), -9, 9)), "hardtanh"),
    "a quotient": (lambda m, x: m.o((m.c(x) / (9 + m.c(x).std(0, keepdim=True))).mean(-1)), "div"),
    "the first sample": (lambda m, x: m.o((m.c(x) - m.c(x)[0] + 9).relu().mean(-1)), "relu"),
}

ALONE: dict[str, Callable[[Any, Tensor], Any]] = {
    "linear steps": lambda m, x: m.o(centred(m, x)),
    "what no strand changes": lambda m, x: m.o(m.c(x).relu().mean(-1)) - m.o(m.c(x).relu().mean(-1)).mean(0),
    "a mean of all": lambda m, x: m.o(m.c(x).relu().mean(-1)) * m.c(x).mean().sigmoid(),
    "a loss": lambda m, x: torch.nn.functional.mse_loss(m.c(x).relu().sum(1), x.mean((1, 2)).new_zeros(x.shape[::2])),
    "a batch norm": lambda m, x: m.o(m.norm(m.c(x)).relu().mean(-1)),
    "samples and positions in one axis": lambda m, x: m.o(m.c(x).mT.flatten(0, 1)).view(len(x), -1, 2).relu().mean(1),
}


@pytest.mark.parametrize("name", SHARED)
def test_a_result_that_samples_share_is_refused_where_it_moves_with_the_strand(name: str) -> None:
    step, node = SHARED[name]
    (found,) = plan_conversion(net(step), torch.zeros(3, 4, 12), verify=False).problems
    assert found.what == "samples of one batch influence each other"
    assert found.where is not None
    assert str(found.where.node).startswith(node)


@pytest.mark.parametrize("name", some(ALONE, 2))
def test_what_samples_share_may_be_what_no_strand_changes(name: str) -> None:
    model = convert_model(net(ALONE[name]), torch.zeros(3, 4, 12)).double().eval()
    x = bases(4, 12)
    some_mirrored = torch.where(torch.tensor([True, False, False, True])[:, None, None], mirror(x), x)
    assert worst(model(mirror(x)), model(x)) < 1e-10
    assert worst(model(some_mirrored), model(x)) < 1e-10
