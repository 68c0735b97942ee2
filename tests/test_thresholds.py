"""Forwards that compare a size with a number: the law is measured where the comparison comes out otherwise."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from by_hand import Net, bases, conv, mirror, worst
from einops import rearrange
from torch import Tensor, nn

from rcps_convert import BreaksSymmetryError, ConversionError, bake, convert_model, plan_conversion
from rcps_convert.measure import thresholds
from rcps_convert.measure.thresholds import Compared, Turn, compared, turns

TOLERANCE = 1e-10
EXAMPLE = torch.zeros(2, 4, 20)


def net(body: Callable[[Any, Tensor], Tensor]) -> nn.Module:
    torch.manual_seed(0)
    return Net(body, c=conv(), a=nn.Linear(8, 2))


def converted(body: Callable[[Any, Tensor], Tensor]) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return convert_model(net(body), EXAMPLE).double().eval()


def error(model: nn.Module, length: int) -> float | None:
    """How far the outputs are from the law; None where the call is refused."""
    x = bases(3, length)
    try:
        return worst(model(mirror(x)), model(x))
    except ConversionError:
        return None


# --- lengths ---


def running(m: Any, x: Tensor) -> Tensor:
    h = m.c(x).relu()
    return m.a((h.cumsum(-1) if x.shape[-1] > 300 else h).mean(-1))


def cut(m: Any, x: Tensor) -> Tensor:
    _, _, length = x.shape
    return m.a(m.c(x).relu()[..., : min(length, 300)].mean(-1))


def behind_a_pool(m: Any, x: Tensor) -> Tensor:
    h = nn.functional.max_pool1d(m.c(x), 4, 1)
    return m.a((h * torch.arange(h.size(2)) if h.size(2) >= 298.5 else h).mean(-1))


def by_name(m: Any, x: Tensor) -> Tensor:
    h = m.c(x).relu()
    return m.a((h.flip(-1).cumsum(-1) if x.size(dim=-1) == 301 else h).mean(-1))


@pytest.mark.parametrize(
    ("body", "taken", "refused"),
    [
        (running, (19, 40, 300), (301, 400)),
        (cut, (19, 40, 300, 301, 400), ()),  # read from either end
        (behind_a_pool, (19, 40, 301), (302, 400)),
        (by_name, (19, 40, 300), (301, 302)),
    ],
)
def test_lengths_at_which_a_comparison_turns_are_refused_if_the_law_fails_there(
    body: Any, taken: tuple[int, ...], refused: tuple[int, ...]
) -> None:
    model = converted(body)
    for each in (model, bake(model)):
        found = {n: error(each, n) for n in (20, *taken, *refused)}
        assert all((found[n] or 0.0) < TOLERANCE for n in found), found
        assert [n for n, e in found.items() if e is None] == [*refused]


def scaled(m: Any, x: Tensor) -> Tensor:
    """Another way, on which the law holds too."""
    h = m.c(x).relu()
    return m.a(h.amax(-1) if x.shape[-1] > 300 else h.mean(-1))


def test_another_way_on_which_the_law_holds_is_taken() -> None:
    model = converted(scaled)
    found = [error(model, n) for n in (20, 300, 301, 400)]
    assert all(e is not None and e < TOLERANCE for e in found)
    assert {300, 301} <= {*plan_conversion(net(scaled), EXAMPLE).checked}


def guarded(m: Any, x: Tensor) -> Tensor:
    """No other way: longer sequences are not taken at all."""
    if x.shape[-1] > 300:
        raise ValueError("too long")
    return m.a(m.c(x).relu().mean(-1))


def test_lengths_that_forward_refuses_itself_are_left_to_it() -> None:
    model = converted(guarded)
    assert error(model, 300) is not None
    with pytest.raises(ValueError, match="too long"):
        model(bases(3, 301))


def test_lengths_that_cost_too_much_to_be_looked_at_are_refused() -> None:
    def body(m: Any, x: Tensor) -> Tensor:
        h = m.c(x).relu()
        return m.a((h.cumsum(-1) if x.shape[-1] > 10**6 else h).mean(-1))

    plan = plan_conversion(net(body), EXAMPLE)
    assert any("could not be measured at length 10000" in w for w in plan.warnings)
    found = error(converted(body), 400)
    assert found is not None
    assert found < TOLERANCE


# --- rests of divisions, and whole numbers in tensors ---


def at_a_rest(m: Any, x: Tensor) -> Tensor:
    h = m.c(x).relu()
    return m.a((h.cumsum(-1) if x.shape[-1] % 7 == 3 else h).mean(-1))


def where_it_divides(m: Any, x: Tensor) -> Tensor:
    h = m.c(x).relu()
    return m.a((h if x.size(-1) % 23 else h.cumsum(-1)).mean(-1))


def at_a_rest_of_a_hidden_length(m: Any, x: Tensor) -> Tensor:
    h = m.c(x).relu()[..., 1:-1]
    return m.a((h.cumsum(-1) if h.shape[-1] // 2 % 11 > 9 else h).mean(-1))


def at_a_rest_of_a_short_length(m: Any, x: Tensor) -> Tensor:
    h = m.c(x).relu()
    return m.a((h.cumsum(-1) if x.shape[-1] // 4 % 9 == 3 else h).mean(-1))


@pytest.mark.parametrize(
    ("body", "length"),
    [
        (at_a_rest, 24),
        (where_it_divides, 23),
        (at_a_rest_of_a_hidden_length, 44),
        (at_a_rest_of_a_short_length, 48),
    ],
)
def test_rests_at_which_the_law_fails_are_found(body: Any, length: int) -> None:
    model = converted(body)
    assert error(model, length) is None
    found = error(model, 20)
    assert found is not None
    assert found < TOLERANCE


def filled_up(m: Any, x: Tensor) -> Tensor:
    if x.shape[-1] % 64:
        x = nn.functional.pad(x, (0, -x.shape[-1] % 64))
    return m.a(m.c(x).relu().amax(-1))


@pytest.mark.parametrize("length", [64, 70])
def test_few_forwards_tell_what_is_done_where_something_is_left_over(
    length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[int] = []
    given = thresholds.compared
    monkeypatch.setattr(thresholds, "compared", lambda model, example: runs.append(1) or given(model, example))
    plan_conversion(net(filled_up), torch.zeros(2, 4, length))
    assert 2 <= len(runs) <= 8


def rest_of_channels(m: Any, x: Tensor) -> Tensor:
    h = m.c(x).relu()
    assert h.shape[1] % 4 == 0
    assert h.shape[0] % 3 != 7
    return m.a(h.amax(-1))


def test_rests_of_numbers_of_samples_and_channels_are_no_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not change with the length takes no lengths to be tried, and costs no length."""
    runs: list[int] = []
    given = thresholds.compared
    monkeypatch.setattr(thresholds, "compared", lambda model, example: runs.append(1) or given(model, example))
    model = convert_model(net(rest_of_channels), torch.zeros(2, 4, 2000))
    assert model(torch.zeros(2, 4, 1990)).shape == (2, 2)
    assert len(runs) <= 6


