"""Every rule against its operator: op(rho x, rho w, ...) = rho op(x, w, ...), in float64.

A rule without a sample fails the suite; so does a sample whose law still seems to hold when the
action of its result is deliberately wrong.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache

import pytest
import rule_samples_recurrent  # noqa: F401 - registers more samples
import rule_samples_values  # noqa: F401 - registers more samples
import torch
from hypothesis import strategies as st
from rule_edges import EDGES
from rule_refusals import REFUSALS, Refused
from rule_samples import SAMPLES, Sample, action_of, tensor_of
from tiers import drawn, some
from torch import Tensor
from torch.torch_version import TorchVersion
from torch.utils import _pytree as pytree
from traced_together import Call, traces

from rcps_convert._torch import op_name
from rcps_convert.algebra import axis as ax
from rcps_convert.algebra.action import Action, act
from rcps_convert.algebra.axis import Axis
from rcps_convert.errors import ConversionError
from rcps_convert.geometry import anchor
from rcps_convert.graph.export import trace
from rcps_convert.graph.trace import Ref, Trace
from rcps_convert.infer import constants
from rcps_convert.infer.anchors import plan_calls
from rcps_convert.infer.inference import Inference
from rcps_convert.infer.solve import all_axes
from rcps_convert.infer.walk import Walk
from rcps_convert.rules.registry import FACTS, MISSING, RULES, Const, Missing, aten, rule
from rcps_convert.rules.shape import regroup

FEW, VARIATIONS, MORE = 2, 6, 12
"""How many random variations of its operands' actions each sample is tried with, and how many in the slow tests."""

TOGETHER = 24
"""How many samples are traced at once."""

PLACES = {case: i for i, case in enumerate(SAMPLES)}

TOLERANCE = 1e-12
"""Largest deviation, of values of order one in float64, that counts as rounding."""


def operands_of(case: Sample | Refused) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(7)
    return tuple(tensor_of(text, generator) for text in case.operands)


OLD = {aten.quantile.scalar: (2, 12)}
"""Operators that torch cannot export before a version: it looks at their numbers there."""


