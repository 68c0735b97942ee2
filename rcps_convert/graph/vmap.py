"""``torch.vmap`` in an exported graph: the calls between entering and leaving it, as one operator.

``torch.export`` writes down that a dimension was hidden, the calls on what was left, and that it was shown again.
Taken one by one these calls have no meaning; together they are a function of tensors like any other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.fx import Node as FxNode

from .._torch import ENTER, LEAVE, SETUP, leave_map, op_name


class VmapCall:
    """The calls of one ``vmap``, nested ones included; called with what they read from outside.

    Args:
        calls: the calls in order, from entering to leaving.
        results: those that are read afterwards.
    """

    def __init__(self, calls: list[FxNode], results: list[FxNode]) -> None:
        own = set(calls)
        self.calls = [c for c in calls if _name(c) != SETUP]
        self.results = results
        self.operands = [*dict.fromkeys(n for c in calls for n in c.all_input_nodes if n not in own)]
        self.__name__ = "vmap"

    def __call__(self, *operands: Any) -> Any:
        """The result, or a tuple of several."""
        env: dict[FxNode, Any] = dict(zip(self.operands, operands, strict=True))
        depth = 0
        try:
            for call in self.calls:
                given: Any = torch.fx.node.map_arg((call.args, call.kwargs), env.__getitem__)
                env[call] = call.target(*given[0], **given[1])  # type: ignore[operator]
                depth += (_name(call) == ENTER) - (_name(call) == LEAVE)
        finally:
            for _ in range(depth):  # a call failed: hidden dimensions must not stay hidden for the rest of the process
                leave_map()
        found = tuple(env[r] for r in self.results)
        return found[0] if len(found) == 1 else found

    def __str__(self) -> str:
        inner = [_name(c) for c in self.calls if not _name(c).startswith("_vmap")]
        return f"vmap({', '.join(inner)})"


def grouped(nodes: list[FxNode]) -> Iterator[FxNode | VmapCall]:
    """The nodes of a graph, with the calls of each ``vmap`` as one."""
    inside: list[FxNode] = []
    depth = 0
    for node in nodes:
        depth += (_name(node) == ENTER) - (_name(node) == LEAVE)
        if depth or inside:
            inside.append(node)
        elif _name(node) != SETUP:
            yield node
        if inside and not depth:
            own = set(inside)
            yield VmapCall(inside, [n for n in inside if any(user not in own for user in n.users)])
            inside = []


def _name(node: FxNode) -> str:
    return op_name(node.target) if node.op != "output" else ""
