"""What is known of operators beside their laws, and calls of them that the samples of `test_rules` leave out."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import test_rules
import torch
import torch.nn.functional as F
from by_hand import Net, X, conv
from oracle import assert_law
from rule_samples import Sample, action_of
from rule_samples_recurrent import called, weights_of
from tiers import chosen, some

from rcps_convert import NoRuleError, convert_model
from rcps_convert.algebra import axis as ax
from rcps_convert.algebra.action import Action, act
from rcps_convert.infer.inference import Inference
from rcps_convert.infer.walk import Walk
from rcps_convert.rules import FAMILIES, common, directions
from rcps_convert.rules.pins import open_action
from rcps_convert.rules.pointwise import is_nonlinear
from rcps_convert.rules.registry import MISSING, RULES, Missing, aten, facts_of, rule

OPS = torch.ops.aten


@pytest.fixture(autouse=True)
def _missing_as_before() -> Iterator[None]:
    """The list of operators that torch lacks, without those that a test made up."""
    before = [*MISSING]
    yield
    MISSING[:] = before


SAMPLES = [
    *(
        Sample(op, lambda x, f=f: f(x), operands)
        for op, f in (
            (OPS.topk.default, lambda x: x.topk(3)),
            (OPS.sort.default, lambda x: x.sort()),
            (OPS.kthvalue.default, lambda x: x.kthvalue(2)),
        )
        for operands in (("n2 t3 l5 v6",), ("n2 v6 l5",), ("n2 v6",))
    ),
    Sample(OPS.hstack.default, lambda x, y: torch.hstack([x, y]), ("v4", "t3")),
    Sample(OPS.cat.default, lambda x: torch.cat([x.new_ones(2, 4, 3), x, x.new_ones(2, 4, 3)], 2), ("n2 v4 l6",)),
    Sample(OPS.cat.default, lambda x: torch.cat([x.new_zeros(2, 4, 3), x, x.new_zeros(2, 4, 3)], 2), ("n2 v4 l6*s1",)),
    Sample(OPS.cat.default, lambda x: torch.cat([x.new_zeros(2, 4, 3), x, x.new_zeros(2, 4, 3)], 2), ("n2 v4 l6*s1",)),
    Sample(OPS.gru.input, called("gru", 0), ("n2 l7 s6", *weights_of("gru", 6))),
    Sample(OPS.rnn_tanh.input, called("rnn_tanh", 0), ("n2 l7 r4*s1", *weights_of("rnn_tanh", 4))),
    Sample(OPS.clamp.default, lambda x: x.clamp(min=0.1), ("n2 u4 l5",)),
    Sample(OPS.clamp.default, lambda x: x.clamp(-0.5, 0.5), ("n2 s4 l5",)),
    Sample(OPS.conv_transpose2d.input, lambda x, w: F.conv_transpose2d(x, w), ("n2 v4 v3 l6", "v4 v2 t1 l3")),
    Sample(
        OPS.conv_transpose2d.input,
        lambda x, w: F.conv_transpose2d(x, w, padding=(0, 1)),
        ("n2 v4 r4 l6", "v4 v2 t1 l3"),
    ),
    Sample(OPS.conv_transpose1d.default, lambda x, w: F.conv_transpose1d(x, w, padding=1), ("n2 v4 l6", "v4 v2 l1")),
]


@pytest.mark.parametrize("case", SAMPLES, ids=test_rules.name_of)
def test_law(case: Sample) -> None:
    test_rules.test_law(case)
    test_rules.test_whatever_a_rule_accepts_is_true(case, test_rules.MORE)


@pytest.mark.parametrize(
    ("op", "tensors", "nonlinear"),
    [
        (aten.relu.default, 1, True), (aten.relu_.default, 1, True), (aten.sigmoid.default, 1, True),
        (aten.mul.Tensor, 2, True), (aten.mul.Tensor, 1, False), (aten.div.Tensor, 1, False),
        (aten.add.Tensor, 2, False), (aten.neg.default, 1, False), (aten.flip.default, 1, False),
        (aten.max_pool1d.default, 1, True), (aten.avg_pool1d.default, 1, False), (aten.linear.default, 3, False),
    ],
)  # fmt: skip
def test_which_operators_are_nonlinear(op: object, tensors: int, nonlinear: bool) -> None:
    assert is_nonlinear(op, tensors) is nonlinear


def test_an_operator_that_torch_lacks_has_a_name_and_no_rule() -> None:
    assert aten.no_such_operator.default == Missing("aten.no_such_operator.default")
    assert Missing("aten.a").b == Missing("aten.a.b")

    def nothing(node: object, x: object) -> object:
        return x

    assert rule(Missing("aten.no_such_operator").default)(nothing) is nothing


def test_an_operator_in_place_has_the_facts_of_its_plain_twin() -> None:
    assert facts_of(aten.relu_.default) == facts_of(aten.relu.default)


def test_a_function_has_one_set_of_facts() -> None:
    def nothing(node: object, x: object) -> object:
        return x

    first = rule(Missing("aten.no_such_operator"), signs=True)(nothing)
    with pytest.raises(ValueError, match="twice"):
        rule(Missing("aten.no_such_other"), ids=True)(first)
    assert rule(Missing("aten.no_such_other"), signs=True)(first) is first


def test_which_statistics_are_gathered_over_samples() -> None:
    assert facts_of(aten.batch_norm.default).over_samples
    assert not facts_of(aten.instance_norm.default).over_samples
    assert facts_of(aten.batch_norm.default).statistics == (3, 4)


def test_the_families_hold_every_rule() -> None:
    ours = {r.__module__ for r in RULES.values() if r.__module__.startswith("rcps_convert.")}
    assert ours == {family.__name__ for family in FAMILIES}


@pytest.mark.parametrize(("rank", "signed"), [(4, True), (5, False)])
def test_constants_of_many_axes_keep_their_signs(rank: int, signed: bool) -> None:
    value = torch.tensor([[1.0, -1.0], [2.0, -2.0]]).view(2, 2, *[1] * (rank - 2))
    first = open_action(value).axes[0]
    assert isinstance(first, ax.Var)
    assert first.unsigned is not signed


@pytest.mark.parametrize(("size", "is_open"), chosen([(2048, True), (2049, False)], lambda case: not case[1]))
def test_open_channels_that_are_rearranged_stay_open_up_to_a_size(size: int, is_open: bool) -> None:
    inputs = [action_of(f"n1 v{size}")]
    case = Sample(OPS.roll.default, lambda x: x.roll(1, 1), (f"n1 v{size}",))
    found = Inference()
    Walk(test_rules.traced(case), found).run(inputs)
    assert not found.problems
    assert bool(ax.free(inputs[0].axes[1])) is is_open


# --- a length between constant blocks ------------------------------------------------------------------


@pytest.mark.parametrize("fill", some([0.0, 1.0], 1))
def test_windows_slide_over_a_length_between_constant_blocks(fill: float) -> None:
    def forward(m: Net, x: torch.Tensor) -> torch.Tensor:
        block = torch.full((x.shape[0], 8, 2), fill, dtype=x.dtype)
        return m.d(torch.cat([block, m.c(x), block], -1)).amax(-1)

    torch.manual_seed(0)
    converted = convert_model(Net(forward, c=conv(), d=torch.nn.Conv1d(8, 6, 3, stride=2)), X)
    assert_law(converted, X, lengths=(20, 23))


def test_unequal_entries_of_the_blocks_are_no_padding() -> None:
    def forward(m: Net, x: torch.Tensor) -> torch.Tensor:
        block = torch.arange(2, dtype=x.dtype).expand(x.shape[0], 8, 2)
        return m.d(torch.cat([block, m.c(x), block], -1)).amax(-1)

    with pytest.raises(NoRuleError, match="slides over an axis that mixes positions with something else"):
        convert_model(Net(forward, c=conv(), d=torch.nn.Conv1d(8, 6, 3, stride=2)), X)


@pytest.mark.parametrize("terms", [("nc,n->nc", "t2 v6", "n2"), ("n,nc->nc", "n2", "t2 v6")])
def test_a_letter_of_einsum_is_what_any_of_its_axes_is(terms: tuple[str, str, str]) -> None:
    formula, *operands = terms
    case = Sample(OPS.einsum.default, lambda x, y: torch.einsum(formula, x, y), tuple(operands))
    _, (found,) = test_rules.solve(case, test_rules.regular)
    role = ax.role(found.axes[0])
    assert role is not None
    assert role.name == "batch"


def test_numbers_made_of_ids_that_change_their_sign() -> None:
    ids = Action((ax.batch(2), ax.length(6)), ax.permutation([3, 2, 1, 0]))
    made, x = common.renamed(SimpleNamespace(), ids, torch.tensor([-3.0, -1.0, 1.0, 3.0])), torch.randn(2, 6)
    assert torch.equal(act(made, x), -x.flip(1))


@pytest.mark.parametrize("assumed", [False, True])
def test_an_open_axis_is_taken_for_positions_only_where_that_is_assumed(assumed: bool) -> None:
    open_axis, known = ax.Var(6), ax.trivial(6)
    for term in (open_axis, known):
        common.read_as_positions(SimpleNamespace(assumes=lambda what: assumed), term)
    assert bool(ax.free(open_axis)) is not assumed
    assert ax.is_length(open_axis) is assumed
    assert ax.is_trivial(known)


# --- a length that is read from either end ----------------------------------------------------------


def test_positions_stay_where_they_are_within_a_direction() -> None:
    for term in (ax.Var(6), ax.trivial(4)):
        found = directions._placed(term, ax.length(6))
        assert ax.is_trivial(ax.walk(term))
        assert ax.is_length(found)
        assert found.size == term.size


@pytest.mark.parametrize(
    ("op", "places"),
    [(aten.cat.default, [[0, 1], [3, 4, 5, 0, 1, 2]]), (aten.stack.default, [[0, 1], [1, 0], [0, 1, 2]])],
)
@pytest.mark.parametrize("dim", [1, -2])
def test_two_readings_change_places_where_they_are_joined(op: object, places: list[list[int]], dim: int) -> None:
    readings = Action((ax.batch(2), ax.trivial(3), ax.Leaf(5, role=ax.STANDING)))
    at = dim - 1 if op is aten.stack.default and dim < 0 else dim
    node = SimpleNamespace(op=op, args=([], at), kwargs={})
    found = directions.joined(node, readings, ax.length(5), len(readings.axes) - 1)
    assert [ax.indices(t).tolist() for t in found.axes] == [*places, [4, 3, 2, 1, 0]]


@pytest.mark.parametrize("op", [aten.cat.default, aten.stack.default])
@pytest.mark.parametrize("named", [False, True])
def test_axes_of_readings_are_counted_from_either_end(op: object, named: bool) -> None:
    readings = Action((ax.batch(2), ax.trivial(3), ax.trivial(4), ax.Leaf(5, role=ax.STANDING)))
    count = len(readings.axes) + (op is aten.stack.default)

    def found(at: int) -> list[list[int]]:
        node = SimpleNamespace(op=op, args=([],) if named else ([], at), kwargs={"dim": at} if named else {})
        return [ax.indices(t).tolist() for t in directions.joined(node, readings, ax.length(5), None).axes]

    made = [found(at) for at in range(count)]
    assert made == [found(at - count) for at in range(count)]
    assert all(len(axes) == count for axes in made)
    assert len({str(axes) for axes in made}) == count


def test_pairs_are_no_positions_within_a_direction() -> None:
    with pytest.raises(ax.Mismatch):
        directions._placed(ax.regular(6), ax.length(6))


# --- arguments that a graph leaves out ---


def left_out(op: Any) -> Iterator[tuple[str, Any, Any]]:
    """Arguments of an operator that its rule has a default for: name, default of the rule, default of the operator."""
    named = {a.name: a for a in op._schema.arguments if a.kwarg_only}
    placed = [a for a in op._schema.arguments if not a.kwarg_only]
    for number, p in enumerate([*inspect.signature(RULES[op]).parameters.values()][1:]):
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            return
        by_place = placed[number] if p.kind is not p.KEYWORD_ONLY and number < len(placed) else None
        argument = by_place or named.get(p.name) or next((a for a in placed if a.name == p.name), None)
        if p.default is not p.empty and argument is not None and argument.has_default_value():
            yield argument.name, p.default, argument.default_value


def plainly(value: Any) -> Any:
    """One number for all axes; no list for an empty one; padding of nothing by its other name."""
    if isinstance(value, (list, tuple)):
        return next(iter({*value})) if len({*value}) == 1 else tuple(value)
    return 0 if value == "valid" else value


OVER_ALL = (OPS.var.default, OPS.std.default)
"""Operators over all axes, whose rule reads their argument as another overload's axes."""


def test_what_a_graph_leaves_out_is_for_a_rule_what_it_is_for_the_operator() -> None:
    ops = [op for op in RULES if op.namespace == "aten" and op not in OVER_ALL]
    known = {(str(op), name): (plainly(ours), plainly(theirs)) for op in ops for name, ours, theirs in left_out(op)}
    assert len(known) > 100
    assert {argument: pair for argument, pair in known.items() if pair[0] != pair[1]} == {}
