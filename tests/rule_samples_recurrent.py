"""Samples of recurrent layers. See `rule_samples`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from rule_samples import sample
from torch import Tensor

aten = torch.ops.aten

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def called(name: str, states: int, **how: Any) -> Callable[..., Any]:
    """A call with x, the states and the weights as operands; without states, they are zeros."""
    settings = {"biases": False, "layers": 1, "batch_first": True} | how
    op = getattr(aten, name).input

    def call(x: Tensor, *rest: Tensor) -> Any:
        given, weights = list(rest[:states]), list(rest[states:])
        if not given:
            given = [x.new_zeros(2 * settings["layers"], x.shape[0 if settings["batch_first"] else 1], 5)] * 2
        hx = given[:2] if name == "lstm" else given[0]
        order = (settings["biases"], settings["layers"], 0.0, False, True, settings["batch_first"])
        return op(x, hx, weights, *order)

    return call


def weights_of(name: str, into: int, layers: int = 1, biases: bool = False, projected: int = 0) -> list[str]:
    """The weights' actions, all open: H = 5."""
    rows, out, found = GATES[name] * 5, projected or 5, []
    for layer in range(layers):
        one = [f"v{rows} v{2 * out if layer else into}", f"v{rows} v{out}"] + [f"v{rows}"] * (2 * biases)
        found += (one + [f"v{projected} v5"] * bool(projected)) * 2
    return found


def standing(name: str, directions: int, layers: int = 1) -> Callable[..., Any]:
    """A call along an axis that stays, (N, T, F) with positions in the place of samples."""
    op = getattr(aten, name).input

    def call(x: Tensor, *weights: Tensor) -> Any:
        zeros = x.new_zeros(directions * layers, x.shape[0], 5)
        hx = [zeros, zeros] if name == "lstm" else zeros
        return op(x, hx, list(weights), False, layers, 0.0, False, directions == 2, True)

    return call


X = "n2 l7 v6"

for name in GATES:
    op = getattr(aten, name).input
    states = ["v2 n2 v5"] * (1 + (name == "lstm"))
    sample(op, called(name, 0), X, *weights_of(name, 6))
    sample(op, called(name, len(states), biases=True), X, *states, *weights_of(name, 6, biases=True))
sample(aten.lstm.input, called("lstm", 0, batch_first=False), "l7 n2 r6", *weights_of("lstm", 6))
sample(aten.lstm.input, called("lstm", 0), "n2 l7 r4*s1", *weights_of("lstm", 4))
sample(aten.gru.input, called("gru", 0), "n2 l7 v4+v2", *weights_of("gru", 6))
sample(aten.gru.input, called("gru", 0), "n2 l7 s6", *weights_of("gru", 6))
sample(aten.gru.input, called("gru", 1, layers=2), X, "v4 n2 v5", *weights_of("gru", 6, layers=2))
sample(
    aten.lstm.input,
    called("lstm", 2, layers=2, biases=True),
    *(X, "v4 n2 v3", "v4 n2 v5"),
    *weights_of("lstm", 6, layers=2, biases=True, projected=3),
)


def one_step(name: str) -> Callable[..., Any]:
    """A call of a cell."""
    op = getattr(aten, f"{name}_cell").default

    def call(x: Tensor, *rest: Tensor) -> Any:
        hx = [*rest[:2]] if name == "lstm" else rest[0]
        return op(x, hx, *rest[1 + (name == "lstm") :])

    return call


for name in GATES:
    states, rows = ["n2 v5"] * (1 + (name == "lstm")), GATES[name] * 5
    op = getattr(aten, f"{name}_cell").default
    sample(op, one_step(name), "n2 v6", *states, f"v{rows} v6", f"v{rows} v5")
    sample(op, one_step(name), "n2 r4*s1", *states, f"v{rows} v4", f"v{rows} v5", f"v{rows}", f"v{rows}")
    sample(op, one_step(name), "l7 r6", *["l7 v5"] * len(states), f"v{rows} v6", f"v{rows} v5")

for name in GATES:
    one = weights_of(name, 6)
    sample(getattr(aten, name).input, standing(name, 1), "l7 t3 v6", *one[: len(one) // 2])
    sample(getattr(aten, name).input, standing(name, 2, layers=2), "l7 t3 v6", *weights_of(name, 6, layers=2))
