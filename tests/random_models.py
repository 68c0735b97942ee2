"""Random architectures: chains of blocks of many kinds, with random widths, heads, groups and layouts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from hypothesis import strategies as st
from torch import Tensor, nn

from rcps_convert import Channels, Permutation, Tracks


class Block(nn.Module):
    """One step of a chain: (N, c, L) -> (N, `width`, L or another length)."""

    width: int

    def __init__(self, c: int, width: int, extra: int) -> None:
        super().__init__()
        self.extra, self.width = extra, c
        kernel = 2 * (extra % 3) + 1
        self.same: dict[str, Any] = {"kernel_size": kernel, "padding": kernel // 2}
        self.build(c, width)

    def build(self, c: int, width: int) -> None:
        """Make the layers, and set `width` if it changes."""
        self.layer = nn.Conv1d(c, c, **self.same)

    def grow(self, length: int) -> int:
        """The length after the block."""
        return length


class Conv(Block):
    def build(self, c: int, width: int) -> None:
        self.layer = nn.Conv1d(c, width, self.same["kernel_size"], dilation=2, padding="same", bias=self.extra > 1)
        self.width = width

    def forward(self, h: Tensor) -> Tensor:
        return F.leaky_relu(self.layer(h))


class Residual(Block):
    def forward(self, h: Tensor) -> Tensor:
        return h + F.relu(self.layer(h))


class Concat(Block):
    def build(self, c: int, width: int) -> None:
        self.layer, self.width = nn.Conv1d(c, width, **self.same), c + width

    def forward(self, h: Tensor) -> Tensor:
        return torch.cat([h, F.elu(self.layer(h))] if self.extra % 2 else [self.layer(h), h], dim=1)


class Gate(Block):
    def build(self, c: int, width: int) -> None:
        self.layer, self.width = nn.Conv1d(c, 2 * width, **self.same), width

    def forward(self, h: Tensor) -> Tensor:
        a, b = self.layer(h).chunk(2, dim=1)
        return a * torch.sigmoid(b) if self.extra % 2 else F.glu(torch.cat([a, b], 1), 1)


class Grouped(Block):
    def build(self, c: int, width: int) -> None:
        groups = c if self.extra % 2 else next(g for g in (4, 3, 2, 1) if c % g == 0)
        self.width = 2 * c if self.extra % 2 else groups * width
        self.layer = nn.Conv1d(c, self.width, **self.same, groups=groups)

    def forward(self, h: Tensor) -> Tensor:
        return F.silu(self.layer(h))


class Norm(Block):
    def build(self, c: int, width: int) -> None:
        groups = next(g for g in (3, 2, 1) if c % g == 0)
        kinds: list[Callable[[], nn.Module]] = [
            lambda: nn.BatchNorm1d(c), lambda: nn.GroupNorm(groups, c), lambda: nn.InstanceNorm1d(c, affine=True),
            lambda: nn.LayerNorm(c), lambda: nn.BatchNorm1d(c, affine=False), lambda: nn.RMSNorm(c),
        ]  # fmt: skip
        self.layer = kinds[self.extra]()

    def forward(self, h: Tensor) -> Tensor:
        if isinstance(self.layer, (nn.LayerNorm, nn.RMSNorm)):
            return F.gelu(self.layer(h.transpose(1, 2))).transpose(1, 2)
        return F.gelu(self.layer(h))


class Squeeze(Block):
    def build(self, c: int, width: int) -> None:
        self.layer = nn.Sequential(nn.Linear(c, width), nn.SiLU(), nn.Linear(width, c), nn.Sigmoid())

    def forward(self, h: Tensor) -> Tensor:
        return h * self.layer(h.mean(-1)).unsqueeze(-1)


def window(length: int) -> int:
    """A divisor of a length; 1 if there is no small one."""
    return next(k for k in (2, 3, 1) if length % k == 0)


class Pool(Block):
    """By a divisor of the length; every position is its own window if there is none."""

    def forward(self, h: Tensor) -> Tensor:
        k = window(h.shape[-1])
        return F.max_pool1d(h, k) if self.extra % 2 else F.avg_pool1d(h, k)

    def grow(self, length: int) -> int:
        return length // window(length)


class Up(Block):
    def build(self, c: int, width: int) -> None:
        self.layer, self.width = nn.ConvTranspose1d(c, width, 4, stride=2, padding=1), width

    def forward(self, h: Tensor) -> Tensor:
        return F.leaky_relu(self.layer(h))

    def grow(self, length: int) -> int:
        return 2 * length


class Split(Block):
    def forward(self, h: Tensor) -> Tensor:
        cut = self.extra % h.shape[1]
        return self.layer(torch.cat([F.relu(h[:, cut:]), torch.sigmoid(h[:, :cut])], 1))


class Attend(Block):
    """Heads by reshape, mixed before the softmax; with a bias by distance, by offset, or a rotation by position."""

    def build(self, c: int, width: int) -> None:
        self.heads = next(h for h in (3, 2, 1) if c % h == 0)
        self.project, self.back, self.talk = nn.Linear(c, 3 * c), nn.Linear(c, c), nn.Linear(self.heads, self.heads)
        self.table = nn.Embedding(7, self.heads)

    def forward(self, h: Tensor) -> Tensor:
        x = rearrange(h, "b c n -> b n c")
        q, k, v = rearrange(self.project(x), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        if self.extra == 1 and q.shape[-1] % 2 == 0:
            q, k = self.turned(q), self.turned(k)
        scores = q @ k.transpose(-1, -2) / max(1, q.shape[-1]) ** 0.5
        at = torch.arange(x.shape[1])
        offset = at[None] - at[:, None]
        if self.extra == 2:
            scores = scores - 0.1 * offset.abs()
        if self.extra == 3:
            scores = scores + self.table(offset.clamp(-3, 3) + 3).permute(2, 0, 1)
        weights = self.talk(scores.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).softmax(-1)
        return h + rearrange(self.back(rearrange(weights @ v, "b h n d -> b n (h d)")), "b n c -> b c n")

    def turned(self, x: Tensor) -> Tensor:
        n, d = x.shape[-2:]
        angle = torch.arange(n)[:, None] * 100 ** (-torch.arange(0, d, 2) / d)
        angle = torch.cat([angle, angle], -1)
        a, b = x.chunk(2, -1)
        return x * angle.cos() + torch.cat([-b, a], -1) * angle.sin()


class Stock(Block):
    """torch's own attention and encoder layers."""

    def build(self, c: int, width: int) -> None:
        heads = next(h for h in (4, 3, 2, 1) if c % h == 0)
        if self.extra % 2:
            self.layer = nn.TransformerEncoderLayer(c, heads, 2 * width, batch_first=True, norm_first=self.extra > 2)
        else:
            self.layer = nn.MultiheadAttention(c, heads, batch_first=True)

    def forward(self, h: Tensor) -> Tensor:
        x = h.transpose(1, 2)
        y = self.layer(x) if self.extra % 2 else x + self.layer(x, x, x, need_weights=False)[0]
        return y.transpose(1, 2)


