"""Random convolutional architectures: each converts exactly, or is refused as a ConversionError and left alone."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rcps_convert import bake, check_equivariance, plan_conversion

TOLERANCE = 1e-10
BLOCKS = [
    "conv",
    "residual",
    "concat",
    "gate",
    "depthwise",
    "grouped",
    "norm",
    "squeeze",
    "pool",
    "split",
    "attend",
    "up",
]


@dataclass(frozen=True)
class Plan:
    """A random architecture: channels, blocks with their settings, and the head."""

    channels: int
    length: int
    blocks: tuple[tuple[str, int, int], ...]
    head: str


plans = st.builds(
    Plan,
    channels=st.integers(2, 12),
    length=st.integers(24, 40),
    blocks=st.lists(st.tuples(st.sampled_from(BLOCKS), st.integers(2, 12), st.integers(0, 5)), max_size=5).map(tuple),
    head=st.sampled_from(["flatten", "mean", "max", "profile", "stranded"]),
)


class Random(nn.Module):
    """The network a `Plan` stands for."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self.stem = nn.Conv1d(4, plan.channels, 5, padding=2)
        self.blocks = nn.ModuleList()
        self.kinds: list[tuple[str, int]] = []
        c, length = plan.channels, plan.length
        for kind, width, extra in plan.blocks:
            block, c, length = self._block(kind, c, width, extra, length)
            self.blocks.append(block)
            self.kinds.append((kind, extra))
        out = {"flatten": c * length, "stranded": c}.get(plan.head, c)
        self.out = nn.Linear(out, 2)

    def _block(self, kind: str, c: int, width: int, extra: int, length: int) -> tuple[nn.Module, int, int]:
        kernel = 2 * (extra % 3) + 1
        same: dict[str, Any] = {"kernel_size": kernel, "padding": kernel // 2}
        if kind == "conv":
            return nn.Conv1d(c, width, kernel, dilation=2, padding="same", bias=extra > 1), width, length
        if kind == "concat":
            return nn.Conv1d(c, width, **same), c + width, length
        if kind == "gate":
            return nn.Conv1d(c, 2 * width, **same), width, length
        if kind == "depthwise":
            return nn.Conv1d(c, 2 * c, **same, groups=c), 2 * c, length
        if kind == "grouped":
            groups = next(g for g in (4, 3, 2, 1) if c % g == 0)
            return nn.Conv1d(c, groups * width, **same, groups=groups), groups * width, length
        if kind == "norm":
            groups = next(g for g in (3, 2, 1) if c % g == 0)
            layers = [nn.BatchNorm1d(c), nn.GroupNorm(groups, c), nn.InstanceNorm1d(c, affine=True), nn.LayerNorm(c)]
            return layers[extra % 4], c, length
        if kind == "squeeze":
            return nn.Sequential(nn.Linear(c, width), nn.SiLU(), nn.Linear(width, c), nn.Sigmoid()), c, length
        if kind == "pool":
            k = next(k for k in (2, 3, 1) if length % k == 0)
            return (nn.MaxPool1d(k) if extra % 2 else nn.AvgPool1d(k)), c, length // k
        if kind == "attend":
            heads = next(h for h in (3, 2, 1) if c % h == 0)
            return nn.ModuleList([nn.Linear(c, 3 * c), nn.Linear(c, c), nn.Linear(heads, heads)]), c, length
        if kind == "up":
            return nn.ConvTranspose1d(c, width, 4, stride=2, padding=1), width, 2 * length
        return nn.Conv1d(c, c, **same), c, length

    def forward(self, x: Tensor) -> Any:
        h = torch.tanh(self.stem(x))
        for block, (kind, extra) in zip(self.blocks, self.kinds, strict=True):
            h = self._step(block, kind, extra, h)
        if self.plan.head == "flatten":
            return self.out(h.flatten(1))
        if self.plan.head in ("profile", "stranded"):
            y = self.out(h.transpose(1, 2))
            return y if self.plan.head == "profile" else F.softplus(y).mT
        return self.out(h.mean(-1) if self.plan.head == "mean" else h.amax(-1))

    def _step(self, block: Any, kind: str, extra: int, h: Tensor) -> Tensor:
        if kind == "residual":
            return h + F.relu(block(h))
        if kind == "concat":
            return torch.cat([h, F.elu(block(h))] if extra % 2 else [block(h), h], dim=1)
        if kind == "gate":
            a, b = block(h).chunk(2, dim=1)
            return a * torch.sigmoid(b) if extra % 2 else F.glu(torch.cat([a, b], 1), 1)
        if kind == "norm" and isinstance(block, nn.LayerNorm):
            return block(h.transpose(1, 2)).transpose(1, 2)
        if kind == "squeeze":
            return h * block(h.mean(-1)).unsqueeze(-1)
        if kind == "split":
            cut = extra % h.shape[1]
            first, second = h[:, :cut], h[:, cut:]
            return block(torch.cat([F.relu(second), torch.sigmoid(first)], 1))
        if kind == "attend":
            return h + self._attend(block, h.transpose(1, 2)).transpose(1, 2)
        return F.leaky_relu(block(h))

    def _attend(self, block: Any, h: Tensor) -> Tensor:
        project, back, talk = block
        b, n, c = h.shape
        heads = talk.in_features
        q, k, v = project(h).reshape(b, n, 3, heads, c // heads).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2)).div(max(1, c // heads) ** 0.5)
        weights = talk(weights.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).softmax(-1)
        return back((weights @ v).transpose(1, 2).reshape(b, n, c))


def holds(plan: Plan) -> bool:
    """Convert, verify, bake; the law must hold. False when the model was refused."""
    torch.manual_seed(0)
    model, example = Random(plan), torch.zeros(3, 4, plan.length)
    outputs = "+-" if plan.head == "stranded" else "auto"
    found = plan_conversion(model, example, outputs=outputs)
    if found.problems:
        return False
    assert found.verification is not None
    assert found.verification.error < TOLERANCE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted = found.apply(model)
    for m in (converted, bake(converted)):
        assert check_equivariance(m, example, outputs=outputs, tolerance=TOLERANCE)
    return True


QUIET: dict[str, Any] = {
    "deadline": None,
    "phases": (Phase.explicit, Phase.generate),
    "suppress_health_check": list(HealthCheck),
    "derandomize": True,
}


@settings(max_examples=25, **QUIET)
@given(plans)
def test_random_architectures_convert_exactly(plan: Plan) -> None:
    assert holds(plan), str(plan_conversion(Random(plan), torch.zeros(3, 4, plan.length)))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=500, **QUIET)
@given(plans)
def test_many_random_architectures_convert_exactly(plan: Plan) -> None:
    assert holds(plan), str(plan_conversion(Random(plan), torch.zeros(3, 4, plan.length)))
