"""What was measured of each layer, and how it is computed from now on, in words."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class LayerTimes:
    """A layer.

    Attributes:
        name: its path.
        shape: of its input.
        product: what it multiplies, in words.
        inference, train: time over the stock operator's: the forward pass, and forward and backward passes together.
        backend: what computes it.
    """

    name: str
    shape: tuple[int, ...]
    product: str
    inference: float
    train: float
    backend: str

    def words(self) -> list[str]:
        """The cells of its row."""
        shown = f"({', '.join(map(str, self.shape))})"
        return [
            self.name or "(the model)",
            shown,
            self.product,
            f"{self.inference:.2f}",
            f"{self.train:.2f}",
            self.backend,
        ]


HEAD = ["layer", "input", "multiplies", "inference", "train", "backend"]


@dataclass
class AccelerationPlan:
    """What was measured, layer by layer.

    Attributes:
        settings: type, threads and instructions, in words.
        rows: the layers that were measured.
        notes: what else is to be said.
    """

    settings: str
    rows: list[LayerTimes] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def accelerated(self) -> list[LayerTimes]:
        """The layers of which some part is not the stock operator's."""
        return [row for row in self.rows if row.backend != "stock"]

    def __str__(self) -> str:
        head = f"{len(self.accelerated)} of {len(self.rows)} tied layers run as half products ({self.settings})"
        cells = [HEAD, *(row.words() for row in self.rows)] if self.rows else []
        widths = [max(len(line[i]) for line in cells) for i in range(len(HEAD))] if cells else []
        table = ["  " + "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells]
        return "\n".join([head, *table, *self.notes])
