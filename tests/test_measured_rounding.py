"""Rounding, noise and state are told from faults; constants count as the model computes them."""

from __future__ import annotations

import copy
import functools
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from by_hand import Net, X, bases, conv, mirror, worst
from tiers import some
from torch import Tensor, nn

from rcps_convert import ConversionError, VerificationError, check_equivariance, convert_model, plan_conversion
from rcps_convert.algebra.specs import OneHot
from rcps_convert.measure.report import candidate_actions
from rcps_convert.measure.verify import verify


def deep(layers: int) -> nn.Module:
    """Convolutions with batch norms and no residuals, which enlarge rounding."""
    steps = [m for _ in range(layers) for m in (nn.Conv1d(8, 8, 3, padding=1), nn.BatchNorm1d(8), nn.ReLU())]
    return nn.Sequential(conv(), *steps, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 2))


def verified(model: nn.Module) -> Any:
    spec = OneHot("ACGT")
    return verify(model, X, [spec], [spec.action(X.shape)], lambda i, shape: candidate_actions("auto", shape))


# --- rounding ---


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layers", "seed"), [(30, 0), *(pytest.param(100, seed, marks=pytest.mark.slow) for seed in range(3))]
)
def test_deep_models_with_norms_convert(layers: int, seed: int) -> None:
    torch.manual_seed(seed)
    converted = convert_model(deep(layers), X).double().eval()
    x = bases()
    assert worst(converted(mirror(x)), converted(x)) < 1e-6


class Fault(nn.Module):
    """A converted model with a fault of a chosen size put on top."""

    def __init__(self, body: nn.Module, size: float) -> None:
        super().__init__()
        self.body, self.size = body, size

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) * (1 + self.size * x[:, 0].sum(-1, keepdim=True))


@functools.cache
def exact_body(layers: int) -> nn.Module:
    """A converted model in which nothing but rounding is found."""
    torch.manual_seed(0)
    body = convert_model(deep(layers), X)
    assert verified(Fault(body, 0.0)).passed
    return body


@pytest.mark.parametrize("layers", some([1, 5, 10], 1))
@pytest.mark.parametrize("size", [1e-6, 1e-7, 1e-8])
def test_faults_of_shallow_models_are_no_rounding(layers: int, size: float) -> None:
    body = exact_body(layers)
    found = verified(Fault(body, size))
    assert not found.passed
    assert found.cause is None
    report = check_equivariance(Fault(body, size), X)
    assert not report


def test_what_rounding_decides_is_named() -> None:
    """The sign of a difference that is zero but for rounding."""

    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.c(x)
        return m.o(torch.sign(h.mean(-1) - h.flip(-1).mean(-1)) + h.mean(-1))

    torch.manual_seed(0)
    with pytest.raises(VerificationError, match="cannot be verified at this precision") as refused:
        convert_model(Net(forward, c=conv(), o=nn.Linear(8, 2)), X)
    assert "rounding" in str(refused.value.why)
    assert "a rule" not in str(refused.value)


# --- noise and state ---


def noisy(m: Any, x: Tensor) -> Tensor:
    """A variational layer."""
    h = m.c(x).relu()
    return m.o((h + torch.randn_like(h) * m.s(h)).tanh().mean(-1))


def first_state(m: Any, x: Tensor) -> Tensor:
    """A recurrence whose first state is drawn."""
    return m.o(m.g(m.c(x).transpose(1, 2), torch.randn(2, len(x), 8).to(x))[0].mean(1))


def scattered(m: Any, x: Tensor) -> Tensor:
    """Positions weighted at random."""
    return m.o((m.c(x).relu() * torch.rand(x.shape[-1]).to(x)).mean(-1))


NOISY = {
    "noisy": Net(noisy, c=conv(), s=nn.Conv1d(8, 8, 1), o=nn.Linear(8, 3)),
    "first state": Net(first_state, c=conv(), g=nn.GRU(8, 8, batch_first=True, bidirectional=True), o=nn.Linear(16, 3)),
    "scattered": Net(scattered, c=conv(), o=nn.Linear(8, 3)),
}


