"""Running a trace on values for its sources."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .._torch import pytree
from .closed_modules import CLOSED
from .trace import Node, Ref, Trace


def interpret(
    trace_: Trace,
    values: dict[str, Any],
    each: Callable[[Node, Any], None] | None = None,
    model: nn.Module | None = None,
    run: Callable[[Node, Any, Any], Any] | None = None,
) -> list[Any]:
    """Run a trace on values for its sources; `each` sees every node and its result.

    Args:
        trace_: a traced model.
        values: a value for each source, by name.
        each: called after each node.
        model: has the modules that the trace does not look into; needed if there are any.
        run: computes a node from its arguments, instead of its operator.

    Returns: the output leaves.
    """
    env = dict(values)

    def fill(leaf: Any) -> Any:
        return env[leaf.name] if isinstance(leaf, Ref) else leaf

    for node in trace_.nodes:
        args, kwargs = pytree.tree_map(fill, (node.args, node.kwargs))
        if node.op is CLOSED:
            env[node.name] = _run_module(trace_, model, *args)
        else:
            env[node.name] = run(node, args, kwargs) if run else node.op(*args, **kwargs)
        if each is not None:
            each(node, env[node.name])
    return [fill(out) for out in trace_.outputs]


def _run_module(trace_: Trace, model: nn.Module | None, tensors: list[Any], path: str, number: int) -> list[Any]:
    assert model is not None
    args, kwargs = trace_.closed[path, number].given.filled(tensors)
    return [v for v in pytree.tree_leaves(model.get_submodule(path)(*args, **kwargs)) if isinstance(v, torch.Tensor)]