def at_a_far_rest(m: Any, x: Tensor) -> Tensor:
    h = m.c(x).relu()
    return m.a((h.cumsum(-1) if x.shape[-1] % 23 == 3 else h).mean(-1))


def test_where_not_every_rest_can_be_tried_other_lengths_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thresholds, "MOST_WORK", 1)
    with pytest.warns(UserWarning, match="not every rest could be tried"):
        model = convert_model(net(at_a_far_rest), EXAMPLE)
    with pytest.raises(ConversionError, match="rest of a division"):
        model(torch.zeros(2, 4, 21))


def asserted(m: Any, x: Tensor) -> Tensor:
    assert x.shape[-1] % 24 == 0
    return m.a(m.c(x).relu().mean(-1))


def asserted_of_a_hidden_length(m: Any, x: Tensor) -> Tensor:
    h = m.c(x).relu()[..., ::2]
    if h.shape[-1] % 12:
        raise ValueError("windows of 12")
    return m.a(h.mean(-1))


def in_bins(m: Any, x: Tensor) -> Tensor:
    h = m.c(x).relu()
    assert not x.shape[-1] % 8
    assert not x.shape[-1] % 6
    return m.a(h.cumsum(-1).mean(-1) if h.shape[-1] > 500 else h.mean(-1))


