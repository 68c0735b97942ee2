"""Networks in the ways of writing that authors have: special tokens, masks of numbers, two inputs, distributions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from rcps_convert import Channels, Permutation, Tokens, Tracks

from .family import Family


class DnaBert2Like(nn.Module):
    """Distances as a bias in a buffer, a mask of numbers, a gated layer, a masked mean. Two (N, 20) -> (N, 2)."""

    def __init__(self, texts: int = 7, d: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.words, self.types = heads, nn.Embedding(texts, d), nn.Embedding(2, d)
        self.norms = nn.ModuleList(nn.LayerNorm(d) for _ in range(3))
        self.qkv, self.back, self.head = nn.Linear(d, 3 * d), nn.Linear(d, d), nn.Linear(d, 2)
        self.gated, self.narrow = nn.Linear(d, 48, bias=False), nn.Linear(24, d)
        at = torch.arange(64)
        slopes = torch.tensor([2 ** (-8 * (i + 1) / heads) for i in range(heads)])
        self.register_buffer("alibi", slopes[:, None, None] * -(at[None] - at[:, None]).abs(), persistent=False)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        h, n = self.norms[0](self.words(ids) + self.types(torch.zeros_like(ids))), ids.shape[1]
        hidden = (1.0 - mask.unsqueeze(1).unsqueeze(2).to(h.dtype)) * -10000.0
        bias = hidden[:, :, :n, :n] + self.alibi[None, :, :n, :n]
        qkv = rearrange(self.qkv(h), "b s (t h d) -> b s t h d", t=3, h=self.heads)
        q, k, v = qkv[:, :, 0].permute(0, 2, 1, 3), qkv[:, :, 1].permute(0, 2, 3, 1), qkv[:, :, 2].permute(0, 2, 1, 3)
        weights = F.softmax(torch.matmul(q, k) / math.sqrt(q.shape[-1]) + bias, dim=-1)
        h = self.norms[1](self.back(rearrange(torch.matmul(weights, v), "b h s d -> b s (h d)")) + h)
        g = self.gated(h)
        h = self.norms[2](self.narrow(F.gelu(g[:, :, :24]) * g[:, :, 24:]) + h)
        kept = mask.unsqueeze(-1).expand(h.size()).float()
        return self.head(torch.sum(h * kept, 1) / torch.clamp(kept.sum(1), min=1e-9))


class RoFormerLike(nn.Module):
    """One buffer of sines and cosines that is chunked, neighbours turned by slices. (N, 20) -> (N, 20, 7)."""

    def __init__(self, texts: int = 7, d: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.texts, self.heads, self.embed = texts, heads, nn.Linear(16, d)
        self.q, self.k, self.v, self.back = (nn.Linear(d, d) for _ in range(4))
        self.norm, self.out = nn.LayerNorm(d), nn.Sequential(nn.Linear(d, d), nn.GELU(), nn.Linear(d, texts))
        angle = torch.arange(64)[:, None] / 10000 ** (2 * torch.arange(d // heads // 2) / (d // heads))
        self.register_buffer("waves", torch.cat([angle.sin(), angle.cos()], -1)[None, None])

    def turned(self, x: Tensor) -> Tensor:
        sin, cos = self.waves[:, :, : x.shape[2]].chunk(2, dim=-1)
        sin, cos = (torch.stack([w, w], dim=-1).reshape_as(x[:1, :1]) for w in (sin, cos))
        return x * cos + torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).reshape_as(x) * sin

    def split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).permute(0, 2, 1, 3)

    def forward(self, ids: Tensor) -> Tensor:
        h = self.embed(F.pad(F.one_hot(ids, num_classes=self.texts).float(), (0, 16 - self.texts)))
        q, k, v = self.turned(self.split(self.q(h))), self.turned(self.split(self.k(h))), self.split(self.v(h))
        y = (q @ k.transpose(-1, -2) / math.sqrt(q.size(-1))).softmax(-1) @ v
        return self.out(self.norm(h + self.back(y.permute(0, 2, 1, 3).contiguous().view(h.shape))))


class SpeciesLike(nn.Module):
    """A token of the species first, a bias by offset padded beside it. (N, 17) -> (N, 16, 7).

    Converted in `test_special_tokens`: what mirrors ids here knows of no tokens that stay.
    """

    def __init__(self, texts: int = 7, d: int = 12) -> None:
        super().__init__()
        self.embed, self.offsets, self.head = nn.Embedding(texts, d), nn.Embedding(17, 2), nn.Linear(d, texts)
        self.qkv, self.back = nn.Linear(d, 3 * d), nn.Linear(d, d)

    def forward(self, ids: Tensor) -> Tensor:
        h, at = self.embed(ids), torch.arange(ids.shape[1] - 1, device=ids.device)
        q, k, v = rearrange(self.qkv(h), "b n (t h d) -> t b h n d", t=3, h=2)
        bias = F.pad(self.offsets((at[None] - at[:, None]).clamp(-8, 8) + 8).permute(2, 0, 1), (1, 0, 1, 0))
        y = (q @ k.mT / math.sqrt(q.shape[-1]) + bias).softmax(-1) @ v
        return self.head(h + self.back(rearrange(y, "b h n d -> b n (h d)")))[:, 1:]


class DiscreteDiffusion(nn.Module):
    """Ids read by a parameter, norms told by a noise level, scores of the given text zero. (N, 16) -> (N, 16, 4)."""

    def __init__(self, d: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.embed, self.label = heads, nn.Parameter(torch.randn(4, d)), nn.Linear(2, d)
        self.level, self.told = nn.Sequential(nn.Linear(8, d), nn.SiLU(), nn.Linear(d, d)), nn.Linear(d, 6 * d)
        self.scales = nn.ParameterList([nn.Parameter(torch.ones(d)) for _ in range(2)])
        self.qkv, self.back, self.out = nn.Linear(d, 3 * d, bias=False), nn.Linear(d, d, bias=False), nn.Linear(d, 4)
        self.mix = nn.Sequential(nn.Linear(d, 2 * d), nn.GELU(approximate="tanh"), nn.Linear(2 * d, d))
        self.register_buffer("inv_freq", 1.0 / (10000 ** (torch.arange(0, d // heads, 2).float() / (d // heads))))

    def turned(self, x: Tensor) -> Tensor:
        angle = torch.einsum("i,j->ij", torch.arange(x.shape[1], device=x.device).type_as(self.inv_freq), self.inv_freq)
        angle = torch.cat((angle, angle), dim=-1)[None, :, None, None, :].repeat(1, 1, 3, 1, 1)
        cos, sin = angle.cos(), angle.sin()
        cos[:, :, 2, :, :].fill_(1.0)
        sin[:, :, 2, :, :].fill_(0.0)
        a, b = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
        return (x * cos) + (torch.cat((-b, a), dim=-1) * sin)

    def norm(self, x: Tensor, i: int, scale: Tensor, shift: Tensor) -> Tensor:
        return F.layer_norm(x, [x.shape[-1]]) * self.scales[i][None, None, :] * (1 + scale) + shift

    def forward(self, ids: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
        waves = noise[:, None] * torch.exp(-math.log(10000) * torch.arange(4, device=ids.device) / 4)
        said = F.silu(self.level(torch.cat([waves.cos(), waves.sin()], -1)) + self.label(labels))
        a, b, c, d, e, f = self.told(said)[:, None].chunk(6, dim=2)
        x = self.embed[ids]
        qkv = rearrange(self.qkv(self.norm(x, 0, a, b)), "b s (t h d) -> b s t h d", t=3, h=self.heads)
        q, k, v = rearrange(self.turned(qkv), "b s t h d -> t b h s d", t=3)
        x = x + c * self.back(rearrange(F.scaled_dot_product_attention(q, k, v), "b h s d -> b s (h d)"))
        x = self.out(x + d * self.mix(self.norm(x, 1, e, f)))
        return torch.scatter(x, -1, ids[..., None], torch.zeros_like(x[..., :1]))


class DeepCpGLike(nn.Module):
    """Bases beside the states and distances of known sites in several cells. (N, 4, 92), two (N, 3, 6) -> (N, 3)."""

    def __init__(self, cells: int = 3) -> None:
        super().__init__()
        self.one, self.two, self.dense = nn.Conv1d(4, 16, 11), nn.Conv1d(16, 12, 3), nn.Linear(108, 16)
        self.site, self.sites = nn.Linear(2, 8), nn.GRU(8, 6, bidirectional=True, batch_first=True)
        self.joint = nn.Sequential(nn.Linear(28, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 16), nn.ReLU())
        self.cells = nn.ModuleList(nn.Sequential(nn.Linear(16, 1), nn.Sigmoid()) for _ in range(cells))

    def forward(self, dna: Tensor, states: Tensor, distances: Tensor) -> Tensor:
        h = F.max_pool1d(F.relu(self.two(F.max_pool1d(F.relu(self.one(dna)), 4))), 2)
        h = F.dropout(F.relu(self.dense(h.view(h.shape[0], -1))), 0.1, self.training)
        _, last = self.sites(F.relu(self.site(torch.stack([states, distances], -1))).mean(1))
        h = self.joint(torch.cat([h, last[0], last[1]], 1))
        return torch.cat([cell(h) for cell in self.cells], 1)


class DeepGrnLike(nn.Module):
    """Attention between positions and attention from the last states. (N, 64, 5) and (N, 3) -> (N, 1)."""

    def __init__(self, d: int = 12) -> None:
        super().__init__()
        self.conv, self.d = nn.Conv1d(5, d, 11), d
        self.gru = nn.GRU(d, d // 2, bidirectional=True, batch_first=True)
        self.q, self.k, self.v, self.single = (nn.Linear(d, d) for _ in range(4))
        self.dense, self.out = nn.Linear(2 * d + 3, 10), nn.Linear(10, 1)

    def forward(self, x: Tensor, cell: Tensor) -> Tensor:
        h, last = self.gru(F.max_pool1d(F.relu(self.conv(x.transpose(1, 2))), 5).transpose(1, 2))
        weights = F.softmax(torch.matmul(self.q(h), self.k(h).transpose(-2, -1)) / math.sqrt(self.d), -1)
        asked = self.single(torch.cat((last[0], last[1]), -1).unsqueeze(1))
        one = torch.bmm(F.softmax(torch.bmm(asked, h.transpose(1, 2)) / math.sqrt(self.d), -1), h).squeeze(1)
        pairs = (torch.matmul(weights, self.v(h)) + h).max(1)[0]
        return torch.sigmoid(self.out(F.relu(self.dense(torch.cat([pairs, one, cell], 1)))))


class LeopardLike(nn.Module):
    """A U-net at the resolution of bases over bases and two signals. (N, 64, 6) -> (N, 64, 1)."""

    def __init__(self, c: int = 6) -> None:
        super().__init__()
        widths = [(6, c), (c, 9), (9, 12), (18, 9), (2 * c, c)]
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv1d(a, b, 7, padding=3), nn.BatchNorm1d(b, momentum=0.9), nn.ReLU()) for a, b in widths
        )
        self.up = nn.ModuleList([nn.ConvTranspose1d(12, 9, 2, stride=2), nn.ConvTranspose1d(9, c, 2, stride=2)])
        self.out = nn.Conv1d(c, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        top = self.blocks[0](x.permute(0, 2, 1))
        middle = self.blocks[1](F.max_pool1d(top, 2))
        h = self.blocks[2](F.max_pool1d(middle, 2))
        h = self.blocks[3](torch.cat([self.up[0](h), middle], 1))
        h = self.blocks[4](torch.cat([self.up[1](h), top], 1))
        return torch.sigmoid(self.out(h)).permute(0, 2, 1)


class DeepTactLike(nn.Module):
    """Promoter and enhancer, bases and openness, attention with bare weights; one dict. -> a dict of (N, 1)."""

    def __init__(self, d: int = 10) -> None:
        super().__init__()
        self.bases, self.open = (nn.ModuleList(nn.Conv2d(1, d, (k, 11)) for _ in range(2)) for k in (4, 3))
        self.lstm = nn.LSTM(d, d // 2, batch_first=True, bidirectional=True)
        self.w, self.v = nn.Parameter(torch.randn(d, d) / 10), nn.Parameter(torch.randn(d, 1) / 10)
        self.b, self.dense, self.out = nn.Parameter(torch.zeros(d)), nn.Linear(4 * d, 10), nn.Linear(10, 1)

    def read(self, conv: nn.Module, x: Tensor) -> Tensor:
        h = F.max_pool1d(F.relu(conv(x.unsqueeze(1))).squeeze(2), 4, 4).transpose(1, 2)
        h, _ = self.lstm(h)
        u = torch.tanh(torch.tensordot(h, self.w, dims=1) + self.b)
        return (h * torch.softmax(torch.tensordot(u, self.v, dims=([2], [0])), dim=1)).sum(1)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        bases = [self.read(c, batch[k]) for c, k in zip(self.bases, ("enhancer", "promoter"), strict=True)]
        signals = [self.read(c, batch[k]) for c, k in zip(self.open, ("enhancer_open", "promoter_open"), strict=True)]
        return {"prob": torch.sigmoid(self.out(F.relu(self.dense(torch.cat([*bases, *signals], -1)))))}


class PuffinDLike(nn.Module):
    """A U-net of residual pairs with strides of 2 and 4, strands at its end. (N, 4, 64) -> (N, 6, 64)."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.enter = nn.ModuleList(self.linear(4 if s == 1 else c, c, s) for s in (1, 2, 4))
        self.down = nn.ModuleList(nn.Sequential(self.linear(c, c, 1), nn.ReLU(inplace=True)) for _ in range(3))
        self.leave = nn.ModuleList(
            nn.Sequential(nn.Upsample(scale_factor=s), *self.linear(c, c, 1).children()) for s in (4, 2)
        )
        self.up = nn.ModuleList(nn.Sequential(self.linear(c, c, 1), nn.ReLU(inplace=True)) for _ in range(2))
        self.final = nn.Sequential(nn.Conv1d(c, c, 1), nn.ReLU(inplace=True), nn.Conv1d(c, 6, 1), nn.Softplus())

    def linear(self, a: int, b: int, stride: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv1d(a, b, 17, stride=stride, padding=8), nn.BatchNorm1d(b))

    def forward(self, x: Tensor) -> Tensor:
        encodings = []
        for enter, block in zip(self.enter, self.down, strict=True):
            y = enter(x)
            x = block(y) + y
            encodings.append(x)
        for leave, block, encoding in zip(self.leave, self.up, encodings[-2::-1], strict=True):
            y = leave(x) + encoding
            x = block(y) + y
        return self.final(x)


