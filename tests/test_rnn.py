"""Recurrent layers, whole: read-outs, and the life of a reverse direction that is the forward one's mirror image."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from lawful import assert_exact
from oracle import assert_law
from tiers import chosen, some
from torch import Tensor, nn

from rcps_convert import (
    BreaksSymmetryError,
    ConversionError,
    ConversionPlan,
    NoRuleError,
    TraceError,
    Tracks,
    bake,
    convert_model,
    load_plain_state_dict,
    plan_conversion,
)
from rcps_convert.tie.attaching import mirrored, ties
from rcps_convert.tie.ties import MirrorTie

TOLERANCE = 1e-10
"""Relative error in float64."""

EXAMPLE = torch.zeros(2, 4, 24)


class Recurrent(nn.Module):
    """A convolution, a bidirectional layer with batch first, a read-out of its results, a linear layer."""

    def __init__(self, layer: nn.Module, read: Callable[..., Tensor] | None = None) -> None:
        super().__init__()
        self.conv, self.rnn, self.read = nn.Conv1d(4, 6, 3), layer, read
        self.out = nn.LazyLinear(1)

    def forward(self, x: Tensor) -> Tensor:
        y, state = self.rnn(torch.relu(self.conv(x)).mT)
        return self.out(y.mean(1) if self.read is None else self.read(y, state[0] if type(state) is tuple else state))


def recurrent(layer: nn.Module | None = None, read: Callable[..., Tensor] | None = None, *, seed: int = 0) -> Recurrent:
    torch.manual_seed(seed)
    model = Recurrent(layer or nn.LSTM(6, 5, bidirectional=True, batch_first=True), read)
    for module in model.modules():
        if isinstance(module, nn.RNNBase):
            module.reset_parameters()
    model(EXAMPLE)
    return model


@functools.cache
def plan_of() -> ConversionPlan:
    """Of the model that most tests begin with."""
    plan = plan_conversion(recurrent(), EXAMPLE)
    assert not plan.problems, str(plan)
    return plan


def tied(seed: int = 0) -> Any:
    return plan_of().apply(recurrent(seed=seed))


def exact(model: nn.Module, example: Tensor = EXAMPLE, **how: Any) -> None:
    """As it is: after training, or baked."""
    assert_law(model, example, **{"outputs": "invariant", **how}, tolerance=TOLERANCE, randomise=False)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, shape: tuple[int, ...] = (4, 4, 24)) -> None:
    optimizer.zero_grad()
    model.train()(torch.randn(shape)).square().mean().backward()
    optimizer.step()


# --- every kind of layer ----------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=5, deadline=None)
@given(st.data())
def test_any_bidirectional_layer(data: st.DataObject) -> None:
    """Kind, sizes, layers, projection, biases, order of axes: exact, half the parameters, the same class baked."""
    kind = data.draw(st.sampled_from(["LSTM", "GRU", "tanh", "relu"]))
    size, layers = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 3))
    how: dict[str, Any] = {"bias": data.draw(st.booleans()), "dropout": 0.2 if layers > 1 else 0.0}
    if kind == "LSTM" and size > 1:
        how["proj_size"] = data.draw(st.integers(0, size - 1))
    if kind in ("tanh", "relu"):
        how["nonlinearity"] = kind
    how["bias"] |= kind == "relu"  # below it keeps the units from being dead
    first = data.draw(st.booleans())
    channels = data.draw(st.integers(1, 5))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(4, channels, 3)
            layer = getattr(nn, kind, nn.RNN)
            self.rnn = layer(channels, size, layers, batch_first=first, bidirectional=True, **how)
            self.out = nn.LazyLinear(1)

        def forward(self, x: Tensor) -> Tensor:
            y, _ = self.rnn(torch.relu(self.conv(x)).permute(*((0, 2, 1) if first else (2, 0, 1))))
            return self.out(y.mean(1 if first else 0))

    torch.manual_seed(0)
    model = Model()
    with torch.no_grad():
        for name, weight in model.rnn.named_parameters():
            if kind == "relu" and name.startswith("bias"):
                weight.fill_(1.0)
    model(torch.zeros(2, 4, 12))
    plan = plan_conversion(model, torch.zeros(2, 4, 12))
    assert not plan.problems, str(plan)
    assert plan.verification is not None
    assert plan.verification.error < TOLERANCE
    rows = [r for r in plan.parameters if "rnn" in r.names[0]]
    assert sum(torch.Size(r.stored).numel() for r in rows) == sum(p.numel() for p in model.rnn.parameters()) // 2
    baked = bake(plan.apply(model))
    exact(baked, torch.zeros(2, 4, 12))
    assert [(n, p.shape) for n, p in baked.named_parameters()] == [(n, p.shape) for n, p in model.named_parameters()]


# --- read-outs --------------------------------------------------------------------------------------

READS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "every position": lambda y, h: y.flatten(1),
    "final states": lambda y, h: h.permute(1, 0, 2).flatten(1),
    "final states of the last layer": lambda y, h: h.view(-1, 2, *h.shape[1:])[-1].transpose(0, 1).reshape(len(y), -1),
    "sum of final states": lambda y, h: h.sum(0),
    "sum of directions": lambda y, h: y.view(*y.shape[:2], 2, -1).sum(2).amax(1),
    "both final states, one after the other": lambda y, h: torch.cat([h[-2], h[-1]], 1),
    "each direction where it ends": lambda y, h: torch.cat([y[:, -1, :4], y[:, 0, 4:]], 1),
    "halves added": lambda y, h: (y[..., :4] + y[..., 4:]).amax(1),
    "attention pooling": lambda y, h: (y * F.softmax(y.sum(-1, keepdim=True), 1)).sum(1),
    "layer norm": lambda y, h: F.layer_norm(y, y.shape[-1:]).amax(1),
}


class ReadOuts(nn.Module):
    """Each read-out through a linear layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.rnn = nn.Conv1d(4, 6, 3), nn.GRU(6, 4, 2, bidirectional=True, batch_first=True)
        self.outs = nn.ModuleDict({name: nn.LazyLinear(1) for name in READS})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y, state = self.rnn(torch.relu(self.conv(x)).mT)
        return {name: out(READS[name](y, state)) for name, out in self.outs.items()}


