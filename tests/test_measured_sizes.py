"""What sizes are compared with, the ladder of sizes, and variants of an example: value by value, judged by hand."""

from __future__ import annotations

import operator
import warnings
from typing import Any

import pytest
import torch
from by_hand import Net
from torch import Tensor, nn

from rcps_convert.algebra import axis as ax
from rcps_convert.algebra.action import Action
from rcps_convert.algebra.axis import Step
from rcps_convert.measure import thresholds, ways
from rcps_convert.measure.lengths import (
    Survey,
    Variant,
    Variants,
    changed_and_made,
    made_in_forward,
    resized,
    run_quietly,
)
from rcps_convert.measure.runs import Run, run_of, without_repeats
from rcps_convert.measure.thresholds import Compared, Seen, Turn, _Size, _Sizes, compared, rests_of, seen_of

COMPARISONS = [operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne]


# --- sizes that note what is done with them ---


@pytest.mark.parametrize("compare", COMPARISONS)
def test_a_size_compares_as_its_number_and_notes_the_difference(compare: Any) -> None:
    for other in (19, 20, 21, 19.5, 20.0):
        seen = Compared()
        assert compare(_Size(20).of(seen), other) is compare(20, other)
        assert [*seen.differences.values()] == [20 - other]
        assert seen.rests == {}
        assert not seen.looked_up


def test_two_sizes_are_compared() -> None:
    seen = Compared()
    assert _Size(20).of(seen) < _Size(23).of(seen)
    assert [*seen.differences.values()] == [-3]
    assert type(seen.differences.popitem()[1]) is int


def test_what_is_no_number_is_compared_as_python_does() -> None:
    seen = Compared()
    size = _Size(20).of(seen)
    assert size != "20"
    with pytest.raises(TypeError):
        size < "20"  # type: ignore[operator]  # noqa: B015
    assert seen.differences == {}


@pytest.mark.parametrize("compare", COMPARISONS)
def test_a_rest_compares_as_its_number_and_notes_whether_that_held(compare: Any) -> None:
    for other in (2, 3, 4):
        seen = Compared()
        rest = _Size(23).of(seen) % 5
        assert compare(rest, other) is compare(3, other)
        assert [*seen.rests.values()] == [(23, 5, compare(3, other))]
        assert seen.differences == {}


def test_a_rest_is_true_where_something_is_left() -> None:
    seen = Compared()
    size = _Size(20).of(seen)
    found = [bool(size % n) for n in (5, 7, 1)]
    assert found == [False, True, False]
    assert [*seen.rests.values()] == [(20, 5, False), (20, 7, True), (20, 1, False)]
    assert size % 2.5 == 0.0
    assert (size % 3) != "2"
    assert len(seen.rests) == 3
    assert hash(size % 7) == hash(6)


ARITHMETIC = {
    "sum": lambda n: n + 3,
    "sum the other way": lambda n: 3 + n,
    "difference": lambda n: n - 3,
    "difference the other way": lambda n: 30 - n,
    "product": lambda n: n * 2,
    "product the other way": lambda n: 2 * n,
    "quotient": lambda n: n // 3,
    "negative": lambda n: -n,
}


@pytest.mark.parametrize("compute", ARITHMETIC.values(), ids=ARITHMETIC)
def test_what_is_computed_from_a_size_notes_too(compute: Any) -> None:
    seen = Compared()
    found = compute(_Size(20).of(seen))
    assert type(found) is _Size
    assert int(found) == compute(20)
    assert bool(found > 4) is (compute(20) > 4)
    assert [*seen.differences.values()] == [compute(20) - 4]
    assert not seen.looked_up


def test_what_is_no_whole_number_is_as_python_has_it() -> None:
    size = _Size(20).of(Compared())
    assert type(size / 8) is float
    assert size * 0.5 == 10.0
    assert size + 0.5 == 20.5
    assert not size.seen.looked_up


LOOKED_UP = {
    "a table": lambda n: {20: "twenty"}[n],
    "a set": lambda n: n in {20},
    "text": lambda n: str(n),
    "a text with it": lambda n: f"{n:>4}",
    "and": lambda n: n & 6,
    "and the other way": lambda n: 6 & n,
    "or": lambda n: n | 3,
    "or the other way": lambda n: 3 | n,
    "one of both": lambda n: n ^ 5,
    "one of both the other way": lambda n: 5 ^ n,
}


@pytest.mark.parametrize("look", LOOKED_UP.values(), ids=LOOKED_UP)
def test_a_size_that_is_looked_up_or_read_by_its_digits_is_noted(look: Any) -> None:
    seen = Compared()
    assert look(_Size(20).of(seen)) == look(20)
    assert seen.looked_up


def test_comparisons_of_one_line_are_told_apart_by_their_number() -> None:
    seen = Compared()
    size = _Size(20).of(seen)
    held = [size > n for n in (7, 30, 20)]
    assert held == [True, False, False]
    ((file, line, _), *_), numbers = [*seen.differences], [place[2] for place in seen.differences]
    assert numbers == [1, 2, 3]
    assert file.endswith("test_measured_sizes.py")
    assert {place[:2] for place in seen.differences} == {(file, line)}
    assert [*seen.differences.values()] == [13, -10, 0]


