"""Networks of later years: long convolutions from either end, attention pools that leave a remainder, AlphaGenome."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from einops.layers.torch import Rearrange
from torch import Tensor, nn

from rcps_convert import Tokens, Tracks

from .family import Family


class RMSBatchNorm(nn.Module):
    """A batch norm without mean; its statistics are a buffer of its own. Channels last."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(c)), nn.Parameter(torch.zeros(c))
        self.register_buffer("running_var", torch.ones(c))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.running_var.lerp_(x.detach().pow(2).mean(dim=(0, 1)), 0.1)
        return x * torch.rsqrt(self.running_var + 1e-5) * self.weight + self.bias


class AlphaGenomeBlock(nn.Module):
    def __init__(self, a: int, b: int, width: int = 5) -> None:
        super().__init__()
        self.norm, self.conv = RMSBatchNorm(a), nn.Conv1d(a, b, width, padding="same")

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        return self.conv((torch.sigmoid(1.702 * h) * h).transpose(1, 2)).transpose(1, 2)


class AlphaGenomeLike(nn.Module):
    """A U-net, pairs of positions with a relative shift, rotary attention with one key. (N, 64, 4) -> three outputs."""

    def __init__(self, d: int = 12, heads: int = 2) -> None:
        super().__init__()
        self.heads, w = heads, d + 4
        self.stem = nn.Conv1d(4, d, 15, padding="same")
        self.down, self.up, self.skip = AlphaGenomeBlock(d, w), AlphaGenomeBlock(w, d), AlphaGenomeBlock(d, d, 1)
        self.q, self.k, self.v = (nn.Linear(w, n, bias=False) for n in (8 * heads, 8, 12))
        self.norms, self.back = nn.ModuleList(nn.LayerNorm(n) for n in (8, 8, 12)), nn.Linear(12 * heads, w)
        self.pair_q, self.pair_k, self.offsets = (
            nn.Linear(w, 6 * heads),
            nn.Linear(w, 6 * heads),
            nn.Linear(6, 6 * heads),
        )
        self.pair, self.rows, self.columns = nn.Linear(heads, 5), nn.Linear(w, 5), nn.Linear(w, 5)
        self.bias, self.scale = nn.Linear(5, heads), nn.Parameter(torch.ones(3))
        self.atac, self.rna, self.contacts = nn.Linear(d, 1), nn.Linear(d, 3), nn.Linear(5, 3)

    def turned(self, x: Tensor) -> Tensor:
        n = x.shape[-1] // 2
        rate = 1.0 / (torch.arange(n) + torch.logspace(0, math.log10(8192 - n + 1), n))
        angle = torch.repeat_interleave(torch.arange(x.shape[1])[:, None] * rate, 2, dim=-1)[None, :, None]
        other = torch.stack([-x[..., 1::2], x[..., ::2]], -1).reshape(x.shape)
        return (x * angle.cos() + other * angle.sin()).to(x.dtype)

    def pairs(self, h: Tensor) -> Tensor:
        b, n, _ = h.shape
        at = torch.arange(-n, n, device=h.device)
        near = torch.stack([(at.abs() < w).to(h.dtype) for w in (1, 3, 9)], -1)
        places = self.offsets(torch.cat([near, torch.sign(at)[:, None] * near], -1)).view(2 * n, self.heads, 6)
        q, k = (f(h).view(b, n, self.heads, 6) for f in (self.pair_q, self.pair_k))
        shift = torch.einsum("bqhc,phc->bhqp", q, places).reshape(b, self.heads, 2 * n, n)[:, :, 1:]
        shift = shift.reshape(b, self.heads, n, 2 * n - 1)[..., :n]
        a = torch.einsum("bqhc,bkhc->bhqk", q, k) + 0.5 * shift
        z = self.pair(a.permute(0, 2, 3, 1)) + self.rows(h)[:, :, None] + self.columns(h)[:, None]
        return (z + z.transpose(1, 2)) / 2

    def attend(self, h: Tensor, pairs: Tensor) -> Tensor:
        b, n, _ = h.shape
        q, k, v = (norm(f(h)[..., None, :].view(b, n, -1, norm.normalized_shape[0]))  # type: ignore[index, operator]
                   for norm, f in zip(self.norms, (self.q, self.k, self.v), strict=True))  # fmt: skip
        scores = torch.einsum("bqhc,bkc->bhqk", self.turned(q), self.turned(k).squeeze(2)) / math.sqrt(8)
        scores = torch.tanh((scores + self.bias(pairs).permute(0, 3, 1, 2)) / 5) * 5
        return self.back(torch.einsum("bhqk,bkc->bqhc", scores.softmax(-1), v.squeeze(2)).reshape(b, n, -1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        top = self.stem(x.transpose(1, 2)).transpose(1, 2)
        h = self.down(F.max_pool1d(top.transpose(1, 2), 2).transpose(1, 2))
        pairs = self.pairs(h)
        h = h + self.attend(h, pairs)
        h = self.up(h.repeat_interleave(2, dim=1)) + self.skip(top)
        rna = F.softplus(self.rna(h)) * F.softplus(self.scale[0])
        return {"atac": F.softplus(self.atac(h)), "rna": rna, "contacts": self.contacts(pairs)}


class S4D(nn.Module):
    """A diagonal state space as one long causal convolution, gated. (N, C, L) -> the same."""

    def __init__(self, c: int, states: int = 4) -> None:
        super().__init__()
        self.log_dt, self.skip = nn.Parameter(torch.rand(c)), nn.Parameter(torch.randn(c))
        self.c, self.log_real = nn.Parameter(torch.randn(c, states, 2)), nn.Parameter(torch.full((c, states), -0.7))
        self.imaginary = nn.Parameter(math.pi * torch.arange(states).float().repeat(c, 1))
        self.out = nn.Sequential(nn.Conv1d(c, 2 * c, 1), nn.GLU(dim=-2))

    def kernel(self, n: int) -> Tensor:
        a = -torch.exp(self.log_real) + 1j * self.imaginary
        step = a * torch.exp(self.log_dt)[:, None]
        c = torch.view_as_complex(self.c) * (torch.exp(step) - 1.0) / a
        return 2 * torch.einsum("hn,hnl->hl", c, torch.exp(step[..., None] * torch.arange(n, device=a.device))).real

    def forward(self, u: Tensor) -> Tensor:
        n = u.shape[-1]
        product = torch.fft.rfft(u, n=2 * n) * torch.fft.rfft(self.kernel(n), n=2 * n)
        y = torch.fft.irfft(product, n=2 * n)[..., :n] + u * self.skip[:, None]
        return self.out(F.gelu(y))


class LyraLike(nn.Module):
    """Gated convolutions, then one state space that reads from either end, added to what it read. (N, 4, 32)."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.stem, self.gate, self.back = nn.Linear(4, c), nn.Linear(c, 2 * c), nn.Linear(c, c)
        self.conv = nn.Conv1d(2 * c, 2 * c, 3, padding=1, groups=2 * c)
        self.norm, self.s4d, self.out = nn.RMSNorm(c), S4D(c), nn.Linear(c, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x.transpose(-1, -2))
        gate, value = self.conv(self.gate(h).transpose(-1, -2)).transpose(-1, -2).chunk(2, dim=-1)
        h = (h + self.norm(self.back(gate * value))).transpose(-1, -2)
        h = h + self.s4d(h) + self.s4d(h.flip(-1)).flip(-1)
        return self.out(h.mean(-1))


class ImplicitFilter(nn.Module):
    """A kernel that a network makes of the positions, decaying. (L) -> (C, L)."""

    def __init__(self, c: int, length: int = 64) -> None:
        super().__init__()
        at = torch.linspace(0, 1, length)[:, None]
        angle = 2 * math.pi * torch.arange(length)[:, None] / length
        self.register_buffer("at", at)
        self.register_buffer("features", torch.cat([at, angle.cos(), -angle.sin()], -1))
        self.register_buffer("rates", torch.linspace(1, 5, c))
        self.net = nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, c, bias=False))

    def forward(self, n: int) -> Tensor:
        return (self.net(self.features[:n]) * torch.exp(-self.at[:n] * self.rates)).T


class Hyena(nn.Module):
    """A short causal convolution, gates, and a long causal convolution between them. (N, L, C) -> the same."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.into, self.out, self.skip = nn.Linear(c, 3 * c), nn.Linear(c, c), nn.Parameter(torch.randn(c))
        self.short, self.filter = nn.Conv1d(3 * c, 3 * c, 3, groups=3 * c, padding=2), ImplicitFilter(c)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        gate, value, other = self.short(rearrange(self.into(x), "b l d -> b d l"))[..., :n].chunk(3, dim=1)
        value = value * other
        product = torch.fft.rfft(value, n=2 * n) * (torch.fft.rfft(self.filter(n), n=2 * n) / (2 * n))
        value = torch.fft.irfft(product, n=2 * n, norm="forward")[..., :n] + value * self.skip[:, None]
        return self.out(rearrange(value * gate, "b d l -> b l d"))


class BothWaysHyena(nn.Module):
    """HyenaDNA's mixer, run from either end and added to its input. (N, 24) -> (N, 2)."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.embed, self.norm, self.mixer, self.head = nn.Embedding(6, c), nn.LayerNorm(c), Hyena(c), nn.Linear(c, 2)

    def forward(self, ids: Tensor) -> Tensor:
        h = self.embed(ids)
        z = self.norm(h)
        h = h + self.mixer(z) + torch.flip(self.mixer(torch.flip(z, [1])), [1])
        return self.head(h.mean(dim=1))


class AttentionPool(nn.Module):
    """Softmax pooling as enformer-pytorch writes it: what does not divide is padded on one side and masked."""

    def __init__(self, c: int, size: int = 2) -> None:
        super().__init__()
        self.size, self.split = size, Rearrange("b d (n p) -> b d n p", p=size)
        self.logits = nn.Conv2d(c, c, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        b, _, n = x.shape
        rest = n % self.size
        if rest > 0:
            x = F.pad(x, (0, rest), value=0)
            mask = torch.zeros((b, 1, n), dtype=torch.bool, device=x.device)
            mask = F.pad(mask, (0, rest), value=True)
        x = self.split(x)
        logits = self.logits(x)
        if rest > 0:
            logits = logits.masked_fill(self.split(mask), -torch.finfo(logits.dtype).max)
        return (x * logits.softmax(dim=-1)).sum(dim=-1)


class ParmLike(nn.Module):
    """Convolutions with softmax pools, which leave a remainder at 61 and at 31. (N, 4, 61) -> (N, 1)."""

    def __init__(self, c: int = 12) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv1d(4, c, 7, padding="same"), nn.BatchNorm1d(c), nn.GELU(), AttentionPool(c))
        self.tower = nn.Sequential(nn.Conv1d(c, c, 7, padding="same"), nn.GELU(), AttentionPool(c))
        self.head = nn.Sequential(nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(c, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.tower(self.stem(x)))


class TwoCells(nn.Module):
    """A bidirectional LSTM written out with cells, one loop for each direction. (N, 4, 12) -> (N, 2)."""

    def __init__(self, c: int = 6) -> None:
        super().__init__()
        self.stem, self.c = nn.Conv1d(4, 8, 3, padding=1), c
        self.left, self.right, self.out = nn.LSTMCell(8, c), nn.LSTMCell(8, c), nn.Linear(2 * c, 2)

    def run(self, cell: nn.LSTMCell, steps: list[Tensor]) -> list[Tensor]:
        h = c = steps[0].new_zeros(steps[0].shape[0], self.c)
        found = []
        for x in steps:
            h, c = cell(x, (h, c))
            found.append(h)
        return found

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.stem(x))
        steps = [h[:, :, i] for i in range(h.shape[-1])]
        forth, back = self.run(self.left, steps), self.run(self.right, steps[::-1])[::-1]
        return self.out(torch.stack([torch.cat([a, b], dim=1) for a, b in zip(forth, back, strict=True)], 1).mean(1))


IDS = Tokens(["[PAD]", "A", "C", "G", "T", "N"])
MAPS: dict[str, Any] = {"atac": ".", "rna": "+-.", "contacts": Tracks("...", layout="n l l c")}

MORE = [
    Family(AlphaGenomeLike, torch.zeros(2, 64, 4), {"layout": "n l c", "outputs": MAPS}),
    Family(LyraLike, torch.zeros(2, 4, 32)),
    Family(BothWaysHyena, torch.zeros(2, 24, dtype=torch.long), {"inputs": IDS}),
    Family(ParmLike, torch.zeros(2, 4, 61)),
    Family(TwoCells, torch.zeros(2, 4, 12)),
]
"""Converted in the slow run."""