def distribution(model: nn.Module, x: Tensor, draws: int = 400) -> tuple[Tensor, Tensor]:
    """The mean of the outputs over many draws of the noise, and its standard error."""
    with torch.no_grad():
        found = torch.stack([model(x) for _ in range(draws)])
    return found.mean(0), found.std(0) / draws**0.5


@pytest.mark.parametrize("name", some([*NOISY, "gumbel"], 1))
@pytest.mark.parametrize("strategy", some(["tied", "conjoined"], 1))
def test_noise_leaves_the_law_in_distribution(name: str, strategy: str) -> None:
    torch.manual_seed(0)
    gumbel = Net(lambda m, x: m.o((h := m.c(x)).mul(F.gumbel_softmax(h, dim=1)).mean(-1)), c=conv(), o=nn.Linear(8, 3))
    model = gumbel if name == "gumbel" else NOISY[name]
    plan = plan_conversion(model, X, strategy=strategy)
    assert not plan.problems
    if (name, strategy) != ("scattered", "conjoined"):  # both strands share what is drawn for all samples
        assert "in distribution" in str(plan.verification)
        assert any("draws random numbers in eval mode" in w for w in plan.warnings)
    tied = plan.apply(model).double().eval()
    x = bases(4)
    (a, noise_a), (b, noise_b) = distribution(tied, x), distribution(tied, mirror(x))
    assert bool(((a - b).abs() <= 5 * (noise_a + noise_b) + 1e-9).all())
    report = check_equivariance(tied, X)
    assert report
    assert "random numbers held" in str(report)
    plain = copy.deepcopy(model).double().eval()
    assert not check_equivariance(plain, X)


def walk(m: Any, x: Tensor) -> Tensor:
    """Noise that grows along the sequence."""
    h = m.c(x).relu()
    return m.o((h * torch.randn_like(h).cumsum(-1)).mean(-1))


def beside(m: Any, x: Tensor) -> Tensor:
    """A sum over what is to the left, with noise."""
    h = m.c(x)
    return m.o((h * (h.cumsum(-1) + torch.rand_like(h)).tanh()).mean(-1))


@pytest.mark.parametrize("forward", some([walk, beside], 1))
def test_what_noise_is_added_to_is_looked_at_as_ever(forward: Any) -> None:
    torch.manual_seed(0)
    with pytest.raises(ConversionError, match=r"cumsum|21 fixed"):
        convert_model(Net(forward, c=conv(), o=nn.Linear(8, 3)), X)


DRAWN = {
    "a choice": lambda m, x: m.o(m.c(x).sigmoid().bernoulli().mean(-1)),
    "an order": lambda m, x: m.o(m.c(x)[:, torch.randperm(8)].mean(-1)),
}


@pytest.mark.parametrize(("name", "strategy"), [("a choice", "tied"), ("a choice", "conjoined"), ("an order", "tied")])
def test_random_numbers_are_named(name: str, strategy: str) -> None:
    torch.manual_seed(0)
    model = Net(DRAWN[name], c=conv(), o=nn.Linear(8, 3))
    with pytest.raises(ConversionError) as refused:
        convert_model(model, X, strategy=strategy)
    if name == "a choice":
        assert "draws random numbers in eval mode" in str(refused.value)
        assert "self.training" in str(refused.value.do)
    assert "a rule is wrong" not in str(refused.value)


def test_random_numbers_that_both_strands_share_are_no_obstacle() -> None:
    """Both strands run in one call: what is drawn once for all samples is the same for both."""
    torch.manual_seed(0)
    converted = convert_model(NOISY["scattered"], X, strategy="conjoined").double().eval()
    readings = []
    for x in (bases(), mirror(bases())):
        torch.manual_seed(3)
        readings.append(converted(x))
    assert worst(*readings) < 1e-10


@pytest.mark.parametrize("strategy", some(["tied", "conjoined"], 1))
def test_noise_of_train_mode_is_no_obstacle(strategy: str) -> None:
    torch.manual_seed(0)
    slopes = nn.Sequential(conv(), nn.RReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 3))
    jitter = Net(
        lambda m, x: m.o(((h := m.c(x)) + torch.randn_like(h) * float(m.training)).relu().mean(-1)),
        c=conv(),
        o=nn.Linear(8, 3),
    )
    for model in (slopes, jitter):
        plan = plan_conversion(model, X, strategy=strategy)
        assert not plan.problems, str(plan)
        assert plan.verification is not None
        assert plan.verification.modes == "eval mode only (train mode draws random numbers)"
        converted = plan.apply(model).double().eval()
        assert worst(converted(mirror(bases())), converted(bases())) < 1e-10