def test_sizes_of_a_tensor_are_what_torch_has() -> None:
    assert _Sizes((2, 4, 20)).numel() == 160
    assert _Sizes(()).numel() == 1


def watched(body: Any, *, dtype: torch.dtype = torch.float32) -> Compared:
    found = compared(Net(lambda m, x: body(x)), torch.zeros(2, 4, 20, dtype=dtype))
    assert found is not None
    return found


def differences(body: Any) -> list[float]:
    return sorted(watched(body).differences.values())


ENTRIES = {
    "a mask": (lambda x: torch.arange(3, 20) > 7, [-4, 12]),
    "a method": (lambda x: torch.arange(20).lt(7), [-7, 12]),
    "by name": (lambda x: torch.arange(20).clamp(max=30), [-30, -11]),
    "two numbers": (lambda x: torch.clamp(torch.arange(20), 2, 30), [-30, -11, -2, 17]),
    "fractions": (lambda x: torch.arange(20) >= 7.5, [-7.5, 11.5]),
    "a tensor": (lambda x: torch.arange(20) >= torch.arange(20), []),
    "no whole numbers": (lambda x: torch.arange(20.0) >= 7, []),
    "complex numbers": (lambda x: torch.ones(2, dtype=torch.complex64) * 2, []),
    "no entries": (lambda x: torch.arange(0) > 3, []),
    "truth values": (lambda x: torch.ones(3, dtype=torch.bool) > 0, []),
    "equal": (lambda x: torch.arange(20) == 7, []),
    "text and none": (lambda x: torch.arange(20).clamp(min=None, max=4), [-4, 15]),
}


@pytest.mark.parametrize(("body", "expected"), ENTRIES.values(), ids=ENTRIES)
def test_the_smallest_and_the_largest_of_whole_numbers_in_a_tensor_are_noted(body: Any, expected: list[float]) -> None:
    assert differences(body) == expected


SIZES = {
    "an axis of the shape": (lambda x: x.shape[-1] > 7, [13]),
    "a size": (lambda x: x.size(-1) > 7, [13]),
    "a size by name": (lambda x: x.size(dim=1) > 7, [-3]),
    "all sizes": (lambda x: x.size()[0] > 7, [-5]),
    "no size": (lambda x: x.dim() > 2, []),
}


@pytest.mark.parametrize(("body", "expected"), SIZES.values(), ids=SIZES)
def test_every_way_to_a_size_is_noted(body: Any, expected: list[float]) -> None:
    found = watched(lambda x: (body(x), x)[1])
    assert [*found.differences.values()] == expected
    assert not found.counted
    assert not found.looked_up


def test_the_number_of_samples_that_is_counted_is_noted() -> None:
    assert watched(lambda x: x * len(x)).counted


def test_looking_leaves_a_model_as_it_was_and_takes_its_errors_for_no_answer() -> None:
    modes: list[tuple[bool, bool]] = []

    def body(m: nn.Module, x: Tensor) -> Tensor:
        modes.append((m.training, torch.is_grad_enabled()))
        if x.shape[-1] > 20:
            raise ValueError("too long")
        return x * torch.rand(())

    model = Net(body).train()
    before = torch.get_rng_state()
    assert compared(model, torch.zeros(2, 4, 20)) is not None
    assert compared(model, torch.zeros(2, 4, 21)) is None
    assert modes == [(False, False)] * 2
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)


# --- where a comparison turns ---


def test_a_turn_is_aligned_before_it_on_its_side() -> None:
    more, fewer = Turn(30, 1), Turn(10, -1)
    assert more.before == Step(-1, 30)
    assert fewer.before == Step(1, -10)
    assert [n for n in range(1, 50) if more.before.out(n) > 0] == [*range(1, 30)]
    assert [n for n in range(1, 50) if fewer.before.out(n) > 0] == [*range(11, 50)]


def test_what_is_tried_behind_a_turn() -> None:
    assert Turn(32, 1).tried == [32, 33, 44]
    assert Turn(32, 1, beyond=90).tried == [32, 33, 44, 90]
    assert Turn(32, 1, beyond=33).tried == [32, 33, 44]
    assert Turn(32, -1).tried == [32, 31, 20]
    assert Turn(8, -1).tried == [8, 7]
    assert Turn(1, -1).tried == [1]
    assert Turn(9, -1, beyond=2).tried == [9, 8, 2]  # 9 - 1 - 8 is no length


def one(difference: float) -> Compared:
    found = Compared()
    found.differences = {("file", 0, 0): difference}
    return found