def test_read_outs() -> None:
    torch.manual_seed(0)
    model = ReadOuts()
    model(EXAMPLE)
    converted = convert_model(model, EXAMPLE, verify=False)
    assert_law(converted, EXAMPLE, outputs=dict.fromkeys(READS, "invariant"), tolerance=TOLERANCE)


def test_states_as_outputs_swap_their_directions() -> None:
    class States(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.LSTM(4, 3, 2, bidirectional=True, batch_first=True)

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            y, (h, c) = self.rnn(x)
            return y, h.transpose(0, 1), c.transpose(0, 1)

    states = Tracks("+-+-", layout="n c f")
    how = {"outputs": ("+++---", states, states), "layout": "n l c"}
    converted = convert_model(States(), torch.zeros(2, 9, 4), **how, verify=False).double()
    x = torch.randn(3, 9, 4, dtype=torch.float64)
    y, h, c = converted(x)
    ry, rh, rc = converted(x.flip(1, 2))
    torch.testing.assert_close(ry, y.flip(1).roll(3, -1), rtol=0, atol=1e-12)
    for one, other in ((h, rh), (c, rc)):
        torch.testing.assert_close(other, one[:, [1, 0, 3, 2]], rtol=0, atol=1e-12)


def test_batch_norm_of_the_directions_is_a_view() -> None:
    """The hidden units stay as they are where only the directions matter, so the two halves are plain ones."""

    class Normed(Recurrent):
        def __init__(self) -> None:
            super().__init__(nn.LSTM(6, 5, bidirectional=True, batch_first=True))
            self.norm = nn.BatchNorm1d(10)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.norm(self.rnn(torch.relu(self.conv(x)).mT)[0].mT).amax(-1))

    model = Normed()
    model(torch.randn(2, 4, 24))
    (shared,) = plan_conversion(model, EXAMPLE, verify=False).norms
    assert shared.folds


# --- the plan, and what is stored -----------------------------------------------------------------