@pytest.mark.parametrize("body", [asserted, asserted_of_a_hidden_length, in_bins])
def test_lengths_that_leave_the_rests_of_the_example_are_taken_where_forward_takes_no_others(
    body: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long forward is run at a few of the other rests only; behind an assert it runs at none of these."""
    monkeypatch.setattr(thresholds, "MOST_WORK", 1)
    with pytest.warns(UserWarning, match="other than 48 and whole multiples of 24 more or fewer are refused"):
        model = (plan := plan_conversion(net(body), torch.zeros(2, 4, 48))).apply(net(body)).double().eval()
    for n in (24, 48, 72, 96, 240):
        found = error(model, n)
        assert found is not None
        assert found < TOLERANCE
    for n in (12, 47, 49, 60, 64):
        with pytest.raises(ConversionError, match="rest of a division"):
            model(torch.zeros(2, 4, n).double())
    if body is in_bins:
        assert error(model, 504) is None
    if body is not asserted_of_a_hidden_length:  # there every other position is read from either end
        assert plan.valid_lengths(1, 99) == [24, 48, 72, 96]


def padded_bins(m: Any, x: Tensor) -> Tensor:
    h = m.c(x).relu()
    if h.shape[-1] % 2:
        h = nn.functional.pad(h, (0, 1))
    return m.a(rearrange(h, "b c (l p) -> b c l p", p=2).amax(-1).mean(-1))


def test_what_einops_asks_is_no_branch_of_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks whether a length divides, and raises if not: no way of its own begins there."""
    monkeypatch.setattr(thresholds, "MOST_WORK", 1)
    found = compared(net(padded_bins), (EXAMPLE,))
    assert found is not None
    assert {file for file, *_ in found.rests} == {__file__}
    model = converted(padded_bins)
    assert all(e is not None and e < TOLERANCE for e in (error(model, n) for n in (8, 14, 20, 40)))


def marked(m: Any, x: Tensor) -> Tensor:
    h, place = m.c(x).relu(), torch.arange(x.shape[-1])
    return m.a((h * (1 + (place > 150))).mean(-1))


def held_back(m: Any, x: Tensor) -> Tensor:
    h, place = m.c(x).relu(), torch.arange(x.shape[-1])
    return m.a((h * (place[:, None] - place).clamp(-200, 150).sum(1)).square().mean(-1))


def held_back_alike(m: Any, x: Tensor) -> Tensor:
    h, place = m.c(x).relu(), torch.arange(x.shape[-1])
    return m.a((h * (place[:, None] - place).clamp(-150, 150).sum(1)).square().mean(-1))


@pytest.mark.parametrize(("body", "refused"), [(marked, True), (held_back, True), (held_back_alike, False)])
def test_positions_that_are_compared_with_a_number(body: Any, refused: bool) -> None:
    model = converted(body)
    found = {n: error(model, n) for n in (20, 19, 40, 150, 220)}
    assert all((e or 0.0) < TOLERANCE for e in found.values())
    assert [n for n, e in found.items() if e is None] == [220] * refused


# --- numbers of samples ---


def many(m: Any, x: Tensor) -> Tensor:
    h = m.c(x).relu()
    return m.a((h.cumsum(-1) if x.size(0) >= 9 else h).mean(-1))


def many_by_shape(m: Any, x: Tensor) -> Tensor:
    h = m.c(x).relu()
    return m.a((h.cumsum(-1) if x.shape[0] * 2 > 30 else h).mean(-1))


def many_by_len(m: Any, x: Tensor) -> Tensor:
    h = m.c(x).relu()
    return m.a((h.cumsum(-1) if len(x) > 12 else h).mean(-1))


@pytest.mark.parametrize("body", [many, many_by_shape, many_by_len])
def test_a_number_of_samples_at_which_the_law_fails_is_named(body: Any) -> None:
    with pytest.raises(BreaksSymmetryError, match=r"the law fails with \d+ samples"):
        convert_model(net(body), EXAMPLE)


# --- where comparisons turn, by hand ---


def seen(*differences: float) -> Compared:
    found = Compared()
    found.differences = {("file", i, 0): d for i, d in enumerate(differences)}
    return found


@pytest.mark.parametrize(
    ("here", "there", "expected"),
    [
        (-280, -260, [Turn(300, 1)]),  # n - 300 at 20 and 40
        (12, 32, [Turn(8, -1)]),  # n - 8
        (-70, -65, [Turn(300, 1)]),  # n / 4 - 75
        (280, 260, [Turn(300, 1)]),  # 300 - n
        (0, 20, [Turn(21, 1), Turn(19, -1)]),  # n - 20
        (5, 5, []),
        (30, 50, []),  # n + 10 has no turn at any length
        (-280.5, -260.5, [Turn(301, 1)]),
    ],
)
def test_where_a_comparison_turns(here: float, there: float, expected: list[Turn]) -> None:
    assert turns(seen(here), seen(there), 20, 40) == expected


def test_the_nearest_turns_are_taken() -> None:
    found = turns(seen(-10, -20, -30, -40, 5), seen(10, 0, -10, -20, 25), 20, 40)
    assert found == [Turn(30, 1), Turn(40, 1), Turn(50, 1), Turn(15, -1)]


def test_what_is_compared_is_noted() -> None:
    def body(m: Any, x: Tensor) -> Tensor:
        n = x.shape[-1]
        assert x.shape.numel() == x.numel()
        assert n + 1 - 2 > 7
        assert not -n > 3.5
        assert n // 2 >= 4
        assert n != "n"
        return m.a(m.c(x).relu().mean(-1))

    found = compared(net(body), EXAMPLE)
    assert found is not None
    assert sorted(found.differences.values()) == [-23.5, 6, 12]
    assert not found.counted
