"""What the axis algebra does at its edges: undoing, roles of products, sizes that do not nest, sizes of one."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch

from rcps_convert.algebra import axis as ax
from rcps_convert.algebra.action import Action
from rcps_convert.algebra.arguments import check_model, check_switch, checked_example
from rcps_convert.algebra.axis import SIGN, Leaf, Mismatch, Prod, Role, Var
from rcps_convert.algebra.nesting import input_actions
from rcps_convert.algebra.plain import plain_structure, read_structure
from rcps_convert.algebra.specs import Tracks
from rcps_convert.rules import pieces


def test_what_is_changed_twice_is_undone_to_what_it_was_first() -> None:
    v = Var(2)
    with contextlib.suppress(Mismatch), ax.attempt():
        ax.forbid_sign(v)
        ax.unify(v, ax.permutation([1, 0]))
        raise Mismatch
    assert (v.unsigned, v.ref) == (False, None)


def test_a_product_of_reversals_is_a_length_only_if_they_are() -> None:
    pair, triple = ax.permutation([1, 0]), ax.permutation([2, 1, 0])
    assert ax.role(ax.product([pair, triple])) is None
    assert not ax.is_length(ax.product([pair, triple]))
    assert ax.role(ax.product([ax.length(2), ax.length(3)])) is None or ax.is_length(
        ax.product([ax.length(2, Role("length", steps=None)), ax.length(3, Role("length", steps=None))])
    )


def test_channels_beside_swapped_directions_are_fixed() -> None:
    channels, alone = Var(4), Var(4)
    ax.settle_partnered([ax.product([ax.permutation([1, 0]), channels]), alone])
    assert ax.same(channels, ax.trivial(4))
    assert ax.free(alone) == [alone]


@pytest.mark.parametrize("pair", [ax.length(2), ax.product([ax.permutation([1, 0]), SIGN])])
def test_channels_beside_positions_stay_open(pair: ax.Axis) -> None:
    channels = Var(4)
    ax.settle_partnered([ax.product([pair, channels])])
    assert ax.free(channels) == ([channels] if ax.is_length(pair) else [])


def test_factors_that_do_not_nest_are_fixed_and_those_beside_them_are_not() -> None:
    known, open_one, beside = ax.permutation([4, 3, 2, 1, 0]), Var(5), [Var(n) for n in (4, 9, 9, 4)]
    ax.unify(ax.product([known, *beside[:2]]), ax.product([open_one, *beside[2:]]))
    assert ax.same(open_one, known)
    assert all(ax.same(v, ax.trivial(v.size)) for v in beside)


def test_an_axis_times_a_sign_is_not_the_axis() -> None:
    v = Var(3)
    with pytest.raises(Mismatch):
        ax.unify(v, Prod((v, SIGN)))
    one = Var(1)
    ax.unify(v, Prod((v, one)))
    assert ax.same(one, ax.trivial(1))


def test_an_axis_of_one_entry_is_regular_by_staying() -> None:
    assert ax.regular(1) == ax.trivial(1) == Leaf(1)


def test_a_spec_with_a_layout_has_the_reading_that_the_layout_says() -> None:
    free, stated = Tracks("+-"), Tracks("+-", layout="n l c")
    assert len(free.actions((2, 2, 2))) > 1
    (action,) = stated.actions((2, 2, 2))
    assert ax.is_length(action.axes[1])
    assert torch.equal(ax.indices(action.axes[2]), torch.tensor([1, 0]))


@pytest.mark.parametrize(
    ("term", "size", "found"),
    [
        (ax.length(6), 9, ax.length(9)),
        (ax.product([ax.length(6), ax.regular(4)]), 36, ax.product([ax.length(9), ax.regular(4)])),
        (ax.product([ax.regular(4), ax.batch(2)]), 12, ax.product([ax.regular(4), ax.batch(3)])),
        (ax.product([ax.length(6), ax.regular(4)]), 35, None),
        (ax.regular(4), 6, None),
        (ax.trivial(4), 6, ax.trivial(6)),
    ],
)
def test_an_axis_at_another_size(term: ax.Axis, size: int, found: ax.Axis | None) -> None:
    assert ax.resized(term, size) == found


# --- arguments --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "said"),
    [(None, "model= is None:"), (3, r"model= is a int \(3\):"), ({}, "a state_dict or another mapping")],
)
def test_what_is_no_model_is_named(model: object, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        check_model(model)


@pytest.mark.parametrize(("letters", "whole"), [(77, True), (78, False)])
def test_long_values_are_cut_to_eighty_characters(letters: int, whole: bool) -> None:
    with pytest.raises(TypeError) as caught:
        check_switch("verify", "a" * letters)
    shown = str(caught.value).removeprefix("verify=").removesuffix(": give True or False")
    assert len(shown) == 79 if whole else len(shown) == 80
    assert shown.endswith("'" if whole else "...")


def test_a_shape_stands_for_zeros() -> None:
    made = checked_example((2, 4, 6), torch.float32, torch.device("cpu"))
    assert isinstance(made, torch.Tensor)
    assert torch.equal(made, torch.zeros(2, 4, 6))


def test_what_is_no_tensor_has_no_layout() -> None:
    example = (torch.zeros(2, 6, 4), 5)
    specs, actions = input_actions(example, ("ACGT", "ACGT"), ("n l c", "n l c"))
    assert (specs[1], actions[1]) == (None, None)
    assert actions[0] is not None
    assert [ax.is_length(t) for t in actions[0].axes] == [False, True, False]


def test_sums_with_open_parts_are_described_part_by_part() -> None:
    assert ax.describe(ax.total([Var(2), ax.trivial(3)])) == "2 open + 3 fixed"


@pytest.mark.parametrize(("far", "found"), [(4095, [10000 - 4095, 10000 + 4095]), (4096, [])])
def test_nearest_lengths_are_looked_for_up_to_a_distance(far: int, found: list[int]) -> None:
    assert ax.nearest(10000, lambda n: abs(n - 10000) == far) == found


# --- what is asked of an action, it answers for its ids too ---

IDS = ax.permutation([1, 0, 2])


def bound(term: ax.Axis) -> Var:
    variable = Var(term.size)
    ax.unify(variable, term)
    return variable


@pytest.mark.parametrize("ids", [None, IDS])
@pytest.mark.parametrize(
    "asked",
    [
        lambda a: a.walk(),
        lambda a: a.with_axis(0, ax.length(6)),
        lambda a: a.replaced(lambda v: v),
        lambda a: a.resized((6,)),
        lambda a: a.resized((9,)),
    ],
    ids=["walk", "with_axis", "replaced", "resized to the same", "resized"],
)
def test_an_action_keeps_what_its_ids_are(asked: Any, ids: ax.Axis | None) -> None:
    made = asked(Action((ax.length(6),), ids and bound(ids)))
    assert (made.value is None) == (ids is None)
    assert ids is None or ax.same(made.value, ids)


def test_a_walked_action_holds_no_variable_that_is_bound() -> None:
    walked = Action((bound(ax.length(6)), Var(2)), bound(IDS)).walk()
    assert walked.value == IDS
    assert not isinstance(walked.axes[0], Var)
    assert isinstance(walked.axes[1], Var)


def types(value: Any) -> Any:
    """The nesting of a value, by type."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return type(value), [types(v) for v in inside]