def test_the_plan_says_what_is_computed_from_what() -> None:
    plan = plan_of()
    words = {r.names[0]: r.words()[2:] for r in plan.parameters}
    assert words["rnn.weight_ih_l0_reverse"] == ("mirror image of rnn.weight_ih_l0: 20 fixed, 3 pairs", "0")
    assert words["rnn.weight_ih_l0"] == ("swaps with rnn.weight_ih_l0_reverse: 20 fixed, 3 pairs", "free")
    assert "mirror image of rnn.bias_hh_l0" in str(plan)
    assert "mirror image of rnn.bias_hh_l0" in plan._repr_html_()


def test_reverse_weights_are_the_forward_ones_with_permuted_columns() -> None:
    model = recurrent()
    converted = plan_of().apply(model)
    forward, reverse = converted.rnn.weight_ih_l0, converted.rnn.weight_ih_l0_reverse
    assert torch.equal(forward, model.rnn.weight_ih_l0)
    assert torch.equal(reverse, forward[:, [3, 4, 5, 0, 1, 2]])
    assert torch.equal(converted.rnn.bias_hh_l0, converted.rnn.bias_hh_l0_reverse)
    images = mirrored(converted)
    assert {k: v[0] for k, v in images.items()} == {
        f"rnn.{n}_l0": f"rnn.{n}_l0_reverse" for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    }
    assert all(converted.state_dict()[f"rnn.parametrizations.{n}_l0_reverse.original"].numel() == 0
               for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))  # fmt: skip


def test_projection_averages_the_directions() -> None:
    model = recurrent()
    converted = convert_model(model, EXAMPLE, init="project", verify=False)
    mean = (model.rnn.weight_ih_l0 + model.rnn.weight_ih_l0_reverse[:, [3, 4, 5, 0, 1, 2]]) / 2
    torch.testing.assert_close(converted.rnn.weight_ih_l0, mean, rtol=0, atol=1e-7)
    again = convert_model(bake(converted), EXAMPLE, init="project", verify=False)
    x = torch.randn(2, 4, 24)
    torch.testing.assert_close(again.eval()(x), converted.eval()(x), rtol=0, atol=1e-6)


# --- the life of a mirror tie -----------------------------------------------------------------------


def test_train_copy_save_and_bake(tmp_path: Path) -> None:
    converted = tied()
    optimizer = torch.optim.AdamW(converted.parameters(), lr=0.05)
    for _ in range(3):
        step(converted, optimizer)
    exact(converted)
    x = torch.randn(3, 4, 24)
    expected = converted.eval()(x)
    twin = copy.deepcopy(converted)  # after a forward whose weights carry gradients
    assert torch.equal(twin(x), expected)
    with torch.no_grad():
        twin.rnn.weight_hh_l0.add_(1.0)
    assert torch.equal(converted(x), expected)
    assert not torch.equal(twin(x), expected)
    assert torch.equal(twin.rnn.weight_hh_l0_reverse, twin.rnn.weight_hh_l0)
    exact(copy.deepcopy(converted.double()).float())
    converted.float()
    torch.save(converted.state_dict(), tmp_path / "tied.pt")
    other = tied(7).eval()
    other.load_state_dict(torch.load(tmp_path / "tied.pt"))
    torch.testing.assert_close(other(x), expected, rtol=0, atol=1e-6)
    baked = bake(converted)
    assert type(baked.rnn) is nn.LSTM
    torch.save(baked, tmp_path / "whole.pt")
    plain = recurrent(seed=3).eval()
    plain.load_state_dict(baked.state_dict(), strict=True)
    torch.testing.assert_close(plain(x), expected, rtol=0, atol=1e-6)
    baked.rnn.weight_hh_l0.data.zero_()  # a baked layer reads its own parameters
    assert not torch.allclose(baked(x), expected)


