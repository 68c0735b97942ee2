"""Networks written out as their authors publish them: lambdas between layers, planes of one row, routed experts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rcps_convert import Channels, Permutation

from .family import Family


class Lambda(nn.Sequential):
    """A function of what the layers inside make, as code that was translated from Lua has it."""

    def __init__(self, function: Callable[[Tensor], Tensor], *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(super().forward(x))


def flattened(x: Tensor) -> Tensor:
    return x.view(x.size(0), -1)


def at_least_a_row(x: Tensor) -> Tensor:
    return x.view(1, -1) if len(x.size()) == 1 else x


def dense(a: int, b: int) -> nn.Module:
    return nn.Sequential(Lambda(at_least_a_row), nn.Linear(a, b))


class BelugaLike(nn.Module):
    """Planes of one row, nested sequences, lambdas. (N, 4, 68) -> (N, 5)."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        convs = nn.Sequential(
            nn.Conv2d(4, c, (1, 8)), nn.ReLU(), nn.Conv2d(c, c, (1, 8)), nn.ReLU(), nn.Dropout(0.2),
            nn.MaxPool2d((1, 4), (1, 4)), nn.Conv2d(c, 10, (1, 8)), nn.ReLU(), nn.Dropout(0.2),
        )  # fmt: skip
        head = nn.Sequential(nn.Dropout(0.5), Lambda(flattened), dense(60, 12), nn.ReLU(), dense(12, 5))
        self.model = nn.Sequential(convs, head, nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.contiguous().unsqueeze(2))


class KipoiBassetLike(nn.Sequential):
    """Basset as Kipoi has it: planes of one column, lambdas, a norm behind a dense layer. (N, 4, 69, 1) -> (N, 3)."""

    def __init__(self, c: int = 8) -> None:
        super().__init__(
            nn.Conv2d(4, c, (9, 1)), nn.BatchNorm2d(c), nn.ReLU(), nn.MaxPool2d((3, 1), (3, 1)),
            nn.Conv2d(c, 10, (5, 1)), nn.BatchNorm2d(10), nn.ReLU(), nn.MaxPool2d((4, 1), (4, 1)),
            Lambda(flattened), dense(40, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.3), dense(12, 3),
            nn.Sigmoid(),
        )  # fmt: skip


class AparentLike(nn.Module):
    """A plane of positions and bases, a library's code; a score, and a distribution over cuts and over none.

    (N, 1, 41, 4) and (N, 3) -> (N, 1) and (N, 42).
    """

    def __init__(self, cuts: int = 41, libraries: int = 3, c: int = 6) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, c, (8, 4)), nn.Conv2d(c, 8, (6, 1))
        self.dense, self.drop = nn.Linear(96, 10), nn.Dropout(0.2)
        self.score, self.cuts = nn.Linear(10 + libraries, 1), nn.Linear(10 + libraries, cuts + 1)

    def forward(self, x: Tensor, library: Tensor) -> tuple[Tensor, Tensor]:
        h = F.relu(self.second(F.max_pool2d(F.relu(self.first(x)), (2, 1))))
        h = torch.cat([self.drop(F.relu(self.dense(h.flatten(1)))), library], -1)
        return torch.sigmoid(self.score(h)), self.cuts(h).softmax(-1)


