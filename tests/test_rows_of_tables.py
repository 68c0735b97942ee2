"""Tables whose rows are pointed to by numbers that forward makes from the length, as buckets of distances are."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from lawful import assert_exact
from tiers import chosen
from torch import Tensor, nn

from rcps_convert import BreaksSymmetryError, ConversionError, convert_model, plan_conversion
from rcps_convert.algebra.arguments import leaves
from rcps_convert.algebra.nesting import input_actions
from rcps_convert.infer import leaving_out
from rcps_convert.infer.constants import _continued
from rcps_convert.measure import ways
from rcps_convert.measure.lengths import Variants


class Biased(nn.Module):
    """Attention with a bias from a table, looked up by what a function makes of distances. (N, 4, L) -> (N, 2)."""

    def __init__(self, rows: int, row: Callable[[Tensor], Tensor], *, bare: bool = False) -> None:
        super().__init__()
        self.stem, self.qkv, self.out = nn.Conv1d(4, 4, 3, padding=1), nn.Linear(4, 12), nn.Linear(4, 2)
        self.table = nn.Parameter(torch.randn(rows, 1)) if bare else nn.Embedding(rows, 1)
        self.row, self.bare = row, bare

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x).tanh().mT
        q, k, v = self.qkv(h).chunk(3, -1)
        at = torch.arange(h.shape[1], device=x.device)
        rows = self.row(at[None] - at[:, None])
        bias = self.table[rows] if self.bare else self.table(rows)
        return self.out((h + (q @ k.mT + bias[..., 0]).softmax(-1) @ v).mean(1))


def t5(distance: Tensor) -> Tensor:
    """The buckets of T5: 8 near ones and 8 on a scale of logarithms up to 128, for either sign."""
    far = distance.abs()
    large = (8 + (torch.log(far.float() / 8) / math.log(16) * 8).long()).clamp(max=15)
    return (distance > 0).long() * 16 + torch.where(far < 8, far, large)


def edges(*bounds: int) -> Callable[[Tensor], Tensor]:
    """Bins of the distance, those of negative ones behind the others."""

    def row(distance: Tensor) -> Tensor:
        found = torch.bucketize(distance.abs(), torch.tensor([1, *bounds]), right=True)
        return torch.where(distance < 0, found + len(bounds) + 1, found)

    return row


TABLES: dict[str, tuple[int, Callable[[Tensor], Tensor], bool]] = {
    "T5": (32, t5, False),
    "T5, a bare parameter": (32, t5, True),
    "T5, of distances": (32, lambda d: t5(-d.abs()), False),
    "offsets": (401, lambda d: d + 200, False),
    "bins": (11, edges(2, 4, 30, 70), False),
    "far ones of either sign": (6, lambda d: torch.where(d.abs() > 60, 5, d.clamp(-2, 2) + 2), False),
}


@pytest.mark.filterwarnings("ignore:calls at")
@pytest.mark.parametrize("table", chosen(TABLES, lambda name: name == "far ones of either sign"))
def test_rows_that_a_short_example_does_not_read_are_tied_too(table: str) -> None:
    rows, row, bare = TABLES[table]
    torch.manual_seed(0)
    model = convert_model(Biased(rows, row, bare=bare), (2, 4, 12), verify=table == "T5")
    assert_exact(model, torch.zeros(2, 4, 12), lengths=(12, 17, 90, 150))


@pytest.mark.filterwarnings("ignore:calls at")
def test_inputs_are_refused_that_may_read_rows_that_nothing_read() -> None:
    """No length that is looked at has a distance of 2000, whose rows could not be shown to swap."""
    model = convert_model(Biased(7, edges(2, 2000)), (2, 4, 20))
    model(torch.zeros(1, 4, 80))
    with pytest.raises(BreaksSymmetryError, match="points to rows of a table") as caught:
        model(torch.zeros(1, 4, 2100))
    assert "(table: " in str(caught.value)
    assert " of 7 rows); convert with an example of the length that is needed" in str(caught.value)


@pytest.mark.slow
def test_a_table_of_which_all_rows_are_read_is_for_every_length() -> None:
    plan = plan_conversion(Biased(5, lambda d: d.clamp(-2, 2) + 2), (2, 4, 12))
    assert not plan.guards


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:calls at")
def test_a_table_ends_where_forward_does() -> None:
    """Offsets up to 20 either way: forward takes 21 positions, and one row more than it can read is there."""
    model = convert_model(Biased(42, lambda d: d + 20), (2, 4, 12))
    assert_exact(model, torch.zeros(2, 4, 12), lengths=(12, 21))
    with pytest.raises(BreaksSymmetryError, match="points to rows of a table"):
        model(torch.zeros(1, 4, 22))


class Gathered(Biased):
    """One half of the attention of DeBERTa: scores of distances, from -4 to 3, are gathered for pairs of positions."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x).tanh().mT
        q, k, v = self.qkv(h).chunk(3, -1)
        at = torch.arange(h.shape[1], device=x.device)
        rows = self.row(at[None] - at[:, None]).expand(len(h), -1, -1)
        bias = torch.gather(q @ self.table.weight.expand(-1, 4).mT, -1, rows)
        return self.out((h + (q @ k.mT + bias).softmax(-1) @ v).mean(1))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Biased, Gathered])
