"""Converted models that are saved, and what a loaded one is compared in; as a script, loads them elsewhere.

``python tests/saved.py FOLDER`` loads every ``NAME.pt`` (a whole model) and ``NAME.rc`` (recipe and state) of a folder
and writes what `measured` gives to ``NAME.out``.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from models import FAMILIES, ZOO, Family
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils import _pytree as pytree

from rcps_convert import Tokens

DNA = torch.zeros(2, 4, 24)


class Pooled(nn.Module):
    """Nine channels: pairs and a fixed one, so that ties are orbits and norms pool their statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.out = nn.Conv1d(4, 9, 5), nn.BatchNorm1d(9), nn.Linear(9, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.norm(self.conv(x))).mean(2))


class Branched(nn.Module):
    """A layer that no trace reads, and one that no trace calls but as a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.long, self.out = nn.Conv1d(4, 8, 5), nn.Conv1d(8, 8, 3), nn.Linear(8, 1)
        self.gain = nn.Parameter(torch.ones(8, 1))

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        if x.shape[2] > 100000:
            h = self.long(h) * self.gain
        return self.out(F.relu(h).mean(2))


class Switched(nn.Module):
    """A forward that goes another way where it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv1d(4, 8, 5), nn.Linear(8, 1)

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:
        h = F.relu(self.conv(x))
        return self.out((h.cumsum(2) if causal else h).mean(2))


class Shared(nn.Module):
    """A module of two names, a parameter of two modules, and weight norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = weight_norm(nn.Conv1d(4, 8, 5))
        self.a, self.b, self.out = nn.Conv1d(8, 8, 3, padding=1), nn.Conv1d(8, 8, 3, padding=1), nn.Linear(8, 1)
        self.b.weight, self.again = self.a.weight, self.a

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.stem(x))
        return self.out(self.again(F.relu(self.b(F.relu(self.a(h))))).mean(2))


class Buffers(nn.Module):
    """A window that is averaged, a table that no state has, and a pool that is re-anchored."""

    window: Tensor
    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool, self.out = nn.Conv1d(4, 8, 5), nn.MaxPool1d(3), nn.Linear(8, 1)
        self.register_buffer("window", torch.linspace(0, 1, 24))
        self.register_buffer("mask", torch.hann_window(24, periodic=False), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.pool(F.relu(self.conv(x * self.window * self.mask))).mean(2))


class OneWay(nn.Module):
    """A recurrence in one direction, which runs on both strands."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.rnn, self.out = nn.Conv1d(4, 8, 5), nn.GRU(8, 6, batch_first=True), nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(F.relu(self.conv(x)).transpose(1, 2))[0].mean(1))


class TwoWays(nn.Module):
    """A recurrence in both directions, one the mirror image of the other."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 8)
        self.rnn, self.out = nn.LSTM(8, 6, batch_first=True, bidirectional=True), nn.Linear(12, 1)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.rnn(self.embed(ids))[0].mean(1))


class Flat(nn.Sequential):
    """Exact at the length it was converted at only: calls at other lengths are refused."""

    def __init__(self) -> None:
        super().__init__(nn.Conv1d(4, 6, 5), nn.BatchNorm1d(6), nn.ReLU(), nn.Flatten(), nn.Linear(120, 1))


class Symmetric(nn.Module):
    """Equivariant with any weights: nothing is attached."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x.sum((1, 2))[:, None])


class Kept(nn.Module):
    """Statistics in a buffer of the model's own, which are averaged over the strands."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv1d(4, 8, 5), nn.Linear(8, 2)
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        if self.training:
            self.mean.lerp_(h.detach().mean((0, 2)), 0.1)
        return self.out(F.relu(h - self.mean[:, None]).mean(2))


VARIANTS = [
    Family(Pooled, DNA),
    Family(Branched, DNA),
    Family(Switched, DNA),
    Family(Shared, DNA),
    Family(Buffers, DNA, {"symmetrise_buffers": True}),
    Family(OneWay, DNA, {"on_unsupported": "both_strands"}),
    Family(TwoWays, torch.zeros(2, 12, dtype=torch.int64), {"inputs": Tokens("ACGTN")}),
    Family(Flat, DNA, {"verify": True}),
    Family(Symmetric, DNA),
    Family(Kept, DNA),
]

BY_NAME = {family.name: family for family in (*FAMILIES, *ZOO, *VARIANTS)}


class InMain(nn.Sequential):
    """A class of the main program, here and in the process that loads."""

    def __init__(self) -> None:
        super().__init__(nn.Conv1d(4, 8, 5), nn.ReLU(), nn.Flatten(), nn.Linear(160, 1))


def drawn(example: Any) -> Any:
    """An example with other numbers; the same each time."""
    generator = torch.Generator().manual_seed(11)

    def draw(x: Tensor) -> Tensor:
        if x.is_floating_point():
            return torch.rand(x.shape, generator=generator, dtype=x.dtype)
        return torch.randint(0, 4, x.shape, generator=generator) if x.dtype == torch.int64 else x

    return pytree.tree_map_only(Tensor, draw, example)


def outputs(model: nn.Module, example: Any) -> list[Tensor]:
    """What a model returns, the random numbers of a forward the same each time."""
    torch.manual_seed(7)
    random.seed(7)
    x = drawn(example)
    made = model(**x) if isinstance(x, dict) else model(*x) if isinstance(x, tuple) else model(x)
    return [y for y in pytree.tree_leaves(made) if isinstance(y, Tensor)]


def measured(model: nn.Module, example: Any) -> list[Tensor]:
    """Outputs in eval mode, after that a step of training, then the state and the outputs again."""
    found = [y.detach() for y in outputs(model.eval(), example)]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    sum(y.square().mean() for y in outputs(model.train(), example) if y.requires_grad).backward()
    optimizer.step()
    found += [v for v in model.state_dict().values() if isinstance(v, Tensor)]
    return [y.detach().clone() for y in (*found, *outputs(model.eval(), example))]


def main(folder: Path) -> None:
    """Load every file of a folder, without tracing and without converting, and measure it."""
    from rcps_convert import load
    from rcps_convert.convert import convert

    torch.export.export = convert.planned = None  # what needs them fails
    for path in sorted(folder.glob("*.*")):
        name = path.stem.partition("-")[0]
        if path.suffix == ".pt":
            model = torch.load(path, weights_only=False)
        else:
            torch.manual_seed(99)
            model = load(path, BY_NAME[name].make())
        example = BY_NAME[name].example if name in BY_NAME else DNA
        torch.save(measured(model, example), folder / f"{path.name}.out")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
