"""Networks after repositories of 2023 to 2026: windows, weights of cells, scans as matrices, nucleotides of k-mers."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rcps_convert import Permutation, Tokens, Tracks

from .family import Family

TEXTS = ["[PAD]", "[MASK]", "A", "C", "G", "T", "N"]
KMERS = ["".join(letters) for letters in itertools.product("ACGT", repeat=3)] + ["<pad>", "<mask>"]
BASES, SCORES = Tokens(TEXTS, prefix=0, suffix=0), Permutation([0, 1, 5, 4, 3, 2, 6])


class Rotary(nn.Module):
    """Attention with rotary positions. (N, L, C) -> (N, L, C)."""

    def __init__(self, c: int, heads: int = 2) -> None:
        super().__init__()
        self.qkv, self.back, self.heads = nn.Linear(c, 3 * c, bias=False), nn.Linear(c, c), heads
        width = c // heads
        self.register_buffer("inv_freq", 1 / 10000 ** (torch.arange(0, width, 2) / width), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        n, length, c = x.shape
        q, k, v = self.qkv(x).view(n, length, 3, self.heads, -1).transpose(1, 3).unbind(2)
        angle = torch.outer(torch.arange(length, device=x.device).float(), self.inv_freq)  # type: ignore[arg-type]

        def turned(t: Tensor) -> Tensor:
            a, b = t.chunk(2, -1)
            return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)

        y = F.scaled_dot_product_attention(turned(q), turned(k), v)
        return self.back(y.transpose(1, 2).reshape(n, length, c))


class SegmentNTLike(nn.Module):
    """Ids of 3-mers, a U-net behind attention, two classes of each of four elements at each nucleotide.

    (N, L) -> (N, 3 L, 4, 2).
    """

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.embed, self.norm, self.attend = nn.Embedding(len(KMERS), c), nn.LayerNorm(c), Rotary(c)
        self.down, self.up, self.head = nn.Conv1d(c, c, 3, padding=1), nn.Conv1d(c, c, 3, padding=1), nn.Linear(c, 24)

    def forward(self, ids: Tensor) -> Tensor:
        h = self.embed(ids)
        h = (h + self.attend(self.norm(h))).mT
        z = F.silu(self.up(F.avg_pool1d(F.silu(self.down(h)), 2)))
        y = self.head((h + F.interpolate(z, scale_factor=2, mode="nearest")).mT)
        return y.view(len(ids), -1, 4, 2)


class GpnMsaLike(nn.Module):
    """One-hot codes of a genome beside those aligned to it from three others. (N, L) and (N, L, 3) -> (N, L, 7)."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.into, self.norm, self.attend = nn.Linear(7 * 4, c), nn.LayerNorm(c), Rotary(c)
        self.out = nn.Linear(c, 7)

    def forward(self, ids: Tensor, others: Tensor) -> Tensor:
        codes = [F.one_hot(ids, 7), F.one_hot(others, 7).flatten(2)]
        h = self.into(torch.cat([code.float() for code in codes], -1))
        return self.out(h + self.attend(self.norm(h)))