def test_offsets_that_are_bounded_unlike_on_either_side_are_refused_with_a_way_out(kind: type[Biased]) -> None:
    with pytest.raises(BreaksSymmetryError) as caught:
        convert_model(kind(8, lambda d: d.clamp(-4, 3) + 4), (2, 4, 12), verify=False)
    assert "bound offsets alike on either side, as d.clamp(-k, k) + k in 2 k + 1 rows does" in str(caught.value.do)
    torch.manual_seed(0)
    model = convert_model(kind(9, lambda d: d.clamp(-4, 4) + 4), (2, 4, 12), verify=False)
    assert_exact(model, torch.zeros(2, 4, 12), lengths=(12, 15))


@pytest.mark.parametrize(
    ("table", "read", "continued"),
    [
        ([0, 1, 4, 3, 2, 5, 6], {2, 3, 4}, [6, 5, 4, 3, 2, 1, 0]),
        ([0, 4, 5, 3, 1, 2, 6, 7], {0, 1, 2, 4, 5}, [0, 4, 5, 6, 1, 2, 3, 7]),
        ([0, 1, 2, 3], {1, 2}, [0, 1, 2, 3]),
        ([1, 0, 4, 3, 2, 5, 6], {0, 1, 2, 4}, [1, 0, 4, 3, 2, 5, 6]),
    ],
)
def test_rows_that_are_not_read_are_paired_as_the_others_are(
    table: list[int], read: set[int], continued: list[int]
) -> None:
    """Around one middle; as far apart; not at all where no row moves, or where pairs are unlike each other."""
    assert _continued(table, read) == continued


