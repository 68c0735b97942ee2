"""The axis algebra by its laws: involutions, normal forms, unification, refinement, defaults."""

from __future__ import annotations

import math
import random

import pytest
import torch
from hypothesis import strategies as st
from tiers import drawn
from torch import Tensor

from rcps_convert.algebra import axis as ax
from rcps_convert.algebra.axis import SIGN, Axis, Mismatch, Prod, Role, Step, Sum, Var

# --- random terms -----------------------------------------------------------------------------


@st.composite
def involutions(draw, size):
    order = draw(st.permutations(range(size)))
    table = list(range(size))
    for a, b in zip(order[0::2][: draw(st.integers(0, size // 2))], order[1::2], strict=False):
        table[a], table[b] = b, a
    return ax.permutation(table)


def cuts(draw, size):
    """A composition of `size` into at most four parts."""
    marks = sorted(draw(st.sets(st.integers(1, size - 1), max_size=3))) if size > 1 else []
    return [b - a for a, b in zip([0, *marks], [*marks, size], strict=True)]


def divisions(draw, size):
    """A factorisation of `size`, units included."""
    sizes = []
    while len(sizes) < 3:
        divisors = [d for d in range(1, size + 1) if size % d == 0]
        sizes.append(draw(st.sampled_from(divisors)))
        size //= sizes[-1]
    return [*sizes, size]


@st.composite
def terms(draw, size, depth=2, variables=True, moving=True):
    """A random term; `moving` allows fixed actions other than the identity."""
    kinds = (
        ["identity"] + ["variable"] * 2 * variables + ["table", "length"] * moving + ["sum", "product"] * (depth > 0)
    )
    kind = draw(st.sampled_from(kinds))
    below = {"depth": depth - 1, "variables": variables, "moving": moving}
    if kind == "variable":
        return Var(size, unsigned=draw(st.booleans()))
    if kind == "table":
        return SIGN if size == 1 else draw(involutions(size))
    if kind == "length":
        return ax.length(size)
    if kind == "sum":
        return Sum(tuple(draw(terms(s, **below)) for s in cuts(draw, size)))
    if kind == "product":
        return Prod(tuple(draw(terms(s, **below)) for s in divisions(draw, size)))
    return ax.trivial(size)


SIZES = st.sampled_from([1, 2, 3, 4, 6, 8, 9, 12, 24])
any_term = SIZES.flatmap(terms)
known_term = SIZES.flatmap(lambda n: terms(n, variables=False))
any_pair = SIZES.flatmap(lambda n: st.tuples(terms(n), terms(n)))
open_pair = SIZES.flatmap(lambda n: st.tuples(terms(n, moving=False), terms(n, moving=False)))


def matrix(term: Axis) -> Tensor:
    """The action as a signed permutation matrix, float64, shape (n, n)."""
    sign = ax.signs(term)
    rows = torch.eye(term.size, dtype=torch.float64)[ax.indices(term)]
    return rows if sign is None else rows * sign[:, None]


def dense(term: Axis) -> Tensor:
    """The matrix of a term without variables, by definition, before any normal form."""
    if isinstance(term, Sum):
        return torch.block_diag(*map(dense, term.parts))
    if isinstance(term, Prod):
        out = torch.ones(1, 1, dtype=torch.float64)
        for f in term.factors:
            out = torch.kron(out, dense(f))
        return out
    return matrix(term)


def succeeds(do) -> bool:
    """Whether a step works; one that does not leaves no binding behind."""
    try:
        with ax.attempt():
            do()
    except Mismatch:
        return False
    return True


def bind_at_random(found: list[Axis], rng: random.Random) -> None:
    """Give each open variable any action it allows: what a solution leaves open is really free."""
    for v in dict.fromkeys(v for t in found for v in ax.free(t)):
        order = rng.sample(range(v.size), v.size)
        table = list(range(v.size))
        for a, b in zip(order[0::2], order[1::2], strict=False):
            table[a], table[b] = b, a
        sign = [] if v.unsigned or rng.random() < 0.5 else [SIGN]
        ax.unify(v, ax.product([ax.permutation(table), *sign]))


class UndoError(Exception):
    pass


def would_unify(a: Axis, b: Axis) -> bool:
    try:
        with ax.attempt():
            ax.unify(a, b)
            raise UndoError
    except Mismatch:
        return False
    except UndoError:
        return True


# --- known actions ----------------------------------------------------------------------------


@drawn(known_term)
def test_an_action_is_its_own_inverse(term):
    torch.testing.assert_close(matrix(term) @ matrix(term), torch.eye(term.size, dtype=torch.float64))


@drawn(known_term)
def test_normal_form_is_the_same_action(term):
    torch.testing.assert_close(matrix(term), dense(term))
    assert ax.walk(ax.walk(term)) == ax.walk(term)
    assert ax.walk(term).size == term.size


@drawn(known_term)
def test_questions_about_an_action_agree_with_its_matrix(term):
    whole = matrix(term)
    identity = torch.eye(term.size, dtype=torch.float64)
    walked = ax.walk(term)
    parts = walked.parts if isinstance(walked, ax.Sum) else (walked,)
    grows = any(ax.is_length(p) and p.size == 1 for p in parts)  # reversed where it has more positions
    assert ax.is_trivial(term) == (torch.equal(whole, identity) and not grows)
    assert ax.has_sign(term) == bool((whole < 0).any())
    assert ax.same(term, ax.trivial(term.size)) == torch.equal(whole, identity)


@drawn(SIZES.flatmap(lambda n: st.tuples(terms(n, variables=False), terms(n, variables=False))))
def test_same_compares_actions_not_spellings(pair):
    a, b = pair
    assert ax.same(a, b) == torch.equal(dense(a), dense(b))
    assert would_unify(a, b) == ax.same(a, b)


@pytest.mark.parametrize("size", range(10))
def test_regular_swaps_the_halves(size):
    half = size // 2
    expected = [*range(half, 2 * half), *range(half), *range(2 * half, size)]
    assert ax.indices(ax.regular(size)).tolist() == expected


@pytest.mark.parametrize("table", [[1, 2, 0], [0, 0], [1], [0, 3, 1, 2]])
def test_only_involutions_are_permutations(table):
    with pytest.raises(ValueError, match="involution"):
        ax.permutation(table)


@pytest.mark.parametrize("term", [Var(3), Sum((Var(2), ax.trivial(1))), Prod((Var(2), ax.length(3)))])
def test_an_open_action_has_no_table(term):
    assert not ax.is_trivial(term)
    with pytest.raises(ValueError, match="not known"):
        ax.indices(term)


@pytest.mark.parametrize(
    ("term", "text"),
    [
        (ax.regular(32), "16 pairs"),
        (ax.regular(33), "16 pairs + 1 fixed"),
        (ax.regular(3), "1 pair + 1 fixed"),
        (ax.trivial(32), "32 fixed"),
        (ax.trivial(0), "empty"),
        (ax.length(75), "75 reversed"),
        (ax.batch(2), "batch of 2"),
        (ax.product([ax.length(75), SIGN]), "75 reversed and negated"),
        (ax.permutation([3, 2, 1, 0]), "2 pairs"),
        (SIGN, "1 negated"),
        (ax.product([ax.trivial(4), SIGN]), "4 negated"),
        (ax.product([ax.regular(4), SIGN]), "2 pairs with signs"),
        (ax.total([SIGN, ax.trivial(2)]), "2 fixed + 1 negated"),
        (Var(8), "8 open"),
        (ax.total([Var(4), ax.trivial(2)]), "4 open + 2 fixed"),
        (ax.product([ax.regular(4), ax.length(5)]), "(2 pairs) x (5 reversed)"),
        (ax.product([Var(4), ax.trivial(2)]), "(4 open) x (2 fixed)"),
    ],
)
def test_short_printed_form(term, text):
    assert ax.describe(term) == text


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        (ax.length(4), True),
        (ax.permutation([3, 2, 1, 0]), False),
        (ax.product([ax.length(4), ax.length(3)]), True),
        (ax.product([ax.length(4), SIGN]), True),
        (ax.product([ax.length(4), Var(2)]), False),
        (ax.product([ax.trivial(2), ax.length(4)]), False),
        (ax.total([ax.length(4), ax.length(4)]), False),
        (ax.batch(4), False),
        (Var(4), False),
    ],
)
def test_length_is_a_role_not_a_value(term, expected):
    assert ax.is_length(term) is expected


def test_roles_survive_products_and_binding():
    v = Var(6)
    ax.unify(v, ax.length(6))
    assert ax.is_length(v)
    assert ax.role(ax.product([ax.batch(2), ax.batch(3)])) == Role("batch")
    assert ax.role(ax.product([ax.length(1)])).name == "length"
    outer, inner = ax.factor(ax.length(6), 2, 3)
    assert ax.is_length(outer)
    assert ax.is_length(inner)


@pytest.mark.parametrize(
    ("step", "length", "out", "aligned"),
    [
        (Step(1, 0, 4), 12, 3, True),
        (Step(1, 0, 4), 13, 3, False),
        (Step(1, -4, 1), 4, 0, False),
        (Step(2, 1), 5, 11, True),
        (Step(0, 7), 5, 7, True),
    ],
)
def test_a_step_divides_or_leaves_a_remainder(step, length, out, aligned):
    assert step.out(length) == out
    assert step.aligned(length) is aligned


# --- unify ------------------------------------------------------------------------------------


@drawn(any_pair)
def test_unified_terms_are_the_same_action(pair):
    a, b = pair
    if succeeds(lambda: ax.unify(a, b)):
        ax.settle([a, b])
        assert ax.same(a, b)
        torch.testing.assert_close(matrix(a), matrix(b))


@drawn(any_pair, st.randoms())
def test_what_unify_leaves_open_is_free(pair, rng):
    a, b = pair
    if succeeds(lambda: ax.unify(a, b)):
        bind_at_random([a, b], rng)
        assert ax.same(a, b)


@drawn(any_pair)
def test_unify_does_not_depend_on_the_order(pair):
    a, b = pair
    assert would_unify(a, b) == would_unify(b, a)


@drawn(any_pair)
def test_unify_again_still_works(pair):
    a, b = pair
    if succeeds(lambda: ax.unify(a, b)):
        ax.unify(b, a)
        ax.settle([a, b])
        assert ax.same(a, b)


@drawn(open_pair)
def test_terms_without_fixed_moves_always_unify(pair):
    """The trivial action is a solution, so there must be one."""
    a, b = pair
    ax.unify(a, b)
    ax.trivialise(a)
    ax.trivialise(b)
    assert ax.is_trivial(a)
    assert ax.is_trivial(b)


@drawn(any_term)
def test_a_term_unifies_with_each_of_its_settled_forms(term):
    def copied(t: Axis, twins: dict[Var, Var]) -> Axis:
        if isinstance(t, Var):
            return twins.setdefault(t, Var(t.size, t.unsigned))
        if isinstance(t, Sum):
            return Sum(tuple(copied(p, twins) for p in t.parts))
        return Prod(tuple(copied(f, twins) for f in t.factors)) if isinstance(t, Prod) else t

    twin = copied(term, {})
    ax.settle([twin])
    ax.unify(term, twin)
    assert ax.same(term, twin)


@drawn(any_pair)
def test_a_failure_leaves_no_binding(pair):
    a, b = pair
    variables = {v: (v.ref, v.unsigned) for v in ax.free(a) + ax.free(b)}

    def fail():
        ax.unify(a, b)
        ax.trivialise(a)
        raise Mismatch("enough")

    assert not succeeds(fail)
    assert {v: (v.ref, v.unsigned) for v in variables} == variables


def test_nested_attempts_undo_what_the_outer_one_must():
    kept, lost = Var(4), Var(4)
    assert succeeds(lambda: ax.unify(kept, ax.regular(4)))

    def outer():
        with ax.attempt():
            ax.unify(lost, ax.regular(4))
        raise Mismatch("after the inner one succeeded")

    assert not succeeds(outer)
    assert ax.free(lost) == [lost]
    assert not ax.free(kept)


ACGT = ax.permutation([3, 2, 1, 0])
ATCG = ax.permutation([1, 0, 3, 2])


@pytest.mark.parametrize(
    ("a", "b", "fits"),
    [
        (ACGT, ax.permutation([3, 2, 1, 0]), True),
        (ACGT, ax.length(4), True),  # the same action in another role
        (ACGT, ATCG, False),
        (ACGT, ax.trivial(4), False),
        (ax.trivial(4), ax.trivial(5), False),
        (Var(4), ACGT, True),
        (Var(4), Var(5), False),
        (Var(4, unsigned=True), ax.product([ax.trivial(4), SIGN]), False),
        (Var(4), ax.product([ax.trivial(4), SIGN]), True),
        (ax.total([Var(2), Var(2)]), ATCG, True),
        (ax.total([Var(2), Var(2)]), ACGT, False),
        (ax.total([Var(1), Var(3)]), ATCG, False),
        (ax.total([Var(2), Var(4)]), ax.total([Var(4), Var(2)]), True),
        (ax.product([Var(2), Var(2)]), ACGT, True),
        (ax.product([Var(2), Var(2)]), ax.permutation([1, 0, 2, 3]), False),
        (ax.product([Var(2), Var(6)]), ax.product([Var(4), Var(3)]), True),
        (ax.product([Var(2), Var(3)]), ax.product([Var(3), Var(2)]), True),
        (ax.product([Var(2), Var(3)]), ax.total([ax.regular(2), ax.trivial(4)]), False),
        (ax.product([Var(2), Var(3)]), ax.total([Var(2), Var(4)]), True),
        (ax.product([Var(2), ax.regular(4)]), ax.total([ax.regular(4), ax.regular(4)]), True),
        (ax.product([ax.trivial(3), SIGN]), ax.trivial(3), False),
        (ax.product([ax.trivial(3), Var(1)]), ax.product([Var(3), SIGN]), True),
        (SIGN, Var(1), True),
        (SIGN, Var(1, unsigned=True), False),
        (SIGN, ax.trivial(1), False),
    ],
    ids=str,
)
def test_what_fits_and_what_does_not(a, b, fits):
    assert would_unify(a, b) is fits
    assert would_unify(b, a) is fits


def test_a_mismatch_says_which_actions_met():
    with pytest.raises(Mismatch, match="2 pairs against 4 fixed"):
        ax.unify(ACGT, ax.trivial(4))
    with pytest.raises(Mismatch, match="sizes 4 and 5"):
        ax.unify(ACGT, ax.trivial(5))


@pytest.mark.parametrize(
    ("build", "fits"),
    [
        (lambda v: v, True),
        (lambda v: Prod((v, Var(1))), True),
        (lambda v: Prod((ax.trivial(1), v)), True),
        (lambda v: Prod((v, SIGN)), False),
        (lambda v: Sum((v, ax.trivial(0))), True),
    ],
)
def test_no_axis_is_a_part_of_itself(build, fits):
    v = Var(4)
    assert would_unify(v, build(v)) is fits
    if fits:
        ax.unify(v, build(v))
        assert ax.free(v) == [v]


# --- signs ------------------------------------------------------------------------------------


@drawn(any_pair)
def test_unsigned_variables_never_become_signed(pair):
    a, b = pair
    unsigned = [v for v in ax.free(a) + ax.free(b) if v.unsigned]
    if succeeds(lambda: ax.unify(a, b)):
        ax.settle([a, b])
        assert not any(ax.has_sign(v) for v in unsigned)


@drawn(any_term)
def test_forbidding_signs_holds_for_every_later_binding(term):
    if succeeds(lambda: ax.forbid_sign(term)):
        for v in ax.free(term):
            assert not would_unify(v, ax.product([ax.trivial(v.size), SIGN]))
        ax.settle([term])
        assert not ax.has_sign(term)


@pytest.mark.parametrize(
    ("factors", "negative"),
    [([SIGN], True), ([SIGN, SIGN], False), ([SIGN, ax.trivial(3)], True), ([SIGN, ax.trivial(3), SIGN], False)],
)
def test_signs_multiply(factors, negative):
    assert ax.has_sign(ax.product(factors)) is negative


def test_open_signs_are_solved_for_without_losing_solutions():
    v, w = Var(1), Var(1)
    ax.unify(Prod((Var(2), v)), Prod((Var(2), w, SIGN)))
    ax.unify(v, ax.trivial(1))
    assert ax.has_sign(w)


def test_an_open_sign_takes_the_parity_of_the_other_side():
    v, w = Var(1), Var(1)
    ax.unify(Prod((Var(4), v)), Prod((Var(4), SIGN)))
    assert ax.has_sign(v)
    ax.unify(Prod((Var(4), w)), Var(4, unsigned=True))
    assert ax.is_trivial(w)


# --- splitting and factoring ------------------------------------------------------------------


@st.composite
def term_and_cuts(draw):
    size = draw(SIZES)
    pieces = cuts(draw, size)
    if draw(st.booleans()):
        pieces.insert(draw(st.integers(0, len(pieces))), 0)
    return draw(terms(size)), pieces


@drawn(term_and_cuts(), st.randoms())
def test_pieces_add_up_to_the_axis(case, rng):
    term, sizes = case
    found = []
    if succeeds(lambda: found.extend(ax.split(term, sizes))):
        assert [p.size for p in found] == sizes
        bind_at_random([term], rng)
        assert ax.same(ax.total(found), term)


@st.composite
def term_and_factors(draw):
    size = draw(SIZES)
    return draw(terms(size)), divisions(draw, size)


@drawn(term_and_factors(), st.randoms())
def test_factors_multiply_to_the_axis(case, rng):
    term, sizes = case
    found = []
    if succeeds(lambda: found.extend(ax.factor_into(term, sizes))):
        assert [f.size for f in found] == sizes
        bind_at_random([term], rng)
        assert ax.same(ax.product(found), term)


@drawn(term_and_factors(), st.randoms())
def test_two_factors_multiply_to_the_axis(case, rng):
    term, sizes = case
    outer, inner = sizes[0], math.prod(sizes[1:])
    found = []
    if succeeds(lambda: found.extend(ax.factor(term, outer, inner))):
        bind_at_random([term], rng)
        assert ax.same(ax.product(found), term)


@pytest.mark.parametrize(
    ("term", "sizes", "fits"),
    [
        (ATCG, [2, 2], True),
        (ATCG, [1, 3], False),
        (ACGT, [2, 2], False),
        (ax.length(10), [5, 5], False),
        (ax.length(10), [0, 10], True),
        (ax.trivial(5), [2, 3], True),
        (ax.regular(4), [2, 2], False),
        (ax.total([ax.regular(4), ax.regular(2)]), [4, 2], True),
        (ax.total([ax.regular(4), ax.regular(2)]), [2, 4], False),
        (ax.product([Var(4), ax.regular(2)]), [2, 6], True),
        (ax.product([Var(4), ax.regular(2)]), [3, 5], False),
        (ax.product([ax.regular(4), Var(2)]), [4, 4], False),
        (ax.trivial(5), [2, 2], False),
    ],
)
def test_where_an_axis_can_be_cut(term, sizes, fits):
    assert succeeds(lambda: ax.split(term, sizes)) is fits


@pytest.mark.parametrize(
    ("term", "outer", "inner", "fits"),
    [
        (ACGT, 2, 2, True),
        (ATCG, 2, 2, True),
        (ax.permutation([0, 2, 1, 3]), 2, 2, False),
        (ax.length(10), 5, 2, True),
        (ax.regular(8), 2, 4, True),
        (ax.regular(8), 4, 2, True),
        (ax.total([ax.regular(4), ax.regular(4)]), 2, 4, True),
        (ax.total([ax.regular(4), ax.trivial(4)]), 2, 4, False),
        (ax.total([ax.regular(2), ax.trivial(4)]), 3, 2, False),
        (ax.product([Var(4), Var(6)]), 8, 3, True),
        (ax.product([Var(4), ax.regular(6)]), 3, 8, False),
        (ax.product([ax.trivial(4), SIGN]), 2, 2, True),
        (ax.trivial(6), 4, 2, False),
    ],
)
def test_where_an_axis_can_be_factored(term, outer, inner, fits):
    assert succeeds(lambda: ax.factor(term, outer, inner)) is fits


def test_refining_a_variable_refines_all_who_share_it():
    v = Var(6)
    user = Prod((ax.length(5), v))
    ax.unify(ax.split(v, [2, 4])[0], ax.regular(2))
    assert isinstance(ax.walk(user).factors[1], Sum)
    assert [p.size for p in ax.walk(v).parts] == [2, 4]


# --- what stays open --------------------------------------------------------------------------


@drawn(st.lists(any_term, min_size=1, max_size=4))
def test_nothing_stays_open(found):
    ax.settle(found)
    assert not any(ax.free(t) for t in found)


@drawn(any_term)
def test_settling_never_signs(term):
    variables = ax.free(term)
    ax.settle([term])
    assert not any(ax.has_sign(v) for v in variables)


@pytest.mark.parametrize("size", [1, 2, 7, 8])
def test_a_variable_alone_becomes_regular(size):
    v = Var(size)
    ax.settle([v])
    assert ax.same(v, ax.regular(size))


@pytest.mark.parametrize(
    ("sizes", "chosen"),
    [((4, 3), 0), ((3, 4), 1), ((3, 5), 0), ((2, 2), 0), ((1, 3, 6), 2), ((7, 8, 2), 1)],
)
def test_one_factor_of_an_open_product_becomes_regular(sizes, chosen):
    factors = [Var(s) for s in sizes]
    ax.settle([ax.product(factors)])
    for i, (f, size) in enumerate(zip(factors, sizes, strict=True)):
        assert ax.same(f, ax.regular(size) if i == chosen else ax.trivial(size))


@drawn(st.integers(1, 6), st.integers(1, 6))
def test_the_halves_of_an_open_product_stay_contiguous(outer, inner):
    whole = ax.product([Var(2 * outer), Var(inner)])
    ax.settle([whole])
    assert ax.same(whole, ax.regular(2 * outer * inner))


def test_the_parts_of_an_open_sum_are_settled_each_for_itself():
    whole = ax.total([Var(4), Var(6)])
    ax.settle([whole])
    assert ax.same(whole, ax.total([ax.regular(4), ax.regular(6)]))


def test_shared_factors_are_settled_once():
    a, b, c = Var(4), Var(4), Var(4)
    ax.settle([ax.product([a, b]), ax.product([b, c])])
    assert [ax.is_trivial(v) for v in (a, b, c)] == [False, True, False]


@pytest.mark.parametrize(
    ("groups", "chosen"),
    [
        ([], [0]),
        ([[0]], [0]),
        ([[1]], [1]),
        ([[2]], [2]),
        ([[0], [1]], [0, 1]),
        ([[1, 2]], [1]),
        ([[1, 2], [2]], [1, 2]),
        ([[2], [1, 2]], [2]),
        ([[1, 3]], [0]),
    ],
)
def test_a_product_leaves_open_what_is_the_last_hope_of_a_group(groups, chosen):
    free = [Var(2), Var(6), Var(3), Var(4)]
    whole = ax.product(free[:3])
    ax.settle([whole, free[3]], [[free[i] for i in group] for group in groups])
    for i, v in enumerate(free):
        assert ax.same(v, ax.regular(v.size) if i in (*chosen, 3) else ax.trivial(v.size)), i


def test_an_axis_of_one_entry_is_no_hope_of_a_group():
    a, b, one = Var(2), Var(4), Var(1)
    ax.settle([ax.product([a, b]), one], [[b, one]])
    assert [ax.is_trivial(v) for v in (a, b, one)] == [True, False, True]


def test_the_last_product_that_can_serve_a_group_does():
    a, b, c, d = Var(4), Var(4), Var(4), Var(4)
    ax.settle([ax.product([a, b]), ax.product([c, d])], [[b, d]])
    assert [ax.is_trivial(v) for v in (a, b, c, d)] == [False, True, True, False]


# --- lengths inside products ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "fits"),
    [
        (lambda: ax.length(4), True),
        (lambda: ax.product([ax.length(4), Var(2)]), True),
        (lambda: ax.product([ax.length(4), Var(2), Var(1)]), True),
        (lambda: ax.product([ax.length(4), ax.length(3)]), True),
        (lambda: ax.product([Var(2), ax.length(4)]), False),
        (lambda: ax.product([ax.length(4), ax.trivial(2)]), False),
        (lambda: ax.product([ax.length(4), Var(2), ax.regular(2)]), False),
        (lambda: ax.permutation([3, 2, 1, 0]), False),
        (lambda: Var(4), False),
        (lambda: Var(1), False),
    ],
)
def test_open_factors_inside_a_length_can_be_finer_positions(build, fits):
    term = build()
    before = ax.free(term)
    assert ax.lengthen(term) is fits
    assert ax.is_length(term) is fits
    if fits:
        ax.settle([term])
        assert ax.same(term, ax.length(term.size))
    else:
        assert ax.free(term) == before


def test_the_signs_of_a_product_are_its_units():
    v = Var(1)
    assert ax.units(ax.product([ax.length(4), v, SIGN])) == [v, SIGN]
    assert ax.units(ax.length(4)) == []
