"""The algebra, its texts and its words: each function by itself, value by value, judged by hand."""

from __future__ import annotations

from collections import UserDict
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rcps_convert import ConversionError
from rcps_convert.algebra import arguments, nesting, opened, printed, signed, texts
from rcps_convert.algebra import axis as ax
from rcps_convert.algebra.action import Action, ActionMap, act, covered
from rcps_convert.algebra.augment import ReverseComplementAugment
from rcps_convert.algebra.axis import SIGN, Leaf, Mismatch, Prod, Role, Step, Sum, Var
from rcps_convert.algebra.channels import Channels, UpperTriangle, mirrored_contacts
from rcps_convert.algebra.layouts import arrangements, axes_of, check_layout, inside
from rcps_convert.algebra.plain import listed, plain_setting, plain_structure, read_setting, tupled
from rcps_convert.algebra.runs import ENDS, PADDING, Runs, fitting, is_special, read_runs
from rcps_convert.algebra.specs import Invariant, Mask, OneHot, Permutation, Tokens, Tracks
from rcps_convert.errors import NeedsChoiceError

PAIR, BASES = ax.permutation([1, 0]), ax.permutation([3, 2, 1, 0])
X = torch.zeros(2, 4, 6)


def table(term: ax.Axis) -> list[int]:
    return ax.indices(term).tolist()


# --- steps ---


def test_what_an_operator_does_to_a_length() -> None:
    plain = Step(2, -3, 2)
    assert [plain.out(n) for n in (4, 5, 6)] == [2, 3, 4]
    assert [plain.aligned(n) for n in (1, 4, 5)] == [False, False, False]
    assert [n for n in range(1, 8) if Step(1, -1, 2).aligned(n)] == [3, 5, 7]  # 1 leaves no position
    assert plain.remainder(5) == "7 = 2*3 + 1"
    assert [Step(1, 0, only=5).aligned(n) for n in (4, 5)] == [False, True]
    assert not Step(1, 0, lopsided=True).aligned(4)
    assert [s.always for s in (Step(1, 3), plain, Step(1, 0, only=5), Step(1, 0, lopsided=True))] == [True] + [
        False
    ] * 3
    ceil = Step(1, 0, 2, ceil=0)  # kernel 2, stride 2, no padding
    assert [ceil.out(n) for n in (4, 5, 6)] == [2, 3, 3]
    padded = Step(1, 1, 3, ceil=1)  # kernel 4, stride 3, padding 1
    expected = [nn.functional.max_pool1d(torch.zeros(1, 1, n), 4, 3, 1, ceil_mode=True).shape[-1] for n in range(3, 14)]
    assert [padded.out(n) for n in range(3, 14)] == expected


def test_chains_and_the_nearest_lengths() -> None:
    chain = (Step(1, 0, 2), Step(1, 0, 3))
    assert [n for n in range(1, 20) if ax.follows(chain, n)] == [6, 12, 18]
    assert ax.follows((), 5)
    assert ax.nearest(9, lambda n: n % 6 == 0) == [6, 12]
    assert ax.nearest(3, lambda n: n == 0) == []
    assert ax.nearest(3, lambda n: n == 3) == []


# --- terms ---


@pytest.mark.parametrize(
    ("size", "offset", "found"),
    [(5, 0, [4, 3, 2, 1, 0]), (5, 1, [3, 2, 1, 0, 4]), (5, -2, [0, 1, 4, 3, 2]), (2, 3, [0, 1])],
)
def test_positions_with_an_offset(size: int, offset: int, found: list[int]) -> None:
    term = ax.positions(size, offset)
    assert table(term) == found
    assert ax.has_edge(term) is (offset != 0)
    assert ax.ends(ax.positions(5, 2)) == (0, 2)
    assert ax.ends(ax.positions(5, -2)) == (2, 0)


def test_regular_axes_of_odd_size() -> None:
    assert table(ax.regular(5)) == [2, 3, 0, 1, 4]
    assert ax.regular(0) == ax.trivial(0)
    with pytest.raises(ValueError, match=r"\[1, 2, 0\] is not an involution of 3 entries"):
        ax.permutation([1, 2, 0])
    with pytest.raises(ValueError, match="involution"):
        ax.permutation([0, 0])
    assert ax.permutation([0, 1]) == ax.trivial(2)
    assert ax.permutation([1, 0]) == Leaf(2, "reversed")


def test_products_in_normal_form() -> None:
    assert ax.product([ax.trivial(2), ax.trivial(3)]) == ax.trivial(6)
    assert ax.product([PAIR, PAIR]) == BASES
    assert ax.product([SIGN, PAIR, SIGN]) == PAIR
    assert ax.product([SIGN, PAIR]) == ax.product([PAIR, SIGN])
    assert ax.product([]) == ax.trivial(1)
    v = Var(1)
    assert ax.product([v, PAIR, v]) == PAIR
    assert ax.product([PAIR, ax.product([ax.trivial(2), SIGN])]) == Prod((PAIR, ax.trivial(2), SIGN))
    assert ax.role(ax.product([ax.batch(1), ax.trivial(1)])) == Role("batch")
    assert ax.role(ax.product([ax.batch(2), ax.batch(3)])) == Role("batch")
    lengths = ax.product([ax.length(2), ax.length(2)])
    assert ax.role(lengths) == Role("length", steps=None)


def test_sums_in_normal_form() -> None:
    assert ax.total([ax.trivial(2), ax.trivial(0), ax.trivial(3)]) == ax.trivial(5)
    assert ax.total([]) == ax.trivial(0)
    assert ax.total([PAIR, PAIR]) == Sum((PAIR, PAIR))
    assert ax.total([Sum((PAIR, ax.trivial(1))), ax.trivial(2)]) == Sum((PAIR, ax.trivial(3)))
    edge = Leaf(1, role=Role("edge"))
    assert len(ax.children(ax.total([edge, ax.trivial(1)]))) == 2
    assert ax.role(ax.total([ax.Leaf(2, role=ax.STANDING), ax.trivial(1)])) == ax.STANDING
    assert ax.role(ax.total([ax.trivial(1), ax.Leaf(2, role=ax.STANDING)])) == ax.STANDING