@pytest.mark.parametrize(
    "value",
    [
        None, True, 3, 0.5, "x", [], (), {}, [1, "x"], (1, "x"), [(1,), [2]], ([1], (2,)), {"a": [1, (2,)]},
        {1: ({"b": []},), "c": None}, {(1, "x"): 2},
    ],
    ids=repr,
)  # fmt: skip
def test_arguments_come_back_from_a_recipe_in_the_same_nesting(value: Any) -> None:
    found = read_structure(plain_structure(value))
    assert found == value
    assert types(found) == types(value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64, torch.bool])
@pytest.mark.parametrize("shape", [(), (0, 4), (2, 4, 6)])
def test_tensors_come_back_from_a_recipe_as_zeros(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    (found,) = read_structure(plain_structure((torch.ones(shape, dtype=dtype),)))
    assert torch.equal(found, torch.zeros(shape, dtype=dtype))
    assert found.dtype == dtype


# --- a variable that is bound is what it is bound to ---

OPEN = Var(4)

TERMS = {
    "fixed": ax.trivial(4),
    "a length": ax.length(6),
    "samples": ax.batch(3),
    "pairs": ax.regular(4),
    "a table": ax.permutation([2, 1, 0]),
    "a sign": SIGN,
    "an open axis": OPEN,
    "signed pairs": ax.product([ax.regular(4), SIGN]),
    "an open factor": ax.product([OPEN, ax.trivial(3)]),
    "parts": ax.total([ax.trivial(2), ax.length(4)]),
    "an open part": ax.total([OPEN, ax.trivial(1)]),
}

QUESTIONS: dict[str, Any] = {
    "is_length": ax.is_length, "is_trivial": ax.is_trivial, "has_sign": ax.has_sign, "has_edge": ax.has_edge,
    "role": ax.role, "ends": ax.ends, "free": ax.free, "units": ax.units, "describe": ax.describe,
    "indices": lambda t: ax.indices(t).tolist() if not ax.free(t) else None,
    "signs": lambda t: None if ax.free(t) or ax.signs(t) is None else ax.signs(t).tolist(),
    "resized": lambda t: ax.resized(t, t.size), "replaced": lambda t: ax.replaced(t, lambda v: v),
    "is_open": pieces._is_open, "walk": ax.walk, "same": lambda t: ax.same(t, t),
}  # fmt: skip


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("term", TERMS)
def test_what_is_asked_of_a_bound_variable_is_answered_by_what_it_is_bound_to(term: str, question: str) -> None:
    asked, plain = QUESTIONS[question], TERMS[term]
    once, twice = Var(plain.size), Var(plain.size)
    ax.unify(once, plain)
    ax.unify(twice, once)
    expected = asked(plain)
    for variable in (once, twice):
        found = asked(variable)
        same = isinstance(found, (Leaf, Prod, ax.Sum, Var)) and ax.same(found, expected)
        assert same or str(found) == str(expected)
