"""Recurrent layers: read in both directions, each direction's weights are the mirror image of the other's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .._torch import op_name
from ..algebra import axis as ax
from ..algebra.action import Action
from ..algebra.axis import Axis
from .common import DIRECTIONS, forbid_signs, refuse_in_a_row
from .registry import aten, refuse, rule


@rule(aten.lstm.input, signs=True)
def lstm(node: Any, x: Action, states: list[Action], weights: list[Action], *settings: Any) -> tuple[Action, ...]:
    """As `recurrence`, with a cell state beside the hidden state, and a projection of the latter (w_hr) or none."""
    return recurrence(node, x, states, weights, *settings)


@rule(aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input, signs=True)
def gru(node: Any, x: Action, state: Action, weights: list[Action], *settings: Any) -> tuple[Action, ...]:
    """As `recurrence`."""
    return recurrence(node, x, [state], weights, *settings)


@rule(aten.lstm_cell.default, signs=True)
def lstm_cell(
    node: Any, x: Action, states: list[Action], w_in: Action, w_hidden: Action, *biases: Action | None
) -> tuple[Action, ...]:
    """One step of an LSTM for each row: states = (x.rows, H), w_in = (gates x H, x.C), w_hidden = (gates x H, H)."""
    return _step(x, states, [w_in, w_hidden, *biases])


@rule(aten.gru_cell.default, aten.rnn_tanh_cell.default, aten.rnn_relu_cell.default, signs=True)
def cell(node: Any, x: Action, state: Action, w_in: Action, w_hidden: Action, *biases: Action | None) -> Action:
    """As `lstm_cell`, with one state."""
    return _step(x, [state], [w_in, w_hidden, *biases])[0]


def _step(x: Action, states: Sequence[Action], weights: Sequence[Action | None]) -> tuple[Action, ...]:
    given = [w for w in weights if w is not None]
    forbid_signs(x.axes[:-1])
    hidden = ax.Var(states[0].axes[-1].size, unsigned=True)
    for state in states:
        _agree(state, (*x.axes[:-1], hidden))
    for one, axes in zip(given, _weight_axes(given, x.axes[-1], hidden, hidden, len(given) > 2), strict=True):
        _agree(one, axes)
    return tuple(Action((*x.axes[:-1], hidden)) for _ in states)


def recurrence(
    node: Any,
    x: Action,
    states: Sequence[Action],
    weights: Sequence[Action],
    biases: bool,
    layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Action, ...]:
    """The two directions change places: y.last = directions x H, states = (layers x directions, batch, H).

    In each layer w_in, w_hidden and the biases of one direction are those of the other under
    (gates x H, its input), (gates x H, H) and (gates x H); the next layer's input is directions x H.
    Along an axis that stays, as of marks, nothing changes places; see `_standing`.
    """
    time, batch = (1, 0) if batch_first else (0, 1)
    if _stands(x, time):
        return _standing(x, batch, states, weights, biases, layers, 1 + bidirectional)
    if not bidirectional:
        _refuse_one_direction(node)
    _require_length(node, x, time)
    forbid_signs(x.axes[:2])
    hidden, seen = _hidden_axes(states)
    first = ax.product([ax.trivial(layers), DIRECTIONS])
    for state, last in zip(states, (seen, hidden), strict=False):
        _agree(state, (first, x.axes[batch], last))
    given = x.axes[2]
    each = len(weights) // layers // 2
    for k in range(layers):
        forward, reverse = (weights[(2 * k + d) * each :][:each] for d in (0, 1))
        for one, other, axes in zip(forward, reverse, _weight_axes(forward, given, hidden, seen, biases), strict=True):
            _agree(one, axes)
            _agree(other, axes)
            node.swap(other, one)
        given = ax.product([DIRECTIONS, seen])
    y = x.with_axis(2, given)
    return (y, *(Action((first, x.axes[batch], last)) for last in (seen, hidden)[: len(states)]))


def _stands(x: Action, time: int) -> bool:
    """Whether a recurrence reads along an axis that stays, or may, and whose entries hold no positions."""
    term, held = ax.walk(x.axes[time]), x.axes[2]
    if ax.role(term) == ax.STANDING:
        return True
    if ax.role(term) is not None or ax.is_length(held) or (not any(map(ax.is_length, x.axes)) and ax.free(term)):
        return False
    try:
        with ax.attempt():
            ax.unify(term, ax.trivial(term.size))
    except ax.Mismatch:
        return False
    return True


def _standing(
    x: Action,
    batch: int,
    states: Sequence[Action],
    weights: Sequence[Action],
    biases: bool,
    layers: int,
    directions: int,
) -> tuple[Action, ...]:
    """Along an axis that stays: the weights of each direction obey a law of their own; the hidden units are alike."""
    forbid_signs(x.axes[:2])
    each, given = len(weights) // layers // directions, x.axes[2]
    hidden, seen = _hidden_axes(states)  # the last states of all layers and directions lie in one tensor
    first = ax.trivial(layers * directions)
    for state, last in zip(states, (seen, hidden), strict=False):
        _agree(state, (first, x.axes[batch], last))
    for k in range(layers):
        for d in range(directions):
            mine = weights[(directions * k + d) * each :][:each]
            for one, axes in zip(mine, _weight_axes(mine, given, hidden, seen, biases), strict=True):
                _agree(one, axes)
        given = ax.product([ax.trivial(directions), seen])
    return (x.with_axis(2, given), *(Action((first, x.axes[batch], t)) for t in (seen, hidden)[: len(states)]))


def _hidden_axes(states: Sequence[Action]) -> tuple[Axis, Axis]:
    """The axes of the cell state and of the hidden state; they differ where the latter is projected."""
    cell = ax.Var(states[-1].axes[2].size, unsigned=True)
    shown = states[0].axes[2].size
    return cell, cell if shown == cell.size else ax.Var(shown, unsigned=True)


def _weight_axes(
    weights: Sequence[Action], given: Axis, hidden: Axis, seen: Axis, biases: bool
) -> list[tuple[Axis, ...]]:
    """The axes of one direction's weights, in the operator's order: w_in, w_hidden, biases, projection."""
    rows = ax.product([ax.trivial(weights[0].axes[0].size // hidden.size), hidden])
    found: list[tuple[Axis, ...]] = [(rows, given), (rows, seen)] + [(rows,)] * (2 * biases)
    return found + [(seen, hidden)] * (len(weights) - len(found))


def _agree(x: Action, axes: Sequence[Axis]) -> None:
    for term, wanted in zip(x.axes, axes, strict=True):
        ax.unify(term, wanted)


def _refuse_one_direction(node: Any) -> None:
    refuse(
        f"a recurrence ({op_name(node.op)}) that reads in one direction only",
        why="at each position it has read what lies to the left; on the other strand that lies to the right",
        do='make it bidirectional, or run it on both strands with on_unsupported="both_strands"',
    )


def _require_length(node: Any, x: Action, time: int) -> None:
    """State that a recurrence reads along positions; an open axis, such as a dense layer writes, may be the positions.

    Raises:
        Refusal: it reads along another axis.
    """
    term = ax.walk(x.axes[time])
    if isinstance(term, ax.Var) and not any(map(ax.is_length, x.axes)):
        ax.unify(term, ax.length(term.size, ax.Role("length", steps=None)))
    if ax.lengthen(term):
        return
    refuse_in_a_row(f"a recurrence ({op_name(node.op)}) runs", term)
    found = ax.role(term)
    over = "the samples of the batch" if found is not None and found.name == "batch" else "an axis that is no length"
    first = time == 1
    refuse(
        f"a recurrence ({op_name(node.op)}) that runs over {over}",
        why=f"with batch_first={first} it reads along axis {time}, which is {ax.describe(term)}",
        do=f"set batch_first={not first}, or permute its input, so that it reads along the positions",
    )
