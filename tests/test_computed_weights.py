"""Weights that are computed in forward, by a hook, or by a parametrization: products, norms, masks, layouts."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracle import assert_law
from tiers import slow, some
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from rcps_convert import (
    BreaksSymmetryError,
    ConversionError,
    NoRuleError,
    bake,
    convert_model,
    plan_conversion,
)

TOLERANCE = 1e-10
"""Relative error in float64."""

EXAMPLE = torch.zeros(2, 4, 20)

pytestmark = pytest.mark.filterwarnings("ignore:.*(weight|spectral)_norm.*:FutureWarning")


class Step(nn.Module):
    """A function of hidden channels (N, 8, L) and of parameters of its own."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor], **shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.function = function
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.randn(shape) / 2))

    def forward(self, h: Tensor) -> Tensor:
        return self.function(self, h)


class Masked(nn.Conv1d):
    """A convolution with some taps left out."""

    def __init__(self, taps: list[float]) -> None:
        super().__init__(8, 6, len(taps))
        self.register_buffer("mask", torch.tensor(taps))

    def forward(self, h: Tensor) -> Tensor:
        return F.conv1d(h, self.weight * self.mask, self.bias)


class Centred(nn.Module):
    """A parametrization of a user's own."""

    def forward(self, w: Tensor) -> Tensor:
        return w - w.mean()


