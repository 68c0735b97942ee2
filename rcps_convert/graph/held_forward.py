"""A forward that a copy of the model does not have of its own: it computes with the original's weights.

A function in a variable of the instance (``self.run = lambda x: ...``, ``m.forward = wrap(m.forward)``, what
``torch.compile`` returns) is the same function for a deep copy, and so are the modules it was made with. So is a
hook that keeps what it sees on the model (``lambda m, x, y: self.seen.append(y)``): it keeps it on the original, and
the copy reads what nobody writes.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .._torch import hook_tables, pytree, uncompiled, version
from ..algebra.arguments import Example
from ..algebra.opened import output_leaves
from ..errors import ConversionError, Where
from .copies import keeps_hooks
from .sandbox import call, fresh_copy, mode, undisturbed_rng
from .users_state import outputs_of, same_leaves

Place = tuple[str, str]
"""The path of a module, and the name of a value that it holds."""

TORCH_S = frozenset(vars(nn.Module()))
"""The names of what each module holds for torch."""

CONTAINERS = (list, tuple, set, frozenset, deque)

MANY = 256
"""Entries of a list, or values of a dict, that are looked at."""


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


def kept_elsewhere(model: nn.Module, example: Example) -> ConversionError | None:
    """The refusal of a model whose copies keep on the original what they read on themselves; None for any other.

    Args:
        model: what its hooks keep on it for a run of a copy stays there, as for each run that follows.
        example: what it is called with.
    """
    if not any(_functions(model)) and not any(table for m in model.modules() for table in hook_tables(m)):
        return None
    twin = fresh_copy(model)
    before = _state(model)  # a class may note on the original that it was copied
    _outputs_of(twin, example, None)
    written = [place for place in before if not _is_as_before(model, place, before[place])]
    return next((_elsewhere(path, name) for path, name in written if _reads(model, example, path, name)), None)


def loses_hooks(model: nn.Module, example: Example) -> ConversionError | None:
    """The refusal of a model that hooks do not stay with: copies do not have them, or calls do not run them.

    Args:
        model: not touched.
        example: what it is called with.
    """
    name, kept = type(model).__name__, keeps_hooks(model)
    if kept and (type(model).__call__ is nn.Module.__call__ or _runs_hooks(fresh_copy(model), example)):
        return None
    return ConversionError(
        f"a call of {name} runs no hooks"
        if kept
        else f"a copy of {name} does not keep what is set on it, as hooks are",
        where=Where(""),
        got="a class with a way of its own to be called" if kept else "a class with a way of its own to be copied",
        why="what a conversion adds to a model runs before and after its forward, in copies too",
        do="convert a module that holds it and calls it in forward: def forward(self, x): return self.net(x)",
    )


def _runs_hooks(twin: nn.Module, example: Example) -> bool:
    """Whether a call of a copy runs a hook that is set on it; also where it does not run at all."""
    ran: list[nn.Module] = []
    twin.register_forward_pre_hook(lambda module, given: ran.append(module))
    with mode(twin, False), undisturbed_rng():
        return outputs_of(twin, example) is None or bool(ran)


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


def _state(model: nn.Module) -> dict[Place, list[Any]]:
    """The values that modules hold beside parameters, buffers and submodules: each with what it holds itself."""
    return {
        (path, name): _contents(value)
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if name not in TORCH_S
    }


def _contents(value: Any, depth: int = 2) -> list[Any]:
    """A value and the values in it, some levels down; tensors with the number of writes to them."""
    if isinstance(value, Tensor):
        return [value, version(value)]
    held = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, CONTAINERS) else []
    if not isinstance(value, (nn.Module, type)) and not held:
        held = list(getattr(value, "__dict__", {}).values())
    inner = itertools.islice(held, MANY) if depth else ()
    return [value, len(held), *(part for v in inner for part in _contents(v, depth - 1))]


def _is_as_before(model: nn.Module, place: Place, before: list[Any]) -> bool:
    path, name = place
    now = _contents(vars(model.get_submodule(path)).get(name))
    return len(now) == len(before) and all(
        a is b or a == b if type(a) is int else a is b for a, b in zip(now, before, strict=True)
    )


def _reads(model: nn.Module, example: Example, path: str, name: str) -> bool:
    """Whether a copy's outputs go by a value that a module holds: they are others without it, or there are none."""
    whole, without = (_outputs_of(fresh_copy(model), example, place) for place in (None, (path, name)))
    return whole is None or without is None or not same_leaves(whole, without)


def _outputs_of(twin: nn.Module, example: Example, left_out: Place | None) -> list[Any] | None:
    """The outputs of a copy, without a value that a module of it holds; None where it does not run."""
    if left_out is not None:
        vars(twin.get_submodule(left_out[0])).pop(left_out[1], None)
    with mode(twin, False), undisturbed_rng():
        return outputs_of(twin, example)


def _elsewhere(path: str, name: str) -> ConversionError:
    whole = ".".join(filter(None, (path, name)))
    return ConversionError(
        f"running a copy of the model changes the original's {whole}",
        where=Where(path),
        got="a hook or another function that was made with the original",
        why=f"a copy has the same function, so what it keeps goes to the original, and the copy reads {name} as it "
        "was before",
        do="compute it in forward, or let the hook keep it on the module that it is given",
    )


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