@pytest.mark.parametrize(
    ("term", "perm", "sign"),
    [
        (ax.product([PAIR, ax.trivial(2), SIGN]), [2, 3, 0, 1], [-1] * 4),
        (ax.total([SIGN, PAIR]), [0, 2, 1], [-1, 1, 1]),
        (ax.product([ax.total([SIGN, ax.trivial(1)]), PAIR]), [1, 0, 3, 2], [-1, -1, 1, 1]),
        (ax.product([ax.total([SIGN, ax.trivial(1)]), ax.total([SIGN, ax.trivial(1)])]), [0, 1, 2, 3], [1, -1, -1, 1]),
        (ax.total([PAIR, ax.length(3)]), [1, 0, 4, 3, 2], None),
    ],
)
def test_tables_and_signs_of_terms(term: ax.Axis, perm: list[int], sign: list[int] | None) -> None:
    assert table(term) == perm
    found = ax.signs(term)
    assert (None if found is None else found.tolist()) == sign
    assert ax.has_sign(term) is (sign is not None)
    assert ax.same(term, ax.product([term, SIGN, SIGN]))
    assert not ax.same(term, ax.product([term, SIGN]))
    assert not ax.same(term, ax.trivial(term.size + 1))


def test_which_terms_do_nothing() -> None:
    assert ax.is_trivial(ax.trivial(3))
    assert ax.is_trivial(Leaf(1, "reversed"))
    assert not ax.is_trivial(ax.length(1))
    assert not ax.is_trivial(SIGN)
    assert not ax.is_trivial(Var(2))
    assert not ax.is_trivial(ax.total([ax.length(1), ax.trivial(2)]))
    assert ax.is_trivial(Prod((Leaf(2, (0, 1)), ax.trivial(2))))
    with pytest.raises(ValueError, match="not known yet"):
        ax.indices(Var(2))


def test_entries_beside_the_positions_of_an_axis() -> None:
    whole = ax.total([ax.trivial(1), ax.length(4), ax.trivial(2)])
    assert ax.ends(whole) == (1, 2)
    assert ax.ends(ax.length(4)) == (0, 0)
    for none in (ax.trivial(4), ax.total([ax.length(2), ax.length(2)]), ax.total([PAIR, ax.length(2)]), Var(3)):
        assert ax.ends(none) is None
    grown = ax.resized(whole, 9)
    assert grown is not None
    assert ax.ends(grown) == (1, 2)
    assert grown.size == 9
    assert ax.resized(whole, 3) is None
    assert ax.units(ax.product([PAIR, SIGN])) == [SIGN]
    assert ax.units(PAIR) == []


# --- solving ---


def test_what_an_attempt_bound_is_undone_and_kept_for_the_one_around_it() -> None:
    a, b = Var(2), Var(2)

    def bind_and_fail() -> None:
        with ax.attempt():
            with ax.attempt():
                ax.unify(a, PAIR)
            assert a.ref is PAIR
            ax.unify(b, ax.trivial(3))

    with pytest.raises(Mismatch):
        bind_and_fail()
    assert a.ref is None
    with ax.attempt():
        ax.unify(a, PAIR)
    assert a.ref is PAIR


def test_a_sign_is_forbidden_all_through_a_term() -> None:
    inner, one = Var(3), Var(1)
    ax.forbid_sign(ax.product([inner, PAIR, one]))
    assert inner.unsigned
    assert ax.is_trivial(one)
    part, single = Var(2), Var(1)
    ax.forbid_sign(Sum((part, single)))
    assert part.unsigned
    assert ax.is_trivial(single)
    with pytest.raises(Mismatch, match="where signs are lost"):
        ax.forbid_sign(ax.total([SIGN, PAIR]))
    bound = Var(4, unsigned=True)
    target = Var(4)
    ax.unify(bound, target)
    assert target.unsigned
    with pytest.raises(Mismatch):
        ax.unify(Var(2, unsigned=True), ax.product([PAIR, SIGN]))


def test_open_factors_inside_a_length_become_positions() -> None:
    inner = Var(2)
    assert ax.lengthen(ax.product([ax.length(3), inner]))
    assert ax.is_length(inner)
    assert ax.lengthen(ax.length(3))
    outer = Var(2)
    assert not ax.lengthen(ax.product([outer, ax.length(3)]))
    assert ax.free(outer)
    beside = Var(2)
    assert not ax.lengthen(ax.product([ax.length(3), beside, ax.trivial(2)]))
    assert ax.free(beside)
    assert not ax.lengthen(Var(6))
    assert not ax.lengthen(ax.trivial(6))


@pytest.mark.parametrize(
    ("term", "sizes", "found"),
    [
        (ax.trivial(5), [2, 3], [[0, 1], [0, 1, 2]]),
        (ax.total([PAIR, ax.length(3)]), [2, 3], [[1, 0], [2, 1, 0]]),
        (ax.total([PAIR, PAIR, ax.trivial(2)]), [4, 1, 1], [[1, 0, 3, 2], [0], [0]]),
        (ax.permutation([1, 0, 3, 2]), [2, 2], [[1, 0], [1, 0]]),
        (ax.product([ax.trivial(3), PAIR]), [2, 4], [[1, 0], [1, 0, 3, 2]]),
        (ax.length(4), [0, 4, 0], [[], [3, 2, 1, 0], []]),
        (ax.product([ax.trivial(2), ax.total([PAIR, ax.trivial(1)])]), [2, 1, 3], [[1, 0], [0], [1, 0, 2]]),
    ],
)
def test_pieces_of_a_term(term: ax.Axis, sizes: list[int], found: list[list[int]]) -> None:
    assert [table(p) for p in ax.split(term, sizes)] == found


@pytest.mark.parametrize(
    ("term", "sizes", "words"),
    [
        (ax.trivial(5), [2, 2], r"pieces \[2, 2\] do not add up to 5"),
        (ax.permutation([0, 2, 1, 3]), [2, 2], "entries cross the boundary of a piece of 2 at 0"),
        (ax.regular(4), [2, 2], "1 pair: entries cross"),
        (ax.length(4), [1, 3], "4 reversed: entries cross the boundary of a piece of 1 at 0"),
    ],
)
def test_pieces_that_reverse_complement_tears_apart(term: ax.Axis, sizes: list[int], words: str) -> None:
    with pytest.raises(Mismatch, match=words):
        ax.split(term, sizes)


def test_pieces_of_an_open_axis_stay_as_open_as_it_was() -> None:
    v = Var(5, unsigned=True)
    a, none, b = ax.split(v, [2, 0, 3])
    assert [a.size, none.size, b.size] == [2, 0, 3]
    assert a.unsigned  # type: ignore[attr-defined]
    assert ax.free(v) == [a, b]


