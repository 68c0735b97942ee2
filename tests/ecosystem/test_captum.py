"""captum: DeepLIFT, integrated gradients and saliency of converted models are mirrored with the sequence."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("captum")

from captum.attr import DeepLift, DeepLiftShap, IntegratedGradients, Saliency

from rcps_convert import convert_model

TOLERANCE = 1e-9


class Net(nn.Module):
    """Two convolutions, with pools or without, all of them modules. (N, 4, L) -> (N, 1)."""

    def __init__(self, pools: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(4, 12, 9, padding=4), nn.Conv1d(12, 12, 5, padding=2)
        self.a, self.b = nn.ReLU(), nn.ReLU()
        self.p, self.q = (nn.MaxPool1d(4), nn.MaxPool1d(3)) if pools else (nn.Identity(), nn.Identity())
        self.out = nn.Linear(12, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.p(self.a(self.first(x)))
        return self.out(self.q(self.b(self.second(h))).mean(-1))


def bases(n: int, length: int, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return nn.functional.one_hot(torch.randint(4, (n, length), generator=g), 4).mT.double()


def rc(x: Tensor) -> Tensor:
    return x.flip(1, 2)


METHODS: dict[str, Any] = {
    "deep lift": lambda m, x, r: DeepLift(m).attribute(x, r),
    "deep lift shap": lambda m, x, r: DeepLiftShap(m).attribute(x, r),
    "integrated gradients": lambda m, x, r: IntegratedGradients(m).attribute(x, r, n_steps=8),
    "saliency": lambda m, x, r: Saliency(m).attribute(x, abs=False),
}


def attributions(method: str, model: nn.Module, length: int) -> tuple[Tensor, Tensor]:
    """Of sequences and of their reverse complements, both in the sequences' own coordinates.

    captum hands a model sequences and references as two arguments, which its own hook joins: the model is held by
    another module, so that this happens outside of it.
    """
    x, references = bases(4, length, 1), bases(4, length, 2)
    held = nn.Sequential(model.double().eval())
    pairs = ((x, references), (rc(x), rc(references)))
    ours, theirs = (METHODS[method](held, a, b).detach() for a, b in pairs)
    assert float(ours.std()) > 0
    return ours, rc(theirs)


def apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / a.abs().max())


@pytest.mark.parametrize("length", [96, 101])
@pytest.mark.parametrize("strategy", ["tied", "conjoined"])
@pytest.mark.parametrize("method", METHODS)
def test_attributions_are_mirrored(method: str, strategy: str, length: int) -> None:
    """DeepLIFT without pools: captum's result for the plain model with them does not add up either."""
    torch.manual_seed(0)
    plain = Net(pools="deep" not in method)
    model = convert_model(plain, torch.zeros(2, 4, length), strategy=strategy, verify=False)
    ours, theirs = attributions(method, model, length)
    assert apart(ours, theirs) < TOLERANCE
    one, other = attributions(method, plain, length)
    assert apart(one, other) > 0.05
    if strategy == "conjoined":  # the mean of both strands' attributions
        assert apart(ours, (one + other) / 2) < TOLERANCE


class Paired(nn.Module):
    """A convolution whose filters are written as pairs by hand. (N, C, L) -> (N, C', L)."""

    def __init__(self, given: int, made: int, width: int) -> None:
        super().__init__()
        self.stored = nn.Parameter(torch.randn(made // 2, given, width) / (given * width) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.cat([self.stored, self.stored.flip(0, 1, 2)])
        return nn.functional.conv1d(x, weight, padding=weight.shape[-1] // 2)


def by_hand(activation: type[nn.Module], pool: nn.Module) -> nn.Module:
    """A symmetric network without any conversion. (N, 4, L) -> (N, 1)."""
    layers = (Paired(4, 12, 9), activation(), pool, Paired(12, 12, 5), activation())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), Summed())


class Summed(nn.Module):
    def forward(self, h: Tensor) -> Tensor:
        return h.sum(-1, keepdim=True)


CASES = [
    (nn.ReLU, nn.Identity(), torch.float64, 0.0, 1e-12),
    (nn.Softplus, nn.Identity(), torch.float64, 0.0, 1e-9),
    (nn.Softplus, nn.Identity(), torch.float32, 1e-5, 0.05),
    (nn.ReLU, nn.MaxPool1d(4), torch.float64, 0.01, 2.0),
]


@pytest.mark.parametrize(("activation", "pool", "dtype", "least", "most"), CASES)
def test_deep_lift_is_as_far_from_symmetric_as_on_a_network_by_hand(
    activation: type[nn.Module], pool: nn.Module, dtype: torch.dtype, least: float, most: float
) -> None:
    """What is divided by a small difference is captum's: rounding in float32, and ties of pools in any precision."""
    torch.manual_seed(0)
    plain = nn.Sequential(
        *(nn.Conv1d(4, 12, 9, padding=4), activation(), pool, nn.Conv1d(12, 12, 5, padding=2), activation()),
        *(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(12, 1)),
    )
    converted = convert_model(plain, torch.zeros(2, 4, 96), verify=False)
    for model in (by_hand(activation, pool), converted):
        held, worst = nn.Sequential(model.to(dtype).eval()), 0.0
        for seed in range(4):
            x, references = (bases(4, 96, s).to(dtype) for s in (seed, seed + 100))
            assert apart(held(x).detach(), held(rc(x)).detach()) < (1e-12 if dtype == torch.float64 else 1e-5)
            ours, theirs = (DeepLift(held).attribute(*pair) for pair in ((x, references), (rc(x), rc(references))))
            worst = max(worst, apart(ours.detach(), rc(theirs).detach()))
        assert least <= worst <= most
