"""Outputs are held to what the user says of them, and a plan says which of them lose what they could say."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from by_hand import Net, X, bases, conv, mirror, randomised, worst
from tiers import chosen, some
from torch import Tensor, nn

from rcps_convert import (
    ConversionError,
    NeedsChoiceError,
    Tracks,
    VerificationError,
    check_equivariance,
    convert_model,
    plan_conversion,
)
from rcps_convert.measure.inputs import some_of

STRATEGIES = ["tied", "conjoined"]
PARTNERS = {"+-": [1, 0], ".": [0], "ACGT": [3, 2, 1, 0], "++--": [2, 3, 0, 1], "..": [0, 1], "+-+-": [1, 0, 3, 2]}
"""For each spec the channel that takes the place of each, written out."""


POOLED = (nn.AdaptiveAvgPool1d(1), nn.Flatten())
"""The mean over positions."""


def dense(channels: int) -> nn.Module:
    """Positions written by a dense layer: (N, 4, 21) -> (N, channels, 20)."""
    return Net(lambda m, x: m.o(m.c(x).relu().mean(-1)).view(-1, channels, 20), c=conv(), o=nn.Linear(8, 20 * channels))


def transposed(channels: int) -> nn.Module:
    """The same with the tracks last: (N, 20, channels)."""
    return Net(lambda m, x: m.o(m.c(x).relu().mean(-1)).view(-1, 20, channels), c=conv(), o=nn.Linear(8, 20 * channels))


def profile(channels: int) -> nn.Module:
    """A profile from a convolution."""
    return nn.Sequential(conv(), nn.ReLU(), nn.Conv1d(8, channels, 3, padding=1))


# --- an axis that is permuted is not invariant ---


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Conv1d(4, 2, 3, padding=1), nn.Flatten()),
        Net(lambda m, x: m.c(x).transpose(1, 2).flatten(1), c=nn.Conv1d(4, 2, 3, padding=1)),
        Net(lambda m, x: m.c(x).flatten(), c=nn.Conv1d(4, 2, 3, padding=1)),
    ],
    ids=["channels x positions", "positions x channels", "all in one"],
)
def test_flattened_profiles_are_not_called_invariant(model: nn.Module, strategy: str) -> None:
    with pytest.raises(ConversionError):
        convert_model(model, X, strategy=strategy)


def test_a_profile_without_channels_is_one() -> None:
    torch.manual_seed(0)
    plan = plan_conversion(nn.Sequential(nn.Conv1d(4, 1, 3, padding=1), nn.Flatten()), X)
    assert "unstranded profile (auto)" in plan.outputs[0]
    converted = randomised(plan.apply(nn.Sequential(nn.Conv1d(4, 1, 3, padding=1), nn.Flatten())))
    assert worst(converted(mirror(bases())), converted(bases()).flip(-1)) < 1e-10


# --- what the spec says ---


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("make", some([dense, profile], 1))
@pytest.mark.parametrize("spec", some(["+-+-", ".", "ACGT", "++--", "..", "+-"], 1))
def test_tracks_are_reversed_as_the_spec_says(make: Any, spec: str, strategy: str) -> None:
    torch.manual_seed(0)
    converted = randomised(convert_model(make(len(spec)), X, outputs=spec, strategy=strategy))
    y, r = (converted(x).detach() for x in (bases(), mirror(bases())))
    assert worst(r, y[:, PARTNERS[spec]].flip(-1)) < 1e-10
    assert float((y - y.flip(-1)).abs().max()) > 1e-3


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_named_layout_makes_positions_of_a_dense_layer_a_length(strategy: str) -> None:
    torch.manual_seed(0)
    model = transposed(2)
    converted = randomised(convert_model(model, X, outputs=Tracks("+-", layout="n l c"), strategy=strategy))
    assert worst(converted(mirror(bases())), converted(bases()).flip(1, 2)) < 1e-10


@pytest.mark.parametrize(
    ("model", "spec"),
    [
        (Net(lambda m, x: m.c(x.sort(-1).values * m.w), c=conv(4), w=nn.Parameter(torch.rand(21))), "++--"),
        (Net(lambda m, x: m.c(x.sort(-1).values * m.w), c=conv(4), w=nn.Parameter(torch.rand(21))), "ACGT"),
        (Net(lambda m, x: m.c(x.cumsum(-1)), c=conv(2)), "+-"),
    ],
    ids=["sorted tracks", "sorted bases", "cumulative"],
)
def test_what_is_not_reversed_is_not_accepted_as_tracks(model: nn.Module, spec: str) -> None:
    with pytest.raises(ConversionError):
        convert_model(model, X, outputs=spec)


def test_an_axis_beside_tracks_that_is_fixed_is_refused_with_the_reason() -> None:
    model = Net(lambda m, x: m.c(x).sort(-1).values, c=conv(2))
    with pytest.raises(NeedsChoiceError, match="no length"):
        convert_model(model, X, outputs="+-")


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    ("make", "spec"),
    some([
        (lambda: dense(2), "auto"),
        (lambda: dense(2), "+-"),
        (lambda: profile(3), "auto"),
        (lambda: profile(4), "ACGT"),
        (lambda: nn.Sequential(conv(2), *POOLED), "+-"),
        (lambda: nn.Sequential(conv(6), nn.ReLU(), *POOLED, nn.Linear(6, 2)), "antisymmetric"),
        (lambda: nn.Sequential(conv(6), nn.ReLU(), *POOLED, nn.Linear(6, 2)), "invariant"),
        (lambda: Net(lambda m, x: (h := m.c(x)).transpose(1, 2) @ h, c=conv()), "auto"),
    ], 2),
)  # fmt: skip
def test_a_plan_says_what_the_check_says(make: Any, spec: str, strategy: str) -> None:
    torch.manual_seed(0)
    model = make()
    plan = plan_conversion(model, X, outputs=spec, strategy=strategy)
    assert not plan.problems, str(plan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a narrow one loses values, and says so
        report = check_equivariance(plan.apply(model), X, outputs=spec)
    assert report, str(report)
    assert plan.outputs[0].endswith(report.actions[0])


# --- lost outputs ---


def heads(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    h = m.c(x).relu().mean(-1)
    return m.a(h), h


def lost(model: nn.Module, **how: Any) -> list[str]:
    """The warnings of a conversion that speak of what an output loses."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        convert_model(model, X, **how)
    return [str(w.message) for w in caught if "whatever the weights" in str(w.message)]