class Counts(nn.Module):
    """Computes something else at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.o, self.calls = conv(), nn.Linear(8, 3), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.o(self.c(x).relu().mean(-1)) * self.calls


class Remembers(nn.Module):
    """Adds what it saw last."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.o, self.last = conv(), nn.Linear(8, 3), [0.0]

    def forward(self, x: Tensor) -> Tensor:
        y = self.o(self.c(x).relu().mean(-1))
        shift, self.last[0] = self.last[0], self.last[0] + 1.0
        return y + shift


@pytest.mark.parametrize("strategy", ["tied", "conjoined"])
@pytest.mark.parametrize("make", some([Counts, Remembers], 1))
def test_state_is_named(make: type[nn.Module], strategy: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(VerificationError, match="something else at every call") as refused:
        convert_model(make(), X, strategy=strategy)
    assert "a rule" not in str(refused.value)


# --- precision ---


def distance_bins(n: int) -> Tensor:
    """Bins of the distance from the middle, as float32 computes them."""
    return ((torch.arange(n).float() / (n - 1) - 0.5).abs() * 10).floor()


def weighted(m: Any, x: Tensor) -> Tensor:
    return m.o((m.c(x) * distance_bins(16)).mean(-1))


def looked_up(m: Any, x: Tensor) -> Tensor:
    return m.o((m.c(x) * m.e(distance_bins(16).long()).T).mean(-1))


@pytest.mark.parametrize("forward", [weighted, looked_up])
def test_constants_count_as_float32_computes_them(forward: Any) -> None:
    bins = distance_bins(16)
    assert not torch.equal(bins, bins.flip(0))  # rounding takes some to another bin
    model = Net(forward, c=conv(), e=nn.Embedding(6, 8), o=nn.Linear(8, 2))
    with pytest.raises(ConversionError, match=r"not invariant|its own precision"):
        convert_model(model, torch.zeros(2, 4, 16))


@pytest.mark.parametrize("n", some(range(8, 28), 1))
def test_models_that_bin_distances_are_exact_in_float32_or_refused(n: int) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.o((m.c(x) * distance_bins(x.shape[-1])).mean(-1))

    torch.manual_seed(0)
    model, bins = Net(forward, c=conv(), o=nn.Linear(8, 2)), distance_bins(n)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            converted = convert_model(model, torch.zeros(2, 4, n)).eval()
    except ConversionError:
        assert not torch.equal(bins, bins.flip(0))
        return
    x = bases(8, n).float()
    assert worst(converted(mirror(x)), converted(x)) < 1e-3


def test_a_number_that_only_float32_tears_apart_is_found_by_verification() -> None:
    """No constant: the bins come from the input's own shape through a module that inference does not look into."""

    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.c(x).relu().mean(-1)
        ones = x.sum(1)  # (N, L), one everywhere on bases
        at = (ones.cumsum(-1) - 1) / (x.shape[-1] - 1)
        return (
            h.sum(-1, keepdim=True)
            + (((at - 0.5).abs() * 10).floor() * ones * m.w[: x.shape[-1]].abs()).sum(-1)[:, None]
        )

    torch.manual_seed(0)
    model = Net(forward, c=conv(), w=nn.Parameter(torch.rand(16)))
    try:
        converted = convert_model(model, torch.zeros(2, 4, 16)).eval()
    except ConversionError:
        return
    x = bases(8, 16).float()
    assert worst(converted(mirror(x)), converted(x)) < 1e-3


def test_half_precision_models_are_verified_in_their_own() -> None:
    torch.manual_seed(0)
    plan = plan_conversion(deep(2).bfloat16(), X.bfloat16())
    assert not plan.problems, str(plan)
    assert plan.verification is not None
    assert "bfloat16" in str(plan.verification)