@pytest.mark.parametrize(
    ("term", "outer", "inner", "found"),
    [
        (ax.trivial(6), 2, 3, ([0, 1], [0, 1, 2])),
        (BASES, 2, 2, ([1, 0], [1, 0])),
        (ax.regular(6), 2, 3, ([1, 0], [0, 1, 2])),
        (ax.permutation([1, 0, 3, 2]), 2, 2, ([0, 1], [1, 0])),
        (ax.total([PAIR, PAIR, PAIR]), 3, 2, ([0, 1, 2], [1, 0])),
        (ax.total([ax.product([PAIR, PAIR]), PAIR]), 3, 2, ([1, 0, 2], [1, 0])),
        (ax.product([PAIR, ax.trivial(6)]), 4, 3, ([2, 3, 0, 1], [0, 1, 2])),
        (ax.regular(6), 6, 1, ([3, 4, 5, 0, 1, 2], [0])),
        (ax.regular(6), 1, 6, ([0], [3, 4, 5, 0, 1, 2])),
    ],
)
def test_a_term_as_a_product(term: ax.Axis, outer: int, inner: int, found: Any) -> None:
    o, i = ax.factor(term, outer, inner)
    assert (table(o), table(i)) == found


def test_a_term_that_is_no_product() -> None:
    with pytest.raises(Mismatch, match="6 is not 2 x 2"):
        ax.factor(ax.trivial(6), 2, 2)
    with pytest.raises(Mismatch, match="is not a product of 2 x 2"):
        ax.factor(ax.permutation([0, 2, 1, 3]), 2, 2)
    assert ax.factor_into(ax.trivial(6), []) == []
    sign = Var(1)
    assert ax.factor_into(sign, [1, 1]) == [sign, ax.trivial(1)]
    assert [table(t) for t in ax.factor_into(ax.product([PAIR, ax.trivial(3), PAIR]), [2, 3, 2])] == [
        [1, 0],
        [0, 1, 2],
        [1, 0],
    ]
    o, i = ax.factor(ax.length(6), 2, 3)
    assert ax.role(o) == ax.role(i) == Role("length", steps=None)
    v = Var(6, unsigned=True)
    a, b = ax.factor(v, 2, 3)
    assert (a.unsigned, b.unsigned) == (True, True)  # type: ignore[attr-defined]


def test_terms_that_agree_and_those_that_do_not() -> None:
    a, b = Var(2), Var(3)
    ax.unify(ax.product([a, b]), ax.product([PAIR, ax.trivial(3)]))
    assert (table(a), table(b)) == ([1, 0], [0, 1, 2])
    left, right = Var(2), Var(3)
    ax.unify(Sum((left, right)), ax.total([PAIR, ax.length(3)]))
    assert (table(left), ax.is_length(right)) == ([1, 0], True)
    with pytest.raises(Mismatch, match="sizes 2 and 3"):
        ax.unify(PAIR, ax.trivial(3))
    with pytest.raises(Mismatch, match="1 pair against 2 fixed"):
        ax.unify(PAIR, ax.trivial(2))
    s, t = Var(1), Var(1)
    ax.unify(ax.product([PAIR, s, t]), ax.product([PAIR, SIGN]))
    ax.unify(t, SIGN)
    assert ax.is_trivial(s)
    with pytest.raises(Mismatch, match="one side changes sign"):
        ax.unify(
            ax.product([Var(2, unsigned=True), SIGN, Var(1, unsigned=True)]),
            ax.product([Var(2), Var(1, unsigned=True)]),
        )


def test_what_stays_open_becomes_regular_in_one_factor() -> None:
    a, b, c = Var(3), Var(4), Var(2)
    whole = ax.product([a, b, c])
    ax.settle([whole])
    assert [ax.is_trivial(v) for v in (a, b, c)] == [True, False, True]
    assert table(b) == [2, 3, 0, 1]
    odd = Var(3), Var(5)
    ax.settle([ax.product(odd)])
    assert table(odd[0]) == [1, 0, 2]
    assert ax.is_trivial(odd[1])
    first, second = Var(2), Var(4)
    ax.settle([ax.product([first, second])], [[second]])
    assert ax.is_trivial(first)
    assert table(second) == [2, 3, 0, 1]
    x, y, z = Var(2), Var(4), Var(6)
    ax.settle([ax.product([x, y]), z], [[y, z]])  # z is left to the group
    assert table(x) == [1, 0]
    assert ax.is_trivial(y)
    p, q = Var(2), Var(4)
    ax.settle([ax.total([p, q])])
    assert (table(p), table(q)) == ([1, 0], [2, 3, 0, 1])


def test_an_axis_that_swaps_all_beside_it_fixes_what_is_open() -> None:
    for pair, fixed in ((PAIR, True), (BASES, True), (ax.permutation([2, 1, 0]), False), (ax.trivial(2), False)):
        v = Var(3)
        ax.settle_partnered([ax.product([pair, v])])
        assert bool(ax.free(v)) is not fixed


# --- actions on tensors ---


def test_actions_at_other_sizes_and_what_they_are() -> None:
    action = Action((ax.batch(2), ax.regular(4), ax.length(6)))
    grown = action.resized((3, 4, 9))
    assert grown is not None
    assert grown.shape == (3, 4, 9)
    assert action.resized((3, 6, 9)) is None
    assert action.resized((3, 4)) is None
    assert str(action) == "(batch of 2, 2 pairs, 6 reversed)"
    assert str(Action((ax.length(3),), BASES)) == "(3 reversed) of ids (2 pairs)"
    assert Action((ax.trivial(3),)).is_trivial()
    assert not Action((ax.trivial(3),), BASES).is_trivial()
    assert Action((ax.trivial(3),), ax.trivial(4)).is_trivial()
    assert Action((ax.product([ax.trivial(3), SIGN]), ax.batch(2))).is_negation()
    assert not Action((ax.product([ax.trivial(3), SIGN]), SIGN)).is_negation()
    assert not Action((ax.product([PAIR, SIGN]),)).is_negation()
    assert not Action((ax.product([ax.trivial(3), SIGN]), PAIR)).is_negation()
    assert not Action((ax.product([ax.trivial(3), SIGN]),), BASES).is_negation()
    assert not Action((ax.trivial(3),)).is_negation()


