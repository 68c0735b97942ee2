"""Convolutional networks that the tests look at closely: every test of a conversion runs on each of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .family import Family


class BassetLike(nn.Module):
    """Convolutions, batch norm, max pooling, two fully connected layers. (N, 4, 144) -> (N, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv1d(4, 24, 19, padding=9), nn.BatchNorm1d(24)
        self.conv2, self.bn2 = nn.Conv1d(24, 30, 11), nn.BatchNorm1d(30)
        self.conv3, self.bn3 = nn.Conv1d(30, 20, 5), nn.BatchNorm1d(20)
        self.fc1, self.bn4 = nn.Linear(20 * 5, 40), nn.BatchNorm1d(40)
        self.fc2 = nn.Linear(40, 5)
        self.drop = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool1d(F.relu(self.bn1(self.conv1(x))), 3)
        x = F.max_pool1d(F.relu(self.bn2(self.conv2(x))), 2)
        x = F.max_pool1d(F.relu(self.bn3(self.conv3(x))), 3)
        x = x.flatten(1)
        return self.fc2(self.drop(F.relu(self.bn4(self.fc1(x)))))


class DeepSEALike(nn.Module):
    """conv - ReLU - pool blocks, flatten, linear, sigmoid. (N, 4, 143) -> (N, 9)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv1d(4, 32, 8), nn.ReLU(), nn.MaxPool1d(4), nn.Dropout(0.2),
            nn.Conv1d(32, 48, 8), nn.ReLU(), nn.MaxPool1d(3), nn.Dropout(0.2),
            nn.Conv1d(48, 64, 4), nn.ReLU(), nn.Dropout(0.5),
        )  # fmt: skip
        self.classifier = nn.Sequential(nn.Linear(64 * 6, 25), nn.ReLU(), nn.Linear(25, 9), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        h = self.features(x)
        return self.classifier(h.view(h.size(0), -1))


class BPNetLike(nn.Module):
    """Dilated residual tower with a stranded profile and stranded counts; a stranded control track.

    (N, 4, 200) and (N, 2, 200) -> {"profile": (N, 2, 120), "counts": (N, 2)}.
    """

    def __init__(self, filters: int = 16, layers: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv1d(4, filters, 21, padding=10)
        self.tower = nn.ModuleList(
            nn.Conv1d(filters, filters, 3, padding=2**i, dilation=2**i) for i in range(1, layers + 1)
        )
        self.profile = nn.Conv1d(filters + 2, 2, 25, padding=12)
        self.counts = nn.Linear(filters + 2, 2)
        self.trim = 40

    def forward(self, x: Tensor, control: Tensor) -> dict[str, Tensor]:
        h = F.relu(self.stem(x))
        for conv in self.tower:
            h = h + F.relu(conv(h))
        profile = self.profile(torch.cat([h, control], dim=1))[:, :, self.trim : -self.trim]
        pooled = h[:, :, self.trim : -self.trim].mean(-1)
        total = torch.log(control.sum(-1) + 1)
        return {"profile": profile, "counts": self.counts(torch.cat([pooled, total], dim=-1))}


class SpliceBlock(nn.Module):
    """batch norm - ReLU - dilated convolution, twice, with a residual."""

    def __init__(self, c: int, k: int, d: int) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm1d(c), nn.BatchNorm1d(c)
        self.conv1 = nn.Conv1d(c, c, k, dilation=d, padding="same")
        self.conv2 = nn.Conv1d(c, c, k, dilation=d, padding="same")

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(torch.relu(self.bn2(self.conv1(torch.relu(self.bn1(x))))))


class SpliceAILike(nn.Module):
    """Dilated residual network with skip connections and a softmax per position. (N, 4, 180) -> (N, 3, 100)."""

    def __init__(self, c: int = 16) -> None:
        super().__init__()
        self.stem, self.skip0 = nn.Conv1d(4, c, 1), nn.Conv1d(c, c, 1)
        self.blocks = nn.ModuleList([SpliceBlock(c, 11, 1), SpliceBlock(c, 11, 2), SpliceBlock(c, 5, 4)])
        self.skips = nn.ModuleList(nn.Conv1d(c, c, 1) for _ in self.blocks)
        self.out = nn.Conv1d(c, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        total = self.skip0(h)
        for block, skip in zip(self.blocks, self.skips, strict=True):
            h = block(h)
            total = total + skip(h)
        return F.softmax(self.out(total[..., 40:-40]), dim=1)


class SqueezeExcite(nn.Module):
    """Channel gates from the mean over positions."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(c, c // 2), nn.SiLU(), nn.Linear(c // 2, c), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        b, c, _ = x.size()
        return x * self.fc(x.mean(dim=2)).view(b, c, 1)


class LegNetLike(nn.Module):
    """Inverted residual blocks: expansion, depthwise convolution, squeeze-excite, concatenation. (N, 5, 96) -> (N,)."""

    def __init__(self, c: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv1d(5, c, 7, padding="same", bias=False), nn.BatchNorm1d(c), nn.SiLU())
        self.expand = nn.Sequential(nn.Conv1d(c, 4 * c, 1, bias=False), nn.BatchNorm1d(4 * c), nn.SiLU())
        self.depth = nn.Conv1d(4 * c, 4 * c, 7, groups=4 * c, padding="same", bias=False)
        self.norm, self.se = nn.BatchNorm1d(4 * c), SqueezeExcite(4 * c)
        self.project = nn.Sequential(nn.Conv1d(4 * c, c, 1, bias=False), nn.BatchNorm1d(c), nn.SiLU())
        self.group = nn.Sequential(nn.Conv1d(2 * c, 20, 5, padding=2, groups=4), nn.BatchNorm1d(20), nn.SiLU())
        self.head = nn.Conv1d(20, 8, 1)
        self.out = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        g = self.se(F.silu(self.norm(self.depth(self.expand(h)))))
        h = torch.cat([h, self.project(g)], dim=1)
        h = F.max_pool1d(self.group(h), 2)
        return self.out(F.adaptive_avg_pool1d(self.head(h), 1).squeeze(2)).squeeze(-1)


class UNetLike(nn.Module):
    """Down and up with skip connections, transposed convolutions, group norm. (N, 4, 128) -> (N, 128, 1)."""

    def __init__(self, c: int = 12) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv1d(4, c, 9, padding=4), nn.Conv1d(c, 2 * c, 5, padding=2)
        self.mid = nn.Conv1d(2 * c, 2 * c, 3, padding=1)
        self.up2 = nn.ConvTranspose1d(2 * c, c, 4, stride=2, padding=1)
        self.up1 = nn.ConvTranspose1d(2 * c, c, 2, stride=2)
        self.norm1, self.norm2 = nn.GroupNorm(3, c), nn.GroupNorm(4, 2 * c)
        self.out = nn.Linear(c + 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = F.gelu(self.norm1(self.down1(x)))
        b = F.gelu(self.norm2(self.down2(F.max_pool1d(a, 2))))
        m = F.leaky_relu(self.mid(F.avg_pool1d(b, 2)), 0.1)
        u = torch.cat([self.up2(m), F.interpolate(a, scale_factor=0.5, mode="linear")], dim=1)
        return F.softplus(self.out(torch.cat([self.up1(u), x], dim=1).transpose(1, 2)))


class ConvThenPool(nn.Module):
    """A read-out behind a nonlinearity: the output is a pooled convolution. (N, 4, 60) -> (N, 6)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv1d(4, 8, 7), nn.ReLU())
        self.readout = nn.Sequential(nn.Conv1d(8, 6, 5), nn.BatchNorm1d(6), nn.ReLU(), nn.AdaptiveMaxPool1d(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(self.stem(x)).flatten(1)


class Siamese(nn.Module):
    """RC-symmetric already: the larger of both strands' scores. (N, 4, 60) -> (N, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv1d(4, 8, 7), nn.ReLU(), nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(8, 2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.maximum(self.net(x), self.net(x.flip(1, 2)))


class Twice(nn.Module):
    """One block called twice, one weight shared by two layers, a frozen one, a raw parameter. (N, 60, 4) -> (N, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(4, 10, 5, padding=2)
        self.block = nn.Sequential(nn.Conv1d(10, 10, 3, padding=1), nn.BatchNorm1d(10), nn.ReLU())
        self.a, self.b = nn.Conv1d(10, 10, 3), nn.Conv1d(10, 10, 3)
        self.b.weight = self.a.weight
        self.frozen = nn.Conv1d(10, 10, 1).requires_grad_(False)
        self.mix = nn.Parameter(torch.randn(10, 7) / 3)
        self.unused = nn.Linear(3, 3)
        self.out = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.block(self.block(self.stem(x.permute(0, 2, 1))))
        h = self.frozen(self.b(torch.tanh(self.a(h))))
        return self.out(torch.einsum("bcl,ct->btl", h, self.mix).relu().mean(-1))


class Gated2D(nn.Module):
    """conv2d used as 1-D on (N, 1, 4, L), GLU, layer norm, odd channels, in-place ops. (N, 1, 4, 50) -> tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 18, (4, 9))
        self.norm = nn.LayerNorm(9)
        self.odd = nn.Conv1d(9, 7, 3, padding=1, padding_mode="circular")
        self.bn = nn.BatchNorm1d(7)
        self.top, self.out = nn.Linear(7, 2), nn.Linear(7, 1)
        self.register_buffer("scale", torch.linspace(0.5, 2, 7)[:, None])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = F.glu(self.conv(x).squeeze(2), dim=1)
        h = self.norm(h.transpose(1, 2)).transpose(1, 2)
        h = F.relu(self.bn(self.odd(h)), inplace=True)
        return self.top((h * self.scale).amax(-1)), self.out(h.mT).squeeze(-1)


class StrandBias(nn.Module):
    """A score that changes its sign. (N, 4, 40) -> (N, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(4, 12, 5), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten())
        self.out = nn.Linear(12, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.out(self.body(x)))


FAMILIES = [
    Family(BassetLike, torch.zeros(3, 4, 144)),
    Family(DeepSEALike, torch.zeros(3, 4, 143)),
    Family(
        BPNetLike,
        {"x": torch.zeros(3, 4, 200), "control": torch.zeros(3, 2, 200)},
        {"inputs": {"x": "ACGT", "control": "+-"}, "outputs": {"profile": "+-", "counts": "+-"}},
    ),
    Family(SpliceAILike, torch.zeros(3, 4, 180)),
    Family(LegNetLike, torch.zeros(3, 5, 96), {"inputs": "ACGTN"}),
    Family(UNetLike, torch.zeros(3, 4, 128)),
    Family(ConvThenPool, torch.zeros(3, 4, 60)),
    Family(Twice, torch.zeros(3, 60, 4)),
    Family(Gated2D, torch.zeros(3, 1, 4, 50)),
    Family(StrandBias, torch.zeros(3, 4, 40), {"outputs": "antisymmetric"}),
]
