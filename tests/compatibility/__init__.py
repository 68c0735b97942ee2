"""What torch's world does with converted models: each row is a tool, tried on a model of each strategy.

``python -m tests.compatibility`` runs every row and writes what came of it to docs/compatibility.md;
``tests/test_compatibility.py`` runs them too, and compares.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rcps_convert import ConversionError

if str(Path(__file__).parents[1]) not in sys.path:  # the folder of the tests, where this is run as a module
    sys.path.insert(0, str(Path(__file__).parents[1]))

from oracle import assert_law
from planned import remembered

STRATEGIES = ("tied", "conjoined", "mixed")

LENGTH = 42
"""A length that leaves a remainder in the pool of `Net`, so that its calls are re-anchored."""

DNA = torch.zeros(2, 4, LENGTH)


class Net(nn.Module):
    """Convolutions, batch norms that fold and that do not, a pool, a recurrent layer, two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv1d(4, 8, 5, padding=2), nn.BatchNorm1d(8)
        self.pool, self.conv, self.odd = nn.MaxPool1d(4), nn.Conv1d(8, 7, 3, padding=1), nn.BatchNorm1d(7)
        self.hidden, self.head = nn.Linear(7, 8), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.pool(self.norm(self.stem(x)).relu())
        h = self.odd(self.conv(h)).relu().mean(-1)
        return self.head(self.hidden(h).relu())


def made(strategy: str, make: Callable[[], nn.Module] = Net, example: Tensor = DNA, **how: Any) -> Any:
    """A converted model."""
    return remembered(make, example, strategy=strategy, **{"verify": False, **how})


def sequences(samples: int = 4, length: int = LENGTH) -> Tensor:
    """One-hot DNA."""
    ids = torch.randint(4, (samples, length), generator=torch.Generator().manual_seed(samples))
    return nn.functional.one_hot(ids, 4).mT.float().contiguous()


def exact(model: nn.Module, example: Tensor = DNA, tolerance: float = 1e-9) -> None:
    """The law, of a model as it is, in float64."""
    assert_law(model, example, tolerance=tolerance, randomise=False, modes=("eval",))


def even(model: Callable[[Tensor], Tensor], x: Tensor, tolerance: float) -> None:
    """An invariant output is the same on both strands, and another one on another sequence."""
    with torch.no_grad():
        one, other = model(x).double(), model(x.flip(1, 2).contiguous()).double()
    scale = float(one.abs().max())
    assert scale > 0
    assert float((one - other).abs().max()) <= tolerance * scale
    assert len({float(v) for v in one.flatten()}) > 1


def step(model: nn.Module, optimizer: Any, x: Tensor | None = None) -> None:
    """One step of training that moves the outputs."""
    x = sequences(8) if x is None else x

    def loss() -> Tensor:
        optimizer.zero_grad()
        found = (model.train()(x) - 1).square().mean()
        found.backward()
        return found

    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step(loss)
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def refused(run: Callable[[], Any], words: str) -> str:
    """The cell of a row that is refused, by words of this package."""
    with pytest.raises(ConversionError, match=re.escape(words)) as caught:
        run()
    return "refused: " + str(caught.value).splitlines()[0]


@dataclass(frozen=True)
class Row:
    """A tool.

    Attributes:
        group: the table it is in.
        name: what is done.
        run: does it with a model of a strategy, and says what came of it; None for "works".
        needs: packages it needs beyond the tests' own.
        slow: it takes seconds.
    """

    group: str
    name: str
    run: Callable[[str], str | None]
    needs: tuple[str, ...]
    slow: bool

    def can_run(self) -> bool:
        """Whether the packages are there."""
        return all(importlib.util.find_spec(name) is not None for name in self.needs)

    def cell(self, strategy: str) -> str:
        """What came of it with a strategy; an error that is not expected is raised."""
        return self.run(strategy) or "works"


ROWS: list[Row] = []


def row(group: str, name: str, *needs: str, slow: bool = False) -> Callable[[Any], Any]:
    """Add a row."""

    def add(run: Callable[[str], str | None]) -> Callable[[str], str | None]:
        ROWS.append(Row(group, name, run, needs, slow))
        return run

    return add


from . import compilers, edits, processes, training  # noqa: E402, F401 - they add their rows