class CamFormersLike(nn.Module):
    """Even kernels padded to the same length, residuals, a pool of ten. (N, 4, 60) -> (N,)."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv1d(a, c, 10, padding="same") for a in (4, c, c))
        self.norms, self.across = nn.ModuleList(nn.BatchNorm1d(c) for _ in range(3)), nn.Conv1d(4, c, 1)
        self.dense, self.out = nn.Linear(6 * c, 16), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = F.dropout(F.relu(norm(conv(x))), 0.1, self.training) + (self.across(x) if i == 0 else x)
            x = F.max_pool1d(x, 10, 10) if i == 1 else x
        return self.out(F.relu(self.dense(x.view(x.shape[0], -1)))).view(-1)


class SalukiLike(nn.Module):
    """Bases with codons and splice sites, norms before convolutions, final states. (N, 6, 60) -> (N, 1)."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv1d(6, c, 5, bias=False)
        self.norms = nn.ModuleList(nn.LayerNorm(c) for _ in range(2))
        self.convs = nn.ModuleList(nn.Conv1d(c, c, 5) for _ in range(2))
        self.gru, self.norm = nn.GRU(c, c, batch_first=True, bidirectional=True), nn.BatchNorm1d(2 * c)
        self.dense, self.out = nn.Linear(2 * c, c), nn.Linear(c, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            h = F.max_pool1d(F.dropout(conv(F.relu(norm(h.mT).mT)), 0.3, self.training), 2)
        _, state = self.gru(h.mT)
        return self.out(F.relu(self.dense(F.relu(self.norm(torch.cat([state[0], state[1]], 1))))))


class HalvedContacts(nn.Module):
    """Contacts of one half of the channels here with the other half there. (N, 4, 24) -> (N, 24, 24)."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.stem, self.weights = nn.Conv1d(4, 2 * c, 5, padding=2), nn.Parameter(torch.randn(c))
        self.smooth = nn.Conv2d(c, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        here, there = self.stem(x).tanh().chunk(2, 1)
        added = self.smooth((here[..., None] + there[:, :, None]).relu()).squeeze(1)
        return torch.einsum("nci,ncj,c->nij", here, there, self.weights) + added


class ShuffledPools(nn.Module):
    """Channels shuffled by an index and by views before pools that leave a remainder. (N, 4, 32) -> (N, 2)."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.first, self.stem = nn.Conv1d(4, 6, 3, padding=1), nn.Conv1d(6, c, 5, padding=2)
        self.deep, self.out = nn.Conv1d(c, c, 3, padding=1), nn.Linear(c, 2)
        self.register_buffer("order", torch.arange(c).view(2, -1).T.flatten())

    def forward(self, x: Tensor) -> Tensor:
        h = F.max_pool1d(self.stem(self.first(x).relu()).relu()[:, self.order], 3)
        h = self.deep(h).unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
        return self.out(F.avg_pool1d(h.relu(), 4).mean(-1))


class RoutedExperts(nn.Module):
    """Two of four experts for each position, chosen by topk. (N, 4, 24) -> (N, 2)."""

    def __init__(self, c: int = 8, experts: int = 4) -> None:
        super().__init__()
        self.stem, self.gate, self.out = nn.Conv1d(4, c, 5, padding=2), nn.Linear(c, experts), nn.Linear(c, 2)
        self.experts = nn.ModuleList(nn.Linear(c, c) for _ in range(experts))

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x).mT
        best, which = self.gate(h).topk(2, -1)
        weights = torch.zeros(*h.shape[:2], len(self.experts), dtype=h.dtype, device=h.device)
        weights = weights.scatter(-1, which, best.softmax(-1))
        return self.out((h + (torch.stack([f(h) for f in self.experts], -1) * weights[:, :, None]).sum(-1)).mean(1))


