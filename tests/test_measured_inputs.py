"""Where the law is measured: on real input too, with ties and padding, and on batches of which some are mirrored."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from by_hand import Net, X, bases, conv, hard_inputs, mirror, randomised, worst
from tiers import some
from torch import Tensor, nn

from rcps_convert import ConversionError, VerificationError, check_equivariance, convert_model, plan_conversion
from rcps_convert.algebra import axis as ax
from rcps_convert.algebra.action import Action
from rcps_convert.algebra.specs import OneHot, Tokens, Tracks
from rcps_convert.measure.inputs import KINDS, of_kinds
from rcps_convert.measure.verify import verify

# --- the inputs ---


@pytest.mark.parametrize("layout", ["n c l", "n l c", "n 1 c l"])
def test_kinds_of_bases(layout: str) -> None:
    sizes = {"n": len(KINDS), "c": 4, "l": 30, "1": 1}
    example = torch.zeros([sizes[c] for c in layout.split()])
    spec = OneHot("ACGT")
    drawn = of_kinds(spec, spec.action(example.shape, layout), example, torch.Generator(), KINDS, torch.float64)
    letters = layout.replace("1 ", "").split()
    x = drawn.reshape([sizes[c] for c in letters]).permute(*(letters.index(c) for c in "ncl"))
    sums = x.sum(1)
    random, padded, run, repeat, soft, masked, blank = x
    assert not blank.any()
    assert drawn.is_contiguous()
    assert torch.equal(sums[0], torch.ones(30).double())
    assert bool((random.argmax(0) != random.argmax(0)[0]).any())
    assert int((padded.sum(0) == 0).sum()) >= 10
    assert bool((run == run[:, :1]).all())
    assert any(torch.equal(repeat[:, p:], repeat[:, :-p]) for p in (2, 3, 4))
    torch.testing.assert_close(soft.sum(0), torch.ones(30).double())
    assert float(soft.max()) < 1
    assert int((soft == 0.25).all(0).sum()) >= 10
    assert set(masked.sum(0).tolist()) >= {0.0, 1.0} or set(masked.sum(0).tolist()) >= {0.0, 0.5}


def test_kinds_of_ids_and_tracks() -> None:
    tokens, ids = Tokens("ACGTN"), torch.zeros(len(KINDS), 24, dtype=torch.long)
    drawn = of_kinds(tokens, tokens.action(ids.shape), ids, torch.Generator(), KINDS, torch.float64)
    assert int((drawn[1] == 4).sum()) >= 8
    assert len(set(drawn[2].tolist())) == 1
    assert drawn[6].tolist() == [4] * 24
    assert drawn.dtype == torch.long
    tracks, counts = Tracks("+-"), torch.zeros(len(KINDS), 2, 24)
    numbers = of_kinds(tracks, tracks.action(counts.shape), counts, torch.Generator(), KINDS, torch.float64)
    assert bool((numbers >= 0).all())
    assert int((numbers[1] == 0).sum()) >= 8


# --- ties and padding ---


def embedded(m: Any, x: Tensor) -> Tensor:
    return m.o(m.d(m.e(m.c(x).argmax(1)).transpose(1, 2)).relu().mean(-1))


def pooled(m: Any, x: Tensor) -> Tensor:
    y, places = F.max_pool1d(m.c(x), 3, return_indices=True)
    return m.o(m.d(F.max_unpool1d(y, places, 3)).relu().mean(-1))


def sorted_by_channel(m: Any, x: Tensor) -> Tensor:
    return m.o(m.d(m.e(m.c(x).sort(1).indices[:, 0]).transpose(1, 2)).relu().mean(-1))


def nearest_code(m: Any, x: Tensor) -> Tensor:
    return m.o(m.d(m.e(m.c(x).topk(1, dim=1).indices[:, 0]).transpose(1, 2)).relu().mean(-1))


TIES = [embedded, pooled, sorted_by_channel, nearest_code]


def outcome(model: nn.Module) -> str:
    """Refused by name, exact on everything, or what is wrong."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            converted = randomised(convert_model(model, X))
    except ConversionError as refused:
        return type(refused).__name__
    x = torch.cat([bases(32, seed=3), hard_inputs()])
    return "exact" if worst(converted(mirror(x)), converted(x)) < 1e-9 else "wrong"


@pytest.mark.parametrize("forward", some(TIES, 1))
def test_ties_are_shown_whatever_the_seed(forward: Any) -> None:
    found = set()
    for seed in range(4):
        torch.manual_seed(seed)
        parts = {"c": conv(), "d": nn.Conv1d(8, 8, 3), "e": nn.Embedding(8, 8), "o": nn.Linear(8, 3)}
        found.add(outcome(Net(forward, **parts)))
    assert len(found) == 1
    assert found <= {"VerificationError", "BreaksSymmetryError", "NoRuleError", "exact"}