class StripedHyenaLike(nn.Module):
    """Short filters shared by groups of channels, gated, between attention; norms by the root mean square.

    (N, L) -> (N, L, 7).
    """

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.embed, self.into, self.back = nn.Embedding(7, c), nn.Linear(c, 3 * c), nn.Linear(c, c)
        self.short = nn.Conv1d(3 * c, 3 * c, 3, padding=1, groups=3 * c)
        self.filters, self.scale = nn.Parameter(torch.randn(c // 4, 7) / 5), nn.Parameter(torch.ones(c))
        self.attend = Rotary(c)

    def normed(self, h: Tensor) -> Tensor:
        return h * torch.rsqrt(h.float().pow(2).mean(-1, keepdim=True) + 1e-6).type_as(h) * self.scale

    def forward(self, ids: Tensor) -> Tensor:
        h = self.embed(ids)
        a, b, v = self.short(self.into(self.normed(h)).mT).chunk(3, 1)
        kernels = self.filters.repeat_interleave(4, 0)[:, None]
        h = h + self.back((a * F.conv1d(b * v, kernels, padding=3, groups=len(kernels))).mT)
        return F.linear(self.normed(h + self.attend(self.normed(h))), self.embed.weight)


class DragonnfruitLike(nn.Module):
    """Dilated convolutions that the state of a cell scales. (N, 4, 60) and (N, 6) -> (N, 40)."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.stem, self.out = nn.Conv1d(4, c, 21, padding=10), nn.Conv1d(c, 1, 15, padding=7)
        self.convs = nn.ModuleList(nn.Conv1d(c, c, 3, padding=2**i, dilation=2**i) for i in range(3))
        self.gates = nn.ModuleList(nn.Linear(6, c) for _ in range(3))

    def forward(self, x: Tensor, cell: Tensor) -> Tensor:
        h = self.stem(x).relu()
        for conv, gate in zip(self.convs, self.gates, strict=True):
            h = h + (conv(h) * gate(cell)[..., None]).relu()
        return self.out(h)[..., 10:-10].squeeze(1)


class EPInformerLike(nn.Module):
    """A promoter and five enhancers through one encoder, attention among them, distances; padded ones are masked.

    (N, 6, 4, 40), (N, 3) and (N, 6, 2) -> (N,).
    """

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.encode = nn.Sequential(
            nn.Conv1d(4, c, 9, padding=4), nn.ELU(), nn.MaxPool1d(4), nn.Conv1d(c, c, 5, padding=2),
            nn.BatchNorm1d(c), nn.ELU(), nn.AdaptiveMaxPool1d(1),
        )  # fmt: skip
        self.into, self.norm, self.out = nn.Linear(c + 2, c), nn.LayerNorm(c), nn.Linear(c + 3, 1)
        self.attend = nn.MultiheadAttention(c, 2, batch_first=True)

    def forward(self, regions: Tensor, rna: Tensor, features: Tensor) -> Tensor:
        z = self.encode(regions.flatten(0, 1)).view(*regions.shape[:2], -1)
        z = self.into(torch.cat([z, features], -1))
        z = self.norm(z + self.attend(z, z, z, key_padding_mask=features[..., 0] > 1)[0])
        return self.out(torch.cat([z[:, 0], rna], -1)).squeeze(-1)


class ScanAsMatrix(nn.Module):
    """The scan of Mamba-2, its decays between all positions as a matrix, from either end. (N, 4, L) -> (N, 2)."""

    def __init__(self, c: int = 8, heads: int = 2, states: int = 4) -> None:
        super().__init__()
        self.stem, self.norm, self.out = nn.Conv1d(4, c, 5, padding=2), nn.LayerNorm(c), nn.Linear(c, 2)
        self.into, self.back = nn.Linear(c, 2 * c + 2 * states + heads), nn.Linear(c, c)
        self.log_a, self.sizes = nn.Parameter(torch.rand(heads)), [c, c, states, states, heads]

    def scan(self, u: Tensor) -> Tensor:
        z, x, b, c, step = self.into(u).split(self.sizes, -1)
        step, (n, length, _) = F.softplus(step), u.shape
        past = torch.tril(torch.ones(length, length, dtype=torch.bool, device=u.device))[None, :, :, None]
        total = -(step * self.log_a.exp()).cumsum(1)
        decay = (total[:, :, None] - total[:, None]).masked_fill(~past, -1e9).exp()
        x = x.view(n, length, self.sizes[-1], -1) * step[..., None]
        y = torch.einsum("bis,bjs,bijh,bjhp->bihp", c, b, decay, x).reshape(n, length, -1)
        return self.back(y * F.silu(z))

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x).mT
        z = self.norm(h)
        return self.out((h + self.scan(z) + self.scan(z.flip(1)).flip(1)).mean(1))


class ShiftedWindows(nn.Module):
    """Attention in windows, then in windows shifted by half of one around the ends; a bias by offset (Swin).

    (N, 4, 32) -> (N, 2).
    """

    def __init__(self, c: int = 8, window: int = 8) -> None:
        super().__init__()
        self.stem, self.out, self.window = nn.Conv1d(4, c, 5, padding=2), nn.Linear(c, 2), window
        self.qkv = nn.ModuleList(nn.Linear(c, 3 * c) for _ in range(2))
        self.tables = nn.ParameterList(nn.Parameter(torch.randn(2 * window - 1)) for _ in range(2))
        at = torch.arange(window)
        self.register_buffer("offsets", at[:, None] - at + window - 1)

    def within(self, h: Tensor, i: int) -> Tensor:
        n, length, c = h.shape
        q, k, v = self.qkv[i](h).view(n, length // self.window, self.window, 3 * c).chunk(3, -1)
        return ((q @ k.mT / c**0.5 + self.tables[i][self.offsets]).softmax(-1) @ v).reshape(n, length, c)

    def forward(self, x: Tensor) -> Tensor:
        h, half = self.stem(x).mT, self.window // 2
        h = h + self.within(h, 0)
        return self.out((h + self.within(h.roll(-half, 1), 1).roll(half, 1)).mean(1))


class Neighbourhoods(nn.Module):
    """Each position attends to five around it, with a bias for each. (N, 4, L) -> (N, 2)."""

    def __init__(self, c: int = 8, around: int = 2) -> None:
        super().__init__()
        self.stem, self.qkv, self.out = nn.Conv1d(4, c, 5, padding=2), nn.Linear(c, 3 * c), nn.Linear(c, 2)
        self.bias, self.around = nn.Parameter(torch.randn(2 * around + 1)), around

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x).mT
        q, k, v = self.qkv(h).chunk(3, -1)
        k, v = (F.pad(t, (0, 0, self.around, self.around)).unfold(1, len(self.bias), 1) for t in (k, v))
        a = (torch.einsum("nlc,nlcw->nlw", q, k) + self.bias).softmax(-1)
        return self.out((h + torch.einsum("nlw,nlcw->nlc", a, v)).mean(1))


class Landmarks(nn.Module):
    """Attention by way of the means of four stretches, whose matrix is inverted by steps. (N, 4, 32) -> (N, 2)."""

    def __init__(self, c: int = 8, stretches: int = 4) -> None:
        super().__init__()
        self.stem, self.qkv, self.out = nn.Conv1d(4, c, 5, padding=2), nn.Linear(c, 3 * c), nn.Linear(c, 2)
        self.stretches = stretches

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x).mT
        q, k, v = self.qkv(h).chunk(3, -1)
        few_q, few_k = (t.unflatten(1, (self.stretches, -1)).mean(2) for t in (q, k))
        a, b, c = ((y @ z.mT).softmax(-1) for y, z in ((q, few_k), (few_q, few_k), (few_q, k)))
        eye = torch.eye(self.stretches, device=x.device)
        z = b.mT / (b.abs().sum(-2, keepdim=True).amax(-1, keepdim=True) * b.abs().sum(-1, keepdim=True).amax(-2, True))
        for _ in range(4):
            z = z @ (13 * eye - b @ z @ (15 * eye - b @ z @ (7 * eye - b @ z))) / 4
        return self.out((h + a @ z @ (c @ v)).mean(1))


class SplinesOfChannels(nn.Module):
    """A layer of learned functions, sums of bumps on a grid (KAN). (N, 4, L) -> (N, 2)."""

    def __init__(self, c: int = 8, bumps: int = 5) -> None:
        super().__init__()
        self.stem, self.norm, self.base = nn.Conv1d(4, c, 9, padding=4), nn.LayerNorm(c), nn.Linear(c, c)
        self.out, self.weight = nn.Linear(c, 2), nn.Parameter(torch.randn(c, c, bumps) / 5)
        self.register_buffer("grid", torch.linspace(-2, 2, bumps))

    def forward(self, x: Tensor) -> Tensor:
        h = F.max_pool1d(self.stem(x), 4).mT
        bumps = torch.exp(-(((self.norm(h)[..., None] - self.grid) * 1.25) ** 2))
        return self.out((self.base(F.silu(h)) + torch.einsum("nlig,oig->nlo", bumps, self.weight)).amax(1))


K_MERS = Tokens(KMERS, prefix=0, suffix=0)
NUCLEOTIDES = Tracks("....", layout="n l c f")
IDS = torch.full((2, 14), 2)

MORE = [
    Family(SegmentNTLike, torch.zeros(2, 12).long(), {"inputs": K_MERS, "outputs": NUCLEOTIDES}, True),
    Family(
        GpnMsaLike,
        (IDS, torch.full((2, 14, 3), 2)),
        {"inputs": (BASES, BASES), "layout": ("n l", "n l f"), "outputs": SCORES},
        True,
    ),
    Family(StripedHyenaLike, IDS, {"inputs": BASES, "outputs": SCORES}, True),
    Family(DragonnfruitLike, (torch.zeros(2, 4, 60), torch.zeros(2, 6)), {"inputs": ("ACGT", "invariant")}),
    Family(
        EPInformerLike,
        (torch.zeros(2, 6, 4, 40), torch.zeros(2, 3), torch.zeros(2, 6, 2)),
        {"inputs": ("ACGT", "invariant", "invariant"), "layout": ("n f c l", "auto", "auto")},
    ),
    Family(ScanAsMatrix, torch.zeros(2, 4, 12)),
    Family(ShiftedWindows, torch.zeros(2, 4, 32)),
    Family(Neighbourhoods, torch.zeros(2, 4, 20)),
    Family(Landmarks, torch.zeros(2, 4, 32)),
    Family(SplinesOfChannels, torch.zeros(2, 4, 40)),
]
"""Converted in the slow run."""
