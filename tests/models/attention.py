"""Attention in the ways it is written, and positions in the ways they are given to it."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from einops.layers.torch import Rearrange
from torch import Tensor, nn

from .family import Family


class Attend(nn.Module):
    """Convolution, one attention block with a residual, mean, linear. (N, 4, 24) -> (N, 3).

    Subclasses say how the heads are made and what is added to the scores.
    """

    heads, width = 2, 16

    def __init__(self) -> None:
        super().__init__()
        c = self.width
        self.stem, self.norm = nn.Conv1d(4, c, 5, padding=2), nn.LayerNorm(c)
        self.qkv, self.back, self.out = nn.Linear(c, 3 * c), nn.Linear(c, c), nn.Linear(c, 3)
        self.extra(c)

    def extra(self, c: int) -> None:
        """More parameters and buffers."""

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.stem(x)).transpose(1, 2)
        h = h + self.back(self.attend(*self.split(self.qkv(self.norm(h)))))
        return self.out(h.mean(1))

    def split(self, qkv: Tensor) -> list[Tensor]:
        """Queries, keys and values, each (N, heads, L, width / heads)."""
        return list(rearrange(qkv, "b n (three h d) -> three b h n d", three=3, h=self.heads))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        return rearrange(self.bias(scores).softmax(-1) @ v, "b h n d -> b n (h d)")

    def bias(self, scores: Tensor) -> Tensor:
        """The scores with what depends on the positions."""
        return scores


class OddHeads(Attend):
    """Three heads of five channels: nothing pairs up by itself."""

    heads, width = 3, 15


class TalkingHeads(Attend):
    """Heads are mixed before and after the softmax."""

    def extra(self, c: int) -> None:
        self.before, self.after = (nn.Parameter(torch.randn(self.heads, self.heads)) for _ in range(2))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = torch.einsum("bhid,bhjd->bhij", q, k)
        weights = torch.einsum("bhij,hg->bgij", scores, self.before).softmax(-1)
        weights = torch.einsum("bhij,hg->bgij", weights, self.after)
        return torch.einsum("bhij,bhjd->bihd", weights, v).flatten(2)


class MultiQuery(Attend):
    """One key and value head for all query heads, and a learned temperature per head."""

    def extra(self, c: int) -> None:
        self.shared, self.heat = nn.Linear(c, 2 * (c // self.heads)), nn.Parameter(torch.ones(self.heads, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.stem(x)).transpose(1, 2)
        q = self.qkv(h)[..., : self.width].unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.shared(h)[:, None].chunk(2, -1)
        y = (self.heat * (q @ k.mT)).softmax(-1) @ v
        return self.out((h + self.back(y.transpose(1, 2).flatten(2))).mean(1))


class LinearAttention(Attend):
    """Keys and values are contracted over positions first."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        context = torch.einsum("bhnd,bhne->bhde", k.softmax(-2), v)
        return rearrange(torch.einsum("bhnd,bhde->bhne", q.softmax(-1), context), "b h n d -> b n (h d)")


class Alibi(Attend):
    """A penalty for distance, with a slope per head."""

    def bias(self, scores: Tensor) -> Tensor:
        at = torch.arange(scores.shape[-1])
        slopes = torch.tensor([0.5, 0.25])[:, None, None]
        return scores - slopes * (at[None] - at[:, None]).abs()


class LocalAttention(Attend):
    """A band of positions around each."""

    def bias(self, scores: Tensor) -> Tensor:
        at = torch.arange(scores.shape[-1])
        return scores.masked_fill((at[None] - at[:, None]).abs() > 5, float("-inf"))


class Buckets(Attend):
    """A learned bias per bucket of signed distances, as in T5."""

    def extra(self, c: int) -> None:
        self.table = nn.Embedding(9, self.heads)

    def bias(self, scores: Tensor) -> Tensor:
        at = torch.arange(scores.shape[-1])
        return scores + self.table((at[None] - at[:, None]).clamp(-4, 4) + 4).permute(2, 0, 1)


class OffsetTable(Attend):
    """A learned bias per offset, looked up through a buffer of indices, as in Swin."""

    def extra(self, c: int) -> None:
        at = torch.arange(24)
        self.register_buffer("index", at[None] - at[:, None] + 23)
        self.table = nn.Parameter(torch.randn(47, self.heads))

    def bias(self, scores: Tensor) -> Tensor:
        n = scores.shape[-1]
        return scores + self.table[self.index.view(-1)].view(n, n, -1).permute(2, 0, 1)


