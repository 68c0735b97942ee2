"""The start of a matched conversion, as a plan holds it: reorder, and recalibrate at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import nn

from ...algebra.action import Action
from ...measure.probe import Probe
from .matching import Matching
from .recalibrate import recalibrate
from .search import Search
from .sequences import whole_calls


@dataclass
class MatchedStart:
    """What ``init="match"`` found for a model.

    Attributes:
        search: finds the pairs of another model of the same architecture.
        found: those of the planned one.
        agreement: per output, the correlation of the converted model's with the mean of both readings of the trained
            model; empty where it was not measured.
        refitted: number of layers whose weights were fitted by least squares.
    """

    search: Search
    found: Matching
    agreement: list[float] = field(default_factory=list)
    refitted: int = 0

    @property
    def on_sequences(self) -> bool:
        """Whether the user gave sequences."""
        return self.search.calls is not None

    def reorder(self, model: nn.Module) -> None:
        """Reorder the channels of a model, in place: as planned, or, if it has other weights, by pairs of its own."""
        if not self.search.fits(model):
            self.found = self.search.find(model)
        self.found.apply(model)
        self.refitted = self.search.refit(model)

    def recalibrate(self, model: nn.Module) -> None:
        """Compute the statistics of a converted model anew on the user's sequences, if there are any."""
        if self.search.calls is not None:
            probe = Probe(model, self.search.example, self.search.specs, self.search.actions, own=True)
            recalibrate(model, whole_calls(self.search.calls, probe))

    def compare(self, model: nn.Module, converted: nn.Module, outputs: Sequence[Action | None]) -> None:
        """Measure how far a converted model follows the mean of both readings of the trained one.

        Args:
            model, converted: before and after, not touched.
            outputs: the action of each output.
        """
        self.agreement = self.search.agreement(model, converted, outputs)

    def words(self) -> list[str]:
        """What a plan says of it."""
        looked = "the given sequences" if self.on_sequences else "random DNA"
        lines = [f"{row} on {looked}" if row.how == "activations" else str(row) for row in self.found.rows]
        stay = [f"not reordered, as that would change the function: {name}" for name in self.found.kept]
        each = ", ".join(f"{r:.3f}" for r in self.agreement)
        said = f"outputs follow the mean of both readings of the model, correlation {each} on {looked}"
        if self.refitted:
            lines.append(f"weights of {self.refitted} layers by least squares on {looked}, towards both readings' mean")
        return lines + stay + ([said] if each else [])