def test_optimizer_built_before_conversion() -> None:
    model = recurrent()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    own = [id(p) for p in model.parameters()]
    converted = convert_model(model, EXAMPLE, in_place=True, verify=False)
    assert {id(p) for p in converted.parameters()} == set(own)
    before = {n: p.detach().clone() for n, p in converted.named_parameters() if p.numel()}
    step(converted, optimizer)
    assert all(not torch.equal(p, before[n]) for n, p in converted.named_parameters() if p.numel())
    assert all(p.grad is not None for p in converted.parameters())
    exact(converted)
    assert [id(p) for p in bake(converted, in_place=True).parameters()] == own
    exact(converted)


def test_empty_parameters_among_the_others() -> None:
    """Initialisers, averages, groups by dimension and clipping take the parameter of a weight that is computed."""
    converted = tied()
    for name, p in converted.rnn.named_parameters():
        assert p.dim() == (1 if "bias" in name else 2)
        if p.numel():
            (nn.init.orthogonal_ if p.dim() > 1 else nn.init.ones_)(p)
        elif p.dim() > 1:
            assert nn.init.orthogonal_(p) is p
    exact(converted)
    average = torch.optim.swa_utils.AveragedModel(converted, use_buffers=True)
    for foreach in (False, True):
        optimizer = torch.optim.AdamW(converted.parameters(), lr=0.05, foreach=foreach)
        step(converted, optimizer)
        nn.utils.clip_grad_norm_(converted.parameters(), 1.0)
        average.update_parameters(converted)
    exact(average.module)


def test_the_gradient_is_that_of_both_directions() -> None:
    converted = tied().double()
    plain = bake(converted)
    x = torch.randn(3, 4, 24, dtype=torch.float64)
    converted(x).sum().backward()
    plain(x).sum().backward()
    both = plain.rnn.weight_hh_l0.grad + plain.rnn.weight_hh_l0_reverse.grad
    torch.testing.assert_close(converted.rnn.weight_hh_l0.grad, both, rtol=0, atol=1e-12)


@pytest.mark.parametrize("init", some(["keep", "project"], 1))
def test_plain_checkpoint(init: str) -> None:
    plain = recurrent(seed=1)
    converted = tied(2)
    load_plain_state_dict(converted, plain.state_dict(), init=init)
    expected = convert_model(plain, EXAMPLE, init=init, verify=False)
    x = torch.randn(2, 4, 24)
    torch.testing.assert_close(converted.eval()(x), expected.eval()(x), rtol=0, atol=1e-6)
    before = copy.deepcopy(converted.state_dict())
    load_plain_state_dict(converted, bake(converted).state_dict(), init=init)
    for key, value in converted.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=1e-6, atol=1e-7)


def test_functional_call_sees_the_given_weights() -> None:
    converted = tied().eval()
    x = torch.randn(2, 4, 24)
    halved = {n: p.detach() / 2 for n, p in converted.named_parameters()}
    called = torch.func.functional_call(converted, halved, (x,))
    other = copy.deepcopy(converted)
    other.load_state_dict({**other.state_dict(), **halved})
    torch.testing.assert_close(called, other(x), rtol=0, atol=1e-6)


@pytest.mark.slow
def test_compiles_and_exports() -> None:
    converted = tied().eval()
    x = torch.randn(2, 4, 24)
    program = torch.export.export(converted, (x,), strict=False)
    torch.testing.assert_close(program.module()(x), converted(x), rtol=0, atol=1e-6)
    compiled = torch.compile(converted, backend="aot_eager")
    torch.testing.assert_close(compiled(x), converted(x), rtol=0, atol=1e-6)