class DistanceNet(Attend):
    """A small network turns signed distances, as they are, into a bias."""

    def extra(self, c: int) -> None:
        self.net = nn.Sequential(nn.Linear(1, 6), nn.Tanh(), nn.Linear(6, 6), nn.SiLU(), nn.Linear(6, self.heads))

    def bias(self, scores: Tensor) -> Tensor:
        at = torch.arange(scores.shape[-1]) / 8
        return scores + self.net((at[None] - at[:, None])[..., None]).permute(2, 0, 1)


def angles(n: int, d: int) -> Tensor:
    """Rotary angles, (n, d / 2)."""
    return torch.arange(n)[:, None] * 10000 ** (-torch.arange(0, d, 2) / d)


class Rotary(Attend):
    """Halves of the channels are turned by their position; one attention function does the rest."""

    def turned(self, x: Tensor, angle: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        angle = torch.cat([angle, angle], -1)
        return x * angle.cos() + torch.cat([-b, a], -1) * angle.sin()

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        angle = angles(q.shape[-2], q.shape[-1])
        y = F.scaled_dot_product_attention(self.turned(q, angle), self.turned(k, angle), v)
        return rearrange(y, "b h n d -> b n (h d)")


class RotaryPairs(Rotary):
    """Neighbouring channels are turned, and the scores are written out."""

    def turned(self, x: Tensor, angle: Tensor) -> Tensor:
        a, b = rearrange(x, "... (d two) -> ... d two", two=2).unbind(-1)
        angle = angle.repeat_interleave(2, -1)
        return x * angle.cos() + torch.stack([-b, a], -1).flatten(-2) * angle.sin()

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        angle = angles(q.shape[-2], q.shape[-1])
        return super(Rotary, self).attend(self.turned(q, angle), self.turned(k, angle), v)


class RotaryComplex(Rotary):
    """Neighbouring channels are complex numbers."""

    def turned(self, x: Tensor, angle: Tensor) -> Tensor:
        z = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(z * torch.polar(torch.ones_like(angle), angle)).flatten(-2).type_as(x)


class RotaryTables(Rotary):
    """Cosines and sines are buffers, rounded to float32."""

    def extra(self, c: int) -> None:
        angle = angles(24, c // self.heads)
        self.register_buffer("cos", torch.cat([angle, angle], -1).cos())
        self.register_buffer("sin", torch.cat([angle, angle], -1).sin())

    def turned(self, x: Tensor, angle: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return x * self.cos + torch.cat([-b, a], -1) * self.sin


def relative_shift(x: Tensor) -> Tensor:
    """From offsets to pairs of positions: (N, heads, L, 2 L - 1) -> (N, heads, L, L)."""
    x = torch.cat((torch.zeros_like(x[..., :1]), x), dim=-1)
    _, h, n, m = x.shape
    x = x.reshape(-1, h, m, n)[:, :, 1:, :].reshape(-1, h, n, m - 1)
    return x[..., : (m + 1) // 2]


class EnformerLike(nn.Module):
    """Convolution tower, attention pooling, relative attention with even and odd features of distance.

    (N, 4, 96) -> (N, 12, 5).
    """

    def __init__(self, c: int = 12, heads: int = 2, features: int = 6) -> None:
        super().__init__()
        self.stem = nn.Conv1d(4, c, 15, padding=7)
        self.residual = nn.Sequential(nn.BatchNorm1d(c), nn.GELU(), nn.Conv1d(c, c, 1))
        self.pool_logits = nn.Conv2d(c, c, 1, bias=False)
        self.tower = nn.Sequential(nn.BatchNorm1d(c), nn.GELU(), nn.Conv1d(c, c, 5, padding=2), nn.MaxPool1d(4))
        self.heads, self.features = heads, features
        self.norm = nn.LayerNorm(c)
        self.q, self.k, self.v = (nn.Linear(c, c, bias=False) for _ in range(3))
        self.rel = nn.Linear(features, c, bias=False)
        self.content, self.relative = (nn.Parameter(torch.randn(1, heads, 1, c // heads)) for _ in range(2))
        self.back, self.drop = nn.Linear(c, c), nn.Dropout(0.1)
        self.ff = nn.Sequential(nn.LayerNorm(c), nn.Linear(c, 2 * c), nn.ReLU(), nn.Linear(2 * c, c))
        self.head = nn.Sequential(nn.Linear(c, 2 * c), nn.GELU(), nn.Linear(2 * c, 5), nn.Softplus())

    def pooled(self, x: Tensor) -> Tensor:
        x = rearrange(x, "b d (n p) -> b d n p", p=2)
        return (x * self.pool_logits(x).softmax(dim=-1)).sum(dim=-1)

    def position_features(self, n: int) -> Tensor:
        d = torch.arange(-n + 1, n).float()
        widths = 2.0 ** torch.arange(1, self.features // 2 + 1)
        even = torch.exp(-d.abs()[:, None] / widths) + (d.abs()[:, None] < widths)
        return torch.cat([even, torch.sign(d)[:, None] * even], -1)

    def attend(self, x: Tensor) -> Tensor:
        h = self.heads
        q, k, v = (rearrange(f(x), "b n (h d) -> b h n d", h=h) for f in (self.q, self.k, self.v))
        q = q * q.shape[-1] ** -0.5
        rel = rearrange(self.rel(self.drop(self.position_features(x.shape[1]))), "n (h d) -> h n d", h=h)
        content = torch.einsum("b h i d, b h j d -> b h i j", q + self.content, k)
        offset = relative_shift(torch.einsum("b h i d, h j d -> b h i j", q + self.relative, rel))
        weights = self.drop((content + offset).softmax(dim=-1))
        return self.back(rearrange(torch.einsum("b h i j, b h j d -> b h i d", weights, v), "b h n d -> b n (h d)"))

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        h = self.tower(self.pooled(h + self.residual(h))).transpose(1, 2)
        h = h + self.attend(self.norm(h))
        return self.head(h + self.ff(h))


class LearnedPositions(Attend):
    """A learned vector per position, looked up by number."""

    def extra(self, c: int) -> None:
        self.at = nn.Embedding(30, c)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.stem(x)).transpose(1, 2)
        h = h + self.at(torch.arange(h.shape[1]).expand(h.shape[0], -1)[:, :24])
        return self.out((h + self.back(self.attend(*self.split(self.qkv(h))))).mean(1))


class PositionTable(LearnedPositions):
    """A learned parameter (1, L, C) is added."""

    def extra(self, c: int) -> None:
        self.at = nn.Parameter(torch.randn(1, 24, c))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.stem(x)).transpose(1, 2) + self.at
        return self.out((h + self.back(self.attend(*self.split(self.qkv(h))))).mean(1))


class SinusoidBuffer(PositionTable):
    """Sines and cosines of the position, in a buffer that is averaged with its mirror image."""

    def extra(self, c: int) -> None:
        angle = angles(24, c)
        self.register_buffer("at", torch.stack([angle.sin(), angle.cos()], -1).flatten(1)[None])


class Coordinates(nn.Module):
    """Signed and absolute distance from the middle as two more channels. (N, 4, 24) -> (N, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.out = nn.Conv1d(6, 12, 5, padding=2), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        at = torch.linspace(-1, 1, x.shape[-1])
        extra = torch.stack([at, at.abs()]).expand(x.shape[0], -1, -1)
        return self.out(torch.relu(self.stem(torch.cat([x, extra], 1))).mean(-1))


class ClassToken(Attend):
    """A token that belongs to no position gathers from all; its output alone is read."""

    def extra(self, c: int) -> None:
        self.token = nn.Parameter(torch.randn(1, 1, c))
        self.attention = nn.MultiheadAttention(c, 4, batch_first=True, dropout=0.1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.stem(x)).transpose(1, 2)
        h = torch.cat([self.token.expand(h.shape[0], -1, -1), h], 1)
        h = h + self.attention(h, h, h, need_weights=False)[0]
        return self.out(h[:, 0])


class CrossAttention(nn.Module):
    """Learned queries, one per cell type, read the sequence. (N, 4, 24) -> (N, 5) and the weights."""

    def __init__(self, c: int = 12) -> None:
        super().__init__()
        self.stem = nn.Conv1d(4, c, 5, padding=2)
        self.queries = nn.Parameter(torch.randn(5, c))
        self.attention = nn.MultiheadAttention(c, 3, kdim=c, vdim=c)
        self.out = nn.Linear(c, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = F.silu(self.stem(x)).permute(2, 0, 1)
        y, weights = self.attention(self.queries[:, None].expand(-1, x.shape[0], -1), h, h)
        return self.out(y).squeeze(-1).T, weights


class Encoder(nn.Module):
    """nn.TransformerEncoder, whose layers are fused in eval mode. (N, 4, 24) -> (N, 3)."""

    def __init__(self, c: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv1d(4, c, 5, padding=2), nn.ReLU(), Rearrange("b c n -> b n c"))
        layer = nn.TransformerEncoderLayer(c, 4, 24, dropout=0.1, batch_first=True, norm_first=False)
        self.body, self.out = nn.TransformerEncoder(layer, 2), nn.Linear(c, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.body(self.stem(x)).mean(1))


class NormFirst(nn.Module):
    """Encoder layers with the norm first and GELU, over positions first; decoder queries. (N, 4, 24) -> (N, 4)."""

    def __init__(self, c: int = 12) -> None:
        super().__init__()
        self.stem = nn.Conv1d(4, c, 5, padding=2)
        self.encoder = nn.TransformerEncoderLayer(c, 3, 20, dropout=0.0, activation="gelu", norm_first=True)
        self.decoder = nn.TransformerDecoderLayer(c, 2, 20, dropout=0.0)
        self.queries, self.out = nn.Parameter(torch.randn(4, 1, c)), nn.Linear(c, 1)

    def forward(self, x: Tensor) -> Tensor:
        memory = self.encoder(self.stem(x).permute(2, 0, 1))
        return self.out(self.decoder(self.queries.expand(-1, x.shape[0], -1), memory)).squeeze(-1).T


class GatedPooling(nn.Module):
    """Attention pooling over all positions with a gated score. (N, 4, 24) -> (N, 3)."""

    def __init__(self, c: int = 12) -> None:
        super().__init__()
        self.stem = nn.Conv1d(4, c, 5, padding=2)
        self.a, self.b, self.score = nn.Linear(c, 8), nn.Linear(c, 8), nn.Linear(8, 1)
        self.out = nn.Linear(c, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = F.elu(self.stem(x)).transpose(1, 2)
        weights = self.score(torch.tanh(self.a(h)) * torch.sigmoid(self.b(h))).softmax(1)
        return self.out((weights * h).sum(1))


class Conformer(Attend):
    """Attention, a gated depthwise convolution, feed-forward halves. (N, 4, 24) -> (N, 3)."""

    def extra(self, c: int) -> None:
        self.gate, self.depth = nn.Conv1d(c, 2 * c, 1), nn.Conv1d(c, c, 7, padding=3, groups=c)
        self.bn, self.point = nn.BatchNorm1d(c), nn.Conv1d(c, c, 1)
        self.ff = nn.Sequential(nn.LayerNorm(c), nn.Linear(c, 2 * c), nn.SiLU(), nn.Linear(2 * c, c))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.stem(x)).transpose(1, 2)
        h = h + 0.5 * self.ff(h)
        h = h + self.back(self.attend(*self.split(self.qkv(self.norm(h)))))
        g = self.point(F.silu(self.bn(self.depth(F.glu(self.gate(h.mT), dim=1)))))
        return self.out((h + g.mT).mean(1))


EXAMPLE = torch.zeros(2, 4, 24)

KINDS: list[Callable[[], nn.Module]] = [
    OddHeads, TalkingHeads, MultiQuery, LinearAttention, Alibi, LocalAttention, Buckets, OffsetTable, DistanceNet,
    Rotary, RotaryPairs, RotaryComplex, LearnedPositions, PositionTable, Coordinates, ClassToken, CrossAttention,
    Encoder, NormFirst, GatedPooling, Conformer,
]  # fmt: skip

ZOO = [
    *(Family(make, EXAMPLE) for make in KINDS),
    Family(RotaryTables, EXAMPLE, rounded=True),
    Family(SinusoidBuffer, EXAMPLE, {"symmetrise_buffers": True}),
    Family(EnformerLike, torch.zeros(2, 4, 96)),
]
