"""Stretches of the graph whose action is found by testing the law itself.

Some operators commute with reverse complement only together with what follows: the pieces of a torn pair that
are added again, a shift of relative positions, a rotation by position that only differences of positions survive.
No rule about one of them can know that. Such a node opens a *stretch*; what reads it joins, until all values that
leave the stretch obey the law, which is measured on random numbers in float64. Only nodes without parameters may
join, so nothing about the stretch changes when the model is trained. If no action is found, the problem of the
first node stands.

A weight may be read in a stretch only where an operator has no rule, such as a Fourier transform of a kernel, and only
if the model cannot be converted otherwise: its action is then guessed like that of any open axis.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .._torch import draws_random_numbers, op_name
from ..algebra import axis as ax
from ..algebra.action import Action
from ..algebra.axis import Mismatch
from ..errors import ConversionError, NoRuleError, Where
from ..graph.closed_modules import CLOSED
from ..graph.trace import Node, Ref, Trace
from ..graph.writes import is_inplace, storage_roots
from ..rules.pins import Pin
from ..rules.pointwise import rule_of
from ..rules.registry import Const, facts_of, is_silent
from . import constants
from .stretch_guesses import GUESSES, guesses
from .stretch_law import StretchLaw, can_be_still

LIMIT = 64
"""Nodes a stretch may hold: a stretch is a few lines of code, not half of a model."""

BUDGET = 2000
"""Guesses for a whole model: what is not found in seconds is refused."""

NEAR = 8
"""How many steps before a refused node a stretch may begin."""

WEIGHED = "weights in stretches"
"""What is assumed where stretches may read weights; see `Inference.assumes`."""

Key = tuple[str, str]
"""A place in the code: source line and operator; one line that runs in every layer is one place."""


@dataclass(frozen=True)
class Tested:
    """A stretch whose action was established by testing.

    Attributes:
        where: its first node.
        operators: plain names, in order.
        given: actions of what it reads, by the name of the result.
        made: actions of what others read of it.
        rounded: a constant in it was rounded to float32, so the law holds as exactly as that.
        nodes: names of its nodes.
    """

    where: Where
    operators: tuple[str, ...]
    given: dict[str, Action]
    made: dict[str, Action]
    rounded: bool = False
    nodes: frozenset[str] = frozenset()

    def __str__(self) -> str:
        given, made = (
            ", ".join(map(str, dict.fromkeys(str(a.walk()) for a in d.values()))) for d in (self.given, self.made)
        )
        how = "to the rounding of its float32 constants" if self.rounded else "on random numbers"
        node = Where(self.where.path, self.where.source)
        return f"at {node}: {', '.join(dict.fromkeys(self.operators))}: {given} -> {made}; the law holds {how}"


@dataclass(frozen=True)
class Hint:
    """Where stretches begin though the rules know the operators there.

    Attributes:
        values: whoever reads a result made here is in a stretch,
        holds: which does not end before it holds these.
    """

    values: frozenset[Key]
    holds: frozenset[Key]


@dataclass(frozen=True)
class Remembered:
    """The law of a stretch, in terms of the open axes of what it reads.

    Attributes:
        variables: stand for them, in order.
        made: actions of what others read of it, in order.
        rounded: it holds only to the rounding of float32.
    """

    variables: tuple[ax.Var, ...]
    made: tuple[Action, ...]
    rounded: bool

    @staticmethod
    def of(law: StretchLaw, made: dict[str, Action]) -> Remembered:
        """The law that was found for a stretch, whose axes will be bound later."""
        own = {v: ax.Var(v.size, v.unsigned) for v in law.variables()}
        actions = tuple(made[n.name].replaced(own.__getitem__) for n in law.live)
        return Remembered(tuple(own.values()), actions, law.rounds and not law.exactly(made))

    def of_like(self, law: StretchLaw) -> dict[str, Action]:
        """The actions of what leaves a stretch that computes the same from values that transform alike."""
        own = dict(zip(self.variables, law.variables(), strict=True))
        for v in (v for before, v in own.items() if before.unsigned):
            ax.forbid_sign(v)
        return {n.name: a.replaced(own.__getitem__) for n, a in zip(law.live, self.made, strict=True)}


@dataclass
class Memory:
    """What is known of the stretches of a model: the same lines run in every layer, mode and walk.

    Attributes:
        right: by what a stretch computes from what, which guess was right; None where none was.
        laws: the same, with the axes bound as guessed: the law; None where there is none.
        guesses: how many were tried for the solution that is looked for.
    """

    right: dict[Any, int | None] = field(default_factory=dict)
    laws: dict[Any, Remembered | None] = field(default_factory=dict)
    guesses: int = 0


@dataclass
class _Open:
    """A stretch that is still growing."""

    nodes: list[Node] = field(default_factory=list)
    problems: list[ConversionError] = field(default_factory=list)
    needs: set[str] = field(default_factory=set)

    @property
    def names(self) -> set[str]:
        return {n.name for n in self.nodes}


def key(node: Node) -> Key:
    """The place of a node in the code."""
    return (node.where.source or node.name, str(node.op))


class Stretches:
    """The stretches of one trace, fed node by node in graph order.

    Args:
        trace: the trace.
        env: the action of each result so far; results that leave a stretch are put there.
        pins: constants met so far; what is guessed must leave them invariant.
        hints: where stretches begin in spite of rules.
        memory: of stretches that were met before.
        weighed: whether weights may be read by operators without a rule; asked where one would.
        zeros: constants are zero where nothing reads them, so that other guesses leave them invariant.
    """

    def __init__(
        self,
        trace: Trace,
        env: dict[str, Any],
        pins: list[Pin],
        hints: Iterable[Hint],
        memory: Memory | None = None,
        weighed: Callable[[], bool] = lambda: False,
        *,
        zeros: bool = False,
    ) -> None:
        self.trace, self.env, self.pins, self.weighed = trace, env, pins, weighed
        self.memory, self.zeros = Memory() if memory is None else memory, zeros
        self.place = {n.name: i for i, n in enumerate(trace.nodes)}
        self.readers: dict[str, list[Node]] = {}
        for n in trace.nodes:
            if not is_silent(n.op):
                for ref in dict.fromkeys(n.refs()):
                    self.readers.setdefault(ref, []).append(n)
        self.outputs = {o.name for o in trace.outputs if isinstance(o, Ref)}
        self.roots = storage_roots(trace.nodes)
        self.state = {n for n, s in trace.sources.items() if s.kind != "input"}
        self.weights = {n for n, s in trace.sources.items() if s.kind == "parameter"}
        self.begins = {name: needs for hint in hints for name, needs in self._begins(hint)}
        self.open: list[_Open] = []
        self.tested: list[Tested] = []
        self.problems: list[ConversionError] = []
        self.lost = False

    # --- where stretches begin ---

    def _begins(self, hint: Hint) -> Iterator[tuple[str, set[str]]]:
        """Readers of hinted values, each with the nodes its stretch must hold."""
        by_name = {n.name: n for n in self.trace.nodes}
        for value, readers in self.readers.items():
            made = by_name.get(value)
            if (key(made) if made is not None else (value, "")) not in hint.values:
                continue
            if made is not None and not isinstance(made.value, Tensor):
                continue
            for reader in readers:
                if facts_of(reader.op).shape_only:
                    continue
                needs = self._ahead(reader, hint.holds)
                if needs:
                    yield reader.name, needs

    def _ahead(self, start: Node, holds: frozenset[Key]) -> set[str]:
        """The nearest nodes of each place downstream of a node, in the same call of the same module.

        If there are none, in other calls, where no weight is read on the way.
        """
        reached, found, elsewhere = {start.name}, dict[Key, str](), dict[Key, str]()
        weighed = False
        for node in self.trace.nodes[self.place[start.name] :][: 2 * LIMIT]:
            if node is start or reached & set(node.refs()):
                reached.add(node.name)
                weighed |= not self.weights.isdisjoint(node.refs())
                if key(node) in holds and node.scope == start.scope:
                    found.setdefault(key(node), node.name)
                elif key(node) in holds and not weighed:
                    elsewhere.setdefault(key(node), node.name)
        return set((found or elsewhere).values())

    # --- feeding ---

    def takes(self, node: Node) -> bool:
        """Whether a node belongs to a stretch; if so it is dealt with."""
        refs = set(node.refs())
        met = [s for s in self.open if refs & s.names]
        if node.name in self.begins:
            met.append(_Open(needs=set(self.begins[node.name])))
        if not met:
            return False
        merged = _Open()
        for s in met:
            merged.nodes += s.nodes
            merged.problems += s.problems
            merged.needs |= s.needs
        merged.nodes.sort(key=lambda n: self.place[n.name])
        self.open = [s for s in self.open if s not in met]
        self._grow(merged, node)
        return True

    def begin(self, node: Node, problem: ConversionError) -> None:
        """Open a stretch at a node that its rule refused."""
        self._grow(_Open(problems=[problem]), node)

    def finish(self) -> None:
        """Give up what is still open at the end of the graph."""
        for stretch in list(self.open):
            self._give_up(stretch)

    def _grow(self, stretch: _Open, node: Node) -> None:
        stretch.nodes.append(node)
        self.open.append(stretch)
        if not self._fits(stretch, node):
            self._give_up(stretch)
            return
        live = [n for n in stretch.nodes if self._is_read(n, stretch)]
        if stretch.needs <= stretch.names and all(map(_is_real, live)):
            self._close(stretch, live)

    def _fits(self, stretch: _Open, node: Node) -> bool:
        names, refs = stretch.names, node.refs()
        blind = facts_of(node.op).blind
        if node.op is CLOSED or (blind is not None and blind(node)):  # the first depends on its parameters
            return False
        state = {r for r in refs if r in self.state and not isinstance(self.env.get(r), Const)}
        if len(names) > LIMIT or not (state <= self.weights):
            return False
        users = getattr(node.op, "namespace", "aten") != "aten"  # how it reads weights, a rule of the user's says
        if state and (users or not ((node.name in self.begins or rule_of(node.op) is None) and self.weighed())):
            return False
        if any(r not in names and self.env.get(r) is None for r in refs):
            return False
        seeded = draws_random_numbers(node.op)
        if seeded and not can_be_still(node):
            return False
        return not is_inplace(node.op) or self.roots.get(node.name) in names

    def _is_read(self, node: Node, stretch: _Open) -> bool:
        names = stretch.names
        return node.name in self.outputs or any(r.name not in names for r in self.readers.get(node.name, ()))

    def _give_up(self, stretch: _Open) -> None:
        self.open.remove(stretch)
        for n in stretch.nodes:
            self.env[n.name] = None
        self.lost |= bool(stretch.needs)
        self.problems += stretch.problems or [_lost(stretch.nodes[0])]

    def _close(self, stretch: _Open, live: list[Node]) -> None:
        names = stretch.names
        refs = dict.fromkeys(r for n in stretch.nodes for r in n.refs() if r not in names)
        given = {r: self.env[r] for r in refs}
        law = StretchLaw(stretch.nodes, live, given, {r: self._dtype(r) for r in refs})
        actions = {r: v for r, v in given.items() if isinstance(v, Action)}
        found = self._search(law, list(actions.values()))
        if found is None:
            return
        made, rounded = found
        self.open.remove(stretch)
        for n in stretch.nodes:
            self.env[n.name] = made.get(n.name)
        operators = tuple(op_name(n.op) for n in stretch.nodes if n.op is not operator.getitem)
        where, inside = stretch.nodes[0].where, frozenset(names)
        self.tested.append(Tested(where, operators, actions, made, rounded, inside))

    def _dtype(self, name: str) -> torch.dtype:
        source, place = self.trace.sources.get(name), self.place.get(name)
        made = None if place is None else self.trace.nodes[place].value  # none: what readings of a length start from
        value = made if source is None else source.value
        return getattr(value, "dtype", torch.float32)

    # --- what open axes may be ---

    def _search(self, law: StretchLaw, given: list[Action]) -> tuple[dict[str, Action], bool] | None:
        """The actions of what leaves a stretch, with open axes of what enters it bound as the law needs.

        And whether the law holds only to the rounding of float32.
        """
        mark, right = (self.zeros, law.mark()), self.memory.right
        if mark in right and right[mark] is None:
            return None
        first = right.get(mark) or 0
        for i, guess in enumerate(itertools.islice(guesses(given, law.cuts()), first, GUESSES), first):
            self.memory.guesses += 1
            if self.memory.guesses > BUDGET:
                return None
            found = self._try(law, guess)
            if found is not None:
                right[mark] = i
                return found
        right[mark] = None
        return None

    def _try(self, law: StretchLaw, guess: list[tuple[ax.Var, ax.Axis]]) -> tuple[dict[str, Action], bool] | None:
        """What `_search` returns, under a guess, which then stays; None if the law does not hold."""
        try:
            with ax.attempt():
                for a, b in guess:
                    ax.unify(a, b)
                self._respect_constants(guess)
                return self._law(law)
        except Mismatch:
            return None

    def _law(self, law: StretchLaw) -> tuple[dict[str, Action], bool]:
        """What `_search` returns, measured, unless it was before.

        Raises:
            Mismatch: no law holds.
        """
        mark, laws, met = law.mark(), self.memory.laws, len(law.variables())
        if mark not in laws:
            made = law.find()
            found = None if made is None else Remembered.of(law, made)
            if found is None or len(found.variables) == met:  # else open axes were bound, which is not remembered
                laws[mark] = found
            if made is not None and found is not None:
                return made, found.rounded
        known = laws[mark]
        if known is None:
            raise Mismatch("the law does not hold")
        return known.of_like(law), known.rounded

    def _respect_constants(self, guess: list[tuple[ax.Var, ax.Axis]]) -> None:
        bound = {a for a, _ in guess}
        for pin in self.pins:
            if any(_mentions(t, bound) for t in pin.action.axes):
                constants.complete(pin)
                if not constants.satisfiable(pin):
                    raise Mismatch("a constant is not invariant")


def _lost(node: Node) -> ConversionError:
    return NoRuleError(
        f"the stretch of the graph from {op_name(node.op)} on obeys no law that was found",
        where=node.where,
        why="the values that leave it were tested against every action that fits their shape",
        do="write this step with operators that have a rule",
    )


def _is_real(node: Node) -> bool:
    """Whether a result is a tensor without imaginary parts, which alone are tested."""
    return isinstance(node.value, Tensor) and not node.value.is_complex()


def _mentions(term: ax.Axis, variables: set[ax.Var]) -> bool:
    """Whether a term is made of some variables, bound or not."""
    if isinstance(term, ax.Var):
        return term in variables or (term.ref is not None and _mentions(term.ref, variables))
    inner = term.factors if isinstance(term, ax.Prod) else term.parts if isinstance(term, ax.Sum) else ()
    return any(_mentions(t, variables) for t in inner)


# --- where a stretch should have begun ----------------------------------------------------------


def earlier(trace: Trace, env: dict[str, Any], nodes: list[Node], *, weighed: bool = False) -> Iterator[Hint]:
    """Hints for stretches that hold some nodes and begin before them, the nearest first.

    Args:
        trace: the trace.
        env: the actions found for it; what is constant is no beginning.
        nodes: nodes that were refused, or met a constant that is not invariant.
        weighed: stretches may read weights.
    """
    by_name = {n.name: n for n in trace.nodes}
    weights = {n for n, s in trace.sources.items() if s.kind == "parameter" and not weighed}
    holds = frozenset(key(n) for n in nodes)
    if any(r in weights for n in nodes for r in n.refs()):
        return
    level = dict.fromkeys(r for n in nodes for r in n.refs())
    for _ in range(NEAR):
        level = {r: None for r in level if not isinstance(env.get(r), Const)}
        if not level:
            return
        yield Hint(frozenset(key(by_name[r]) if r in by_name else (r, "") for r in level), holds)
        above: dict[str, None] = {}
        for r in level:
            made = by_name.get(r)
            stays = made is None or any(ref in weights for ref in made.refs())
            above.update(dict.fromkeys([r] if stays or made is None else made.refs()))
        if list(above) == list(level):
            return
        level = above