class Twice(nn.Module):
    """One layer called twice, its weights also those of another layer; a frozen layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.GRU(4, 4, bidirectional=True, batch_first=True) for _ in range(2))
        for name, _ in list(self.a.named_parameters()):
            setattr(self.b, name, getattr(self.a, name))
        self.frozen = nn.GRU(8, 4, bidirectional=True, batch_first=True).requires_grad_(False)
        self.out = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x.mT)[0] + self.a(x.mT.flip(1))[0] + self.b(2 * x.mT)[0]
        return self.out(self.frozen(h)[0].amax(1))


def test_shared_called_twice_and_frozen() -> None:
    torch.manual_seed(0)
    converted = convert_model(Twice(), EXAMPLE, verify=False)
    step(converted, torch.optim.SGD(converted.parameters(), lr=0.1))
    exact(converted)
    assert converted.a.weight_hh_l0 is converted.b.weight_hh_l0
    assert not converted.frozen.weight_hh_l0.requires_grad
    assert not any(p.requires_grad for p in converted.frozen.parameters())
    baked = bake(converted)
    assert baked.a.weight_hh_l0_reverse is baked.b.weight_hh_l0_reverse
    exact(baked)


def test_both_directions_may_share_their_weights() -> None:
    """A weight of both directions is its own mirror image."""
    model = recurrent()
    for name, _ in list(model.rnn.named_parameters()):
        if name.endswith("_reverse"):
            setattr(model.rnn, name, getattr(model.rnn, name.removesuffix("_reverse")))
    converted = convert_model(model, EXAMPLE, verify=False)
    assert not any(isinstance(tie, MirrorTie) for *_, tie in ties(converted))
    step(converted, torch.optim.SGD(converted.parameters(), lr=0.1))
    exact(converted)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("name", some(["weight_ih_l0", "weight_hh_l0"], 1))
def test_weights_computed_alike_in_both_directions(name: str) -> None:
    model = recurrent()
    for suffix in ("", "_reverse"):
        nn.utils.parametrizations.weight_norm(model.rnn, name + suffix)
    converted = convert_model(model, EXAMPLE, verify=False)
    step(converted, torch.optim.SGD(converted.parameters(), lr=0.1))
    exact(converted)
    copy.deepcopy(converted)
    baked = bake(converted)
    assert baked.state_dict().keys() == model.state_dict().keys()
    exact(baked)


# --- refusals ---------------------------------------------------------------------------------------


class OneWay(nn.GRU):
    """Reads in one direction."""


def lstm(**how: Any) -> nn.Module:
    return nn.LSTM(6, 5, **{"bidirectional": True, "batch_first": True, **how})


REFUSED: dict[str, tuple[nn.Module, Callable[..., Tensor] | None, type[ConversionError], str]] = {
    "one direction": (lstm(bidirectional=False), None, BreaksSymmetryError, "one direction only | on_unsupported="),
    "over the batch": (
        *(lstm(batch_first=False), None, BreaksSymmetryError),
        "runs over the samples of the batch | set batch_first=True",
    ),
    "last time step": (
        *(lstm(), lambda y, h: y[:, -1], BreaksSymmetryError),
        "the last position becomes the first | final state h_n",
    ),
    "last state": (
        *(lstm(), lambda y, h: h[-1], BreaksSymmetryError),
        "separates entries that reverse complement swaps | both directions",
    ),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_refused(case: tuple[nn.Module, Callable[..., Tensor] | None, type[ConversionError], str]) -> None:
    layer, read, error, say = case
    model = recurrent(layer, read)
    before, weights = copy.deepcopy(model.state_dict()), [id(w) for w in model.rnn._flat_weights]
    with pytest.raises(error) as caught:
        convert_model(model, EXAMPLE, in_place=True)
    assert caught.value.where is not None
    for phrase in say.split(" | "):
        assert phrase in str(caught.value)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert [id(w) for w in model.rnn._flat_weights] == weights


def test_one_direction_on_both_strands() -> None:
    plan = plan_conversion(recurrent(lstm(bidirectional=False)), EXAMPLE, on_unsupported="both_strands")
    assert [s.path for s in plan.symmetrisers] == ["rnn"]
    exact(plan.apply(recurrent(lstm(bidirectional=False))))


class Borrowing(Recurrent):
    """Its forward reads the weight of one direction by itself."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + F.linear(self.conv(x).mean(-1), self.rnn.weight_ih_l0).mean(-1, keepdim=True)


class Scaled(Recurrent):
    """The weights of the two directions are computed in different ways."""

    def weights(self) -> list[Tensor]:
        return [getattr(self.rnn, n) for n in self.rnn._flat_weights_names]

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.conv(x)).mT
        weights = [w * 2 if i == 0 else w for i, w in enumerate(self.weights())]
        zero = h.new_zeros(2, len(x), 5)
        return self.out(torch.lstm(h, (zero, zero), weights, True, 1, 0.0, False, True, True)[0].mean(1))


