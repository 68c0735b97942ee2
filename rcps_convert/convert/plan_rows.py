"""What a plan attaches, one row each: tied parameters, norms, states, modules on both strands, declared leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..algebra import axis as ax
from ..algebra.action import Action
from ..algebra.texts import write_action
from ..tie.passage import Passage
from ..tie.ties import MirrorTie, make_tie


@dataclass(frozen=True)
class TiedParameter:
    """A parameter and its tie.

    Attributes:
        names: every name of the parameter; a shared one has several.
        action: how reverse complement acts on it.
        stored: shape of what is stored; equal to the action's shape when every entry is free.
        shared: it belongs to a norm layer whose halves share it.
        partner: the parameter it swaps with, if there is one: of the two one is stored, the other computed.
    """

    names: tuple[str, ...]
    action: Action
    stored: tuple[int, ...]
    shared: bool = False
    partner: str | None = None

    @classmethod
    def of(cls, names: tuple[str, ...], action: Action, shared: bool) -> TiedParameter:
        """The row of a parameter that has no partner.

        Args:
            names, action, shared: its attributes.
        """
        if shared:
            return cls(names, action, (action.shape[0] // 2,), shared=True)
        tie = make_tie(action)
        return cls(names, action, action.shape if tie is None else tuple(tie.stored_shape))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the full parameter."""
        return self.action.shape

    @property
    def image(self) -> bool:
        """Whether it is computed from its partner."""
        return self.partner is not None and self.stored != self.shape

    def plain(self) -> dict[str, Any] | None:
        """The tie as plain values; None where every entry is free."""
        if self.image:
            action = write_action(self.action)
            return {"names": [*self.names], "kind": MirrorTie.kind, "action": action, "original": self.partner}
        tie = None if self.shared or self.stored == self.shape else make_tie(self.action)
        return None if tie is None else {"names": [*self.names], **tie.plain()}

    def words(self) -> tuple[str, str, str, str]:
        """Names, shape, action and what is stored, in words."""
        action = ", ".join(_of_a_parameter(a) for a in self.action.axes)
        stored = "free" if self.stored == self.shape else str(self.stored)
        if self.image:
            action, stored = f"mirror image of {self.partner}: {action}", "0"
        elif self.partner:
            action = f"swaps with {self.partner}: {action}"
        return " = ".join(self.names), str(self.shape), action, stored


def _of_a_parameter(term: ax.Axis) -> str:
    """An axis in words; one of size 1 that is spread over the batch is no batch."""
    found = ax.role(term)
    return "1 fixed" if term.size == 1 and found is not None and found.name == "batch" else ax.describe(term)


@dataclass(frozen=True)
class SharedNorm:
    """A norm layer whose swapped channels share running statistics.

    Attributes:
        path: module path.
        channel: the action on its channels.
        folds: the channels are two halves, seen as twice the samples at no cost.
    """

    path: str
    channel: ax.Axis
    folds: bool


@dataclass(frozen=True)
class KeptState:
    """A module that keeps statistics in buffers of its own, which are averaged over the strands.

    Attributes:
        path: module path.
        buffers: how reverse complement acts on each buffer, by its name in the module.
    """

    path: str
    buffers: dict[str, Action]

    def __str__(self) -> str:
        names = ", ".join(self.buffers)
        return f"{self.path or '(itself)'} keeps {names}: averaged over strands after each train-mode forward"


@dataclass(frozen=True)
class Symmetriser:
    """A submodule that runs on both strands.

    Attributes:
        path: module path.
        passage: the actions on its tensors.
        parameters: number of its parameters, which stay untied.
        why: what could not be inferred; None for a read-out behind a nonlinearity.
    """

    path: str
    passage: Passage
    parameters: int
    why: str | None = None

    def __str__(self) -> str:
        inputs = "; ".join(str(a.walk()) for a in self.passage.given if a is not None)
        outputs = "; ".join(str(a.walk()) for a in self.passage.made)
        return (
            f"symmetriser at {self.path}: runs on its input {inputs} and its mirror image, results {outputs} averaged; "
            f"its {self.parameters:,} parameters stay untied, and this submodule costs two passes"
            + ("" if self.passage.stacks else " (called twice)")
            + (f"; because of: {self.why}" if self.why else "")
        )


@dataclass(frozen=True)
class DeclaredLeaf:
    """A submodule that acts as `rc_leaf` says.

    Attributes:
        path: module path.
        how: the declaration in words.
        parameters: number of its parameters that stay untied.
    """

    path: str
    how: str
    parameters: int

    def __str__(self) -> str:
        untied = f"; {self.parameters:,} parameters stay untied" if self.parameters else ""
        return f"leaf {self.path}: {self.how} (rc_leaf){untied}"