class PerceiverLike(nn.Module):
    """Latent vectors read the sequence, with waves of its positions beside it. (N, 4, 24) -> (N, 2)."""

    def __init__(self, c: int = 12, latents: int = 5) -> None:
        super().__init__()
        self.stem, self.latents = nn.Conv1d(4, c, 5, padding=2), nn.Parameter(torch.randn(latents, c))
        self.keys, self.query = nn.Linear(c + 4, 2 * c), nn.Linear(c, c)
        self.among, self.norm, self.out = (
            nn.MultiheadAttention(c, 3, batch_first=True),
            nn.LayerNorm(c),
            nn.Linear(c, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x).mT
        at = torch.linspace(-1, 1, h.shape[1], device=x.device)[:, None] * math.pi * torch.tensor([1.0, 2.0]).to(x)
        waves = torch.cat([at.sin(), at.cos()], -1).to(h.dtype).expand(len(h), -1, -1)
        k, v = self.keys(torch.cat([h, waves], -1)).chunk(2, -1)
        z = self.latents.expand(len(h), -1, -1)
        z = self.norm(z + (self.query(z) @ k.mT / 3).softmax(-1) @ v)
        return self.out((z + self.among(z, z, z)[0]).mean(1))


class GatedRecurrence(nn.Module):
    """Griffin's gated linear recurrence, position by position, from either end. (N, 4, 10) -> (N, 2, 10)."""

    def __init__(self, c: int = 6) -> None:
        super().__init__()
        self.stem, self.norm, self.out = nn.Conv1d(4, c, 3, padding=1), nn.RMSNorm(c), nn.Conv1d(2 * c, 2, 1)
        self.decays, self.gates = (nn.ModuleList(nn.Linear(c, c) for _ in range(2)) for _ in range(2))
        self.rates = nn.ParameterList([nn.Parameter(torch.randn(c)) for _ in range(2)])

    def scan(self, h: Tensor, i: int) -> Tensor:
        decay = -8 * torch.sigmoid(self.decays[i](h)) * F.softplus(self.rates[i])
        given = torch.sigmoid(self.gates[i](h)) * h * torch.sqrt(1 - torch.exp(2 * decay) + 1e-6)
        state, made = torch.zeros_like(h[:, 0]), []
        for a, b in zip(decay.unbind(1), given.unbind(1), strict=True):
            state = state * a.exp() + b
            made.append(state)
        return torch.stack(made, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x).mT
        both = [self.scan(self.norm(h), 0), self.scan(self.norm(h).flip(1), 1).flip(1)]
        return self.out(torch.cat(both, -1).mT)


class T5Like(nn.Module):
    """The attention of T5: a bias by distance, in buckets of either sign up to 128. (N, 4, 24) -> (N, 2)."""

    def __init__(self, c: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.stem, self.qkv, self.back = nn.Conv1d(4, c, 5, padding=2), nn.Linear(c, 3 * c, bias=False), nn.Linear(c, c)
        self.table, self.heads, self.out = nn.Embedding(32, heads), heads, nn.Linear(c, 2)

    def bias(self, n: int, device: Any) -> Tensor:
        at = torch.arange(n, device=device)
        offset = at[None] - at[:, None]
        far = offset.abs()
        large = 8 + (torch.log(far.float() / 8) / math.log(16) * 8).long()
        near = torch.where(far < 8, far, torch.min(large, torch.full_like(large, 15)))
        return self.table((offset > 0).long() * 16 + near).permute(2, 0, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.stem(x)).mT
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(h).chunk(3, -1))
        y = (q @ k.mT + self.bias(h.shape[1], x.device)).softmax(-1) @ v
        return self.out((h + self.back(y.transpose(1, 2).flatten(2))).mean(1))


CUTS = Permutation([*reversed(range(41)), 41], layout="n c")
"""A score for each cut, and one for none."""

MORE = [
    Family(BelugaLike, torch.zeros(2, 4, 68)),
    Family(KipoiBassetLike, torch.zeros(4, 4, 69, 1), {"layout": "n c l 1"}),
    Family(
        AparentLike,
        (torch.zeros(2, 1, 41, 4), torch.zeros(2, 3)),
        {"inputs": ("ACGT", "invariant"), "layout": ("n 1 l c", "auto"), "outputs": ("invariant", CUTS)},
    ),
    Family(CamFormersLike, torch.zeros(2, 4, 60)),
    Family(SalukiLike, torch.zeros(2, 6, 60), {"inputs": Channels("ACGT", ".."), "outputs": "invariant"}),
    Family(HalvedContacts, torch.zeros(2, 4, 24)),
    Family(ShuffledPools, torch.zeros(2, 4, 32)),
    Family(RoutedExperts, torch.zeros(2, 4, 24)),
    Family(PerceiverLike, torch.zeros(2, 4, 24)),
    Family(GatedRecurrence, torch.zeros(2, 4, 10)),
    Family(T5Like, torch.zeros(2, 4, 24)),
]
"""Converted in the slow run."""
