"""gReLU: its own architectures, tied as they are, exact at the lengths that their forward takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("grelu")

from grelu.model import models

from rcps_convert import bake, plan_conversion

TOLERANCE = 1e-10
"""Largest relative deviation of an entry in float64."""

SMALL: dict[str, Any] = {"stem_channels": 8, "channel_init": 8}

MODELS: dict[str, tuple[Callable[[], nn.Module], int, int | None]] = {
    "ConvModel": (
        lambda: models.ConvModel(n_tasks=3, n_conv=2, norm=True, pool_func="max", pool_size=2, dropout=0.1, **SMALL),
        *(64, 65),
    ),
    "ConvModel, residual": (
        lambda: models.ConvModel(n_tasks=1, n_conv=3, dilation_mult=2, act_func="gelu", norm=True, residual=True),
        *(64, 71),
    ),
    "DilatedConvModel": (lambda: models.DilatedConvModel(n_tasks=2, channels=8, n_conv=3), 200, 201),
    "ConvGRUModel": (
        lambda: models.ConvGRUModel(n_tasks=2, conv_norm=True, pool_func="avg", pool_size=2, gru_norm=True, **SMALL),
        *(64, 66),
    ),
    "ConvTransformerModel": (
        lambda: models.ConvTransformerModel(
            n_tasks=2, norm=True, pool_func="max", pool_size=2, n_heads=2, key_len=4, value_len=4, **SMALL
        ),
        *(64, 80),
    ),
    "ConvMLPModel": (
        lambda: models.ConvMLPModel(
            seq_len=64, n_tasks=2, conv_norm=True, pool_func="max", pool_size=4, mlp_norm=True, **SMALL
        ),
        *(64, None),
    ),
    "BorzoiModel": (
        lambda: models.BorzoiModel(
            n_tasks=2, stem_channels=32, init_channels=32, channels=64, n_conv=4, n_transformers=1, key_len=4,
            value_len=4, n_heads=2, n_pos_features=4, crop_len=0,
        ),
        *(512, 640),
    ),
}  # fmt: skip
"""By name what makes a model, the length of the example, and another that its forward takes."""


def bases(n: int, length: int, seed: int = 0) -> Tensor:
    ids = torch.randint(4, (n, length), generator=torch.Generator().manual_seed(seed))
    return nn.functional.one_hot(ids, 4).mT.double()


def deviation(model: nn.Module, length: int) -> float:
    """How far the scores of sequences, (N, tasks, 1), are from those of their reverse complements."""
    x = bases(3, length)
    with torch.no_grad():
        y, z = model(x), model(x.flip(1, 2))
    assert y.shape[-1] == 1
    assert float((y - y[:1]).abs().max()) > 0
    return float(((y - z).abs() / y.abs().clamp(min=1e-3)).max())


@pytest.mark.parametrize("name", MODELS)
def test_an_architecture_is_tied_as_it_is(name: str) -> None:
    make, length, another = MODELS[name]
    torch.manual_seed(0)
    plan = plan_conversion(make(), (2, 4, length))
    assert not plan.problems
    model = plan.apply(make()).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    model.train()(bases(4, length)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    for each in (length, another) if another else (length,):
        assert deviation(model.eval(), each) < TOLERANCE
        assert deviation(bake(model).eval(), each) < TOLERANCE
