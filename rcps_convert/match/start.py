"""The start of a matched conversion, as a plan holds it: reorder, and recalibrate at the end."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ..measure.probe import Probe
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
    """

    search: Search
    found: Matching

    def reorder(self, model: nn.Module) -> None:
        """Reorder the channels of a model, in place: as planned, or, if it has other weights, by pairs of its own."""
        if not self.search.fits(model):
            self.found = self.search.find(model)
        self.found.apply(model)

    def recalibrate(self, model: nn.Module) -> None:
        """Compute the statistics of a converted model anew on the user's sequences, if there are any."""
        if self.search.calls is not None:
            probe = Probe(model, self.search.example, self.search.specs, self.search.actions, own=True)
            recalibrate(model, whole_calls(self.search.calls, probe))

    def words(self) -> list[str]:
        """What a plan says of it."""
        looked = "random DNA" if self.search.calls is None else "the given sequences"
        lines = [f"{row} on {looked}" if row.how == "activations" else str(row) for row in self.found.rows]
        stay = [f"not reordered, as that would change the function: {name}" for name in self.found.kept]
        return lines + stay
