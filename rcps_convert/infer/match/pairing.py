"""Pairs from a table of similarities: the involution, or the assignment, with the largest sum.

Where scipy is installed its solver of the assignment problem is used, and the cycles of the assignment are cut into
pairs; without it pairs are taken greedily. Both are then improved by exchanges between two pairs until none helps.
That is a heuristic: the best perfect matching of a general graph would need a solver that is slow in Python.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

SWEEPS = 200
"""Maximum number of rounds of exchanges."""

NEVER = -1e6
"""The similarity of a channel with itself, where it must have a partner."""


def solver() -> Callable[[Any], Any] | None:
    """scipy's solver of the assignment problem; None where scipy is not installed."""
    try:
        return importlib.import_module("scipy.optimize").linear_sum_assignment
    except ImportError:
        return None


def assign(similarity: Tensor) -> Tensor:
    """The assignment of rows to columns with the largest sum.

    Args:
        similarity: float, shape (n, n).

    Returns: int64, shape (n,): the column of each row.
    """
    solve = solver()
    if solve is not None:
        return torch.as_tensor(solve(-similarity.double().cpu().numpy())[1], dtype=torch.int64)
    return _exchanged(_greedy(similarity), similarity)


def best_pairs(similarity: Tensor) -> Tensor:
    """The involution without fixed entries, but for one if the size is odd, with the largest sum found.

    Args:
        similarity: float, shape (n, n); of an entry and its partner. It is made symmetric.

    Returns: int64, shape (n,): the partner of each entry.
    """
    n = len(similarity)
    s = (similarity + similarity.mT).double().cpu() / 2
    if n % 2:  # one more entry stands for none: whoever is its partner stays fixed
        s = torch.cat([torch.cat([s, s.diagonal()[None]]), torch.cat([s.diagonal(), s.new_zeros(1)])[:, None]], 1)
    s.fill_diagonal_(NEVER)
    partner = _improved(_from_cycles(assign(s), s) if solver() is not None else _greedy_pairs(s), s)
    if n % 2:
        alone = int(partner[n])
        partner[alone] = alone
    return partner[:n]


def halves(partner: Tensor) -> Tensor:
    """The order in which the first half of the entries swaps with the second, an odd one out at the end.

    Args:
        partner: int64, shape (n,), an involution.

    Returns: int64, shape (n,): the old place of each new entry. Of a pair the one that stood first comes first.
    """
    first = [i for i, p in enumerate(partner.tolist()) if i < p]
    alone = [i for i, p in enumerate(partner.tolist()) if i == p]
    return torch.tensor([*first, *partner[first].tolist(), *alone], dtype=torch.int64)


def _from_cycles(image: Tensor, s: Tensor) -> Tensor:
    """Pairs of neighbours in the cycles of a permutation; those that odd cycles leave over are paired among them."""
    partner, over = torch.full((len(image),), -1), []
    seen: set[int] = set()
    for start in range(len(image)):
        cycle = []
        while start not in seen:
            seen.add(start)
            cycle.append(start)
            start = int(image[start])
        if len(cycle) % 2:
            loose = _loosest(cycle, s)
            over.append(cycle[loose])
            cycle = cycle[loose + 1 :] + cycle[:loose]
        _couple(partner, _better(cycle, s))
    if over:
        rest = torch.tensor(over)
        _couple(partner, rest[_listed(_greedy_pairs(s[rest][:, rest]))].reshape(-1, 2).tolist())
    return partner


def _loosest(cycle: list[int], s: Tensor) -> int:
    """The place in a cycle of the entry that its neighbours miss least."""
    at = torch.tensor(cycle)
    bonds = s[at, at.roll(-1)] + s[at, at.roll(1)]
    return int(bonds.argmin())


def _better(cycle: list[int], s: Tensor) -> list[tuple[int, int]]:
    """The better one of the two ways to pair neighbours in a cycle of even size."""
    ways = [list(zip(c[::2], c[1::2], strict=True)) for c in (cycle, cycle[1:] + cycle[:1])]
    return max(ways, key=lambda pairs: sum(float(s[a, b]) for a, b in pairs))


def _couple(partner: Tensor, pairs: list[Any]) -> None:
    for a, b in pairs:
        partner[a], partner[b] = b, a


def _listed(partner: Tensor) -> Tensor:
    """The entries of an involution without fixed ones, pair by pair."""
    return torch.tensor([e for i, p in enumerate(partner.tolist()) if i < p for e in (i, p)], dtype=torch.int64)


def _greedy_pairs(s: Tensor) -> Tensor:
    """The most similar two first, then the most similar two of the rest."""
    n = len(s)
    rows, columns = torch.triu_indices(n, n, 1)
    order = s[rows, columns].argsort(descending=True, stable=True)
    partner = [-1] * n
    for a, b in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if partner[a] < 0 and partner[b] < 0:
            partner[a], partner[b] = b, a
    return torch.tensor(partner)


def _greedy(s: Tensor) -> Tensor:
    """The most similar row and column first."""
    n, s = len(s), s.cpu()
    order = s.flatten().argsort(descending=True, stable=True).tolist()
    image, taken = [-1] * n, [False] * n
    for place in order:
        row, column = divmod(place, n)
        if image[row] < 0 and not taken[column]:
            image[row], taken[column] = column, True
    return torch.tensor(image, dtype=torch.int64)


def _improved(partner: Tensor, s: Tensor) -> Tensor:
    """Two pairs exchange partners wherever that raises the sum, the largest gain first."""
    for _ in range(SWEEPS):
        a, b = _listed(partner).reshape(-1, 2).unbind(1)
        now = s[a, b]
        ways = torch.stack([s[a][:, a] + s[b][:, b], s[a][:, b] + s[b][:, a]])
        gain = (ways - now[:, None] - now).triu(1)
        best, way = gain.max(0)
        chosen = _apart(best)
        if not chosen:
            break
        for i, j in chosen:
            c, d = (a[j], b[j]) if way[i, j] == 0 else (b[j], a[j])
            _couple(partner, [(a[i].item(), c.item()), (b[i].item(), d.item())])
    return partner


def _exchanged(image: Tensor, s: Tensor) -> Tensor:
    """Two rows exchange columns wherever that raises the sum, the largest gain first."""
    s = s.double().cpu()
    for _ in range(SWEEPS):
        now, crossed = s[torch.arange(len(s)), image], s[:, image]
        chosen = _apart((crossed + crossed.mT - now[:, None] - now).triu(1))
        if not chosen:
            break
        for i, j in chosen:
            image[i], image[j] = image[j].clone(), image[i].clone()
    return image


def _apart(gain: Tensor) -> list[tuple[int, int]]:
    """Exchanges that help and do not share an entry, the largest gain first."""
    rows, columns = (gain > 1e-12).nonzero(as_tuple=True)
    order = gain[rows, columns].argsort(descending=True, stable=True)[: 20 * len(gain)]
    used: set[int] = set()
    found = []
    for i, j in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if i not in used and j not in used:
            used |= {i, j}
            found.append((i, j))
    return found