@cache
def traced(case: Sample | Refused) -> Trace:
    if isinstance(case, Sample) and TorchVersion(torch.__version__) < OLD.get(case.op, (0, 0)):
        pytest.skip(f"this version of torch cannot export {case.op}")
    together = _traced_beside(PLACES[case] // TOGETHER) if case in PLACES else {}
    return together[case] if case in together else trace(Call(case.call), operands_of(case))


@cache
def _traced_beside(group: int) -> dict[Sample, Trace]:
    """The traces of a group of samples; none where one of them cannot be traced."""
    cases = SAMPLES[group * TOGETHER :][:TOGETHER]
    try:
        found = traces([c.call for c in cases], [operands_of(c) for c in cases])
    except ConversionError:
        return {}
    return dict(zip(cases, found, strict=True))


# --- solving ----------------------------------------------------------------------------------


def regular(open_axes: list[Axis]) -> None:
    ax.settle(open_axes)


def fixed(open_axes: list[Axis]) -> None:
    for term in open_axes:
        ax.trivialise(term)


def anything(seed: int) -> Callable[[list[Axis]], None]:
    """Any action and sign for what a rule left open: it said that none of them matters."""

    def settle(open_axes: list[Axis]) -> None:
        rng = random.Random(seed)
        for v in dict.fromkeys(v for t in open_axes for v in ax.free(t)):
            order, table = rng.sample(range(v.size), v.size), list(range(v.size))
            for a, b in zip(order[0::2], order[1::2], strict=False):
                table[a], table[b] = b, a
            sign = [] if v.unsigned or rng.random() < 0.3 else [ax.SIGN]
            ax.unify(v, ax.product([ax.permutation(table), *sign]))

    return settle


SETTLEMENTS = {"regular": regular, "fixed": fixed, "any": anything(0), "any other": anything(1)}


def solve(case: Sample, settle: Callable[[list[Axis]], None]) -> tuple[list[Action], list[Action]]:
    """The actions of a sample's operands and results."""
    inputs = [action_of(text) for text in case.operands]
    result = inferred(case, inputs, settle)
    assert not result.problems, str(result.problems[0])
    return inputs, results_of(case, result)


def inferred(case: Sample | Refused, inputs: list[Action], settle: Callable[[list[Axis]], None]) -> Inference:
    """What inference finds for a sample whose operands have these actions."""
    result = Inference()
    Walk(traced(case), result).run(inputs)
    constants.pin(result.pins)
    settle([*all_axes(result), *(t for x in inputs for t in x.axes)])
    result.problems += [constants.refusal(*found) for found in constants.broken(result.pins)]
    result.problems += result.mirrors.problems
    return result


@cache
def partners(case: Sample) -> list[int]:
    """For each operand, the operand that takes its place under reverse complement: itself, or its mirror image."""
    return partners_in(case, inferred(case, [action_of(text) for text in case.operands], regular))


def partners_in(case: Sample, result: Inference) -> list[int]:
    """As `partners`, in a solution for operands of other actions."""
    mirrors = result.mirrors
    names = [s.target for s in traced(case).sources.values() if s.kind == "input"]
    return [names.index(mirrors.partner(n) or n) for n in names]


def results_of(case: Sample, result: Inference) -> list[Action]:
    found = [result.values[0][leaf.name] for leaf in traced(case).outputs if isinstance(leaf, Ref)]
    return [_of_constant(a) if isinstance(a, Const) else a for a in found]


def _of_constant(const: Const) -> Action:
    return Action(tuple(ax.trivial(s) for s in const.value.shape))


# --- the law ----------------------------------------------------------------------------------


def results(case: Sample, values: list[Tensor]) -> list[Tensor]:
    """The operator's results, truth values as +1 and -1."""
    found = pytree.tree_leaves(case.call(*(v.clone() for v in values)))
    return [2.0 * y - 1.0 if y.dtype == torch.bool else y for y in found]


def deviation(y: Tensor, expected: Tensor) -> float:
    if y.shape != expected.shape:
        return float("inf")
    return float((y - expected).nan_to_num(0.0, 0.0, 0.0).abs().sum())


def deviations(
    case: Sample, inputs: list[Action], found: list[Action], sign: int = 1, swapped: list[int] | None = None
) -> list[float]:
    """How far op(rho x) is from rho op(x), for each result; `sign` multiplies rho op(x), `swapped` are the partners."""
    values = operands_of(case)
    plain = results(case, values)
    places = partners(case) if swapped is None else swapped
    mirrored = results(case, [act(a, values[i]) for a, i in zip(inputs, places, strict=True)])
    return [deviation(m, sign * act(a, y)) for m, a, y in zip(mirrored, found, plain, strict=True)]


def name_of(case: Sample) -> str:
    return f"{str(case.op).removeprefix('aten.').removesuffix('.default')}({', '.join(case.operands)})"


@pytest.mark.parametrize("case", SAMPLES, ids=name_of)
def test_law(case):
    assert case.op in {n.op for n in traced(case).nodes}, "the sample does not call the operator it is for"
    for name, settle in SETTLEMENTS.items():
        inputs, found = solve(case, settle)
        if case.exact:
            assert max(deviations(case, inputs, found)) < TOLERANCE, (name, inputs, found)
        else:
            assert [a.shape for a in found] == [y.shape for y in results(case, operands_of(case))]


# --- what a rule accepts is true --------------------------------------------------------------


def varied(x: Action, rng: random.Random) -> Action:
    """The action with some axes of another kind; ids have no sign."""
    return Action(tuple(_varied_axis(t, rng, signed=x.value is None) for t in x.axes), x.value)


def _varied_axis(term: Axis, rng: random.Random, *, signed: bool) -> Axis:
    n = term.size

    def half(m: int) -> Axis:
        return rng.choice([ax.Var(m, unsigned=not signed), ax.regular(m), ax.length(m)])

    kinds = [term] * 3 + [ax.trivial(n), ax.regular(n), ax.length(n), ax.Var(n, unsigned=not signed)]
    if n % 2 == 0:
        kinds += [ax.total([half(n // 2), half(n // 2)]), ax.product([half(2), half(n // 2)])]
    found = rng.choice(kinds)
    return ax.product([found, rng.choice([ax.SIGN, ax.Var(1)])]) if signed and rng.random() < 0.25 else found


@pytest.mark.parametrize("case", [s for s in SAMPLES if s.exact], ids=name_of)
@pytest.mark.parametrize("variations", [*some([FEW, VARIATIONS], 1), pytest.param(MORE, marks=pytest.mark.slow)])
def test_whatever_a_rule_accepts_is_true(case, variations):
    rng = random.Random(name_of(case))
    for seed in range(variations):
        inputs = [action_of(text) for text in case.operands]
        one = seed % len(inputs)
        inputs[one] = varied(inputs[one], rng)
        result = inferred(case, inputs, anything(seed))
        if not result.problems:
            found = results_of(case, result)
            swapped = partners_in(case, result)
            assert max(deviations(reanchored(case, result), inputs, found, 1, swapped)) < TOLERANCE, (inputs, found)


# --- signs ------------------------------------------------------------------------------------


def odd_in(case: Sample) -> Iterator[list[int]]:
    """Operands that change the sign of every result with their own: one alone, or all."""
    values = operands_of(case)
    numbers = [i for i, v in enumerate(values) if v.is_floating_point() and v.numel() and v.dim()]
    plain = results(case, values)
    for odd in [*([i] for i in numbers), numbers] if all(y.is_floating_point() and y.any() for y in plain) else []:
        turned = results(case, [-v if i in odd else v for i, v in enumerate(values)])
        if odd and all(deviation(t, -y) < TOLERANCE for t, y in zip(turned, plain, strict=True)):
            yield odd


def takes_signs(case: Sample, odd: list[int]) -> bool:
    """Whether the rule takes operands that change their sign, noted on one of their axes."""
    for dim in range(max(len(action_of(case.operands[i]).axes) for i in odd)):
        inputs = [action_of(text) for text in case.operands]
        for i in odd:
            at = min(dim, len(inputs[i].axes) - 1)
            inputs[i] = inputs[i].with_axis(at, ax.product([inputs[i].axes[at], ax.SIGN]))
        if not inferred(case, inputs, regular).problems:
            return True
    return False


MAY_REFUSE_SIGNS = {
    "batch_norm", "instance_norm", "group_norm", "layer_norm", "rms_norm",  # odd without a shift, or in a statistic
    "sum", "mean", "nansum", "nanmean", "linalg_vector_norm",  # over all axes: none is left that could be signed
    "kl_div", "cross_entropy_loss", "nll_loss", "nll_loss2d", "nll_loss_nd",  # of scores, of which some are chosen
    "__and__", "__or__", "__xor__", "bitwise_not", "isnan", "gt",  # truth values
    "gather", "scatter", "scatter_add",  # all axes but one must agree with those of the places, which have no sign
    "nan_to_num", "addcmul", "atan2", "fill", "adaptive_max_pool1d",  # odd in this call only, or hardly used
}  # fmt: skip
"""Operators of whose samples some are odd, and whose rules take no signs."""


@pytest.mark.parametrize("op", some(dict.fromkeys(s.op for s in SAMPLES if s.exact), 120), ids=str)
def test_an_operator_that_passes_signs_on_has_a_rule_that_takes_them(op):
    cases = [(s, odd) for s in SAMPLES if s.op is op and s.exact for odd in odd_in(s)]
    assert op_name(op) in MAY_REFUSE_SIGNS or not cases or any(takes_signs(*found) for found in cases)


def reanchored(case: Sample, result: Inference) -> Sample:
    """A sample whose calls read both edges where they are not read alike."""
    module = Call(case.call)
    anchor(module, plan_calls([traced(case)], result)[0])
    return replace(case, call=module)


@pytest.mark.parametrize("number", range(len(EDGES)))
def test_both_readings_make_a_call_true(number):
    """Calls that read one edge only: not equivariant as they are, and equivariant with both readings."""
    case = EDGES[number]
    for name, settle in SETTLEMENTS.items():
        inputs = [action_of(text) for text in case.operands]
        result = inferred(case, inputs, settle)
        assert not result.problems, str(result.problems[0])
        assert any(not a.aligned for anchors in result.anchors[0].values() for a in anchors)
        found = results_of(case, result)
        worst = max(deviations(reanchored(case, result), inputs, found, 1, partners_in(case, result)))
        assert worst < 10 * TOLERANCE, (name, inputs, found)  # a sum over up to 2,000 entries
    inputs, found = solve(case, regular)
    assert max(deviations(case, inputs, found)) > TOLERANCE


# --- the test of the test ---------------------------------------------------------------------


def corruptions(action: Action) -> Iterator[Action]:
    """Wrong actions near a right one: an axis held fixed, its entries moved on by one, ids left as they are."""
    for dim, term in enumerate(action.axes):
        if not ax.is_trivial(term):
            yield action.with_axis(dim, ax.trivial(term.size))
            yield action.with_axis(dim, _moved_on(term))
    if action.value is not None and not ax.is_trivial(action.value):
        yield Action(action.axes, ax.trivial(action.value.size))


def _moved_on(term: Axis) -> Axis:
    table = ax.indices(term).roll(1).add(1).remainder(term.size)
    return ax.permutation(table.tolist())


@cache
def caught(case: Sample) -> list[bool]:
    """For each corruption of each result that differs from the truth, whether the law's test sees it."""
    inputs, found = solve(case, regular)
    seen = [d > TOLERANCE for d in deviations(case, inputs, found, sign=-1)]
    for i, right in enumerate(found):
        for wrong in corruptions(right):
            trial = [*found[:i], wrong, *found[i + 1 :]]
            if not _equal(right, wrong):
                seen.append(_breaks(case, inputs, trial))
    return seen


def _equal(a: Action, b: Action) -> bool:
    values = a.value is None or ax.same(a.value, b.value)
    return values and all(ax.same(s, t) for s, t in zip(a.axes, b.axes, strict=True))


def _breaks(case: Sample, inputs: list[Action], found: list[Action]) -> bool:
    return max(deviations(case, inputs, found)) > TOLERANCE


EXACT = [s for s in SAMPLES if s.exact]


@pytest.mark.parametrize("case", some([s for s in EXACT if not s.blind], 60), ids=name_of)
def test_a_wrong_action_is_caught(case):
    assert all(caught(case))


@pytest.mark.parametrize("op", some(dict.fromkeys(s.op for s in EXACT), 60), ids=str)
def test_every_operator_has_a_sample_that_catches_a_wrong_action(op):
    assert any(any(caught(s)) for s in EXACT if s.op is op)


def test_every_rule_has_a_sample():
    ours = {op for op in RULES if op.namespace == "aten"}
    assert ours - {s.op for s in SAMPLES} == set()


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize("case", REFUSALS, ids=lambda r: r.name)
def test_refused(case):
    """Each refusal with its class and words, and at least one remedy."""
    result = inferred(case, [action_of(text) for text in case.operands], regular)
    assert [type(p) for p in result.problems] == [case.error]
    (problem,) = result.problems
    assert problem.why
    assert problem.do
    for phrase in case.phrases:
        assert phrase in str(problem)


# --- views ------------------------------------------------------------------------------------


def compositions(draw, total: int) -> tuple[int, ...]:
    """A shape with this many entries, units included."""
    sizes = []
    for _ in range(draw(st.integers(0, 3))):
        sizes.append(draw(st.sampled_from([d for d in range(1, total + 1) if total % d == 0])))
        total //= sizes[-1]
    sizes.append(total)
    return tuple(sizes)


@drawn(st.data(), few=60, many=200)
def test_a_view_moves_the_action_with_the_entries(data):
    """rho y.view(shape) = (rho x).view(shape), for whatever reshape is accepted."""
    entries = data.draw(st.sampled_from([1, 4, 6, 12, 24, 48]))
    before, after = compositions(data.draw, entries), compositions(data.draw, entries)
    rng = data.draw(st.randoms())
    x = varied(Action(tuple(ax.Var(s) for s in before)), rng)
    try:
        with ax.attempt():
            y = Action(regroup(x.axes, after))
    except ax.Mismatch:
        return
    assert y.shape == after
    anything(rng.randrange(100))([*x.axes, *y.axes])
    values = torch.randn(before, dtype=torch.float64)
    assert torch.equal(act(x, values).reshape(after), act(y, values.reshape(after)))


@drawn(st.data())
def test_a_view_without_fixed_actions_is_accepted_and_undone(data):
    entries = data.draw(st.sampled_from([4, 6, 12, 48]))
    before, after = compositions(data.draw, entries), compositions(data.draw, entries)
    axes = tuple(ax.Var(s) for s in before)
    back = regroup(regroup(axes, after), before)
    ax.settle(axes)
    assert all(ax.same(s, t) for s, t in zip(axes, back, strict=True))


@pytest.mark.parametrize(
    ("operand", "shape", "roles"),
    [
        ("n2 b4 l5", (2, 1, 4, 5), ["batch", None, None, "length"]),
        ("n2 t1 b4 l5", (2, 4, 5), ["batch", None, "length"]),
        ("n2 v6 l5", (2, 30), ["batch", None]),
        ("n2 v6 l5", (2, 2, 3, 5), ["batch", None, None, "length"]),
        ("n2 l5 v6", (10, 6), [None, None]),
        ("n1 v6 l5", (6, 5), [None, "length"]),
        ("n1 v6 l5", (1, 1, 6, 5), ["batch", None, None, "length"]),
        ("n2 v1 l5", (2, 5), ["batch", "length"]),
        ("n2 l6", (2, 3, 2), ["batch", "length", "length"]),
        ("n2 v6 l5 t1", (2, 6, 5), ["batch", None, "length"]),
    ],
)
def test_roles_survive_views(operand, shape, roles):
    found = regroup(action_of(operand).axes, shape)
    assert [r.name if (r := ax.role(t)) else None for t in found] == roles


# --- the registry -----------------------------------------------------------------------------


def nothing(node, x):
    return x


def test_an_operator_has_one_rule():
    before = dict(RULES)
    with pytest.raises(ValueError, match=r"aten.relu6.default has a rule already, activation"):
        rule(torch.ops.aten.frac.default, torch.ops.aten.relu6.default)(nothing)
    assert before == RULES


def test_torch_has_every_operator_that_has_a_rule():
    """Fails on a version of torch that renamed or dropped some, and names them."""
    assert MISSING == []


@pytest.mark.parametrize("absent", [aten.no_such_operator.default, aten.relu.no_such_overload, aten.no_such_operator])
def test_an_operator_that_torch_lacks_is_passed_over(absent, monkeypatch):
    monkeypatch.setattr("rcps_convert.rules.registry.MISSING", found := [])
    before = dict(RULES)
    assert isinstance(absent, Missing)
    try:
        rule(torch.ops.aten.frac.default, absent)(nothing)
        assert {**before, torch.ops.aten.frac.default: nothing} == RULES
    finally:
        RULES.pop(torch.ops.aten.frac.default)
    assert found == [absent.name]


def test_operators_are_torch_s_own():
    assert aten.relu.default is torch.ops.aten.relu.default
    assert aten.__and__.Tensor is torch.ops.aten.__and__.Tensor
    assert aten.relu.overloads() == torch.ops.aten.relu.overloads()


def test_the_lines_above_a_rule_agree_on_its_facts():
    one, two = torch.ops.aten.frac.default, torch.ops.aten.special_bessel_j0.default

    def law(node, x):
        return x

    try:
        with pytest.raises(ValueError, match="law is registered twice, with other facts"):
            rule(two, ids=True)(rule(one)(law))
        assert two not in RULES
    finally:
        for op in (one, two):
            RULES.pop(op, None)
            FACTS.pop(op, None)


@pytest.mark.parametrize("function", dict.fromkeys(RULES.values()), ids=lambda f: f.__name__)
def test_a_rule_states_its_law(function):
    assert (function.__doc__ or "").strip()