def largest_share(m: Any, x: Tensor) -> Tensor:
    shares = m.c(x).softmax(1)
    return m.o(m.d((shares == shares.amax(1, keepdim=True)).to(shares.dtype)).relu().mean(-1))


def three_largest_shares(m: Any, x: Tensor) -> Tensor:
    shares = m.c(x).softmax(1)
    return m.o(m.d((shares >= shares.topk(3, 1).values.amin(1, keepdim=True)).to(shares.dtype)).relu().mean(-1))


def largest_gate(m: Any, x: Tensor) -> Tensor:
    gates = m.c(x).sigmoid()
    return m.o(m.d(gates * (gates == gates.amax(1, keepdim=True))).relu().mean(-1))


@pytest.mark.parametrize("forward", some([largest_share, three_largest_shares, largest_gate], 1))
def test_numbers_that_tie_but_for_rounding_where_no_base_is_known_are_shown(forward: Any) -> None:
    """A filter and its reverse complement read the same from a quarter of each base, and round otherwise."""
    torch.manual_seed(0)
    model = Net(forward, c=conv(8, 5), d=nn.Conv1d(8, 8, 3), o=nn.Linear(8, 3))
    assert outcome(model) == "VerificationError"


def test_the_kind_of_input_is_named() -> None:
    torch.manual_seed(0)
    model = Net(embedded, c=conv(), d=nn.Conv1d(8, 8, 3), e=nn.Embedding(8, 8), o=nn.Linear(8, 3))
    with pytest.raises(VerificationError, match="not equivariant on some input") as refused:
        convert_model(model, X)
    assert "all-zero columns (N)" in refused.value.what
    assert "tie" in str(refused.value.why)
    assert not check_equivariance(convert_model(model, X, verify=False), X)


def test_a_model_that_takes_one_hot_bases_only_is_measured_on_these() -> None:
    class Strict(nn.Module):
        def __init__(self, weights: list[float]) -> None:
            super().__init__()
            self.weights = nn.Parameter(torch.tensor(weights))

        def forward(self, x: Tensor) -> Tensor:
            if not bool(((x == 0) | (x == 1)).all() and (x.sum(1) == 1).all()):
                raise ValueError("not one-hot")
            return (x * self.weights[:, None]).sum((1, 2))

    assert check_equivariance(Strict([1.0, 2.0, 2.0, 1.0]), X)
    assert not check_equivariance(Strict([1.0, 2.0, 3.0, 4.0]), X)


@pytest.mark.parametrize(("alone", "cause"), [(True, None), (False, "samples")])
def test_samples_of_an_example_of_one_are_told_apart_where_an_axis_holds_more(alone: bool, cause: str | None) -> None:
    class Twice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            p = x[:, 0] + x[:, 3]
            y = (p * (p if alone else p.mean(0, keepdim=True))).sum(-1)
            return torch.cat([y, y])

    spec, example = OneHot("ACGT"), torch.zeros(1, 4, 24)
    found = verify(Twice(), example, [spec], [spec.action(example.shape)], [Action((ax.batch(2),))])
    assert found.cause == cause


