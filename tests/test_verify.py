"""The checker itself: it accepts what obeys the law and rejects what does not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rcps_convert import Tokens, VerificationError, check_equivariance, plan_conversion
from rcps_convert.algebra.action import Action
from rcps_convert.algebra.axis import batch, trivial
from rcps_convert.algebra.specs import OneHot
from rcps_convert.measure.verify import verify

EXAMPLE = torch.zeros(2, 4, 31)


class Symmetric(nn.Module):
    """f(x) + f(rc x), mapped back: equivariant whatever f is."""

    def __init__(self, profile: bool, signs: bool = False) -> None:
        super().__init__()
        self.f = nn.Sequential(nn.Conv1d(4, 2, 5, padding=2), nn.Tanh())
        self.profile, self.signs = profile, signs

    def forward(self, x: Tensor) -> Tensor:
        ours, theirs = self.f(x), self.f(x.flip(1, 2)).flip(1, 2)
        both = ours + theirs
        return both if self.profile else (ours - theirs).sum((1, 2))[:, None] if self.signs else both.sum((1, 2))


class Stretched(nn.Module):
    """Breaks the law by a chosen amount."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        return x.sum((1, 2)) + self.by * x[:, 0].sum(-1)


@pytest.mark.parametrize(
    ("model", "outputs"),
    [(Symmetric(True), "+-"), (Symmetric(False), "invariant"), (Symmetric(False), "auto")],
)
def test_accepts_equivariant_models(model: nn.Module, outputs: str) -> None:
    report = check_equivariance(model, EXAMPLE, outputs=outputs)
    assert report
    assert report.error < 1e-14
    assert "equivariant: error" in str(report)


@pytest.mark.parametrize(
    ("model", "outputs"),
    [
        (
            Symmetric(True),
            "..",
        ),
        (Symmetric(False), "antisymmetric"),
        (nn.Conv1d(4, 3, 5), "auto"),
        (Stretched(1e-6), "auto"),
        (nn.Sequential(nn.Flatten(), nn.Linear(124, 2)), "auto"),
    ],
)
def test_rejects_broken_models(model: nn.Module, outputs: str) -> None:
    report = check_equivariance(model, EXAMPLE, outputs=outputs)
    assert not report
    assert "NOT equivariant" in str(report)


def test_error_is_the_relative_deviation() -> None:
    class Known(nn.Module):
        """1 if the first base is A or C, else 1.25: its reverse complement looks at the last base."""

        def forward(self, x: Tensor) -> Tensor:
            return 1 + 0.25 * x[:, 2:, 0].sum(-1)

    report = check_equivariance(Known(), torch.zeros(64, 4, 9))
    assert report.error == pytest.approx(0.2)


def test_non_finite_outputs_are_no_success() -> None:
    class Infinite(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sum((1, 2)) / 0.0

    assert check_equivariance(Infinite(), EXAMPLE).error == float("inf")


class HardCoded(nn.Module):
    """Casts to float32, and makes float32 tensors, in its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        third = torch.full((1,), 1 / 3) + torch.zeros(1, dtype=torch.float32)
        return torch.einsum("ncl,c->n", x.float() * third, (self.weight + self.weight.flip(0)))


def test_casts_to_float32_are_widened() -> None:
    report = check_equivariance(HardCoded(), EXAMPLE)
    assert report.dtype == torch.float64
    assert report.error < 1e-14
    assert torch.get_default_dtype() == torch.float32


def test_models_that_only_run_in_float32_are_checked_in_float32() -> None:
    class Checked(HardCoded):
        def forward(self, x: Tensor) -> Tensor:
            if self.weight.dtype == torch.float64:
                raise RuntimeError("not implemented for 'Double'")
            return super().forward(x)

    report = check_equivariance(Checked(), EXAMPLE)
    assert report.dtype == torch.float32
    assert report
    assert report.tolerance == 1e-3


def test_tokens_are_drawn_and_mapped() -> None:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(36, 1))
    vocabulary = Tokens("ACGTN")
    assert not check_equivariance(model, torch.zeros(2, 12, dtype=torch.long), inputs=vocabulary)
    with torch.no_grad():
        model[0].weight[3], model[0].weight[2] = model[0].weight[0], model[0].weight[1]
        model[2].weight.copy_((w := model[2].weight.reshape(12, 3)).add(w.flip(0)).reshape(1, 36))
    assert check_equivariance(model, torch.zeros(2, 12, dtype=torch.long), inputs=vocabulary)


def test_outputs_that_ignore_the_sequence_do_not_pass() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.bias.expand(len(x), 3)

    spec = OneHot("ACGT")
    found = verify(Constant(), EXAMPLE, [spec], [spec.action(EXAMPLE.shape)], [Action((batch(2), trivial(3)))])
    assert found.error == 0
    assert not found.passed


def test_the_model_is_left_alone() -> None:
    model = nn.Sequential(nn.Conv1d(4, 3, 5), nn.BatchNorm1d(3), nn.Dropout(0.5)).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    check_equivariance(model, EXAMPLE)
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.items())
    assert torch.equal(state, torch.get_rng_state())
    assert all(m.training for m in model.modules())


def test_logarithms_of_tracks_and_undefined_outputs() -> None:
    class Counts(nn.Module):
        def __init__(self, shift: float) -> None:
            super().__init__()
            self.conv, self.shift = nn.Conv1d(4, 2, 5), shift

        def forward(self, x: Tensor, control: Tensor) -> Tensor:
            return self.conv(x).mean(-1) + torch.log(control.sum(-1) + self.shift)

    example = (torch.zeros(2, 4, 31), torch.zeros(2, 2, 31))
    how = {"inputs": ("ACGT", "+-"), "outputs": "+-"}
    assert not plan_conversion(Counts(1.0), example, **how).problems
    (problem,) = plan_conversion(Counts(-1e9), example, **how).problems
    assert isinstance(problem, VerificationError)
    assert "infinite or undefined" in str(problem)
