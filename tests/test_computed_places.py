"""Reading a length at places that forward computes, as deformable convolutions do: refused with ways out that work."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from lawful import assert_exact
from tiers import chosen
from torch import Tensor, nn

from rcps_convert import NoRuleError, convert_model, plan_conversion

X = torch.zeros(2, 4, 20)


class ByGather(nn.Module):
    """Each tap reads between two positions, which `gather` takes. (N, C, L) -> (N, C, L)."""

    def __init__(self, c: int = 6, k: int = 3) -> None:
        super().__init__()
        self.offsets, self.mix, self.k = nn.Conv1d(c, k, 3, padding=1), nn.Linear(c * k, c), k

    def places(self, h: Tensor) -> Tensor:
        taps = torch.arange(self.k)[:, None] - self.k // 2
        return (torch.arange(h.shape[2]) + taps + self.offsets(h)).clamp(0, h.shape[2] - 1)

    def taken(self, h: Tensor, at: Tensor) -> Tensor:
        wide = h[:, :, None].expand(-1, -1, self.k, -1)
        return wide.gather(-1, at[:, None].expand(-1, h.shape[1], -1, -1))

    def forward(self, h: Tensor) -> Tensor:
        at = self.places(h)
        low, part = at.long(), (at - at.floor())[:, None]
        high = (low + 1).clamp(max=h.shape[2] - 1)
        read = self.taken(h, low) * (1 - part) + self.taken(h, high) * part
        return self.mix(read.flatten(1, 2).mT).mT


class ByIndex(ByGather):
    """The same by indexing samples and positions at once."""

    def taken(self, h: Tensor, at: Tensor) -> Tensor:
        return h.mT[torch.arange(len(h))[:, None, None], at].permute(0, 3, 1, 2)


class ByTakeAlong(ByGather):
    """The same by `take_along_dim`."""

    def taken(self, h: Tensor, at: Tensor) -> Tensor:
        return torch.take_along_dim(h[:, :, None], at[:, None], -1)


class ByGrid(ByGather):
    """Coordinates from -1 to 1, and offsets of both that one layer makes."""

    def __init__(self, c: int = 6, k: int = 3) -> None:
        super().__init__(c, k)
        self.offsets = nn.Conv1d(c, 2 * k, 3, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        n, c, length = h.shape
        along, taps = torch.linspace(-1, 1, length), torch.linspace(-1, 1, self.k) * (self.k - 1) / (length - 1)
        grid = torch.stack([along.expand(self.k, -1) + taps[:, None], torch.zeros(self.k, length)], -1)
        grid = grid + self.offsets(h).view(n, self.k, 2, length).mT / 10
        read = F.grid_sample(h[:, :, None], grid, align_corners=True, padding_mode="border")
        return self.mix(read.reshape(n, c * self.k, length).mT).mT


class ByStackedGrid(ByGrid):
    """Offsets of one coordinate, stacked beside zeros."""

    def forward(self, h: Tensor) -> Tensor:
        along = torch.linspace(-1, 1, h.shape[2]) + self.offsets(h)[:, 0].tanh() / 5
        grid = torch.stack([along, torch.zeros_like(along)], -1)[:, None]
        return F.grid_sample(h[:, :, None], grid, align_corners=True, padding_mode="border")[:, :, 0]


class Net(nn.Module):
    """(N, 4, L) -> (N, 2)."""

    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        self.stem, self.middle, self.out = nn.Conv1d(4, 6, 5, padding=2), middle, nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.middle(self.stem(x).relu()).relu().mean(-1))


SAYS = {
    ByGather: "gather takes entries of a length of 20 at places that forward computes",
    ByIndex: "indexing takes entries of a length at places that forward computes",
    ByTakeAlong: "take_along_dim takes entries of a length of 20 at places that forward computes",
    ByStackedGrid: "the coordinates along a length, in the grid of grid_sample, do not change their sign",
}


@pytest.mark.parametrize("kind", chosen(SAYS, lambda kind: kind is ByStackedGrid))
def test_places_that_are_computed_are_refused_with_the_ways_out(kind: type[ByGather]) -> None:
    problem = plan_conversion(Net(kind()), X, verify=False).problems[0]
    assert isinstance(problem, NoRuleError)
    assert SAYS[kind] in problem.what
    assert problem.where is not None
    assert problem.where.path == "middle"
    assert 'both strands with on_unsupported="both_strands"' in str(problem.do)
    assert "offsets for both coordinates of F.grid_sample, (N, ..., L, 2)" in str(problem.do)


@pytest.mark.parametrize("kind", chosen(SAYS, lambda kind: kind is ByStackedGrid))
def test_the_module_alone_runs_on_both_strands(kind: type[ByGather]) -> None:
    torch.manual_seed(0)
    plan = plan_conversion(Net(kind()), X, on_unsupported="both_strands", verify=False)
    assert [row.path for row in plan.symmetrisers] == ["middle"]
    torch.manual_seed(0)
    assert_exact(plan.apply(Net(kind())), X, lengths=(20, 23))


@pytest.mark.slow
def test_the_whole_model_runs_on_both_strands() -> None:
    assert_exact(convert_model(Net(ByGather()), X, strategy="conjoined"), X, lengths=(20, 23))


def test_offsets_of_both_coordinates_tie() -> None:
    torch.manual_seed(0)
    converted = convert_model(Net(ByGrid()), X, verify=False)
    assert_exact(converted, X, lengths=(20, 23, 9))
