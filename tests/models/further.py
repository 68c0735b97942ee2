"""Networks that shift channels, transform them by fixed filters or write position by position, and some published."""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rcps_convert import Tokens

from .family import Family

TEXTS = ["[PAD]", "[MASK]", "A", "C", "G", "T", "N"]
KMERS = ["".join(letters) for letters in itertools.product("ACGT", repeat=3)]
BASES = Tokens(TEXTS, prefix=0, suffix=0)


class ShiftedChannels(nn.Module):
    """A quarter of the channels one bin to the right, a quarter to the left, around the ends. (N, 4, L) -> (N, 2)."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.stem, self.mix, self.out = nn.Conv1d(4, c, 5, padding=2), nn.Conv1d(c, c, 3, padding=1), nn.Linear(c, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = F.max_pool1d(self.stem(x).relu(), 2)
        quarter = h.shape[1] // 4
        forth, back, rest = h[:, :quarter], h[:, quarter : 2 * quarter], h[:, 2 * quarter :]
        h = torch.cat([torch.roll(forth, 1, -1), torch.roll(back, -1, -1), rest], 1)
        return self.out(self.mix(h).relu().mean(-1))


class WrittenShift(ShiftedChannels):
    """The same, written into zeros."""

    def forward(self, x: Tensor) -> Tensor:
        h = F.max_pool1d(self.stem(x).relu(), 2)
        quarter, out = h.shape[1] // 4, torch.zeros_like(h)
        out[:, :quarter, 1:] = h[:, :quarter, :-1]
        out[:, quarter : 2 * quarter, :-1] = h[:, quarter : 2 * quarter, 1:]
        out[:, 2 * quarter :] = h[:, 2 * quarter :]
        return self.out(self.mix(out).relu().mean(-1))


class AxialShift(nn.Module):
    """Five groups of channels, shifted by -2 to 2 in a padded length. (N, 4, L) -> (N, 2)."""

    def __init__(self, c: int = 30) -> None:
        super().__init__()
        self.stem, self.norm, self.mix = nn.Conv1d(4, c, 5, padding=2), nn.GroupNorm(1, c), nn.Conv1d(c, c, 1)
        self.out = nn.Linear(c, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        parts = F.pad(self.norm(h), (2, 2)).chunk(5, 1)
        y = torch.cat([torch.roll(part, by, 2) for part, by in zip(parts, range(-2, 3), strict=True)], 1)
        h = h + self.mix(y.narrow(2, 2, h.shape[2])).relu()
        return self.out(h.mean(-1))


class Wavelets(nn.Module):
    """The Haar transform of each base, and of channels, which is undone behind a threshold. (N, 4, L) -> (N, L / 2)."""

    def __init__(self, c: int = 6) -> None:
        super().__init__()
        half = math.sqrt(0.5)
        self.register_buffer("filters", torch.tensor([[[half, half]], [[half, -half]]]))
        self.mix, self.out, self.c = nn.Conv1d(8, c, 5, padding=2), nn.Conv1d(c, 1, 1), c

    def forward(self, x: Tensor) -> Tensor:
        h = self.mix(F.conv1d(x, self.filters.repeat(4, 1, 1), stride=2, groups=4))  # type: ignore[operator]
        filters = self.filters.repeat(self.c, 1, 1)  # type: ignore[operator]
        h = F.softshrink(F.conv1d(h, filters, stride=2, groups=self.c), 0.1)
        return self.out(F.conv_transpose1d(h, filters, stride=2, groups=self.c).relu())[:, 0]


class DeepHistoneLike(nn.Module):
    """Dense blocks over a sequence and its openness. (N, 1, 4, 40) and (N, 1, 1, 40) -> (N, 4)."""

    def __init__(self, c: int = 6) -> None:
        super().__init__()
        self.bases, self.openness = nn.Conv2d(1, c, (4, 9)), nn.Conv2d(1, c, (1, 9))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(c * i), nn.ReLU(), nn.Conv2d(c * i, c, (1, 5), padding=(0, 2))) for i in (1, 2)
        )
        self.out = nn.Linear(2 * c * 3 * 8, 4)

    def dense(self, h: Tensor) -> Tensor:
        for block in self.blocks:
            h = torch.cat([h, block(h)], 1)
        return F.max_pool2d(h, (1, 4))

    def forward(self, x: Tensor, openness: Tensor) -> Tensor:
        return self.out(torch.cat([self.dense(self.bases(x)), self.dense(self.openness(openness))], 1).flatten(1))


class DnaDiffusionLike(nn.Module):
    """A U-net over bases and positions, with the time and a cell type. (N, 1, 4, L), (N,) and (N,) -> (N, 1, 4, L)."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.into, self.cell, self.out = nn.Conv2d(1, c, 7, padding=3), nn.Embedding(3, c), nn.Conv2d(2 * c, 1, 1)
        self.time = nn.Sequential(nn.Linear(8, c), nn.GELU(), nn.Linear(c, c))
        self.conv, self.norm = nn.Conv2d(c, c, 3, padding=1), nn.GroupNorm(2, c)
        self.down, self.up = (kind(c, c, (1, 4), (1, 2), (0, 1)) for kind in (nn.Conv2d, nn.ConvTranspose2d))
        self.frequencies = nn.Parameter(torch.randn(4), requires_grad=False)

    def forward(self, x: Tensor, t: Tensor, cell: Tensor) -> Tensor:
        angle = 2 * math.pi * t[:, None] * self.frequencies
        told = self.time(torch.cat([angle.sin(), angle.cos()], -1)) + self.cell(cell)
        a = self.into(x) + told[:, :, None, None]
        h = self.up(F.silu(self.down(F.silu(self.norm(self.conv(a))))))
        return self.out(torch.cat([a, h], 1))


