"""Steps of a network that read one edge of a length: each keeps the shape (N, C, L) -> (N, C, L')."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Step = Callable[[int], nn.Module]
"""Makes a step for a number of channels."""

STEPS: dict[str, Step] = {}
"""Steps by name. Each is misaligned at some length, and takes any of 30 positions or more."""


class Does(nn.Module):
    """A function inside the forward of a module that owns nothing else."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def module(name: str, make: Step) -> None:
    STEPS[name] = make


def call(name: str, function: Callable[[Tensor], Tensor]) -> None:
    STEPS[name] = lambda channels: Does(function)


module("max pool", lambda c: nn.MaxPool1d(4))
module("overlapping max pool", lambda c: nn.MaxPool1d(3, 2, padding=1))
module("dilated max pool", lambda c: nn.MaxPool1d(3, 2, dilation=2))
module("max pool, ceil", lambda c: nn.MaxPool1d(5, ceil_mode=True))
module("padded max pool, ceil", lambda c: nn.MaxPool1d(3, 2, padding=1, ceil_mode=True))
module("avg pool", lambda c: nn.AvgPool1d(3))
module("padded avg pool", lambda c: nn.AvgPool1d(5, 3, padding=2))
module("padded avg pool, own count", lambda c: nn.AvgPool1d(5, 3, padding=2, count_include_pad=False))
module("avg pool, ceil", lambda c: nn.AvgPool1d(4, 3, ceil_mode=True))
module("strided conv", lambda c: nn.Conv1d(c, c, 7, stride=2, padding=3))
module("strided conv, valid", lambda c: nn.Conv1d(c, c, 5, stride=3))
module("strided dilated conv", lambda c: nn.Conv1d(c, c, 4, stride=2, dilation=3, padding=2))
module("strided conv, wide padding", lambda c: nn.Conv1d(c, c, 3, stride=4, padding=2))
module("depthwise strided conv", lambda c: nn.Conv1d(c, c, 5, stride=2, padding=2, groups=c))
module("grouped strided conv, no bias", lambda c: nn.Conv1d(c, c, 5, stride=2, groups=2, bias=False))
module("even same conv", lambda c: nn.Conv1d(c, c, 4, padding="same"))
module("even same dilated conv", lambda c: nn.Conv1d(c, c, 6, padding="same", dilation=3))
module("even same depthwise conv", lambda c: nn.Conv1d(c, c, 4, padding="same", groups=c))
module("circular even same conv", lambda c: nn.Conv1d(c, c, 4, padding="same", padding_mode="circular"))
module("reflected strided conv", lambda c: nn.Conv1d(c, c, 5, stride=2, padding=2, padding_mode="reflect"))
module("transposed conv", lambda c: nn.ConvTranspose1d(c, c, 3, stride=2, padding=1, output_padding=1))
module("transposed conv, no padding", lambda c: nn.ConvTranspose1d(c, c, 4, stride=3, output_padding=2))
module("transposed grouped conv", lambda c: nn.ConvTranspose1d(c, c, 3, stride=2, output_padding=1, groups=2))
module("constant pad", lambda c: nn.ConstantPad1d((2, 1), 0.5))
module("reflection pad", lambda c: nn.ReflectionPad1d((0, 3)))
module("replication pad", lambda c: nn.ReplicationPad1d((4, 0)))
module("upsample to a size", lambda c: nn.Upsample(size=50))
module("upsample by a fraction", lambda c: nn.Upsample(scale_factor=1.5))
module("linear upsample by a fraction", lambda c: nn.Upsample(scale_factor=1.3, mode="linear"))
module("in a plane", lambda c: InPlane(nn.Conv2d(c, c, (1, 4), stride=(1, 3), padding=(0, 1))))
module("even same in a plane", lambda c: InPlane(nn.Conv2d(c, c, (1, 4), padding="same")))
module("max pool in a plane", lambda c: InPlane(nn.MaxPool2d((1, 4), padding=(0, 1), stride=(1, 3))))
module("avg pool in a plane", lambda c: InPlane(nn.AvgPool2d((1, 4))))
module("transposed in a plane", lambda c: InPlane(nn.ConvTranspose2d(c, c, (1, 3), (1, 2), output_padding=(0, 1))))
call("functional max pool", lambda x: F.max_pool1d(x, 4, stride=3))
call("torch max pool", lambda x: torch.max_pool1d(x, 5))
call("functional avg pool", lambda x: F.avg_pool1d(x, 4, stride=3, padding=1))
call("power-average pool", lambda x: F.lp_pool1d(x.relu() + 0.1, 2, 3))
call("causal average", lambda x: F.avg_pool1d(F.pad(x, (4, 0)), 5, stride=1))
call("crop on the left", lambda x: x[..., 3:])
call("crop on both sides", lambda x: x[:, :, 2:-5])
call("crop by number", lambda x: x[:, :, 1:27])
call("crop to a multiple", lambda x: x[..., : x.shape[-1] // 8 * 8])
call("every other position", lambda x: x[..., ::2])
call("every third position from the second", lambda x: x[..., 1::3])
call("narrow", lambda x: x.narrow(-1, 2, x.shape[-1] - 3))
call("difference of shifted", lambda x: x[..., :-1] - 0.5 * x[..., 1:])
call("windows", lambda x: x.unfold(-1, 5, 3).mean(-1))
call("patches", lambda x: F.unfold(x[:, :, None], (1, 5), stride=(1, 4)).unflatten(1, (x.shape[1], 5)).mean(2))
call("nearest to a size", lambda x: F.interpolate(x, size=45))
call("nearest to fewer", lambda x: F.interpolate(x, size=20))
call("nearest exact to a size", lambda x: F.interpolate(x, size=45, mode="nearest-exact"))
call("last axis first", lambda x: F.max_pool1d(x[:, None].flatten(1, 2), 3))


class InPlane(nn.Module):
    """A 2-D step on (N, C, 1, L)."""

    def __init__(self, step: nn.Module) -> None:
        super().__init__()
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        return self.step(x.unsqueeze(2)).squeeze(2)


class Holder(nn.Module):
    """Bases in, steps between convolutions, a number out."""

    def __init__(self, names: list[str], channels: int = 6, norm: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, channels, 5, padding=2)
        self.norm = nn.BatchNorm1d(channels) if norm else nn.Identity()
        self.steps = nn.ModuleList(STEPS[n](channels) for n in names)
        self.mixes = nn.ModuleList(nn.Conv1d(channels, channels, 3, padding=1) for _ in names)
        self.out = nn.Linear(channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.conv(x)).tanh()
        for step, mix in zip(self.steps, self.mixes, strict=True):
            h = mix(step(h)).tanh()
        return self.out(h.mean(-1))


def random_stack(rng: random.Random) -> list[str]:
    """Names of one to four steps that leave some positions of 60 to 140."""
    return rng.sample(sorted(STEPS), rng.randint(1, 3))
