"""Groups of filters that read a channel which changes its sign, such as a coordinate from -1 to 1."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lawful import assert_exact
from tiers import some
from torch import Tensor, nn

from rcps_convert import Tracks, convert_model, plan_conversion

EXAMPLE = torch.zeros(2, 4, 21, dtype=torch.float64)


class Separable(nn.Module):
    """A coordinate is appended, then each channel is read by filters of its own."""

    def __init__(self, kernel: int, each: int, after: nn.Module) -> None:
        super().__init__()
        self.stem, self.after = nn.Conv1d(4, 6, 3, padding=1), after
        self.deep = nn.Conv1d(7, 7 * each, kernel, padding=kernel // 2, groups=7)
        self.wide = nn.Conv1d(7 * each, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.stem(x))
        at = torch.linspace(-1, 1, h.shape[-1]).to(h).expand(len(h), 1, -1)
        return self.wide(self.after(self.deep(torch.cat([h, at], 1)))).square().mean(-1)


@pytest.mark.parametrize(
    ("kernel", "each", "after"), some([(3, 1, nn.ReLU()), (1, 1, nn.Tanh()), (1, 2, nn.ReLU())], 2)
)
def test_filters_of_a_coordinate_are_odd_or_pairs_or_keep_its_sign(kernel: int, each: int, after: nn.Module) -> None:
    model = Separable(kernel, each, after).double()
    converted = convert_model(model, EXAMPLE, outputs="invariant", verify=False)
    assert_exact(converted, EXAMPLE, outputs="invariant")
    assert converted.deep.weight.abs().flatten(1).amax(1).min() > 0


def test_one_number_cannot_make_a_coordinate_lose_its_sign() -> None:
    plan = plan_conversion(Separable(1, 1, nn.ReLU()).double(), EXAMPLE, outputs="invariant")
    assert [p.what for p in plan.problems] == ["relu of a tensor that changes its sign"]


class OneFilter(nn.Module):
    """A head of one filter, whose positions are averaged, or whose axis of one channel is taken away."""

    def __init__(self, read: str) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv1d(4, 6, 3, padding=1), nn.Conv1d(6, 1, 3, padding=1)
        self.read = read

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.head(torch.relu(self.stem(x))))
        return h.mean(-1) if self.read == "score" else h.squeeze(1)


@pytest.mark.parametrize(("read", "outputs"), [("score", "antisymmetric"), ("positions", Tracks(".", layout="n l"))])
@pytest.mark.parametrize("length", [1, 21])
def test_one_filter_may_be_odd_and_one_position_stays_a_length(read: str, outputs: Any, length: int) -> None:
    example = torch.zeros(2, 4, length, dtype=torch.float64)
    model = convert_model(OneFilter(read).double(), example, outputs=outputs)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p))
        for n in (length, 33):
            x = torch.randn(3, 4, n, dtype=torch.float64)
            y, r = model(x), model(x.flip(1, 2))
            assert float((r - (y.flip(-1) if read == "positions" else -y)).abs().max()) < 1e-12
            assert float(y.abs().max()) > 1e-6
