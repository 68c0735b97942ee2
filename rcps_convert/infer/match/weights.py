"""Which channels are alike by their weights, where no activation of theirs is seen."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ...algebra import axis as ax
from ...algebra.axis import Axis, Leaf, Prod, Sum, Var
from ...graph.sandbox import owner
from .sites import Likeness, flat_factors, standing
from .variables import Variables


def from_weights(v: Var, variables: Variables, known: Mapping[Axis, Tensor], model: nn.Module) -> Tensor:
    """The similarities of a variable's entries: correlations of what stands beside them in the weights.

    A weight is compared with itself under reverse complement, as far as that is known. Along axes of which it is not
    known, values are sorted, so that their order does not count.

    Returns: float64, (size, size).
    """
    found = []
    for name in variables.names[v]:
        terms = variables.carriers[name].axes
        if sum(list(standing(t)).count(v) for t in terms) != 1:
            continue
        module, leaf = owner(model, name)
        rows = _rows(getattr(module, leaf).detach(), terms, v, known)
        if rows is not None and rows[0].shape[0] > 1:
            likeness = Likeness(v.size)
            likeness.add(*rows)
            found.append(likeness.table())
    return torch.stack(found).mean(0) if found else torch.eye(v.size, dtype=torch.float64)


def _rows(x: Tensor, terms: tuple[Axis, ...], v: Var, known: Mapping[Axis, Tensor]) -> tuple[Tensor, Tensor] | None:
    """A weight and its mirror image as tables, (rows, entries of the variable)."""
    if any(isinstance(t, Sum) and v in list(standing(t)) for t in terms):
        return None
    factors = [f for t in terms for f in flat_factors(t)]
    if v not in factors:
        return None
    y = x = x.reshape([f.size for f in factors])
    for dim, f in enumerate(factors):
        if f is v:
            continue
        table = _table(f, known)
        if table is None:
            x, y = x.sort(dim).values, y.sort(dim).values
        else:
            y = y.index_select(dim, table.to(y.device))
        if isinstance(f, Leaf) and f.negative:
            y = -y
    at = factors.index(v)
    return x.movedim(at, -1).reshape(-1, v.size), y.movedim(at, -1).reshape(-1, v.size)


def _table(f: Axis, known: Mapping[Axis, Tensor]) -> Tensor | None:
    """The permutation of a factor; None where it is not known."""
    if isinstance(f, Var):
        return known.get(f) if f.size > 1 else torch.zeros(1, dtype=torch.int64)
    if isinstance(f, (Sum, Prod)):
        parts = [_table(part, known) for part in (f.parts if isinstance(f, Sum) else f.factors)]
        if any(p is None for p in parts) or isinstance(f, Prod):
            return None
        out, start = [], 0
        for p in parts:
            assert p is not None
            out.append(p + start)
            start += len(p)
        return torch.cat(out)
    return ax.indices(f)
