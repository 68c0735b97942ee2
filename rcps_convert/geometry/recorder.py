"""Marking and naming calls that may read one edge of a length only, while a model is run or traced."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .._torch import is_recomputed, pytree
from .frames import is_in_transform
from .readings import EdgeFunction, Settings
from .table import EDGE_FUNCTIONS


class Recorder(TorchFunctionMode):
    """Marks each call in an exported graph: what it reads before the call, each tensor of its result after it.

    Attributes:
        calls: for each call, how its function reads edges, and its arguments by name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[EdgeFunction, Settings]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a call; one of the table between its marks."""
        kwargs = kwargs or {}
        edge_function = EDGE_FUNCTIONS.get(func)
        if edge_function is None:
            return func(*args, **kwargs)
        settings = edge_function.bind(args, kwargs)
        x = settings["input"]
        if not isinstance(x, Tensor) or is_in_transform() or edge_function.indifferent(settings):
            return func(*args, **kwargs)
        number = len(self.calls)
        self.calls.append((edge_function, settings))
        x = MARK(x, number, "given")
        args, kwargs = ((x, *args[1:]), kwargs) if args else (args, {**kwargs, edge_function.names[0]: x})
        result = func(*args, **kwargs)
        known = isinstance(result, Tensor) and not is_recomputed()
        return pytree.tree_map_only(Tensor, lambda y: MARK(y, number, "made" if known else "end"), result)


class CallNames(TorchFunctionMode):
    """Notes which functions of the table are called, which parameters any function is given, and what it makes.

    Attributes:
        names: of the functions, in order.
        parameters: ids of the parameters.
        shapes: of the tensors that any function returned, in order.
        fractions: numbers of Python that any function is given and that float32 rounds, or nearly all do.
        pairs: of functions, of the table or not, that were called directly after each other and returned tensors.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.parameters: set[int] = set()
        self.shapes: list[tuple[int, ...]] = []
        self.fractions: set[float] = set()
        self.pairs: set[tuple[Any, Any]] = set()
        self._last: Any = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a call and note its name, its parameters and its numbers."""
        for given in (*args, *(kwargs or {}).values()):
            for value in given if isinstance(given, (list, tuple)) else (given,):  # recurrent layers list their weights
                kind = type(value)
                if kind is float:
                    self.fractions.update(() if (1024 * value).is_integer() else (value,))
                elif kind not in NO_PARAMETERS and isinstance(value, nn.Parameter):
                    self.parameters.add(id(value))
        edge_function = EDGE_FUNCTIONS.get(func)
        if edge_function is not None and not edge_function.indifferent(edge_function.bind(args, kwargs or {})):
            self.names.append(edge_function.name)
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.shapes.append(tuple(result.shape))
            self.pairs.add((self._last, func))
            self._last = func
        return result


NO_PARAMETERS = frozenset((int, bool, str, type(None), torch.dtype))
"""Types of which most other arguments are, which is asked quicker than whether one is a parameter."""

_LIBRARY = torch.library.Library("rcps_convert", "FRAGMENT")
_LIBRARY.define("mark(Tensor(a) x, int call, str part) -> Tensor(a)")
_LIBRARY.impl("mark", lambda x, call, part: torch.ops.aten.alias.default(x), "CompositeImplicitAutograd")

MARK = torch.ops.rcps_convert.mark.default
"""A tensor as it is, and what it is to a call: ``"given"`` to it, ``"made"`` by it, or at the ``"end"`` of one that
made no single tensor. The nodes of a call lie between its marks, in the graph as in time."""