class FlowLike(nn.Module):
    """Flow matching on the simplex: a time, a class, dilations; scores of bases. (N, 30, 4), two (N,) -> (N, 30, 4)."""

    def __init__(self, d: int = 8) -> None:
        super().__init__()
        self.frequencies = nn.Parameter(torch.randn(d // 2) * 30, requires_grad=False)
        self.enter, self.time, self.kinds = nn.Conv1d(4, d, 9, padding=4), nn.Linear(d, d), nn.Embedding(4, d)
        self.convs = nn.ModuleList(nn.Conv1d(d, d, 9, padding=4 * k, dilation=k) for k in (1, 2))
        self.times = nn.ModuleList(nn.Linear(d, d) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(d) for _ in range(2))
        self.final = nn.Sequential(nn.Conv1d(d, d, 1), nn.ReLU(), nn.Conv1d(d, 4, 1))

    def forward(self, x: Tensor, t: Tensor, kind: Tensor) -> Tensor:
        angle = t[:, None] * self.frequencies[None, :] * 2 * math.pi
        time = F.relu(self.time(torch.cat([torch.sin(angle), torch.cos(angle)], dim=-1)))
        h, told = F.relu(self.enter(x.permute(0, 2, 1))), self.kinds(kind)
        for conv, layer, norm in zip(self.convs, self.times, self.norms, strict=True):
            y = norm((h.clone() + layer(time)[:, :, None] + told[:, :, None]).permute(0, 2, 1))
            h = F.relu(conv(y.permute(0, 2, 1))) + h
        return self.final(h).permute(0, 2, 1)


class BagOfKmers(nn.Module):
    """Embeddings of the k-mers of a sequence, summed, near to those of labels (StarSpace). (N, 20) -> (N, 6)."""

    def __init__(self, d: int = 10) -> None:
        super().__init__()
        self.bag, self.labels = nn.EmbeddingBag(16, d, mode="sum"), nn.Embedding(6, d)

    def forward(self, ids: Tensor) -> Tensor:
        h = F.normalize(self.bag(ids), dim=-1)
        return torch.einsum("nd,kd->nk", h, F.normalize(self.labels.weight, dim=-1))


@dataclass
class Counts:
    """What `CountDistribution` returns."""

    mean: Tensor
    variance: Tensor
    divergence: Tensor


class CountDistribution(nn.Module):
    """A negative binomial of counts, and a normal one that is compared with a prior. (N, 4, 24) -> `Counts`."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.stem, self.rate, self.spread = nn.Conv1d(4, c, 7, padding=3), nn.Linear(c, 2), nn.Linear(c, 2)
        self.dispersion = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Counts:
        h = F.relu(self.stem(x)).mean(-1)
        rate, scale = F.softplus(self.rate(h)) + 1e-4, F.softplus(self.spread(h)) + 1e-4
        counts = torch.distributions.NegativeBinomial(self.dispersion.exp(), logits=rate.log() - self.dispersion)
        normal, prior = torch.distributions.Normal(rate, scale), torch.distributions.Normal(0.0, 1.0)
        return Counts(counts.mean, counts.variance, torch.distributions.kl_divergence(normal, prior).sum(-1))


IDS = torch.zeros(2, 20, dtype=torch.long)
TEXTS = Tokens(["[CLS]", "[SEP]", "[MASK]", *"ACGT"], prefix=0, suffix=0)
SCORES = Permutation([0, 1, 2, 6, 5, 4, 3], layout="n l c")
DIMERS = Tokens([a + b for a in "ACGT" for b in "ACGT"])
SITES = Tracks("...", layout="n c l")
ELEMENTS = {"enhancer": (4, 50), "promoter": (4, 40), "enhancer_open": (3, 50), "promoter_open": (3, 40)}
SIGNALS: dict[str, Any] = {"enhancer": "ACGT", "promoter": "ACGT", "enhancer_open": "...", "promoter_open": "..."}

MORE = [
    Family(DnaBert2Like, (IDS, torch.ones(2, 20)), {"inputs": (TEXTS, "mask")}),
    Family(RoFormerLike, IDS, {"inputs": TEXTS, "outputs": SCORES}, rounded=True),
    Family(
        DiscreteDiffusion, (IDS[:, :16], torch.zeros(2, 2), torch.zeros(2)),
        {"inputs": (Tokens("ACGT"), "invariant", "invariant"), "outputs": Permutation([3, 2, 1, 0], layout="n l c")},
    ),
    Family(
        DeepCpGLike, (torch.zeros(3, 4, 92), torch.zeros(3, 3, 6), torch.zeros(3, 3, 6)),
        {"inputs": ("ACGT", SITES, SITES), "outputs": "invariant"},
    ),
    Family(
        DeepGrnLike, (torch.zeros(2, 64, 5), torch.zeros(2, 3)),
        {"inputs": (Channels("ACGT", "."), "invariant"), "layout": ("n l c", "auto")},
    ),
    Family(LeopardLike, torch.zeros(2, 64, 6), {"inputs": Channels("ACGT", ".."), "layout": "n l c"}),
    Family(DeepTactLike, ({k: torch.zeros(3, *s) for k, s in ELEMENTS.items()},), {"inputs": (SIGNALS,)}),
    Family(PuffinDLike, torch.zeros(2, 4, 64), {"outputs": "+-+-+-"}),
    Family(
        FlowLike, (torch.zeros(2, 30, 4), torch.zeros(2), torch.zeros(2, dtype=torch.long)),
        {"inputs": ("ACGT", "invariant", "invariant"), "outputs": Permutation([3, 2, 1, 0], layout="n l c")},
    ),
    Family(BagOfKmers, IDS, {"inputs": DIMERS}),
    Family(CountDistribution, torch.zeros(2, 4, 24)),
]  # fmt: skip
"""Converted in the slow run."""
