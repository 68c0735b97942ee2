"""A forward that a copy of the model does not have of its own: it computes with the original's weights.

A function in a variable of the instance (``self.run = lambda x: ...``, ``m.forward = wrap(m.forward)``, what
``torch.compile`` returns) is the same function for a deep copy, and so are the modules it was made with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .._torch import pytree, uncompiled
from ..algebra.arguments import Example
from ..algebra.opened import output_leaves
from ..errors import ConversionError, Where
from .sandbox import call, fresh_copy, mode


def held_forward(model: nn.Module, example: Example) -> ConversionError | None:
    """The refusal of a model whose copies compute with its own parameters or buffers; None for any other.

    Args:
        model: not changed; its buffers are brought back should a copy write into them.
        example: what it is called with.
    """
    twin = fresh_copy(model)
    own = {id(t): name for name, t in (*model.named_parameters(), *model.named_buffers())}
    buffers = [(b, b.detach().clone()) for b in model.buffers()]
    try:
        with mode(twin, False):
            read = _read(twin, example, own)
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                if not torch.equal(buffer, value):
                    buffer.data.copy_(value)
    return None if read is None else _refusal(model, read)


def _read(twin: nn.Module, example: Example, own: dict[int, str]) -> str | None:
    """The name of a parameter or buffer of the original that the copy computes with.

    One that the outputs are differentiable in, or that a function of torch is called with.
    """
    for gradients in (True, False):  # a model may refuse to be differentiated
        calls = _Operands(own)
        try:
            with uncompiled(), torch.set_grad_enabled(gradients), calls:  # a compiler would trace our mode, too
                outputs = output_leaves(call(twin, example), loosely=True)
        except Exception:  # the model's own errors are reported where it is planned
            continue
        leaves = _leaves(y for y in outputs if isinstance(y, Tensor))
        return next((own[id(t)] for t in leaves if id(t) in own), calls.found)
    return None


def _leaves(outputs: Iterator[Tensor]) -> Iterator[Tensor]:
    """The leaves of an autograd graph."""
    nodes = [y.grad_fn for y in outputs if y.grad_fn is not None]
    seen = set(nodes)
    while nodes:
        node = nodes.pop()
        if hasattr(node, "variable"):
            yield node.variable
        following = [n for n, _ in node.next_functions if n is not None and n not in seen]
        seen.update(following)
        nodes += following


class _Operands(TorchFunctionMode):
    """Notes the first tensor of some that a function is called with."""

    def __init__(self, own: dict[int, str]) -> None:
        super().__init__()
        self.own = own
        self.found: str | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.found is None:
            given = [*args, *(kwargs or {}).values()]
            if any(isinstance(v, (list, tuple, dict)) for v in given):
                given = pytree.tree_leaves(given)
            self.found = next((self.own[id(v)] for v in given if id(v) in self.own), None)
        return func(*args, **(kwargs or {}))


def _refusal(model: nn.Module, read: str) -> ConversionError:
    path, name = next(_functions(model), ("", "a function"))
    return ConversionError(
        f"a copy of the model computes with the original's {read}",
        where=Where(path),
        got=f"{name}, a function that is set on the instance",
        why="a copy has the same function, which was made with the modules of the original; a change of the copy's "
        "weights would change nothing, and training the copy would train the original",
        do="write it as a method of the class, or convert the model before it is wrapped or compiled; "
        'strategy="conjoined" with in_place=True needs no copy',
    )


def _functions(model: nn.Module) -> Iterator[tuple[str, str]]:
    """The functions that are set on instances: path of the module, and name."""
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, Callable) and not isinstance(value, (nn.Module, type)):  # type: ignore[arg-type]
                yield path, f"{'.'.join(filter(None, (path, name)))}"
