"""More networks in the style of published ones, with the ways of writing that their authors have."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from einops.layers.torch import EinMix
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from rcps_convert import Channels, Tokens, Tracks, UpperTriangle

from .attention import relative_shift
from .family import Family


class BorzoiAttention(nn.Module):
    """Relative attention with central masks of distance, even and odd."""

    def __init__(self, c: int, heads: int = 2, features: int = 4) -> None:
        super().__init__()
        self.heads, self.features = heads, features
        self.q, self.k, self.v = (nn.Linear(c, 4 * heads, bias=False) for _ in range(3))
        self.rel, self.back = nn.Linear(features, 4 * heads, bias=False), nn.Linear(4 * heads, c)
        self.content, self.position = (nn.Parameter(torch.randn(1, heads, 1, 4)) for _ in range(2))
        self.drop = nn.Dropout(0.05)

    def masks(self, n: int, device: Any) -> Tensor:
        at, half = torch.arange(-n + 1, n, device=device), self.features // 2
        widths = torch.pow(math.exp(math.log(n + 1) / half), torch.arange(1, half + 1, device=device)).float() - 1
        even = (widths[None] > at.abs()[:, None]).float()
        return torch.cat([even, torch.sign(at)[:, None] * even], -1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (rearrange(f(x), "b n (h d) -> b h n d", h=self.heads) for f in (self.q, self.k, self.v))
        rel = rearrange(self.rel(self.drop(self.masks(x.shape[1], x.device))), "n (h d) -> h n d", h=self.heads)
        scores = torch.einsum("b h i d, b h j d -> b h i j", q / 2 + self.content, k)
        scores = scores + relative_shift(torch.einsum("b h i d, h j d -> b h i j", q / 2 + self.position, rel))
        y = torch.einsum("b h i j, b h j d -> b h i d", self.drop(scores.softmax(-1)), v)
        return self.back(rearrange(y, "b h n d -> b n (h d)"))


class BorzoiLike(nn.Module):
    """Pooled tower, relative attention, a U-net back up, cropped. (N, 4, 128) -> (N, 3, 12)."""

    def __init__(self, c: int = 12) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv1d(4, c, 15, padding="same"), nn.MaxPool1d(2))
        self.tower = nn.Sequential(self.block(c, c, 5), nn.MaxPool1d(2), self.block(c, c, 5))
        self.lower, self.pool = nn.Sequential(nn.MaxPool1d(2), self.block(c, c, 5)), nn.MaxPool1d(2)
        self.across = nn.ModuleList(self.block(c, c, 1) for _ in range(2))
        self.norm, self.attention = nn.LayerNorm(c, eps=0.001), BorzoiAttention(c)
        self.up = nn.ModuleList(nn.Sequential(self.block(c, c, 1), nn.Upsample(scale_factor=2)) for _ in range(2))
        self.separable = nn.ModuleList(
            nn.Sequential(nn.Conv1d(c, c, 3, padding="same", groups=c, bias=False), nn.Conv1d(c, c, 1))
            for _ in range(2)
        )
        self.last = nn.Sequential(self.block(c, 20, 1), nn.Dropout(0.1), nn.GELU(approximate="tanh"))
        self.head = nn.Conv1d(20, 3, 1)

    def block(self, a: int, b: int, k: int) -> nn.Module:
        return nn.Sequential(nn.BatchNorm1d(a), nn.GELU(approximate="tanh"), nn.Conv1d(a, b, k, padding="same"))

    def forward(self, x: Tensor) -> Tensor:
        top = self.tower(self.stem(x))
        low = self.lower(top)
        h = self.pool(low).permute(0, 2, 1)
        h = (h + self.attention(self.norm(h))).permute(0, 2, 1)
        for up, across, separable, skip in zip(self.up, self.across, self.separable, (low, top), strict=True):
            h = up(h)
            h += across(skip)
            h = separable(h)
        trim = (12 - h.shape[-1]) // 2
        h = self.last(h[..., -trim:trim])
        with torch.autocast("cpu", enabled=False):
            return F.softplus(self.head(h.float()))


class SpliceTransformerLike(nn.Module):
    """Dilated convolutions, axial positions, attention; a softmax and usages per position. (N, 4, 48) -> (N, 5, 32)."""

    def __init__(self, c: int = 12) -> None:
        super().__init__()
        self.stem = nn.Conv1d(4, c, 1)
        self.block = nn.Sequential(nn.BatchNorm1d(c), nn.LeakyReLU(0.1), nn.Conv1d(c, c, 11, padding=10, dilation=2))
        self.rows, self.columns = nn.Parameter(torch.randn(1, 6, 1, c)), nn.Parameter(torch.randn(1, 1, 8, c))
        self.attention, self.norm = nn.MultiheadAttention(c, 3, batch_first=True), nn.LayerNorm(c)
        self.splice, self.usage = nn.Conv1d(c, 3, 1), nn.Conv1d(c, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        h = (h + self.block(h)).transpose(1, 2)
        b, t, e = h.shape
        h = h + sum(w.expand(b, 6, 8, e).reshape(b, 48, e) for w in (self.rows, self.columns))[:, :t].to(h)  # type: ignore[index]
        y = self.norm(h)
        h = (h + self.attention(y, y, y, need_weights=False)[0]).transpose(1, 2)[:, :, 8 : t - 8]
        return torch.cat([F.softmax(self.splice(h), dim=1), torch.sigmoid(self.usage(h))], dim=1)


class Mamba(nn.Module):
    """A selective scan, position by position."""

    def __init__(self, d: int, n: int = 3) -> None:
        super().__init__()
        self.into, self.back = nn.Linear(d, 4 * d, bias=False), nn.Linear(2 * d, d, bias=False)
        self.conv = nn.Conv1d(2 * d, 2 * d, 4, groups=2 * d, padding=3)
        self.project, self.steps, self.n = nn.Linear(2 * d, 2 + 2 * n, bias=False), nn.Linear(2, 2 * d), n
        self.log_a = nn.Parameter(torch.log(torch.arange(1, n + 1).float()).repeat(2 * d, 1))
        self.skip = nn.Parameter(torch.ones(2 * d))

    def forward(self, x: Tensor) -> Tensor:
        h, gate = self.into(x).chunk(2, dim=-1)
        u = F.silu(self.conv(h.transpose(1, 2))[:, :, : x.shape[1]].transpose(1, 2))
        delta, b, c = self.project(u).split([2, self.n, self.n], dim=-1)
        delta = F.softplus(self.steps(delta))
        decay = torch.exp(torch.einsum("bld,dn->bldn", delta, -torch.exp(self.log_a.float())))
        update = torch.einsum("bld,bln,bld->bldn", delta, b, u)
        state, made = torch.zeros_like(update[:, 0]), []
        for i in range(u.shape[1]):
            state = decay[:, i] * state + update[:, i]
            made.append(torch.einsum("bdn,bn->bd", state, c[:, i]))
        return self.back((torch.stack(made, dim=1) + u * self.skip) * F.silu(gate))


class CaduceusLike(nn.Module):
    """A language model: scans from either end, shared projections, RMS norms, tied scores. (N, 8) -> (N, 8, 7)."""

    def __init__(self, d: int = 4) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(7, d), nn.Linear(d, 7, bias=False)
        self.head.weight = self.embed.weight
        self.forth, self.back = Mamba(d), Mamba(d)
        self.back.into.weight, self.back.back.weight = self.forth.into.weight, self.forth.back.weight
        self.scales = nn.ParameterList([nn.Parameter(torch.ones(d)) for _ in range(2)])

    def norm(self, x: Tensor, i: int) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.scales[i]

    def forward(self, ids: Tensor) -> Tensor:
        residual = self.embed(ids)
        h = self.norm(residual, 0)
        h = self.forth(h) + self.back(h.flip(dims=(1,))).flip(dims=(1,))
        return self.head(self.norm(residual + h, 1)).float()


class ChannelsFirstNorm(nn.Module):
    """Layer norm over the channels of (N, C, L), written out."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(c)), nn.Parameter(torch.zeros(c))

    def forward(self, x: Tensor) -> Tensor:
        u = x.mean(1, keepdim=True)
        s = (x - u).pow(2).mean(1, keepdim=True)
        return self.weight[:, None] * ((x - u) / torch.sqrt(s + 1e-6)) + self.bias[:, None]