class Constant(Scaled):
    """The weights are no parameters, and those of one direction are not those of the other."""

    def constants(self) -> list[Tensor]:
        return [torch.full_like(w, 0.1 * i) for i, w in enumerate(self.weights())]

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.conv(x)).mT
        weights, zero = self.constants(), h.new_zeros(2, len(x), 5)
        return self.out(torch.lstm(h, (zero, zero), weights, True, 1, 0.0, False, True, True)[0].mean(1))


@pytest.mark.parametrize(
    ("kind", "error", "say"),
    chosen(
        [
            (Borrowing, BreaksSymmetryError, "linear reads the weight of one direction alone"),
            (Scaled, NoRuleError, "computed in different ways"),
            (Constant, NoRuleError, "reads a weight that is a constant"),
        ],
        lambda case: case[0] is not Constant,
    ),
)
def test_weights_that_cannot_be_mirror_images(kind: type[Recurrent], error: type[ConversionError], say: str) -> None:
    model = kind(nn.LSTM(6, 5, bidirectional=True, batch_first=True))
    with torch.no_grad():
        model(EXAMPLE)
    with pytest.raises(error, match=say):
        convert_model(model, EXAMPLE)


class Alike(Constant):
    """Both directions have the same constant weights: each is the mirror image of the other."""

    def constants(self) -> list[Tensor]:
        return [torch.full_like(w, 0.3) for w in self.weights()]


def test_constant_weights_that_are_mirror_images() -> None:
    model = Alike(nn.LSTM(6, 5, bidirectional=True, batch_first=True))
    with torch.no_grad():
        model(EXAMPLE)
    exact(convert_model(model, EXAMPLE, verify=False))


class Packed(Recurrent):
    """Reads sequences of different lengths."""

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        h = torch.relu(self.conv(x)).mT
        packed = nn.utils.rnn.pack_padded_sequence(h, lengths, batch_first=True)
        y, _ = nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)  # here
        return self.out(y.mean(1))


def test_packed_sequences_are_refused_where_they_are_read() -> None:
    model = Packed(nn.LSTM(6, 5, bidirectional=True, batch_first=True))
    example = (EXAMPLE, torch.tensor([22, 9]))
    model(*example)
    with pytest.raises(TraceError, match="a packed sequence cannot be traced") as caught:
        convert_model(model, example, inputs=("ACGT", "invariant"))
    source, start = inspect.getsourcelines(Packed)
    line = start + next(i for i, text in enumerate(source) if "# here" in text)
    assert caught.value.where is not None
    assert str(caught.value.where.source).endswith(f"test_rnn.py:{line}")
    assert 'in a submodule of its own and pass on_unsupported="both_strands"' in str(caught.value.do)
    assert 'strategy="conjoined"' in str(caught.value.do)


class PackedInside(nn.GRU):
    """A layer that packs sequences of one length itself."""

    def forward(self, h: Tensor) -> Tensor:  # type: ignore[override]
        packed = nn.utils.rnn.pack_padded_sequence(h, [h.shape[1]] * len(h), batch_first=True)
        return nn.utils.rnn.pad_packed_sequence(super().forward(packed)[0], batch_first=True)[0]


class HoldsPacked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv1d(4, 6, 3, padding=1), nn.Linear(10, 2)
        self.rnn = PackedInside(6, 5, bidirectional=True, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(torch.relu(self.conv(x)).mT).mean(1))


@pytest.mark.parametrize("how", some([{"on_unsupported": "both_strands"}, {"strategy": "conjoined"}], 1))
def test_packed_sequences_of_one_length_have_a_way_out(how: dict[str, Any]) -> None:
    example = torch.zeros(2, 4, 12)
    assert_exact(convert_model(HoldsPacked(), example, verify=False, **how), example, lengths=(12, 15), modes=("eval",))


def test_a_weight_has_one_partner() -> None:
    model = Twice()
    model.b.weight_hh_l0_reverse = nn.Parameter(torch.randn(12, 4))
    with pytest.raises(BreaksSymmetryError, match="paired with another weight"):
        convert_model(model, EXAMPLE)
