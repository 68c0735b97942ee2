"""A node of a trace as its rule sees it, with room for what the rule has to say beyond its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .._torch import op_name
from ..algebra.action import Action
from ..algebra.axis import Axis
from ..errors import NoRuleError, Refusal
from ..graph.trace import Node
from .pins import Pin, open_action
from .registry import Anchor, Const


@dataclass
class RuleNode:
    """A node as its rule sees it.

    Attributes:
        node: the traced node.
        op, shape, value: of the node.
        deferred: refusals after which the rule could still say what its result would be.
        swaps: pairs of operands that change places.
        parameters: actions of the parameters of an `rc_leaf` module, by name; those asked for are tied.
        anchors: lengths of which the operator may read one edge only.
        assumes: whether something that cannot be known here may be assumed, in words.
        rejoined: whether all that is computed from the results is joined again.
        torn: pieces of a length that the rule gave; reverse complement swaps the first with the last.
        mends: the operands are pieces of a length, in an order that reverse complement reverses.
        one_of_two: it belongs to one of two readings of a length, from either end.
    """

    node: Node
    pins: list[Pin]
    deferred: list[Refusal] = field(default_factory=list)
    swaps: list[Swap] = field(default_factory=list)
    operands: dict[int, str] = field(default_factory=dict)
    parameters: Mapping[str, Action] = field(default_factory=dict)
    anchors: list[Anchor] = field(default_factory=list)
    assumes: Callable[[str], bool] = lambda what: False
    rejoined: Callable[[], bool] = lambda: False
    torn: bool = False
    mends: bool = False
    one_of_two: bool = False

    @property
    def op(self) -> Any:
        """The operator."""
        return self.node.op

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the result."""
        return self.node.shape

    @property
    def value(self) -> Any:
        """Fake tensor, or nested fake tensors, of the result."""
        return self.node.value

    def constant(self, const: Const, rows: Axis | None = None) -> Action:
        """The open action of a constant; its value limits it once the rest is known.

        Args:
            const: the constant.
            rows: for constant ids, the axis of the table they point into.
        """
        action = open_action(const.value, rows)
        self.pins.append(Pin(const, action, self.node.where))
        return Action(action.axes)

    def swap(self, image: Action, original: Action) -> None:
        """State that two operands change places under reverse complement, each acted on as its axes say.

        Neither has to be invariant under its action: the one is the other, acted on.
        """
        names = [self.operands.get(id(x)) for x in (image, original)]
        if names[0] is None or names[1] is None:
            raise Refusal(
                NoRuleError,
                f"{op_name(self.op)} reads a weight that is a constant",
                why="the weights of the two directions must be mirror images, and constants are not changed",
                do="make the weights of both directions parameters; freeze them with requires_grad_(False)",
            )
        self.swaps.append(Swap(names[0], names[1], self.node.name))


@dataclass(frozen=True)
class Swap:
    """Two results that change places under reverse complement, each acted on as its axes say.

    Attributes:
        image, original: names of the results; the image is computed from the original.
        node: the node that reads both.
    """

    image: str
    original: str
    node: str