def test_tensors_under_reverse_complement() -> None:
    x = torch.arange(24.0).view(2, 4, 3)
    action = Action((ax.batch(2), ax.permutation([1, 0, 2, 3]), ax.length(3)))
    assert torch.equal(act(action, x), x[:, [1, 0, 2, 3]].flip(2))
    longer = torch.arange(40.0).view(2, 4, 5)
    assert torch.equal(act(action, longer), longer[:, [1, 0, 2, 3]].flip(2))
    for wrong, words in ((x[:, :3], "3 entries on axis 1 instead of 4"), (x[0], "2 axes instead of 3")):
        with pytest.raises(ConversionError, match=words) as refused:
            act(action, wrong)
        assert str(tuple(wrong.shape)) in refused.value.what
        assert "known for (2, 4, 3)" in str(refused.value.got)
    signed_ = Action((ax.total([SIGN, ax.trivial(1)]), ax.trivial(2)))
    assert act(signed_, torch.ones(2, 2)).tolist() == [[-1, -1], [1, 1]]
    assert act(Action((SIGN, ax.product([ax.trivial(2), SIGN]))), torch.ones(1, 2)).tolist() == [[1, 1]]
    assert act(Action((SIGN, ax.trivial(2))), torch.ones(1, 2)).tolist() == [[-1, -1]]
    ids = act(Action((ax.length(4),), BASES), torch.tensor([0, 1, 3, -100]))
    assert ids.tolist() == [-100, 0, 2, 3]
    ended = Action((ax.total([ax.trivial(1), ax.length(3), ax.trivial(2)]),))
    assert act(ended, torch.arange(6)).tolist() == [0, 3, 2, 1, 4, 5]
    assert act(ended, torch.arange(7)).tolist() == [0, 4, 3, 2, 1, 5, 6]
    wide = Action((ax.product([ax.length(2), ax.length(3)]),))
    assert act(wide, torch.arange(6)).tolist() == [5, 4, 3, 2, 1, 0]


def test_positions_beyond_the_known_length_are_refused() -> None:
    places = Action((ax.length(3),), ax.length(4))
    assert act(places, torch.tensor([0, 3, 1])).tolist() == [2, 0, 3]
    with pytest.raises(ConversionError, match="position 4 of a sequence has no mirror image: known for 4 positions"):
        act(places, torch.tensor([0, 4, 1]))
    assert act(Action((ax.length(0),), ax.length(4)), torch.zeros(0, dtype=torch.int64)).numel() == 0


def test_orders_of_samples() -> None:
    rows = torch.tensor([[1, 0, 2], [2, 1, 0]])
    x = torch.arange(6.0).view(2, 3)
    mapped = ActionMap(Action((ax.batch(2), ax.length(3))))
    assert mapped(x, [rows]).tolist() == [[1, 0, 2], [5, 4, 3]]
    assert mapped(x, [torch.zeros(2, 4, dtype=torch.int64)]).tolist() == [[2, 1, 0], [5, 4, 3]]
    turned = ActionMap(Action((ax.length(3), ax.batch(2))))
    assert turned(x.T, [rows], batch=1).T.tolist() == [[1, 0, 2], [5, 4, 3]]
    assert fitting([rows], 3, 2) is rows
    assert fitting([rows], 3, 1) is rows
    assert fitting([rows], 3, 5) is None
    assert fitting([rows], 4, 2) is None


def test_positions_without_a_partner_are_left_out() -> None:
    x = torch.arange(5)
    assert covered(Action((ax.positions(5, 1),)), x).tolist() == [0, 1, 2, 3]
    assert covered(Action((ax.positions(5, -2),)), x).tolist() == [2, 3, 4]
    assert covered(Action((ax.length(5),)), x) is x
    assert covered(Action((ax.positions(5, 1),)), x[None]).shape == (1, 5)


def test_padding_and_special_tokens_stay() -> None:
    runs = Runs(1, 1, (9,))
    ids = torch.tensor([[7, 1, 2, 3, 8, 9], [9, 9, 7, 1, 2, 8]])
    assert ids.gather(1, runs.order(ids)).tolist() == [[7, 3, 2, 1, 8, 9], [9, 9, 7, 2, 1, 8]]
    assert read_runs(runs.plain()) == runs
    assert runs.plain() == {"prefix": 1, "suffix": 1, "pads": [9]}
    two = Runs(0, 0, (8, 9))
    assert two.order(torch.tensor([[8, 1, 2, 9]])).tolist() == [[0, 2, 1, 3]]
    words = {"[CLS]": ENDS, "</s>": ENDS, "<|endoftext|>": ENDS, "[PAD]": PADDING, "<padding>": PADDING}
    for text, kind in words.items():
        assert is_special(text, kind)
        assert not is_special(text, ENDS if kind is PADDING else PADDING)
    assert not is_special("CLS", ENDS)
    assert not is_special("[class]", ENDS)


# --- signed tables ---


@pytest.mark.parametrize(
    ("perm", "signs"),
    [
        ([1, 0, 2], [1, 1, -1]),
        ([1, 0], [-1, -1]),
        ([0, 1, 2, 3], [1, -1, 1, -1]),
        ([2, 3, 0, 1], [1, -1, 1, -1]),
        ([0], [-1]),
        ([1, 0, 3, 2], [-1, -1, 1, 1]),
    ],
)
def test_signed_tables(perm: list[int], signs: list[int]) -> None:
    term = signed.signed_permutation(perm, signs)
    assert table(term) == perm
    found = ax.signs(term)
    assert (found.tolist() if found is not None else [1] * len(perm)) == signs
    assert table(signed.without_signs(term)) == perm
    assert not ax.has_sign(signed.without_signs(term))


@pytest.mark.parametrize(
    ("perm", "signs", "words"),
    [
        ([1, 0], [1, -1], "have the same sign"),
        ([2, 3, 0, 1, 4], [1, -1, 1, -1, 1], None),
        ([1, 2, 0], [1, 1, 1], "involution"),
        ([4, 3, 2, 1, 0], [1, -1, 1, -1, 1], "reorder"),
    ],
)
def test_signed_tables_that_are_none(perm: list[int], signs: list[int], words: str | None) -> None:
    if words is None:
        assert table(signed.signed_permutation(perm, signs)) == perm
    else:
        with pytest.raises(ValueError, match=words):
            signed.signed_permutation(perm, signs)


# --- texts ---


