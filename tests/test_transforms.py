"""Transforms around a converted model, compilers, and replicas: what runs eagerly runs there too."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from planned import remembered
from tiers import chosen
from torch import Tensor, nn

from rcps_convert import bake, convert_model
from rcps_convert.errors import ConversionError

EXAMPLE = torch.zeros(2, 4, 64).double()


class Net(nn.Module):
    """Every call reads one edge at 63 positions."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.pool = nn.Conv1d(4, 8, 3, padding=1), nn.BatchNorm1d(8), nn.MaxPool1d(4)
        self.inner, self.out = nn.Sequential(nn.Conv1d(8, 8, 3, stride=2), nn.Tanh()), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.pad(self.pool(self.norm(self.conv(x))), (1, 0))
        return self.out(self.inner(h).mean(-1))


def bases(*batch: int, length: int = 63) -> Tensor:
    """Soft bases: the gradient of a largest value is not defined where two are equal."""
    generator = torch.Generator().manual_seed(length)
    return torch.rand((*batch, 4, length), generator=generator, dtype=torch.float64)


def doubled() -> nn.Module:
    return Net().double()


def made(kind: str = "converted") -> nn.Module:
    model = remembered(doubled, EXAMPLE).eval()
    return bake(model) if kind == "baked" else model


def gradient(model: nn.Module, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(model(x).sum(), x)[0]


def close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= 1e-12 * (1 + b.abs().max()))


TRANSFORMS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "grad": lambda m, x: torch.func.grad(lambda v: m(v).sum())(x),
    "vjp": lambda m, x: torch.func.vjp(m, x)[1](torch.ones(len(x), 1).double())[0],
    "jacrev": lambda m, x: torch.func.jacrev(lambda v: m(v).sum())(x),
    "jacfwd": lambda m, x: torch.func.jacfwd(lambda v: m(v).sum())(x),
    "grad of vmap": lambda m, x: torch.func.grad(lambda v: torch.vmap(lambda s: m(s[None])[0])(v).sum())(x),
    "vmap of grad": lambda m, x: torch.vmap(torch.func.grad(lambda s: m(s[None]).sum()))(x),
    "linearize": lambda m, x: torch.func.vjp(lambda v: m(v).sum(), x)[1](torch.ones(()).double())[0],
    "autograd.functional": lambda m, x: torch.autograd.functional.jacobian(lambda v: m(v).sum(), x),
}


@pytest.mark.parametrize("kind", ["converted", "baked"])
@pytest.mark.parametrize("name", chosen(TRANSFORMS, lambda name: name != "jacfwd"))
def test_gradients_are_those_of_eager_mode(name: str, kind: str) -> None:
    model, x = made(kind), bases(3)
    found = TRANSFORMS[name](model, x)
    assert close(found, gradient(model, x))
    assert close(TRANSFORMS[name](model, x.flip(1, 2)), found.flip(1, 2))


def test_vmap_around_the_model_gives_what_eager_mode_gives() -> None:
    model, x = made(), bases(5, 3)
    one_by_one = torch.stack([model(v) for v in x])
    assert close(torch.vmap(model)(x), one_by_one)
    assert close(torch.vmap(torch.vmap(lambda s: model(s[None])[0]))(x), one_by_one)
    assert close(torch.vmap(model, in_dims=1, out_dims=1)(x), one_by_one)


def test_a_submodule_under_vmap_is_re_anchored_too() -> None:
    model, h = made(), torch.randn(2, 3, 8, 16).double()
    assert close(torch.vmap(model.pool)(h), torch.stack([model.pool(v) for v in h]))


class Recurrent(nn.Module):
    """A convolution and a recurrent layer, read in both directions."""

    def __init__(self, kind: Callable[..., nn.Module]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.out = nn.Conv1d(4, 6, 3, padding=1), nn.Linear(8, 1)
        self.cell = kind(6, 4, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.cell(self.conv(x).mT)[0].mean(1))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), bake])
def test_a_recurrent_layer_keeps_no_weights_of_a_transform(
    kind: Callable[..., nn.Module], again: Callable[[nn.Module], nn.Module]
) -> None:
    """torch keeps what a recurrent layer was called with; of a transform that has ended nothing can be copied."""
    model, x = convert_model(Recurrent(kind).double(), torch.zeros(2, 4, 12).double(), verify=False).eval(), bases(2)
    torch.func.grad(lambda x: model(x).sum())(x)
    other = again(model).eval()
    assert close(other(x), model(x))
    assert close(other(x.flip(1, 2)), other(x))


def test_a_transform_inside_of_forward_is_an_operator_of_its_own() -> None:
    """Its law was tested as it is, at lengths at which it has no remainder."""

    class Mapped(Net):
        def forward(self, x: Tensor) -> Tensor:
            h = torch.vmap(torch.vmap(lambda row: row[1:] * row[:-1]))(self.conv(x))
            return self.out(F.max_pool1d(h, 3).tanh().mean(-1))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = convert_model(Mapped().double(), EXAMPLE).eval()
    x = bases(3, length=64)
    assert close(model(x), model(x.flip(1, 2)))
    assert close(torch.func.grad(lambda v: model(v).sum())(x), gradient(model, x))