@pytest.mark.parametrize(
    ("here", "there", "expected"),
    [
        (float("inf"), float("inf"), []),
        (float("-inf"), 3, []),
        (-1, 19, [Turn(21, 1)]),
        (1, 21, [Turn(19, -1)]),
        (-0.5, 19.5, [Turn(21, 1)]),
        (0.5, 20.5, [Turn(19, -1)]),
        (20, 40, []),  # not at 0
        (19, 39, [Turn(1, -1)]),
        (19.5, 39.5, []),
    ],
)
def test_turns_beside_the_example_and_at_the_shortest_length(here: float, there: float, expected: list[Turn]) -> None:
    assert thresholds.turns(one(here), one(there), 20, 40) == expected


def test_a_comparison_that_is_made_at_one_size_only_does_not_turn() -> None:
    assert thresholds.turns(one(-5), Compared(), 20, 40) == []


def test_at_most_three_turns_of_either_side_are_looked_at() -> None:
    here, there = Compared(), Compared()
    turns = [21, 22, 23, 24, 18, 17, 16, 15]
    here.differences = {("file", n, 0): 20 - n for n in turns}
    there.differences = {("file", n, 0): 40 - n for n in turns}
    found = thresholds.turns(here, there, 20, 40)
    assert [(t.size, t.side) for t in found] == [(21, 1), (22, 1), (23, 1), (18, -1), (17, -1), (16, -1)]


def example_of(samples: int = 3, length: int = 20) -> tuple[Tensor, tuple[Action, ...]]:
    return torch.zeros(samples, 4, length), (Action((ax.batch(samples), ax.regular(4), ax.length(length))),)


def variants_of(body: Any, samples: int = 3, length: int = 20) -> Variants:
    example, actions = example_of(samples, length)
    return Variants(Net(lambda m, x: body(x)), (example,), actions)


def up_to(most: int) -> Any:
    def body(x: Tensor) -> Tensor:
        if x.shape[-1] > most:
            raise ValueError("too long")
        return x * (2 if x.shape[-1] > 50 else 1) * (2 if x.shape[0] >= 9 else 1)

    return body


@pytest.mark.parametrize(
    ("most", "other", "turning"),
    [
        (100, 40, [Turn(50, 1), Turn(100, 1)]),
        (39, 21, [Turn(39, 1), Turn(50, 1)]),
        (20, 19, [Turn(21, 1), Turn(50, 1), Turn(19, -1)]),
    ],
)
def test_another_length_is_the_double_or_a_neighbour_that_is_taken(most: int, other: int, turning: list[Turn]) -> None:
    variants = variants_of(up_to(most))
    survey = variants.survey()
    seen = seen_of(variants, survey)
    assert seen.other == other
    assert seen.here is not None
    assert seen.there is not None
    lengths, samples = thresholds.turns_of(variants, survey, seen)
    assert lengths == turning
    assert samples == [Turn(9, 1)]


def test_where_no_other_length_is_taken_or_forward_fails_nothing_turns() -> None:
    variants = variants_of(up_to(100))
    nothing = Survey(samples=1)
    seen = seen_of(variants, nothing)
    assert seen.here is not None
    assert (seen.other, seen.there) == (0, None)
    assert thresholds.turns_of(variants, nothing, seen)[0] == []
    assert thresholds.turns_of(variants, nothing, Seen(None, 0, None)) == ([], [])
    assert thresholds.turns_of(variants, Survey(), seen) == ([], [])
    fails = variants_of(up_to(2))
    assert seen_of(fails, Survey(samples=1)) == Seen(None, 0, None)


def test_a_number_of_samples_that_cannot_be_compared_is_tried_at_a_few() -> None:
    def body(x: Tensor) -> Tensor:
        return x * (1 if len(x) < 9 else 2)

    variants = variants_of(body)
    survey = variants.survey()
    _, samples = thresholds.turns_of(variants, survey, seen_of(variants, survey))
    assert samples == [Turn(16, 1), Turn(64, 1)]


def rests(body: Any, work: int = 1, length: int = 20) -> tuple[tuple[list[int], bool], list[int]]:
    """What `rests_of` finds, and the lengths at which forward was run for it."""
    variants = variants_of(body, length=length)
    survey = variants.survey()
    seen, tried = seen_of(variants, survey), list[int]()
    survey.start = Run((), frozenset(), ((work,),))
    given, thresholds.compared = thresholds.compared, lambda m, e: tried.append(e[0].shape[-1]) or given(m, e)
    try:
        found = rests_of(variants, survey, seen)
        return (found.lengths, found.all_tried), tried
    finally:
        thresholds.compared = given


def at_rest(divisor: int, rest: int) -> Any:
    return lambda x: x * (2 if x.shape[-1] % divisor == rest else 1)