TERMS = {
    "8": ax.trivial(8),
    "8r": Leaf(8, "reversed"),
    "[1 0 3 2]": Leaf(4, (1, 0, 3, 2)),
    "-": SIGN,
    "75r@length(75)": ax.length(75),
    "24r@length(75: 1 -4, 1 0 3)": ax.length(24, Role("length", 75, (Step(1, -4), Step(1, 0, 3)))),
    "24r@length(75: ?)": ax.length(24, Role("length", 75, None)),
    "24r@length(75: 1 0 only=75)": ax.length(24, Role("length", 75, (Step(1, 0, only=75),))),
    "24r@length(75: 1 0 2 ceil=1 lopsided)": ax.length(24, Role("length", 75, (Step(1, 0, 2, ceil=1, lopsided=True),))),
    "2@batch": ax.batch(2),
    "3@standing": Leaf(3, role=ax.STANDING),
    "4r@length(5: ?) + 1@edge": ax.positions(5, 1),
    "2r * 3": ax.product([PAIR, ax.trivial(3)]),
    "2r * 3 + 1": ax.total([ax.product([PAIR, ax.trivial(3)]), ax.trivial(1)]),
    "2 * (2r + 1)": ax.product([ax.trivial(2), ax.total([PAIR, ax.trivial(1)])]),
    "[1 0 2] * -": ax.product([ax.permutation([1, 0, 2]), SIGN]),
}


@pytest.mark.parametrize("text", TERMS)
def test_texts_of_terms(text: str) -> None:
    term = TERMS[text]
    assert texts.write_axis(term) == text
    again = texts.read_axis(text)
    assert again == term
    assert ax.role(again) == ax.role(term)
    assert texts.read_action(f"({text}, 2)") == Action((term, ax.trivial(2)))
    assert texts.read_action(f"({text}) of ids 4r") == Action((term,), BASES)
    assert texts.write_action(Action((term,), BASES)) == f"({text}) of ids 4r"
    assert texts.read_axis(text.replace(" ", "  ").replace("(", " ( ")) == term


def test_texts_of_actions_and_steps() -> None:
    assert texts.write_action(Action(())) == "()"
    assert texts.read_action("()") == Action(())
    for text in ("1 -4", "1 0 3", "2 1 only=5", "1 0 2 ceil=1", "1 0 lopsided"):
        assert texts.write_step(texts.read_step(text)) == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("8 9", "'9' is left over"),
        ("", "'its end' stands where a size is expected"),
        ("x", "'x' stands where a size"),
        ("(2", "'its end' stands where ) is expected"),
        ("[1 2 0]", "involution"),
        ("[1 x]", "stands where a number"),
        ("2@strand", "'strand' stands where length or batch or edge or standing is expected"),
        ("2 +", "a size is expected"),
        ("2r@length(5: 1)", "a number is expected"),
    ],
)
def test_what_is_no_text_of_a_term(text: str, why: str) -> None:
    with pytest.raises(ConversionError) as refused:
        texts.read_axis(text)
    assert refused.value.what == f"{text!r} is no text of an axis"
    assert why in str(refused.value.why)
    with pytest.raises(ConversionError, match="no text of an action"):
        texts.read_action(f"({text}" if text != "(2" else text)


def test_what_is_no_text_at_all() -> None:
    for read in (texts.read_axis, texts.read_action, texts.read_step):
        with pytest.raises(ConversionError) as refused:
            read(3)  # type: ignore[arg-type]
        assert refused.value.why == "it is a int"
    for write, of in ((texts.write_axis, Var(2)), (texts.write_action, Action((Var(2),)))):
        with pytest.raises(ValueError, match="not known yet"):
            write(of)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("term", "words"),
    [
        (Var(3), "3 open"),
        (ax.length(5), "5 reversed"),
        (ax.batch(2), "batch of 2"),
        (ax.trivial(0), "empty"),
        (ax.product([ax.length(5), SIGN]), "5 reversed and negated"),
        (ax.positions(5, 1), "4 reversed + 1 at the edge"),
        (Leaf(3, role=ax.STANDING), "3 standing"),
        (ax.total([SIGN, ax.trivial(2), PAIR]), "1 pair + 2 fixed + 1 negated"),
        (ax.product([PAIR, SIGN]), "1 pair with signs"),
        (ax.product([ax.length(5), PAIR, ax.trivial(2)]), "(5 reversed) x (2 pairs)"),
        (ax.product([Var(3), PAIR]), "(3 open) x (1 pair)"),
        (ax.total([ax.length(3), ax.trivial(1)]), "3 reversed + 1 fixed"),
        (BASES, "2 pairs"),
    ],
)
def test_terms_in_words(term: ax.Axis, words: str) -> None:
    assert ax.describe(term) == words


# --- specs and their nesting ---


def test_layouts_that_fit_a_shape() -> None:
    assert arrangements((2, 4, 9), ["c", "l"], 4) == [("n", "c", "l")]
    assert arrangements((2, 4, 4), ["c", "l"], 4) == [("n", "c", "l"), ("n", "l", "c")]
    assert arrangements((4, 9), ["c", "l"], 4) == [("c", "l")]
    assert arrangements((2, 1, 4, 9), ["c", "l"], 4) == [("n", "1", "c", "l")]
    assert arrangements((2, 3, 4, 9), ["c", "l"], 4) == []
    assert arrangements((2, 5, 9), ["c", "l"], 4) == []
    assert axes_of("n (c l) 1") == ("n", "(c l)", "1")
    assert inside("(c l)") == ["c", "l"]
    for bad in ("", "n x", "n ()", "n (c", "nc l"):
        with pytest.raises(NeedsChoiceError):
            check_layout(bad)
    with pytest.raises(TypeError, match="layout=3"):
        check_layout(3)
    check_layout("auto")


