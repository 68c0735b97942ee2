"""The variables of a solved model that may be permuted: where each stands, and what it became."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...algebra import axis as ax
from ...algebra.action import Action
from ...algebra.axis import Axis, Prod, Sum, Var
from ..inference import Inference
from .sites import DIRECTIONS, is_direction, standing


@dataclass
class Variables:
    """The open variables of a model's parameters.

    Attributes:
        carriers: the actions of parameters and statistics with variables open, by name.
        copy: of a parameter that belongs to one direction of a recurrence, which: 1 for the image of another.
        wanted: per variable the partner of each entry once it is in order: halves, or each entry itself.
        names: per variable the parameters it stands in.
    """

    carriers: dict[str, Action] = field(default_factory=dict)
    copy: dict[str, int] = field(default_factory=dict)
    wanted: dict[Var, Tensor] = field(default_factory=dict)
    names: dict[Var, list[str]] = field(default_factory=dict)

    @staticmethod
    def of(found: Inference, inside: Mapping[str, Action] | None = None) -> Variables:
        """The variables of a solution.

        Args:
            found: the solution.
            inside: the actions of parameters that it left out.
        """
        terms = found.open_terms
        carriers = {**terms.parameters, **terms.statistics}
        inside = inside or {}
        made = Variables({**carriers, **inside})
        for image, original in found.mirrors.originals.items():
            made.copy[image], made.copy[original] = 1, 0
        for name, action in made.carriers.items():
            for v in dict.fromkeys(v for t in action.axes for v in standing(t)):
                if v.size > 1 and (name not in inside or v in made.names):
                    made.names.setdefault(v, []).append(name)
                    made.wanted.setdefault(v, ax.indices(v))
        return made

    def paired(self) -> list[Var]:
        """Those whose entries swap in pairs."""
        return [v for v, p in self.wanted.items() if not torch.equal(p, torch.arange(len(p)))]

    def outer(self, v: Var) -> Axis | None:
        """The factor beside which a variable stands everywhere, so that each of its copies may be reordered alone."""
        found: list[Axis] | None = None
        beside = False
        for name in self.names[v]:
            terms = self.carriers[name].axes
            for term in terms:
                for neighbours in _neighbours(term, v):
                    near = [DIRECTIONS] if name in self.copy else neighbours
                    beside |= bool(near)
                    given: list[Axis] = [*near] or [t for t in terms if isinstance(t, Var) and t is not v]
                    found = given if found is None else [o for o in found if _in(o, given)]
        return found[0] if found and beside else None

    def label(self, v: Var) -> str:
        """The parameter that writes a variable: the first one that has it on its first axis."""
        first = (n for n in self.names[v] if v in list(standing(self.carriers[n].axes[0])))
        return next(first, self.names[v][0])


def _neighbours(term: Axis, v: Var) -> Iterator[list[Axis]]:
    """For each place of a variable in a term, the factors before it, which count copies of it there."""
    if term is v:
        yield []
    elif isinstance(term, Sum):
        for part in term.parts:
            yield from _neighbours(part, v)
    elif isinstance(term, Prod):
        for i, f in enumerate(term.factors):
            before = [o for o in term.factors[:i] if isinstance(o, Var) or is_direction(o)]
            for inside in _neighbours(f, v):
                yield [*before, *inside]


def _in(key: Axis, keys: list[Axis]) -> bool:
    return any(k is key or (is_direction(k) and is_direction(key)) for k in keys)
