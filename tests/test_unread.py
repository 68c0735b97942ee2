"""Distances from -L to L - 1, of which no pair of positions has the first; constants that nothing reads in full."""

from __future__ import annotations

import pytest
import torch
from lawful import assert_exact
from models.attention import Attend
from tiers import chosen
from torch import Tensor, nn

from rcps_convert import BreaksSymmetryError, ConversionError, convert_model, plan_conversion
from rcps_convert.graph.export import trace
from rcps_convert.infer.unread import Unread

EXAMPLE = torch.zeros(2, 4, 12)


class Distances(Attend):
    """Scores with a term per distance, features of the distances from -L to L - 1 (AlphaGenome). (N, 4, L) -> (N, 3)"""

    heads, width = 2, 8

    def extra(self, c: int) -> None:
        self.rel, self.drop = nn.Linear(4, c), nn.Dropout(0.5)

    def features(self, n: int) -> Tensor:
        """Per distance, (2 n, 4): the first half of the features is even, the second is odd."""
        d = torch.arange(-n, n)
        even = torch.exp(-d.abs()[:, None] / torch.tensor([2.0, 4.0]))
        return torch.cat([even, d.sign()[:, None] * even], -1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        rel = self.rel(self.drop(self.features(q.shape[-2]))).unflatten(-1, (self.heads, -1))
        scores = q @ k.mT + self.by_pair(torch.einsum("bhid,jhd->bhij", q, rel))
        return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)

    def places(self, n: int) -> Tensor:
        """The place of the distance of each pair of positions."""
        at = torch.arange(n)
        return at[None] - at[:, None] + n

    def by_pair(self, scores: Tensor) -> Tensor:
        """From (N, heads, L, 2 L) to (N, heads, L, L)."""
        n = scores.shape[2]
        return scores.gather(-1, self.places(n).expand(*scores.shape[:2], n, n))


class DistancesIndexed(Distances):
    """By advanced indexing."""

    def by_pair(self, scores: Tensor) -> Tensor:
        n = scores.shape[2]
        return scores[..., torch.arange(n)[:, None], self.places(n)]


class DistancesCut(Distances):
    """The first is cut off; one index does the rest; the train-mode forward is another one."""

    def features(self, n: int) -> Tensor:
        return super().features(n) if self.training else super().features(n).clone()

    def by_pair(self, scores: Tensor) -> Tensor:
        n = scores.shape[2]
        return torch.take_along_dim(scores[..., 1:], self.places(n)[None, None] - 1, -1)


class DistancesShifted(Distances):
    """By reading the rows at another width."""

    def by_pair(self, scores: Tensor) -> Tensor:
        b, h, n, m = scores.shape
        return scores.reshape(b, h, m, n)[:, :, 1:].reshape(b, h, n, m - 1)[..., :n]


@pytest.mark.parametrize(
    "make",
    chosen(
        [pytest.param(Distances, marks=pytest.mark.slow), DistancesIndexed, DistancesCut],
        lambda make: make is DistancesIndexed,
    ),
)
def test_distances_without_a_mirror_image_are_exact(make: type[Distances]) -> None:
    torch.manual_seed(0)
    assert_exact(convert_model(make(), EXAMPLE, verify=False), EXAMPLE, lengths=(None, 7, 20))


@pytest.mark.slow
def test_rows_read_at_another_width_are_exact() -> None:
    torch.manual_seed(0)
    assert_exact(convert_model(DistancesShifted(), EXAMPLE), EXAMPLE, lengths=(None, 7, 20))


class Learned(DistancesIndexed):
    """A learned vector per distance: that of the first is trained by nothing."""

    def extra(self, c: int) -> None:
        self.table, self.drop = nn.Parameter(torch.randn(24, 4)), nn.Identity()

    def rel(self, features: Tensor) -> Tensor:
        return self.table.repeat(1, self.heads)


def test_a_learned_vector_per_distance_is_exact() -> None:
    torch.manual_seed(0)
    plan = plan_conversion(Learned(), EXAMPLE)
    assert "1 fixed + 23 reversed" in str(plan)
    with pytest.warns(UserWarning, match="exact at length 12 only"):
        converted = plan.apply(Learned())
    assert_exact(converted, EXAMPLE)


class Circular(Distances):
    """The first distance is read, in place of another one."""

    def places(self, n: int) -> Tensor:
        found = super().places(n)
        return torch.where(found == 2 * n - 1, 0, found)


@pytest.mark.slow
def test_a_distance_that_is_read_needs_its_mirror_image() -> None:
    with pytest.raises(ConversionError) as caught:
        convert_model(Circular(), EXAMPLE)
    assert "gather" in str(caught.value)


# --- what is unread -------------------------------------------------------------------------------


class Masked(nn.Module):
    """A bias that is not symmetric under a mask. (N, 4, 12) -> (N, 3)."""

    def __init__(self, band: int = 2) -> None:
        super().__init__()
        self.stem, self.out, self.band = nn.Conv1d(4, 6, 3, padding=1), nn.Conv1d(6, 3, 1), band
        at = torch.arange(12)
        self.register_buffer("bias", torch.where(at[None] > at[:, None] + 2, 5.0, (at[None] - at[:, None]).abs() / 4))

    def forward(self, x: Tensor) -> Tensor:
        h, at = self.stem(x), torch.arange(x.shape[-1])
        scores = torch.einsum("bci,bcj->bij", h, h) + self.bias
        scores = scores.masked_fill((at[None] - at[:, None]).abs() > self.band, float("-inf"))
        return self.out((scores.softmax(-1) @ h.mT).mT).tanh().mean(-1)


def test_what_a_mask_hides_needs_no_symmetry() -> None:
    torch.manual_seed(0)
    assert_exact(convert_model(Masked(), EXAMPLE), EXAMPLE)
    with pytest.raises(BreaksSymmetryError, match="the buffer bias is not invariant"):
        convert_model(Masked(band=3), EXAMPLE)


class Chosen(nn.Module):
    """A table of numbers read by ids that depend on the input: which are read cannot be known."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.arange(5000.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.table[x.argmax(1)] * x.sum(1)


def test_entries_are_unread_only_where_that_is_known() -> None:
    assert {k: int(m.sum()) for k, m in Unread(trace(Masked().eval(), EXAMPLE)).entries.items()} == {"b_bias": 90}
    assert Unread(trace(Masked(12).eval(), EXAMPLE)).entries == {}
    assert Unread(trace(Chosen().eval(), EXAMPLE)).entries == {}
    assert Unread(trace(nn.ReLU(), EXAMPLE)).entries == {}
