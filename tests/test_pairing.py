"""Pairs from similarities: planted involutions, small ones by brute force, with and without scipy."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from rcps_convert.infer.match import pairing
from rcps_convert.infer.match.evidence import contracted
from rcps_convert.infer.match.pairing import assign, best_pairs, halves
from rcps_convert.infer.match.sites import Likeness


@pytest.fixture(params=["scipy", "own"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "scipy":
        pytest.importorskip("scipy")
    else:
        monkeypatch.setattr(pairing, "solver", lambda: None)
    return request.param


def noise(n: int, seed: int) -> Tensor:
    return torch.rand(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def involution(n: int, seed: int) -> Tensor:
    """A random one without fixed entries, but for one if n is odd."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    partner = torch.arange(n)
    for a, b in order[: n // 2 * 2].reshape(-1, 2).tolist():
        partner[a], partner[b] = b, a
    return partner


def value(s: Tensor, partner: Tensor) -> float:
    """The sum over pairs, and over what stays."""
    s = (s + s.mT) / 2
    return sum(float(s[i, p]) for i, p in enumerate(partner.tolist()) if i <= p)


@pytest.mark.parametrize("n", [2, 3, 8, 9, 64, 101])
def test_a_planted_involution_is_found(way: str, n: int) -> None:
    partner = involution(n, n)
    s = noise(n, 1)
    s[torch.arange(n), partner] = 1.5
    assert torch.equal(best_pairs(s), partner)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("n", [6, 7])
def test_small_ones_are_near_the_best(way: str, n: int, seed: int) -> None:
    s = noise(n, seed)
    every = (p for p in itertools.permutations(range(n)) if all(p[p[i]] == i for i in range(n)))
    best = max(value(s, torch.tensor(p)) for p in every if sum(p[i] == i for i in range(n)) == n % 2)
    found = best_pairs(s)
    assert torch.equal(found[found], torch.arange(n))
    assert int((found == torch.arange(n)).sum()) == n % 2
    assert value(s, found) >= (0.97 if way == "scipy" else 0.9) * best


def test_the_heuristic_is_nearly_as_good_as_the_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("scipy")
    s = noise(120, 7)
    solved = value(s, best_pairs(s))
    monkeypatch.setattr(pairing, "solver", lambda: None)
    assert value(s, best_pairs(s)) > 0.98 * solved


@pytest.mark.parametrize("n", [1, 5, 40])
def test_a_planted_assignment_is_found(way: str, n: int) -> None:
    order = torch.randperm(n, generator=torch.Generator().manual_seed(n))
    s = noise(n, 2)
    s[torch.arange(n), order] = 1.5
    assert torch.equal(assign(s), order)


def test_halves_swap() -> None:
    partner = torch.tensor([3, 1, 4, 0, 2])
    order = halves(partner)
    assert order.tolist() == [0, 2, 3, 4, 1]
    place = torch.argsort(order)
    assert place[partner[order]].tolist() == [2, 3, 0, 1, 4]


def test_likeness_is_one_just_where_entries_are_equal() -> None:
    g = torch.Generator().manual_seed(3)
    x = torch.randn(500, 3, generator=g)
    likeness = Likeness(3)
    for part in x.split(100):
        likeness.add(part, torch.stack([part[:, 0], 2 * part[:, 1], torch.ones(len(part))], 1))
    table, correlation = likeness.table(), likeness.correlation()
    assert table[0, 0] == pytest.approx(1, abs=1e-5)
    assert correlation[1, 1] == pytest.approx(1, abs=1e-5)
    assert table[1, 1] == pytest.approx(0.5 + 0.5 * 4 / 5, abs=0.01)
    assert (table[:, 2] == 0).all()
    assert correlation[0, 1] == pytest.approx(float(torch.corrcoef(x.T)[0, 1]), abs=1e-5)


def test_other_keys_are_averaged_over_their_partners() -> None:
    from rcps_convert.algebra.axis import Var
    from rcps_convert.infer.match.sites import Site

    u, v = Var(2), Var(3)
    site = Site(((0, 6),), (u, v), (u, v))
    table = torch.arange(36.0).reshape(6, 6).double()
    known = contracted(table, site, [v], {u: torch.tensor([1, 0])})
    full = table.reshape(2, 3, 2, 3)
    assert torch.equal(known, (full[0, :, 1, :] + full[1, :, 0, :]) / 2)
    guessed = contracted(table, site, [v], {})
    assert torch.equal(guessed, (full.amax(2).mean(0) + full.amax(0).mean(1)) / 2)
