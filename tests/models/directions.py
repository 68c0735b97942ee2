"""Networks that read a length from either end by layers of their own: two recurrences, two causal towers, two scans."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .family import Family


class TwoLstms(nn.Module):
    """One LSTM for each direction, both outputs at every position."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(4, 8, 5, padding=2)
        self.left, self.right = (nn.LSTM(8, 6, num_layers=2, batch_first=True) for _ in range(2))
        self.out = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x).relu().mT
        a, _ = self.left(h)
        b, _ = self.right(h.flip(1))
        return self.out(torch.cat([a, b.flip(1)], -1)).mT


class OneGru(nn.Module):
    """The same GRU in both directions, its last states multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gru, self.out = nn.Conv1d(4, 8, 5, padding=2), nn.GRU(8, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x).relu().permute(2, 0, 1)
        _, a = self.gru(h)
        _, b = self.gru(h.flip(0))
        return self.out(a[-1] * b[-1])


class Causal(nn.Module):
    """A tower of dilated convolutions, each padded on the left."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv1d(c, c, 3, dilation=2**i) for i in range(3))
        self.norms = nn.ModuleList(nn.GroupNorm(2, c) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for i, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            x = x + norm(layer(F.pad(x, (2 * 2**i, 0)))).relu()
        return x


class TwoCausalTowers(nn.Module):
    """Causal convolutions from either end, added."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.out = nn.Conv1d(4, 8, 1), nn.Conv1d(8, 2, 1)
        self.left, self.right = Causal(8), Causal(8)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        return self.out(self.right(h.flip(-1)).flip(-1) + self.left(h))


class Scan(nn.Module):
    """A selective scan as Mamba has it: a short causal convolution, steps that depend on the input, a gate."""

    def __init__(self, c: int, states: int = 4) -> None:
        super().__init__()
        self.into, self.back = nn.Linear(c, 4 * c, bias=False), nn.Linear(2 * c, c, bias=False)
        self.conv = nn.Conv1d(2 * c, 2 * c, 4, padding=3, groups=2 * c)
        self.steps, self.bc = nn.Linear(2 * c, 2 * c), nn.Linear(2 * c, 2 * states, bias=False)
        self.log_a = nn.Parameter(torch.log(torch.arange(1, states + 1).float()).repeat(2 * c, 1))
        self.skip = nn.Parameter(torch.ones(2 * c))

    def forward(self, x: Tensor) -> Tensor:
        h, gate = self.into(x).chunk(2, -1)
        h = F.silu(self.conv(h.mT)[..., : x.shape[1]].mT)
        dt, (b, c) = F.softplus(self.steps(h)), self.bc(h).chunk(2, -1)
        update = dt[..., None] * b[:, :, None] * h[..., None]
        decay = (dt[..., None] * -self.log_a.exp()).cumsum(1)
        before = torch.ones(x.shape[1], x.shape[1], device=x.device).tril().bool()[..., None, None]
        decay = (decay[:, :, None] - decay[:, None]).masked_fill(~before, -torch.inf).exp()
        state = torch.einsum("nijcs,njcs->nics", decay, update)
        y = (state * c[:, :, None]).sum(-1) + h * self.skip
        return self.back(y * F.silu(gate))


class TwoScans(nn.Module):
    """Caduceus without parameter sharing: a scan from either end, residuals, pooled."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.out = nn.Conv1d(4, 4, 1), nn.Linear(4, 2)
        self.left, self.right, self.norm = Scan(4), Scan(4), nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x).mT
        z = self.norm(h)
        h = h + (self.left(z) + self.right(torch.flip(z, [1])).flip(1))
        return self.out(h.mean(1))


class CausalThenRotated(nn.Module):
    """Causal convolutions from either end, put in a row; then a table of waves, which no re-anchored pad would meet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.out = nn.Conv1d(4, 6, 1), nn.Linear(10, 1)
        self.left, self.right = (nn.Conv1d(6, 5, 3) for _ in range(2))
        self.register_buffer("waves", torch.sin(torch.arange(64)[:, None] / 9.0 ** (torch.arange(10) / 10)))

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x).tanh()
        a, b = self.left(F.pad(h, (2, 0))), self.right(F.pad(h.flip(-1), (2, 0))).flip(-1)
        h = torch.cat([a, b], 1).mT
        return self.out((h + self.waves[: h.shape[1]]).relu().amax(1))


class TwoLevels(nn.Module):
    """Two layers, one over the other, each with a recurrence from either end; stacked and summed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.out = nn.Conv1d(4, 6, 3, padding=1), nn.Linear(6, 1)
        self.cells = nn.ModuleList(nn.RNN(6, 6, batch_first=True) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x).relu().mT
        for left, right in (self.cells[:2], self.cells[2:]):
            h = torch.stack([left(h)[0], right(h.flip(1))[0].flip(1)], -1).mean(-1)
        return self.out(h.amax(1))


KINDS: list[tuple[Callable[[], nn.Module], dict[str, Any]]] = [
    (TwoLstms, {"outputs": "+-"}),
    (OneGru, {}),
    (TwoCausalTowers, {"outputs": "+-"}),
    (TwoScans, {}),
    (TwoLevels, {}),
    (CausalThenRotated, {"symmetrise_buffers": True}),
]

ZOO = [Family(make, torch.zeros(2, 4, 20), how) for make, how in KINDS]
