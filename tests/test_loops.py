"""Loops over positions, one of which runs backwards: two readings of a length, as if a tensor had been turned round."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lawful import assert_exact
from tiers import some
from torch import Tensor, nn

from rcps_convert import ConversionError, convert_model
from rcps_convert.graph.export import trace
from rcps_convert.graph.run import interpret
from rcps_convert.infer.sums import regrouped

X = torch.zeros(2, 4, 7)


class Loops(nn.Module):
    """Two cells, and a forward given as a function."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.steps = forward
        self.stem, self.a, self.b = nn.Conv1d(4, 6, 3, padding=1), nn.GRUCell(6, 6), nn.GRUCell(6, 6)
        self.lstm, self.p, self.u, self.v = nn.LSTMCell(6, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.both, self.one = nn.Linear(12, 2), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.steps(self, torch.tanh(self.stem(x)).mT)

    def states(self, cell: nn.Module, h: Tensor, places: Any) -> list[Tensor]:
        state, found = h.new_zeros(len(h), 6), []
        for i in places:
            state = cell(h[:, i], state)
            found.append(state)
        return found


def piled(m: Any, h: Tensor) -> Tensor:
    a, b = m.states(m.a, h, range(h.shape[1])), m.states(m.b, h, reversed(range(h.shape[1])))
    b.reverse()
    return m.both(torch.cat([torch.stack(a, 1), torch.stack(b, 1)], 2).amax(1))


def rows_for_each_position(m: Any, h: Tensor) -> Tensor:
    places = range(h.shape[1])
    a, b = m.states(m.a, h, places), m.states(m.b, h, places[::-1])
    return m.both(torch.stack([torch.cat([p, q], -1) for p, q in zip(a, b[::-1], strict=True)], 1).amax(1))


def sums_for_each_position(m: Any, h: Tensor) -> Tensor:
    """What both loops read is computed once; the cells are of the model's own."""
    places = [torch.tanh(m.p(h[:, i])) for i in range(h.shape[1])]
    a = b = h.new_zeros(len(h), 6)
    forth: list[Tensor] = []
    back: list[Any] = [None] * len(places)
    for t in places:
        a = torch.tanh(m.u(a) + t)
        forth.append(a)
    for i in range(len(places) - 1, -1, -1):
        back[i] = b = torch.tanh(m.v(b) + places[i])
    return m.one(torch.stack([p + q for p, q in zip(forth, back, strict=True)], 1).amax(1))


def not_in_order(m: Any, h: Tensor) -> Tensor:
    a, b = m.states(m.a, h, range(h.shape[1])), m.states(m.b, h, range(h.shape[1] - 1, -1, -1))
    return m.both(torch.cat([torch.stack(a).amax(0), torch.stack(b).amax(0)], -1))


def last_states(m: Any, h: Tensor) -> Tensor:
    a, b = h.new_zeros(len(h), 6), h.new_zeros(len(h), 6)
    for t in h.unbind(1):
        a = m.a(t, a)
    for t in h.unbind(1)[::-1]:
        b = m.b(t, b)
    return m.both(torch.cat([a, b], -1))


def of_one_cell_unsqueezed(m: Any, h: Tensor) -> Tensor:
    places = range(h.shape[1])
    a, b = (torch.cat([t[:, None] for t in m.states(m.a, h, p)], 1) for p in (places, places[::-1]))
    return m.one(torch.maximum(a, torch.cat([*b.split(1, 1)][::-1], 1)).amax(1))


def turned_and_put_in_order(m: Any, h: Tensor) -> Tensor:
    places = range(h.shape[1])
    a, b = m.states(m.a, h, places), m.states(m.b, h.flip(1), places)
    return m.both(torch.cat([torch.stack(a, 1), torch.stack(b[::-1], 1)], -1).amax(1))


def with_a_memory(m: Any, h: Tensor) -> Tensor:
    found = []
    for places in (range(h.shape[1]), range(h.shape[1])[::-1]):
        state = (h.new_zeros(len(h), 6), h.new_zeros(len(h), 6))
        for i in places:
            state = m.lstm(h[:, i], state)
        found.append(state[0])
    return m.one(found[0] * found[1])


def from_zeros_of_several_kinds(m: Any, h: Tensor) -> Tensor:
    """The first states are made of a position's shape, and of the tensor's."""
    a, b, forth, back = torch.zeros_like(h[:, 0]), h.new_zeros(len(h), 6), [], []
    for i in range(h.shape[1]):
        a = m.a(h[:, i], a)
        forth.append(a)
    for i in reversed(range(h.shape[1])):
        b = m.b(h[:, i], b)
        back.append(b)
    return m.both(torch.cat([torch.stack(forth, 1), torch.stack(back[::-1], 1)], 2).amax(1))


def of_one_cell_from_the_shape_of_a_position(m: Any, h: Tensor) -> Tensor:
    found = []
    for places in (range(h.shape[1]), range(h.shape[1])[::-1]):
        state, states = torch.zeros_like(h[:, 0]), {}
        for i in places:
            states[i] = state = m.a(h[:, i], state)
        found.append(torch.stack([states[i] for i in range(h.shape[1])], 1))
    return m.one((found[0] + found[1]).amax(1))


def over_the_turned_tensor(m: Any, h: Tensor) -> Tensor:
    found = []
    for given in (h, h.flip(1)):
        state, states = torch.zeros_like(given[:, 0]), []
        for i in range(h.shape[1]):
            state = m.a(given[:, i], state)
            states.append(state)
        found.append(torch.stack(states, 1))
    return m.one((found[0] + found[1].flip(1)).amax(1))


FORWARDS = [
    from_zeros_of_several_kinds, of_one_cell_from_the_shape_of_a_position, over_the_turned_tensor,
    rows_for_each_position, piled, sums_for_each_position, not_in_order, last_states, with_a_memory,
    turned_and_put_in_order,
]  # fmt: skip


@pytest.mark.parametrize("forward", some(FORWARDS[::-1], 1))
def test_a_loop_that_runs_backwards_is_a_reading_from_the_other_end(forward: Any) -> None:
    torch.manual_seed(0)
    model = convert_model(Loops(forward).double(), X.double(), verify=False)
    assert_exact(model, X.double(), lengths=(7, 5))


def a_layer_for_each_position(m: Any, h: Tensor) -> Tensor:
    places = range(h.shape[1])
    a, b = m.states(m.a, h, places), m.states(m.b, h, places[::-1])
    z = [m.both(torch.cat([p, q], -1)) for p, q in zip(a, b[::-1], strict=True)]
    return torch.stack(z, 1).amax(1)


def one_way(m: Any, h: Tensor) -> Tensor:
    return m.one(torch.stack(m.states(m.a, h, range(h.shape[1])), 1).amax(1))


def crossed(m: Any, h: Tensor) -> Tensor:
    """The second result is not turned back, so each position meets another."""
    places = range(h.shape[1])
    a, b = m.states(m.a, h, places), m.states(m.b, h, places[::-1])
    return m.both(torch.stack([torch.cat([p, q[:, :6]], -1) for p, q in zip(a, b[1:], strict=False)], 1).amax(1))


@pytest.mark.parametrize("forward", some([one_way, a_layer_for_each_position, crossed], 1))
def test_other_loops_are_refused(forward: Any) -> None:
    torch.manual_seed(0)
    with pytest.raises(ConversionError, match="cannot be equivariant"):
        convert_model(Loops(forward), X, verify=False)


def stacked(m: Any, h: Tensor) -> Tensor:
    return m.one(torch.stack([torch.tanh(m.p(h[:, i])) for i in range(h.shape[1])], -1).amax(-1))


def in_rows(m: Any, h: Tensor) -> Tensor:
    """The last first, and beside another such pile."""
    back = torch.cat([torch.tanh(m.u(t))[:, None] for t in [*h.unbind(1)][::-1]], 1)
    return m.one(torch.cat([back, torch.stack([m.p(t) for t in h.unbind(1)], 1)], 1).amax(1))


def stacked_twice(m: Any, h: Tensor) -> Tensor:
    h = torch.stack([torch.tanh(m.p(h[:, i])) for i in range(h.shape[1])], 1)
    return m.one(torch.stack([torch.tanh(m.u(h[:, i])) for i in range(h.shape[1])], 1).amax(1))


ONE_BY_ONE = [stacked, in_rows, stacked_twice]


@pytest.mark.parametrize("forward", some(ONE_BY_ONE, 1))
def test_a_layer_position_by_position_is_a_layer_of_the_length(forward: Any) -> None:
    torch.manual_seed(0)
    model = convert_model(Loops(forward).double(), X.double(), verify=False)
    assert_exact(model, X.double(), lengths=(7, 5, 9))


def by_place(m: Any, h: Tensor) -> Tensor:
    return m.one(torch.stack([torch.tanh(i * m.p(h[:, i])) for i in range(h.shape[1])], 1).amax(1))


def the_first_by_another_layer(m: Any, h: Tensor) -> Tensor:
    return m.one(torch.stack([(m.p if i else m.u)(h[:, i]) for i in range(h.shape[1])], 1).amax(1))


def one_left_out(m: Any, h: Tensor) -> Tensor:
    return m.one(torch.stack([torch.tanh(m.p(h[:, i])) for i in range(h.shape[1] - 1)], 1).amax(1))


@pytest.mark.parametrize("forward", some([by_place, the_first_by_another_layer, one_left_out], 1))
def test_positions_that_are_not_treated_alike_are_refused(forward: Any) -> None:
    torch.manual_seed(0)
    with pytest.raises(ConversionError, match="select of the first position cannot be equivariant"):
        convert_model(Loops(forward), X, verify=False)


def features_in_a_row(m: Any, h: Tensor) -> Tensor:
    b = torch.cat(m.states(m.b, h, range(h.shape[1])[::-1])[::-1], 1)
    return b[:, :2] + m.one(torch.stack(m.states(m.a, h, range(h.shape[1])), 1).amax(1))


EVERY = [*FORWARDS, *ONE_BY_ONE, a_layer_for_each_position, one_way, crossed, features_in_a_row, of_one_cell_unsqueezed]


@pytest.mark.parametrize("forward", some(EVERY, 4))
def test_rewriting_a_loop_changes_no_value(forward: Any) -> None:
    torch.manual_seed(0)
    plain = trace(Loops(forward).double(), (X.double(),))
    values = {n: torch.randn(s.value.shape, dtype=torch.float64) for n, s in plain.sources.items()}
    seen = [interpret(t, dict(values))[0] for t in (plain, regrouped(plain))]
    torch.testing.assert_close(seen[0], seen[1], rtol=0, atol=1e-12)
