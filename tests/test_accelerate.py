"""Half products: the same function and gradients as the stock operators, exactly equivariant, and never in the way."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from oracle import assert_law, randomised
from planned import remembered
from tiers import chosen, some
from torch import Tensor, nn

from rcps_convert import ConversionError, accelerate, apply_recipe, bake, convert_model, load, recipe, save, unwrap
from rcps_convert.convert import accelerate as accelerating
from rcps_convert.convert.fast import attached, compiled, timing, whole
from rcps_convert.convert.fast.attached import Accelerated
from rcps_convert.convert.fast.plan import AccelerationPlan, LayerTimes
from rcps_convert.strands.mixed import Cross
from rcps_convert.tie.hooks import hook_of

BACKENDS = ("torch", "cpp")


@pytest.fixture(autouse=True)
def built(request: pytest.FixtureRequest) -> None:
    """Tests of the C++ backend need a compiler."""
    callspec = getattr(request.node, "callspec", None)
    if callspec is not None and "cpp" in callspec.params.values() and compiled.library() is None:
        pytest.skip(f"no C++: {compiled.why_not()}")


# --- models ----------------------------------------------------------------------------------------


def tower(*widths: int, kernel: int = 5, dilation: int = 1) -> nn.Module:
    """Convolutions with biases and ReLUs, a pooled linear layer."""
    layers: list[nn.Module] = []
    for a, b in zip((4, *widths), widths, strict=False):
        layers += [nn.Conv1d(a, b, kernel, padding=dilation * (kernel // 2), dilation=dilation), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(widths[-1], 2))


class Joined(nn.Module):
    """A concatenation, odd widths, a profile and a flattened linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv1d(4, 7, 5, padding=2), nn.Conv1d(4, 10, 4, padding=3, dilation=2, bias=False)
        self.c, self.profile = nn.Conv1d(17, 9, 3), nn.Conv1d(9, 2, 6, padding=5)
        self.flat, self.out = nn.Linear(9 * 28, 12), nn.Linear(12, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.c(torch.cat([self.a(x).relu(), self.b(x).tanh()], 1)).relu()
        return self.profile(h), self.out(self.flat(h.flatten(1)).relu())


class Tokens(nn.Module):
    """Channels last: linear layers over (N, L, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.up, self.down = nn.Conv1d(4, 12, 7, padding=3), nn.Linear(12, 20), nn.Linear(20, 12)
        self.norm, self.out = nn.LayerNorm(12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x).mT
        return self.out(self.norm(h + self.down(F.gelu(self.up(h)))).mean(1))


class Pooled(nn.Module):
    """Batch norm, pools and a stride that leave remainders."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm, self.pool = nn.Conv1d(4, 8, 7, padding=3), nn.BatchNorm1d(8), nn.MaxPool1d(3)
        self.two, self.three = nn.Conv1d(8, 12, 5, stride=2), nn.Conv1d(12, 6, 3, padding="same")
        self.out = nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.three(self.two(self.pool(self.norm(self.one(x)).relu())).relu())
        return self.out(h.mean(-1))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], dict[str, Any]]] = {
    "tower": (lambda: tower(8, 16, 6), (3, 4, 40), {}),
    "dilated": (lambda: tower(6, 8, kernel=3, dilation=16), (2, 4, 60), {}),
    "even kernel": (lambda: tower(6, 10, kernel=4), (5, 4, 33), {}),
    "joined": (Joined, (3, 4, 30), {"outputs": ("+-", "invariant")}),
    "odd profile": (Joined, (3, 4, 30), {"outputs": ("..", "antisymmetric")}),
    "channels last": (Tokens, (3, 4, 20), {}),
    "pooled": (Pooled, (3, 4, 50), {}),
    "mixed": (lambda: tower(6, 8, 6), (4, 4, 21), {"strategy": "mixed"}),
    "mixed, channels last": (Tokens, (2, 4, 20), {"strategy": "mixed"}),
    "mixed, flattened": (Joined, (2, 4, 30), {"strategy": "mixed", "outputs": ("+-", "invariant")}),
}

