"""What inference found for one model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..algebra.action import Action
from ..errors import ConversionError, Where
from ..graph.trace import Node
from ..rules.pins import Pin
from ..rules.registry import Anchor
from ..tie.passage import Passage
from . import constants
from .mirrors import MirroredPairs
from .one_sided import Spread
from .stretch import Hint, Tested


@dataclass(frozen=True)
class OpenTerms:
    """The actions of a solution before what nothing demands got its default: open variables stand as such.

    Axes that share a variable may be permuted in step without a change of the function.

    Attributes:
        parameters: per parameter name.
        statistics: per buffer that holds running statistics.
        values: of every result of the first trace, by name.
    """

    parameters: dict[str, Action] = field(default_factory=dict)
    statistics: dict[str, Action] = field(default_factory=dict)
    values: dict[str, Action] = field(default_factory=dict)

    @staticmethod
    def of(*groups: Mapping[str, Any]) -> OpenTerms:
        """What is known by now of parameters, statistics and results."""
        kept = ({name: a.walk() for name, a in group.items() if isinstance(a, Action)} for group in groups)
        return OpenTerms(*kept)


@dataclass
class Inference:
    """The solution for one model, over one or more traces that share its parameters.

    Attributes:
        parameters: action per parameter name.
        statistics: action per buffer that holds running statistics.
        values: per trace, the action of every result: `Action`, `Const`, nested, or None where unknown.
        outputs: per output leaf, its action; None for a leaf that is no tensor of the inputs.
        made: the same per trace: a train-mode forward may return more.
        problems: everything that stands in the way.
        states: buffers that train-mode forwards alone write: statistics that the model keeps itself.
        averaged: buffers to replace by their mean with their mirror image, with their actions.
        passages: for each module that runs on both strands, how reverse complement passes it.
        wanted: parameters inside modules the trace does not look into that a rule asked for.
        pins: constants that met computed values.
        mirrors: parameters that are the mirror images of others.
        broken: those that are not invariant under the action found for them.
        clashed: buffers that met, as they are, what refused them: their mean with their mirror image may fit.
        anchors: per trace, the lengths of which a result reads one edge only, by the result's name.
        guarded: lengths read by operators that cannot be re-anchored; they must stay aligned.
        forced: for each convolution whose filters an output's action made fixed channels, the results
            (of the first trace) that carry these channels.
        tested: stretches of the graph whose action was established by testing, per trace.
        refused: per trace, the nodes that their rules refused, in graph order.
        lost: a stretch that was asked for was not closed.
        hints: where stretches begin though the rules know the operators there.
        opened: buffers whose actions are unknown at first, as those of parameters are, to be averaged.
        readings: where two readings of a length, from either end, are joined.
        as_they_are: nodes that may read one edge only, and need no second reading.
        assumed: what rules may assume that nothing shows.
        doubts: what they would have assumed.
        steps: sizes of axes along which forward rounds fractions that it mirrors by arithmetic; see `Steps`.
        steps_by_numbers: the same, if fractional numbers that forward is given are computed from the length.
        rounded: a constant is invariant, or a stretch obeys the law, only to the rounding of float32.
        rows_until: the longest input, in positions, on which the rows of tables that constant ids point to were looked
            at, where some were not read; None where all were.
        spread: per trace, constants that are spread over swapped channels before they are padded, by the name of what
            the padding makes.
        open_terms: the actions before what was open got its default.
    """

    parameters: dict[str, Action] = field(default_factory=dict)
    statistics: dict[str, Action] = field(default_factory=dict)
    values: list[dict[str, Any]] = field(default_factory=list)
    outputs: list[Action | None] = field(default_factory=list)
    made: list[list[Action | None]] = field(default_factory=list)
    problems: list[ConversionError] = field(default_factory=list)
    states: frozenset[str] = frozenset()
    averaged: dict[str, Action] = field(default_factory=dict)
    passages: dict[str, Passage] = field(default_factory=dict)
    wanted: set[str] = field(default_factory=set)
    pins: list[Pin] = field(default_factory=list)
    mirrors: MirroredPairs = field(default_factory=MirroredPairs)
    broken: list[Pin] = field(default_factory=list)
    clashed: set[str] = field(default_factory=set)
    forced: list[frozenset[str]] = field(default_factory=list)
    tested: list[list[Tested]] = field(default_factory=list)
    refused: list[list[Node]] = field(default_factory=list)
    lost: bool = False
    hints: tuple[Hint, ...] = ()
    steps: frozenset[int] = frozenset()
    steps_by_numbers: frozenset[int] = frozenset()
    rounded: bool = False
    rows_until: int | None = None
    opened: frozenset[str] = frozenset()
    assumed: frozenset[str] = frozenset()
    doubts: set[str] = field(default_factory=set)
    readings: list[Where] = field(default_factory=list)
    as_they_are: set[str] = field(default_factory=set)
    anchors: list[dict[str, list[Anchor]]] = field(default_factory=list)
    guarded: list[Anchor] = field(default_factory=list)
    spread: list[dict[str, Spread]] = field(default_factory=list)
    open_terms: OpenTerms = field(default_factory=OpenTerms)

    def assumes(self, what: str) -> bool:
        """Whether something that cannot be known may be assumed; that it was asked for is noted.

        A solution without problems needs no assumption; where there are some, each is tried.
        """
        self.doubts.add(what)
        return what in self.assumed

    def report(self, problem: ConversionError) -> None:
        """Collect a problem, once per place."""
        known = {(p.what, p.where and (p.where.path, p.where.source)) for p in self.problems}
        if (problem.what, problem.where and (problem.where.path, problem.where.source)) not in known:
            self.problems.append(problem)

    def average_buffers(self) -> None:
        """Average with its mirror image each buffer that is refused otherwise, or that rounding made uneven."""
        refused = {p.const.buffer: p.action.walk() for p in self.broken if p.const.buffer}
        words = {constants.refusal(p, p.action.walk()).what for p in self.broken if p.const.buffer}
        self.problems = [p for p in self.problems if p.what not in words]
        self.broken = [p for p in self.broken if not p.const.buffer]
        uneven = {p.const.buffer: p.action.walk() for p in self.pins if p.const.buffer and constants.is_rounded(p)}
        opened = {name: self.parameters[name].walk() for name in self.opened if name in self.parameters}
        self.averaged = {str(name): action for name, action in {**uneven, **refused, **opened}.items()}

    def uneven_buffers(self) -> frozenset[str]:
        """Buffers of which forward cuts out entries that are not invariant, and those that fit nowhere as they are."""
        cut = {p.const.entries_of for p in self.broken if p.const.entries_of and not p.const.buffer}
        return frozenset(cut | self.clashed)