@pytest.mark.parametrize(
    ("body", "found", "tried"),
    [
        (at_rest(7, 3), [24], [21, 22, 23, 24]),
        (at_rest(5, 0), [21], [25, 21]),  # holds on the example, and where nothing is left over
        (at_rest(6, 0), [24], [24]),
        (lambda x: x * (2 if x.shape[-1] // 2 % 3 == 2 else 1), [22], [24, 21, 22]),
        (lambda x: x * (2 if x.shape[0] % 2 == 0 else 1), [], []),
        (lambda x: x, [], []),
    ],
)
def test_the_lengths_at_which_a_rest_comes_out_otherwise(body: Any, found: list[int], tried: list[int]) -> None:
    assert rests(body) == ((found, True), tried)


def test_of_several_rests_each_is_looked_for() -> None:
    def body(x: Tensor) -> Tensor:
        n = x.shape[-1]
        return x * (2 if n % 3 == 0 else 1) * (2 if n % 7 == 1 else 1)

    assert rests(body) == (([21, 22], True), [21, 22])


def test_long_forwards_are_run_at_a_few_lengths_only() -> None:
    most = thresholds.MOST_WORK
    assert rests(at_rest(7, 3), work=most) == (([], False), [21, 22])
    assert rests(at_rest(7, 3), work=most // 4) == (([24], True), [21, 22, 23, 24])
    assert rests(at_rest(7, 3), work=most // 3) == (([], False), [21, 22, 23])
    found, tried = rests(lambda x: x * (2 if x.shape[-1] % 300 == 299 else 1))
    assert found == ([], False)
    assert len(tried) == thresholds.LARGEST


# --- the ladder ---


class Counted:
    """A forward by its size, as a ladder runs it."""

    def __init__(self, body: Any) -> None:
        self.tried: list[tuple[int, bool, bool]] = []
        self.body = body

    def ladder(self, training: bool = False) -> Any:
        def forward(m: nn.Module, x: Tensor) -> Tensor:
            self.tried.append((x.shape[-1], m.training, torch.is_grad_enabled()))
            return self.body(m, x)

        model = Net(forward, p=nn.Linear(1, 1))
        return ways._Ladder(model, lambda n: (torch.zeros(1, n),) if n < 200 else None, training)


def way_beyond(first: int, most: int = 10**6) -> Any:
    def body(m: Any, x: Tensor) -> Tensor:
        if x.shape[-1] > most:
            raise ValueError("too long")
        return x.cos() if len([0] * x.shape[-1]) >= first else x.sin()

    return body


def test_the_first_size_of_another_way_is_found_on_either_side() -> None:
    ladder = Counted(way_beyond(53)).ladder()
    assert ladder.turns(20, [30, 40, 80, 10, 5]) == [Turn(53, 1, 80)]
    ladder = Counted(way_beyond(7)).ladder()
    assert ladder.turns(20, [30, 10, 5, 2]) == [Turn(6, -1, 5)]
    ladder = Counted(way_beyond(7)).ladder()
    assert ladder.turns(3, [6, 7]) == [Turn(7, 1, 7)]


def test_each_size_is_run_once_in_the_mode_of_the_ladder_without_gradients() -> None:
    for training in (False, True):
        counted = Counted(way_beyond(53))
        ladder = counted.ladder(training)
        assert ladder.turns(20, [40, 40, 20, 0, -3, 300]) == []
        tried = [(int(n), *rest) for n, *rest in counted.tried]  # first with sizes as tensors
        assert tried == [(20, training, False)] * 2 + [(40, training, False)]
        assert ladder.found[300] is None


def test_sizes_that_forward_does_not_take_show_nothing() -> None:
    assert Counted(way_beyond(53, most=60)).ladder().turns(20, [40, 80]) == []
    assert Counted(way_beyond(53, most=10)).ladder().turns(20, [40, 80]) == []

    def gap(m: Any, x: Tensor) -> Tensor:
        if 45 < x.shape[-1] < 70:
            raise ValueError("none of these")
        return x.cos() if x.shape[-1] > 70 else x.sin()

    assert Counted(gap).ladder().turns(20, [40, 80]) == [Turn(41, 1, 80)]  # from the last that is known


def test_another_way_that_comes_back_turns_once() -> None:
    def body(m: Any, x: Tensor) -> Tensor:
        return x.cos() if 30 <= len([0] * x.shape[-1]) < 60 else x.sin()

    assert Counted(body).ladder().turns(20, [25, 40, 80]) == [Turn(30, 1, 40)]


def test_at_most_three_turns_of_a_side_are_taken_the_nearest() -> None:
    steps = [Tensor.sin, Tensor.cos, Tensor.tan, Tensor.exp, Tensor.abs, Tensor.neg]

    def body(m: Any, x: Tensor) -> Tensor:
        return steps[min(len([0] * x.shape[-1]) // 10, 5)](x)

    found = Counted(body).ladder().turns(5, [12, 22, 32, 42, 52])
    assert found == [Turn(10, 1, 12), Turn(20, 1, 22), Turn(30, 1, 32)]


def test_other_parameters_are_another_way() -> None:
    def body(m: Any, x: Tensor) -> Tensor:
        weight = m.p.weight if len([0] * x.shape[-1]) < 30 else m.p.bias
        return torch.mul(x, weight)

    assert Counted(body).ladder().turns(20, [40]) == [Turn(30, 1, 40)]


def test_what_functions_are_called_and_what_that_takes() -> None:
    seen = ways._Called()
    weight = nn.Parameter(torch.ones(3))
    with seen:
        y = torch.sin(torch.zeros(2, 3))
        y.max(-1)
        torch.mul(y, weight)
        y.dim()
        torch.is_tensor(y)
    assert seen.calls == 4  # the zeros too
    assert seen.work == 6 + 6 + 2 + 2 + 6
    assert ("reads", id(weight)) in seen.pairs
    names = [(getattr(a, "__name__", a), b.__name__) for a, b in seen.pairs if a != "reads"]
    assert sorted(names, key=str) == [("max", "mul"), ("sin", "max"), ("zeros", "sin"), (None, "zeros")]
    assert seen.last.__name__ == "mul"


def ladder_with(cost: dict[int, tuple[int, int]], work: int = 1000, calls: int = 100) -> Any:
    found = Counted(way_beyond(5)).ladder()
    found.cost, found.work, found.calls = cost, work, calls
    return found


@pytest.mark.parametrize(
    ("cost", "size", "cheap"),
    [
        ({}, 10**6, True),
        ({10: (100, 5)}, 100, True),  # in proportion: 1000
        ({10: (100, 5)}, 101, False),
        ({10: (100, 100)}, 100, True),  # calls stay
        ({10: (100, 101)}, 5, False),
        ({10: (1000, 5)}, 5, True),  # no less is expected for a shorter one
        ({10: (1001, 5)}, 5, False),
        ({10: (100, 5), 5: (25, 5)}, 31, True),  # as the square: 961
        ({10: (100, 5), 5: (25, 5)}, 32, False),
        ({10: (10, 20), 5: (5, 10)}, 50, True),  # calls in proportion too: 100
        ({10: (10, 20), 5: (5, 10)}, 51, False),
        ({10: (100, 5), 5: (100, 5), 1: (1, 1)}, 100, True),  # the two nearest are looked at
        ({10: (100, 5), 100: (10, 5)}, 90, True),  # the nearest is where it starts
    ],
)
def test_a_size_is_cheap_if_costs_grow_as_they_did(cost: Any, size: int, cheap: bool) -> None:
    assert ladder_with(cost)._is_cheap(size) is cheap
    ladder = ladder_with(cost)
    if size < 200:
        assert (ladder.way(size) is not None) is cheap


def test_what_a_run_takes_is_taken_from_what_is_left() -> None:
    ladder = Counted(lambda m, x: x.sin().cos()).ladder()
    assert (ladder.work, ladder.calls) == (ways.WORK, ways.CALLS)
    ladder.way(20)
    assert ladder.cost == {20: (40, 2)}
    assert (ladder.work, ladder.calls) == (ways.WORK - 40, ways.CALLS - 2)

    def fails(m: Any, x: Tensor) -> Tensor:
        x.sin()
        raise ValueError

    ladder = Counted(fails).ladder()
    assert ladder.way(20) is None
    assert ladder.cost == {}
    assert (ladder.work, ladder.calls) == (ways.WORK - 20, ways.CALLS - 1)


def test_the_lengths_of_a_ladder() -> None:
    plain = ways._lengths(24, Seen(Compared(), 48, None))
    assert plain == [16, 36, 12, 48, 8, 72, 6, 96, 4, 144, 3, 192, 2, 288, 1, 384, 1, 576, 0, 768]
    looked = Compared()
    looked.looked_up = True
    for seen in (Seen(looked, 48, None), Seen(Compared(), 48, looked)):
        found = ways._lengths(24, seen)
        assert found[: len(plain) + 4] == [*plain, 25, 23, 26, 22]
        assert max(found[len(plain) :]) == 24 + 255
    assert ways._lengths(24, Seen(None, 0, None)) == plain


def test_the_ladder_of_samples() -> None:
    def body(x: Tensor) -> Tensor:
        return x.cos() if int(len(x) ** 0.5) >= 5 else x.sin()

    variants = variants_of(body)
    assert ways.turns_of_samples(variants, 3) == [Turn(25, 1, 25)]
    assert ways.turns_of_samples(variants, None) == []


def branch(length: int, samples: int) -> Any:
    def body(x: Tensor) -> Tensor:
        return x.cos() if x.shape[-1] / length >= 1 and x.shape[0] / samples >= 1 else x.sin()

    return body


@pytest.mark.parametrize(
    ("samples", "lengths", "numbers"),
    [
        (1, [Turn(53, 1, 60)], []),
        (4, [Turn(53, 1, 60, samples=ways.TOGETHER)], []),
        (6, [], []),
    ],
)
def test_turns_by_way_with_few_samples_and_with_more(samples: int, lengths: list[Turn], numbers: list[Turn]) -> None:
    variants = variants_of(branch(53, samples))
    survey = variants.survey()
    assert ways.turns_by_way(variants, survey, Seen(None, 0, None)) == (lengths, numbers)


def test_no_ladder_is_run_where_forward_is_long_or_does_not_run() -> None:
    variants = variants_of(branch(53, 1))
    survey = variants.survey()
    assert ways.turns_by_way(variants, Survey(samples=1), Seen(None, 0, None)) == ([], [])
    most = ways.MOST_WORK // ways.OFTEN
    for work, found in ((most + 1, 0), (most, 1)):
        survey.start = Run((), frozenset(), ((work,),))
        assert len(ways.turns_by_way(variants, survey, Seen(None, 0, None))[0]) == found
    survey.accepted = []
    assert ways.turns_by_way(variants, survey, Seen(None, 0, None))[0] == []


def test_both_modes_are_looked_at_and_nothing_is_left_behind() -> None:
    variants = variants_of(lambda x: x.sin())
    seen: list[bool] = []
    variants.model.function = lambda m, x: (
        seen.append(m.training)
        or (  # type: ignore[assignment,func-returns-value]
            x.cos() if m.training and int(len(x) ** 0.5) >= 3 else x.sin() * torch.rand(())
        )
    )
    before = torch.get_rng_state()
    assert ways.turns_of_samples(variants, 3) == [Turn(9, 1, 10)]
    assert {*seen} == {False, True}
    assert torch.equal(torch.get_rng_state(), before)
    variants.model.function = lambda m, x: x.sin() if m.training or int(len(x) ** 0.5) < 3 else x.cos()
    assert ways.turns_of_samples(variants, 3) == [Turn(9, 1, 10)]


def test_the_example_at_a_length_with_some_samples() -> None:
    variants = variants_of(lambda x: x)
    for length, samples, shape in (
        (20, None, (3, 4, 20)),
        (20, 5, (5, 4, 20)),
        (30, None, (2, 4, 30)),
        (30, 5, (5, 4, 30)),
    ):
        (x,) = ways._at(variants, samples, length)  # type: ignore[misc]
        assert tuple(x.shape) == shape
    assert ways._at(variants, None, 0) is None


# --- variants of an example ---


def test_a_loop_counts_once_however_often_it_runs() -> None:
    assert without_repeats("abcd") == ("a", "b", "c", "d")
    assert without_repeats("aaab") == ("a", "a", "a", "b")
    assert without_repeats("aaaab") == without_repeats("aaaaaaab") == (("a",), "b")
    assert without_repeats("xababababy") == ("x", ("a", "b"), "y")
    assert without_repeats("abababxyxyxyxy") == ("a", "b", "a", "b", "a", "b", ("x", "y"))
    assert without_repeats([]) == ()
    turn = [str(i) for i in range(64)]
    assert without_repeats(turn * 4) == (tuple(turn),)
    assert len(without_repeats([*turn, "more"] * 4)) == 65 * 4


@pytest.mark.parametrize(
    ("length", "found"), [(19, [19]), (21, [21]), (40, [40]), (1, [1]), (0, []), (20, []), (-3, [])]
)
def test_the_lengths_of_one_input(length: int, found: list[int]) -> None:
    variants = [*variants_of(lambda x: x).at(length)]
    assert [v.length for v in variants] == found
    assert [v.sizes for v in variants] == [(n,) for n in found]
    for v in variants:
        assert v.words == f"length {length}"
        assert tuple(v.example[0].shape) == (2, 4, length)
        assert v.actions[0].shape == (2, 4, length)  # type: ignore[union-attr]


def two_inputs(a: int = 20, b: int = 10) -> Variants:
    (x, actions), (z, more) = example_of(3, a), example_of(3, b)
    return Variants(Net(lambda m, x: x), (x, z), (*actions, *more))


def test_of_two_inputs_both_or_each_alone_change() -> None:
    assert [v.sizes for v in two_inputs().at(24)] == [(24, 14), (24, 12), (24, 10), (20, 14)]
    assert [v.length for v in two_inputs().at(24)] == [24, 24, 24, 14]
    assert [v.words for v in two_inputs().at(24)] == [f"lengths {n}" for n in ("24, 14", "24, 12", "24, 10", "20, 14")]
    assert [v.sizes for v in two_inputs().at(23)] == [(23, 13), (23, 10), (20, 13)]  # no half
    assert [v.sizes for v in two_inputs().at(8)] == [(8, 4), (8, 10)]  # ten less are none
    assert [v.sizes for v in two_inputs(20, 20).at(24)] == [(24, 24), (24, 20), (20, 24)]
    assert [v.words for v in two_inputs(20, 20).at(24)] == ["length 24", "lengths 24, 20", "lengths 20, 24"]


def test_special_tokens_need_room() -> None:
    action = Action((ax.batch(3), ax.total([ax.trivial(1), ax.length(8), ax.trivial(1)])))
    assert ax.ends(action.axes[1]) is not None
    variants = Variants(Net(lambda m, x: x), (torch.zeros(3, 10, dtype=torch.int64),), (action,))
    assert [len([*variants.at(n)]) for n in (4, 3, 2, 1)] == [1, 1, 0, 0]


@pytest.mark.parametrize(("own", "given", "samples"), [(3, None, 2), (1, None, 1), (3, 5, 5), (2, 1, 1)])
def test_other_lengths_have_few_samples(own: int, given: int | None, samples: int) -> None:
    (found,) = variants_of(lambda x: x, samples=own).at(24, given)
    assert found.example[0].shape[0] == samples


def test_other_numbers_of_samples() -> None:
    for own, other, words in ((3, 1, "1 sample"), (2, 1, "1 sample"), (1, 2, "2 samples")):
        variants = variants_of(lambda x: x, samples=own)
        assert variants.batched
        assert variants.other_samples == other
        found = variants.with_samples(other)
        assert (found.words, found.length) == (words, 20)
        assert tuple(found.example[0].shape) == (other, 4, 20)
    alone = Variants(Net(lambda m, x: x), (torch.zeros(4, 20),), (Action((ax.regular(4), ax.length(20))),))
    assert not alone.batched
    assert (alone.samples, alone.longest) == (1, 20)
    assert alone.survey().samples is None
    assert tuple(next(alone.at(21)).example[0].shape) == (4, 21)


def test_what_is_no_tensor_or_keeps_its_size_is_handed_on() -> None:
    x, (action,) = example_of()
    table = torch.ones(4)
    given = (x, table, "word", table)
    actions = (action, None, None, Action((ax.trivial(4),)))
    (y, kept, word, same), moved = resized(given, actions, [{20: 24}, {}, {}, {}], 5)  # type: ignore[misc]
    assert tuple(y.shape) == (5, 4, 24)
    assert moved[0].shape == (5, 4, 24)  # type: ignore[union-attr]
    assert kept is table
    assert same is table
    assert word == "word"
    assert moved[1:] == (None, None, actions[3])
    (z,), _ = resized((x,), (action,), [{}], None)  # type: ignore[misc]
    assert z is x


@pytest.mark.parametrize(
    ("taken", "lengths"),
    [
        (lambda n: True, [19, 21, 22, 23, 24, 18, 17, 16, 28, 36, 52, 84, 10, 11, 40]),
        (lambda n: n % 10 == 0, [10, 40]),
        (lambda n: n % 148 == 0 or n == 20, [148]),  # none near: further off
    ],
)
def test_the_lengths_that_are_tried(taken: Any, lengths: list[int]) -> None:
    def body(x: Tensor) -> Tensor:
        if not taken(len([0] * x.shape[-1])):
            raise ValueError
        return x

    survey = variants_of(body).survey()
    assert [v.length for v in survey.accepted] == lengths
    assert (survey.samples, survey.ways, survey.gradients) == (1, [], False)


def test_a_survey_finds_ways_by_samples_lengths_and_gradients() -> None:
    def body(x: Tensor) -> Tensor:
        x = x.sin()
        x = torch.nn.functional.max_pool1d(x, 2) if x.shape[0] == 1 else x
        x = torch.nn.functional.avg_pool1d(x, 2) if x.shape[-1] > 22 else x
        return torch.nn.functional.max_pool1d(x, 2) if torch.is_grad_enabled() else x

    survey = variants_of(body).survey()
    assert survey.gradients
    assert [v.words for v in survey.ways] == ["1 sample", "length 23"]
    assert survey.samples == 2
    assert survey.start is not None
    assert survey.start.shapes[0][0] == 2


def test_a_forward_that_takes_its_own_number_of_samples_only_is_run_with_few() -> None:
    def body(x: Tensor) -> Tensor:
        if x.shape[0] == 1:
            raise ValueError
        return x.sin()

    survey = variants_of(body).survey()
    assert (survey.samples, survey.ways) == (2, [])
    assert survey.start == run_of(Net(lambda m, x: body(x)), (torch.zeros(2, 4, 20),))


def surveyed(*shapes: tuple[int, ...], start: tuple[int, ...] = (2, 4, 20)) -> Survey:
    def run(shape: tuple[int, ...]) -> Run:
        return Run((), frozenset(), (shape,))

    survey = Survey(start=run(start))
    survey.accepted = [Variant((), (), s[-1], "", run=run(s)) for s in shapes]
    return survey


def test_how_axes_change_between_lengths() -> None:
    survey = surveyed((2, 4, 22), (2, 3, 24), (2, 4))
    longer, narrower, another = survey.accepted
    assert [survey.changes(v) for v in survey.accepted] == [[0, 0, 2], [0, -1, 4], []]
    assert survey.moved(longer, 1) == {2}
    assert survey.moved(longer, -1) == survey.moved(another, 1) == frozenset()
    assert survey.moved(narrower, -1) == {1}
    assert survey.narrowest() == 4
    assert survey.narrowest(narrower.run) == 3
    assert survey.narrowest(another.run) == 10**9
    assert surveyed((2, 4, 20)).narrowest() == 10**9
    assert Survey().narrowest() == Survey().narrowest(longer.run) == 10**9
    assert Survey().changes(longer) == []
    assert survey.changes(Variant((), (), 3, "")) == []


def test_fractions_that_appear_at_other_lengths() -> None:
    def run(*fractions: float) -> Run:
        return Run((), frozenset(), (), frozenset(fractions))

    def survey(start: Run | None, *runs: Run | None) -> Survey:
        return Survey(start=start, accepted=[Variant((), (), 3, "", run=r) for r in runs])

    assert survey(run(), run(), run(0.3)).other_fractions
    assert survey(None, run(0.3)).other_fractions
    assert not survey(run(0.3, 0.7), run(0.3), None, run()).other_fractions


def test_what_a_run_made() -> None:
    run = Run((), frozenset(), ((2, 3), (), (4,)))
    assert run.work == 6 + 1 + 4
    assert run.sizes == [2, 3, 4]
    assert run.ranks == [2, 0, 1]


def test_the_shortest_length_that_shows_what_a_long_one_does() -> None:
    def body(x: Tensor) -> Tensor:
        return x.cumsum(-1)[..., ::64]

    variants = variants_of(body, samples=1, length=4096)
    survey = variants.survey()
    assert variants.short(survey, lambda n: True) is None  # forward is quick
    survey.start = Run(survey.start.way[0], survey.start.parameters, ((2**19 + 1,),))  # type: ignore[union-attr,arg-type]
    taken = len(survey.accepted)
    found = variants.short(survey, lambda n: n % 64 == 0)
    assert found is not None
    assert found.length == 128
    assert [v.length for v in survey.accepted[taken:]] == [128, 127, 129]


def test_modes_gradients_and_errors_of_a_run() -> None:
    seen: list[tuple[bool, bool]] = []

    def body(m: nn.Module, x: Tensor) -> Tensor:
        seen.append((m.training, torch.is_grad_enabled()))
        if x.shape[-1] == 3:
            raise ValueError
        return torch.rand(())

    model, before = Net(body).train(), torch.get_rng_state()
    assert run_of(model, (torch.zeros(2, 4, 20),)) is not None
    assert run_of(model, (torch.zeros(2, 4, 20),), gradients=True) is not None
    assert run_of(model, (torch.zeros(2, 4, 3),)) is None
    assert seen == [(False, False), (False, True), (False, False)]
    assert [run_quietly(model, (torch.zeros(2, 4, n),), mode) for n, mode in ((20, True), (3, True))] == [True, False]
    assert seen[-1] == (True, True)
    assert model.training
    before_quiet = torch.get_rng_state()
    assert not torch.equal(before, before_quiet)  # `run_quietly` leaves the random numbers to its caller
    run_of(model, (torch.zeros(2, 4, 20),))
    assert torch.equal(torch.get_rng_state(), before_quiet)


class Late(nn.Module):
    """Makes a parameter in its first call, and fails behind it in train mode, or always."""

    def __init__(self, fails: str = "") -> None:
        super().__init__()
        self.w, self.fails = nn.Parameter(torch.ones(3)), fails

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "late"):
            self.late = nn.Parameter(torch.ones(2))
        if self.fails == "always" or (self.fails == "training" and self.training):
            raise ValueError
        return x


@pytest.mark.parametrize("fails", ["", "training", "always"])
def test_parameters_that_forward_makes_are_named_and_not_kept(fails: str) -> None:
    model, before = Late(fails), torch.get_rng_state()
    assert changed_and_made(model, (torch.zeros(2, 4, 20),)) == ([], ["late"])
    assert made_in_forward(model, (torch.zeros(2, 4, 20),)) == ["late"]
    assert [name for name, _ in model.named_parameters()] == ["w"]
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_are_drawn_large_to_see_what_forward_bounds() -> None:
    class Bounded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.count = nn.Parameter(torch.zeros(8)), nn.Parameter(torch.tensor(3), requires_grad=False)
            self.none = nn.Parameter(torch.zeros(0))

        def forward(self, x: Tensor) -> Tensor:
            self.w.data.clamp_(-20, 20)
            return x

    model = Bounded()
    assert changed_and_made(model, (torch.zeros(2, 4, 20),)) == (["w"], [])
    assert bool((model.w == 0).all())


def noisy(x: Tensor) -> Tensor:
    warnings.warn("look", UserWarning, stacklevel=1)
    return x * torch.rand(())


LOOKS: dict[str, Any] = {
    "survey": lambda v: v.survey(),
    "another length": lambda v: v.try_at(24, Survey(samples=2), {}),
    "a run": lambda v: run_of(v.model, v.example),
    "a quiet run": lambda v: run_quietly(v.model, v.example, False) and torch.set_rng_state(START),
    "comparisons": lambda v: compared(v.model, v.example),
    "the ladder": lambda v: ways.turns_of_samples(v, 3),
    "what changes": lambda v: changed_and_made(v.model, v.example),
    "what is made": lambda v: made_in_forward(v.model, v.example),
}
START = torch.get_rng_state()


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_looking_draws_no_random_numbers_and_tells_nobody_of_warnings(look: Any) -> None:
    variants = variants_of(noisy)
    torch.set_rng_state(START)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        look(variants)
    assert told == []
    assert torch.equal(torch.get_rng_state(), START)
