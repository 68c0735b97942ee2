"""Networks with the constructs that published models ask for: rotary tables, cut tables of positions, and more."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rcps_convert import Tokens, Tracks

from .family import Family

IDS = Tokens(["[PAD]", "A", "C", "G", "T", "N"])


def rotate_half(x: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat((-b, a), dim=-1)


class RotaryBuffer(nn.Module):
    """The rotary embedding of ESM and the Nucleotide Transformer: a buffer of frequencies, tables kept, casts."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("inv_freq", 1.0 / (10000 ** (torch.arange(0, dim, 2, dtype=torch.int64).float() / dim)))
        self.length, self.cos, self.sin = 0, None, None

    def tables(self, x: Tensor) -> tuple[Any, Any]:
        if x.shape[-2] != self.length or self.cos is None:
            t = torch.arange(x.shape[-2], device=x.device).type_as(self.inv_freq)
            angle = torch.outer(t, self.inv_freq)
            angle = torch.cat((angle, angle), dim=-1).to(x.device)
            self.length, self.cos, self.sin = x.shape[-2], angle.cos()[None, None], angle.sin()[None, None]
        return self.cos, self.sin

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = self.tables(k)
        return tuple(
            (x * cos[:, :, : x.shape[-2]] + rotate_half(x) * sin[:, :, : x.shape[-2]]).to(q.dtype) for x in (q, k)
        )


