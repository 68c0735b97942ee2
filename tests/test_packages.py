"""Models of other packages, at reduced sizes with random weights; skipped where a package is not installed."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import pytest
import torch
from lawful import assert_exact
from torch import nn

from rcps_convert import ConversionPlan, plan_conversion

TOLERANCE = 1e-10


def exact(model: nn.Module, example: Any, **how: Any) -> ConversionPlan:
    """The plan of a model that converts exactly, without running anything on both strands; baked too."""
    plan = plan_conversion(model, example, **how)
    assert not plan.problems, str(plan)
    assert not plan.symmetrisers
    assert plan.verification is not None
    assert plan.verification.modes == "train and eval mode"
    assert plan.verification.error < TOLERANCE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted = plan.apply(model)
    assert_exact(converted, example, tolerance=TOLERANCE, **how)
    return plan


@pytest.mark.parametrize("controls", [0, 2])
@pytest.mark.parametrize("outputs", [1, 2])
def test_bpnet(outputs: int, controls: int) -> None:
    bpnet = pytest.importorskip("bpnetlite", exc_type=ImportError).BPNet
    model = bpnet(n_filters=8, n_layers=2, n_outputs=outputs, n_control_tracks=controls, trimming=20)
    sequence, tracks = torch.zeros(2, 4, 140), torch.zeros(2, 2, 140)
    wanted = ("+-" if outputs == 2 else ".", "invariant")
    if controls:
        exact(model, (sequence, tracks), inputs=("ACGT", "+-"), outputs=wanted)
    else:
        exact(model, sequence, outputs=wanted)


def test_chrombpnet() -> None:
    package = pytest.importorskip("bpnetlite", exc_type=ImportError)
    bias, accessibility = (
        package.BPNet(n_filters=c, n_layers=2, n_outputs=1, n_control_tracks=0, trimming=20) for c in (6, 10)
    )
    exact(package.ChromBPNet(bias, accessibility, "small"), torch.zeros(2, 4, 140), outputs=(".", "invariant"))


def test_enformer() -> None:
    package = pytest.importorskip("enformer_pytorch", exc_type=ImportError)
    config = package.EnformerConfig(
        dim=24, depth=2, heads=2, num_downsamples=3, target_length=8, dim_divisible_by=2,
        output_heads={"human": 3, "mouse": 2},
    )  # fmt: skip
    plan = exact(package.Enformer(config), torch.zeros(1, 128, 4))
    assert len(plan.tested) == 2


def small_borzoi() -> nn.Module:
    """Borzoi with narrow convolutions and three tracks: its constructor fixes the widths of the real one."""
    package = pytest.importorskip("borzoi_pytorch.pytorch_borzoi_model", exc_type=ImportError)
    config = pytest.importorskip("borzoi_pytorch.config_borzoi").BorzoiConfig(
        dim=24, depth=2, heads=2, attn_dim_key=8, attn_dim_value=12, bins_to_return=12, enable_mouse_head=False
    )
    model, block, widths = package.Borzoi(config), package.ConvBlock, (16, 20, 22, 24, 26, 28)
    pool = model._max_pool
    model.conv_dna.conv_layer = nn.Conv1d(4, widths[0], 15, padding="same")
    tower: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        tower += [block(in_channels=a, out_channels=b, kernel_size=5), pool]
    model.res_tower = nn.Sequential(*tower[:-1])
    model.unet1 = nn.Sequential(pool, block(in_channels=widths[-1], out_channels=24, kernel_size=5))
    model.horizontal_conv0 = block(in_channels=widths[-1], out_channels=24, kernel_size=1)
    joined = block(in_channels=24, out_channels=20, kernel_size=1)
    model.final_joined_convs = nn.Sequential(joined, nn.Dropout(0.1), nn.GELU(approximate="tanh"))
    model.human_head = nn.Conv1d(20, 3, 1)
    return model


def test_borzoi() -> None:
    plan = exact(small_borzoi(), torch.zeros(1, 4, 2048), outputs="+-.")
    assert {t.operators for t in plan.tested} == {("vmap",)}
