"""Matching: the pairs that a model has learned, and the reordering that makes them swapped halves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ...algebra import axis as ax
from ...algebra.axis import Axis, Var
from .evidence import Evidence, contracted
from .pairing import assign, best_pairs, halves
from .reorder import Copies, Moves, reorder
from .sites import is_direction
from .variables import Variables
from .weights import from_weights


@dataclass(frozen=True)
class Matched:
    """What was found for the entries of one variable.

    Attributes:
        name: the parameter that writes these channels.
        names: the parameters that carry them.
        pairs: number of pairs.
        likeness: mean correlation of partners: of a channel on one strand and of its partner on the other.
        chance: mean correlation of any two.
        moved: whether the channels were reordered.
        how: ``"activations"`` or ``"weights"``.
    """

    name: str
    names: tuple[str, ...]
    pairs: int
    likeness: float
    chance: float
    moved: bool = True
    how: str = "activations"

    def __str__(self) -> str:
        words = f"{self.pairs} pairs by {self.how}, correlation {self.likeness:.2f} (of any two {self.chance:.2f})"
        return f"matched {self.name}: {words}" + ("" if self.moved else "; left in the order they had")


@dataclass
class Matching:
    """The reordering of a model.

    Attributes:
        variables: where variables stand.
        moves: how they are reordered.
        orders: the reordering of each variable whose entries swap, if all of its copies are reordered alike.
        rows: what was found for each variable.
        kept: names of parameters whose channels stay as they are: to permute them changes the function.
    """

    variables: Variables
    moves: Moves = field(default_factory=Moves)
    orders: dict[Var, Tensor] = field(default_factory=dict)
    rows: list[Matched] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)

    def apply(self, model: nn.Module) -> None:
        """Reorder a model that is not converted yet, in place."""
        reorder(model, self.moves, self.variables.carriers, self.variables.copy)


class Matcher:
    """Finds partners, variable by variable.

    Args:
        variables: of the model.
        evidence: similarities by activations, gathered.
        model: its weights are compared where activations say nothing.
    """

    def __init__(self, variables: Variables, evidence: Evidence, model: nn.Module) -> None:
        self.variables, self.evidence, self.model = variables, evidence, model
        self.outers = {v: o for v in variables.wanted if (o := variables.outer(v)) is not None}
        self.known: dict[Axis, Tensor] = {
            v: p for v, p in variables.wanted.items() if v not in self.outers and v not in set(variables.paired())
        }
        self.rows: dict[Var, Matched] = {}

    def run(self) -> Matching:
        """Partners of every variable, and the reordering that makes them what inference gave."""
        self._pair()
        orders = {v: halves(self.known[v]) for v in self.variables.paired()}
        moves = Moves(dict(orders))
        for v, outer in self.outers.items():
            copies = self._copies(v, outer)
            if copies is not None:
                moves.copies[v] = copies
                moves.orders.pop(v, None)
        return Matching(self.variables, moves, orders, list(self.rows.values()))

    def _pair(self) -> None:
        """Pairs in rounds: first where everything else of a site is known, then where entries must be guessed."""
        left = self.variables.paired()
        while left:
            chosen = next((v for v in left if self._sure(v)), None) or next(
                (v for v in left if self._sites(v)), left[0]
            )
            left.remove(chosen)
            table, how = self._similarity(chosen)
            partner = best_pairs(table)
            self.known[chosen] = partner
            self.rows[chosen] = self._row(chosen, table, partner, how)

    def _sites(self, v: Var) -> bool:
        return bool(self.evidence.tables(v))

    def _sure(self, v: Var) -> bool:
        """Whether some site of a variable holds nothing else that is not known."""
        return any(self._open(s.keys, v) == 0 for s, _ in self.evidence.tables(v))

    def _open(self, keys: Sequence[Axis], *kept: Axis) -> int:
        return sum(k not in self.known and k not in kept and not is_direction(k) for k in keys)

    def _similarity(self, v: Var) -> tuple[Tensor, str]:
        found = self.evidence.tables(v)
        least = min((self._open(s.keys, v) for s, _ in found), default=0)
        best = [(s, seen) for s, seen in found if self._open(s.keys, v) == least]
        table = self._mean([contracted(seen.table(), s, [v], self.known) for s, seen in best], v.size)
        silent = (table == 0).all(0) | (table == 0).all(1)
        if bool(silent.any()):
            weights = from_weights(v, self.variables, self.known, self.model)
            table = torch.where(silent[:, None] | silent, weights, table)
        return table, "weights" if bool(silent.all()) else "activations"

    def _mean(self, tables: Sequence[Tensor], size: int) -> Tensor:
        return torch.stack([*tables]).mean(0) if tables else torch.zeros(size, size, dtype=torch.float64)

    def _row(self, v: Var, table: Tensor, partner: Tensor, how: str) -> Matched:
        """What the plan says of a variable, in correlations."""
        names = tuple(self.variables.names[v])
        two = partner != torch.arange(len(partner))
        if how == "activations":
            seen = self.evidence.tables(v)
            table = self._mean([contracted(each.correlation(), s, [v], self.known) for s, each in seen], v.size)
        table = (table + table.mT) / 2
        likeness = float(table[torch.arange(len(partner)), partner][two].mean())
        apart = ~torch.eye(len(table), dtype=torch.bool)
        return Matched(
            self.variables.label(v), names, int(two.sum()) // 2, likeness, float(table[apart].mean()), how=how
        )

    # --- copies ---

    def _copies(self, v: Var, outer: Axis) -> Copies | None:
        """The order of each copy of a variable in which its entries meet their partners of the other copy."""
        found = self.evidence.tables(v, outer)
        least = min((self._open(s.keys, v, outer) for s, _ in found), default=0)
        best = [(s, seen) for s, seen in found if self._open(s.keys, v, outer) == least]
        if not best:
            return None
        n, wanted = outer.size, self.variables.wanted[v]
        tables = [contracted(seen.table(), s, [outer, v], self.known) for s, seen in best]
        table = self._mean(tables, n * v.size).reshape(n, v.size, n, v.size)
        image = ax.indices(ax.permutation([1, 0])) if is_direction(outer) else self.known.get(outer)
        if image is None:
            return None
        order = torch.arange(v.size).repeat(n, 1)
        fixed = torch.equal(wanted, torch.arange(v.size))
        for a, b in enumerate(image.tolist()):
            if a < b:
                order[b] = assign(table[a, :, b, :] + table[b, :, a, :].mT)[wanted]
            elif a == b and not fixed:
                order[a] = halves(best_pairs(table[a, :, a, :]))
        return Copies(outer, order)


def safe(matching: Matching, same: Callable[[Moves], bool]) -> Matching:
    """A matching without what changes the function.

    Permuting a variable in step leaves a function as it is where inference saw all that reads it. Copies that may not
    be reordered one by one, or a module that inference did not look into, show when the reordered model is run.

    Args:
        matching: as it was found.
        same: whether the model computes the same when it is reordered so.
    """
    if same(matching.moves):
        return matching
    found, moves = matching.moves, Moves()
    for v in found.variables:
        ways = [found.of([v])] + (
            [Moves({v: matching.orders[v]})] if v in found.copies and v in matching.orders else []
        )
        good = next((w for w in ways if same(w)), Moves())
        moves = Moves({**moves.orders, **good.orders}, {**moves.copies, **good.copies})
    matching.moves = moves if same(moves) else Moves()
    matching.kept = sorted({matching.variables.label(v) for v in found.variables if v not in matching.moves.variables})
    return matching
