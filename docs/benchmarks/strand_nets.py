"""The networks of the comparison of strategies: one for labels, one for profiles, and two of other packages' layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

POOLS = {150: (3, 2, 4), 400: (4, 3, 4), 10_000: (5, 4, 4)}
"""Pooling windows of the three layers for sequences up to a length, in bp."""


def shape(length: int) -> tuple[list[int], tuple[int, ...], int]:
    """Kernels, pooling windows and the positions left of a `Scan`, such that every window divides what it meets.

    The kernels are the smallest from 15, 7 and 4 on that do.
    """
    pools = next(pools for longest, pools in POOLS.items() if length <= longest)
    kernels = []
    for least, pool in zip((15, 7, 4), pools, strict=True):
        kernels.append(least + (length - least + 1) % pool)
        length = (length - kernels[-1] + 1) // pool
    return kernels, pools, length


def head(inputs: int, hidden: int) -> nn.Sequential:
    """Two linear layers to one number."""
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, 1))


class Scan(nn.Module):
    """A Basset-like network: three convolutions with batch norm and pooling, two linear layers. (N, 4, L) -> (N,).

    Args:
        width: filters of each convolution.
        length: bp.
    """

    def __init__(self, width: int, length: int) -> None:
        super().__init__()
        kernels, pools, left = shape(length)
        blocks: list[nn.Module] = []
        for c_in, kernel, pool in zip((4, width, width), kernels, pools, strict=True):
            blocks += [nn.Conv1d(c_in, width, kernel), nn.BatchNorm1d(width), nn.ReLU(), nn.MaxPool1d(pool)]
        self.features = nn.Sequential(*blocks)
        self.head = head(width * left, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        """Logits or values, (N,)."""
        return self.head(self.features(x)).squeeze(-1)


class StrandMean(nn.Module):
    """The mean of both strands before the head: equivariant features, their two halves averaged, and a plain head.

    Args:
        features: (N, 4, L) -> (N, 2C, L'); reverse complement swaps the first C channels with the last C. The k-th
            swaps with the k-th of the other half, or, if `mirrored`, with the k-th from the end.
        channels: C.
        left: L'.
        hidden: units of the head.
    """

    def __init__(self, features: nn.Module, channels: int, left: int, hidden: int, mirrored: bool = False) -> None:
        super().__init__()
        self.features = features
        self.head = head(channels * left, hidden)
        self.flipped = (1, 2) if mirrored else (2,)

    def forward(self, x: Tensor) -> Tensor:
        """Logits or values, (N,)."""
        first, second = self.features(x).chunk(2, dim=1)
        return self.head((first + second.flip(self.flipped)) / 2).squeeze(-1)


class ProfileNet(nn.Module):
    """A BPNet-like network: dilated residual convolutions, and a log rate for each strand. (N, 4, L) -> (N, 2, L).

    Args:
        width: channels.
        layers: residual layers, of dilation 2, 4, 8, ...
    """

    def __init__(self, width: int, layers: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv1d(4, width, 15, padding=7)
        dilations = [2**i for i in range(1, layers + 1)]
        self.tower = nn.ModuleList(nn.Conv1d(width, width, 3, padding=d, dilation=d) for d in dilations)
        self.profile = nn.Conv1d(width, 2, 25, padding=12)

    def forward(self, x: Tensor) -> Tensor:
        """Log rates, the strand as written first."""
        h = F.relu(self.stem(x))
        for conv in self.tower:
            h = h + F.relu(conv(h))
        return self.profile(h)


def of_rcps(width: int, length: int) -> nn.Module:
    """The network of rcps-pytorch's layers (0.0.2): twice `width` channels, whose strands never mix.

    Raises: ModuleNotFoundError: the package is not installed.
    """
    import rcps

    kernels, pools, left = shape(length)
    blocks: list[nn.Module] = []
    for i, (kernel, pool) in enumerate(zip(kernels, pools, strict=True)):
        conv = rcps.RCPS(width, width, kernel) if i else rcps.RCPSInput(out_kernels=width, kernel_size=kernel)
        blocks += [conv, rcps.RCPSBatchNorm(width), nn.ReLU(), nn.MaxPool1d(pool)]
    return StrandMean(nn.Sequential(*blocks), width, left, 2 * width, mirrored=True)


class SteadyNorm(nn.Module):
    """equirc's batch norm with running statistics that stay the same tensors, without their gradients.

    The layer itself replaces them in each step by new ones that hold on to the graphs of all steps before.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        from equirc.pytorch_rclayers import RegBatchNorm

        self.layer = RegBatchNorm(reg_dim=channels, momentum=0.9)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 2C, L), normalised."""
        kept = {name: getattr(self.layer, name) for name in ("running_mu", "running_sigma")}
        y = self.layer(x)
        if self.training:
            with torch.no_grad():
                for name, value in kept.items():
                    value.copy_(getattr(self.layer, name))
                    setattr(self.layer, name, value)
        return y


def of_equirc(width: int, length: int) -> nn.Module:
    """The network of equirc's layers (1.0.0): `width` channels in swapped pairs.

    Raises: ModuleNotFoundError: the package is not installed.
    """
    from equirc.pytorch_rclayers import RegToRegConv

    kernels, pools, left = shape(length)
    blocks: list[nn.Module] = []
    for pairs, kernel, pool in zip((2, width // 2, width // 2), kernels, pools, strict=True):
        conv = RegToRegConv(reg_in=pairs, reg_out=width // 2, kernel_size=kernel)
        blocks += [conv, SteadyNorm(width // 2), nn.ReLU(), nn.MaxPool1d(pool)]
    return StrandMean(nn.Sequential(*blocks), width // 2, left, width, mirrored=True)