class ConvNeXtLike(nn.Module):
    """Patchify stem, depthwise kernels, layer scale, paths dropped at random. (N, 4, 64) -> (N, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([
            nn.Sequential(nn.Conv1d(4, 8, 4, stride=4), ChannelsFirstNorm(8)),
            nn.Sequential(ChannelsFirstNorm(8), nn.Conv1d(8, 12, 2, stride=2)),
        ])  # fmt: skip
        self.depthwise = nn.ModuleList(nn.Conv1d(c, c, 7, padding=3, groups=c) for c in (8, 12))
        self.point = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(c), nn.Linear(c, 4 * c), nn.GELU(), nn.Linear(4 * c, c)) for c in (8, 12)
        )
        self.scale = nn.ParameterList([nn.Parameter(0.1 * torch.ones(c)) for c in (8, 12)])
        self.norm, self.head = nn.LayerNorm(12), nn.Linear(12, 3)

    def dropped(self, x: Tensor, p: float = 0.1) -> Tensor:
        if not self.training:
            return x
        kept = (1 - p + torch.rand((x.shape[0],) + (1,) * (x.ndim - 1), dtype=x.dtype, device=x.device)).floor_()
        return x.div(1 - p) * kept

    def forward(self, x: Tensor) -> Tensor:
        for down, deep, point, scale in zip(self.down, self.depthwise, self.point, self.scale, strict=True):
            x = down(x)
            x = x + self.dropped((scale * point(deep(x).permute(0, 2, 1))).permute(0, 2, 1))
        return self.head(self.norm(x.mean(-1)))


class DenseNetLike(nn.Module):
    """Strided stem, dense blocks with checkpointed bottlenecks, a transition. (N, 4, 64) -> (N, 2)."""

    def __init__(self, growth: int = 5) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv1d(4, 8, 7, stride=2, padding=3, bias=False), nn.BatchNorm1d(8), nn.ReLU(inplace=True),
            nn.MaxPool1d(3, 2, padding=1),
        )  # fmt: skip
        self.narrow = nn.ModuleList(self.layer(8 + i * growth, 2 * growth, 1) for i in range(3))
        self.wide = nn.ModuleList(self.layer(2 * growth, growth, 3) for _ in range(3))
        self.transition = nn.Sequential(self.layer(8 + 3 * growth, 11, 1), nn.AvgPool1d(2, 2), nn.BatchNorm1d(11))
        self.classifier = nn.Linear(11, 2)

    def layer(self, a: int, b: int, k: int) -> nn.Module:
        return nn.Sequential(nn.BatchNorm1d(a), nn.ReLU(inplace=True), nn.Conv1d(a, b, k, padding=k // 2, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        found = [self.stem(x)]
        for narrow, wide in zip(self.narrow, self.wide, strict=True):
            h = checkpoint(lambda *xs, f=narrow: f(torch.cat(xs, 1)), *found, use_reentrant=False)
            found.append(F.dropout(wide(h), p=0.1, training=self.training))
        h = F.relu(self.transition(torch.cat(found, 1)), inplace=True)
        return self.classifier(torch.flatten(F.adaptive_avg_pool1d(h, 1), 1))


class DreamLike(nn.Module):
    """Six channels, bilinear squeeze-excite, a distribution over bins and its mean. (N, 6, 40) -> (N, 9) and (N,)."""

    def __init__(self, c: int = 8, bins: int = 9) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv1d(6, c, 7, padding="same", bias=False), nn.BatchNorm1d(c), nn.SiLU())
        self.expand = nn.Sequential(nn.Conv1d(c, 4 * c, 1), nn.BatchNorm1d(4 * c), nn.SiLU())
        self.deep = nn.Conv1d(4 * c, 4 * c, 7, groups=2 * c, padding="same", bias=False)
        self.squeeze, self.excite = nn.Linear(4 * c, 4), nn.Linear(6, 4 * c)
        self.pairs = nn.Parameter(torch.randn(4, 2, 4) / 4)
        self.shrink, self.mapper = nn.Conv1d(4 * c, c, 1), nn.Conv1d(2 * c, bins, 1)
        self.register_buffer("bins", torch.arange(bins))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.stem(x)
        g = F.silu(self.deep(self.expand(h)))
        y = self.squeeze(g.view(*g.shape[:2], -1).mean(dim=2))
        y = torch.concat((y, torch.einsum("bi,irj,bj->br", y, self.pairs, y)), dim=-1)
        g = g * torch.sigmoid(self.excite(F.silu(y)))[..., None]
        z = F.adaptive_avg_pool1d(self.mapper(torch.cat([h, self.shrink(g)], 1)), 1).squeeze(2)
        return F.log_softmax(z, dim=1), (F.softmax(z, dim=1) * self.bins).sum(dim=1)


class TwoAlleles(nn.Module):
    """One encoder for reference and alternative, compared in several ways. Twice (N, 4, 40) -> a dict."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv1d(4, c, 7, padding="same"), nn.BatchNorm1d(c), nn.ReLU(), nn.MaxPool1d(4), nn.Conv1d(c, c, 5)
        )
        self.effect, self.score = nn.Sequential(nn.Linear(3 * c, 10), nn.LeakyReLU(), nn.Linear(10, 1)), nn.Linear(c, 1)

    def forward(self, ref: Tensor, alt: Tensor) -> dict[str, Tensor]:
        a, b = torch.max(self.encoder(ref), dim=-1)[0], self.encoder(alt).max(dim=-1).values
        return {
            "effect": self.effect(torch.cat([a, b, torch.abs(a - b)], dim=1)),
            "delta": self.score(b) - self.score(a),
            "similarity": F.cosine_similarity(a, b),
            "distance": F.pairwise_distance(a, b),
        }