def test_readings_of_specs() -> None:
    flat = OneHot("ACGT", layout="n (l c)").action((2, 12))
    assert flat.shape == (2, 12)
    assert table(flat.axes[1]) == [11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert table(Tracks("+-", layout="n (c l)").action((2, 6)).axes[1]) == [5, 4, 3, 2, 1, 0]
    for spec, shape, words in (
        (OneHot("ACGT"), (2, 4, 4), 'can be read as "n c l" or "n l c"'),
        (OneHot("ACGT"), (2, 5, 9), "no axis of shape"),
        (OneHot("ACGT", layout="n c l"), (2, 5, 9), "does not fit shape"),
        (OneHot("ACGT", layout="n l"), (2, 9), "does not fit shape"),
        (OneHot("ACGT", layout="n (l c)"), (2, 10), "does not fit shape"),
    ):
        with pytest.raises(NeedsChoiceError, match=words):
            spec.action(shape)
    assert len(OneHot("ACGT").actions((2, 4, 4))) == 2
    assert OneHot("ACGT").actions((2, 5, 9)) == []
    assert [ax.role(t) is not None for t in Mask().action((2, 1, 5, 5)).axes] == [True, False, True, True]


def test_several_kinds_of_channels() -> None:
    spec = Channels("ACGT", "+-", "..")
    assert table(spec.channel()) == [3, 2, 1, 0, 5, 4, 6, 7]
    assert len(spec.parts()) == 3
    assert len(Channels(spec, "+-").parts()) == 4
    assert str(spec).startswith("channels ")
    for parts in ((), ("invariant",), (Tracks("+-", offset=1),), (UpperTriangle(),)):
        with pytest.raises(ValueError, match=r"Channels\("):
            Channels(*parts)


def test_contacts_above_a_diagonal() -> None:
    assert mirrored_contacts(3, 0) == [5, 4, 2, 3, 1, 0]
    assert mirrored_contacts(4, 2) == [2, 1, 0]
    spec = UpperTriangle(2)
    assert [spec.bins(n) for n in (0, 1, 2, 3, 6)] == [None, 3, None, 4, 5]
    assert table(spec.action((2, 3)).axes[1]) == [2, 1, 0]
    assert table(UpperTriangle(2, "+-").action((2, 2, 3)).axes[1]) == [1, 0]
    assert UpperTriangle(2, "+-").forms() == "n (batch), c (2 tracks) and l (contacts above diagonal 2)"
    for bad in (-1, True, 1.0):
        with pytest.raises(ValueError, match="diagonal"):
            UpperTriangle(bad)  # type: ignore[arg-type]
    assert UpperTriangle(0).bins(6) == 3
    with pytest.raises(NeedsChoiceError, match="4 contacts are no triangle above diagonal 2"):
        spec.along(4)


def test_specs_are_kept_as_plain_values() -> None:
    for spec in (
        OneHot("ACGT", "n c l"),
        Tracks("+-", offset=1),
        Tokens("ACGTN", prefix=1),
        Channels("ACGT", "+-"),
        UpperTriangle(1),
        Mask(1, 0),
        Permutation([1, 0], [-1, -1]),
        Invariant(),
    ):
        again = read_setting(plain_setting(spec))
        assert again == spec
        assert type(again) is type(spec)
    assert plain_setting((1, [True, None], {"a": "x"}, len)) == [1, [True, None], {"a": "x"}, {"function": "len"}]
    assert read_setting([1, {"a": [2]}]) == (1, {"a": (2,)})
    assert listed({"a": (1, 2), "b": 3}) == {"a": [1, 2], "b": 3}
    assert tupled({"a": [1, 2], "b": 3}) == {"a": (1, 2), "b": 3}
    with pytest.raises(ConversionError, match="the spec Lost is not known"):
        read_setting({"spec": "Lost"})
    with pytest.raises(ConversionError, match="an argument of the model is a object"):
        plain_structure(object())


def test_specs_are_laid_over_nested_arguments() -> None:
    z = torch.zeros(2, 3)
    assert nesting.lay_over("a", (X, 3), "inputs") == ["a", "a"]
    assert nesting.lay_over({"a": "x", "b": ["y", "z"]}, {"b": (X, z), "a": X}, "inputs") == ["y", "z", "x"]
    assert nesting.lay_over(("x", "y"), [X, 3], "inputs") == ["x", "y"]
    for given, structure, words in (
        ("ACGT", (X, z), "one spec for 2 tensors: inputs='ACGT'"),
        (("ACGT",), (X, z), "does not match the tensors"),
        ({"a": "x"}, {"b": X}, "does not match"),
        (("x",), X, "does not match"),
    ):
        with pytest.raises(NeedsChoiceError) as refused:
            nesting.lay_over(given, structure, "inputs")
        assert words in refused.value.what
    with pytest.raises(NeedsChoiceError) as refused:
        nesting.lay_over("ACGT", {"a": X, "b": (z, torch.zeros(2, 5, dtype=torch.int64), None)}, "inputs")
    assert 'such as inputs={"a": "ACGT", "b": ("invariant", Tokens(...), None)}; "mask" is' in str(refused.value.do)
    with pytest.raises(NeedsChoiceError) as refused:
        nesting.lay_over(("a",), {"a": X, "b": (z, 3)}, "outputs")
    assert refused.value.got == "{'a': (2, 4, 6), 'b': ((2, 3), 3)}"
    assert str(refused.value.do).endswith('such as outputs={"a": "auto", "b": ("auto", None)}')
    for wrong in (None, 3):
        with pytest.raises(TypeError, match="inputs="):
            nesting.lay_over(wrong, X, "inputs")


def test_names_of_arguments_and_outputs() -> None:
    assert nesting.leaf_names((X, {"a": [X, X]})) == ["0", "1.a.0", "1.a.1"]
    assert nesting.leaf_names({"dna": X}) == ["dna"]
    assert nesting.leaf_names(X) == nesting.structure_names(X) == ["0"]
    assert nesting.output_fields({"a": X, "b": {"c": X}}) == ["a", "b.c"]
    assert nesting.output_fields({"a": [X]}) == []
    assert nesting.output_fields((X,)) == []
    assert nesting.output_specs("auto", (X, X)) == ["auto", "auto"]
    assert nesting.output_specs(("auto", "invariant"), (X, X))[0] == "auto"
    (scores,) = nesting.output_specs(Tokens("ACGT"), torch.zeros(2, 5, 4))
    assert type(scores).__name__ == "Scores"
    (ids,) = nesting.output_specs(Tokens("ACGT"), torch.zeros(2, 5, dtype=torch.int64))
    assert type(ids) is Tokens
    assert nesting.is_auto("auto")
    assert not nesting.is_auto("ACGT")


def test_the_input_that_cannot_be_read_is_named() -> None:
    with pytest.raises(NeedsChoiceError) as refused:
        nesting.input_actions((X, X), ("ACGT", "+-"), "auto")
    assert refused.value.where is not None
    assert refused.value.where.path == "input 1"


def test_examples_and_their_leaves() -> None:
    z = torch.zeros(3)
    assert arguments.call_arguments(X) == ((X,), {})
    assert arguments.call_arguments([X, z]) == ((X, z), {})  # type: ignore[arg-type]
    assert arguments.call_arguments({"x": X}) == ((), {"x": X})
    (a, b), _ = arguments.separate_arguments((X, X))
    assert a is X
    assert b is not X
    assert arguments.argument_names(["x"], 3) == ["x", "1", "2"]
    assert arguments.places(["x"], (X, [z, z])) == [("x", 0), ("1", 0), ("1", 1)]
    assert arguments.places([], {"y": X}) == [("y", 0)]
    assert arguments.with_leaves(X, [z]) == (z,)
    assert arguments.with_leaves((X, [X]), [z, X]) == (z, [X])
    assert arguments.with_leaves({"x": X}, [z]) == {"x": z}
    assert arguments.is_shape((2, 4))
    assert not any(map(arguments.is_shape, [(), (2, 4.0), (True, 2), "ab", 3]))
    assert arguments.holds_shapes({"x": (2, 4), "y": (3,)})
    assert not arguments.holds_shapes(())
    assert not arguments.holds_shapes((X, (2, 4)))


@pytest.mark.parametrize(
    ("example", "kind", "words"),
    [
        ((), TypeError, "give what"),
        ({1: X}, TypeError, "names of keyword"),
        ((2, 0, 4), ValueError, "positive sizes"),
        (X.to("meta"), ValueError, "meta device"),
        ("x", TypeError, "give what"),
        ((3, "x"), TypeError, "give what"),
    ],
)
def test_what_is_no_example(example: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        arguments.checked_example(example, torch.float32, torch.device("cpu"))


def test_checks_of_settings_at_their_bounds() -> None:
    arguments.check_count("n", 1)
    arguments.check_count("n", 0, low=0)
    arguments.check_number("p", 0, 0, 1)
    arguments.check_number("p", 1.0, 0, 1)
    arguments.check_switch("s", False)
    arguments.check_choice("c", "a", ("a", "b"))
    for check, words in (
        (lambda: arguments.check_count("n", 0), "n=0: give a whole number of at least 1"),
        (lambda: arguments.check_count("n", True), "n=True: give a whole number"),
        (lambda: arguments.check_count("n", 1.0), "n=1.0: give a whole number"),
        (lambda: arguments.check_number("p", 1.1, 0, 1), "p=1.1: give a number from 0 to 1"),
        (lambda: arguments.check_number("p", -0.1, 0, float("inf")), "p=-0.1: give a number of at least 0"),
        (lambda: arguments.check_number("p", float("inf"), 0, float("inf")), "p=inf: give a number of at least 0"),
        (lambda: arguments.check_number("p", float("nan"), 0, 1), "p=nan"),
        (lambda: arguments.check_number("p", True, 0, 1), "p=True: give a number from 0 to 1"),
        (lambda: arguments.check_switch("s", 1), "s=1: give True or False"),
        (lambda: arguments.check_choice("c", "d", ("a", "b", "e")), "c='d': use 'a', 'b' or 'e'"),
        (lambda: arguments.check_choice("c", 3, ("a", "b")), "c=3: use 'a' or 'b'"),
    ):
        with pytest.raises((TypeError, ValueError)) as refused:
            check()
        assert str(refused.value).startswith(words)


# --- outputs ---


@dataclass(frozen=True)
class Out:
    y: Any
    n: int = 3


def test_outputs_in_any_container_are_opened_and_made_again() -> None:
    for value, leaves in (
        (Out((X, 2)), [X, 2, 3]),
        (UserDict({"a": [X]}), [X]),
        (MappingProxyType({"a": Out(X)}), [X, 3]),
        ({"a": X, "b": None}, [X, None]),
        (X, [X]),
    ):
        assert opened.output_leaves(value) == [v for v in leaves if v is not None] or None in leaves
        found, again = opened.flatten(value)
        made = again([v + 1 if isinstance(v, Tensor) else v for v in found])
        assert type(made) is type(value)
        (tensor, *_) = [v for v in opened.flatten(made)[0] if isinstance(v, Tensor)]
        assert torch.equal(tensor, X + 1)
        assert not X.any()
    strange = object()
    assert opened.opened(strange, loosely=True) is strange
    assert opened.opened([Out(strange)], loosely=True) == [{"y": strange, "n": 3}]
    with pytest.raises(ConversionError, match="an output is a object"):
        opened.opened([strange])


def test_a_dataclass_itself_is_not_opened() -> None:
    with pytest.raises(ConversionError):
        opened.opened(Out)


# --- printing ---


def test_columns_and_tables() -> None:
    assert printed.columns([("a", "bb", "c"), ("aaa", "b", "dddd")]) == ["  a    bb  c", "  aaa  b   dddd"]
    assert printed.columns([]) == []
    section = printed.Section("t<", ("h",), [("1",), ("2",)])
    assert section.text() == ["  h", "  1", "  2"]
    assert "t&lt; (2)" in section.html()
    lines = printed.Section("t", lines=["a", "b<"])
    assert lines.text() == ["a", "b<"]
    assert "(2)" in lines.html()
    assert "a\nb&lt;" in lines.html()
    whole = printed.Printed("title", [("k", "v")], [section, printed.Section("none"), lines])
    assert str(whole) == "title\n  k  v\n\n  h\n  1\n  2\n\na\nb<"
    assert str(printed.Printed("title", [], [lines])) == "title\na\nb<"
    assert whole.html().count("<details>") == 2
    assert "<b>title</b><table>" in whole.html()
    assert "<b>title</b><d" in printed.Printed("title", [], [lines]).html()


def test_alike_paths_are_put_together() -> None:
    assert printed.listed(["stem", *(f"b.{i}.norm" for i in range(4))]) == "stem, b.0-3.norm"
    assert printed.together(["a.0.c1", "a.0.c2", "a.1.c1", "a.1.c2"]) == "a.0-1.c1-2"
    assert printed.together(["a.0.c1", "a.1.c2"]) == "a.0.c1, a.1.c2"
    assert printed.together([f"a.{i}.c{i}" for i in range(3)]) == "a.0.c0, a.1.c1, a.2.c2"
    assert printed.together([f"a.{i}.c{i}" for i in range(4)]) == "a.0.c0, a.1.c1, ... (4 in all)"
    assert printed.together(["a.0", "a.1", "a.3", "a.10"]) == "a.0-1,3,10"
    assert printed.alike([("a.0", "x"), ("b", "x"), ("a.1", "x"), ("a.2", "y")]) == [
        ("a.0-1", "x"),
        ("b", "x"),
        ("a.2", "y"),
    ]


# --- augmentation ---


def test_samples_are_replaced_with_their_targets() -> None:
    x, y = torch.rand(6, 4, 5), torch.rand(6, 2, 5)
    augment = ReverseComplementAugment(targets="+-", seed=1)
    chosen = ReverseComplementAugment(seed=1).choose(6)
    assert 0 < int(chosen.sum()) < 6
    a, b = augment(x, y)
    for i, taken in enumerate(chosen.tolist()):
        assert torch.equal(a[i], x[i].flip(0, 1) if taken else x[i])
        assert torch.equal(b[i], y[i].flip(0, 1) if taken else y[i])
    assert torch.equal(ReverseComplementAugment(p=1)(x), x.flip(1, 2))
    assert torch.equal(ReverseComplementAugment(p=0)(x), x)
    pair = ReverseComplementAugment(inputs=("ACGT", "invariant"), p=1)((x, y))
    assert torch.equal(pair[0], x.flip(1, 2))
    assert pair[1] is y
    for call, kind, words in (
        (lambda: augment(x, y, y), TypeError, "give one target"),
        (lambda: augment(3), TypeError, "x=3"),
        (lambda: augment(x, y[:5]), NeedsChoiceError, "no batch of 6 in front"),
        (lambda: augment(x, 3), TypeError, "the targets hold no tensor"),
        (lambda: ReverseComplementAugment(p=1.5), ValueError, "probability p"),
        (lambda: ReverseComplementAugment(seed=0.5), TypeError, "seed"),
        (lambda: ReverseComplementAugment(layout="x"), NeedsChoiceError, "layout"),
    ):
        with pytest.raises(kind, match=words):
            call()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Tokens("ACGT", prefix=-1), "prefix=-1: give a whole number of at least 0"),
        (lambda: Tokens("ACGT", suffix=1.0), "suffix=1.0: give a whole number"),
        (lambda: Mask(prefix=True), "prefix=True: give a whole number"),
        (lambda: Mask(suffix=-2), "suffix=-2: give a whole number of at least 0"),
        (lambda: Tracks("+-", offset=0.5), "offset=[0.5]: give a whole number"),
        (lambda: Tracks(3), "signs=3: give one of"),
        (lambda: Tracks("+x"), "tracks '+x': 'x' at 1 is not"),
        (lambda: OneHot(3), "alphabet=3: give the bases"),
        (lambda: OneHot("AC"), "alphabet 'AC': the complement of A is not in it"),
        (lambda: OneHot("AACT"), "alphabet 'AACT': letters must be distinct"),
        (lambda: Permutation("10"), "table='10': give the place"),
        (lambda: Permutation([]), "table=[]: give the place"),
        (lambda: Permutation([1, 0], ["a", 1]), "signs=['a', 1]: give 1 or -1"),
        (lambda: Permutation([1, 0], [1]), "signs=[1]: give 1 or -1 for each of 2 channels"),
        (lambda: Permutation([1, 0], [1, 2]), "signs=[1, 2]: give 1 or -1 for each of 2 channels"),
        (lambda: Permutation([1, 0], offset="a"), "offset=['a']: give a whole number"),
        (lambda: Tokens(3), "vocab=3: give the text of each id"),
        (lambda: Tokens(["A", 3]), "vocab=['A', 3]: give the text of each id"),
        (lambda: Tokens({"A": 0.5}), "vocab={'A': 0.5}: the ids of a mapping are whole numbers"),
        (lambda: Tokens({"A": 0, "T": 2}), "the ids of a vocabulary must be 0, 1, 2"),
        (lambda: Tokens(["A", "T", "A"]), "a vocabulary has a text twice"),
        (lambda: Tokens(["[x]"]), "vocab=('[x]',): no text is made of nucleotides"),
        (lambda: Tokens("AC"), "the vocabulary lacks 'T', the reverse complement of 'A'; write"),
        (
            lambda: Tokens(["A", "T", "AC", "ACG"]),
            "the vocabulary lacks 'GT', the reverse complement of 'AC': its texts",
        ),
    ],
)
def test_a_spec_that_is_none_names_what_was_given(make: Any, words: str) -> None:
    with pytest.raises((TypeError, ValueError)) as refused:
        make()
    assert str(refused.value).startswith(words)


