"""What a conversion does to outputs: how far they move and what they lose, value by value, judged by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from by_hand import Net
from torch import Tensor, nn

from rcps_convert.algebra import axis as ax
from rcps_convert.algebra.action import Action
from rcps_convert.algebra.nesting import input_actions
from rcps_convert.measure import change
from rcps_convert.measure.change import Change
from rcps_convert.measure.law import MARGIN

EXAMPLE = torch.zeros(2, 4, 12)
VECTOR = Action((ax.batch(2), ax.trivial(3)))
PROFILE = Action((ax.batch(2), ax.trivial(3), ax.length(5)))


def change_of(before: nn.Module, after: nn.Module) -> Change:
    return Change(before, after, EXAMPLE, *input_actions(EXAMPLE, "ACGT", "auto"))


class Head(nn.Module):
    """A layer of weights on the numbers of bases, of which some channels may be given to others."""

    def __init__(self, keep: Any = None, scale: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.keep, self.scale = nn.Linear(4, 3), keep, scale

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x[..., ::2].sum(-1)) * self.scale
        return y if self.keep is None else self.keep(y)


def test_outputs_as_repetitions_and_channels() -> None:
    y = torch.arange(30.0).view(2, 3, 5)
    found = change.repetitions(y, PROFILE)
    assert tuple(found.shape) == (10, 3)
    assert torch.equal(found, y.permute(0, 2, 1).reshape(10, 3))
    assert tuple(change.repetitions(y, VECTOR).shape) == (2, 15)  # another rank
    assert tuple(change.repetitions(torch.tensor(3.0), Action(())).shape) == (1, 1)
    assert tuple(change.repetitions(y[0], Action((ax.trivial(3), ax.trivial(5)))).shape) == (1, 15)


def moves(rows: Any, action: Action = VECTOR) -> change.Movement:
    """How an output moves of which each row is a sample."""
    return change._moves([torch.as_tensor(rows)], action)


def test_rows_that_are_looked_at() -> None:
    found = change._moves(
        [torch.tensor([[1.0, 2.0], [float("nan"), 1.0]]), torch.tensor([[3.0, 4.0]])], Action((ax.batch(3), ax.Var(2)))
    )
    torch.testing.assert_close(found.rows, torch.tensor([[-1.0, -1 / 3], [1.0, 5 / 3]]).double())
    assert (found.size, found.most) == (4.0, 1)
    assert found.rows.dtype == torch.float64
    assert moves(torch.zeros(3, 100)).rows.shape == (3, change.COLUMNS)
    assert len(moves(torch.zeros(change.ROWS, 2)).rows) == change.ROWS
    many = moves(torch.arange(2.0 * change.ROWS)[:, None])
    assert (many.rows[:3] - many.rows[0]).tolist() == [[0], [2], [4]]
    assert moves(torch.zeros(2, 2, dtype=torch.complex64)).rows.dtype == torch.complex64


def test_places_that_differ_are_no_moves() -> None:
    places = torch.arange(15.0).view(1, 3, 5)
    assert moves(places.expand(4, 3, 5), PROFILE).swing == 0
    assert moves(places.expand(4, 3, 5), PROFILE).rank(1e-9) == 0
    one_way = places + torch.arange(4.0).view(4, 1, 1)
    found = moves(one_way, PROFILE)
    assert (found.swing, found.rank(1e-4), found.most) == (pytest.approx(1.5 / 17), 1, 3)
    apart = change._moves([places[0], places[0] + 1], Action((ax.Var(3), ax.length(5))))  # no samples: two batches
    assert (apart.swing, apart.rank(1e-4)) == (pytest.approx(0.5 / 15), 1)


def test_how_far_rows_are_apart() -> None:
    assert moves([[1.0, 2.0], [3.0, 2.0]]).swing == pytest.approx(1 / 3)
    assert moves(torch.zeros(3, 2)).swing == 0.0
    assert moves(torch.zeros(0, 2)).swing == 0.0
    assert moves([[-4.0], [0.0]]).swing == 0.5


def test_directions_in_which_rows_vary() -> None:
    rows = torch.tensor([[1.0, 1.0, 0.0], [2.0, 2.0, 0.0], [3.0, 3.0, 1.0]], dtype=torch.float64)
    assert moves(rows).rank(1e-4) == 2
    assert moves(rows[:, :2]).rank(1e-4) == 1
    assert moves(rows[:1]).rank(1e-4) == 0
    assert moves(rows + 1e9).rank(1e-3) == 0  # next to nothing beside their size
    assert moves(torch.ones(3, 2, dtype=torch.float64)).rank(1e-4) == 0
    faint = torch.tensor([[1.0, 0.0], [0.0, 1e-5], [-1.0, 0.0]], dtype=torch.float64)
    assert [moves(faint).rank(t) for t in (1e-4, 1e-9)] == [1, 2]


def test_which_outputs_are_numbers_that_may_vary() -> None:
    for y, varies in (
        (torch.zeros(2), True), (torch.zeros(2) * 1j, True), (torch.zeros(2, dtype=torch.int64), False),
        (torch.zeros(0), False), (None, False), ("text", False),
    ):  # fmt: skip
        assert change._continuous(y) is varies
    assert change._largest([torch.tensor([1.0, -3.0, float("inf")]), torch.tensor([float("nan")])]) == 3.0
    assert change._largest([]) == 0.0
    a, none, b = change._ends([[torch.ones(2), None, torch.zeros(1)], [torch.zeros(1, 2), None, torch.ones(1)]])
    assert (a.tolist(), none.numel(), b.tolist()) == ([1, 1, 0, 0], 0, [0, 1])
    assert change._hold_samples([VECTOR, None, PROFILE])
    assert not change._hold_samples([VECTOR, Action((ax.length(5),))])
    parts = change._parts(
        [[torch.ones(2, 3), torch.ones(2), None], [torch.zeros(2, 3), torch.ones(2), None]], [VECTOR, None, None]
    )
    assert [*parts] == [0]
    assert parts[0].rows.tolist() == [[0.5] * 3] * 2 + [[-0.5] * 3] * 2


def test_outputs_that_fade() -> None:
    apart, near, still = (moves(torch.tensor([[1.0 + s], [1.0 - s]]).double()) for s in (1e-1, 1e-6, 0.0))
    assert change._faded({0: apart, 1: apart}, {0: near, 1: apart}) == {0}
    assert change._faded({0: still}, {0: still}) == {0}
    assert change._faded({}, {0: near}) == set()


@pytest.mark.parametrize(("moves", "rounding"), [(1.01e-3 / MARGIN, True), (0.99e-3 / MARGIN, False)])
def test_outputs_that_rounding_moves_as_far(moves: float, rounding: bool) -> None:
    y = torch.tensor([1.0, 0.5], dtype=torch.float64)
    assert change._is_rounding(y, y + torch.tensor([moves, 0.0])) is rounding
    assert change._any_rounding([None, y], [None, y + torch.tensor([moves, 0.0])]) is rounding


def test_outputs_with_as_many_values_as_they_have_room_for() -> None:
    rows = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    assert change._is_full([[rows]], [VECTOR])
    assert change._is_full([[rows[:3]]], [VECTOR])  # three rows vary in two directions
    assert not change._is_full([[rows[:, :1].expand(16, 3)]], [VECTOR])
    assert not change._is_full([[1 + rows * 1e-5]], [VECTOR])


def test_how_far_outputs_move() -> None:
    assert change_of(Head(), Head()).moved() < 1e-6
    assert change_of(Head(), Head(scale=1.5)).moved() == pytest.approx(0.5)
    assert change_of(Head(), Head(scale=1 + 1e-5)).moved() == pytest.approx(1e-5, rel=1e-3)
    looked = change_of(Head(), Head(scale=1.5))
    looked.moved()
    assert looked.probes == []
    half = change_of(Head().half(), Head().half())
    assert half.precise


LOSING: dict[str, tuple[Any, Any, list[tuple[int, int, int]]]] = {
    "nothing": (None, None, []),
    "two of three": (None, lambda y: y[:, :1].expand(-1, 3), [(0, 3, 1)]),
    "one of three": (None, lambda y: torch.cat([y[:, :2], y[:, :1]], 1), [(0, 3, 2)]),
    "all": (None, lambda y: y * 0 + 1, [(0, 3, 0)]),
    "what was lost before": (lambda y: y[:, :1].expand(-1, 3), lambda y: y[:, :1].expand(-1, 3), []),
    "nearly all": (None, lambda y: 1 + 1e-6 * y, [(0, 3, 0)]),
    "a little": (None, lambda y: 1 + 1e-2 * y, []),
    "more than before": (lambda y: y[:, :1].expand(-1, 3), None, []),
}


@pytest.mark.parametrize("case", LOSING)
@pytest.mark.parametrize("moved", [False, True])
def test_what_outputs_lose(case: str, moved: bool) -> None:
    before, after, lost = LOSING[case]
    looked = change_of(Head(before), Head(after))
    if moved:
        looked.moved()
    assert looked.lost([VECTOR]) == lost
    assert change_of(Head(before), Head(after)).lost([None]) == []


def test_outputs_that_become_zero() -> None:
    def two(a: float, b: float) -> nn.Module:
        model = Head()
        return Net(lambda m, x: (m.h(x) * a, m.h(x) * b, x.argmax(1)), h=model)

    assert change_of(two(1, 1), two(1, 0)).zero() == {1}
    assert change_of(two(1, 1), two(1e-10, 1)).zero() == {0}
    assert change_of(two(1, 1), two(1e-8, 1)).zero() == set()
    assert change_of(two(0, 1), two(0, 1)).zero() == {0}


def test_batches_that_are_read() -> None:
    sizes: list[int] = []

    def body(m: Any, x: Tensor) -> Tensor:
        sizes.append(len(x))
        return x.sum(-1)

    looked = change_of(Net(body), Net(body))
    looked._look_closely()
    for whole, expected in ((False, [8, 8] * 2), (True, [16] * 2)):
        sizes.clear()
        looked._readings(whole)
        assert sizes == expected

    def three(m: Any, x: Tensor) -> Tensor:
        if len(x) != 2:
            raise ValueError
        return body(m, x)

    looked = change_of(Net(three), Net(three))
    looked._look_closely()
    sizes.clear()
    looked._readings()
    assert sizes == [2] * 4 * 2
    assert looked.sizes == [2] * 4


def test_another_probe_shows_all_where_nothing_is_lost() -> None:
    specs, actions = input_actions(EXAMPLE, "ACGT", "auto")
    for keep, shows in ((None, True), (lambda y: y[:, :1].expand(-1, 3), False), (lambda y: 1 + 1e-6 * y, False)):
        probe = change.Probe(Head(keep), EXAMPLE, specs, actions)
        assert change._shows_all(probe, [VECTOR]) is shows
    fails: Any = SimpleNamespace(drawn=lambda seed, kinds: 1 / 0)
    assert change._shows_all(fails, [VECTOR]) is False