class BothStrandsFirst(nn.Conv1d):
    """Kernels and their reverse complements side by side, made by hand."""

    def forward(self, x: Tensor) -> Tensor:
        assert self.bias is not None
        return F.conv1d(
            x, torch.cat([self.weight, self.weight.flip([1, 2])]), self.bias.repeat(2), padding=self.padding
        )


class HandMadeFirstLayer(nn.Module):
    """A first layer that is equivariant by hand, and a plain network behind it. (N, 4, 32) -> (N, 4)."""

    def __init__(self, c: int = 6) -> None:
        super().__init__()
        self.first, self.norm = BothStrandsFirst(4, c, 9, padding=4), nn.BatchNorm1d(2 * c)
        self.conv, self.out = nn.Conv1d(2 * c, 10, 5, padding=2), nn.Linear(80, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = F.max_pool1d(F.relu(self.norm(self.first(x))), 4)
        return self.out(F.relu(self.conv(h)).flatten(1))


class Autoencoder(nn.Module):
    """A variational bottleneck, transposed convolutions back to bases. (N, 4, 32) -> (N, 4, 32) and two (N, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(
            nn.Conv1d(4, 8, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv1d(8, 12, 4, 2, 1),
            nn.BatchNorm1d(12),
            nn.LeakyReLU(0.2),
        )
        self.mean, self.spread, self.project = nn.Linear(96, 5), nn.Linear(96, 5), nn.Linear(5, 96)
        self.decode = nn.Sequential(
            nn.ConvTranspose1d(12, 8, 4, 2, 1, bias=False), nn.BatchNorm1d(8), nn.ReLU(True),
            nn.ConvTranspose1d(8, 4, 4, 2, 1), nn.Softmax(dim=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.encode(x).view(x.size(0), -1)
        mean, spread = self.mean(h), self.spread(h)
        return self.decode(self.project(mean).view(-1, 12, 8)), mean, spread


class Regions(nn.Module):
    """Gated attention over the regions of a gene, with distances. (N, 3, 4, 20) and (N, 3) -> (N, 1) and (N, 3)."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.cnn = nn.Sequential(nn.Conv1d(4, c, 5, padding=2), nn.ReLU(), nn.AdaptiveMaxPool1d(1), nn.Flatten())
        self.v, self.u, self.w, self.out = nn.Linear(c + 1, 5), nn.Linear(c + 1, 5), nn.Linear(5, 1), nn.Linear(c, 1)

    def forward(self, x: Tensor, far: Tensor) -> tuple[Tensor, Tensor]:
        b, r, a, n = x.shape
        h = self.cnn(x.reshape(b * r, a, n)).reshape(b, r, -1)
        z = torch.cat([h, torch.log1p(far).unsqueeze(-1)], -1)
        weights = F.softmax(self.w(torch.tanh(self.v(z)) * torch.sigmoid(self.u(z))).transpose(2, 1), dim=2)
        return self.out(torch.bmm(weights, h).squeeze(1)), weights.squeeze(1)


class COrigamiLike(nn.Module):
    """Sequence and two signals, an encoder layer, a 2-D decoder of all pairs. (N, 32, 7) -> (N, 8, 8)."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.seq = nn.Sequential(nn.Conv1d(5, c, 3, 2, 1), nn.BatchNorm1d(c), nn.ReLU())
        self.epi = nn.Sequential(nn.Conv1d(2, c, 3, 2, 1), nn.BatchNorm1d(c), nn.ReLU())
        self.join = nn.Conv1d(2 * c, c, 1)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(c, 2, 16, dropout=0.1, batch_first=True), 1)
        self.start, self.out = nn.Conv2d(2 * c, c, 3, 1, 1), nn.Conv2d(c, 1, 1)
        self.deep = nn.Sequential(nn.Conv2d(c, c, 3, padding=2, dilation=2), nn.BatchNorm2d(c))

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2).contiguous().float()
        h = self.join(torch.cat([self.seq(x[:, :5]), self.epi(x[:, 5:])], dim=1))
        h = self.encoder(F.max_pool1d(h, 2).transpose(1, 2)).transpose(1, 2)
        n = h.shape[2]
        m = F.relu(self.start(torch.cat([h.unsqueeze(2).repeat(1, 1, n, 1), h.unsqueeze(3).repeat(1, 1, 1, n)], 1)))
        return self.out(F.relu(self.deep(m) + m)).squeeze(1)


class UpperContacts(nn.Module):
    """Akita's end: a map, cropped, of which the contacts above a diagonal are kept. (N, 4, 48) -> (N, 36, 2)."""

    def __init__(self, c: int = 6) -> None:
        super().__init__()
        self.tower = nn.Sequential(nn.Conv1d(4, c, 7, padding=3), nn.ReLU(), nn.MaxPool1d(4))
        self.mix, self.head = nn.Conv2d(c, c, 3, padding=1), nn.Linear(c, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.tower(x).transpose(1, 2)
        one = h.unsqueeze(2).expand(-1, -1, h.shape[1], -1)
        m = self.mix(torch.stack([one, one.permute(0, 2, 1, 3)], -1).mean(-1).permute(0, 3, 1, 2))
        m = (0.5 * (m + m.permute(0, 1, 3, 2)))[:, :, 1:-1, 1:-1].permute(0, 2, 3, 1)
        n = m.shape[1]
        i, j = torch.triu_indices(n, n, offset=2)
        return self.head(m.reshape(len(m), n * n, -1)[:, i * n + j, :])


class BlurPool(nn.Module):
    """Strides behind a fixed smoothing kernel."""

    def __init__(self, c: int, kernel: list[float]) -> None:
        super().__init__()
        k = torch.tensor(kernel)
        self.register_buffer("kernel", (k / k.sum())[None, None].repeat(c, 1, 1))
        self.pad = nn.ReflectionPad1d(((len(k) - 1) // 2, math.ceil((len(k) - 1) / 2)))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv1d(self.pad(x), self.kernel, stride=2, groups=x.shape[1])


class AntiAliased(nn.Module):
    """Spectral and weight norm, smoothed strides, a convolutional squeeze-excite. (N, 4, 40) -> (N, 2)."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.one = parametrizations.spectral_norm(nn.Conv1d(4, c, 7, padding=3))
        self.two = parametrizations.weight_norm(nn.Conv1d(c, c, 5, padding=2))
        self.pools = nn.ModuleList([BlurPool(c, [1.0, 2.0, 1.0]), BlurPool(c, [1.0, 3.0, 3.0, 1.0])])
        self.gate = nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.Conv1d(c, 3, 1), nn.ReLU(), nn.Conv1d(3, c, 1))
        self.out = nn.Linear(c, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.pools[1](F.leaky_relu(self.two(self.pools[0](F.leaky_relu(self.one(x))))))
        return self.out((h * F.hardsigmoid(self.gate(h))).mean(-1))


class Performer(nn.Module):
    """Attention by random features in a buffer. (N, 4, 24) -> (N, 2)."""

    def __init__(self, c: int = 8, features: int = 6) -> None:
        super().__init__()
        self.stem, self.qkv, self.out = nn.Conv1d(4, c, 3, padding=1), nn.Linear(c, 3 * c), nn.Linear(c, 2)
        self.register_buffer("drawn", torch.randn(features, c // 2))

    def kernel(self, x: Tensor, over: tuple[int, ...]) -> Tensor:
        x = x * x.shape[-1] ** -0.25
        dash = torch.einsum("...id,jd->...ij", x, self.drawn)
        diagonal = (x**2).sum(-1, keepdim=True) / 2
        return torch.exp(dash - diagonal - torch.amax(dash, dim=over, keepdim=True).detach()) + 1e-4

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(self.stem(x).mT), "b n (three h d) -> three b h n d", three=3, h=2)
        q, k = self.kernel(q, (-1,)), self.kernel(k, (-1, -2))
        scale = 1.0 / torch.einsum("...nd,...d->...n", q, k.sum(dim=-2))
        y = torch.einsum("...de,...nd,...n->...ne", torch.einsum("...nd,...ne->...de", k, v), q, scale)
        return self.out(rearrange(y, "b h n d -> b n (h d)").mean(1))


class CellTypeQueries(nn.Module):
    """nn.Transformer: an encoder over positions, a decoder over one query per cell type. (N, 4, 24) -> (N, 5)."""

    def __init__(self, c: int = 12) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv1d(4, c, 5, padding=2), nn.GELU(), nn.AvgPool1d(2))
        self.body = nn.Transformer(c, 2, 1, 1, 16, 0.1, F.gelu, batch_first=True, norm_first=True)
        self.cells, self.out = nn.Embedding(5, c), nn.Linear(c, 1)

    def forward(self, x: Tensor) -> Tensor:
        q = self.cells.weight.unsqueeze(0).repeat(x.size(0), 1, 1)
        return self.out(self.body(self.stem(x).transpose(1, 2), q)).squeeze(-1)


class MixerLike(nn.Module):
    """Patches and both mixings as einops layers. (N, 4, 32) -> (N, 3)."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.cut = EinMix("b a (n p) -> b n c", weight_shape="a p c", bias_shape="c", a=4, p=4, c=c)
        self.tokens = EinMix("b n c -> b m c", weight_shape="n m", bias_shape="m", n=8, m=10)
        self.back = EinMix("b m c -> b n c", weight_shape="m n", bias_shape="n", n=8, m=10)
        self.norm, self.mix, self.out = nn.LayerNorm(c), nn.Linear(c, c), nn.Linear(c, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.cut(x)
        h = h + self.back(F.gelu(self.tokens(self.norm(h))))
        return self.out(reduce(h + self.mix(h), "b n c -> b c", "mean"))


class CroppedSkips(nn.Module):
    """A U-net of valid convolutions whose skips are cropped to fit. (N, 4, 48) -> (N, 1, 22)."""

    def __init__(self, c: int = 6) -> None:
        super().__init__()
        self.down = nn.ModuleList([nn.Conv1d(4, c, 5), nn.Conv1d(c, c, 5), nn.Conv1d(c, c, 3)])
        self.up = nn.ModuleList(nn.ConvTranspose1d(c, c, 2, 2) for _ in range(2))
        self.join, self.out = nn.ModuleList(nn.Conv1d(2 * c, c, 3) for _ in range(2)), nn.Conv1d(c, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        top = F.relu(self.down[0](x))
        middle = F.relu(self.down[1](F.max_pool1d(top, 2)))
        h = F.relu(self.down[2](F.max_pool1d(middle, 2)))
        for up, join, skip in zip(self.up, self.join, (middle, top), strict=True):
            h = up(h)
            extra = skip.shape[-1] - h.shape[-1]
            h = F.relu(join(torch.cat([skip[:, :, extra // 2 : extra // 2 + h.shape[-1]], h], 1)))
        return self.out(h)


class PaddedSkips(nn.Module):
    """A U-net that is interpolated back up and padded to the size of each skip. (N, 4, 24) -> (N, 1, 24)."""

    def __init__(self, c: int = 6) -> None:
        super().__init__()
        self.down = nn.ModuleList(nn.Conv1d(4 if i == 0 else c, c, 5, padding=2) for i in range(3))
        self.join, self.out = nn.ModuleList(nn.Conv1d(2 * c, c, 3, padding=1) for _ in range(2)), nn.Conv1d(c, 1, 1)
        self.up = nn.Upsample(scale_factor=2, mode="linear", align_corners=True)

    def forward(self, x: Tensor) -> Tensor:
        top = F.relu(self.down[0](x))
        middle = F.relu(self.down[1](F.max_pool1d(top, 2)))
        h = F.relu(self.down[2](F.max_pool1d(middle, 2)))
        for join, skip in zip(self.join, (middle, top), strict=True):
            h = self.up(h)
            lacks = skip.size(2) - h.size(2)
            h = F.relu(join(torch.cat([skip, F.pad(h, [lacks // 2, lacks - lacks // 2])], dim=1)))
        return self.out(h)


class Capsules(nn.Module):
    """Capsules whose votes are routed by agreement. (N, 4, 32) -> (N, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.primary = nn.Conv1d(4, 8, 5, padding=2), nn.Conv1d(8, 12, 5, stride=2)
        self.votes = nn.Parameter(torch.randn(2, 56, 3, 5) * 0.3)

    def squash(self, s: Tensor) -> Tensor:
        square = torch.sum(s**2, dim=-1, keepdim=True)
        return square / (1 + square) * s / torch.sqrt(square + 1e-8)

    def forward(self, x: Tensor) -> Tensor:
        u = self.primary(F.relu(self.stem(x))).view(x.size(0), 4, 3, -1)
        u = self.squash(u.permute(0, 1, 3, 2).contiguous().view(x.size(0), -1, 3))
        said = torch.matmul(u[:, None, :, None, :], self.votes[None]).squeeze(3)
        b = torch.zeros(*said.shape[:3], device=x.device)
        for _ in range(2):
            v = self.squash((F.softmax(b, dim=1).unsqueeze(-1) * said).sum(2))
            b = b + (said * v.unsqueeze(2)).sum(-1)
        return self.squash((F.softmax(b, dim=1).unsqueeze(-1) * said).sum(2)).norm(dim=-1)


class Labelled(NamedTuple):
    """What a model of Hugging Face's kind returns."""

    loss: Tensor | None
    logits: Tensor
    hidden: Tensor


class WithLabels(nn.Module):
    """A loss inside of forward. (N, 4, 24) and (N, 3) -> loss, logits, hidden."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv1d(4, c, 5, padding=2), nn.Linear(c, 3)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Labelled:
        h = F.relu(self.conv(x)).mean(-1)
        y = self.out(h)
        return Labelled(None if labels is None else F.binary_cross_entropy_with_logits(y, labels), y, h)


class AdditiveAttention(nn.Module):
    """Two recurrent layers; their last states ask, their outputs answer (Bahdanau). (N, 4, 24) -> (N, 2)."""

    def __init__(self, c: int = 8, h: int = 5) -> None:
        super().__init__()
        self.conv, self.gru = nn.Conv1d(4, c, 5, padding=2), nn.GRU(c, h, 2, bidirectional=True, batch_first=True)
        self.keys, self.asks, self.score = nn.Linear(2 * h, 6), nn.Linear(2 * h, 6), nn.Linear(6, 1)
        self.out = nn.Linear(2 * h, 2)

    def forward(self, x: Tensor) -> Tensor:
        y, state = self.gru(F.relu(self.conv(x)).permute(0, 2, 1))
        last = state.view(2, 2, x.size(0), -1)[-1]
        asked = torch.cat((last[0], last[1]), dim=1).unsqueeze(1)
        weights = torch.softmax(self.score(torch.tanh(self.keys(y) + self.asks(asked))), dim=1)
        return self.out((weights * y).sum(dim=1))


class MadeKernels(nn.Module):
    """Kernels made from a cell type, for each sample its own. (N, 4, 24) and (N,) -> (N, 1)."""

    def __init__(self, c: int = 6, k: int = 5) -> None:
        super().__init__()
        self.cells, self.make, self.out, self.k = nn.Embedding(3, 4), nn.Linear(4, c * 4 * k), nn.Linear(c, 1), k

    def forward(self, x: Tensor, cell: Tensor) -> Tensor:
        b = x.shape[0]
        w = self.make(self.cells(cell)).view(-1, 4, self.k)
        h = F.conv1d(x.reshape(1, b * 4, -1), w, padding=self.k // 2, groups=b)
        return self.out(F.relu(h.view(b, -1, x.shape[-1])).mean(-1))


class AxialMap(nn.Module):
    """All pairs of bins, attention along rows and columns, symmetrised. (N, 4, 32) -> (N, 8, 8)."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.tower = nn.Sequential(nn.Conv1d(4, c, 5, padding=2), nn.ReLU(), nn.MaxPool1d(4))
        self.mix, self.out = nn.Conv2d(2 * c, c, 1), nn.Conv2d(c, 1, 1)
        self.axes = nn.ModuleList(nn.MultiheadAttention(c, 2, batch_first=True) for _ in range(2))

    def along(self, attention: nn.Module, m: Tensor) -> Tensor:
        rows = m.reshape(-1, *m.shape[2:])
        return attention(rows, rows, rows, need_weights=False)[0].view_as(m)

    def forward(self, x: Tensor) -> Tensor:
        h = self.tower(x)
        n = h.shape[-1]
        m = torch.cat([h.unsqueeze(3).expand(-1, -1, -1, n), h.unsqueeze(2).expand(-1, -1, n, -1)], 1)
        m = self.mix(m).permute(0, 2, 3, 1)
        m = m + self.along(self.axes[0], m) + self.along(self.axes[1], m.transpose(1, 2)).transpose(1, 2)
        y = self.out(m.permute(0, 3, 1, 2)).squeeze(1)
        return (y + y.transpose(1, 2)) / 2


class TaskHeads(nn.Module):
    """The first BPNet: wide transposed convolutions, a profile and counts per task. (N, 4, 40) -> nested dicts."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv1d(4, c, 25, padding=12)
        self.deep = nn.ModuleList(nn.Conv1d(c, c, 3, padding=2**i, dilation=2**i) for i in range(1, 4))
        self.profiles = nn.ModuleDict({t: nn.ConvTranspose1d(c, 2, 25, padding=12) for t in ("Oct4", "Sox2")})
        self.weights = nn.ParameterDict({t: nn.Parameter(torch.randn(2, c) / 3) for t in ("Oct4", "Sox2")})

    def forward(self, x: Tensor) -> dict[str, dict[str, Tensor]]:
        h = F.relu(self.stem(x))
        for conv in self.deep:
            h = F.relu(conv(h)) + h
        counts = {t: F.linear(h.mean(-1), w) for t, w in self.weights.items()}
        return {t: {"profile": f(h), "counts": counts[t]} for t, f in self.profiles.items()}


class TwoLongConvolutions(nn.Module):
    """Long causal convolutions from either end, each by Fourier transforms. (N, 4, 24) -> (N, 2)."""

    def __init__(self, c: int = 6) -> None:
        super().__init__()
        self.stem, self.out = nn.Conv1d(4, c, 1), nn.Linear(c, 2)
        self.forth, self.back = (nn.Parameter(torch.randn(c, 24) / 5) for _ in range(2))

    def long(self, u: Tensor, kernel: Tensor) -> Tensor:
        n = 2 * u.shape[-1]
        return torch.fft.irfft(torch.fft.rfft(u, n=n) * torch.fft.rfft(kernel, n=n), n=n)[..., : u.shape[-1]]

    def forward(self, x: Tensor) -> Tensor:
        u = torch.tanh(self.stem(x))
        return self.out(torch.tanh(self.long(u, self.forth) + self.long(u.flip(-1), self.back).flip(-1)).mean(-1))


class SpatialTransformer(nn.Module):
    """A learned shift and zoom of what is looked at. (N, 4, 24) -> (N, 1, 24)."""

    def __init__(self, c: int = 6) -> None:
        super().__init__()
        self.stem, self.out = nn.Conv1d(4, c, 5, padding=2), nn.Conv1d(c, 1, 1)
        self.look = nn.Sequential(
            nn.Conv1d(4, c, 5), nn.Tanh(), nn.AdaptiveAvgPool1d(3), nn.Flatten(), nn.Linear(18, 6)
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x).unsqueeze(2)
        grid = F.affine_grid(self.look(x).view(-1, 2, 3), list(h.shape), align_corners=False)
        return self.out(F.grid_sample(h, grid, align_corners=False).squeeze(2))


class Prototypes(nn.Module):
    """Distances to learned prototypes, the smallest over positions. (N, 4, 24) -> (N, 2)."""

    def __init__(self, c: int = 6) -> None:
        super().__init__()
        self.stem, self.prototypes, self.out = (
            nn.Conv1d(4, c, 7, padding=3),
            nn.Parameter(torch.randn(5, c)),
            nn.Linear(5, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        d = torch.cdist(torch.sigmoid(self.stem(x)).mT, self.prototypes).amin(1)
        return self.out(torch.log((d**2 + 1) / (d**2 + 1e-4)))


class KMaxPool(nn.Module):
    """The k largest of each filter in the order of their positions, flattened. (N, 4, 24) -> (N, 2)."""

    def __init__(self, c: int = 6) -> None:
        super().__init__()
        self.stem, self.out = nn.Conv1d(4, c, 7, padding=3), nn.Linear(4 * c, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.stem(x))
        return self.out(h.gather(2, h.topk(4, dim=2)[1].sort(dim=2)[0]).flatten(1))


VOCABULARY = Tokens(["[PAD]", "[MASK]", *"ACGTN"])
DNA = torch.zeros(2, 4, 24)
SCORES = Tracks.pairs([0, 1, 5, 4, 3, 2, 6], layout="n l c")
TASKS = {"profile": "+-", "counts": "+-"}

ZOO = [
    Family(BorzoiLike, torch.zeros(2, 4, 128)),
    Family(DreamLike, torch.zeros(2, 6, 40), {"inputs": Channels("ACGT", "..")}),
    Family(TwoAlleles, (torch.zeros(2, 4, 40),) * 2, {"inputs": ("ACGT", "ACGT")}),
    Family(UpperContacts, torch.zeros(2, 4, 48), {"outputs": UpperTriangle(2, "..")}),
    Family(CaduceusLike, torch.zeros(2, 8, dtype=torch.long), {"inputs": VOCABULARY, "outputs": SCORES}),
    Family(SpatialTransformer, DNA),
    Family(KMaxPool, DNA),
]  # fmt: skip
"""Converted in every run of the tests."""

MORE = [
    Family(SpliceTransformerLike, torch.zeros(2, 4, 48)),
    Family(ConvNeXtLike, torch.zeros(2, 4, 64)),
    Family(DenseNetLike, torch.zeros(2, 4, 64)),
    Family(HandMadeFirstLayer, torch.zeros(2, 4, 32)),
    Family(Autoencoder, torch.zeros(2, 4, 32), {"outputs": ("ACGT", "invariant", "invariant")}),
    Family(
        Regions, (torch.zeros(2, 3, 4, 20), torch.ones(2, 3)),
        {"inputs": ("ACGT", "invariant"), "layout": ("n f c l", "auto")},
    ),
    Family(COrigamiLike, torch.zeros(2, 32, 7), {"inputs": Channels("ACGTN", ".."), "layout": "n l c"}),
    Family(AntiAliased, torch.zeros(2, 4, 40)),
    Family(Performer, DNA),
    Family(CellTypeQueries, DNA),
    Family(MixerLike, torch.zeros(2, 4, 32)),
    Family(CroppedSkips, torch.zeros(2, 4, 48)),
    Family(PaddedSkips, DNA),
    Family(Capsules, torch.zeros(2, 4, 32)),
    Family(WithLabels, (DNA, torch.zeros(2, 3)), {"inputs": ("ACGT", "invariant")}),
    Family(AdditiveAttention, DNA),
    Family(MadeKernels, (DNA, torch.zeros(2, dtype=torch.long)), {"inputs": ("ACGT", "invariant")}),
    Family(AxialMap, torch.zeros(2, 4, 32)),
    Family(TaskHeads, torch.zeros(2, 4, 40), {"outputs": {"Oct4": TASKS, "Sox2": TASKS}}),
    Family(TwoLongConvolutions, DNA),
    Family(Prototypes, DNA),
]  # fmt: skip
"""Converted in the slow run."""