MADE: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "pairs": (lambda x: (x[..., None] + x[..., None, :]).amax(-1), 2),
    "windows": (lambda x: F.pad(x, (x.shape[-1] // 2,) * 2).unfold(-1, x.shape[-1] // 2 * 2 + 1, 1).amax(-1), 2),
    "triples": (lambda x: (x[..., None, None] + x[..., None, :, None] + x[..., None, None, :]).amax((-1, -2)), 3),
}


@pytest.mark.parametrize("made", chosen(MADE, lambda made: made != "pairs"))
def test_longer_examples_are_run_only_as_far_as_forward_is_not_long(made: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows by the distance from the middle, of which there are few numbers, beside numbers of all pairs, or more."""
    monkeypatch.setattr(ways, "LONG_WORK", 2**17)
    lengths = list[int]()
    run_of = leaving_out.run_of
    monkeypatch.setattr(leaving_out, "run_of", lambda m, x: lengths.append(leaves(x)[0].shape[-1]) or run_of(m, x))
    make, power = MADE[made]

    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows, self.out = nn.Embedding(400, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            n = x.shape[-1]
            at = (torch.arange(n) - (n - 1) / 2).abs().floor().long().clamp(max=399)
            return self.out((make(x) + self.rows(at).mT).tanh().mean(-1))

    assert not plan_conversion(Beside(), torch.zeros(1, 4, 15)).problems
    assert max(lengths) > 15
    assert 4 * max(lengths) ** power <= 2**17


@pytest.mark.parametrize("made", MADE)
def test_a_length_is_affordable_where_forward_makes_few_numbers(made: str) -> None:
    """At twice the length there are 4, or 8, times as many; so are there at twice that."""
    make, power = MADE[made]

    class Alone(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return make(x).mean(-1)

    example = torch.zeros(1, 4, 15)
    survey = Variants(Alone(), example, input_actions(example, "ACGT", "auto")[1]).survey()
    assert survey.start is not None
    most = int(15 * (ways.LONG_WORK / survey.start.work) ** (1 / power))
    for length, affordable in ((most // 2, True), (2 * most, False)):
        assert ways.is_affordable(survey, 15, length) is affordable


BOUNDED: dict[str, Callable[[Tensor], Tensor]] = {
    "either side": lambda d: d.clamp(-20, 20) + 26,
    "distances": lambda d: d.abs().clamp(max=40),
    "the smaller": lambda d: torch.minimum(d.abs(), torch.full_like(d, 30)),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:calls at")
@pytest.mark.parametrize("row", BOUNDED)
def test_rows_that_no_length_reads_are_counted_and_a_longer_example_helps(row: str) -> None:
    """Of 52 rows bounded distances read some: no length that is looked at shows that the others are never read."""
    plan = plan_conversion(Biased(52, BOUNDED[row]), (2, 4, 12))
    refused = next(w for w in plan.warnings if "points to rows of a table" in w)
    assert "(table: " in refused
    assert " of 52 rows)" in refused
    first = next(n for n in range(12, 10**4) if not plan.valid_lengths(n, n))
    torch.manual_seed(0)
    longer = convert_model(Biased(52, BOUNDED[row]), (2, 4, first), verify=False)
    assert_exact(longer, torch.zeros(2, 4, 12), lengths=(12, first + 5))


class Shifted(nn.Module):
    """Windows that are shifted around the ends, and a bias from a table in each. (N, 4, 24) -> (N, 2)."""

    def __init__(self, row: Callable[[Tensor], Tensor], shift: int) -> None:
        super().__init__()
        self.stem, self.out, self.table = nn.Conv1d(4, 4, 3, padding=1), nn.Linear(4, 2), nn.Embedding(15, 1)
        self.row, self.shift = row, shift

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x).tanh().mT.roll(self.shift, 1)
        q, at = h.unflatten(1, (-1, 8)), torch.arange(8)
        bias = self.table(self.row(at - at[:, None])).squeeze(-1)
        return self.out((q + (q @ q.mT + bias).softmax(-1) @ q).flatten(1, 2).mean(1))


SHIFTED: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "by half a window": (lambda d: d + 7, -4),
    "by half a window, distances": (lambda d: d.abs(), 4),
    "by a window and a half": (lambda d: d.clamp(-3, 3) + 3, 12),
}


@pytest.mark.parametrize("case", chosen(SHIFTED, lambda name: name == "by half a window"))
def test_rows_follow_places_that_are_no_positions_any_more(case: str) -> None:
    torch.manual_seed(0)
    model = convert_model(Shifted(*SHIFTED[case]), (2, 4, 24), verify=False)
    assert_exact(model, torch.zeros(2, 4, 24))


@pytest.mark.slow
def test_windows_that_are_shifted_by_less_than_half_are_refused() -> None:
    with pytest.raises(ConversionError):
        convert_model(Shifted(lambda d: d + 7, -3), (2, 4, 24), verify=False)


class Implicit(nn.Module):
    """A filter that a small network makes of relative positions, read row by row by distances. (N, 4, L) -> (N, 2)."""

    def __init__(self, features: Callable[[Tensor], list[Tensor]], count: int) -> None:
        super().__init__()
        self.stem, self.out, self.features = nn.Conv1d(4, 4, 3, padding=1), nn.Linear(4, 2), features
        self.filter = nn.Sequential(nn.Linear(count, 6), nn.SiLU(), nn.Linear(6, 4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x).tanh()
        length = h.shape[-1]
        rows = self.filter(torch.stack(self.features(torch.arange(1 - length, length, dtype=h.dtype) / 8), -1))
        at = torch.arange(length)
        kernel = rows[at[:, None] - at + length - 1]
        return self.out(torch.einsum("ijc,ncj->nci", kernel, h).tanh().mean(2))


IMPLICIT: dict[str, tuple[Callable[[Tensor], list[Tensor]], int]] = {
    "odd and even features": (lambda t: [t, torch.sin(3 * t), torch.cos(3 * t)], 3),
    "even features": (lambda t: [t.abs(), torch.exp(-t * t)], 2),
    "odd features": (lambda t: [t, t**3], 2),
}


@pytest.mark.parametrize("case", chosen(IMPLICIT, lambda name: name == "odd and even features"))
def test_rows_that_a_network_makes_of_relative_positions(case: str) -> None:
    """The rows are known to swap only where ids point to them; they are as many as the length asks for."""
    torch.manual_seed(0)
    model = convert_model(Implicit(*IMPLICIT[case]).double(), torch.zeros(2, 4, 8).double(), verify=False)
    assert_exact(model, torch.zeros(2, 4, 8).double(), lengths=(8, 5, 13))


class Turned(nn.Module):
    """Attention whose queries and keys are turned as complex numbers. (N, 4, L) -> (N, 2)."""

    def __init__(self, turn: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.qkv, self.out, self.turn = (
            nn.Conv1d(4, 4, 3, padding=1),
            nn.Linear(4, 12),
            nn.Linear(4, 2),
            turn,
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x).tanh().mT
        q, k, v = self.qkv(h).chunk(3, -1)
        angles = torch.outer(torch.arange(h.shape[1]).to(h.dtype), torch.tensor([1.0, 0.1], dtype=h.dtype))
        turns = self.turn(angles)
        q, k = (torch.view_as_real(torch.view_as_complex(t.unflatten(-1, (2, 2))) * turns).flatten(-2) for t in (q, k))
        return self.out(((q @ k.mT).softmax(-1) @ v).mean(1))


TURNS: dict[str, Callable[[Tensor], Tensor]] = {
    "polar": lambda a: torch.polar(torch.ones_like(a), a),
    "complex": lambda a: torch.complex(a.cos(), a.sin()),
    "exp": lambda a: torch.exp(1j * a),
}


@pytest.mark.parametrize("case", chosen(TURNS, lambda name: False))
def test_complex_numbers_made_of_positions_are_no_whole_numbers(case: str) -> None:
    """So nothing is rounded, and other lengths are as exact as the example's."""
    torch.manual_seed(0)
    model = convert_model(Turned(TURNS[case]), (2, 4, 8))
    assert_exact(model.double(), torch.zeros(2, 4, 8).double(), lengths=(8, 5, 13))
