"""What rules share, each part called by itself: axes counted, operands that agree, windows, edges, and what is said."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rcps_convert import BreaksSymmetryError, NoRuleError
from rcps_convert.algebra import axis as ax
from rcps_convert.algebra.action import Action
from rcps_convert.algebra.axis import Mismatch, Role, Step
from rcps_convert.errors import Refusal
from rcps_convert.rules import (
    common,
    complex_numbers,
    conv,
    linear,
    lookup,
    loss,
    norm,
    pieces,
    places,
    pointwise,
    pool,
    recurrent,
    reduce,
    registry,
    shape,
)
from rcps_convert.rules.pins import in_full, is_short, nearly_equal
from rcps_convert.rules.registry import Const, Facts, Missing, aten, require_fit, require_no_ids, require_unsigned

PAIR, BASES = ax.permutation([1, 0]), ax.permutation([3, 2, 1, 0])
IDS = ax.permutation([1, 0, 2])
SIGNED = ax.product([ax.trivial(4), ax.SIGN])


def node(op: Any = aten.relu.default, *sizes: int, **more: Any) -> Any:
    """A node of a trace as a rule sees it."""
    usual: dict[str, Any] = {
        "op": op, "shape": tuple(sizes), "anchors": [], "deferred": [], "assumes": lambda what: False,
        "rejoined": lambda: False, "torn": False, "mends": False, "args": (), "kwargs": {},
        "constant": lambda const, rows=None: Action(tuple(ax.Var(n) for n in const.value.shape)),
        "value": torch.zeros(sizes),
    }  # fmt: skip
    return SimpleNamespace(**{**usual, **more})


def tables(action: Action | tuple[ax.Axis, ...]) -> list[list[int]]:
    """Where each entry of each axis comes from."""
    return [ax.indices(t).tolist() for t in (action.axes if isinstance(action, Action) else action)]


def reverse(n: int) -> list[int]:
    return [*range(n - 1, -1, -1)]


# --- axes and operands ---


def test_axes_are_counted_from_either_end() -> None:
    assert [common.dim_of(d, 3) for d in (0, 2, -1, -3)] == [0, 2, 2, 0]
    assert common.dim_of(-1, 0) == common.dim_of(0, 0) == 0
    assert common.dims_of(None, 3) == common.dims_of([], 3) == common.dims_of((), 3) == [0, 1, 2]
    assert common.dims_of(-1, 3) == [2]
    assert common.dims_of([0, -1], 3) == common.dims_of((0, -1), 3) == [0, 2]
    assert common.per_axis(3, 2) == common.per_axis([3], 2) == [3, 3]
    assert common.per_axis((1, 2), 2) == [1, 2]


def test_operands_agree_where_they_broadcast() -> None:
    length, channels, one = ax.length(5), ax.Var(4), ax.Var(1)
    found = common.broadcast(node(), [Action((ax.batch(2), channels, length)), Action((ax.regular(4), one))])
    assert [t.size for t in found.axes] == [2, 4, 5]
    assert ax.same(channels, ax.regular(4))
    assert ax.is_trivial(one)
    assert ax.role(found.axes[0]) == ax.role(ax.batch(2))
    assert ax.is_length(found.axes[2])
    both = common.broadcast(node(), [Action((ax.Var(1),)), Action((ax.Var(1),))])
    assert ax.free(both.axes[0])  # a sign may be left open
    assert common.broadcast(node(), []).axes == ()
    with pytest.raises(Mismatch):
        common.broadcast(node(), [Action((ax.length(4),)), Action((ax.trivial(4),))])
    open_first = common.broadcast(node(), [Action((ax.Var(5),)), Action((ax.length(5),))])
    assert ax.is_length(open_first.axes[0])


def test_an_operand_that_is_repeated_in_a_sum_follows_no_signs() -> None:
    for other in (Action((ax.trivial(1),)), Action(())):
        term = ax.Var(4)
        common.sum_of(node(), [Action((term,)), other])
        with pytest.raises(Mismatch):
            ax.unify(term, SIGNED)
    term = ax.Var(4)
    common.sum_of(node(), [Action((term,)), Action((ax.Var(4),))])
    ax.unify(term, SIGNED)
    with pytest.raises(Mismatch):
        common.forbid_signs([ax.trivial(3), SIGNED])


def test_ids_meet_ids_of_their_kind_only() -> None:
    ids, numbers = Action((ax.length(3),), IDS), Action((ax.length(3),))
    assert common.same_ids([numbers, numbers]) is None
    assert common.same_ids([Const(torch.tensor(1)), numbers]) is None
    assert common.same_ids([ids, Action((ax.length(3),), IDS)]) == IDS
    assert common.same_ids([Const(torch.tensor([2, 2])), ids]) == IDS
    with pytest.raises(Mismatch, match="constant ids that reverse complement permutes"):
        common.same_ids([ids, Const(torch.tensor([2, 1]))])
    with pytest.raises(Mismatch, match="ids meet numbers"):
        common.same_ids([ids, numbers])
    with pytest.raises(Mismatch):
        common.same_ids([ids, Action((ax.length(3),), ax.permutation([0, 2, 1]))])


def test_rows_of_a_table_are_permuted_as_the_ids_that_point_into_it() -> None:
    rows = ax.Var(5)
    common.rows_of_ids(rows, Action((ax.length(3),), IDS))
    assert ax.indices(rows).tolist() == [1, 0, 2, 3, 4]
    plain = ax.Var(3)
    common.rows_of_ids(plain, Action((ax.length(3),)))
    assert ax.is_trivial(plain)
    ids, numbers, still = (Action((ax.length(3),), v) for v in (IDS, None, ax.trivial(3)))
    assert common.permuted_ids([ids, numbers, still, 3, None]) == [ids]


@pytest.mark.parametrize(
    ("found", "mirrored", "table"),
    [
        ([0.0, 2.0, 1.0], [2.0, 0.0, 1.0], [2, 1, 0]),
        ([1.0, 3.0], [3.0, 1.0], [0, 3, 2, 1]),
        ([0.0, 1.0], [1.0, 1.0], None),  # no involution
        ([0.0, 1.0], [2.0, 0.0], None),  # beyond the largest
        ([0.5, 1.0], [1.0, 0.5], None),
        ([-1.0, 1.0], [1.0, -1.0], None),
        ([float(common.MOST_IDS), 1.0], [1.0, float(common.MOST_IDS)], None),
        ([float(common.MOST_IDS - 1), 0.0], [0.0, float(common.MOST_IDS - 1)], "long"),
        ([1.0, 1.0, 0.0], [0.0, 1.0, 1.0], None),  # one value from two
    ],
)
def test_whole_numbers_that_are_mirrored(found: Any, mirrored: Any, table: Any) -> None:
    got = common.table_of(torch.tensor(found), torch.tensor(mirrored))
    if table == "long":
        assert got is not None
        assert len(got) == common.MOST_IDS
        assert got[0] == common.MOST_IDS - 1
    else:
        assert got == table
    assert common.table_of(torch.tensor([True, False]), torch.tensor([False, True])) is None


def test_what_a_function_makes_of_ids() -> None:
    ids = Action((ax.batch(2), ax.length(3)), IDS)
    still = common.renamed(node(), ids, torch.tensor([1.0, 1.0, 5.0]))
    assert still.value is None
    named = common.renamed(node(), ids, torch.tensor([4.0, 5.0, 0.0]))
    assert named.value is not None
    assert ax.indices(named.value).tolist() == [0, 1, 2, 3, 5, 4]
    odd = common.renamed(node(), ids, torch.tensor([-1.5, 1.5, 0.0]))
    assert ax.has_sign(odd.axes[1])
    assert not ax.has_sign(odd.axes[0])
    with pytest.raises(Refusal) as refused:
        common.renamed(node(aten.add.Tensor), ids, torch.tensor([1.5, 2.5, 0.0]))
    assert "arithmetic (add) on token ids" in refused.value.what
    with pytest.raises(Refusal):
        common.renamed(node(), Action((), IDS), torch.tensor([-1.5, 1.5, 0.0]))  # no axis to carry a sign


# --- windows ---


def slid(x: ax.Axis, n: Any = None, **how: Any) -> tuple[ax.Axis, ax.Axis]:
    return common.slide(n or node(aten.conv1d.default), x, **how)


def test_windows_of_one_position_and_of_the_whole_axis() -> None:
    x = ax.regular(4)
    assert slid(x, kernel=1, out=4) == (x, ax.trivial(1))
    assert slid(x, kernel=4, out=1) == (ax.trivial(1), x)
    place, window = slid(ax.length(4), kernel=4, out=1)
    assert (place.size, ax.is_length(window)) == (1, True)
    for how in ({"stride": 2, "out": 2}, {"pad": (1, 1), "out": 6}):
        with pytest.raises(Refusal):
            slid(x, kernel=1, **how)
    with pytest.raises(Refusal):
        slid(ax.regular(4), kernel=2, dilation=3, out=1)  # spans all, but not every entry


@pytest.mark.parametrize(
    ("size", "how", "step", "anchored"),
    [
        (9, {"kernel": 3, "out": 7}, Step(1, -2), False),
        (9, {"kernel": 3, "pad": (1, 1), "out": 9}, Step(1, 0), False),
        (9, {"kernel": 3, "dilation": 2, "out": 5}, Step(1, -4), False),
        (9, {"kernel": 3, "stride": 3, "out": 3}, Step(1, 0, 3), True),
        (9, {"kernel": 2, "stride": 2, "out": 4}, Step(1, 0, 2), True),
        (9, {"kernel": 2, "stride": 2, "pad": (1, 1), "out": 6, "ceil": True}, Step(1, 2, 2, ceil=1), True),
        (9, {"kernel": 4, "pad": (1, 2), "out": 9}, Step(1, 0, lopsided=True), True),
    ],
)
def test_windows_over_a_length(size: int, how: Any, step: Step, anchored: bool) -> None:
    n = node(aten.conv1d.default)
    place, window = slid(ax.length(size), n, **how)
    assert ax.is_length(place)
    assert place.size == how["out"]
    assert ax.role(place) == Role("length", size, (step,))
    assert ax.indices(window).tolist() == reverse(how["kernel"])
    assert [a.step for a in n.anchors] == [step] * anchored
    if anchored:
        (anchor,) = n.anchors
        assert anchor.size == size
        assert anchor.history == (size, (step,))
        assert anchor.aligned is step.aligned(size)


def test_uneven_padding_says_whether_the_kernel_is_even() -> None:
    for kernel, words in ((4, "; a kernel of 4 cannot be centred"), (3, None)):
        n = node(aten.conv1d.default)
        slid(ax.length(9), n, kernel=kernel, pad=(0, 2), out=12 - kernel)
        (anchor,) = n.anchors
        assert anchor.refusal.what == "conv1d pads 0 positions on the left and 2 on the right"
        assert anchor.words == "pads 0 positions on the left and 2 on the right"
        assert (words or "cannot") in anchor.refusal.why or words is None
        assert ("cannot be centred" in anchor.refusal.why) is (words is not None)
        assert anchor.refusal.do.startswith("use an odd kernel, or pad both sides alike")
    other = common.padded(node(aten.pad.default), (3, 1))
    assert other is not None
    assert other.why == "the reverse complement would need 1 on the left and 3 on the right"
    assert other.do.startswith("pad both sides alike")
    assert common.padded(node(), (2, 2)) is None


def test_windows_over_bases_reach_both_edges_or_are_refused() -> None:
    place, window = slid(BASES, kernel=2, stride=2, out=2)
    assert tables((place, window)) == [[1, 0], [1, 0]]
    signed = ax.product([BASES, ax.SIGN])
    place, window = slid(signed, kernel=3, pad=(1, 1), out=4)
    assert ax.has_sign(place)
    assert not ax.has_sign(window)
    assert not ax.is_length(place)
    with pytest.raises(Refusal) as refused:
        slid(BASES, kernel=3, stride=2, out=1)
    assert refused.value.what == "conv1d reads the two edges of an axis of 4 entries differently"
    assert "other edge: 3 = 2*1 + 1" in refused.value.why
    assert "reach both edges alike" in refused.value.do
    with pytest.raises(Refusal) as refused:
        slid(BASES, kernel=2, pad=(0, 1), out=4)
    assert refused.value.why.endswith("would start at its other edge")


def test_windows_over_a_fixed_axis() -> None:
    x = ax.Var(6)
    place, window = slid(x, kernel=3, out=4)
    assert ax.is_trivial(x)
    assert tables((place, window)) == [[0, 1, 2, 3], [0, 1, 2]]
    standing, _ = slid(ax.Leaf(6, role=ax.STANDING), kernel=3, out=4)
    assert ax.role(standing) == ax.STANDING


@pytest.mark.parametrize(
    ("x", "what", "do"),
    [
        (ax.permutation([0, 2, 1, 3]), "permuted otherwise than by reading it backwards", "order them so"),
        (ax.product([ax.length(3), ax.regular(2)]), "mixes positions with something else", "an axis of their own"),
        (ax.total([ax.length(3), ax.length(2)]), "several sequences that are put one behind the other", "by itself"),
        (ax.total([ax.length(4), ax.trivial(1)]), "mixes positions with something else", "transpose or permute"),
    ],
)
def test_windows_over_other_axes_are_refused_with_the_reason(x: ax.Axis, what: str, do: str) -> None:
    with pytest.raises(Refusal) as refused:
        slid(x, kernel=2, out=x.size - 1)
    assert what in refused.value.what
    assert "conv1d slides over" in refused.value.what
    assert ax.describe(x) in refused.value.why
    assert do in refused.value.do
    assert refused.value.kind is (BreaksSymmetryError if "several" in what else NoRuleError)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("x", "reversal", "positions"),
    [
        (BASES, True, False),
        (ax.product([BASES, ax.SIGN]), True, False),
        (ax.product([PAIR, PAIR]), True, False),
        (ax.length(4), False, True),
        (ax.trivial(4), False, False),
        (ax.regular(4), False, False),
        (ax.trivial(1), False, False),
        (ax.SIGN, False, False),
        (ax.Var(4), False, False),
        (ax.product([PAIR, ax.length(3)]), False, True),
        (ax.total([ax.length(2), ax.trivial(1)]), False, True),
        (ax.total([ax.SIGN, ax.trivial(1)]), False, False),
    ],
)
def test_which_axes_are_reversed_and_which_hold_positions(x: ax.Axis, reversal: bool, positions: bool) -> None:
    assert common.is_reversal(x) is reversal
    assert common.holds_positions(x) is positions


def test_a_length_goes_on_with_its_history_and_its_sign() -> None:
    x = ax.product([ax.length(8, Role("length", 16, (Step(1, 0, 2),))), ax.SIGN])
    n = node(aten.max_pool1d.default)
    found = common.advance(n, x, Step(1, -2, 2), 3)
    assert ax.role(found) == Role("length", 16, (Step(1, 0, 2), Step(1, -2, 2)))
    assert ax.has_sign(found)
    (anchor,) = n.anchors
    assert anchor.history == (16, (Step(1, 0, 2), Step(1, -2, 2)))
    assert anchor.words == "6 = 2*3 + 0"
    lost = ax.length(8, Role("length", 8, None))
    after = common.advance(n, lost, Step(1, 0, 3), 2)
    assert ax.role(after) == Role("length", 8, None)
    assert n.anchors[1].history is None
    said = n.anchors[1].refusal
    assert said.what == "max_pool1d over 8 positions leaves a remainder"
    assert said.got == "length 8: 8 = 3*2 + 2"
    assert said.do == "use a length that divides: the nearest lengths at this operator that work are 6 and 9"
    behind = common._remainder(n, 8, Step(1, -1, 2), (16, (Step(1, 0, 2), Step(1, -1, 2))))
    assert behind.do == "use a length that divides: the nearest model input lengths that work are 14 and 18"
    never = common._remainder(n, 8, Step(2, 1, 2), None)
    assert never.do == "change kernel, stride or padding so that the windows reach both edges"


def test_uniform_values() -> None:
    assert common.is_uniform(torch.ones(2, 3), 1)
    assert common.is_uniform(torch.tensor([[1.0, 1.0], [2.0, 2.0]]), 1)
    assert not common.is_uniform(torch.tensor([[1.0, 1.0], [2.0, 2.0]]), 0)
    assert common.is_uniform(torch.zeros(0, 3), 0)


# --- what rules demand ---


def test_demands_of_a_rule() -> None:
    signed, ids = Action((SIGNED,)), Action((ax.length(3),), IDS)
    with pytest.raises(Refusal) as refused:
        require_unsigned(signed, node(aten.exp.default), because="because")
    assert refused.value.what == "exp of a tensor that changes its sign"
    assert refused.value.why.startswith("because; ")
    assert "tanh" in refused.value.do
    require_no_ids([Action((ax.length(3),), ax.trivial(3)), signed, 3], node())
    with pytest.raises(Refusal):
        require_fit(Facts(signs=True), [3, ids], node())
    require_fit(Facts(ids=True), [ids], node())
    require_fit(Facts(signs=True), [signed], node())
    with pytest.raises(Refusal) as refused:
        require_fit(Facts(), [signed], node(aten.exp.default))
    assert refused.value.why.startswith("exp(-x) is not -exp(x); ")
    with pytest.raises(Refusal) as refused:
        require_fit(Facts(because="of this"), [signed], node())
    assert refused.value.why.startswith("of this; ")
    term = ax.Var(4)
    require_fit(Facts(), [Action((term,))], node())
    with pytest.raises(Mismatch):
        ax.unify(term, SIGNED)


def test_numbers_that_are_short_and_nearly_equal() -> None:
    assert is_short(torch.tensor([0.5, -3.0, 1 / 1024]))
    assert not is_short(torch.tensor([1 / 2048]))
    assert not is_short(torch.tensor([0.1]))
    assert is_short(torch.tensor([0.5 + 2j]))
    assert not is_short(torch.tensor([0.5 + 0.1j]))
    assert in_full(torch.ones(1)).dtype == torch.float64
    assert in_full(torch.ones(1, dtype=torch.complex64)).dtype == torch.complex128
    a = torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64)
    assert nearly_equal(a, a + 2e-7).tolist() == [True] * 3
    assert nearly_equal(a * 100, a * 100 + torch.tensor([0.0, 0.0, 2e-5])).tolist() == [True, True, True]
    assert nearly_equal(a, a + 1e-5).tolist() == [False] * 3
    assert not nearly_equal(torch.tensor([1e-9]), torch.tensor([0.0])).any()
    many = torch.tensor([0.0, 0.0, 0.0, 1.0, float("inf")])
    assert nearly_equal(many + 2e-7, many).tolist() == [True] * 5  # zeros have no size


# --- layouts ---


@pytest.mark.parametrize(
    ("axes", "sizes", "found"),
    [
        ((ax.batch(2), ax.regular(4), ax.length(3)), (2, 12), [[0, 1], [8, 7, 6, 11, 10, 9, 2, 1, 0, 5, 4, 3]]),
        ((ax.batch(2), ax.regular(4)), (2, 1, 4), [[0, 1], [0], [2, 3, 0, 1]]),
        ((ax.batch(2), ax.regular(4)), (2, 4, 1), [[0, 1], [2, 3, 0, 1], [0]]),
        ((ax.batch(2), ax.regular(4)), (2, 2, 2), [[0, 1], [1, 0], [0, 1]]),
        ((ax.batch(2), ax.trivial(1), ax.length(3)), (2, 3), [[0, 1], [2, 1, 0]]),
        ((ax.batch(1), ax.length(3)), (1, 1, 3), [[0], [0], [2, 1, 0]]),
        ((ax.length(3),), (3,), [[2, 1, 0]]),
        ((), (1, 1), [[0], [0]]),
    ],
)
def test_axes_after_a_reshape(axes: Any, sizes: Any, found: Any) -> None:
    assert tables(shape.regroup(axes, sizes)) == found


def test_moves_of_axes() -> None:
    x = Action((ax.batch(2), ax.regular(4), ax.length(3)), IDS)
    for made, names in (
        (shape.permute(node(), x, [2, 0, -2]), [3, 2, 4]),
        (shape.transpose(node(), x, 0, -1), [3, 4, 2]),
        (shape.matrix_transpose(node(), x), [2, 3, 4]),
        (shape.movedim(node(), x, 0, 2), [4, 3, 2]),
        (shape.movedim(node(), x, [0, -1], [-1, 0]), [3, 4, 2]),
        (shape.unsqueeze(node(), x, 1), [2, 1, 4, 3]),
        (shape.unsqueeze(node(), x, -1), [2, 4, 3, 1]),
        (shape.view(node(aten.view.default, 2, 12), x), [2, 12]),
        (shape.view_as(node(aten.view.default, 2, 12), x, x), [2, 12]),
        (shape.expand(node(aten.expand.default, 5, 2, 4, 3), x), [5, 2, 4, 3]),
    ):
        assert [t.size for t in made.axes] == names
        assert made.value == IDS
    assert shape.moves(aten.view.default)
    assert not shape.moves(aten.relu.default)


def test_axes_of_one_entry_that_disappear() -> None:
    sign = ax.Var(1)
    x = Action((ax.trivial(1), ax.regular(4), sign, ax.length(1)), IDS)
    found = shape.squeeze(node(), x, 2)
    assert [t.size for t in found.axes] == [1, 4, 1]
    assert found.value == IDS
    ax.unify(sign, ax.SIGN)
    assert ax.has_sign(found.axes[1])
    assert not ax.has_sign(found.axes[0])
    assert [t.size for t in shape.squeeze(node(), x).axes] == [4]
    assert [t.size for t in shape.squeeze(node(), x, [0, 1]).axes] == [4, 1, 1]
    alone = ax.Var(1)
    assert shape.squeeze(node(), Action((alone, ax.length(1))), 0).axes == (ax.length(1),)
    assert ax.is_trivial(alone)


def test_copies_along_an_axis() -> None:
    one = ax.Var(1)
    found = shape.expand(node(aten.expand.default, 3, 5, 4), Action((one, ax.regular(4))))
    assert ax.is_trivial(one)
    assert [bool(ax.free(t)) for t in found.axes] == [True, True, False]
    for term in found.axes[:2]:
        with pytest.raises(Mismatch):
            ax.unify(term, ax.product([ax.trivial(term.size), ax.SIGN]))
    a, b = shape.broadcast_tensors(node(), [Action((ax.regular(4),)), Action((ax.batch(2), ax.trivial(1)))])
    assert [t.size for t in a.axes] == [t.size for t in b.axes] == [2, 4]
    assert ax.role(b.axes[0]) is not None
    twice = shape.repeat(node(aten.repeat.default, 6, 4, 3), Action((ax.regular(4), ax.length(3))), [6, 1, 1])
    assert [t.size for t in twice.axes] == [6, 4, 3]
    assert tables(twice.axes[1:]) == [[2, 3, 0, 1], [2, 1, 0]]
    assert ax.free(twice.axes[0])
    for times, of, found in (
        (1, ax.length(3), "one"),
        (2, None, "open"),
        (2, ax.trivial(3), "open"),
        (2, ax.length(3), "length"),
    ):
        copies = shape._copies(times, of)
        assert {"one": ax.is_trivial(copies), "open": bool(ax.free(copies)), "length": ax.is_length(copies)}[found]
    row = shape.repeat(node(aten.repeat.default, 4, 6), Action((ax.regular(4), ax.length(3))), [2])
    assert row.axes[1].size == 6
    assert ax.is_length(row.axes[1])


def test_each_entry_repeated_in_place() -> None:
    n = node(aten.repeat_interleave.self_int)
    x = Action((ax.regular(4), ax.length(3)), IDS)
    found = shape.repeat_interleave(n, x, 2, 1)
    assert tables(found)[1] == reverse(6)
    assert ax.role(found.axes[1]) == Role("length", 3, (Step(2, 0),))
    assert found.value == IDS
    assert n.anchors == []
    assert shape.repeat_interleave(n, x, 3, 0).axes[0].size == 12
    assert [t.size for t in shape.repeat_interleave(n, x, 2).axes] == [24]


def test_channels_become_positions_and_back() -> None:
    x = Action((ax.batch(1), ax.regular(8), ax.length(3), ax.length(5)), IDS)
    shuffled = shape.pixel_shuffle(node(aten.pixel_shuffle.default), x, 2)
    assert [t.size for t in shuffled.axes] == [1, 2, 6, 10]
    assert shuffled.value == IDS
    y = Action((ax.batch(1), ax.trivial(2), ax.trivial(6), ax.trivial(10)), IDS)
    back = shape.pixel_shuffle(node(aten.pixel_unshuffle.default), y, 2)
    assert [t.size for t in back.axes] == [1, 8, 3, 5]
    assert back.value == IDS
    mixed = shape.channel_shuffle(node(), Action((ax.batch(1), ax.product([PAIR, ax.trivial(3)]))), 2)
    assert tables(mixed)[1] == [1, 0, 3, 2, 5, 4]


# --- pieces ---


def test_parts_are_joined_in_their_order() -> None:
    x, y = Action((ax.batch(2), ax.regular(4), ax.length(3))), Action((ax.Var(2), ax.trivial(2), ax.Var(3)))
    found = pieces.cat(node(aten.cat.default, 2, 6, 3), [x, Const(torch.zeros(0)), y], -2)
    assert tables(found) == [[0, 1], [2, 3, 0, 1, 4, 5], [2, 1, 0]]
    assert ax.is_length(y.axes[2])
    stacked = pieces.stack(node(aten.stack.default, 2, 2, 4, 3), [x, x], 1)
    assert [t.size for t in stacked.axes] == [2, 2, 4, 3]
    assert tables(stacked)[1] == [0, 1]
    assert [t.size for t in pieces.stack(node(aten.stack.default, 2, 4, 3, 2), [x, x], -1).axes] == [2, 4, 3, 2]
    mended = pieces.stack(node(aten.stack.default, 2, 2, 4, 3, mends=True), [x, x], 0)
    assert ax.is_length(mended.axes[0])
    whole = pieces.cat(node(aten.cat.default, 2, 4, 6, mends=True), [x, x], 2)
    assert ax.is_length(whole.axes[2])


@pytest.mark.parametrize(
    ("op", "rank", "at"),
    [
        (aten.hstack.default, 3, 1), (aten.hstack.default, 1, 0), (aten.vstack.default, 2, 0),
        (aten.dstack.default, 3, 2), (aten.column_stack.default, 2, 1),
    ],
)  # fmt: skip
def test_named_stacks(op: Any, rank: int, at: int) -> None:
    x = Action(tuple(ax.trivial(n) for n in (2, 3, 4)[:rank]))
    sizes = [t.size * (2 if d == at else 1) for d, t in enumerate(x.axes)]
    assert [t.size for t in pieces.stacks(node(op, *sizes), [x, x]).axes] == sizes
    with pytest.raises(Refusal) as refused:
        pieces.stacks(node(op, *sizes, 1), [x, x])
    assert "it adds axes first" in refused.value.why


@pytest.mark.parametrize(
    ("blocks", "is_length"),
    [
        ([0.0, None, 0.0], True),
        ([0.0, None, 1.0], False),
        ([0.0, None], False),
        ([None, 0.0], False),
        ([None], False),
        ([0.0, 1.0, None, 1.0, 0.0], True),
        ([0.0, 1.0, None, 0.0, 1.0], False),
        ([None, None, None], False),
    ],
)
def test_equal_blocks_of_one_value_are_padding(blocks: list[float | None], is_length: bool) -> None:
    tensors: list[Any] = [
        Action((ax.trivial(2), ax.length(5))) if b is None else Const(torch.full((2, 3), b)) for b in blocks
    ]
    size = sum(5 if b is None else 3 for b in blocks)
    n = node(aten.cat.default, 2, size)
    found = pieces.cat(n, tensors, 1)
    assert ax.is_length(found.axes[1]) is (is_length or blocks == [None])
    if is_length:
        assert ax.role(found.axes[1]) == Role("length", 5, (Step(1, size - 5),))


def test_unequal_entries_are_no_padding_and_a_value_takes_no_sign() -> None:
    ramp = Const(torch.arange(3.0).expand(2, 3))
    assert not ax.is_length(
        pieces.cat(node(aten.cat.default, 2, 11), [ramp, Action((ax.trivial(2), ax.length(5))), ramp], 1).axes[1]
    )
    for fill, signed in ((0.0, True), (1.0, False)):
        block = Const(torch.full((2, 3), fill))
        x = Action((ax.trivial(2), ax.product([ax.length(5), ax.SIGN])))
        joined = [block, x, block]
        if signed:
            assert ax.has_sign(pieces.cat(node(aten.cat.default, 2, 11), joined, 1).axes[1])
        else:
            with pytest.raises(Mismatch):
                pieces.cat(node(aten.cat.default, 2, 11), joined, 1)


def cut_of(x: Action, sizes: list[int], dim: int = 0, **more: Any) -> tuple[Any, Any]:
    values = [torch.zeros([s if d == dim else n for d, n in enumerate(x.shape)]) for s in sizes]
    n = node(aten.split.sizes, value=values, **more)
    return pieces.pieces(n, x, sizes, dim), n


def test_pieces_of_an_axis() -> None:
    found, _ = cut_of(Action((ax.total([PAIR, ax.trivial(3)]), ax.length(3)), IDS), [2, 1, 2])
    assert [tables(p) for p in found] == [[[1, 0], [2, 1, 0]], [[0], [2, 1, 0]], [[0, 1], [2, 1, 0]]]
    assert {p.value for p in found} == {IDS}
    with pytest.raises(Refusal) as refused:
        cut_of(Action((ax.regular(4),)), [2, 2])
    assert refused.value.what == "split separates entries that reverse complement swaps"
    assert "of a recurrent layer read both directions" in refused.value.do
    with pytest.raises(Refusal) as refused:
        cut_of(Action((ax.permutation([2, 1, 0]),)), [1, 2])
    assert "recurrent" not in refused.value.do
    with pytest.raises(Refusal) as refused:
        cut_of(Action((ax.length(6),)), [2, 4])
    assert refused.value.what == "split cuts a length of 6 into pieces of 2, 4"
    assert refused.value.why == "under reverse complement the first piece becomes the last"


@pytest.mark.parametrize(
    ("sizes", "more", "torn", "step"),
    [
        ([3, 3], {}, True, Step(1, 0, 2)),
        ([2, 3, 2], {}, True, Step(1, 0, only=7)),
        ([2, 4], {}, False, None),
        ([6], {}, False, None),
        ([3, 3], {"rejoined": lambda: False}, False, None),
        ([3, 3], {"assumes": lambda what: False}, False, None),
    ],
)
def test_pieces_of_a_length_that_are_joined_again(sizes: list[int], more: Any, torn: bool, step: Step | None) -> None:
    said: list[str] = []
    usual = {"rejoined": lambda: True, "assumes": lambda what: said.append(what) or True}
    x = Action((ax.batch(2), ax.length(sum(sizes))))
    if not torn and len(sizes) > 1:
        with pytest.raises(Refusal):
            cut_of(x, sizes, 1, **{**usual, **more})
        return
    found, n = cut_of(x, sizes, 1, **{**usual, **more})
    assert n.torn is torn
    assert [p.axes[1].size for p in found] == sizes
    assert all(ax.is_length(p.axes[1]) for p in found)
    assert said == (["joined pieces"] if torn else [])
    assert [a.step for a in n.anchors] == ([step] if step else [])


def test_one_entry_of_an_axis() -> None:
    n = node(aten.select.int)
    x = Action((ax.batch(2), ax.total([PAIR, ax.trivial(2)]), ax.length(5)), IDS)
    assert [t.size for t in pieces.select(n, x, 1, 2).axes] == [2, 5]
    assert pieces.select(n, x, 1, -1).value == IDS
    assert [t.size for t in pieces.select(n, x, -1, 2).axes] == [2, 4]
    assert n.deferred == []
    with pytest.raises(Refusal):
        pieces.select(n, x, 1, 1)
    for index, what, why in (
        (0, "the first position", "the first position becomes the last"),
        (-1, "the last position", "the last position becomes the first"),
        (4, "the last position", "the last position becomes the first"),
        (1, "position 1 of 5", "position 1 of 5 becomes position 3"),
        (-2, "position -2 of 5", "becomes position 1"),
    ):
        n = node(aten.select.int)
        pieces.select(n, x, 2, index)
        (said,) = n.deferred
        assert said.what == f"select of {what} cannot be equivariant"
        assert why in said.why
        assert "the middle of an odd length" in said.do
    signed = Action((ax.product([ax.length(5), ax.SIGN]),))
    with pytest.raises(Mismatch):
        pieces.select(node(aten.select.int), signed, 0, 2)
    single = pieces.select(node(aten.select.int), Action((ax.length(1), ax.regular(4))), 0, 0)
    assert [t.size for t in single.axes] == [4]


@pytest.mark.parametrize(
    ("how", "sizes", "step"),
    [
        ((2, 1, -1), 5, Step(1, -2)),
        ((2, 1, 6), 5, Step(1, -2, only=7)),
        ((2, -6, -1), 5, Step(1, -2, only=7)),
        ((2, 0, None, 2), 4, Step(1, 1, 2)),
        ((2, 1, None), 6, Step(1, -1, lopsided=True)),
        ((2, None, -2), 5, Step(1, -2, lopsided=True)),
        ((2, 1, None, 2), 3, Step(1, -1, 2)),
    ],
)
def test_the_middle_of_a_length(how: Any, sizes: int, step: Step) -> None:
    n = node(aten.slice.Tensor)
    found = pieces.slice_(n, Action((ax.batch(2), ax.regular(4), ax.length(7)), IDS), *how)
    assert found.axes[2].size == sizes
    assert found.value == IDS
    role = ax.role(found.axes[2])
    assert role is not None
    assert role.steps == (step,)


def test_blocks_of_other_axes() -> None:
    x = Action((ax.total([PAIR, ax.trivial(4)]), ax.length(3)), IDS)
    n = node(aten.slice.Tensor)
    assert pieces.slice_(n, x, 0, 0, 100) is x
    assert pieces.slice_(n, x, 0, 6, 6).axes[0].size == 0
    assert tables(pieces.slice_(n, x, 0, 0, 3))[0] == [1, 0, 2]
    assert tables(pieces.narrow(n, x, 0, -4, 2))[0] == [0, 1]
    with pytest.raises(Refusal):
        pieces.slice_(n, x, 0, 1, 3)
    every = Action((ax.product([PAIR, ax.trivial(3)]),))
    assert tables(pieces.slice_(n, every, 0, 1, None, 3)) == [[1, 0]]
    fixed = ax.Var(5)
    assert pieces.slice_(n, Action((fixed,)), 0, 0, None, 2).axes[0].size == 3
    assert ax.is_trivial(fixed)
    said = node(aten.slice.Tensor)
    pieces.slice_(said, Action((ax.length(5),)), 0, 3, 4)
    assert "position 3 of 5" in said.deferred[0].what


@pytest.mark.parametrize(
    ("sizes", "mode", "found"),
    [
        ([1, 1], "constant", [4, 5]),
        ([0, 0, 1, 2], "constant", [7, 3]),
        ([0, 0, -1, 0], "constant", None),
        ([2, 2], "reflect", [4, 7]),
    ],
)
def test_padding(sizes: list[int], mode: str, found: list[int] | None) -> None:
    n, x = node(aten.pad.default), Action((ax.regular(4), ax.length(3)), IDS)
    if found is None:
        with pytest.raises(Mismatch):
            pieces.pad(n, x, sizes, mode)
        return
    made = pieces.pad(n, x, sizes, mode, 2 if mode == "constant" else None)
    assert [t.size for t in made.axes] == found
    assert made.value == IDS
    if len(sizes) == 4:
        assert tables(made)[0] == [0, 3, 4, 1, 2, 5, 6]
    with pytest.raises(Mismatch):
        pieces.pad(n, x, [1, 1], "constant", 1)  # of ids: the new one would be permuted
    pieces.pad(n, x, [1, 1], "edge", 1)


def test_a_value_that_is_padded_with_takes_no_sign() -> None:
    x = Action((SIGNED, ax.length(3)))
    pieces.pad(node(aten.pad.default), x, [1, 1])
    with pytest.raises(Refusal) as refused:
        pieces.pad(node(aten.pad.default), x, [1, 1], "constant", 2.0)
    assert "the padding does not change its sign" in refused.value.why
    pieces.edge_pad(node(aten.pad.default), x, [1, 1])


def test_entries_that_are_rearranged() -> None:
    n = node(aten.roll.default)
    x = Action((ax.product([PAIR, ax.trivial(2)]), ax.length(4)))
    assert tables(pieces.flip(n, x, [0]))[0] == [2, 3, 0, 1]
    assert ax.is_length(pieces.flip(n, x, [1]).axes[1])
    assert tables(pieces.roll(n, x, 1, [0]))[0] == [2, 3, 0, 1]
    assert tables(pieces.roll(n, Action((ax.permutation([1, 0, 2]),)), 1, [0])) == [[0, 2, 1]]
    assert tables(pieces.flip_one(node(aten.fliplr.default), Action((ax.length(2), ax.permutation([1, 0, 2])))))[1] == [
        0,
        2,
        1,
    ]
    assert tables(pieces.flip_one(node(aten.flipud.default), Action((ax.permutation([1, 0, 2]), ax.length(2)))))[0] == [
        0,
        2,
        1,
    ]
    taken = pieces.index_select(n, Action((ax.permutation([1, 0, 3, 2]),)), 0, Const(torch.tensor([2, 3])))
    assert tables(taken) == [[1, 0]]
    with pytest.raises(Mismatch, match="without its partner"):
        pieces.index_select(n, Action((ax.permutation([1, 0, 3, 2]),)), 0, Const(torch.tensor([0, 2])))
    mask = Const(torch.tensor([True, True, False, False]))
    assert tables(pieces.index_select(n, Action((ax.permutation([1, 0, 3, 2]),)), 0, mask)) == [[1, 0]]
    middle = pieces.index_select(n, Action((ax.length(5),)), 0, Const(torch.tensor([1, 2, 3])))
    assert ax.is_length(middle.axes[0])
    for where in (
        [None],
        [Const(torch.tensor([0])), Const(torch.tensor([0]))],
        [Const(torch.zeros(1, 1, dtype=torch.long))],
    ):
        with pytest.raises(Refusal) as refused:
            pieces.index(n, Action((ax.regular(4), ax.regular(4))), where)
        assert "only one axis at a time" in refused.value.why


# --- pools ---


@pytest.mark.parametrize(
    ("x", "k", "s", "p", "out", "found"),
    [
        (ax.length(6), 2, 2, 0, 3, [2, 1, 0]),
        (ax.product([PAIR, ax.trivial(3)]), 3, 3, 0, 2, [1, 0]),
        (ax.trivial(5), 2, 2, 0, 2, [0, 1]),
        (BASES, 3, 1, 1, 4, [3, 2, 1, 0]),
    ],
)
def test_windows_of_a_pool(x: ax.Axis, k: int, s: int, p: int, out: int, found: list[int]) -> None:
    made = pool._pool_axis(node(aten.max_pool1d.default), x, k, s, p, 1, out, ceil=False)
    assert ax.indices(made).tolist() == found


def test_a_pool_by_its_settings() -> None:
    n = node(aten.max_pool1d.default, 2, 4, 4)
    x = Action((ax.batch(2), ax.regular(4), ax.length(8)))
    assert ax.role(pool.max_pool(n, x, 2).axes[2]) == Role("length", 8, (Step(1, 0, 2),))
    n = node(aten.max_pool1d.default, 2, 4, 6)
    assert ax.role(pool.max_pool(n, x, [3], [1]).axes[2]) == Role("length", 8, (Step(1, -2),))
    n = node(aten.max_pool1d.default, 2, 4, 4)
    assert ax.role(pool.max_pool(n, x, 3, 1, 0, 2).axes[2]) == Role("length", 8, (Step(1, -4),))
    n = node(aten.avg_pool1d.default, 2, 4, 4)
    assert ax.role(pool.avg_pool(n, x, 3, 2, 1, True).axes[2]) == Role("length", 8, (Step(1, 1, 2, ceil=1),))


@pytest.mark.parametrize(
    ("size", "out", "found"),
    [
        (ax.length(8), 3, [2, 1, 0]),
        (ax.length(8), 8, reverse(8)),
        (ax.length(8), 1, [0]),
        (ax.trivial(6), 4, [0, 1, 2, 3]),
    ],
)
def test_adaptive_pools(size: ax.Axis, out: int, found: list[int]) -> None:
    n = node(aten.adaptive_avg_pool1d.default)
    made = pool.adaptive_avg_pool(n, Action((ax.regular(4), size)), [out])
    assert tables(made) == [[2, 3, 0, 1], found]
    largest, at = pool.adaptive_max_pool(n, Action((ax.regular(4), size)), out)
    assert tables(largest) == tables(made)
    assert at.value is not None
    assert at.value.size == size.size
    with pytest.raises(Mismatch):
        pool.adaptive_avg_pool(n, Action((ax.regular(6),)), [4])


@pytest.mark.parametrize(
    ("n", "out", "scale", "nearest", "linear"),
    [
        (6, 12, None, True, True),
        (6, 12, 2.0, True, True),
        (6, 9, None, False, True),
        (6, 9, 1.5, False, True),
        (6, 13, 2.3, False, False),
        (6, 12, 2.05, False, False),
    ],
)
def test_resampling_of_a_length(n: int, out: int, scale: float | None, nearest: bool, linear: bool) -> None:
    x = Action((ax.batch(2), ax.trivial(4), ax.length(n)))
    given = None if scale is None else [scale]
    for rule, even in (
        (lambda node: pool.upsample_nearest(node, x, None, given), nearest),
        (lambda node: pool.upsample_linear(node, x, None, False, given), linear),
        (lambda node: pool.upsample_linear(node, x, None, True, given), True),
    ):
        at = node(aten.upsample_linear1d.vec, 2, 4, out)
        made = rule(at)
        assert ax.is_length(made.axes[2])
        assert made.axes[2].size == out
        assert all(a.step.lopsided is not even for a in at.anchors)
        assert even or at.anchors
    same = pool.upsample_nearest(node(aten.upsample_nearest1d.vec, 2, 4, n), x, None, None)
    assert same.axes[2] is x.axes[2]


def test_coordinates_of_a_grid() -> None:
    assert pool._coordinate(ax.length(4)) == ax.SIGN
    assert pool._coordinate(ax.length(1)) == ax.trivial(1)
    assert pool._coordinate(ax.trivial(4)) == ax.trivial(1)
    theta = Action((ax.batch(2), ax.total([ax.SIGN, ax.trivial(1)]), ax.Var(3)))
    made = pool.affine_grid(node(), theta, [2, 3, 1, 5], False)
    assert [t.size for t in made.axes] == [2, 1, 5, 2]
    assert ax.is_length(made.axes[2])
    assert ax.signs(theta.axes[2]).tolist() == [-1, 1, 1]  # type: ignore[union-attr]


# --- reductions ---


def test_what_a_reduction_leaves() -> None:
    x = Action((ax.batch(2), ax.regular(4), ax.length(5)))
    for made, sizes in (
        (reduce.reduction(node(aten.sum.default), x), []),
        (reduce.reduction(node(aten.sum.dim_IntList), x, [-1]), [2, 4]),
        (reduce.reduction(node(aten.sum.dim_IntList), x, [-1], True), [2, 4, 1]),
        (reduce.reduction(node(aten.mean.dim), x, dim=[1], keepdim=True), [2, 1, 5]),
        (reduce.reduction(node(aten.linalg_vector_norm.default), x, 2, [1], True), [2, 1, 5]),
        (reduce.reduction(node(aten.norm.ScalarOpt_dim), x, 2, [1]), [2, 5]),
        (reduce.variance(node(), x, [1]), [2, 5]),
        (reduce.variance(node(), x, True), []),
        (reduce.variance(node(), x, [1], True, True), [2, 1, 5]),
        (reduce.variance(node(), x, [1], keepdim=True), [2, 1, 5]),
        (reduce.both_extremes(node(), x, dim=1)[0], [2, 5]),
        (reduce.both_extremes(node(), x)[1], []),
        (reduce.similarity(node(), x, x), [2, 5]),
        (reduce.distance(node(), x, x), [2, 4]),
        (reduce.distance(node(), x, x, keepdim=True), [2, 4, 1]),
        (reduce.extreme(node(), x, 1)[0], [2, 5]),
        (reduce.ranked(node(), x, 2, -1, True)[0], [2, 4, 1]),
        (reduce.top(node(), x, 3)[0], [2, 4, 3]),
        (reduce.order(node(), x, 1)[0], [2, 4, 5]),
        (reduce.stable_order(node(), x, dim=1)[0], [2, 4, 5]),
        (reduce.arg_extreme(node(), x, 1), [2, 5]),
    ):
        assert [t.size for t in made.axes] == sizes
    for _, at in (reduce.extreme(node(), x, -1), reduce.top(node(), x, 3), reduce.order(node(), x)):
        assert at.value == x.axes[2]
    assert ax.is_trivial(reduce.top(node(), x, 3)[0].axes[2])
    assert reduce.arg_extreme(node(), x, 1).value == x.axes[1]


def test_sums_over_signs_are_refused_and_others_pass() -> None:
    x = Action((ax.batch(2), SIGNED, ax.length(5)))
    assert reduce.reduction(node(aten.sum.dim_IntList), x, [-1]).axes[1] == SIGNED
    for refused_of, because in (
        (lambda: reduce.reduction(node(aten.sum.dim_IntList), x, [1]), "neither invariant nor odd"),
        (lambda: reduce.reduction(node(aten.amax.default), x, [-1]), "amax is not odd"),
        (lambda: reduce.similarity(node(), x, x, 2), "the signs of both meet"),
        (lambda: reduce.distance(node(), x, x), "a distance has no sign"),
    ):
        with pytest.raises(Refusal) as refused:
            refused_of()
        assert because in refused.value.why
    assert reduce.similarity(node(), x, x, 1).shape == (2, 5)


# --- ids and places ---


def test_rows_of_an_embedding() -> None:
    ids = Action((ax.batch(2), ax.length(5)), IDS)
    weight = Action((ax.Var(4), ax.regular(6)))
    made = lookup.embedding(node(), weight, ids)
    assert made.axes == (*ids.axes, weight.axes[1])
    assert ax.indices(weight.axes[0]).tolist() == [1, 0, 2, 3]
    rows = ax.Var(7)
    numbered = lookup.embedding(node(), Action((rows, ax.regular(6))), Const(torch.arange(2, 5).expand(2, 3)))
    assert [t.size for t in numbered.axes] == [2, 3, 6]
    other = Const(torch.tensor([[0, 2], [1, 1]]))
    table = ax.Var(3)
    assert [t.size for t in lookup.embedding(node(), Action((table, ax.regular(6))), other).axes] == [2, 2, 6]
    with pytest.raises(Mismatch):
        ax.unify(table, ax.product([ax.trivial(3), ax.SIGN]))


def test_one_hot_codes() -> None:
    ids = Action((ax.length(5),), IDS)
    assert tables(lookup.one_hot(node(aten.one_hot.default, 5, 5), ids))[1] == [1, 0, 2, 3, 4]
    assert tables(lookup.one_hot(node(aten.one_hot.default, 5, 3), ids))[1] == [1, 0, 2]
    assert tables(lookup.one_hot(node(aten.one_hot.default, 5, 3), Action((ax.length(5),))))[1] == [0, 1, 2]


def test_noise_is_the_same_under_any_permutation_and_has_no_sign() -> None:
    made = lookup.noise(node(aten.randn.default, 1, 4))
    assert ax.is_trivial(made.axes[0])
    assert ax.free(made.axes[1])
    with pytest.raises(Mismatch):
        ax.unify(made.axes[1], SIGNED)


def test_values_at_places() -> None:
    x, at = Action((ax.batch(2), ax.Var(3))), Action((ax.batch(2), ax.length(5)), IDS)
    made = places.gather(node(), x, 1, at)
    assert tables(made) == [[0, 1], reverse(5)]
    assert ax.indices(x.axes[1]).tolist() == [1, 0, 2]
    with pytest.raises(ValueError, match="axis 0 has 3 entries, the places 2"):
        places.gather(node(), Action((ax.batch(3), ax.Var(3))), 1, at)
    row = torch.tensor([2, 0, 1]).expand(4, 3)
    assert places.same_everywhere(row, (4, 5), 1) is not None
    assert places.same_everywhere(row, (5, 5), 1) is None
    assert places.same_everywhere(torch.tensor([[0, 1], [1, 0]]), (2, 5), 1) is None
    assert places.same_everywhere(torch.zeros(4, 0), (4, 5), 1) is None
    assert places.same_everywhere(row.T, (5, 4), 0).tolist() == [2, 0, 1]  # type: ignore[union-attr]


def test_how_values_are_put_to_places() -> None:
    at = Action((ax.batch(2), ax.length(5)), IDS)

    def x(*signs: ax.Axis) -> Action:
        return Action((ax.batch(2), ax.Var(3)))

    values = Action((ax.batch(2), ax.Var(5)))
    for op, how in (
        (aten.scatter_add.default, ""),
        (aten.scatter_reduce.two, "sum"),
        (aten.scatter_reduce.two, "amax"),
    ):
        assert places.put(node(op), x(), 1, at, values, how).shape == (2, 3)
    assert ax.is_length(values.axes[1])
    with pytest.raises(Refusal) as refused:
        places.put(node(aten.scatter.src), x(), 1, at, values)
    assert "the last of them stays" in refused.value.why
    one = Action((ax.batch(2), ax.trivial(1)), IDS)
    places.put(node(aten.scatter.src), x(), 1, one, Action((ax.batch(2), ax.trivial(1))))
    signed = Action((ax.product([ax.batch(2), ax.SIGN]), ax.trivial(3)))
    for value, reduce_ in ((1.0, ""), (0.0, "multiply")):
        with pytest.raises(Refusal) as refused:
            places.mark(node(aten.scatter.value), signed, 1, at, value, reduce=reduce_)
        assert "the value does not change its sign" in refused.value.why


def test_bins_of_numbers() -> None:
    x, edges = Action((ax.batch(2), ax.length(5))), Action((ax.Var(3),))
    assert places.bins(node(aten.bucketize.Tensor), x, edges).axes == x.axes
    assert ax.is_trivial(edges.axes[0])
    assert places.bins(node(aten.searchsorted.Tensor), edges, x).axes == x.axes
    with pytest.raises(ValueError, match="the edges differ from row to row"):
        places.bins(node(aten.bucketize.Tensor), edges, x)


# --- pointwise ---


def test_factors_meet_where_they_broadcast_and_one_may_carry_a_sign() -> None:
    n = node(aten.mul.Tensor, 4, 5)
    signed = Action((SIGNED, ax.length(5)))
    for small in (Action((ax.trivial(1), ax.length(5))), Action((ax.length(5),)), Action(())):
        for pair in ((small, signed), (signed, small)):
            found = pointwise.multiply(n, *pair)
            assert [ax.has_sign(t) for t in found.axes] == [False, True]
            assert tables(found) == [[0, 1, 2, 3], reverse(5)]
    twice = pointwise.multiply(n, signed, signed)
    assert not any(map(ax.has_sign, twice.axes))
    parts = Action((ax.total([SIGNED, ax.trivial(2)]),))
    free = Action((ax.trivial(1),))
    for pair in ((parts, free), (free, parts)):
        found = pointwise.multiply(node(aten.mul.Tensor, 6), *pair)
        assert ax.signs(found.axes[0]).tolist() == [-1] * 4 + [1, 1]  # type: ignore[union-attr]
    with pytest.raises(Refusal) as refused:
        pointwise.multiply(node(aten.mul.Tensor, 6), parts, parts)
    assert "only one factor may change its sign" in refused.value.why
    assert pointwise.multiply(n, signed, 3.0) is signed
    open_one = Action((ax.Var(1), ax.length(5)))
    out = pointwise.multiply(node(aten.mul.Tensor, 1, 5), open_one, Action((ax.trivial(1), ax.length(5))))
    assert ax.free(out.axes[0]) or ax.is_trivial(out.axes[0])


def test_slopes_gates_fills_and_casts() -> None:
    x = Action((ax.batch(2), ax.regular(4), ax.length(5)))
    slope, one = ax.Var(4), ax.Var(1)
    assert pointwise.prelu(node(), x, Action((slope,))) is x
    assert ax.same(slope, ax.regular(4))
    pointwise.prelu(node(), x, Action((one,)))
    assert ax.is_trivial(one)
    halves = Action((ax.batch(2), ax.total([PAIR, PAIR]), ax.length(5)))
    gated = pointwise.glu(node(), halves, 1)
    assert tables(gated) == [[0, 1], [1, 0], reverse(5)]
    with pytest.raises(Mismatch):
        pointwise.glu(node(), x, 1)
    signed = Action((SIGNED,))
    assert pointwise.fill(node(aten.fill_.Scalar), signed) is signed
    assert pointwise.fill(node(aten.fill_.Scalar), signed, 0.0) is signed
    with pytest.raises(Refusal):
        pointwise.fill(node(aten.fill_.Scalar), signed, 1.0)
    assert pointwise.identity(node(), x, 3, k=2) is pointwise.cast_as(node(), x, signed) is x
    assert pointwise.copy_into(node(), Action((ax.Var(4),)), Action((ax.regular(4),))).axes == (ax.regular(4),)
    ids = Action((ax.length(3),), IDS)
    assert pointwise.compare(node(), ids, 2).value is None
    with pytest.raises(Mismatch):
        pointwise.compare(node(), ids, 1)


# --- contractions, convolutions, recurrences, norms, losses ---


def axes(*terms: ax.Axis) -> Action:
    return Action(terms)


def test_contracted_axes_agree_and_the_others_pass() -> None:
    n, open_ = node(aten.linear.default), ax.Var
    w_in, bias = open_(4), open_(6)
    made = linear.linear(n, axes(ax.batch(2), ax.regular(4)), axes(ax.regular(6), w_in), axes(bias))
    assert tables(made) == [[0, 1], [3, 4, 5, 0, 1, 2]]
    assert ax.same(w_in, ax.regular(4))
    assert ax.same(bias, ax.regular(6))
    with pytest.raises(Mismatch):
        linear.linear(n, axes(SIGNED, ax.trivial(3)), axes(ax.trivial(2), ax.trivial(3)), axes(ax.trivial(2)))
    assert linear.linear(n, axes(SIGNED, ax.trivial(3)), axes(ax.trivial(2), ax.trivial(3))).axes[0] == SIGNED
    a, b = axes(ax.batch(2), ax.length(3), ax.regular(4)), axes(ax.batch(2), ax.Var(4), ax.regular(6))
    assert [t.size for t in linear.matmul(n, a, b).axes] == [2, 3, 6]
    assert ax.same(b.axes[1], ax.regular(4))
    vector = ax.Var(4)
    assert [t.size for t in linear.matmul(n, a, axes(vector)).axes] == [2, 3]
    assert ax.same(vector, ax.regular(4))
    assert [t.size for t in linear.matmul(n, axes(ax.regular(4)), axes(ax.Var(4), ax.length(3))).axes] == [3]
    assert linear.outer(n, axes(ax.regular(4)), axes(ax.length(3))).shape == (4, 3)
    assert linear.inner(n, axes(ax.trivial(2), ax.regular(4)), axes(ax.length(3), ax.Var(4))).shape == (2, 3)
    kron = linear.kronecker(node(aten.kron.default, 2, 6), axes(PAIR), axes(ax.trivial(2), ax.trivial(3)))
    assert tables(kron) == [[0, 1], [3, 4, 5, 0, 1, 2]]
    rows = ax.Var(4)
    assert linear.matrix_exp(n, axes(rows, ax.regular(4))).shape == (4, 4)
    assert ax.same(rows, ax.regular(4))
    assert linear.inverse(n, axes(ax.batch(1), ax.regular(4), ax.length(4))).axes == (
        ax.batch(1),
        ax.length(4),
        ax.regular(4),
    )
    assert linear.vecdot(n, axes(ax.trivial(2), ax.regular(4)), axes(ax.trivial(2), ax.Var(4))).shape == (2,)
    assert linear.vecdot(n, axes(ax.trivial(2), ax.regular(4)), axes(ax.trivial(2), ax.Var(4)), dim=0).shape == (4,)
    dot = linear.tensordot(
        n, axes(ax.trivial(2), ax.regular(4), ax.length(3)), axes(ax.Var(3), ax.length(5), ax.Var(4)), [1, -1], [2, 0]
    )
    assert [t.size for t in dot.axes] == [2, 5]
    x, y, w, b = (
        axes(ax.batch(2), ax.regular(4)),
        axes(ax.batch(2), ax.length(3)),
        [ax.regular(6), ax.Var(4), ax.Var(3)],
        ax.Var(6),
    )
    assert linear.bilinear(n, x, y, Action(tuple(w)), axes(b)).shape == (2, 6)
    assert ax.same(w[1], ax.regular(4))
    assert ax.same(w[2], ax.length(3))
    assert ax.same(b, ax.regular(6))
    summed = linear.add_matmul(node(aten.addbmm.default, 3, 6), axes(ax.Var(3), ax.Var(6)), a, b_of())
    assert [t.size for t in summed.axes] == [3, 6]


def b_of() -> Action:
    return axes(ax.batch(2), ax.regular(4), ax.regular(6))


def test_triangles_and_attention() -> None:
    for terms, fine in (
        ((ax.trivial(4), ax.trivial(4)), True),
        ((ax.trivial(4), ax.regular(4)), False),
        ((ax.regular(4), ax.trivial(4)), False),
    ):
        if fine:
            assert linear.triangle(node(aten.tril.default), axes(ax.length(2), *terms)).shape == (2, 4, 4)
        else:
            with pytest.raises(Refusal, match="the triangle of a matrix"):
                linear.triangle(node(aten.tril.default), axes(*terms))
    q, k, v = axes(ax.length(5), ax.regular(4)), axes(ax.length(7), ax.Var(4)), axes(ax.Var(7), ax.regular(6))
    mask = axes(ax.Var(5), ax.Var(7))
    made = linear.attention(node(), q, k, v, mask)
    assert tables(made) == [reverse(5), [3, 4, 5, 0, 1, 2]]
    assert ax.is_length(v.axes[0])
    assert all(map(ax.is_length, mask.axes))
    with pytest.raises(Refusal) as refused:
        linear.attention(node(), q, k, v, None, 0.0, True)
    assert refused.value.what == "causal attention"
    with pytest.raises(Mismatch):
        linear.attention(node(), axes(ax.product([ax.length(5), ax.SIGN]), ax.regular(4)), k, v)


@pytest.mark.parametrize(
    ("equation", "operands", "sizes"),
    [
        ("ij,jk->ik", [(2, 4), (4, 3)], [2, 3]),
        ("ij,jk", [(2, 4), (4, 3)], [2, 3]),
        ("ba", [(2, 4)], [4, 2]),
        ("...i,i->...", [(2, 5, 4), (4,)], [2, 5]),
        ("i...,...->...i", [(4, 2, 5), (2, 5)], [2, 5, 4]),
        ("a...b,b", [(2, 5, 4), (4,)], [5, 2]),
        ("ij->", [(2, 4)], []),
        ("n c, n -> n c", [(2, 4), (1,)], [2, 4]),
    ],
)
def test_letters_of_an_equation(equation: str, operands: Any, sizes: list[int]) -> None:
    given = [Action(tuple(ax.Var(n) if n > 1 else ax.Var(1) for n in s)) for s in operands]
    assert [t.size for t in linear.einsum(node(), equation, given).axes] == sizes


def test_signs_of_an_equation_cancel_in_pairs() -> None:
    signed = axes(SIGNED)
    assert linear.einsum(node(), "i,i->", [signed, signed]).axes == ()
    with pytest.raises(Mismatch):
        linear.einsum(node(), "i->", [signed])
    with pytest.raises(Mismatch):
        linear.einsum(node(), "i,i->i", [signed, signed])
    assert linear.einsum(node(), "i->i", [signed]).axes == (SIGNED,)
    with pytest.raises(Refusal, match="drops its ellipsis"):
        linear.einsum(node(), "...i->i", [axes(ax.trivial(2), ax.trivial(3))])


def test_axes_of_a_convolution() -> None:
    w = axes(ax.regular(6), ax.Var(4), ax.Var(3))
    bias = ax.Var(6)
    made = conv.conv(node(aten.conv1d.default, 2, 6, 9), axes(ax.batch(2), BASES, ax.length(9)), w, axes(bias), 1, 1)
    assert tables(made) == [[0, 1], [3, 4, 5, 0, 1, 2], reverse(9)]
    assert (ax.indices(w.axes[1]).tolist(), ax.indices(w.axes[2]).tolist()) == ([3, 2, 1, 0], [2, 1, 0])
    assert ax.same(bias, ax.regular(6))
    free = axes(ax.regular(6), ax.Var(4), ax.Var(3))
    made = conv.conv(node(aten.conv1d.default, 6, 4), axes(BASES, ax.length(9)), free, None, [2], "valid")  # unbatched
    assert ax.role(made.axes[1]) == Role("length", 9, (Step(1, -1, 2),))
    grouped = axes(ax.Var(4), ax.Var(2), ax.Var(1))
    made = conv.conv(
        node(aten.conv1d.default, 2, 4, 9),
        axes(ax.batch(2), ax.product([PAIR, ax.trivial(2)]), ax.length(9)),
        grouped,
        groups=2,
    )
    assert ax.same(ax.factor(grouped.axes[0], 2, 2)[0], PAIR)
    assert conv._pads("same", w, [2], 1) == [(2, 2)]
    assert conv._pads("same", axes(ax.trivial(1), ax.trivial(1), ax.trivial(4)), [1], 1) == [(1, 2)]
    assert conv._pads("valid", w, [1], 2) == [(0, 0), (0, 0)]
    assert conv._pads([1, 2], w, [1], 2) == [(1, 1), (2, 2)]


def test_groups_that_change_their_sign_are_read_by_odd_filters() -> None:
    group = ax.total([ax.product([ax.trivial(2), ax.SIGN]), ax.trivial(1)])
    one = ax.Var(3)
    made = conv._filters(group, one, one_tap=True)
    assert ax.signs(made).tolist() == [-1, -1, 1]  # type: ignore[union-attr]
    assert ax.is_trivial(one)
    more = ax.Var(6)
    assert conv._filters(group, more, one_tap=True).size == 6
    assert conv._is_negative(ax.product([ax.trivial(2), ax.SIGN]))
    assert conv._is_negative(ax.SIGN)
    assert not conv._is_negative(ax.trivial(2))


def test_axes_of_a_transposed_convolution() -> None:
    n = node(aten.conv_transpose1d.default, 2, 6, 19)
    w = axes(ax.Var(4), ax.regular(6), ax.Var(3))
    made = conv.conv_transpose(n, axes(ax.batch(2), BASES, ax.length(9)), w, axes(ax.Var(6)), 2)
    assert ax.role(made.axes[2]) == Role("length", 9, (Step(2, 1),))
    assert ax.same(w.axes[0], BASES)
    assert n.anchors == []
    n = node(aten.conv_transpose1d.default, 2, 6, 18)
    made = conv.conv_transpose(
        n, axes(ax.batch(2), BASES, ax.length(9)), axes(ax.Var(4), ax.trivial(6), ax.Var(3)), None, 2, 1, 1
    )
    assert ax.role(made.axes[2]) == Role("length", 9, (Step(2, 0, lopsided=True),))
    (anchor,) = n.anchors
    assert anchor.refusal.what == "conv_transpose1d adds 1 positions on the right (output_padding)"
    taps = ax.Var(1)
    assert conv._transposed_axis(n, ax.length(9), taps, 1, 0, 0, 1, 9) == ax.length(9)
    assert ax.is_trivial(taps)
    wide = ax.Var(5)
    assert conv._transposed_axis(n, ax.trivial(1), wide, 1, 0, 0, 1, 5) is wide
    fixed = ax.Var(3)
    assert conv._transposed_axis(n, ax.trivial(4), fixed, 1, 0, 0, 1, 6) == ax.trivial(6)
    assert ax.is_trivial(fixed)
    over = ax.Var(3)
    assert ax.indices(conv._transposed_axis(n, BASES, over, 2, 0, 0, 1, 9)).tolist() == reverse(9)
    assert ax.indices(over).tolist() == [2, 1, 0]
    with pytest.raises(Refusal):
        conv._transposed_axis(n, BASES, ax.Var(3), 2, 0, 1, 1, 10)
    patches = conv.unfold(
        node(aten.im2col.default, 1, 12, 8),
        axes(ax.batch(1), ax.regular(2), ax.trivial(3), ax.length(4)),
        [2, 3],
        [1, 1],
        [0, 1],
        [1, 1],
    )
    assert [t.size for t in patches.axes] == [1, 12, 8]


def test_which_way_a_recurrence_reads() -> None:
    n = node(aten.gru.input)
    for x, over, first in (
        (axes(ax.length(5), ax.batch(2), ax.trivial(3)), "the samples of the batch", True),
        (axes(ax.batch(2), ax.regular(4), ax.trivial(3)), "an axis that is no length", True),
    ):
        with pytest.raises(Refusal) as refused:
            recurrent._require_length(n, x, 1)
        assert refused.value.what == f"a recurrence (gru) that runs over {over}"
        assert f"with batch_first={first} it reads along axis 1" in refused.value.why
        assert f"set batch_first={not first}" in refused.value.do
    with pytest.raises(Refusal, match="several sequences"):
        recurrent._require_length(n, axes(ax.total([ax.length(2), ax.length(3)]), ax.batch(2), ax.trivial(3)), 0)
    written = ax.Var(5)
    recurrent._require_length(n, axes(written, ax.batch(2), ax.trivial(3)), 0)
    assert ax.role(written) == Role("length", steps=None)
    assert recurrent._stands(axes(ax.Leaf(5, role=ax.STANDING), ax.batch(2), ax.length(3)), 0)
    assert recurrent._stands(axes(ax.trivial(5), ax.length(2), ax.trivial(3)), 0)
    assert not recurrent._stands(axes(ax.length(5), ax.batch(2), ax.trivial(3)), 0)
    assert not recurrent._stands(axes(ax.trivial(5), ax.batch(2), ax.length(3)), 0)
    assert not recurrent._stands(axes(ax.Var(5), ax.batch(2), ax.trivial(3)), 0)
    assert not recurrent._stands(axes(ax.regular(4), ax.length(2), ax.trivial(3)), 0)
    with pytest.raises(Refusal) as refused:
        recurrent.gru(
            n,
            axes(ax.length(5), ax.batch(2), ax.trivial(3)),
            axes(ax.trivial(1), ax.batch(2), ax.Var(4)),
            [],
            True,
            1,
            0.0,
            False,
            False,
            False,
        )
    assert "reads in one direction only" in refused.value.what


def test_axes_of_a_recurrence_in_both_directions() -> None:
    def weights(into: int) -> list[Action]:
        return [axes(*(ax.Var(s) for s in shape)) for shape in ((12, into), (12, 4), (12,), (12,))]

    swapped: list[Any] = []
    n = node(aten.gru.input, swap=lambda a, b: swapped.append((a, b)))
    given = [*weights(3), *weights(3), *weights(8), *weights(8)]
    state = axes(ax.Var(4), ax.Var(2), ax.Var(4))
    y, last = recurrent.gru(
        n, axes(ax.batch(2), ax.length(5), ax.trivial(3)), state, given, True, 2, 0.0, False, True, True
    )
    assert [t.size for t in y.axes] == [2, 5, 8]
    assert [t.size for t in last.axes] == [4, 2, 4]
    assert ax.indices(last.axes[0]).tolist() == [1, 0, 3, 2]
    assert len(swapped) == 8
    assert swapped[0] == (given[4], given[0])
    assert swapped[-1] == (given[15], given[11])
    hidden = ax.walk(last.axes[2])
    ax.unify(hidden, ax.trivial(4))
    assert ax.indices(y.axes[2]).tolist() == [4, 5, 6, 7, 0, 1, 2, 3]
    assert ax.indices(given[8].axes[1]).tolist() == [4, 5, 6, 7, 0, 1, 2, 3]


def test_norms_and_losses() -> None:
    x = axes(ax.batch(2), ax.regular(4), ax.length(5))
    vectors = [axes(ax.Var(4)) for _ in range(4)]
    assert norm.batch_norm(node(one_of_two=False), x, *vectors) is x
    assert all(ax.same(v.axes[0], ax.regular(4)) for v in vectors)
    n = node(aten.batch_norm.default, one_of_two=True)
    norm.batch_norm(n, x, None, None, axes(ax.Var(4)), None)
    assert n.deferred == []
    norm.batch_norm(n, x, None, None, None, None)
    assert "inside one of two readings" in n.deferred[0].what
    groups = axes(ax.batch(2), ax.product([PAIR, ax.trivial(2)]), ax.length(5))
    assert norm.group_norm(node(), groups, 2) is groups
    with pytest.raises(Mismatch):
        norm.group_norm(node(), axes(ax.batch(2), ax.permutation([2, 1, 0, 3]), ax.length(5)), 2)
    g = axes(ax.Var(4), ax.Var(1))
    norm.weight_norm(node(), axes(ax.regular(4), ax.regular(6)), g, 0)
    assert ax.same(g.axes[0], ax.regular(4))
    assert ax.is_trivial(g.axes[1])
    last = axes(ax.Var(4), ax.Var(5))
    norm.layer_norm(node(), x, [4, 5], last, 3)
    assert ax.is_length(last.axes[1])
    target = axes(ax.Var(2), ax.Var(4), ax.Var(5))
    assert loss.entrywise_loss(node(aten.mse_loss.default), x, target) == Action(())
    assert loss.entrywise_loss(node(aten.mse_loss.default, 2, 4, 5), x, target).shape == (2, 4, 5)
    assert ax.is_length(target.axes[2])
    scores = axes(ax.batch(2), ax.Var(3), ax.length(5))
    ids, weight = Action((ax.batch(2), ax.length(5)), IDS), axes(ax.Var(3))
    assert loss.class_loss(node(aten.cross_entropy_loss.default), scores, ids, weight) == Action(())
    assert ax.indices(scores.axes[1]).tolist() == ax.indices(weight.axes[0]).tolist() == [1, 0, 2]
    assert loss.class_loss(node(aten.nll_loss.default, 2, 5), scores, ids).shape == (2, 5)
    plain = axes(ax.batch(2), ax.Var(3))
    loss.class_loss(node(aten.nll_loss.default), plain, axes(ax.batch(2)))
    assert ax.is_trivial(plain.axes[1])
    same = axes(ax.batch(2), ax.Var(3), ax.Var(5))
    loss.class_loss(node(aten.cross_entropy_loss.default), scores, same)
    assert ax.indices(same.axes[1]).tolist() == [1, 0, 2]


def test_complex_numbers() -> None:
    pair = ax.Var(2)
    assert complex_numbers.together(node(), axes(ax.length(5), pair)).axes == (ax.length(5),)
    assert ax.is_trivial(pair)
    assert complex_numbers.apart(node(), axes(ax.length(5))).axes == (ax.length(5), ax.trivial(2))
    imaginary = ax.Var(5)
    assert ax.is_length(complex_numbers.from_parts(node(), axes(ax.length(5)), axes(imaginary)).axes[0])
    assert ax.is_length(imaginary)


# --- the registry ---


def test_overloads_that_torch_lacks_are_missing() -> None:
    assert aten.relu.no_such_overload == Missing("aten.relu.no_such_overload")
    assert registry.overloads(torch.ops.aten.relu.default) == [torch.ops.aten.relu.default]
    with pytest.raises(AttributeError):
        Missing("aten.a").__wrapped__  # noqa: B018
    with pytest.raises(TypeError, match="signs=1: give True or False"):
        Facts(signs=1)  # type: ignore[arg-type]
    for ops, words in ((("relu",), "not 'relu'"), ((), "not 'nothing'")):
        with pytest.raises(TypeError, match=words):
            registry.rule(*ops)
    with pytest.raises(TypeError, match="decorates a function"):
        registry.rule(Missing("aten.no"))(int)
    before = registry.RULES[torch.ops.aten.linear.default]
    with pytest.raises(ValueError, match=r"linear.default has a rule already, linear: pass replace=True"):
        registry.rule(torch.ops.aten.linear.default)(lambda node, x: x)
    assert registry.RULES[torch.ops.aten.linear.default] is before
    assert registry.is_silent(aten._assert_async.default)
    assert not registry.is_silent(aten.relu.default)
    with pytest.raises(Refusal) as refused:
        registry.refuse("what", why="why", do="do", never=False, got="got")
    assert (refused.value.what, refused.value.why, refused.value.do, refused.value.got) == ("what", "why", "do", "got")
    assert refused.value.kind is NoRuleError  # type: ignore[attr-defined]


def test_sums_carry_signs_that_all_of_their_operands_have() -> None:
    signed, plain = axes(SIGNED), axes(ax.trivial(4))
    for op, args in (
        (aten.add.Tensor, (signed, signed)),
        (aten.rsub.Tensor, (signed, signed)),
        (aten.lerp.Scalar, (signed, signed, 0.5)),
    ):
        assert pointwise.pointwise(node(op), *args).axes == (SIGNED,)
    assert pointwise.pointwise(node(aten.add.Scalar), signed, 0).axes == (SIGNED,)
    for op, args in (
        (aten.add.Tensor, (signed, plain)),
        (aten.add.Scalar, (signed, 1.0)),
        (aten.rsub.Scalar, (signed, 2)),
    ):
        with pytest.raises((Refusal, Mismatch)):
            pointwise.pointwise(node(op), *args)
    for op, args, odd in (
        (aten.tanh.default, (), True), (aten.exp.default, (), False), (aten.pow.Tensor_Scalar, (3,), True),
        (aten.pow.Tensor_Scalar, (2,), False), (aten.pow.Tensor_Scalar, (0.5,), False),
        (aten.clamp.default, (-1, 1), True), (aten.clamp.default, (-1, 2), False), (aten.clamp.default, (1,), False),
        (aten.hardtanh.default, (-2.0, 2.0), True), (aten.threshold.default, (-1, 1), False),
    ):  # fmt: skip
        if odd:
            assert pointwise.pointwise(node(op), signed, *args).axes == (SIGNED,)
        else:
            with pytest.raises(Refusal):
                pointwise.pointwise(node(op), signed, *args)
    assert pointwise.range_of(aten.sigmoid.default).startswith("the result of sigmoid ")
    assert pointwise.range_of(aten.tanh.default) == ""
    assert pointwise.rule_of(aten.exp.default) is pointwise.pointwise
    assert pointwise.rule_of(aten.nonzero.default) is None
