"""The networks of the benchmarks: plain PyTorch, as their authors would write them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv_block(c_in: int, c_out: int, kernel: int, pool: int, padding: int = 0) -> list[nn.Module]:
    """Convolution, batch norm, ReLU, max pooling."""
    conv = nn.Conv1d(c_in, c_out, kernel, padding=padding)
    return [conv, nn.BatchNorm1d(c_out), nn.ReLU(), nn.MaxPool1d(pool)]


class SmallBasset(nn.Module):
    """A Basset-like classifier of 101 bp: three convolutions, two linear layers. (N, 4, 101) -> (N,) logits.

    Every pooling window divides the length it meets: 101 -> 84 / 3 = 28 -> 22 / 2 = 11 -> 8 / 4 = 2.

    Args:
        width: filters of each convolution.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *conv_block(4, width, 18, 3),
            *conv_block(width, width, 7, 2),
            *conv_block(width, width, 4, 4),
        )
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(width * 2, width * 2), nn.ReLU(), nn.Dropout(0.3), nn.Linear(width * 2, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (N,)."""
        return self.head(self.features(x)).squeeze(-1)


class Basset(nn.Module):
    """A network of Basset's form and size (Kelley et al. 2016). (N, 4, 600) -> (N, 164) logits.

    The lengths are 600 -> 200 -> 50 -> 25.

    Args:
        filters: filters of the first convolution; the other two have two thirds of it.
        hidden: units of the two fully connected layers.
    """

    def __init__(self, filters: int = 300, hidden: int = 1000) -> None:
        super().__init__()
        inner = filters * 2 // 3
        self.features = nn.Sequential(
            *conv_block(4, filters, 19, 3, padding=9),
            *conv_block(filters, inner, 11, 4, padding=5),
            *conv_block(inner, inner, 7, 2, padding=3),
        )
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(inner * 25, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(0.3),
            nn.Linear(hidden, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(0.3),
            nn.Linear(hidden, 164),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (N, 164)."""
        return self.head(self.features(x))


class BPNet(nn.Module):
    """A network of BPNet's form (Avsec et al. 2021): stranded profile and counts, a stranded control.

    (N, 4, L) and (N, 2, L) -> profile logits (N, 2, L) and log counts (N, 2).

    Args:
        filters: channels of the tower.
        layers: dilated residual convolutions, of dilation 2, 4, 8, ...
    """

    def __init__(self, filters: int = 64, layers: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv1d(4, filters, 21, padding=10)
        dilations = [2**i for i in range(1, layers + 1)]
        self.tower = nn.ModuleList(nn.Conv1d(filters, filters, 3, padding=d, dilation=d) for d in dilations)
        self.profile = nn.Conv1d(filters + 2, 2, 75, padding=37)
        self.counts = nn.Linear(filters + 2, 2)

    def forward(self, x: Tensor, control: Tensor) -> tuple[Tensor, Tensor]:
        """Profile logits and log counts."""
        h = F.relu(self.stem(x))
        for conv in self.tower:
            h = h + F.relu(conv(h))
        profile = self.profile(torch.cat([h, control], dim=1))
        return profile, self.counts(torch.cat([h, control], dim=1).mean(-1))