class CrisprNetLike(nn.Module):
    """A guide and its target, what they share and where they differ. (N, 23, 4) and (N, 23, 4) -> (N, 1)."""

    def __init__(self, c: int = 6) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv1d(5, c, k, padding=k // 2) for k in (1, 3, 5))
        self.lstm, self.dense = nn.LSTM(3 * c + 5, 5, bidirectional=True, batch_first=True), nn.Linear(230, 6)
        self.out = nn.Linear(6, 1)

    def forward(self, guide: Tensor, target: Tensor) -> Tensor:
        differ = (guide - target).abs().sum(-1, keepdim=True)
        code = torch.cat([torch.maximum(guide, target), differ], -1).mT
        h, _ = self.lstm(torch.cat([code, *(conv(code).relu() for conv in self.convs)], 1).mT)
        return self.out(self.dense(h.flatten(1)).relu())


class MuAtLike(nn.Module):
    """Mutations of one tumour: their 3-mers and their regions, under attention. (N, M) and (N, M) -> (N, 3)."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.motif, self.region = nn.Embedding(65, c, padding_idx=0), nn.Embedding(10, c)
        self.attend, self.out = nn.TransformerEncoderLayer(2 * c, 2, 16, batch_first=True), nn.Linear(2 * c, 3)

    def forward(self, motifs: Tensor, regions: Tensor) -> Tensor:
        return self.out(self.attend(torch.cat([self.motif(motifs), self.region(regions)], -1)).mean(1))


class BlockSparse(nn.Module):
    """Each block of four tokens attends to itself and its neighbours (BigBird, GENA-LM). (N, L) -> (N, 2)."""

    def __init__(self, c: int = 8, block: int = 4) -> None:
        super().__init__()
        self.embed, self.qkv, self.out, self.block = nn.Embedding(7, c), nn.Linear(c, 3 * c), nn.Linear(c, 2), block

    def forward(self, ids: Tensor) -> Tensor:
        h = self.embed(ids)
        n, length, c = h.shape
        q, k, v = self.qkv(h).view(n, length // self.block, self.block, 3, c).unbind(3)
        k, v = (
            torch.cat([t[:, :-2], t[:, 1:-1], t[:, 2:]], 2) for t in (F.pad(u, (0, 0) * 2 + (1, 1)) for u in (k, v))
        )
        there = F.pad(torch.ones(length // self.block), (1, 1))
        seen = torch.stack([there[:-2], there[1:-1], there[2:]], 1).repeat_interleave(self.block, 1)
        a = (q @ k.mT / c**0.5).masked_fill(seen[None, :, None] == 0, -1e9).softmax(-1)
        return self.out((a @ v).reshape(n, length, c).mean(1))


class BothSidesRwkv(nn.Module):
    """Weights that decay with the distance, channels mixed with either neighbour (Vision-RWKV). (N, L) -> (N, 2)."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(7, c), nn.Linear(c, 2)
        self.k, self.v, self.r = (nn.Linear(c, c, bias=False) for _ in range(3))
        self.decay, self.here = nn.Parameter(torch.rand(c)), nn.Parameter(torch.rand(c))

    def forward(self, ids: Tensor) -> Tensor:
        h = self.embed(ids)
        length, half = h.shape[1], h.shape[2] // 2
        left, right = F.pad(h[..., :half], (0, 0, 1, 0))[:, :-1], F.pad(h[..., half:], (0, 0, 0, 1))[:, 1:]
        h = h + torch.cat([left, right], -1)
        place = torch.arange(length)
        apart = ((place[:, None] - place).abs() - 1).clamp(min=0)[..., None]
        a = self.k(h)[:, None] - apart / length * self.decay + torch.eye(length)[..., None] * self.here
        return self.out((self.r(h).sigmoid() * (a.softmax(2) * self.v(h)[:, None]).sum(2)).mean(1))


MORE = [
    Family(ShiftedChannels, torch.zeros(2, 4, 40)),
    Family(WrittenShift, torch.zeros(2, 4, 40)),
    Family(AxialShift, torch.zeros(2, 4, 24)),
    Family(Wavelets, torch.zeros(2, 4, 32)),
    Family(
        DeepHistoneLike,
        (torch.zeros(2, 1, 4, 40), torch.zeros(2, 1, 1, 40)),
        {"inputs": ("ACGT", "."), "layout": ("n 1 c l", "n 1 c l"), "outputs": "invariant"},
    ),
    Family(
        DnaDiffusionLike,
        (torch.zeros(2, 1, 4, 32), torch.zeros(2), torch.zeros(2).long()),
        {"inputs": ("ACGT", "invariant", "invariant"), "outputs": "ACGT"},
    ),
    Family(
        CrisprNetLike,
        (torch.zeros(2, 23, 4), torch.zeros(2, 23, 4)),
        {"inputs": ("ACGT", "ACGT"), "layout": ("n l c", "n l c")},
    ),
    Family(
        MuAtLike,
        (torch.zeros(2, 12).long(), torch.zeros(2, 12).long()),
        {"inputs": (Tokens(["<pad>", *KMERS], prefix=0, suffix=0), "mask")},
    ),
    Family(BlockSparse, torch.full((2, 16), 2), {"inputs": BASES}),
    Family(BothSidesRwkv, torch.full((2, 12), 2), {"inputs": BASES}),
]
"""Converted in the slow run."""