class Recur(Block):
    """A bidirectional layer over positions, joined or with its directions added."""

    def build(self, c: int, width: int) -> None:
        kind = (nn.LSTM, nn.GRU, nn.RNN)[self.extra % 3]
        self.layer = kind(c, width, num_layers=1 + self.extra // 5, bidirectional=True, batch_first=True)
        self.width = width if self.extra > 3 else 2 * width

    def forward(self, h: Tensor) -> Tensor:
        y, _ = self.layer(h.transpose(1, 2))
        if self.extra > 3:
            a, b = y.chunk(2, -1)
            y = a + b
        return y.transpose(1, 2)


class Ends(Block):
    """Two layers, or one twice, that read from either end: recurrences and causal convolutions."""

    def build(self, c: int, width: int) -> None:
        kind = (nn.GRU, nn.LSTM, nn.Conv1d)[self.extra % 3]
        how: dict[str, Any] = {"kernel_size": 3} if kind is nn.Conv1d else {"batch_first": True}
        self.left = kind(c, width, **how)
        self.right = kind(c, width, **how) if width % 2 else self.left
        self.width = width if self.extra > 2 else 2 * width

    def forward(self, h: Tensor) -> Tensor:
        a, b = self.read(self.left, h), self.read(self.right, h.flip(-1)).flip(-1)
        return torch.maximum(a, b) if self.extra > 2 else torch.cat([a, b], 1)

    def read(self, layer: nn.Module, h: Tensor) -> Tensor:
        return layer(F.pad(h, (2, 0))).tanh() if self.extra % 3 == 2 else layer(h.mT)[0].mT


class Place(Block):
    """Learned positions, or signed and absolute coordinates as channels."""

    def build(self, c: int, width: int) -> None:
        self.width = c if self.extra % 2 else c + 2
        self.table = nn.Parameter(torch.randn(400, c) / 3)

    def forward(self, h: Tensor) -> Tensor:
        n = h.shape[-1]
        if self.extra % 2:
            return h + F.embedding(torch.arange(n), self.table).T
        at = torch.linspace(-1, 1, n)
        return torch.cat([h, torch.stack([at, at.abs()]).expand(len(h), -1, -1)], 1)


class Raw(Block):
    """A bare parameter in an einsum, low rank, with a temperature per channel."""

    def build(self, c: int, width: int) -> None:
        self.a, self.b = nn.Parameter(torch.randn(c, 3)), nn.Parameter(torch.randn(3, width))
        self.heat, self.width = nn.Parameter(torch.rand(width, 1) + 0.5), width

    def forward(self, h: Tensor) -> Tensor:
        return torch.tanh(torch.einsum("bcl,ck->bkl", h, self.a @ self.b) * self.heat)


class Flip(Block):
    """Both orientations of one layer, the larger one kept."""

    def forward(self, h: Tensor) -> Tensor:
        return torch.maximum(self.layer(h), self.layer(h.flip(-1)).flip(-1))


class Rotate(Block):
    """Attention with a rotary embedding from a buffer of frequencies, cast as published models cast it."""

    def build(self, c: int, width: int) -> None:
        self.project, self.back = nn.Linear(c, 6 * 4), nn.Linear(8, c)
        self.register_buffer("inv_freq", 1.0 / (500.0 ** (torch.arange(0, 4, 2).float() / 4)))

    def turned(self, x: Tensor) -> Tensor:
        at = torch.arange(x.shape[-2], device=x.device).type_as(self.inv_freq)
        angle = torch.outer(at, self.inv_freq)
        angle = torch.cat((angle, angle), dim=-1).to(x.device)
        a, b = x.chunk(2, -1)
        return x * angle.cos().to(x.dtype) + torch.cat((-b, a), -1) * angle.sin().to(x.dtype)

    def forward(self, h: Tensor) -> Tensor:
        q, k, v = rearrange(self.project(h.mT), "b n (three h d) -> three b h n d", three=3, h=2)
        y = (self.turned(q) @ self.turned(k).mT).softmax(-1) @ v
        return h + self.back(rearrange(y, "b h n d -> b n (h d)")).mT


class Pieces(Block):
    """One layer for a piece of the positions at a time."""

    def forward(self, h: Tensor) -> Tensor:
        n = next(n for n in (3, 4, 2, 5, 7, 1) if h.shape[-1] % n == 0)
        return h + torch.cat([F.silu(self.layer(p)) for p in h.chunk(n, dim=-1)], dim=-1)


class Long(Block):
    """A centred convolution per channel by Fourier transforms."""

    def build(self, c: int, width: int) -> None:
        self.weight = nn.Parameter(torch.randn(c, 9) / 3)

    def forward(self, h: Tensor) -> Tensor:
        n = h.shape[-1]
        product = torch.fft.rfft(h, n=n + 8) * torch.fft.rfft(self.weight, n=n + 8)
        return torch.tanh(h + torch.fft.irfft(product, n=n + 8)[..., 4 : 4 + n])


class Waves(Block):
    """A table of sines and cosines of many positions, cut to the length."""

    def build(self, c: int, width: int) -> None:
        angle = torch.arange(400)[:, None] / 50 ** (torch.arange(c) / c)
        self.register_buffer("table", torch.where(torch.arange(c) % 2 == 0, angle.sin(), angle.cos()))

    def forward(self, h: Tensor) -> Tensor:
        return h + self.table[: h.shape[-1]].T


KINDS: dict[str, type[Block]] = {k.__name__.lower(): k for k in Block.__subclasses__()}


@dataclass(frozen=True)
class Plan:
    """A random architecture: channels, blocks with their settings, and the head."""

    channels: int
    length: int
    blocks: tuple[tuple[str, int, int], ...]
    head: str
    layout: str = "n c l"
    inputs: str = "bases"

    @property
    def example(self) -> Tensor:
        c, n = INPUTS[self.inputs][0], self.length
        return torch.zeros({"n c l": (3, c, n), "n l c": (3, n, c), "n 1 c l": (3, 1, c, n)}[self.layout])

    @property
    def how(self) -> dict[str, Any]:
        """Keyword arguments of the conversion."""
        averaged = {"symmetrise_buffers": True} if any(kind == "waves" for kind, *_ in self.blocks) else {}
        return {
            "inputs": INPUTS[self.inputs][1],
            "outputs": OUTPUTS.get(self.head, "auto"),
            "layout": self.layout,
            **averaged,
        }


INPUTS: dict[str, tuple[int, Any]] = {
    "bases": (4, "ACGT"),
    "tracks": (7, Channels("ACGT", "-+", ".")),
    "masked": (8, "ACGTacgt"),
    "signed": (6, Channels(".", Permutation([0], [-1]), "AGCT")),
}
"""Number of channels and spec of what may be given."""

OUTPUTS = {
    "stranded": "+-",
    "flat": Tracks("+-", layout="n (l c)"),
    "written": ".",
    "paired": Tracks.pairs([3, 2, 1, 0]),
}
"""Specs of what heads return, where it is not "auto"."""

HEADS = [
    "flatten", "mean", "max", "profile", "stranded", "attention", "pair", "ends", "flat", "written", "paired",
]  # fmt: skip

plans = st.builds(
    Plan,
    channels=st.integers(2, 12),
    length=st.integers(24, 40),
    blocks=st.lists(st.tuples(st.sampled_from(sorted(KINDS)), st.integers(2, 12), st.integers(0, 5)), max_size=5).map(
        tuple
    ),
    head=st.sampled_from(HEADS),
    layout=st.sampled_from(["n c l", "n l c", "n 1 c l"]),
    inputs=st.sampled_from(sorted(INPUTS)),
)


class Random(nn.Module):
    """The network a `Plan` stands for."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self.stem = nn.Conv1d(INPUTS[plan.inputs][0], plan.channels, 5, padding=2)
        self.blocks = nn.ModuleList()
        c, length = plan.channels, plan.length
        for kind, width, extra in plan.blocks:
            block = KINDS[kind](c, width, extra)
            self.blocks.append(block)
            c, length = block.width, block.grow(length)
        self.score = nn.Linear(c, 1)
        self.out = nn.Linear(
            c * length if plan.head == "flatten" else c, {"written": 17, "paired": 4}.get(plan.head, 2)
        )

    def forward(self, x: Tensor) -> Any:
        x = {"n c l": lambda: x, "n l c": lambda: x.mT, "n 1 c l": lambda: x.squeeze(1)}[self.plan.layout]()
        h = torch.tanh(self.stem(x))
        for block in self.blocks:
            h = block(h)
        return getattr(self, self.plan.head)(h)

    def flatten(self, h: Tensor) -> Tensor:
        return self.out(h.flatten(1))

    def mean(self, h: Tensor) -> Tensor:
        return self.out(h.mean(-1))

    def max(self, h: Tensor) -> Tensor:
        return self.out(h.amax(-1))

    def profile(self, h: Tensor) -> Tensor:
        return self.out(h.transpose(1, 2))

    def stranded(self, h: Tensor) -> Tensor:
        return F.softplus(self.out(h.transpose(1, 2))).mT

    def flat(self, h: Tensor) -> Tensor:
        """Two strands, flattened with the positions."""
        return self.out(h.transpose(1, 2)).flatten(1)

    def written(self, h: Tensor) -> Tensor:
        """A profile that a dense layer writes."""
        return self.out(h.mean(-1)).softmax(-1)

    def paired(self, h: Tensor) -> Tensor:
        """Four tracks, the first paired with the last."""
        return self.out(h.transpose(1, 2)).mT

    def attention(self, h: Tensor) -> Tensor:
        x = h.transpose(1, 2)
        return self.out((self.score(torch.tanh(x)).softmax(1) * x).sum(1))

    def pair(self, h: Tensor) -> dict[str, Tensor]:
        x = h.transpose(1, 2)
        return {"map": torch.einsum("bic,bjc->bij", x, x) + self.score(x), "total": self.out(h.mean(-1))}

    def ends(self, h: Tensor) -> Tensor:
        """Both ends of the sequence, as one."""
        n = h.shape[-1] // 2
        left, right = h.split([n, h.shape[-1] - n], -1)
        return self.out(torch.maximum(left[..., :2].mean(-1), right[..., -2:].mean(-1)))
