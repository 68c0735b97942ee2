"""Norm layers: swapped channels share statistics, equal to the stock layer on both strands together."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from oracle import assert_law
from tiers import some
from torch import Tensor, nn

from rcps_convert import bake, convert_model, plan_conversion
from rcps_convert.algebra import axis as ax
from rcps_convert.algebra.action import Action
from rcps_convert.tie.attaching import attach
from rcps_convert.tie.hooks import hook_of
from rcps_convert.tie.norms import FoldedNorm, PooledNorm, fold, folds, pool, unfold, unpool
from rcps_convert.tie.ties import make_tie

CHANNELS = {"halves": ax.regular(8), "odd": ax.regular(7), "two blocks": ax.total([ax.regular(4), ax.regular(2)])}
LAYERS = {
    "batch": nn.BatchNorm1d,
    "instance with statistics": lambda c: nn.InstanceNorm1d(c, affine=True, track_running_stats=True),
}


def shared(make: Callable[[int], nn.Module], channel: ax.Axis) -> nn.Module:
    layer = make(channel.size).double()
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.rand_like(p))
    if folds(channel):
        fold(layer, "keep")
    else:
        pool(layer, channel)
        for name in ("weight", "bias"):
            attach(layer, [name], make_tie(Action((channel,))), "keep")
    return layer


def expanded(layer: nn.Module) -> dict[str, Tensor]:
    return bake(layer).state_dict()


@pytest.mark.parametrize("kind", CHANNELS)
@pytest.mark.parametrize("training", [True, False])
def test_equals_the_stock_layer_on_both_strands(kind: str, training: bool) -> None:
    channel = CHANNELS[kind]
    torch.manual_seed(0)
    ours, stock = shared(nn.BatchNorm1d, channel), nn.BatchNorm1d(channel.size).double()
    stock.load_state_dict(expanded(ours))
    for seed in range(3):
        x = torch.randn(4, channel.size, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2 + 1
        mirrored = x[:, ax.indices(channel)].flip(2)
        ours.train(training)
        stock.train(training)
        y, both = ours(x), stock(torch.cat([x, mirrored]))
        torch.testing.assert_close(y, both[:4], rtol=0, atol=1e-12)
        torch.testing.assert_close(
            ours(mirrored), y[:, ax.indices(channel)].flip(2), rtol=0, atol=1e-12
        ) if not training else None
        for name in ("running_mean", "running_var"):
            torch.testing.assert_close(expanded(ours)[name], stock.state_dict()[name], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", CHANNELS)
@pytest.mark.parametrize("layer", LAYERS)
def test_equivariant_after_training(layer: str, kind: str) -> None:
    channel = CHANNELS[kind]
    ours = shared(LAYERS[layer], channel)
    for _ in range(3):
        ours(torch.randn(4, channel.size, 9, dtype=torch.float64) + 3)
    for training in (True, False):
        ours.train(training)
        x = torch.randn(4, channel.size, 9, dtype=torch.float64)
        idx = ax.indices(channel)
        before = {k: v.clone() for k, v in ours.state_dict().items()}
        y = ours(x)
        ours.load_state_dict(before)
        torch.testing.assert_close(ours(x[:, idx].flip(2)), y[:, idx].flip(2), rtol=0, atol=1e-12)


def test_halves_are_a_view_without_copy() -> None:
    hook, x = FoldedNorm(), torch.randn(4, 8, 11)
    seen = hook.tensor_before(nn.BatchNorm1d(4), x)
    assert seen.shape == (8, 4, 11)
    assert seen.data_ptr() == x.data_ptr()
    assert hook.tensor_after(nn.BatchNorm1d(4), seen, seen).data_ptr() == x.data_ptr()


def test_fold_and_unfold_keep_the_parameter_objects() -> None:
    bn = nn.BatchNorm1d(8)
    weight = bn.weight
    fold(bn, "keep")
    assert bn.weight is weight
    assert weight.shape == (4,)
    assert isinstance(hook_of(bn), FoldedNorm)
    unfold(bn)
    assert bn.weight is weight
    assert (weight.shape, bn.running_mean.shape, bn.num_features, hook_of(bn)) == ((8,), (8,), 8, None)


class Flat(nn.Module):
    """Batch norm after flattening, on 2-D data, without affine parameters or without statistics."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm, self.out = nn.Conv1d(4, 6, 5), norm, nn.Linear(6 * 16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.norm(self.conv(x).flatten(1))))


@pytest.mark.parametrize(
    "norm",
    some(
        [
            nn.BatchNorm1d(96),
            nn.BatchNorm1d(96, affine=False),
            nn.BatchNorm1d(96, track_running_stats=False),
            nn.BatchNorm1d(96, momentum=None),
        ],
        1,
    ),
    ids=["plain", "no affine", "no statistics", "cumulative"],
)
def test_norm_over_flattened_channels_and_positions(norm: nn.Module) -> None:
    plan = plan_conversion(Flat(norm), torch.zeros(3, 4, 20), verify=False)
    assert not plan.problems
    assert [n.folds for n in plan.norms] == [False]
    converted = plan.apply(Flat(norm))
    assert isinstance(hook_of(converted.norm), PooledNorm)
    assert_law(converted, torch.zeros(3, 4, 20), outputs="invariant", tolerance=1e-10)


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv1d(4, 6, 5), nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.nn.functional.batch_norm(self.conv(x), None, None, training=True)
        return self.out(torch.relu(h).mean(-1))


def test_functional_batch_norm_is_refused() -> None:
    (problem,) = plan_conversion(Functional(), torch.zeros(3, 4, 20)).problems
    assert "pooled over swapped channels" in str(problem)
    assert "nn.BatchNorm1d" in str(problem)


def test_sync_batch_norm_runs_the_same_way() -> None:
    """SyncBatchNorm on one process is batch norm; the conversion treats both alike."""
    model = nn.Sequential(
        nn.Conv1d(4, 8, 5), nn.BatchNorm1d(8), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 1)
    )
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(model).eval()
    converted = convert_model(synced, torch.zeros(3, 4, 20), verify=False)
    assert isinstance(hook_of(converted[1]), FoldedNorm)
    assert_law(converted, torch.zeros(3, 4, 20), outputs="invariant", tolerance=1e-10, modes=("eval",))


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize(
    ("attached", "undone"),
    [
        (lambda norm: fold(norm, "keep"), unfold),
        (lambda norm: pool(norm, ax.regular(8)), unpool),
        (lambda norm: pool(norm, ax.total([ax.regular(4), ax.trivial(4)])), unpool),
    ],
)
def test_what_is_taken_off_again_leaves_a_stock_layer(
    attached: Callable[[nn.Module], None], undone: Callable[[nn.Module], None], inside: bool
) -> None:
    norm, stock = nn.BatchNorm1d(8), nn.BatchNorm1d(8)
    before = {**vars(norm)}
    attached(norm)
    assert hook_of(norm) is not None
    undone(nn.Sequential(norm) if inside and undone is unpool else norm)
    assert hook_of(norm) is None
    assert vars(norm).keys() == before.keys()
    assert type(norm) is nn.BatchNorm1d
    x = torch.randn(5, 8, 9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(norm(x), stock(x))
    torch.testing.assert_close(norm.running_mean, stock.running_mean)