def test_ensembles_and_functional_calls() -> None:
    models = [made() for _ in range(3)]
    for i, m in enumerate(models):
        with torch.no_grad():
            for p in m.parameters():
                p.add_(0.1 * i)
    x = bases(2)
    params, buffers = torch.func.stack_module_state(models)
    base = copy.deepcopy(models[0])
    found = torch.vmap(lambda p, b: torch.func.functional_call(base, (p, b), (x,)))(params, buffers)
    assert close(found, torch.stack([m(x) for m in models]))
    one = torch.func.functional_call(models[0], dict(models[2].named_parameters()), (x,))
    assert close(one, models[2](x))


# --- replicas ------------------------------------------------------------------------------------------


def replica(model: nn.Module, scale: float) -> nn.Module:
    """What ``nn.DataParallel`` makes of a model, on one device; scaled weights tell it from the original."""
    modules = list(model.modules())
    copies = {m: m._replicate_for_data_parallel() for m in modules}
    for m in modules:
        for name, child in m._modules.items():
            copies[m]._modules[name] = None
            if child is not None:
                setattr(copies[m], name, copies[child])
        for name, p in m._parameters.items():
            if p is None:
                copies[m]._parameters[name] = None
            else:
                setattr(copies[m], name, p * scale)
    return copies[model]


@pytest.mark.parametrize("kind", ["converted", "baked"])
@pytest.mark.parametrize("length", [63, 64])
def test_a_replica_computes_with_its_own_weights(kind: str, length: int) -> None:
    model, x = made(kind), bases(3, length=length)
    scaled = copy.deepcopy(model)
    with torch.no_grad():
        for p in scaled.parameters():
            p.mul_(1.25)
    twin = replica(model, 1.25)
    assert close(twin(x), scaled(x))
    assert not close(twin(x), model(x))
    assert close(twin(x), twin(x.flip(1, 2)))
    gradients = torch.autograd.grad(twin(x).sum(), list(model.parameters()))
    assert any(bool(g.abs().max() > 0) for g in gradients)


def test_a_replica_with_a_forward_of_the_users_own() -> None:
    class Doubled(Net):
        def __init__(self) -> None:
            super().__init__()
            self.pool.forward = self.pool.forward  # type: ignore[method-assign]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = convert_model(Doubled().double(), EXAMPLE).eval()
    assert close(replica(model, 1.0)(bases(3)), model(bases(3)))


@pytest.mark.slow
@pytest.mark.variation
def test_a_replica_of_a_model_on_both_strands() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(8, 8, batch_first=True)

        def forward(self, h: Tensor) -> Tensor:
            return self.rnn(h.mT)[0][:, -1]

    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.last, self.out = nn.Conv1d(4, 8, 3), Last(), nn.Linear(8, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.last(self.conv(x)))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = convert_model(Reads().double(), EXAMPLE, on_unsupported="both_strands").eval()
    scaled = copy.deepcopy(model)
    with torch.no_grad():
        for p in scaled.parameters():
            p.mul_(1.25)
    assert close(replica(model, 1.25)(bases(3)), scaled(bases(3)))


@pytest.mark.slow
@pytest.mark.variation
def test_a_replica_of_two_directions_is_refused_by_name() -> None:
    class Directions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.out = nn.Conv1d(4, 8, 3), nn.Linear(8, 1)
            self.rnn = nn.GRU(8, 4, batch_first=True, bidirectional=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.rnn(self.conv(x).mT)[0].mean(1))

    model = convert_model(Directions().double(), EXAMPLE).eval()
    assert close(model(bases(2)), model(bases(2).flip(1, 2)))
    with pytest.raises(ConversionError, match=r"nn\.DataParallel of a model"):
        replica(model, 1.0)(bases(2))


# --- compilers -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_compile_and_export_keep_both_readings() -> None:
    model = made()
    for length in (63, 64):
        x = bases(2, length=length)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        assert close(compiled(x), model(x))
        for strict in (False, True):
            assert close(torch.export.export(model, (x,), strict=strict).module()(x), model(x))


def test_a_recorded_trace_is_refused_where_the_length_decides() -> None:
    with pytest.raises(ConversionError, match=r"torch\.jit\.trace"):
        torch.jit.trace(made(), bases(2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        aligned = convert_model(nn.Sequential(nn.Conv1d(4, 8, 3), nn.Conv1d(8, 1, 1)).double(), EXAMPLE)
        traced = torch.jit.trace(aligned, bases(2))
    assert close(traced(bases(3, length=70)), aligned(bases(3, length=70)))