class Listed(nn.Module):
    """Parameters in a list and in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels = nn.ParameterList([torch.randn(8, 8, 3) / 4, torch.randn(6, 8, 3) / 4])
        self.named = nn.ParameterDict({"bias": torch.randn(6)})

    def forward(self, h: Tensor) -> Tensor:
        return F.conv1d(F.conv1d(h, self.kernels[0]), self.kernels[1], self.named["bias"])


def conv() -> nn.Conv1d:
    return nn.Conv1d(8, 6, 3)


def own() -> nn.Module:
    parametrize.register_parametrization(module := conv(), "weight", Centred())
    return module


W, LINEAR = (6, 8, 3), (6, 8)

STEPS: dict[str, dict[str, Callable[[], nn.Module]]] = {
    "pointwise": {
        "scaled": lambda: Step(lambda s, h: F.conv1d(h, s.w * s.g), w=W, g=(1,)),
        "scaled per filter": lambda: Step(lambda s, h: F.conv1d(h, s.w * s.g[:, None, None]), w=W, g=(6,)),
        "absolute": lambda: Step(lambda s, h: F.conv1d(h, s.w.abs()), w=W),
        "positive": lambda: Step(lambda s, h: F.conv1d(h, F.softplus(s.w)), w=W),
        "probabilities": lambda: Step(lambda s, h: F.conv1d(h, s.w.softmax(1)), w=W),
        "clamped": lambda: Step(lambda s, h: F.conv1d(h, s.w.clamp(-0.5, 0.5)), w=W),
        "masked": lambda: Masked([1.0, 0.0, 1.0]),
        "pruned": lambda: prune.custom_from_mask(conv(), "weight", torch.tensor([1.0, 0.0, 1.0]).expand(W)),
        "weights dropped": lambda: Step(lambda s, h: F.conv1d(h, F.dropout(s.w, 0.2, s.training)), w=W),
        "frozen": lambda: conv().requires_grad_(False),
        "a gaussian": lambda: Step(
            lambda s, h: F.conv1d(h, (-(s.w**2) * torch.arange(-2.0, 3.0).to(h) ** 2).exp(), groups=8), w=(8, 1, 1)
        ),
    },
    "layouts": {
        "transposed": lambda: Step(lambda s, h: F.conv1d(h, s.w.transpose(0, 1)), w=(8, 6, 3)),
        "reshaped": lambda: Step(lambda s, h: F.conv1d(h, s.w.view(W)), w=(6, 24)),
        "a vector": lambda: Step(lambda s, h: F.conv1d(h, s.w.view(W)), w=(144,)),
        "reversed": lambda: Step(lambda s, h: F.conv1d(h, s.w.flip(-1)), w=W),
        "its own mirror image": lambda: Step(lambda s, h: F.conv1d(h, s.w + s.w.flip(-1)), w=W),
        "slices": lambda: Step(lambda s, h: F.conv1d(h, s.w[:4]) * F.conv1d(h, s.w[4:]), w=(8, 8, 3)),
        "part of the taps": lambda: Step(lambda s, h: F.conv1d(h, s.w[..., 1:-1]), w=(6, 8, 5)),
        "joined": lambda: Step(lambda s, h: F.conv1d(h, torch.cat([s.a, s.b])), a=(4, 8, 3), b=(2, 8, 3)),
        "shared by two layouts": lambda: Step(
            lambda s, h: F.linear(F.conv1d(h, s.w[:, :, None]).mT, s.w.t()).mT, w=LINEAR
        ),
        "shared by encoder and decoder": lambda: Step(
            lambda s, h: F.conv_transpose1d(F.conv1d(h, s.w).relu(), s.w), w=W
        ),
        "lists": Listed,
    },
    "products": {
        "low-rank update": lambda: Step(
            lambda s, h: F.conv1d(h, s.w + 0.5 * (s.b @ s.a).view(W)), w=W, a=(2, 24), b=(6, 2)
        ),
        "low rank": lambda: Step(
            lambda s, h: F.conv1d(h, torch.einsum("or,ri,rk->oik", s.o, s.i, s.k)), o=(6, 4), i=(4, 8), k=(4, 3)
        ),
        "Kronecker": lambda: Step(lambda s, h: F.linear(h.mT, torch.kron(s.a, s.b)).mT, a=(3, 2), b=(2, 4)),
        "from a hypernetwork": lambda: Step(
            lambda s, h: F.conv1d(h, F.linear(s.z, s.m).tanh().view(W)), z=(5,), m=(144, 5)
        ),
        "from the sequence": lambda: Step(
            lambda s, h: torch.einsum("ncl,nco->nol", h, F.linear(h.mean(-1), s.m).view(-1, 8, 6)), m=(48, 8)
        ),
        "mixture": lambda: Step(
            lambda s, h: F.conv1d(h, torch.einsum("e,eoik->oik", s.a.softmax(0), s.e)), a=(3,), e=(3, *W)
        ),
        "symmetric": lambda: Step(lambda s, h: F.linear(h.mT, s.w + s.w.t()).mT, w=(8, 8)),
        "rotation": lambda: Step(lambda s, h: F.linear(h.mT, torch.matrix_exp(s.w - s.w.t())).mT, w=(8, 8)),
    },
    "norms": {
        "weight norm by hook": lambda: nn.utils.weight_norm(conv()),
        "weight norm by hook, of the whole": lambda: nn.utils.weight_norm(conv(), dim=None),
        "weight norm": lambda: parametrizations.weight_norm(conv()),
        "spectral norm by hook": lambda: nn.utils.spectral_norm(conv()),
        "spectral norm": lambda: parametrizations.spectral_norm(conv()),
        "the user's own": own,
        "standardised": lambda: Step(
            lambda s, h: F.conv1d(h, (s.w - s.w.mean((1, 2), True)) / (s.w.std((1, 2), keepdim=True) + 1e-5)), w=W
        ),
        "standardised by batch norm": lambda: Step(
            lambda s, h: F.conv1d(h, F.batch_norm(s.w.view(1, 6, 24), None, None, s.g, training=True).view(W)),
            **{"w": W, "g": (6,)},
        ),
        "of unit length": lambda: Step(
            lambda s, h: F.conv1d(h, s.g * F.normalize(s.w.flatten(1)).view(W)), w=W, g=(1,)
        ),
        "by its largest singular value": lambda: Step(
            lambda s, h: F.linear(h.mT, s.w / torch.linalg.svdvals(s.w)[0]).mT, w=LINEAR
        ),
    },
}  # fmt: skip


class Parallel(nn.Module):
    """A stem, several steps side by side, a linear layer after each."""

    def __init__(self, steps: dict[str, nn.Module]) -> None:
        super().__init__()
        self.stem = nn.Conv1d(4, 8, 5, padding=2)
        self.names, self.steps = list(steps), nn.ModuleList(steps.values())
        self.outs = nn.ModuleList(nn.LazyLinear(1) for _ in steps)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = torch.relu(self.stem(x))
        pairs = zip(self.names, self.steps, self.outs, strict=True)
        return {name: out(torch.relu(step(h)).mean(-1)) for name, step, out in pairs}


def parallel(steps: dict[str, Callable[[], nn.Module]], seed: int = 0) -> Parallel:
    torch.manual_seed(seed)
    model = Parallel({name: make() for name, make in steps.items()})
    model(torch.randn(2, 4, 20))
    return model


def exact(model: Parallel) -> None:
    assert_law(model, EXAMPLE, outputs="invariant", tolerance=TOLERANCE, randomise=False)


@pytest.mark.parametrize("kind", some(STEPS, 1))
def test_exact_as_converted_after_training_and_baked(kind: str) -> None:
    model = parallel(STEPS[kind])
    x = torch.randn(3, 4, 20)
    expected, keys = model.eval()(x), list(model.state_dict())
    plan = plan_conversion(model, EXAMPLE)
    assert not plan.problems, str(plan)
    assert plan.verification is not None
    assert plan.verification.modes == "train and eval mode"
    assert plan.verification.error < TOLERANCE
    assert plan.after < 0.55 * plan.before
    converted = plan.apply(model)
    assert all(torch.equal(y, expected[name]) for name, y in model(x).items())
    optimizer = torch.optim.SGD(converted.parameters(), lr=0.02)
    for _ in range(2):
        optimizer.zero_grad()
        sum(y.square().mean() for y in converted.train()(torch.randn(4, 4, 20)).values()).backward()
        optimizer.step()
    exact(converted)
    twin = copy.deepcopy(converted)
    plain = parallel(STEPS[kind], seed=1)
    assert list(bake(converted).state_dict()) == keys
    plain.load_state_dict(bake(converted).state_dict(), strict=True)
    for name, y in converted.eval()(x).items():
        torch.testing.assert_close(plain.eval()(x)[name], y, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(twin.eval()(x)[name], y, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "wrap", some([nn.utils.spectral_norm, parametrizations.spectral_norm], 1), ids=["hook", "parametrized"]
)
def test_power_iteration_finds_the_norm_of_the_tied_weight(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = parallel({"step": lambda: wrap(conv())})
    converted = convert_model(model, EXAMPLE, verify=False).train()
    with torch.no_grad():
        for _ in range(60):
            converted(torch.randn(2, 4, 20))
    weight = converted.eval().steps[0].weight.detach().flatten(1)
    torch.testing.assert_close(torch.linalg.matrix_norm(weight, 2), torch.tensor(1.0), rtol=0, atol=1e-3)
    exact(converted)


def test_a_penalty_on_the_weights_needs_no_law() -> None:
    """A number computed from the weights is the same on both strands; what only goes into it stays free."""

    class Penalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.rnn = nn.Conv1d(4, 8, 5), nn.GRU(8, 4, bidirectional=True, batch_first=True)
            self.out, self.temperatures = nn.Linear(8, 1), nn.Parameter(torch.rand(6))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.out(self.rnn(self.conv(x).mT)[0].mean(1))
            penalty = self.conv.weight.cumsum(0).square().sum() + self.rnn.weight_hh_l0.abs().max()
            return y / self.temperatures.cumsum(0)[-1], penalty

    plan = plan_conversion(Penalised(), EXAMPLE, verify=False)
    assert not plan.problems, str(plan)
    assert {r.names[0]: r.stored for r in plan.parameters}["temperatures"] == (6,)
    assert_law(plan.apply(Penalised()), EXAMPLE, outputs="invariant", tolerance=TOLERANCE)


# --- refusals ---------------------------------------------------------------------------------------


class ClampedInPlace(nn.Conv1d):
    """Clamps its weight before it uses it."""

    def forward(self, h: Tensor) -> Tensor:
        with torch.no_grad():
            self.weight.view(-1).clamp_(-0.5, 0.5)  # here
        return super().forward(h)


class Tracking(nn.Conv1d):
    """Keeps a running mean of its results."""

    def __init__(self) -> None:
        super().__init__(8, 6, 3)
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, h: Tensor) -> Tensor:
        y = super().forward(h)
        self.mean.mul_(0.9).add_(0.1 * y.detach().mean((0, 2)))
        return y - self.mean[:, None]


class Averaging(nn.Conv1d):
    """Uses a running mean of its weight."""

    def __init__(self) -> None:
        super().__init__(8, 6, 3)
        self.register_buffer("mean", torch.zeros(6, 8, 3))

    def forward(self, h: Tensor) -> Tensor:
        with torch.no_grad():
            torch.add(0.9 * self.mean, 0.1 * self.weight, out=self.mean)
        return F.conv1d(h, self.mean + self.weight)


REFUSED: dict[str, tuple[Callable[[], nn.Module], type[ConversionError], str]] = {
    "parameter changed in place": (
        *(lambda: ClampedInPlace(8, 6, 3), NoRuleError),
        "clamp_ changes the parameter steps.0.weight in forward | would be lost | between training steps",
    ),
    "state of hidden values": (Tracking, NoRuleError, "the buffer steps.0.mean is updated from hidden values"),
    "state of weights": (Averaging, NoRuleError, "the buffer steps.0.mean is updated"),
    "mask of one side": (
        *(lambda: Masked([1.0, 1.0, 0.0]), BreaksSymmetryError),
        "the buffer steps.0.mask is not invariant | symmetrise_buffers=True",
    ),
    "orthogonal": (
        *(lambda: parametrizations.orthogonal(nn.Conv1d(8, 8, 1)), BreaksSymmetryError),
        "the triangle of a matrix | penalise its distance from orthogonality",
    ),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_refused(case: tuple[Callable[[], nn.Module], type[ConversionError], str]) -> None:
    make, error, say = case
    model = parallel({"step": make})
    before, kinds = copy.deepcopy(model.state_dict()), [type(m) for m in model.modules()]
    with pytest.raises(error) as caught:
        convert_model(model, EXAMPLE, in_place=True)
    for phrase in say.split(" | "):
        assert phrase in str(caught.value)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert [type(m) for m in model.modules()] == kinds


def test_an_orthogonal_layer_on_both_strands_stays_orthogonal() -> None:
    """The layer runs twice; the average of two orthogonal weights would not be one."""

    class Rotation(nn.Linear):
        def forward(self, h: Tensor) -> Tensor:
            return super().forward(h.mT).mT

    model = parallel({"step": lambda: parametrizations.orthogonal(Rotation(8, 8))})
    plan = plan_conversion(model, EXAMPLE, on_unsupported="both_strands")
    assert [s.path for s in plan.symmetrisers] == ["steps.0"]
    converted = plan.apply(model)
    weight = converted.steps[0].weight.detach()
    torch.testing.assert_close(weight @ weight.mT, torch.eye(8), rtol=0, atol=1e-5)
    exact(converted)


def test_a_mask_of_one_side_can_be_averaged() -> None:
    model = parallel({"step": lambda: Masked([1.0, 1.0, 0.0])})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its mask is held in float32, and the conversion says so
        converted = convert_model(model, EXAMPLE, symmetrise_buffers=True)
    assert torch.equal(converted.steps[0].mask, torch.tensor([0.5, 1.0, 0.5]))
    exact(converted)


def test_a_hooked_norm_in_place_keeps_its_hook_and_parameters() -> None:
    model = parallel({"step": lambda: nn.utils.weight_norm(conv())})
    own_parameters = {id(p) for p in model.parameters()}
    converted = convert_model(model, EXAMPLE, in_place=True)
    assert {id(p) for p in converted.parameters()} == own_parameters
    exact(converted)
    baked = bake(converted, in_place=True)
    assert type(baked.steps[0]) is nn.Conv1d
    nn.utils.remove_weight_norm(baked.steps[0])
    exact(baked)


class Gabor(nn.Module):
    """Kernels with a learned middle and frequency, computed from positions."""

    def __init__(self) -> None:
        super().__init__()
        self.middle, self.turns = nn.Parameter(torch.randn(8)), nn.Parameter(torch.rand(8))
        self.stem = nn.Conv1d(4, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        places = torch.arange(-3, 4)
        bell = (-((places - self.middle[:, None]) ** 2) / 2).exp()[:, None]
        kernel = bell.mul((places * self.turns[:, None]).cos()[:, None])
        return F.conv1d(self.stem(x).relu(), kernel, groups=8, padding=3).mean(-1)


@slow
def test_a_kernel_that_keeps_its_order_is_refused_with_a_way_out() -> None:
    (problem,) = plan_conversion(Gabor(), EXAMPLE).problems
    assert problem.why == "7 fixed against 7 reversed"
    assert str(problem.do).endswith("is to be its own mirror image, or a parameter")