EVERY_MODEL = pytest.mark.parametrize("name", some(MODELS, 3))
EVERY_BACKEND = pytest.mark.parametrize("backend", BACKENDS)


def converted(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Tensor, dict[str, Any]]:
    """A converted model with random weights, a batch for it, and its specs."""
    make, shape, how = MODELS[name]
    model = remembered(make, torch.zeros(shape), verify=False, **how)
    specs = {k: v for k, v in how.items() if k == "outputs"}
    return (
        randomised(model, torch.zeros(shape), "ACGT", "auto", shape[0]).to(dtype),
        torch.randn(shape).to(dtype),
        specs,
    )


FREE = dict.fromkeys(timing.PARTS, 0.5)


def pretended(half: dict[str, float]) -> Callable[..., timing.Times]:
    """Times by which half products take this long, by part, where the stock operator takes 1."""

    def measured(*args: Any) -> timing.Times:
        names = args[4]
        return timing.Times({part: {"stock": 1.0, **dict.fromkeys(names, half[part])} for part in timing.PARTS})

    return measured


def fast_in(model: nn.Module, x: Tensor, backend: str, **how: Any) -> nn.Module:
    """The model with every layer that can be computed by a backend computed by it."""
    with mock.patch.object(accelerating, "measured", pretended(FREE)):
        return accelerate(model, x, backend, verbose=False, **how)


def accelerated_layers(model: nn.Module) -> list[str]:
    return [path for path, m in model.named_modules() if isinstance(m.__dict__.get("forward"), Accelerated)]


def leaves(y: Any) -> list[Tensor]:
    return list(y) if isinstance(y, tuple) else [y]


def gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Outputs, and gradients of input and parameters of a fixed function of them."""
    x = x.clone().requires_grad_()
    ys = leaves(model(x))
    total = sum((y * (torch.arange(y.numel(), dtype=y.dtype).cos() + 0.5).view_as(y)).sum() for y in ys)
    parameters = [p for p in model.parameters() if p.numel()]
    found = torch.autograd.grad(total, [x, *parameters])
    return [*(y.detach() for y in ys), *found]


def assert_close(found: list[Tensor], wanted: list[Tensor], tolerance: float) -> None:
    for a, b in zip(found, wanted, strict=True):
        assert a.shape == b.shape
        assert float((a - b).detach().abs().max()) <= tolerance * max(float(b.detach().abs().max()), 1e-3)


# --- the same function -----------------------------------------------------------------------------


@EVERY_BACKEND
@EVERY_MODEL
def test_results_and_gradients_are_the_stock_ones(name: str, backend: str) -> None:
    model, x, _ = converted(name)
    fast = fast_in(model, x, backend)
    assert accelerated_layers(fast)
    assert not accelerated_layers(model)
    for training in (True, False):
        model.train(training)
        fast.train(training)
        assert_close(gradients(fast, x), gradients(model, x), 1e-12)
    with torch.no_grad():
        assert_close(leaves(fast(x)), leaves(model(x)), 1e-12)


@EVERY_BACKEND
@pytest.mark.parametrize("name", some(["tower", "joined", "channels last"], 1))
def test_results_and_gradients_in_single_precision(name: str, backend: str) -> None:
    model, x, _ = converted(name, torch.float32)
    fast = fast_in(model, x, backend)
    assert_close(gradients(fast, x), gradients(model, x), 1e-5)


@EVERY_BACKEND
@EVERY_MODEL
def test_the_law_holds(name: str, backend: str) -> None:
    model, x, specs = converted(name)
    fast = fast_in(model, x, backend)
    lengths = (None, 31, 50) if name in ("tower", "pooled") else (None,)
    assert_law(fast, torch.zeros_like(x), randomise=False, lengths=lengths, batch=len(x), **specs)


@pytest.mark.parametrize("length", some([1, 5, 33, 300], 2))
@pytest.mark.parametrize("samples", some([1, 3, 20], 2))
@EVERY_BACKEND
def test_other_shapes_than_the_example_s(backend: str, length: int, samples: int) -> None:
    model, x, _ = converted("tower")
    fast = fast_in(model, x, backend)
    x = torch.randn(samples, 4, length, dtype=torch.float64)
    assert_close(gradients(fast, x), gradients(model, x), 1e-12)


def stack(dilation: int) -> nn.Module:
    """Convolutions with biases and ReLUs whose output is a stranded profile."""
    pads = {"padding": 3 * dilation, "dilation": dilation}
    return nn.Sequential(
        nn.Conv1d(4, 32, 7, padding=3), nn.ReLU(), nn.Conv1d(32, 48, 7, **pads), nn.GELU(),
        nn.Conv1d(48, 20, 4), nn.ReLU(), nn.Conv1d(20, 2, 1),
    )  # fmt: skip


@pytest.mark.parametrize("dtype", some([torch.float32, torch.float64, torch.bfloat16], 2))
@pytest.mark.parametrize(("shape", "dilation"), some([((2, 4, 301), 1), ((70, 4, 26), 1), ((1, 4, 1000), 64)], 1))
@pytest.mark.parametrize("backend", ["cpp"])
def test_a_stack_of_convolutions_is_bitwise_equivariant(
    backend: str, shape: tuple[int, ...], dilation: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    model = convert_model(stack(dilation), torch.zeros(shape), outputs="+-", verify=False).to(dtype)
    fast = accelerate(model, torch.zeros(shape, dtype=dtype), backend, verbose=False)
    assert len(accelerated_layers(fast)) == 4
    x = torch.randn(shape).to(dtype).requires_grad_()
    rc = x.detach().flip(1, 2).requires_grad_()
    y, other = fast(x), fast(rc)
    assert torch.equal(other, y.flip(1, 2))
    g = torch.randn_like(y)
    assert torch.equal(torch.autograd.grad(other, rc, g.flip(1, 2))[0], torch.autograd.grad(y, x, g)[0].flip(1, 2))
    assert bool((y != 0).any())


@pytest.mark.parametrize("backend", ["cpp"])
def test_one_thread_and_two_compute_the_same(backend: str) -> None:
    model, x, _ = converted("tower", torch.float32)
    fast = fast_in(model, x, backend)
    x = torch.randn(40, 4, 500)
    found = {}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found[threads] = gradients(fast, x)
    torch.set_num_threads(1)
    assert torch.equal(found[1][0], found[2][0])
    assert_close(found[2], found[1], 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("capability", ["AVX2", "DEFAULT"])
def test_other_instructions_compute_the_same(
    capability: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, fresh_library: None
) -> None:
    if compiled.library() is None:
        pytest.skip(f"no C++: {compiled.why_not()}")
    if capability == "AVX2" and torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        pytest.skip("no AVX2")
    compiled._loaded.cache_clear()
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    model, x, _ = converted("joined")
    fast = fast_in(model, x, "cpp")
    assert [p.name.endswith(f"{capability.lower()}.so") for p in tmp_path.glob("*/*.so")] == [True]
    assert_close(gradients(fast, x), gradients(model, x), 1e-12)


@EVERY_BACKEND
def test_half_precision(backend: str) -> None:
    model, x, _ = converted("tower", torch.bfloat16)
    fast = fast_in(model, x, backend)
    wanted = model.double()(x.double())
    assert fast(x).dtype == torch.bfloat16
    assert_close([fast(x).double()], [wanted], 3e-2)


# --- what is chosen --------------------------------------------------------------------------------


def test_what_is_slower_stays_as_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(accelerating, "measured", pretended({"forward": 1.1, "back": 0.99, "weight": 1.3}))
    model, x, _ = converted("tower")
    fast = accelerate(model, x)
    assert accelerated_layers(fast) == []
    assert all("forward" not in vars(m) for m in fast.modules() if m is not fast)
    printed = capsys.readouterr().out
    assert printed.startswith("0 of 4 tied layers run as half products (float64, 1 thread")
    assert "stock" in printed


def test_each_part_is_computed_in_the_fastest_way(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(accelerating, "measured", pretended({"forward": 0.5, "back": 2.0, "weight": 0.75}))
    model, x, _ = converted("tower")
    fast = accelerate(model, x)
    (row,) = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip().startswith("2 ")]
    name = "cpp" if compiled.library() is not None else "torch"
    assert row == [
        "2",
        "(3,",
        "8,",
        "40)",
        "conv",
        "8",
        "to",
        "16,",
        "kernel",
        "5",
        "0.50",
        "0.75",
        f"{name},",
        "stock,",
        name,
    ]
    assert_close(gradients(fast, x), gradients(model, x), 1e-12)


def test_a_backend_that_computes_something_else_is_not_taken() -> None:
    layer = accelerating.candidates(converted("tower")[0])[1]
    w = layer.module.weight.detach().clone()
    w[0, 0, 0] += 1  # no longer tied
    times = timing.measured(layer.product, (3, 8, 40), w, None, ["torch"], True)
    assert times.differs == ["torch"]
    assert times.ways().stock


def test_times_are_measured() -> None:
    model = convert_model(tower(64, 64, kernel=9), torch.zeros(2, 4, 100), verify=False)
    layer = accelerating.candidates(model)[1]
    weight = layer.module.weight.detach()
    times = timing.measured(layer.product, (4, 64, 100), weight, None, ["torch"], True)
    assert all(0 < t < 10 for part in times.parts.values() for t in part.values())
    assert 0.01 < times.ratio(times.ways()) <= 1


@pytest.mark.parametrize("backend", ["cpp"])
def test_cpp_takes_every_convolution_whatever_it_takes(
    backend: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(accelerating, "measured", pretended(dict.fromkeys(timing.PARTS, 3.0)))
    model, x, _ = converted("tower", torch.float32)
    fast = accelerate(model, x, backend)
    assert capsys.readouterr().out.startswith("3 of 4 tied layers run as half products (float32, 1 thread")
    assert accelerated_layers(fast) == ["0", "2", "4"]
    assert accelerated_layers(accelerate(model, x, verbose=False)) == []
    assert accelerated_layers(accelerate(model, x, "torch", verbose=False)) == []
    assert capsys.readouterr().out == ""


@pytest.fixture
def fresh_library() -> Iterator[None]:
    """The library is looked for anew before and after."""
    compiled._loaded.cache_clear()
    yield
    compiled._loaded.cache_clear()


def test_without_a_compiler_pure_torch_computes(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, fresh_library: None, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    model, x, _ = converted("tower")
    with mock.patch.object(accelerating, "measured", pretended(FREE)):
        fast = accelerate(model, x, "cpp")
    assert "C++ is not used, as it could not be built: " in capsys.readouterr().out
    forwards = [m.forward for m in fast.modules() if isinstance(vars(m).get("forward"), Accelerated)]
    assert {forward.choice.ways.words() for forward in forwards} == {"torch"}
    assert_close(gradients(fast, x), gradients(model, x), 1e-12)


@pytest.mark.parametrize("backend", ["cpp"])
def test_an_accelerated_model_runs_where_there_is_no_compiler(
    backend: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, fresh_library: None
) -> None:
    model, x, _ = converted("tower")
    kept = pickle.dumps(fast_in(model, x, backend))
    compiled._loaded.cache_clear()
    monkeypatch.setattr(compiled, "_built", lambda: tmp_path / "none.so")
    fast = pickle.loads(kept)
    assert len(accelerated_layers(fast)) == 4
    assert torch.equal(fast[:4](x), model[:4](x))
    assert_close(gradients(fast, x), gradients(model, x), 1e-12)


# --- the whole model -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tower", "joined", "mixed"])
def test_a_whole_model_is_timed_both_ways(name: str) -> None:
    model, x, _ = converted(name)
    fast = fast_in(model, x, "torch")
    seen: list[set[bool]] = []

    def seconds(calls: dict[str, Callable[[], Tensor]]) -> dict[str, float]:
        found = {}
        for way, call in calls.items():
            with mock.patch.object(attached, "compute", wraps=attached.compute) as computed:
                assert call().isfinite().all()
            found[way] = 1.0 if way == "stock" else 0.5
            seen.append({way == "stock", computed.called})
        return found

    with mock.patch.object(whole, "seconds", seconds):
        times = whole.whole_times(fast, x)
    assert seen == [{True, False}, {False, True}] * 2  # half products where accelerated, and there only
    assert (times.inference, times.train, times.faster) == (0.5, 0.5, True)
    assert all(p.grad is None for p in fast.parameters())
    assert_close(gradients(fast, x), gradients(model, x), 1e-12)


def test_a_model_without_gradients_is_timed_at_inference() -> None:
    model, x, _ = converted("tower")
    times = whole.whole_times(fast_in(model.requires_grad_(False), x, "torch"), x)
    assert times.train is None
    assert 0 < times.inference < 100


@pytest.mark.parametrize(
    ("inference", "train", "launching", "kept"),
    [
        (0.8, 0.9, 0.0, True),
        (0.8, 1.1, 0.0, False),
        (1.0, 1.0, 0.0, False),
        (0.9, None, 0.0, True),
        (0.8, 0.9, 0.5, True),
        (0.8, 0.9, 0.95, False),  # a GPU that waits for the CPU
    ],
)
@pytest.mark.parametrize("forced", [True, False])
def test_a_model_that_is_slower_as_a_whole_stays_as_it_is(
    inference: float, train: float | None, launching: float, kept: bool, forced: bool
) -> None:
    model, x, _ = converted("mixed")
    fast = fast_in(model, x, "torch")
    plan = AccelerationPlan(
        "here", [LayerTimes("2", (1,), "conv", 0.5, 0.5, "torch"), LayerTimes("3", (1,), "conv", 1, 1, "stock")]
    )
    times = whole.WholeTimes(inference, train, launching)
    with mock.patch.object(accelerating, "whole_times", return_value=times):
        accelerating._check_whole(fast, x, plan, forced)
    assert bool(accelerated_layers(fast)) == (kept or forced)
    assert str(plan).startswith(f"{int(kept or forced)} of 2")
    assert f"the whole model takes {inference:.2f} of the time without" in str(plan)
    assert_close(gradients(fast, x), gradients(model, x), 1e-12)


# --- in the way of nothing -------------------------------------------------------------------------


def test_state_parameters_and_optimisers_are_as_before() -> None:
    model, x, _ = converted("pooled")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    slow = copy.deepcopy(model)
    other = torch.optim.Adam(slow.parameters(), lr=1e-2)
    parameters = [*model.parameters()]
    assert fast_in(model, x, "torch", in_place=True) is model
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert [*model.state_dict()] == [*slow.state_dict()]
    assert [type(m).__name__ for m in model.modules()] == [type(m).__name__ for m in slow.modules()]
    for net, opt in ((model, optimizer), (slow, other)):
        for _ in range(3):
            opt.zero_grad()
            net(x).square().sum().backward()
            opt.step()
    assert_close([p.detach() for p in model.parameters()], [p.detach() for p in slow.parameters()], 1e-9)
    model.load_state_dict(slow.state_dict())
    assert_close([model(x).detach()], [slow(x).detach()], 1e-12)


@EVERY_BACKEND
@pytest.mark.parametrize("name", ["joined", "mixed"])
def test_copies_and_pickles(name: str, backend: str) -> None:
    model, x, _ = converted(name)
    fast = fast_in(model, x, backend)
    for twin in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert accelerated_layers(twin) == accelerated_layers(fast)
        assert all(m.forward.module is m for m in twin.modules() if isinstance(vars(m).get("forward"), Accelerated))
        assert_close(gradients(twin, x), gradients(fast, x), 0)
        with torch.no_grad():
            for p in twin.parameters():
                p.zero_()
        assert bool((leaves(fast(x))[0] != leaves(twin(x))[0]).any())


@pytest.mark.parametrize("name", chosen(["joined", "pooled", "mixed"], lambda name: name != "mixed"))
def test_bake_drops_it(name: str) -> None:
    model, x, _ = converted(name)
    fast = fast_in(model, x, "torch")
    plain = bake(fast)
    assert accelerated_layers(plain) == []
    assert accelerated_layers(fast)
    if name != "mixed":
        assert [*plain.state_dict()] == [*bake(model).state_dict()]
    assert_close(leaves(plain.eval()(x)), leaves(model.eval()(x)), 1e-12)


def test_unwrapped_it_reads_one_strand() -> None:
    model, x, _ = converted("mixed")
    with torch.no_grad():
        for module in model.modules():
            if hook_of(module, Cross) is not None:
                module.cross_weight.zero_()
    fast = fast_in(model, x, "torch")
    assert_close([unwrap(fast)(x)], [unwrap(model)(x)], 1e-12)


@pytest.mark.parametrize("name", ["joined", "pooled", "mixed"])
def test_recipes_and_files_are_those_of_the_model_without(name: str, tmp_path: Any) -> None:
    model, x, _ = converted(name)
    fast = fast_in(model, x, "torch")
    assert recipe(fast) == recipe(model)
    save(fast, tmp_path / "model.pt")
    loaded = load(tmp_path / "model.pt", MODELS[name][0]().double()).double()
    assert accelerated_layers(loaded) == []
    assert_close(leaves(loaded.eval()(x)), leaves(model.eval()(x)), 1e-12)
    again = apply_recipe(MODELS[name][0](), recipe(fast))
    assert recipe(again) == recipe(model)


def test_accelerated_twice_is_accelerated_once() -> None:
    model, x, _ = converted("mixed")
    once = fast_in(model, x, "torch")
    twice = fast_in(once, x, "torch")
    assert accelerated_layers(twice) == accelerated_layers(once)
    assert all(
        not isinstance(m.forward.before, Accelerated)
        for m in twice.modules()
        if isinstance(vars(m).get("forward"), Accelerated)
    )
    assert_close(gradients(twice, x), gradients(model, x), 1e-12)


@EVERY_BACKEND
def test_hooks_of_the_user_run(backend: str) -> None:
    model, x, _ = converted("tower")
    fast = fast_in(model, x, backend)
    seen = []
    fast[2].register_forward_pre_hook(lambda m, args: seen.append("before"))
    fast[2].register_forward_hook(lambda m, args, y: seen.append(tuple(y.shape)) or 2 * y)
    fast[2].register_full_backward_hook(lambda m, gx, gy: seen.append("backward"))
    fast(x)  # a hook that changes something is measured once
    seen.clear()
    fast(x.requires_grad_()).sum().backward()
    assert seen == ["before", (3, 16, 40), "backward"]


@EVERY_BACKEND
def test_autocast(backend: str) -> None:
    model, x, _ = converted("tower", torch.float32)
    fast = fast_in(model, x, backend)
    with torch.autocast("cpu", torch.bfloat16):
        y, wanted = fast(x), model(x)
    assert y.dtype == wanted.dtype == torch.bfloat16
    assert_close([y.float()], [wanted.float()], 3e-2)
    y.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in fast.parameters())


def test_timed_under_autocast(capsys: pytest.CaptureFixture[str]) -> None:
    model, x, _ = converted("tower", torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        accelerate(model, x)
    assert "(bfloat16, 1 thread" in capsys.readouterr().out


def test_tensors_of_another_type_than_was_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerating, "measured", pretended(FREE))
    model, x, _ = converted("tower", torch.float32)
    fast = accelerate(model, x, verbose=False).double()
    assert len(accelerated_layers(fast)) == 4
    assert torch.equal(fast(x.double()), model.double()(x.double()))
    with pytest.raises(RuntimeError, match="type"):
        fast(x)


@EVERY_BACKEND
@pytest.mark.parametrize("name", ["tower", "channels last", "mixed"])
def test_gradients_of_gradients(name: str, backend: str) -> None:
    model, x, _ = converted(name)
    fast = fast_in(model, x, backend)
    found = []
    for net in (fast, model):
        x = x.clone().requires_grad_()
        (g,) = torch.autograd.grad(net(x).pow(3).sum(), x, create_graph=True)
        found.append(
            torch.autograd.grad(g.square().sum(), [p for p in net.parameters() if p.numel()], allow_unused=True)
        )
    used = [i for i, g in enumerate(found[1]) if g is not None and float(g.abs().max()) > 0]
    assert used
    assert_close([found[0][i] for i in used], [found[1][i] for i in used], 1e-11)


@EVERY_BACKEND
def test_transforms(backend: str) -> None:
    model, x, _ = converted("tower")
    fast = fast_in(model, x, backend)
    weights = {k: v.detach() for k, v in model.named_parameters()}

    def total(net: nn.Module, w: dict[str, Tensor], sample: Tensor) -> Tensor:
        return torch.func.functional_call(net, w, (sample[None],)).square().sum()

    def per_sample(net: nn.Module) -> list[Tensor]:
        found = torch.func.vmap(torch.func.grad(lambda w, s: total(net, w, s)), in_dims=(None, 0))(weights, x)
        jvp = torch.func.jvp(net, (x,), (torch.ones_like(x),))
        return [*found.values(), *jvp, torch.func.jacrev(net)(x[:1])]

    assert_close(per_sample(fast), per_sample(model), 1e-12)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        tangents = [torch.autograd.forward_ad.unpack_dual(net(dual)).tangent for net in (fast, model)]
    assert_close(tangents[:1], tangents[1:], 1e-12)


@EVERY_BACKEND
def test_functional_calls_use_the_given_weights(backend: str) -> None:
    model, x, _ = converted("tower")
    fast = fast_in(model, x, backend)
    weights = {k: 2 * v.detach() for k, v in model.named_parameters()}
    assert_close(
        [torch.func.functional_call(fast, weights, (x,))], [torch.func.functional_call(model, weights, (x,))], 1e-12
    )


@pytest.mark.slow
@pytest.mark.variation
@pytest.mark.parametrize("name", some(["tower", "pooled", "mixed"], 1))
def test_compilers_see_the_stock_operators(name: str) -> None:
    model, x, _ = converted(name)
    fast = fast_in(model, x, "torch").eval()
    torch._dynamo.reset()
    compiled_model = torch.compile(fast, backend="eager", fullgraph=True)
    assert_close(leaves(compiled_model(x)), leaves(model.eval()(x)), 1e-12)
    assert_close(leaves(fast(x)), leaves(model(x)), 1e-12)
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore")  # of jit.trace, about any model with ties
def test_export_and_trace_see_the_stock_operators() -> None:
    model, x, _ = converted("tower")
    fast = fast_in(model, x, "torch").eval()
    program = torch.export.export(fast, (x,), strict=False)
    assert any("conv1d" in str(n.target) for n in program.graph.nodes)
    assert_close([program.module()(x)], [model.eval()(x)], 1e-12)
    assert_close([torch.jit.trace(fast, x)(x)], [model(x)], 1e-12)


def test_replicas_compute_with_their_own_weights() -> None:
    model, x, _ = converted("tower")
    fast = fast_in(model, x, "torch")
    layer = fast[2]
    twin = layer._replicate_for_data_parallel()
    assert twin.forward.module is twin
    assert twin.forward.choice is layer.forward.choice


def test_checkpointed_layers() -> None:
    model, x, _ = converted("tower")
    fast = fast_in(model, x, "torch")

    def run(net: nn.Module) -> list[Tensor]:
        z = x.clone().requires_grad_()
        y = torch.utils.checkpoint.checkpoint(net, z, use_reentrant=False)
        return [*torch.autograd.grad(y.square().sum(), [z, *net.parameters()])]

    assert_close(run(fast), run(model), 1e-12)


def test_a_weight_that_is_no_longer_tied_is_computed_as_it_is() -> None:
    model, x, _ = converted("tower")
    fast = fast_in(model, x, "torch")
    nn.utils.parametrize.remove_parametrizations(fast[2], "weight")
    with torch.no_grad():
        fast[2].weight.normal_()
    wanted = nn.Sequential(*[nn.Sequential(*[fast[i]]) for i in range(2)])(x)
    wanted = F.conv1d(wanted, fast[2].weight, fast[2].bias, padding=2)
    assert torch.equal(fast[:3](x), wanted)


def test_what_is_called_unbatched_or_by_name() -> None:
    model, x, _ = converted("tower")
    fast = fast_in(model, x, "torch")
    assert_close([fast[0](x[0])], [model[0](x[0])], 1e-12)
    assert_close([fast[0](input=x)], [model[0](input=x)], 1e-12)
    with pytest.raises(RuntimeError):
        fast[0](x[:, :2])
    with pytest.raises(TypeError):
        fast[0](x, x)


def test_inference_mode() -> None:
    model, x, _ = converted("tower")
    with torch.inference_mode():
        fast = fast_in(model, x, "torch")
        assert_close([fast(x)], [model(x)], 1e-12)
    assert_close(gradients(fast, x), gradients(model, x), 1e-12)


# --- what is refused, and what is left alone ------------------------------------------------------


def test_a_model_that_is_not_converted_is_refused() -> None:
    with pytest.raises(ConversionError, match="not converted"):
        accelerate(tower(8), torch.zeros(2, 4, 20))


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"backend": "numpy"}, "use 'auto', 'cpp', 'triton' or 'torch'"),
        ({"in_place": 1}, "in_place=1"),
        ({"verbose": None}, "verbose=None"),
        ({"example": "ACGT"}, "example='ACGT'"),
    ],
)
def test_wrong_arguments_are_named(wrong: dict[str, Any], error: str) -> None:
    model, x, _ = converted("tower")
    with pytest.raises((TypeError, ValueError), match=error):
        accelerate(model, **{"example": x, **wrong})


class Others(nn.Module):
    """Layers that half products leave alone: strides, groups, circular padding, a forward of one's own, weight norm."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv1d(4, 8, 3, stride=2, padding=1)
        self.two = nn.Conv1d(8, 8, 3, groups=2, padding=1)
        self.three = nn.Conv1d(8, 8, 3, padding=1, padding_mode="circular")
        self.four = nn.utils.parametrizations.weight_norm(nn.Conv1d(8, 8, 3, padding=1))
        self.five, self.out = Doubled(8, 8, 3, padding=1), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.one(x)
        for layer in (self.two, self.three, self.four, self.five):
            h = h + layer(h).relu()
        return self.out(h.mean(-1))


class Doubled(nn.Conv1d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def test_other_layers_are_left_alone() -> None:
    torch.manual_seed(0)
    model = convert_model(Others(), torch.zeros(2, 4, 41), verify=False).double()
    x = torch.randn(2, 4, 41, dtype=torch.float64)
    fast = fast_in(model, x, "torch")
    assert accelerated_layers(fast) == ["out"]
    assert_close(gradients(fast, x), gradients(model, x), 1e-12)


def test_a_conjoined_model_has_nothing_to_accelerate(capsys: pytest.CaptureFixture[str]) -> None:
    model = convert_model(tower(8), torch.zeros(2, 4, 20), strategy="conjoined", verify=False)
    accelerate(model, torch.zeros(2, 4, 20))
    assert capsys.readouterr().out.startswith("0 of 0 tied layers run as half products")


def test_a_layer_that_fails_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, _ = converted("mixed")

    def broken(*args: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(accelerating, "measured", broken)
    with pytest.raises(KeyboardInterrupt):
        accelerate(model, x, in_place=True)
    assert accelerated_layers(model) == []
    assert all(type(hook_of(m, Cross)) in (Cross, type(None)) for m in model.modules())