def test_an_antisymmetric_head_that_would_become_zero_is_refused() -> None:
    torch.manual_seed(0)
    model = Net(heads, c=conv(), a=nn.Linear(8, 1))
    with pytest.raises(NeedsChoiceError, match="output 0 would be zero, whatever the weights"):
        convert_model(model, X, outputs=("antisymmetric", "auto"))


def test_stranded_counts_that_became_equal_are_named() -> None:
    def forward(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        h = m.c(x).relu().mean(-1)
        return m.a(h), h

    torch.manual_seed(0)
    (warning,) = lost(Net(forward, c=conv(), a=nn.Linear(8, 2)), outputs=("+-", "auto"))
    assert "output 0 has 1 independent values where the plain model has 2" in warning


def test_a_narrow_layer_before_the_output_is_named() -> None:
    torch.manual_seed(0)
    narrow = Net(lambda m, x: m.a(m.c(x).relu().mean(-1)), c=conv(), a=nn.Linear(8, 8))
    (warning,) = lost(narrow)
    assert "4 independent values where the plain model has 8" in warning


def of_pairs(m: Any, h: Tensor) -> Tensor:
    """Products of all pairs of eight numbers, 36 of them different, as in a bilinear pooling."""
    return (h[:, None] * h[:, :, None]).flatten(1) @ m.w


WIDE_HEADS = {
    "narrow": (48, lambda m, h: m.b(h), 24, 40),
    "pairs": (8, of_pairs, 20, 36),
    "contrast": (48, lambda m, h: m.b(h.tanh()) - m.b(h.tanh().flip(1)), 12, 24),
}
"""Hidden channels, a head of 40 outputs, and how many values such invariant and such free outputs can have."""


def rank(y: Tensor) -> int:
    """In how many directions the samples of an output vary."""
    return int(torch.linalg.matrix_rank(y - y.mean(0), rtol=1e-7))


@pytest.mark.parametrize("name", chosen(WIDE_HEADS, lambda name: name == "pairs"))
def test_a_wide_output_that_keeps_half_of_its_values_is_named(name: str) -> None:
    hidden, head, has, had = WIDE_HEADS[name]

    def forward(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        h = m.c(x).relu().mean(-1)
        return m.a(h), head(m, h)

    torch.manual_seed(0)
    layers = {"c": nn.Conv1d(4, hidden, 3), "a": nn.Linear(hidden, 1), "b": nn.Linear(hidden, 40)}
    model: Any = Net(forward, **layers)
    model.w = nn.Parameter(torch.randn(64, 40))
    (warning,) = lost(model)
    assert "output 1 has" in warning
    x = F.one_hot(torch.randint(0, 4, (200, X.shape[-1])), 4).mT.double()
    with torch.no_grad():
        assert rank(model.double()(x)[1]) == had
        assert rank(convert_model(model, x[:2], verify=False)(x)[1]) == has


@pytest.mark.parametrize("spec", chosen(["auto", "+-", "antisymmetric"], lambda spec: spec == "+-"))
def test_nothing_is_said_of_outputs_that_keep_their_values(spec: str) -> None:
    torch.manual_seed(0)
    wide = Net(lambda m, x: m.a(m.c(x).relu().mean(-1)), c=conv(), a=nn.Linear(8, 2))
    assert lost(wide, outputs=spec) == []
    assert lost(wide, outputs=spec, strategy="conjoined") == []


LEVELLED = {
    "group norm": lambda m, x: m.n(m.c(x).tanh().mean(-1)).sum(1),
    "layer norm": lambda m, x: F.layer_norm(m.c(x).amax(-1), (2,), m.n.weight, m.n.bias, 0.1).mean(1, keepdim=True),
    "softmax": lambda m, x: (m.c(x).mean(-1) * 9).softmax(1) @ m.n.weight,
}
"""What is left of one pair of channels adds up to a constant once the weights of the two are equal."""


@pytest.mark.parametrize("how", some(LEVELLED, 1))
@pytest.mark.parametrize("seed", some(range(3), 1))
def test_an_output_that_is_constant_but_for_rounding_is_named(how: str, seed: int) -> None:
    torch.manual_seed(seed)
    pair = Net(LEVELLED[how], c=nn.Conv1d(4, 2, 3, padding=1), n=nn.GroupNorm(1, 2))
    with pytest.raises(VerificationError, match="do not depend on the sequence once the weights are tied"):
        convert_model(pair, X)
    beside = Net(
        lambda m, x: (LEVELLED[how](m, x), m.o(m.c(x).mean(-1))), **dict(pair.named_children()), o=nn.Linear(2, 1)
    )
    (warning,) = lost(beside, outputs=("invariant", "auto"))
    assert "output 0 no longer depends on the sequence" in warning


@pytest.mark.slow
@pytest.mark.variation
@pytest.mark.parametrize("scale", some([1.0, 10.0, 30.0], 1))
def test_an_output_that_depends_faintly_and_then_not_at_all_is_named(scale: float) -> None:
    """Behind a norm of one pair only the sign of a difference is left, and how small it is beside the norm's eps."""

    def forward(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        h = m.c(x).relu().amax(-1)
        return h, m.o(m.n((m.a(h) * scale).abs()))

    torch.manual_seed(0)
    model = Net(forward, c=conv(), a=nn.Linear(8, 2), n=nn.GroupNorm(1, 2), o=nn.Linear(2, 4))
    warned = lost(model)
    assert any("output 1 no longer depends on the sequence" in w for w in warned), warned


@pytest.mark.parametrize("how", some(LEVELLED, 1))
def test_an_output_of_several_pairs_keeps_its_values(how: str) -> None:
    torch.manual_seed(0)
    several = Net(LEVELLED[how], c=nn.Conv1d(4, 6, 3, padding=1), n=nn.GroupNorm(1, 6))
    if how == "layer norm":
        several.function = lambda m, x: F.layer_norm(m.c(x).amax(-1), (6,), m.n.weight, m.n.bias, 0.1).mean(
            1, keepdim=True
        )
    assert lost(several) == []


class PlacesOnly(nn.Module):
    """Beside an output that depends on the sequence one whose places differ by their biases, (N, 4, L).

    Args:
        how: what leaves nothing of two equal numbers: a norm, their difference, or their order.
    """

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.stem, self.two = nn.Conv1d(4, 1, 5, padding=2), nn.Linear(1, 2)
        self.norm, self.profile = nn.GroupNorm(1, 2), nn.Linear(2, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.stem(x)
        two = self.two(h.amax(-1))
        if self.how == "difference":
            two = two - two.mean(1, keepdim=True)
        two = self.norm(two) if self.how == "norm" else two.softmax(1) if self.how == "shares" else two
        return self.profile(two).view(-1, 2, 5), h.abs()


@pytest.mark.parametrize("how", some(["norm", "difference", "shares"], 1))
def test_places_that_differ_are_no_dependence_on_the_sequence(how: str) -> None:
    torch.manual_seed(0)
    plan = plan_conversion(PlacesOnly(how), (2, 4, 24), outputs=(Tracks("..", layout="n c l"), "auto"))
    y = randomised(plan.apply(PlacesOnly(how)))(bases(16, 24))[0].detach()
    depends = float((y - y[:1]).abs().max()) > 1e-9
    named = [w for w in plan.warnings if "output 0 no longer depends on the sequence" in w]
    assert bool(named) is not depends
    assert named


def test_a_faint_dependence_on_the_sequence_is_no_rounding() -> None:
    torch.manual_seed(0)
    faint = Net(lambda m, x: 1 + 1e-9 * m.o(m.c(x).relu().mean(-1)), c=conv(), o=nn.Linear(8, 1))
    assert plan_conversion(faint.double(), X.double()).problems == []


# --- outputs that fold the samples into another axis ---------------------------------------------------


def coupled(m: Any, x: Tensor) -> Tensor:
    h = m.c(x)
    return m.a((h - h.mean(0, keepdim=True)).relu().mean(-1))


def summed(m: Any, x: Tensor) -> Tensor:
    return m.a(m.c(x).cumsum(0).relu().mean(-1))


def separate(m: Any, x: Tensor) -> Tensor:
    return m.a(m.c(x).relu().mean(-1))


FOLDED = {
    "each sample's scores together": lambda y: y.reshape(-1),
    "each score's samples together": lambda y: y.T.reshape(-1),
    "beside an output of samples": lambda y: (y, y.reshape(-1)),
    "one number for the batch": lambda y: y.square().mean(),
    "each score's median over the batch": lambda y: y.quantile(0.5, dim=0),
    "a loss beside what it is of": lambda y: {"loss": y.square().mean(), "table": y.new_ones(3)},
    "beside an output with a row more": lambda y: (y, torch.cat([y, y.detach()[:1]])),
}


@pytest.mark.parametrize("fold", some(FOLDED, 1))
@pytest.mark.parametrize(
    ("body", "samples"), some([(coupled, 2), (summed, 1), (separate, 1), (separate, 2), (summed, 2)], 2)
)
def test_samples_are_mirrored_alone_where_an_output_folds_them(body: Any, samples: int, fold: str) -> None:
    torch.manual_seed(0)
    model = Net(lambda m, x: FOLDED[fold](body(m, x)), c=conv(), a=nn.Linear(8, 2))
    plan = plan_conversion(model, X[:samples])
    if body is not separate:
        assert "samples of one batch influence each other" in str(plan.problems[0])
    else:
        assert not plan.problems


# --- samples whose results stand in other places ---


def every_other_from_the_last(y: Tensor) -> Tensor:
    return torch.stack([y[::2].flip(0)[i // 2] if i % 2 == 0 else y[i] for i in range(len(y))])


ORDERS = {
    "from the last": lambda y: y.flip(0),
    "from the last but two": lambda y: torch.cat([y[:-2].flip(0), y[-2:]]),
    "every other from the last": every_other_from_the_last,
}


@pytest.mark.parametrize("order", some(ORDERS, 2))
def test_results_in_another_order_than_the_samples_are_refused(order: str) -> None:
    """At one length only, where few batches are measured."""
    model = Net(lambda m, x: ORDERS[order](m.a(m.c(x))).abs(), c=nn.Conv1d(4, 8, 1), a=nn.Linear(64, 5))
    plan = plan_conversion(model, torch.zeros(2, 4, 64), outputs=Tracks("........", layout="n c l"))
    assert "samples of one batch influence each other" in str(plan.problems[0])


@pytest.mark.parametrize("samples", [2, 3, 4, 7, 8, 32])
def test_which_samples_are_mirrored_alone_shows_their_order(samples: int) -> None:
    seen = set()
    for seed in range(8):
        chosen = some_of(samples, seed)
        assert not torch.equal(chosen, chosen.flip(0))
        assert not any(torch.equal(chosen, chosen.roll(k)) for k in range(1, samples))
        seen.add(tuple(chosen.tolist()))
    assert len(seen) > 1


# --- outputs that hardly depend on the sequence any more ---


class OnePair(nn.Module):
    """A norm over one pair: what an invariant output reads of it is constant but for the norm's epsilon."""

    def __init__(self, norm: nn.Module, eps_only: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.eps_only = nn.Conv1d(4, 2, 3, padding=1), norm, eps_only
        self.pair, self.score = nn.Linear(2, 2), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.norm(self.conv(x).logsumexp(-1))
        return self.pair(h).relu(), self.score(h.square() if self.eps_only else h)


@pytest.mark.parametrize("eps_only", some([False, True], 1))
@pytest.mark.parametrize("norm", some([nn.GroupNorm(1, 2), nn.LayerNorm(2)], 1))
def test_an_output_that_hardly_depends_on_the_sequence_is_named(norm: nn.Module, eps_only: bool) -> None:
    plan = plan_conversion(OnePair(norm, eps_only), torch.zeros(2, 4, 40), outputs=("+-", "invariant"))
    named = [w for w in plan.warnings if "output 1 no longer depends" in w]
    assert len(named) == (not eps_only)  # the plain model's squares are constant too
    assert not any("output 0" in w for w in plan.warnings)


@pytest.mark.parametrize("count", some([lambda h: h.cumsum(0), lambda h: h + torch.arange(len(h)).view(-1, 1, 1)], 1))
def test_the_place_of_a_sample_in_the_batch_is_no_sequence(count: Any) -> None:
    """Probabilities sum to one: what differs between the samples is how many stand before them."""
    net = Net(lambda m, x: m.a(count(m.c(x).softmax(-1)).sum(-1)), c=conv(), a=nn.Linear(8, 2))
    (problem,) = plan_conversion(net, X[:2]).problems
    assert "do not depend on the sequence" in str(problem)