def test_no_other_kind_of_input_is_named() -> None:
    """One base at a position, or none, makes the product zero: only probabilities of bases show it."""

    class OfTwoBases(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sum((1, 2)) + (x[:, 0] * x[:, 1]).sum(-1)

    spec = OneHot("ACGT")
    found = verify(OfTwoBases(), X, [spec], [spec.action(X.shape)], [Action((ax.batch(len(X)),))])
    assert found.cause == "probabilities of bases"


@pytest.mark.parametrize("seed", some(range(4), 1))
@pytest.mark.parametrize("strategy", ["tied", "conjoined"])
@pytest.mark.parametrize("take", [lambda h: h.max(-1).indices, lambda h: h.argmin(-1), lambda h: h.topk(2).indices])
def test_positions_as_outputs_are_refused_by_name(take: Any, strategy: str, seed: int) -> None:
    torch.manual_seed(seed)
    with pytest.raises(ConversionError):
        convert_model(Net(lambda m, x: take(m.c(x)), c=conv()), X, strategy=strategy)


def test_classes_as_outputs_are_exact() -> None:
    torch.manual_seed(0)
    model = Net(lambda m, x: m.o(m.c(x).relu().amax(-1)).argmax(-1), c=conv(), o=nn.Linear(8, 5))
    converted = convert_model(model, X).double().eval()
    x = bases(64)
    assert torch.equal(converted(x), converted(mirror(x)))


def test_models_that_take_one_hot_bases_only_convert() -> None:
    def strict(m: Any, x: Tensor) -> Tensor:
        if not torch.compiler.is_compiling() and x.any():
            assert bool((x.sum(1) == 1).all())
        return m.o(m.c(x).relu().mean(-1))

    torch.manual_seed(0)
    model = Net(strict, c=conv(), o=nn.Linear(8, 3))
    converted = convert_model(model, X).double().eval()
    x = bases()
    assert worst(converted(mirror(x)), converted(x)) < 1e-10


# --- samples ---


class Attention(nn.Module):
    """Attention with `batch_first` forgotten: it runs over the samples."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.o = conv(), nn.Linear(8, 3)
        self.m = nn.MultiheadAttention(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x).transpose(1, 2)
        return self.o(self.m(h, h, h)[0].mean(1))


class Recurrence(nn.Module):
    """A recurrence over the samples: the layout is transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.o = conv(), nn.Linear(16, 3)
        self.m = nn.GRU(8, 8, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.m(self.c(x).transpose(1, 2))[0].mean(1))


class Centred(nn.Module):
    """Features less their mean over the batch, squared: equal under mirroring of the whole batch alone."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.o = conv(), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x).relu()
        return self.o((h - h.mean(0)).square().mean(-1))


class Scaled(nn.Module):
    """Every sample divided by the largest score at each place of any sample."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.o = conv(), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x).sigmoid()
        return self.o((h / h.amax(0)).mean(-1))


def alone(model: nn.Module) -> float:
    """How far mirroring one sample moves the results, in float64."""
    model, x = randomised(model), bases(4)
    some = x.clone()
    some[1] = mirror(x)[1]
    return worst(model(some), model(x))


@pytest.mark.parametrize("samples", some([1, 2, 3], 1))
@pytest.mark.parametrize("make", some([Attention, Recurrence, Centred, Scaled], 1))
@pytest.mark.parametrize("strategy", ["tied", "conjoined"])
def test_mirroring_one_sample_leaves_the_others_alone(make: type[nn.Module], strategy: str, samples: int) -> None:
    """Conjoined, both strands of every sample are in the batch whichever was given: a mean over it may be exact."""
    torch.manual_seed(0)
    plan = plan_conversion(make(), torch.zeros(samples, 4, 21), strategy=strategy)
    assert strategy == "conjoined" or plan.problems
    assert all("samples" in str(p) for p in plan.problems)
    assert plan.problems or alone(plan.apply(make())) < 1e-9


def test_check_equivariance_mirrors_samples_alone() -> None:
    both = Net(lambda m, x: (x[:, 0].sum(-1) - x[:, 3].sum(-1)).square() * (x[:, 0].sum() - x[:, 3].sum()).square())
    whole = bases()
    torch.testing.assert_close(both(whole), both(mirror(whole)))  # invariant when all are mirrored
    assert not check_equivariance(both, X)


def test_batch_norm_in_train_mode_may_mix_samples() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(conv(), nn.BatchNorm1d(8), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 3))
    plan = plan_conversion(model, X)
    assert not plan.problems
    assert plan.verification is not None
    assert plan.verification.modes == "train and eval mode"


def largest_channel(h: Tensor) -> Tensor:
    return torch.zeros_like(h).scatter(1, h.argmax(1, keepdim=True), 1.0)


def first_of_largest(h: Tensor) -> Tensor:
    return (h.argmax(1, keepdim=True) == torch.arange(h.shape[1]).view(-1, 1)).to(h)


def largest_code(h: Tensor) -> Tensor:
    return F.one_hot(h.argmax(1), h.shape[1]).mT.to(h)


class Marked(nn.Module):
    """Without bases all channels tie, and only then; the mask tells the positions apart, so the outcome varies."""

    def __init__(self, mark: Any) -> None:
        super().__init__()
        self.mark, self.c, self.o = mark, conv(3), nn.Conv1d(3, 3, 4)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = self.c(x).masked_fill(mask[:, None] == 0, -1e9).softmax(-1)
        h = F.normalize(h, dim=-1)
        return self.o(self.mark(h) * h.amax(1, keepdim=True)).mT


@pytest.mark.parametrize("mark", some([largest_channel, first_of_largest, largest_code], 1))
def test_bases_are_blank_beside_tracks_that_are_not(mark: Any) -> None:
    torch.manual_seed(0)
    example = (torch.zeros(2, 4, 24), torch.zeros(2, 24))
    (problem,) = plan_conversion(Marked(mark), example, inputs=("ACGT", Tracks(".", layout="n l"))).problems
    assert "no bases at all" in str(problem)
