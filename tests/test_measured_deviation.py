"""What is measured: every entry for itself, whatever its size, kind or container; nothing measured is no success."""

from __future__ import annotations

from collections import UserDict
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from by_hand import Net, X, bases, conv, mirror, worst
from tiers import some
from torch import Tensor, nn

from rcps_convert import ConversionError, check_equivariance, convert_model, plan_conversion
from rcps_convert.measure.deviation import compare, middle_size

INF = float("inf")


def readout(classes: int = 3) -> nn.Linear:
    return nn.Linear(8 * 21, classes)


def broken(model: Any, x: Tensor) -> Tensor:
    """Logits that depend on the strand."""
    return model.o(model.c(x).flatten(1))


# --- scale ---


@pytest.mark.parametrize("large", some([1e9, 1e12, -INF], 1))
def test_a_large_entry_hides_no_other(large: float) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = broken(m, x)
        return torch.cat([torch.full_like(y, large), y], dim=1)

    model = Net(forward, c=conv(), o=readout())
    assert not check_equivariance(model, X)
    plan = plan_conversion(model, X)
    assert not plan.symmetric
    converted = plan.apply(model).double().eval()
    x = bases()
    assert worst(converted(mirror(x))[:, 3:], converted(x)[:, 3:]) < 1e-10


def test_masked_logits_are_measured_where_they_are_not_masked() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        dead = x.sum(1) == 0
        return torch.where(dead, -1e9, m.c(x)[:, 0] + m.w)

    model = Net(forward, c=conv(1), w=nn.Parameter(torch.linspace(0, 1, 21)))
    assert not check_equivariance(model, X)


def test_a_large_output_hides_no_other() -> None:
    model = Net(lambda m, x: (1e9 + x.sum((1, 2)), broken(m, x)), c=conv(), o=readout())
    report = check_equivariance(model, X)
    assert report.errors[0] < 1e-9
    assert report.errors[1] > 1e-3


@pytest.mark.parametrize(
    ("found", "expected", "error"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1e9, 1.0], [1e9, 1.1], 0.1 / 1e9 * 1e9 / 1.1),
        ([1e-20, 1.0, 1.0], [-1e-20, 1.0, 1.0], 2e-20),
        ([INF, 1.0], [INF, 1.0], 0.0),
        ([INF, 1.0], [-INF, 1.0], INF),
        ([INF, 1.0], [1.0, 1.0], INF),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([1.0], [1.0, 2.0], INF),
    ],
)
def test_deviation_by_hand(found: list[float], expected: list[float], error: float) -> None:
    measured = compare(torch.tensor(found, dtype=torch.float64), torch.tensor(expected, dtype=torch.float64)).error
    assert measured == pytest.approx(error, rel=0.2) or (measured < 1e-12 and error < 1e-12)


def test_complex_numbers_are_pairs_and_truth_values_numbers() -> None:
    assert compare(torch.tensor([1 + 1j]), torch.tensor([1 + 2j])).error > 0.4
    assert compare(torch.tensor([True, False]), torch.tensor([True, True])).error == 1.0
    assert compare(torch.tensor([10**12]), torch.tensor([10**12 + 1])).error == 1.0
    assert compare(torch.tensor([INF, INF]), torch.tensor([INF, INF])).entries == 0


def test_the_imaginary_part_counts() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return torch.complex(x.sum((1, 2))[:, None].expand(-1, 3), broken(m, x))

    model = Net(forward, c=conv(), o=readout())
    assert check_equivariance(model, X).error > 1e-3
    assert not plan_conversion(model, X).symmetric


# --- nothing measured ---


@dataclass
class Out:
    logits: Tensor
    hidden: Tensor | None = None


@dataclass
class Nested:
    inner: Out
    loss: float = 0.0


@pytest.mark.parametrize("wrap", [Out, lambda y: Nested(Out(y)), lambda y: UserDict({"y": y}), lambda y: [None, y]])
def test_outputs_in_containers_are_opened(wrap: Any) -> None:
    bad = check_equivariance(Net(lambda m, x: wrap(broken(m, x)), c=conv(), o=readout()), X)
    assert len(bad.errors) == 1
    assert not bad
    good = check_equivariance(Net(lambda m, x: wrap(x.sum(1).amax(-1, keepdim=True) + x.sum((1, 2))[:, None])), X)
    assert good


class Hidden:
    def __init__(self, y: Tensor) -> None:
        self.y = y


@pytest.mark.parametrize("wrap", [Hidden, lambda y: y.detach().numpy(), lambda y: torch.distributions.Normal(y, 1.0)])
def test_other_containers_are_refused_by_name(wrap: Any) -> None:
    with pytest.raises(ConversionError, match=r"an output is a (Hidden|ndarray|Normal)"):
        check_equivariance(Net(lambda m, x: wrap(broken(m, x)), c=conv(), o=readout()), X)


@pytest.mark.parametrize("strategy", ["tied", "conjoined"])
@pytest.mark.parametrize("shape", [(0, 4, 21), (2, 4, 0)])
def test_an_example_without_entries_is_refused(shape: tuple[int, ...], strategy: str) -> None:
    model = nn.Sequential(conv(), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    with pytest.raises(ConversionError, match="without entries"):
        convert_model(model, torch.zeros(shape), strategy=strategy)
    with pytest.raises(ConversionError, match="without entries"):
        check_equivariance(model, torch.zeros(shape))


@pytest.mark.parametrize("made", [lambda x: None, lambda x: (None, 3), lambda x: x[:, :0].sum(-1)])
def test_no_numbers_are_no_success(made: Any) -> None:
    with pytest.raises(ConversionError, match="no numbers"):
        check_equivariance(Net(lambda m, x: made(x)), X)


def test_what_is_undefined_everywhere_is_no_success() -> None:
    assert check_equivariance(Net(lambda m, x: (x.sum((1, 2)), x.sum((1, 2)) * float("nan"))), X).error == INF


@pytest.mark.parametrize(
    ("entries", "middle"),
    [
        ([1.0, 2.0, 3.0], 2.0),
        ([-1e9, -1e9, -1e9, 0.5, 0.3], 0.3),
        ([-1e9, 1e9, -1e9, 1e-3, 0.4], 1e-3),
        ([-1e9, -1e9, -1e9, -1e9, -1e9, 1e5, 1e5, 1.0], 1.0),
        ([1.0, 1.0, 1.0, 1e-20], 1.0),
        ([1e9, 2e9, 3e9, 0.3], 1e9),
        ([1e9, 1e9, 1e9, 2e9], 1e9),
        ([0.0, 0.0, 0.0, 2.0, INF, float("nan")], 2.0),
        ([1.0, -1.0, 1.0], 1.0),
        ([], 0.0),
        ([0.0], 0.0),
    ],
)
def test_the_middle_size_is_not_that_of_a_constant_far_away(entries: list[float], middle: float) -> None:
    assert middle_size(torch.tensor(entries, dtype=torch.float64)) == middle
