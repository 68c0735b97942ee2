"""Constants that forward pads on one side, as a mask of what was padded beside it: read from either edge, as that is.

Re-anchoring pads half of the channels on the other side. A constant with one entry for all channels would mark the
padding of the first half only. So it is spread over the channels first, and padded as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .._torch import pytree
from ..algebra import axis as ax
from ..algebra.action import Action
from ..geometry import CallAxes
from ..graph.precision import double_precision
from ..graph.trace import EdgeCall, Node, Ref, Trace
from ..rules.pins import Pin
from ..rules.registry import Const, Turned
from .swapped import swapped


@dataclass(frozen=True)
class Spread:
    """A constant that is spread over swapped channels before it is padded.

    Attributes:
        dim: the axis, of one entry, that is spread.
        size: the number of channels.
        table: how they are swapped; None if the first half swaps with the second.
    """

    dim: int
    size: int
    table: tuple[int, ...] | None


class OneSided:
    """What constants would be if the calls that padded them had read from the other edge.

    Args:
        trace: a traced model.
    """

    def __init__(self, trace: Trace) -> None:
        self.calls = {c.made.name: c for c in trace.calls if c.made is not None and c.edge_function.widens}

    def turned(self, node: Node, env: Mapping[str, Any]) -> Turned | None:
        """The constant that a node computes, from the other edge; None if it is the same.

        Args:
            node: all of its operands are constants.
            env: the constants by name.
        """
        consts = {r: c for r in node.refs() if isinstance(c := env.get(r), Const)}
        turned = {r: c.turned for r, c in consts.items() if c.turned is not None}
        call = self.calls.get(node.name)
        if call is not None and not turned:
            given = env.get(call.given.name)
            return _from_the_other_edge(call, given.value) if isinstance(given, Const) else None
        if call is not None or not turned:
            return None
        value = _computed(node, {r: turned[r].value if r in turned else c.value for r, c in consts.items()})
        calls = tuple(dict.fromkeys(c for t in turned.values() for c in t.calls))
        return Turned(value, calls) if isinstance(value, Tensor) else None


def _from_the_other_edge(call: EdgeCall, value: Tensor) -> Turned | None:
    settings, function = {**call.settings, "input": value}, call.edge_function
    dims = tuple(d for d in range(value.dim()) if not function.aligned(settings, CallAxes((d,), (d,))))
    if not dims or call.made is None:
        return None
    return Turned(function.right(settings, CallAxes(dims, dims)), (call.made.name,))


def spread(pin: Pin, env: Mapping[str, Any]) -> dict[str, Spread]:
    """For the call that padded a constant, how it is spread so that reverse complement leaves it; empty if it is not.

    Args:
        pin: the constant, not invariant under its action.
        env: what is known of the results, by name.
    """
    turned, made = pin.const.turned, env.get(pin.where.node or "")
    if turned is None or len(turned.calls) > 1 or not isinstance(made, Action):
        return {}
    shape, axes = pin.const.value.shape, made.walk().axes[-len(pin.action.axes) :]
    padded = env[turned.calls[0]].value.shape
    for dim, term in enumerate(axes):
        table = None if shape[dim] > 1 or ax.is_length(term) else swapped(term)
        places = [d for d in (dim, dim - len(shape) + len(padded)) if 0 <= d < len(padded) and padded[d] == 1]
        if table is not None and places and all(i != partner for i, partner in enumerate(table)):
            return {turned.calls[0]: Spread(places[0], term.size, table or None)}
    return {}


def _computed(node: Node, values: Mapping[str, Tensor]) -> Any:
    args, kwargs = pytree.tree_map(lambda a: values[a.name] if isinstance(a, Ref) else a, (node.args, node.kwargs))
    with double_precision():
        return node.op(*args, **kwargs)
