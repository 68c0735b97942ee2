"""Stretches of the graph whose action is established by testing: what is found, and what must not be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracle import assert_law
from tiers import chosen, some
from torch import Tensor, nn

from rcps_convert import BreaksSymmetryError, ConversionError, NoRuleError, plan_conversion
from rcps_convert.algebra import axis as ax
from rcps_convert.algebra.action import Action
from rcps_convert.graph.export import trace
from rcps_convert.graph.sandbox import fresh_copy
from rcps_convert.graph.trace import Source
from rcps_convert.infer.stretch_law import StretchLaw
from rcps_convert.rules.registry import Const

TOLERANCE = 1e-10
EXAMPLE = torch.zeros(2, 4, 24)


class Middle(nn.Module):
    """Something parameter-free between a convolution and a mean over positions. (N, 4, 24) -> (N, 3)."""

    def __init__(self, middle: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.middle = middle
        self.stem = nn.Conv1d(4, 8, 5, padding=2)
        with torch.no_grad():
            width = middle(torch.zeros(2, 8, 24)).shape[1]
        self.out = nn.Conv1d(width, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.middle(torch.relu(self.stem(x)))).tanh().mean(-1)


def folded(h: Tensor) -> Tensor:
    """The two halves of a length, laid over each other."""
    left, right = h.chunk(2, -1)
    return torch.maximum(left, right.flip(-1))


def difference(h: Tensor) -> Tensor:
    """Changes its sign."""
    left, right = h.chunk(2, -1)
    return left - right


def both_ends(h: Tensor) -> Tensor:
    """The outer thirds, one turned round, as channels."""
    first, _, last = h.split(8, -1)
    return torch.cat([first, last.flip(-1), first.flip(-1), last], 1).sum(1, keepdim=True)


def rolled(h: Tensor) -> Tensor:
    """Each position with its neighbours, the ends joined."""
    return torch.maximum(h.roll(1, -1), h.roll(-1, -1)) - h


def neighbours(h: Tensor) -> Tensor:
    """Sums of neighbours in a circle: reversed about another point than the positions themselves."""
    return h + h.roll(1, -1)


def gathered(h: Tensor) -> Tensor:
    """Every second position and its mirror image, by a constant list of places."""
    places = torch.arange(0, 24, 2)
    return h[..., places] + h[..., 23 - places].flip(-1)


def sorted_ends(h: Tensor) -> Tensor:
    """Cumulative maxima from both sides."""
    return h.cummax(-1).values + h.flip(-1).cummax(-1).values.flip(-1)


ACCEPTED = [folded, difference, both_ends, rolled, neighbours, gathered, sorted_ends]


@pytest.mark.parametrize("middle", some(ACCEPTED, 1), ids=lambda f: f.__name__)
def test_found_and_exact(middle: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model = Middle(middle)
    plan = plan_conversion(model, EXAMPLE)
    assert not plan.problems, str(plan)
    assert plan.tested
    assert "tested at (the model itself) (" in str(plan)
    assert "test_stretch.py" in str(plan.tested[0].where)
    assert plan.verification is not None
    assert plan.verification.error < TOLERANCE
    assert_law(plan.apply(model), EXAMPLE, outputs="invariant", tolerance=TOLERANCE)


def one_side(h: Tensor) -> Tensor:
    return h.chunk(2, -1)[0]


def unequal(h: Tensor) -> Tensor:
    left, right = h.chunk(2, -1)
    return left.flip(-1) + 2 * right


def shifted(h: Tensor) -> Tensor:
    return h + 2 * h.roll(1, -1)


def cumulative(h: Tensor) -> Tensor:
    return h.cummax(-1).values


def masked(h: Tensor) -> Tensor:
    """Scores of -1e9 must not hide that the mask is causal."""
    scores = torch.einsum("bci,bcj->bij", h, h)
    return (scores.masked_fill(torch.ones(24, 24).triu(1) > 0, -1e9).softmax(-1) @ h.mT).mT


@pytest.mark.parametrize(
    ("middle", "error", "what"),
    chosen(
        [
            (one_side, BreaksSymmetryError, "chunk cuts a length of 24 into pieces of 12, 12"),
            (unequal, BreaksSymmetryError, "chunk cuts a length of 24 into pieces of 12, 12"),
            (shifted, BreaksSymmetryError, "the operands of add transform in ways that do not fit together"),
            (cumulative, NoRuleError, "no rule for aten.cummax.default"),
            (masked, BreaksSymmetryError, "a constant made in forward is not invariant under reverse complement"),
        ],
        lambda case: case[0] not in (unequal, shifted),
    ),
    ids=lambda f: getattr(f, "__name__", ""),
)
def test_not_found(middle: Callable[[Tensor], Tensor], error: type[ConversionError], what: str) -> None:
    (problem,) = plan_conversion(Middle(middle), EXAMPLE).problems
    assert (type(problem), problem.what) == (error, what)
    place = problem.where
    assert place is not None
    assert "test_stretch.py" in str(place)


def nearest_along(h: Tensor) -> Tensor:
    """Six places of a length; none lies between two positions of 24, or of 12."""
    at = torch.linspace(-0.9, 0.9, 6, dtype=h.dtype)
    grid = torch.stack([at, torch.zeros_like(at)], -1).expand(len(h), 1, -1, -1)
    return F.grid_sample(h.unsqueeze(2), grid, mode="nearest", align_corners=False).squeeze(2)


def nearest_contacts(h: Tensor, mode: str = "nearest") -> Tensor:
    """Half as many places of each axis of a contact map, of which none lies between two positions of 24 either."""
    pairs, half = h.unsqueeze(-1) + h.unsqueeze(-2), h.shape[-1] // 2
    theta = torch.eye(2, 3, dtype=h.dtype).expand(len(h), -1, -1)
    grid = F.affine_grid(theta, [len(h), 1, half, half], align_corners=True)
    return F.grid_sample(pairs, grid, mode=mode, align_corners=True).mean(-1)


def nearest_of_halves(h: Tensor) -> Tensor:
    """Between a cut and what makes up for it, which only a test of all of it would pass."""
    left, right = h.chunk(2, -1)
    return torch.maximum(nearest_along(left), nearest_along(right).flip(-1))


@pytest.mark.parametrize(
    ("middle", "what"),
    some(
        [
            (nearest_along, "grid_sample takes the nearest position"),
            (nearest_contacts, "grid_sample takes the nearest position"),
            (nearest_of_halves, "chunk cuts a length of 24 into pieces of 12, 12"),
        ],
        1,
    ),
    ids=lambda f: getattr(f, "__name__", ""),
)
@pytest.mark.filterwarnings("ignore")
def test_no_numbers_stand_in_for_the_rule_of_an_operator_that_they_tell_nothing_of(
    middle: Callable[[Tensor], Tensor], what: str
) -> None:
    """At other lengths two positions are equally near, and the even one of them is taken."""
    assert what in [p.what for p in plan_conversion(Middle(middle), EXAMPLE).problems]


@pytest.mark.filterwarnings("ignore")
def test_where_positions_are_interpolated_the_law_holds() -> None:
    torch.manual_seed(0)
    model = Middle(lambda h: nearest_contacts(h, "bilinear"))
    assert_law(plan_conversion(model, EXAMPLE, verify=False).apply(model), EXAMPLE)


def test_the_first_problem_is_reported() -> None:
    """Where nothing is found, what the rule said of the first node stands."""
    (problem,) = plan_conversion(Middle(one_side), EXAMPLE).problems
    assert problem.what == "chunk cuts a length of 24 into pieces of 12, 12"
    assert problem.why == "under reverse complement the first piece becomes the last"


def test_weights_do_not_belong_to_a_stretch() -> None:
    class Weighted(Middle):
        def __init__(self) -> None:
            super().__init__(lambda h: h)
            self.weight = nn.Parameter(torch.randn(8, 1))

        def forward(self, x: Tensor) -> Tensor:
            left, right = self.stem(x).chunk(2, -1)
            return self.out(left * self.weight + right.flip(-1) * self.weight).tanh().mean(-1)

    (problem,) = plan_conversion(Weighted(), EXAMPLE).problems
    assert (type(problem), problem.what) == (BreaksSymmetryError, "chunk cuts a length of 24 into pieces of 12, 12")


# --- the law of a piece of graph ----------------------------------------------------------------


class Swap(nn.Module):
    """Torn pairs: (2, N, C) -> (N, 2 C)."""

    def forward(self, h: Tensor) -> Tensor:
        return torch.cat([h[-2], h[-1]], -1)


def law(model: nn.Module, *given: Action, constants: tuple[Tensor, ...] = ()) -> StretchLaw:
    values = tuple(torch.randn(a.shape) for a in given)
    traced = trace(fresh_copy(model), (*values, *constants))
    known: list[Action | Const] = [*given, *(Const(c) for c in constants)]
    names = [n for n, s in traced.sources.items() if isinstance(s, Source)]
    return StretchLaw(
        traced.nodes, traced.nodes[-1:], dict(zip(names, known, strict=True)), dict.fromkeys(names, torch.float32)
    )


def test_open_axes_pass_through() -> None:
    channels = ax.Var(5)
    found = law(Swap(), Action((ax.regular(2), ax.batch(3), channels))).find()
    assert found is not None
    (action,) = found.values()
    assert ax.free(action.axes[1]) == [channels]
    ax.unify(channels, ax.permutation([4, 1, 2, 3, 0]))
    assert ax.same(action.axes[1], ax.product([ax.regular(2), ax.permutation([4, 1, 2, 3, 0])]))


def test_open_axes_that_lose_their_sign_are_marked() -> None:
    class Sizes(nn.Module):
        def forward(self, h: Tensor) -> Tensor:
            return torch.cat([h[-2], h[-1]], -1).relu()

    channels = ax.Var(5)
    assert law(Sizes(), Action((ax.regular(2), ax.batch(3), channels))).find() is not None
    assert channels.unsigned


@pytest.mark.parametrize("known", [ax.trivial(2), ax.regular(2)], ids=["fixed", "swapped"])
def test_an_open_axis_of_two_is_not_taken_for_either(known: ax.Axis) -> None:
    """One entry of an open pair: true only if the pair does not swap."""

    class First(nn.Module):
        def forward(self, h: Tensor) -> Tensor:
            return h[0]

    assert law(First(), Action((ax.Var(2), ax.batch(3)))).find() is None
    assert (law(First(), Action((known, ax.batch(3)))).find() is not None) == ax.is_trivial(known)


def test_constants_take_part() -> None:
    class Weighted(nn.Module):
        def forward(self, h: Tensor, w: Tensor) -> Tensor:
            return h * w

    even, odd = torch.tensor([1.0, 3.0, 1.0]), torch.tensor([1.0, 0.0, -1.0])
    x = Action((ax.batch(3), ax.length(3)))
    (action,) = (law(Weighted(), x, constants=(even,)).find() or {}).values()
    assert not ax.has_sign(action.axes[1])
    (action,) = (law(Weighted(), x, constants=(odd,)).find() or {}).values()
    assert ax.has_sign(action.axes[1])
    assert law(Weighted(), x, constants=(torch.tensor([1.0, 2.0, 3.0]),)).find() is None


# --- what a mask hides ----------------------------------------------------------------------------------


class Masked(nn.Module):
    """Attention with a bias by distance, and a mask of numbers. (N, 4, 24) and (N, 24) -> (N, 3)."""

    def __init__(self, bias: Callable[[Tensor], Tensor], hide: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.out, self.bias, self.hide = nn.Conv1d(4, 8, 5, padding=2), nn.Linear(8, 3), bias, hide

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h, at = torch.relu(self.stem(x)), torch.arange(x.shape[-1])
        added = self.hide(mask)[:, None] + self.bias(at[None] - at[:, None])
        return self.out((torch.einsum("bci,bcj->bij", h, h) + added).softmax(-1) @ h.mT).tanh().mean(1)


HIDES = [lambda m: (1 - m) * -10000.0, lambda m: m.log().clamp(min=-1e4), lambda m: -1e6 * (m - 1).abs()]
MASKED: Any = (torch.zeros(2, 4, 24), torch.ones(2, 24)), {"inputs": ("ACGT", "mask"), "verify": False}


@pytest.mark.parametrize("hide", some(HIDES, 1))
def test_a_mask_of_numbers_does_not_hide_what_breaks_the_law(hide: Callable[[Tensor], Tensor]) -> None:
    """Of random numbers as a mask, all but one entry of a row of weights would be zero."""
    example, how = MASKED
    (problem,) = plan_conversion(Masked(lambda d: 0.1 * d.clamp(min=0), hide), example, **how).problems
    assert problem.what == "a constant made in forward is not invariant under reverse complement"
    assert not plan_conversion(Masked(lambda d: 0.1 * d.abs(), hide), example, **how).problems


# --- constants: what is known of the pieces of a buffer, and of shapes ------------------------------------


class Waves(nn.Module):
    """Channels turned by their position; cosines and sines lie in one buffer, in float32. (N, 4, 24) -> (N, 3)."""

    def __init__(self, apart: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.stem, self.out, self.apart = nn.Conv1d(4, 8, 5, padding=2), nn.Linear(8, 3), apart
        angle = torch.arange(24)[:, None] / 100 ** (torch.arange(4).repeat(2) / 4)
        self.register_buffer("waves", torch.stack([angle.cos(), angle.sin()]))

    def forward(self, x: Tensor) -> Tensor:
        cos, sin = self.apart(self.waves)
        h = torch.relu(self.stem(x)).mT
        a, b = h.chunk(2, -1)
        t = h * cos + torch.cat([-b, a], -1) * sin
        return self.out(((t @ t.mT / 8).softmax(-1) @ h).tanh().mean(1))


APART = [lambda t: t.chunk(2), lambda t: t.unbind(0), lambda t: t.split([1, 1])]


@pytest.mark.parametrize("apart", some(APART, 1))
def test_pieces_of_a_rounded_buffer_are_rounded(apart: Callable[[Tensor], Any]) -> None:
    """Else no rotation by position obeys the law: float32 has no exact ones."""
    plan = plan_conversion(Waves(apart), EXAMPLE, verify=False)
    assert not plan.problems, str(plan)
    assert plan.notes == ["exact to the rounding of the constants that the model holds in float32"]
    assert_law(plan.apply(Waves(apart)), EXAMPLE, outputs="invariant", tolerance=1e-6)


def along(h: Tensor) -> Tensor:
    return torch.arange(h.shape[-1]).sub((h.shape[-1] - 1) / 2).square() / 100


SHAPED = [
    lambda h: h * along(h).reshape_as(h[:1, :1]),
    lambda h: h * along(h)[None, None].expand_as(h[:1, 2:3]),
    lambda h: h * along(h).view_as(h[0, 3].relu()).type_as(h[:, 1]),
]


@pytest.mark.parametrize("middle", some(SHAPED, 1))
def test_what_is_read_for_its_shape_is_not_cut_apart(middle: Callable[[Tensor], Tensor]) -> None:
    """Else each channel that is cut out would have to be its own mirror image."""
    plan = plan_conversion(Middle(middle), EXAMPLE, verify=False)
    assert not plan.problems, str(plan)
    assert "4 pairs" in str(plan)
    assert_law(plan.apply(Middle(middle)), EXAMPLE, outputs="invariant", tolerance=1e-10)


SWITCHED: list[Callable[[Tensor], Tensor]] = [
    lambda h: torch.where(h.sum() > 1e4, h.cumsum(-1), h),
    lambda h: h + h.sub(50).relu() * torch.arange(h.shape[-1]),
    lambda h: h + h.div(1e3).round().cumsum(-1),
    lambda h: h + F.hardshrink(h, 1e-5).sub(h).cumsum(-1),
]


@pytest.mark.parametrize("middle", some(SWITCHED, 2))
def test_what_only_small_or_large_numbers_do_is_tested_too(middle: Callable[[Tensor], Tensor]) -> None:
    """Activations of the usual size never reach the other piece of the operator."""
    (problem,) = plan_conversion(Middle(middle), EXAMPLE, verify=False).problems
    assert problem.what.startswith(("no rule for aten.cumsum", "a constant made in forward is not invariant"))


def test_an_operator_of_several_pieces_that_obeys_the_law_for_all_sizes_is_found() -> None:
    def middle(h: Tensor) -> Tensor:
        return torch.maximum(h.cumsum(-1) - h, h.flip(-1).cumsum(-1).flip(-1) - h).clamp(max=1e3)

    plan = plan_conversion(Middle(middle), EXAMPLE, verify=False)
    assert not plan.problems, str(plan)
    assert_law(plan.apply(Middle(middle)), EXAMPLE, outputs="invariant", tolerance=TOLERANCE)