class EsmLayer(nn.Module):
    def __init__(self, c: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.dense = (nn.Linear(c, c) for _ in range(4))
        self.rotary, self.norm = RotaryBuffer(c // heads), nn.LayerNorm(c)
        self.ff = nn.Sequential(nn.LayerNorm(c), nn.Linear(c, 2 * c), nn.GELU(), nn.Linear(2 * c, c))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (f(h).view(*h.shape[:-1], self.heads, -1).transpose(1, 2) for f in (self.query, self.key, self.value))
        q, k = self.rotary(q * q.shape[-1] ** -0.5, k)
        weights = F.dropout((q @ k.transpose(-1, -2) + mask).softmax(-1), 0.1, self.training)
        x = x + self.dense((weights @ v).permute(0, 2, 1, 3).contiguous().flatten(2))
        return x + self.ff(x)


class EsmLike(nn.Module):
    """Tokens with padding, masked rotary attention, the mean over what is no padding. (N, 24) -> (N, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.norm, self.out = nn.Embedding(6, 16), nn.LayerNorm(16), nn.Linear(16, 2)
        self.layers = nn.ModuleList([EsmLayer(16, 2) for _ in range(2)])

    def forward(self, ids: Tensor) -> Tensor:
        kept = (ids != 0).to(self.table.weight.dtype)
        h = self.table(ids) * kept[..., None]
        mask = (1.0 - kept[:, None, None, :]) * -1e4
        for layer in self.layers:
            h = layer(h, mask)
        h = self.norm(h) * kept[..., None]
        return self.out(h.sum(1) / (kept.sum(1, keepdim=True) + 1.0))


class RotaryCasts(EsmLayer):
    """As LLaMA writes it: frequencies in float, tables cast to the type of the queries. (N, 4, 24) -> (N, 24, 12)."""

    def __init__(self) -> None:
        super().__init__(12, 3)
        self.stem = nn.Conv1d(4, 12, 5, padding=2)
        self.register_buffer("inv_freq", 1.0 / (500 ** (torch.arange(0, 4, 2).float() / 4)), persistent=False)

    def turned(self, x: Tensor) -> Tensor:
        at = torch.arange(x.shape[-2], device=x.device)[None]
        freqs = self.inv_freq[None, :, None].float().expand(at.shape[0], -1, 1).to(x.device)
        angle = (freqs.float() @ at[:, None, :].float()).transpose(1, 2)
        angle = torch.cat((angle, angle), dim=-1)
        cos, sin = (t.to(dtype=x.dtype).unsqueeze(1) for t in (angle.cos() * 1.0, angle.sin() * 1.0))
        return x * cos + rotate_half(x) * sin

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.stem(x)).mT
        q, k, v = (f(h).view(*h.shape[:-1], self.heads, -1).transpose(1, 2) for f in (self.query, self.key, self.value))
        y = F.scaled_dot_product_attention(self.turned(q), self.turned(k), v)
        return self.dense(y.transpose(1, 2).flatten(2))


def sinusoids(length: int, c: int) -> Tensor:
    """The table of "Attention is all you need", (length, c)."""
    table, at = torch.zeros(length, c), torch.arange(length).float()[:, None]
    rate = torch.exp(torch.arange(0, c, 2).float() * (-math.log(10000.0) / c))
    table[:, 0::2], table[:, 1::2] = torch.sin(at * rate), torch.cos(at * rate)
    return table


class SinusoidsCut(nn.Module):
    """A table of many positions, cut to the length: averaged with pairs of channels. (N, 4, 24) -> (N, 3)."""

    def __init__(self, c: int = 12) -> None:
        super().__init__()
        self.stem, self.out = nn.Conv1d(4, c, 5, padding=2), nn.Linear(c, 3)
        self.register_buffer("pe", sinusoids(64, c)[None])
        self.encoder = nn.TransformerEncoderLayer(c, 3, 20, dropout=0.1, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.stem(x)).transpose(1, 2)
        h = h + self.pe[:, : h.size(1)].to(h.device).requires_grad_(False)
        return self.out(self.encoder(h).mean(1))


class SinusoidsFirst(SinusoidsCut):
    """The positions come first, as in torch's tutorial: (L, 1, C), cut to (L, N, C)."""

    def __init__(self, c: int = 12) -> None:
        super().__init__(c)
        self.pe = sinusoids(50, c)[:, None]

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.stem(x)).permute(2, 0, 1)
        return self.out(self.encoder((h + self.pe[: h.size(0)]).transpose(0, 1)).amax(1))


BASES = Tokens("ACGT")


class OnIds(nn.Module):
    """A small network behind something computed from ids. (N, 24) -> (N, 2)."""

    def __init__(self, c: int = 4, rows: int = 64) -> None:
        super().__init__()
        self.conv, self.table, self.out = nn.Conv1d(c, 8, 5, padding=2), nn.Embedding(rows, 8), nn.Linear(8, 2)

    def hot(self, ids: Tensor, c: int = 4) -> Tensor:
        return torch.tanh(self.conv(F.one_hot(ids, c).to(self.conv.weight.dtype).mT)).mean(-1)

    def read(self, ids: Tensor) -> Tensor:
        return self.out(torch.tanh(self.table(ids)).mean(1))


class Complemented(OnIds):
    """The complement as ``3 - ids``, embedded beside the ids (ConvNova)."""

    def forward(self, ids: Tensor) -> Tensor:
        return self.read(ids) * self.out(self.hot(3 - ids)) + self.out(self.hot((3 - ids) * 2 // 2))


class ComplementTable(OnIds):
    """The complement from a table, read by ids; ids as signed numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.side = nn.Linear(8, 2, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        other = torch.tensor([3, 2, 1, 0], device=ids.device)[ids]
        signed = (2 * ids - 3) / 3
        drawn = torch.tanh(self.table(ids) * signed[..., None]).mean(1)
        return self.out(self.hot(other)) + self.read(ids) + self.side(drawn)


class KmerIds(OnIds):
    """Ids of 3-mers from ids of bases, by slices."""

    def forward(self, ids: Tensor) -> Tensor:
        return self.read(ids[:, :-2] * 16 + ids[:, 1:-1] * 4 + ids[:, 2:])


class KmerWindows(OnIds):
    """Ids of 3-mers, by windows and weights."""

    def forward(self, ids: Tensor) -> Tensor:
        return self.read((ids.unfold(1, 3, 1) * torch.tensor([16, 4, 1])).sum(-1))


class WideOneHot(OnIds):
    """One-hot codes with more classes than the vocabulary has (GPN)."""

    def __init__(self) -> None:
        super().__init__(9)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.hot(ids, 9)) + self.read(ids)


class SoftMasked(WideOneHot):
    """Two one-hot codes in one tensor, upper and lower case."""

    def __init__(self) -> None:
        super(WideOneHot, self).__init__(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.conv(x)).mean(-1)) + self.read(x.argmax(1) % 4)


class Written(nn.Module):
    """A profile that a dense layer writes: its features are positions (ASAP). (N, 4, 24) -> (N, 50)."""

    def __init__(self, written: int = 50, c: int = 8) -> None:
        super().__init__()
        self.conv, self.write = nn.Conv1d(4, c, 5, padding=2), nn.Linear(c * 24, written)
        self.tracks, self.others = nn.Conv1d(c, 6, 1), nn.Conv1d(c, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.write(torch.tanh(self.conv(x)).flatten(1))


class WrittenStrands(Written):
    """Two strands of a profile, written at once, as a distribution and as counts (CLIPNET). -> (N, 2, 20), (N, 2)."""

    def __init__(self) -> None:
        super().__init__(40)
        self.counts = nn.Linear(8 * 24, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(self.conv(x)).flatten(1)
        return self.write(h).softmax(-1).view(-1, 2, 20), self.counts(h)


class WrittenLast(Written):
    """Positions first, tracks last; what follows reads positions. (N, 4, 24) -> (N, 20, 2)."""

    def __init__(self) -> None:
        super().__init__(40)
        self.smooth = nn.Conv1d(2, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x).view(-1, 20, 2)
        return self.smooth(y.mT).mT


class Flat(Written):
    """Maps flattened, channels first and positions first. (N, 4, 24) -> (N, 6 * 24), (N, 24 * 6)."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(self.conv(x))
        return self.tracks(h).flatten(1), self.others(h).mT.flatten(1)


class SubBins(Written):
    """Each position gives finer ones, six of one track and three of two. (N, 4, 24) -> (N, 144), (N, 2, 72)."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(self.conv(x))
        return self.tracks(h).mT.flatten(1), self.others(h).unflatten(1, (2, 3)).transpose(2, 3).flatten(2)


class InPieces(nn.Module):
    """A position-wise layer in pieces, to save memory (transformers' feed-forward chunks). (N, 4, 24) -> (N, 2)."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv1d(4, c, 5, padding=2), nn.Linear(c, 2)
        self.f = nn.Sequential(nn.LayerNorm(c), nn.Linear(c, 2 * c), nn.GELU(), nn.Linear(2 * c, c))
        self.g, self.mix = nn.Linear(c, c), nn.Conv1d(c, c, 3, padding=1)

    def stem(self, x: Tensor) -> Tensor:
        return torch.tanh(self.conv(x)).mT

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        return self.out((h + torch.cat([self.f(p) for p in h.chunk(4, dim=1)], dim=1)).mean(1))


class QueriesInPieces(InPieces):
    """Attention for a piece of the queries at a time. (N, 4, 24) -> (N, 24, 2)."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        pieces = [(self.g(q) @ h.mT).softmax(-1) @ self.f(h) for q in h.chunk(3, dim=1)]
        return self.out(torch.cat(pieces, dim=1))


class PooledPieces(InPieces):
    """One vector per piece, in a row: a coarser length. (N, 4, 24) -> (N, 2)."""

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.stack([self.f(p.amax(1)) for p in self.stem(x).chunk(4, dim=1)], dim=-1)
        return self.out(torch.tanh(self.mix(rows)).mean(-1))


class UnevenPieces(InPieces):
    """Two short pieces around a long one, each convolved alone. (N, 4, 24) -> (N, 2)."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x).mT
        return self.out(torch.cat([self.mix(p) for p in h.split([5, 14, 5], dim=2)], dim=2).mean(-1))


class FourierKernel(nn.Module):
    """A convolution by Fourier transforms, exact once the padding is cut off (Puffin). (N, 4, 24) -> (N, 2)."""

    def __init__(self, c: int = 6, kernel: int = 5) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv1d(4, c, 5, padding=2), nn.Linear(c, 2)
        self.weight = nn.Parameter(torch.randn(c, c, kernel) / 5)

    def forward(self, x: Tensor) -> Tensor:
        h = F.pad(torch.tanh(self.conv(x)), [2, 2])
        n, k = h.shape[-1], self.weight.shape[-1]
        signal = torch.fft.rfft(h, dim=-1)
        kernel = torch.fft.rfft(F.pad(self.weight, [0, n - k]), dim=-1).conj()
        y = torch.fft.irfft(torch.einsum("bix,oix->box", signal, kernel), n=n, dim=-1)[..., : n - k + 1]
        return self.out(torch.tanh(y).mean(-1))


class LongConvolution(nn.Module):
    """A long convolution per channel that sees both sides (Hyena, not causal). (N, 4, 24) -> (N, 24, 2)."""

    def __init__(self, c: int = 6) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv1d(4, c, 5, padding=2), nn.Linear(c, 2)
        self.weight = nn.Parameter(torch.randn(c, 25) / 5)

    def forward(self, x: Tensor) -> Tensor:
        u = torch.tanh(self.conv(x))
        n = u.shape[-1] + 24
        y = torch.fft.irfft(torch.fft.rfft(u, n=n) * torch.fft.rfft(self.weight, n=n), n=n)
        return self.out((u * y[..., 12 : 12 + u.shape[-1]]).mT)


class Marks(nn.Module):
    """A recurrence over bins for each mark, one over the marks, which stay (AttentiveChrome). (N, 3, 24) -> (N, 2)."""

    def __init__(self, marks: int = 3, h: int = 4) -> None:
        super().__init__()
        self.rows = nn.ModuleList([nn.LSTM(1, h, bidirectional=True, batch_first=True) for _ in range(marks)])
        self.over, self.out = nn.LSTM(2 * h, h, bidirectional=True), nn.Linear(2 * h, 2)
        self.bins, self.marks = (nn.Parameter(torch.randn(2 * h, 1)) for _ in range(2))

    def pooled(self, h: Tensor, score: Tensor) -> Tensor:
        return ((h @ score).softmax(1) * h).sum(1)

    def forward(self, x: Tensor) -> Tensor:
        rows = [self.pooled(row(x[:, i, :, None])[0], self.bins) for i, row in enumerate(self.rows)]
        return self.out(self.pooled(self.over(torch.stack(rows))[0].transpose(0, 1), self.marks))


class MarksOneWay(Marks):
    """The same, read in one direction."""

    def __init__(self) -> None:
        super().__init__()
        self.over = nn.GRU(8, 8, num_layers=2)


KINDS: list[tuple[Callable[[], nn.Module], dict[str, Any]]] = [
    (EsmLike, {"inputs": IDS}),
    (RotaryCasts, {}),
    (SinusoidsCut, {"symmetrise_buffers": True}),
    (SinusoidsFirst, {"symmetrise_buffers": True}),
    (Complemented, {"inputs": BASES}),
    (ComplementTable, {"inputs": BASES}),
    (KmerIds, {"inputs": BASES}),
    (KmerWindows, {"inputs": BASES}),
    (WideOneHot, {"inputs": IDS}),
    (SoftMasked, {"inputs": "ACGTacgt"}),
    (Written, {"outputs": "."}),
    (WrittenStrands, {"outputs": ("+-", "+-")}),
    (WrittenLast, {"outputs": Tracks("+-", layout="n l c")}),
    (Flat, {"outputs": (Tracks("+-+-..", layout="n (c l)"), Tracks("++--..", layout="n (l c)"))}),
    (SubBins, {"outputs": (".", "-+")}),
    (InPieces, {}),
    (QueriesInPieces, {}),
    (PooledPieces, {}),
    (UnevenPieces, {}),
    (FourierKernel, {}),
    (LongConvolution, {}),
    (Marks, {"inputs": "...", "outputs": "invariant"}),
    (MarksOneWay, {"inputs": "...", "outputs": "invariant"}),
]

EXAMPLES: dict[Callable[[], nn.Module], Tensor] = {
    SoftMasked: torch.zeros(2, 8, 24),
    Marks: torch.zeros(2, 3, 24),
    MarksOneWay: torch.zeros(2, 3, 24),
}


def example_of(make: Callable[[], nn.Module], how: dict[str, Any]) -> Tensor:
    """What a network is converted for."""
    if isinstance(how.get("inputs"), Tokens):
        return torch.zeros(2, 24, dtype=torch.long)
    return EXAMPLES.get(make, torch.zeros(2, 4, 24))


ZOO = [Family(make, example_of(make, how), how) for make, how in KINDS]

ONE_LENGTH = {"Written", "WrittenStrands", "WrittenLast", "UnevenPieces"}
"""Networks whose forward takes one length only."""

OTHER_LENGTHS = {"InPieces": (12, 36), "QueriesInPieces": (12, 36), "PooledPieces": (12, 36)}
"""Lengths at which networks are tried that do not take every length."""
