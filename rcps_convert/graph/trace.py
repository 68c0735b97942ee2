"""A traced model: its operators, the sources of its inputs, and the calls that may read one edge of a length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from .._torch import pytree
from ..errors import Where
from ..geometry import EdgeFunction, Settings
from .closed_modules import ModuleCall


@dataclass(frozen=True)
class Ref:
    """A reference to the result of an earlier node or to an input."""

    name: str


@dataclass(frozen=True)
class Node:
    """One operator call.

    Attributes:
        name: unique in the graph.
        op: the ATen operator, or ``operator.getitem``.
        args, kwargs: its arguments; tensors are `Ref`.
        where: module path, source line and name.
        scope: the modules being run, outermost first, each as (path, call).
        value: fake tensor, or nested fake tensors, with the result's shape and dtype.
    """

    name: str
    op: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    where: Where
    scope: tuple[tuple[str, str], ...]
    value: Any

    def refs(self) -> tuple[str, ...]:
        """Names of the results this node reads."""
        return self._refs

    @cached_property
    def _refs(self) -> tuple[str, ...]:
        return tuple(leaf.name for leaf in pytree.tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Ref))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a single tensor result."""
        return tuple(int(s) for s in self.value.shape)


@dataclass(frozen=True)
class EdgeCall:
    """A call of a function that may read one edge of a length and not the other (`geometry`).

    Attributes:
        edge_function: how that function reads edges.
        settings: its arguments by name.
        given: the tensor it reads.
        made: its result; None if that is no single tensor.
        nodes: names of the nodes it consists of.
        where, scope: as of a node.
    """

    edge_function: EdgeFunction
    settings: Settings
    given: Ref
    made: Ref | None
    nodes: tuple[str, ...]
    where: Where
    scope: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Source:
    """Where a graph input comes from.

    Attributes:
        kind: ``"parameter"``, ``"buffer"``, ``"constant"`` or ``"input"``; ``"held"`` is a parameter that forward does
            not read of its module, but of something else that holds it too.
        target: name in the model (a shared parameter's first name); for inputs, the placeholder.
        value: the tensor; for inputs, the leaf of the example.
    """

    kind: str
    target: str
    value: Any


@dataclass(frozen=True)
class Trace:
    """A traced model.

    Attributes:
        nodes: operator calls in execution order.
        sources: graph inputs by name; those of kind ``"input"`` in the order of the example's leaves.
        outputs: references to the output leaves; a leaf that is no tensor stands as it is.
        out_spec: the outputs' nesting.
        written: names of created tensors that an in-place operator later fills with computed values.
        closed: calls of the modules that were not looked into, by path and number.
        first_name: each name of a parameter with its first name.
        calls: calls of functions that may read one edge only, in order.
        training: it is of the train-mode forward.
        left_out: names of nodes whose readers were rewritten: nothing depends on them any more.
    """

    nodes: list[Node]
    sources: dict[str, Source]
    outputs: list[Any]
    out_spec: Any
    written: frozenset[str] = field(default_factory=frozenset)
    closed: Mapping[tuple[str, int], ModuleCall] = field(default_factory=dict)
    first_name: Mapping[str, str] = field(default_factory=dict)
    calls: tuple[EdgeCall, ...] = ()
    training: bool = False
    left_out: frozenset[str] = field(default_factory=frozenset)