def test_axes_with_tokens_at_their_ends() -> None:
    term = Tokens("ACGT", prefix=1, suffix=2).along(8)
    assert table(term) == [0, 5, 4, 3, 2, 1, 6, 7]
    roles = [ax.role(p) for p in ax.children(term)]
    assert Role("length", 8, (Step(1, -3),)) in roles
    assert ax.role(Tokens("ACGT", prefix=0).along(8)) == Role("length", 8)
    assert Tokens("ACGT", prefix=1, suffix=2).along(4).size == 4
    with pytest.raises(NeedsChoiceError, match="an axis of 3 entries has no position between 1 before and 2 after"):
        Tokens("ACGT", prefix=1, suffix=2).along(3)
    assert Mask().with_ends(Tokens("ACGT", prefix=1)) == Mask(1, 0)
    for own in (Mask(2), Mask(suffix=0)):
        assert own.with_ends(Tokens("ACGT", prefix=1)) is own
    ended = Tokens(["[CLS]", "A", "C", "G", "T", "[PAD]"])
    with pytest.raises(NeedsChoiceError, match=r"begin or end with a special token, such as \[CLS\]"):
        ended.action((2, 8))
    assert ended.runs is None
    said = Tokens(ended.vocab, prefix=1)
    assert said.runs == Runs(1, 0, (5,))
    assert Tokens("ACGT", prefix=1).runs is None
    assert table(said.action((2, 8)).value) == [0, 4, 3, 2, 1, 5]
    scores = said.scores()
    assert (scores.prefix, scores.suffix) == (1, None)
    assert table(scores.action((2, 6)).axes[1]) == [0, 4, 3, 2, 1, 5]
    assert scores.action((2, 8, 6)).shape == (2, 8, 6)
    assert str(scores) == "scores of tokens of 6 texts"
    rna = Tokens(["A", "C", "G", "U"])
    assert table(rna.values()) == [3, 2, 1, 0]
    both = Tokens(["A", "C", "G", "T", "a", "t", "UNK"])
    assert table(both.values()) == [3, 2, 1, 0, 5, 4, 6]
    assert both.text_lengths == [1, 3]


def test_terms_know_whether_they_are_known() -> None:
    inner = ax.total([PAIR, ax.trivial(1)])
    for term in (ax.product([PAIR, ax.trivial(3)]), inner, ax.product([ax.trivial(2), inner])):
        assert term.known is True  # type: ignore[attr-defined]
        assert ax.walk(term) is term
    for term in (
        ax.product([PAIR, Var(3)]),
        ax.total([Var(2), PAIR]),
        ax.product([ax.trivial(2), Sum((Var(2), PAIR))]),
    ):
        assert term.known is False  # type: ignore[attr-defined]
