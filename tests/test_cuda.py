"""On a GPU: conversion, training and what follows. The oracle judges in float64, with tensors of the CPU."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable, Iterator
from typing import Any, ClassVar
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from oracle import assert_law, randomised
from torch import Tensor, nn

from rcps_convert import (
    TraceError,
    VerificationError,
    accelerate,
    bake,
    check_equivariance,
    convert_model,
    load,
    plan_conversion,
    rc_leaf,
    recalibrate,
    save,
)
from rcps_convert.convert import accelerate as accelerating
from rcps_convert.convert.fast import fused, timing, whole
from rcps_convert.convert.fast.attached import Accelerated
from rcps_convert.convert.fast.backends import backend
from rcps_convert.convert.fast.channels import halves_of
from rcps_convert.convert.fast.product import Product

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")

DEVICE = "cuda"
STRATEGIES = pytest.mark.parametrize("strategy", ["tied", "conjoined", "mixed"])


# --- models ----------------------------------------------------------------------------------------


class Everyday(nn.Module):
    """Convolutions, batch norm, a pool, a dilated residual layer, a linear head."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem, self.norm, self.pool = nn.Conv1d(4, width, 9, padding=4), nn.BatchNorm1d(width), nn.MaxPool1d(4)
        self.deep = nn.Conv1d(width, width, 3, padding=2, dilation=2)
        self.hidden, self.out = nn.Linear(width, 2 * width), nn.Linear(2 * width, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.pool(self.norm(self.stem(x)).relu())
        h = h + self.deep(h).relu()
        return self.out(self.hidden(h.mean(-1)).relu())


class Profile(nn.Module):
    """A stranded profile: even and odd kernels, dilation, a concatenation, an odd number of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv1d(4, 40, 7, padding=3), nn.Conv1d(40, 24, 4, padding=6, dilation=4)
        self.three, self.out = nn.Conv1d(24, 21, 3, padding=1), nn.Conv1d(45, 2, 15, padding=7)

    def forward(self, x: Tensor) -> Tensor:
        h = F.gelu(self.two(self.one(x).tanh()))
        return self.out(torch.cat([h, self.three(h).tanh()], 1))


class Recurrent(nn.Module):
    """A bidirectional LSTM of two layers, read by its mean."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.rnn = nn.Conv1d(4, 8, 5, padding=2), nn.LSTM(8, 6, 2, bidirectional=True, batch_first=True)
        self.out = nn.Linear(12, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(self.conv(x).relu().mT)[0].mean(1))


class Attention(nn.Module):
    """A stock encoder layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.out = nn.Conv1d(4, 32, 5, padding=2), nn.Linear(32, 1)
        self.layer = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layer(self.stem(x).mT).mean(1))


class OnGPU(nn.Module):
    """A model on a GPU, called with and returning tensors of the CPU."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.to(DEVICE)).cpu()


def made(make: Callable[[], nn.Module] = Everyday) -> nn.Module:
    torch.manual_seed(0)
    return make().to(DEVICE)


def dna(*shape: int) -> Tensor:
    return F.one_hot(torch.randint(4, (shape[0], shape[-1])), 4).mT.float().contiguous().to(DEVICE)


def obeys(model: nn.Module, example: Tensor, **how: Any) -> None:
    """As it is: after training, or baked."""
    moved = copy.deepcopy(model).double()
    assert_law(OnGPU(moved), example.cpu(), **{"outputs": "invariant", "randomise": False, **how})


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> float:
    optimizer.zero_grad()
    loss = model(x).float().square().mean()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


# --- conversion ------------------------------------------------------------------------------------


@STRATEGIES
@pytest.mark.parametrize("example", ["a shape", "a tensor"])
def test_a_model_is_converted_where_it_is(strategy: str, example: str) -> None:
    given = (2, 4, 120) if example == "a shape" else dna(2, 4, 120)
    model = convert_model(made(), given, strategy=strategy)
    assert {t.device.type for t in (*model.parameters(), *model.buffers())} == {DEVICE}
    moved = randomised(copy.deepcopy(model).cpu(), torch.zeros(2, 4, 120)).to(DEVICE)
    obeys(moved, torch.zeros(2, 4, 120), lengths=(None, 160))


def test_an_example_on_another_device_is_refused() -> None:
    with pytest.raises(TraceError, match="on the model's device"):
        convert_model(made(), torch.zeros(2, 4, 120))


@pytest.mark.parametrize("length", [97, 101, 118])
def test_re_anchored_pools(length: int) -> None:
    model = convert_model(made(), (2, 4, 101))
    obeys(randomised(model.cpu(), torch.zeros(2, 4, 101)).to(DEVICE), torch.zeros(2, 4, 101), lengths=(length,))


@pytest.mark.parametrize("make", [Recurrent, Attention])
def test_recurrent_layers_and_attention(make: type[nn.Module]) -> None:
    model = convert_model(made(make), (2, 4, 40))
    obeys(randomised(copy.deepcopy(model).cpu(), None).to(DEVICE), torch.zeros(2, 4, 40))
    optimizer = torch.optim.Adam(model.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as: weights are not one piece of memory
        for _ in range(2):
            step(model, optimizer, dna(4, 4, 40))
        with torch.autocast(DEVICE, torch.bfloat16):
            step(model, optimizer, dna(4, 4, 40))
    obeys(model, torch.zeros(2, 4, 40))
    obeys(bake(model), torch.zeros(2, 4, 40))


def tf32() -> tuple[Any, ...]:
    b: Any = torch.backends
    return b.cudnn.conv.fp32_precision, b.cudnn.rnn.fp32_precision, b.cuda.matmul.fp32_precision


class Watched(Everyday):
    """Notes in which precision float32 is multiplied when it runs."""

    seen: ClassVar[set[Any]] = set()

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add("tf32" in tf32())
        return super().forward(x)


@pytest.fixture
def fast_float32() -> Iterator[None]:
    """TF32 for matrices too."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    yield
    torch.set_float32_matmul_precision(before)


def test_tf32_misleads_no_check(fast_float32: None) -> None:
    before = tf32()
    assert before == ("tf32", "tf32", "tf32")
    plan = plan_conversion(made(Watched), (2, 4, 120))
    assert not plan.problems
    assert plan.verification is not None
    assert plan.verification.error < 1e-10
    assert "e-0" in str(plan.verification.own)
    assert {False} == Watched.seen
    model = plan.apply(made(Watched))
    assert tf32() == before
    assert check_equivariance(model, (2, 4, 120)).error < 1e-10
    assert check_equivariance(made(), (2, 4, 120)).error > 1e-2


@rc_leaf("commutes")
class Binned(nn.Module):
    """Weighs positions by bins of their distance from the middle; float32 rounds some to another bin on one side."""

    def forward(self, h: Tensor) -> Tensor:
        n = h.shape[-1]
        at = torch.arange(n, device=h.device, dtype=h.dtype) / (n - 1)
        return h * ((at - 0.5).abs() * 10).floor()


def test_what_only_float32_tears_apart_is_refused_under_tf32(fast_float32: None) -> None:
    pooled = [nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 1)]
    model = nn.Sequential(nn.Conv1d(4, 8, 3, padding=1), Binned(), *pooled).to(DEVICE)
    with pytest.raises(VerificationError, match="own precision"):
        convert_model(model, (2, 4, 16))


# --- training --------------------------------------------------------------------------------------


@STRATEGIES
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_training_in_mixed_precision(strategy: str, dtype: torch.dtype) -> None:
    model = convert_model(made(), (2, 4, 120), strategy=strategy, verify=False)
    optimizer, scaler = torch.optim.Adam(model.parameters(), 1e-2), torch.amp.GradScaler(DEVICE)
    before = [p.detach().clone() for p in model.parameters()]
    for _ in range(4):
        optimizer.zero_grad()
        with torch.autocast(DEVICE, dtype):
            loss = (model(dna(8, 4, 120)).float() - 1).square().mean()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
    assert any(bool((a != b).any()) for a, b in zip(before, model.parameters(), strict=True))
    assert all(bool(p.isfinite().all()) for p in model.parameters())
    obeys(model, torch.zeros(2, 4, 120))


@pytest.mark.parametrize("how", [{"fused": True}, {"capturable": True}, {"foreach": True}])
def test_optimisers_of_gpus(how: dict[str, bool]) -> None:
    model = convert_model(made(), (2, 4, 120), verify=False)
    other = copy.deepcopy(model)
    found, x = [], dna(8, 4, 120)
    for net, kind in ((model, how), (other, {"foreach": False})):
        optimizer = torch.optim.AdamW(net.parameters(), 1e-2, **kind)
        found.append([step(net, optimizer, x) for _ in range(3)])
    assert found[0] == pytest.approx(found[1], rel=1e-2)
    assert found[0][2] < found[0][0]
    obeys(model, torch.zeros(2, 4, 120))


def test_float32_on_both_strands() -> None:
    """Without TF32 a tied model in float32 is as exact on a GPU as elsewhere; with it to its ten bits."""
    model, x = convert_model(made(), (2, 4, 400), verify=False).eval(), dna(8, 4, 400)
    found = {}
    with torch.no_grad():
        for allowed in (True, False):
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=allowed):
                y, other = model(x), model(x.flip(1, 2))
            found[allowed] = float((y - other).abs().max() / y.abs().max())
    assert found[False] < 1e-5
    assert found[True] < 1e-2


def test_a_train_step_takes_little_more_memory_than_the_plain_one() -> None:
    def peak(model: nn.Module) -> int:
        optimizer, x = torch.optim.SGD(model.parameters(), 1e-3), dna(64, 4, 2000)
        step(model, optimizer, x)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(model, optimizer, x)
        return torch.cuda.max_memory_allocated() - before

    plain = made(lambda: Everyday(64))
    tied = convert_model(copy.deepcopy(plain), (2, 4, 2000), verify=False)
    assert peak(tied) <= 1.05 * peak(plain)


def test_data_parallel() -> None:
    model = convert_model(made(), (2, 4, 120), verify=False)
    both, x = nn.DataParallel(model), dna(8, 4, 120)
    model.eval()
    torch.testing.assert_close(both(x), model(x), rtol=0, atol=1e-6)
    step(both, torch.optim.SGD(model.parameters(), 1e-2), x)
    obeys(model, torch.zeros(2, 4, 120))


# --- compilers and graphs --------------------------------------------------------------------------


@pytest.mark.slow
def test_a_compiled_model_trains_and_predicts() -> None:
    model = convert_model(made(), (2, 4, 120), verify=False)
    compiled, x = torch.compile(model), dna(8, 4, 120)
    optimizer = torch.optim.SGD(model.parameters(), 1e-2)
    for _ in range(2):
        step(compiled, optimizer, x)
    obeys(model, torch.zeros(2, 4, 120))
    with torch.no_grad():
        torch.testing.assert_close(compiled.eval()(x), model.eval()(x), rtol=0, atol=1e-3)


@pytest.mark.parametrize("how", ["tied", "baked", "conjoined", "mixed"])
@pytest.mark.parametrize(("length", "width"), [(120, 16), (101, 15)])
def test_captured_in_a_cuda_graph(how: str, length: int, width: int) -> None:
    strategy = "tied" if how == "baked" else how
    model = convert_model(made(lambda: Everyday(width)), (2, 4, length), strategy=strategy, verify=False).eval()
    model = bake(model) if how == "baked" else model
    x, stream = dna(8, 4, length), torch.cuda.Stream()
    with torch.no_grad():
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                model(x)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = model(x)
        x.copy_(dna(8, 4, length))
        graph.replay()
        torch.testing.assert_close(y, model(x), rtol=0, atol=1e-5)
        one = y.clone()
        x.copy_(x.flip(1, 2))
        graph.replay()
        torch.testing.assert_close(y, one, rtol=0, atol=1e-3)


class Images(nn.Module):
    """Sequences as images of one row."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm, self.two = nn.Conv2d(4, 16, (1, 7)), nn.BatchNorm2d(16), nn.Conv2d(16, 8, (1, 3))
        self.out = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.one(x.unsqueeze(2).contiguous(memory_format=torch.channels_last))).relu()
        return self.out(self.two(h).relu().mean((2, 3)))


def test_channels_last() -> None:
    model = convert_model(made(Images).to(memory_format=torch.channels_last), (2, 4, 60)).to(
        memory_format=torch.channels_last
    )
    step(model, torch.optim.SGD(model.parameters(), 1e-2), dna(4, 4, 60))
    obeys(model, torch.zeros(2, 4, 60))


# --- what follows ----------------------------------------------------------------------------------


@STRATEGIES
def test_files_move_between_devices(strategy: str) -> None:
    model = convert_model(made(), (2, 4, 120), strategy=strategy, verify=False).eval()
    x, file = dna(4, 4, 120), io.BytesIO()
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        wanted = model(x)
        save(model, file)
        file.seek(0)
        here = load(file, Everyday()).eval()
        assert {p.device.type for p in here.parameters()} == {"cpu"}
        torch.testing.assert_close(here(x.cpu()), wanted.cpu(), rtol=0, atol=1e-5)
        again = io.BytesIO()
        save(here, again)
        again.seek(0)
        there = load(again, made()).eval()
        torch.testing.assert_close(there(x), wanted, rtol=0, atol=1e-6)
        torch.testing.assert_close(copy.deepcopy(model).cpu()(x.cpu()), wanted.cpu(), rtol=0, atol=1e-5)
        torch.testing.assert_close(bake(model)(x), wanted, rtol=0, atol=1e-5)


def test_trained_models_are_matched_and_recalibrated() -> None:
    model = made()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(3):
        step(model, optimizer, dna(16, 4, 120))
    matched = convert_model(model, (2, 4, 120), init="match", sequences=dna(64, 4, 120))
    obeys(matched, torch.zeros(2, 4, 120))
    recalibrate(matched, [dna(64, 4, 120) for _ in range(2)])
    obeys(matched, torch.zeros(2, 4, 120))
    assert {p.device.type for p in matched.parameters()} == {DEVICE}


# --- half products ---------------------------------------------------------------------------------


def accelerated(model: nn.Module, x: Tensor, way: str = "auto") -> nn.Module:
    """Every layer that can be computed by a backend is computed by it."""

    def measured(*args: Any) -> timing.Times:
        return timing.Times({part: {"stock": 1.0, **dict.fromkeys(args[4], 0.5)} for part in timing.PARTS})

    faster = mock.patch.object(accelerating, "whole_times", return_value=whole.WholeTimes(0.5, 0.5))
    with mock.patch.object(accelerating, "measured", measured), faster:
        return accelerate(model, x, way, verbose=False)


def ways(model: nn.Module) -> set[str]:
    forwards = [m.__dict__.get("forward") for m in model.modules()]
    return {f.choice.ways.words() for f in forwards if isinstance(f, Accelerated)}


def gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Outputs, and gradients of input and parameters of a fixed function of them."""
    x = x.clone().requires_grad_()
    y = model(x)
    loss = (y * (torch.arange(y.numel(), device=y.device).cos() + 0.5).view_as(y)).sum()
    return [y.detach(), *torch.autograd.grad(loss, [x, *(p for p in model.parameters() if p.numel())])]


def assert_close(found: list[Tensor], wanted: list[Tensor], tolerance: float) -> None:
    for a, b in zip(found, wanted, strict=True):
        assert a.shape == b.shape
        assert float((a.double() - b).detach().norm()) <= tolerance * float(b.detach().double().norm())


ALL_TILES = {"FORWARD": fused.FORWARD, "GRADIENT": fused.GRADIENT}

CASES = {
    "everyday": (Everyday, {}),
    "profile": (Profile, {"outputs": "+-"}),
    "mixed": (Profile, {"outputs": "+-", "strategy": "mixed"}),
}
TYPES = {torch.float32: 2e-5, torch.float16: 2e-2, torch.bfloat16: 8e-2}


@pytest.fixture(autouse=True)
def few_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling one tile takes a second."""
    monkeypatch.setattr(fused, "FORWARD", fused.FORWARD[2:3])
    monkeypatch.setattr(fused, "GRADIENT", fused.GRADIENT[1:2])


@pytest.mark.parametrize("way", ["triton", "torch"])
@pytest.mark.parametrize(
    ("name", "dtype"),
    [*(("profile", dtype) for dtype in (*TYPES, "tf32")), ("everyday", torch.float32), ("mixed", torch.float32)],
)
def test_half_products_are_the_stock_results(name: str, way: str, dtype: Any) -> None:
    make, how = CASES[name]
    model = convert_model(made(make), (2, 4, 203), verify=False, **how).eval()
    kind, limit = (torch.float32, 2e-2) if dtype == "tf32" else (dtype, TYPES[dtype])
    x = torch.randn(4, 4, 203, device=DEVICE).to(kind)
    model = model.to(kind)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=dtype == "tf32"):
        fast = accelerated(model, x, way)
        found = gradients(fast, x)
    assert way in ways(fast)
    assert_close(found, gradients(copy.deepcopy(model).double(), x.double()), limit)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_tile_computes_the_same(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    p = Product(halves_of(64), halves_of(128), 3, 2, 2)
    half = torch.randn(64, 64, 3, device=DEVICE) / 14
    w = torch.cat([half, half.roll(32, 1).flip(2)]).to(dtype)
    x, g = torch.randn(3, 64, 301, device=DEVICE).to(dtype), torch.randn(3, 128, 301, device=DEVICE).to(dtype)
    stock, wide = backend("stock", p), [t.double() for t in (x, g, w)]
    y, back = stock.forward(wide[0], wide[2], None, p), stock.back(*wide, p)
    weight = backend("torch", p).weight(*wide, p)
    for name in ("FORWARD", "GRADIENT"):
        for tile in ALL_TILES[name]:
            monkeypatch.setattr(fused, name, [tile])
            monkeypatch.setattr(fused, "_CHOSEN", {})
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                found = [fused.compute(x, w, None, p), fused.back(x, g, w, p), fused.weight_gradient(x, g, w, p)]
            assert_close(found, [y, back, weight], 1e-5 if dtype == torch.float32 else 1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_triton_is_equivariant_to_the_last_bit(dtype: torch.dtype) -> None:
    model = convert_model(made(Profile), (2, 4, 203), outputs="+-", verify=False).to(dtype)
    fast = accelerate(model, torch.zeros(3, 4, 203, dtype=dtype, device=DEVICE), "triton", verbose=False)
    assert ways(fast) == {"triton"}
    x = torch.randn(3, 4, 203, device=DEVICE).to(dtype).requires_grad_()
    rc = x.detach().flip(1, 2).requires_grad_()
    y, other = fast(x), fast(rc)
    assert bool((y != 0).any())
    assert torch.equal(other, y.flip(1, 2))
    g = torch.randn_like(y)
    one, two = torch.autograd.grad(y, x, g)[0], torch.autograd.grad(other, rc, g.flip(1, 2))[0]
    assert torch.equal(two, one.flip(1, 2))


def test_half_products_are_timed_on_the_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    model = convert_model(made(), (2, 4, 400), verify=False)
    fast = accelerate(model, (16, 4, 400))
    printed = capsys.readouterr().out
    assert not ways(fast) or "for launching" in printed
    assert torch.cuda.get_device_name() in printed.splitlines()[0]
    with torch.autocast(DEVICE, torch.bfloat16):
        accelerate(model, (16, 4, 400))
    assert "(bfloat16, " in capsys.readouterr().out
    step(fast, torch.optim.SGD(fast.parameters(), 1e-2), dna(16, 4, 400))
    obeys(fast, torch.zeros(2, 4, 120))


def test_half_products_under_autocast_and_in_a_graph() -> None:
    model, x = convert_model(made(), (2, 4, 120), verify=False).eval(), dna(8, 4, 120)
    with torch.autocast(DEVICE, torch.bfloat16):
        fast = accelerated(model, x)
        assert_close([fast(x)], [model(x)], 5e-2)
    with torch.autocast(DEVICE, torch.bfloat16), torch.no_grad():
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = fast(x)
        x.copy_(dna(8, 4, 120))
        graph.replay()
        assert torch.equal(y, fast(x))


def test_without_triton_pure_torch_computes(capsys: pytest.CaptureFixture[str]) -> None:
    model = convert_model(made(), (2, 4, 120), verify=False)
    with mock.patch.object(fused, "_loaded", return_value=(None, "not here")):
        fast = accelerate(model, (4, 4, 120))
    assert "Triton is not used: not here" in capsys.readouterr().out
    step(fast, torch.optim.SGD(fast.parameters(), 1e-2), dna(4, 4, 120))


def test_a_model_that_the_gpu_would_wait_for_stays_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    model, x = convert_model(made(Profile), (2, 4, 203), outputs="+-", verify=False), dna(1, 4, 203)

    def measured(*args: Any) -> timing.Times:
        return timing.Times({part: {"stock": 1.0, **dict.fromkeys(args[4], 0.5)} for part in timing.PARTS})

    with mock.patch.object(accelerating, "measured", measured):
        fast = accelerate(model, x)
    assert not ways(fast)
    assert "layers that were faster by themselves run as before" in capsys.readouterr().out
    times = whole.whole_times(accelerated(model, x, "torch"), x)
    assert 0.5 < times.launching <= 1
