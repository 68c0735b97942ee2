"""Convolutional networks in the style of published ones, each as small as its structure allows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from einops.layers.torch import Rearrange
from torch import Tensor, nn

from rcps_convert import Tokens, Tracks

from .family import Family


class DeepBindLike(nn.Module):
    """One convolution, a rectified threshold per filter, max and mean pooling side by side. (N, 4, 51) -> (N, 1)."""

    def __init__(self, c: int = 12) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, c, 11, padding=10, bias=False)
        self.threshold = nn.Parameter(torch.randn(1, c, 1) / 4)
        self.net = nn.Sequential(nn.Linear(2 * c, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 1))

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.conv(x - 0.25) - self.threshold)
        return self.net(torch.cat([F.max_pool1d(h, h.shape[-1]), F.avg_pool1d(h, h.shape[-1])], 1).flatten(1))


class BasenjiLike(nn.Module):
    """Pooled tower, dilated residuals, a softplus per bin and track. (N, 4, 128) -> (N, 8, 3)."""

    def __init__(self, c: int = 12) -> None:
        super().__init__()
        self.tower = nn.Sequential(*(self.block(4 if i == 0 else c, c, 5, pool=2) for i in range(3)))
        self.dilated = nn.ModuleList(
            nn.Sequential(self.block(c, c // 2, 3, d), self.block(c // 2, c, 1), nn.Dropout(0.1)) for d in (1, 2, 4)
        )
        self.point, self.head = self.block(c, 2 * c, 1), nn.Linear(2 * c, 3)

    def block(self, a: int, b: int, k: int, d: int = 1, pool: int = 1) -> nn.Module:
        conv = nn.Conv1d(a, b, k, padding=d * (k // 2), dilation=d, bias=False)
        return nn.Sequential(nn.GELU(), conv, nn.BatchNorm1d(b, momentum=0.1), nn.MaxPool1d(pool))

    def forward(self, x: Tensor) -> Tensor:
        h = self.tower(x)
        for block in self.dilated:
            h = h + block(h)
        h = F.gelu(self.point(h))[..., 4:-4]
        return F.softplus(self.head(h.transpose(1, 2)))


class BiasTrunk(nn.Module):
    """Dilated convolutions without padding, the residual cropped to fit; profile logits and log counts."""

    def __init__(self, c: int, layers: int, tracks: int) -> None:
        super().__init__()
        self.stem = nn.Conv1d(4, c, 11)
        self.rest = nn.ModuleList(nn.Conv1d(c, c, 3, dilation=2**i) for i in range(1, layers + 1))
        self.profile, self.counts = nn.Conv1d(c, tracks, 7), nn.Linear(c, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = F.relu(self.stem(x))
        for conv in self.rest:
            y = F.relu(conv(h))
            crop = (h.shape[-1] - y.shape[-1]) // 2
            h = h[:, :, crop:-crop] + y
        return self.profile(h), self.counts(F.adaptive_avg_pool1d(h, 1).squeeze(-1))


class ChromBPNetLike(nn.Module):
    """A frozen bias model and an accessibility model: logits add, counts add on a log scale.

    (N, 4, 100) -> (N, 1, 56) and (N, 1).
    """

    def __init__(self) -> None:
        super().__init__()
        self.bias = BiasTrunk(6, 1, 1).requires_grad_(False)
        self.accessibility = BiasTrunk(12, 3, 1)
        self.shift = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        profile, counts = self.accessibility(x)
        bias_profile, bias_counts = self.bias(x)
        crop = (bias_profile.shape[-1] - profile.shape[-1]) // 2
        profile = profile + bias_profile[:, :, crop:-crop]
        return profile, torch.logsumexp(torch.cat([counts, bias_counts + self.shift], -1), -1, keepdim=True)


class ProCapNetLike(nn.Module):
    """Stranded profile as one distribution over both strands, and total counts. (N, 4, 90) -> (N, 2, 60) and (N, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(4, 12, 21, padding=10)
        self.rest = nn.ModuleList(nn.Conv1d(12, 12, 3, padding=2**i, dilation=2**i) for i in range(1, 4))
        self.profile, self.counts = nn.Conv1d(12, 2, 15, padding=7), nn.Linear(12, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = F.relu(self.stem(x))
        for conv in self.rest:
            h = torch.add(h, F.relu(conv(h)))
        logits = self.profile(h)[:, :, 15:-15]
        shape = logits.reshape(len(x), -1).log_softmax(-1).view_as(logits)
        return shape, self.counts(h[:, :, 15:-15].mean(2))


class DeepStarrLike(nn.Module):
    """Four pooled convolutions, two dense layers, two activities. (N, 4, 96) -> (N, 1) and (N, 1)."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [(4, 16, 7), (16, 10, 3), (10, 10, 5), (10, 12, 3)]
        self.convs = nn.Sequential(
            *(
                nn.Sequential(nn.Conv1d(a, b, k, padding="same"), nn.BatchNorm1d(b), nn.ReLU(), nn.MaxPool1d(2))
                for a, b, k in sizes
            )
        )
        self.dense = nn.Sequential(nn.Flatten(), nn.Linear(72, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Dropout(0.4))
        self.dev, self.hk = nn.Linear(20, 1), nn.Linear(20, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.dense(self.convs(x))
        return self.dev(h), self.hk(h)


class BranchedLinear(nn.Module):
    """A dense layer with its own weights per branch: (N, B, I) -> (N, B, O)."""

    def __init__(self, i: int, o: int, branches: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(branches, i, o) / i**0.5)
        self.bias = nn.Parameter(torch.randn(branches, 1, o) / 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x.transpose(0, 1), self.weight).transpose(0, 1)


class MalinoisLike(nn.Module):
    """Basset trunk, padded by hand, with branched dense layers per cell type. (N, 4, 88) -> (N, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv1d(4, 14, 9), nn.BatchNorm1d(14)
        self.conv2, self.bn2 = nn.Conv1d(14, 12, 5), nn.BatchNorm1d(12)
        self.pad, self.pool = nn.ConstantPad1d((4, 4), 0.0), nn.MaxPool1d(4)
        self.linear, self.bn3 = nn.Linear(60, 18), nn.BatchNorm1d(18)
        self.branch1, self.branch2 = BranchedLinear(18, 8, 3), BranchedLinear(8, 8, 3)
        self.out = nn.Conv1d(24, 3, 1, groups=3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.pool(F.relu(self.bn1(self.conv1(self.pad(x)))))
        h = self.pool(F.pad(F.relu(self.bn2(self.conv2(h))), (1, 1)))
        h = F.relu(self.bn3(self.linear(torch.flatten(h, start_dim=1))))
        h = F.elu(self.branch1(h[:, None].expand(-1, 3, -1)))
        return self.out(F.elu(self.branch2(h)).reshape(len(x), 24, 1)).squeeze(-1)


class XpressoLike(nn.Module):
    """Promoter convolutions joined by half-life features of the mRNA. (N, 4, 60) and (N, 6) -> (N,)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(4, 12, 7, dilation=1, padding=3), nn.Conv1d(12, 8, 9, dilation=3)
        self.dense = nn.Sequential(nn.Linear(8 * 6 + 6, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        h = F.max_pool1d(self.conv1(x).relu(), 2, stride=2)
        h = F.max_pool1d(self.conv2(F.pad(h, (12, 12))).relu(), 5)
        return self.dense(torch.cat([h.flatten(1), features], dim=1))[:, 0]


class PangolinLike(nn.Module):
    """Dilated residual blocks with skips; per tissue a softmax and a sigmoid. (N, 4, 80) -> (N, 6, 40)."""

    def __init__(self, c: int = 10) -> None:
        super().__init__()
        self.conv1, self.skip = nn.Conv1d(4, c, 1), nn.Conv1d(c, c, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm1d(c), nn.ReLU(), nn.Conv1d(c, c, 5, dilation=d, padding=2 * d),
                nn.BatchNorm1d(c), nn.ReLU(), nn.Conv1d(c, c, 5, dilation=d, padding=2 * d),
            )
            for d in (1, 2)
        )  # fmt: skip
        self.convs = nn.ModuleList([nn.Conv1d(c, c, 1) for _ in self.blocks])
        self.heads = nn.ModuleList([nn.Conv1d(c, k, 1) for k in (2, 1, 2, 1)])

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(x)
        skip = self.skip(h)
        for block, conv in zip(self.blocks, self.convs, strict=True):
            h = block(h) + h
            skip = skip + conv(h)
        skip = F.pad(skip, (-20, -20))
        made = [head(skip) for head in self.heads]
        return torch.cat([F.softmax(y, dim=1) if y.shape[1] == 2 else torch.sigmoid(y) for y in made], dim=1)


class ExplaiNNLike(nn.Module):
    """Many tiny networks side by side as grouped convolutions, joined by one linear layer. (N, 4, 60) -> (N, 3)."""

    def __init__(self, units: int = 6) -> None:
        super().__init__()
        self.units = units
        self.linears = nn.Sequential(
            nn.Conv1d(4 * units, units, 9, groups=units), nn.BatchNorm1d(units), nn.Softplus(), nn.MaxPool1d(4, 4),
            nn.Flatten(), nn.Unflatten(1, (-1, 1)),
            nn.Conv1d(13 * units, 5 * units, 1, groups=units), nn.BatchNorm1d(5 * units), nn.ReLU(), nn.Dropout(0.3),
            nn.Conv1d(5 * units, units, 1, groups=units), nn.BatchNorm1d(units), nn.ReLU(), nn.Flatten(),
        )  # fmt: skip
        self.final = nn.Linear(units, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.final(self.linears(x.repeat(1, self.units, 1)))


class AkitaLike(nn.Module):
    """Contact map: means of pairs of bins, distance, symmetric 2-D dilated trunk, upper triangle.

    (N, 4, 96) -> (N, 2, 12, 12).
    """

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.tower = nn.Sequential(
            nn.Conv1d(4, c, 7, padding=3), nn.BatchNorm1d(c), nn.ReLU(), nn.MaxPool1d(4),
            nn.Conv1d(c, c, 5, padding=2), nn.BatchNorm1d(c), nn.ReLU(), nn.MaxPool1d(2),
        )  # fmt: skip
        self.mix = nn.Conv2d(c + 1, c, 3, padding=1)
        self.trunk = nn.ModuleList(nn.Conv2d(c, c, 3, padding=d, dilation=d) for d in (1, 2))
        self.norms, self.out = nn.ModuleList(nn.BatchNorm2d(c) for _ in range(2)), nn.Conv2d(c, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.tower(x)
        pair = (h[:, :, :, None] + h[:, :, None, :]) / 2
        at = torch.arange(h.shape[-1], device=x.device)
        far = (at[None] - at[:, None]).abs().float().expand(len(x), 1, -1, -1)
        m = F.relu(self.mix(torch.cat([pair, far], 1)))
        m = (m + m.transpose(2, 3)) / 2
        for conv, norm in zip(self.trunk, self.norms, strict=True):
            y = F.relu(norm(conv(m)))
            m = m + (y + y.transpose(2, 3)) / 2
        return self.out(m)


class OrcaLike(nn.Module):
    """Outer products over length, a 2-D coarse and a fine decoder, upsampled and added. (N, 4, 64) -> (N, 16, 16)."""

    def __init__(self, c: int = 6) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Conv1d(4, c, 9, padding=4), nn.ReLU(), nn.MaxPool1d(4), nn.Conv1d(c, c, 1))
        self.fine, self.coarse = nn.Conv2d(2 * c, c, 3, padding=1), nn.Conv2d(2 * c, c, 3, padding=1)
        self.norm, self.out = nn.GroupNorm(2, c), nn.Conv2d(c, 1, 1)
        self.background = nn.Parameter(torch.randn(31))

    def maps(self, h: Tensor) -> Tensor:
        return torch.cat([torch.einsum("bci,bcj->bcij", h, h), h[..., None] - h[..., None, :]], 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.encode(x)
        fine, coarse = self.fine(self.maps(h)), self.coarse(self.maps(F.avg_pool1d(h, 2)))
        at = torch.arange(h.shape[-1])
        decay = self.background[at[None] - at[:, None] + 15]
        y = self.out(F.relu(self.norm(fine + F.interpolate(coarse, scale_factor=2)))) + decay
        return (0.5 * y + 0.5 * y.transpose(2, 3)).squeeze(1)


class SeiLike(nn.Module):
    """Linear and nonlinear paths side by side, dilated residuals, a spline basis of positions. (N, 4, 64) -> (N, 4)."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.linear = nn.Sequential(nn.Conv1d(4, c, 9, padding=4), nn.Conv1d(c, c, 9, padding=4))
        self.curved = nn.Sequential(nn.Conv1d(c, c, 9, padding=4), nn.ReLU(), nn.Conv1d(c, c, 9, padding=4), nn.ReLU())
        self.dilated = nn.ModuleList(nn.Conv1d(c, c, 5, dilation=d, padding=2 * d) for d in (2, 4))
        at = torch.linspace(0, 1, 16)[:, None] - torch.linspace(0, 1, 5)
        self.register_buffer("spline", (1 - 4 * at.abs()).clamp(min=0) ** 2)
        self.classifier = nn.Sequential(nn.Linear(5 * c, 10), nn.ReLU(), nn.Linear(10, 4), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        h = self.linear(x)
        h = F.max_pool1d(h + self.curved(h), 4)
        for conv in self.dilated:
            h = h + conv(h).relu()
        return self.classifier(torch.matmul(h, self.spline).view(len(x), -1))


class PuffinLike(nn.Module):
    """Motif activations in both orientations, long kernels per effect, an exponential. (N, 4, 80) -> (N, 2, 80)."""

    def __init__(self, motifs: int = 5) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, motifs, 11, padding=5)
        self.inr = nn.Conv1d(4, 3, 7, padding=3)
        self.act = nn.Softplus()
        self.effects = nn.Conv1d(2 * motifs, 2, 31, padding=15)
        self.initiator = nn.Conv1d(6, 2, 9, padding=4)
        self.scale = nn.Parameter(torch.ones(1))

    def both(self, conv: nn.Module, x: Tensor) -> Tensor:
        return self.act(torch.cat([conv(x), conv(x.flip([1, 2])).flip(2)], 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.effects(self.both(self.conv, x)) * self.scale + self.initiator(self.both(self.inr, x))
        return F.softplus(y)


class ScBassetLike(nn.Module):
    """Basset tower, a bottleneck, and one dot product per cell. (N, 4, 96) -> (N, 7)."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Sequential(
            nn.Conv1d(4, 12, 9, padding=4), nn.BatchNorm1d(12), nn.GELU(), nn.MaxPool1d(3),
            nn.Conv1d(12, 14, 5, padding=2), nn.BatchNorm1d(14), nn.GELU(), nn.MaxPool1d(2),
            nn.Conv1d(14, 10, 1), nn.BatchNorm1d(10), nn.GELU(), nn.Flatten(),
            nn.Linear(160, 6), nn.BatchNorm1d(6), nn.Dropout(0.2), nn.GELU(),
        )  # fmt: skip
        self.cells, self.depth = nn.Parameter(torch.randn(7, 6)), nn.Parameter(torch.randn(7))

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(F.linear(self.tower(x), self.cells) + self.depth)


class ResNetLike(nn.Module):
    """conv2d of (N, 4, 1, L), strided blocks with projections, ceil-free pooling. (N, 4, 1, 65) -> (N, 3)."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(4, c, (1, 7), padding=(0, 3), bias=False), nn.BatchNorm2d(c), nn.ReLU())
        self.body = nn.Sequential(
            nn.Conv2d(c, 2 * c, (1, 3), stride=(1, 2), padding=(0, 1), bias=False), nn.BatchNorm2d(2 * c), nn.ReLU(),
            nn.Conv2d(2 * c, 2 * c, (1, 3), padding=(0, 1), bias=False), nn.BatchNorm2d(2 * c),
        )  # fmt: skip
        self.project = nn.Conv2d(c, 2 * c, 1, stride=(1, 2), bias=False)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * c, 3))

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        return self.head(F.relu(self.body(h) + self.project(h)))


class Inception(nn.Module):
    """Kernels of several widths and a pooled path, concatenated; dense connections. (N, 4, 60) -> (N, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.paths = nn.ModuleList(nn.Conv1d(4, 5 + i, k, padding=k // 2) for i, k in enumerate((3, 7, 11)))
        self.pooled = nn.Conv1d(4, 3, 1)
        self.norm = nn.BatchNorm1d(21)
        self.dense = nn.ModuleList(nn.Conv1d(21 + 4 * i, 4, 3, padding=1) for i in range(3))
        self.out = nn.Sequential(nn.Linear(33, 8), nn.PReLU(8), nn.Linear(8, 2))

    def forward(self, x: Tensor) -> Tensor:
        made = [p(x) for p in self.paths] + [self.pooled(F.max_pool1d(x, 3, stride=1, padding=1))]
        found = [F.relu(self.norm(torch.cat(made, 1)))]
        for conv in self.dense:
            found.append(F.relu(conv(torch.cat(found, 1))))
        return self.out(reduce(torch.cat(found, 1), "b c l -> b c", "max"))


class Highway(nn.Module):
    """WaveNet-like gates, a learned mixture of layers, highway connections. (N, 4, 40) -> (N, 40, 2)."""

    def __init__(self, c: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv1d(4, c, 1)
        self.filter, self.gate = (nn.Conv1d(c, c, 3, padding=2, dilation=2) for _ in range(2))
        self.carry, self.mixture = nn.Linear(c, c), nn.Parameter(torch.randn(3))
        self.out = nn.Linear(c, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        kept = [h]
        for _ in range(2):
            g = torch.sigmoid(self.carry(h.mT)).mT
            h = g * torch.tanh(self.filter(h)) * torch.sigmoid(self.gate(h)) + (1 - g) * h
            kept.append(h)
        mixed = (torch.stack(kept, -1) * self.mixture.softmax(0)).sum(-1)
        return self.out(mixed.transpose(1, 2))


class MixtureOfExperts(nn.Module):
    """Experts of convolutions, weighted by a gate on the whole sequence. (N, 4, 40) -> (N, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Conv1d(4, 8, k, padding=k // 2) for k in (3, 5, 9))
        self.gate = nn.Sequential(nn.Conv1d(4, 6, 5, padding=2), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten())
        self.choose, self.out = nn.Linear(6, 3), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        made = torch.stack([F.elu(e(x)).amax(-1) for e in self.experts], 1)
        return self.out(torch.einsum("be,bec->bc", self.choose(self.gate(x)).softmax(-1), made))


class MaskedBatch(nn.Module):
    """Variational head: mean and log-variance, and their exponential as a second output. (N, 4, 40) -> two (N, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 10, 7, padding=3)
        self.head = nn.Linear(20, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = F.mish(self.conv(x))
        mean, logvar = self.head(torch.cat([h.mean(-1), h.std(-1)], -1)).chunk(2, -1)
        return mean, logvar.clamp(-8, 8).exp()


# --- forms of input -----------------------------------------------------------------------------


class CharacterTokens(nn.Module):
    """Tokens A, C, G, T, N and special ones, masked padding, class token first. (N, 30) -> (N, 2)."""

    def __init__(self, c: int = 12) -> None:
        super().__init__()
        self.embed, self.conv = nn.Embedding(7, c, padding_idx=0), nn.Conv1d(c, c, 5, padding=2)
        self.out = nn.Linear(c, 2)

    def forward(self, ids: Tensor) -> Tensor:
        keep = (ids != 0).unsqueeze(-1)
        h = F.gelu(self.conv((self.embed(ids) * keep).transpose(1, 2)).transpose(1, 2))
        return self.out((h * keep).sum(1) / keep.sum(1).clamp(min=1))


class KmerTransformer(nn.Module):
    """Overlapping 2-mers, learned positions, an encoder layer. (N, 20) -> (N, 20, 16)."""

    def __init__(self, c: int = 12) -> None:
        super().__init__()
        self.embed, self.at = nn.Embedding(16, c), nn.Embedding(20, c)
        self.body = nn.TransformerEncoderLayer(c, 2, 16, dropout=0.1, batch_first=True, activation="gelu")
        self.out = nn.Linear(c, 5)

    def forward(self, ids: Tensor) -> Tensor:
        at = torch.arange(ids.shape[1], device=ids.device)
        return self.out(self.body(self.embed(ids) + self.at(at)))


class OneHotInside(nn.Module):
    """Characters become one-hot rows inside forward, in another order of bases. (N, 30) -> (N, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv1d(4, 8, 5), nn.Linear(8, 2)

    def forward(self, ids: Tensor) -> Tensor:
        x = F.one_hot(ids, 5)[..., :4].float().transpose(1, 2)[:, [2, 0, 3, 1]]
        return self.out(F.relu(self.conv(x)).amax(-1))


class Recoded(nn.Module):
    """(N, L, 4) in order T, C, A, G; purines and hydrogen bonds as further channels. (N, 30, 4) -> (N, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv1d(6, 8, 5), nn.Linear(8, 2)
        self.register_buffer("strong", torch.tensor([0.0, 1.0, 0.0, 1.0]))

    def forward(self, x: Tensor) -> Tensor:
        purine = x[..., 2:].sum(-1, keepdim=True) - x[..., :2].sum(-1, keepdim=True)
        bonds = (x * self.strong).sum(-1, keepdim=True)
        h = torch.cat([x, purine, bonds], -1).permute(0, 2, 1)
        return self.out(torch.tanh(self.conv(h)).mean(-1))


class Patches(nn.Module):
    """Non-overlapping patches of positions through one linear layer, mixer blocks. (N, 4, 48) -> (N, 3)."""

    def __init__(self, c: int = 12) -> None:
        super().__init__()
        self.cut, self.embed = Rearrange("b c (n p) -> b n (c p)", p=6), nn.Linear(24, c)
        self.tokens, self.channels = nn.Linear(8, 8), nn.Sequential(nn.Linear(c, 2 * c), nn.GELU(), nn.Linear(2 * c, c))
        self.norm1, self.norm2, self.out = nn.LayerNorm(c), nn.LayerNorm(c), nn.Linear(c, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(self.cut(x))
        h = h + F.gelu(self.tokens(self.norm1(h).transpose(1, 2))).transpose(1, 2)
        return self.out((h + self.channels(self.norm2(h))).mean(1))


class SideInputs(nn.Module):
    """Sequence, conservation and stranded signal per position, and a cell embedding by number.

    (N, 4, 40), (N, 40), (N, 40, 2), (N,) -> {"profile": (N, 40, 2), "total": (N, 1)}.
    """

    def __init__(self, c: int = 10) -> None:
        super().__init__()
        self.conv, self.cell = nn.Conv1d(7, c, 5, padding=2), nn.Embedding(6, c)
        self.film, self.profile, self.total = nn.Linear(c, 2 * c), nn.Linear(c, 2), nn.Linear(c, 1)

    def forward(self, x: Tensor, conserved: Tensor, signal: Tensor, cell: Tensor) -> dict[str, Tensor]:
        h = self.conv(torch.cat([x, conserved.unsqueeze(1), torch.log1p(signal).mT], 1))
        scale, shift = self.film(self.cell(cell)).unsqueeze(-1).chunk(2, dim=1)
        h = F.relu(h * scale + shift).mT
        return {"profile": self.profile(h), "total": self.total(h.mean(1))}


class TracksThrough(nn.Module):
    """Four tracks in, an antisymmetric score and a stranded profile out. (N, 4, 40) -> (N, 1) and (N, 2, 40)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.profile = nn.Conv1d(4, 8, 5, padding=2), nn.Conv1d(8, 2, 3, padding=1)
        self.score = nn.Linear(8, 1, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = F.relu(self.conv(x))
        return self.score(h.mean(-1)), F.softplus(self.profile(h))


class Siamese2D(nn.Module):
    """Kernels over all bases and over one, a grid flattened by einops. (N, 1, 4, 40) -> (N, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 6, (4, 7), padding=(0, 3)), nn.Conv2d(1, 4, (1, 5), padding=(0, 2))
        self.out = nn.Linear(6 * 10 + 16 * 10, 2)

    def forward(self, x: Tensor) -> Tensor:
        rows = F.max_pool2d(F.relu(self.a(x)), (1, 4))
        grid = F.avg_pool2d(F.relu(self.b(x)), (1, 4))
        return self.out(
            torch.cat([rearrange(rows, "b c r l -> b (c r l)"), rearrange(grid, "b c r l -> b (c r l)")], 1)
        )


KMERS = [a + b for a in "ACGT" for b in "ACGT"]

ZOO = [
    Family(DeepBindLike, torch.zeros(2, 4, 51)),
    Family(BasenjiLike, torch.zeros(2, 4, 128)),
    Family(ChromBPNetLike, torch.zeros(2, 4, 100)),
    Family(ProCapNetLike, torch.zeros(2, 4, 90), {"outputs": ("+-", "invariant")}),
    Family(DeepStarrLike, torch.zeros(2, 4, 96)),
    Family(MalinoisLike, torch.zeros(2, 4, 88)),
    Family(XpressoLike, (torch.zeros(2, 4, 60), torch.zeros(2, 6)), {"inputs": ("ACGT", "invariant")}),
    Family(PangolinLike, torch.zeros(2, 4, 80)),
    Family(ExplaiNNLike, torch.zeros(2, 4, 60)),
    Family(AkitaLike, torch.zeros(2, 4, 96)),
    Family(OrcaLike, torch.zeros(2, 4, 64)),
    Family(SeiLike, torch.zeros(2, 4, 64), {"symmetrise_buffers": True}),
    Family(PuffinLike, torch.zeros(2, 4, 80), {"outputs": "+-"}),
    Family(ScBassetLike, torch.zeros(2, 4, 96)),
    Family(ResNetLike, torch.zeros(2, 4, 1, 65)),
    Family(Inception, torch.zeros(2, 4, 60)),
    Family(Highway, torch.zeros(2, 4, 40)),
    Family(MixtureOfExperts, torch.zeros(2, 4, 40)),
    Family(MaskedBatch, torch.zeros(2, 4, 40)),
    Family(
        CharacterTokens,
        torch.zeros(2, 30, dtype=torch.long),
        {"inputs": Tokens(["[PAD]", *"ACGTN", "[CLS]"], prefix=0, suffix=0)},
    ),
    Family(KmerTransformer, torch.zeros(2, 20, dtype=torch.long), {"inputs": Tokens(KMERS)}),
    Family(OneHotInside, torch.zeros(2, 30, dtype=torch.long), {"inputs": Tokens("ACGTN")}),
    Family(Recoded, torch.zeros(2, 30, 4), {"inputs": "TCAG"}),
    Family(Patches, torch.zeros(2, 4, 48)),
    Family(
        SideInputs,
        (torch.zeros(2, 4, 40), torch.zeros(2, 40), torch.zeros(2, 40, 2), torch.zeros(2, dtype=torch.long)),
        {
            "inputs": ("ACGT", ".", "+-", "invariant"),
            "outputs": {"profile": Tracks("+-", layout="n l c"), "total": "auto"},
        },
    ),
    Family(TracksThrough, torch.zeros(2, 4, 40), {"inputs": "+-+-", "outputs": ("antisymmetric", "+-")}),
    Family(Siamese2D, torch.zeros(2, 1, 4, 40)),
]
