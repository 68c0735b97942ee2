"""A converted model obeys the law as exactly after a long training run as before it."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracle import law_error
from torch import Tensor, nn

from rcps_convert import bake, convert_model

STEPS = 500
TOLERANCE = 1e-10
"""Largest deviation of an entry, in float64."""

LENGTH = 60


class Basset(nn.Module):
    """Convolutions with norms and pools, a flattened read-out."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(4, 12, 9, padding=4), nn.BatchNorm1d(12), nn.ReLU(), nn.MaxPool1d(3),
            nn.Conv1d(12, 16, 5, padding=2), nn.BatchNorm1d(16), nn.GELU(), nn.MaxPool1d(4),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(16 * 5, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class BPNet(nn.Module):
    """Dilated residual convolutions, and counts from the mean over positions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(4, 16, 11, padding=5)
        self.tower = nn.ModuleList([nn.Conv1d(16, 16, 3, padding=2**i, dilation=2**i) for i in range(3)])
        self.out = nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x).relu()
        for layer in self.tower:
            h = h + layer(h).relu()
        return self.out(h.mean(-1))


class Attention(nn.Module):
    """A convolution, an encoder layer, a gated pool; weight norm on one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 16, 7, padding=3))
        self.encoder = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
        self.gate, self.out = nn.Linear(16, 1), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.encoder(F.avg_pool1d(self.stem(x).relu(), 4).mT)
        return self.out((self.gate(h).softmax(1) * h).sum(1))


def batches(seed: int, samples: int = 16) -> Iterator[tuple[Tensor, Tensor]]:
    """One-hot DNA, half of it with a motif on either strand, and which half."""
    g = torch.Generator().manual_seed(seed)
    motif = torch.tensor([2, 1, 0, 3, 2, 2, 1, 0])
    while True:
        ids = torch.randint(4, (samples, LENGTH), generator=g)
        label = torch.arange(samples) % 2
        for i in range(1, samples, 2):
            start = int(torch.randint(LENGTH - len(motif), (), generator=g))
            ids[i, start : start + len(motif)] = motif if i % 4 == 1 else 3 - motif.flip(0)
        yield F.one_hot(ids, 4).mT.float(), label.float()


def reloaded(model: nn.Module, average: nn.Module) -> None:
    """Write the state of the averaged model to a file, read it, and go on from it: averages swapped in."""
    file = io.BytesIO()
    torch.save(average.module.state_dict(), file)
    file.seek(0)
    model.load_state_dict(torch.load(file, weights_only=True))


def trained(model: nn.Module) -> list[float]:
    """The usual loop: bf16 autocast, weight decay, clipping, an average that is swapped in and reloaded half way."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.95), use_buffers=True
    )
    losses = []
    for step, (x, label) in zip(range(STEPS), batches(0), strict=False):
        model.train()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logit = model(x).squeeze(-1)
        loss = F.binary_cross_entropy_with_logits(logit.float(), label)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        average.update_parameters(model)
        losses.append(float(loss.detach()))
        if step == STEPS // 2:
            reloaded(model, average)
    return losses


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (Basset, {}),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (BPNet, {}),
                (Attention, {}),
                (Basset, {"strategy": "conjoined"}),
                (BPNet, {"strategy": "mixed"}),
            )
        ),
    ],
    ids=["basset", "bpnet", "attention", "conjoined", "mixed"],
)
def test_five_hundred_steps_leave_the_law_exact(make: type[nn.Module], settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = convert_model(make(), torch.zeros(2, 4, LENGTH), **settings)
    losses = trained(model)
    assert sum(losses[-50:]) < 0.8 * sum(losses[:50]), "nothing was learned"
    model = model.double().eval()
    x = next(batches(1))[0].double()
    assert law_error(model, x) < TOLERANCE
    if settings.get("strategy") != "mixed":
        assert law_error(bake(model), x) < TOLERANCE
