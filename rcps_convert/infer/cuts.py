"""How reverse complement passes through a module the trace does not look into.

A `Cut` is for one module what a rule is for an operator. It may commute, act by a law its author wrote,
or run on both strands; then any action of its outputs will do, and they are open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .._torch import pytree
from ..algebra import axis as ax
from ..algebra.action import Action
from ..algebra.axis import Axis
from ..graph.closed_modules import ModuleCall
from ..measure.axis_roles import AxisRoles, Hints, Undecided, axis_roles, roles
from ..rules.registry import Const, Facts, refuse
from ..tie.passage import Passage

PLAIN = (type(None), bool, int, float, complex, str)
"""What a module may be given and return beside tensors."""

Operand = Action | Const


@dataclass(frozen=True)
class Declaration:
    """What `rc_leaf` says of a module.

    Attributes:
        action: ``"commutes"``, ``"both_strands"``, or a law: a function called like the forward, after the
            node, with an `Action` for each tensor.
    """

    action: str | Callable[..., Any]


def declaration_of(module: nn.Module) -> Declaration | None:
    """What `rc_leaf` said of a module or of its class."""
    found = getattr(module, "_rc_leaf", None)
    return found if isinstance(found, Declaration) else None


def declarations_of(model: nn.Module) -> dict[str, Declaration]:
    """The outermost declared modules of a model, by path; the model itself is always looked into."""
    found: dict[str, Declaration] = {}
    for path, module in model.named_modules():
        declared = declaration_of(module)
        if declared is not None and path and not any(path.startswith(f"{p}.") for p in found):
            found[path] = declared
    return found


class Asked(Mapping[str, Action]):
    """The actions of a module's parameters by name; notes which are asked for.

    Args:
        path: of the module.
        first_name: each name of a parameter with its first name.
        parameters: actions by first name.
        wanted: gets the first names of those that are asked for.
    """

    def __init__(
        self, path: str, first_name: Mapping[str, str], parameters: Mapping[str, Action], wanted: set[str]
    ) -> None:
        self.names = {n[len(path) + 1 :]: f for n, f in first_name.items() if n.startswith(f"{path}.")}
        self.parameters, self.wanted = parameters, wanted

    def __getitem__(self, name: str) -> Action:
        first = self.names[name]
        self.wanted.add(first)
        return self.parameters[first]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


class Cut:
    """How reverse complement passes through one module; called like a rule.

    Attributes:
        path: of the module.
        why: how it acts, or why it is left out, in words; None where that goes without saying.
    """

    def __init__(self, path: str, why: str | None) -> None:
        self.path, self.why = path, why

    def __call__(self, node: Any, operands: list[Operand], call: ModuleCall) -> tuple[Action, ...]:
        """One action per output tensor.

        Args:
            node: the site of the call.
            operands: action per input tensor.
            call: what a real run saw.
        """
        raise NotImplementedError

    def passage(self, operands: list[Operand], made: tuple[Action, ...], index: int) -> Passage | None:
        """What must hold for every call of a module that runs on both strands; None for other modules."""
        return None


class Commutes(Cut):
    """Each output acts like the first input that depends on the sequence."""

    def __call__(self, node: Any, operands: list[Operand], call: ModuleCall) -> tuple[Action, ...]:
        """The first action, laid on the shape of each output."""
        first = next((x for x in operands if isinstance(x, Action)), None)
        if first is None:
            refuse(
                f"{self.path} is declared to commute and is given no tensor of the sequence",
                why="its outputs are to act like its first input",
                do="give rc_leaf a rule",
                never=False,
            )
        return tuple(self._like(first, made) for made in call.made.tensors)

    def _like(self, first: Action, made: Tensor) -> Action:
        terms = [_resized(t, s) for t, s in zip(first.axes, made.shape, strict=False)]
        if len(made.shape) != len(first.axes) or any(t is None for t in terms):
            refuse(
                f"{self.path} is declared to commute, and its output differs from its input in more than length",
                got=f"input {first}, output of shape {tuple(made.shape)}",
                why="an output that acts like the first input has the same axes",
                do='give rc_leaf a rule that says how each axis acts, or rc_leaf("both_strands")',
                never=False,
            )
        return Action(tuple(t for t in terms if t is not None), None if made.is_floating_point() else first.value)


def declared(path: str, leaf: Declaration) -> Cut:
    """The cut that `rc_leaf` declares, other than running on both strands."""
    if leaf.action == "commutes":
        return Commutes(path, "commutes with reverse complement")
    assert callable(leaf.action)
    return DeclaredLaw(path, leaf.action)


def _resized(term: Axis, size: int) -> Axis | None:
    """The same axis at another size: only a length has one."""
    if term.size == size:
        return term
    if not ax.is_length(term):
        return None
    return ax.product([ax.length(size, ax.Role("length", steps=None)), *ax.units(term)])


class DeclaredLaw(Cut):
    """Acts as the author's function says."""

    def __init__(self, path: str, function: Callable[..., Any]) -> None:
        super().__init__(path, f"acts by {function.__name__}")
        self.function = function

    def __call__(self, node: Any, operands: list[Operand], call: ModuleCall) -> tuple[Action, ...]:
        """The actions the function returns, in the place of the tensors the forward returns."""
        constants = getattr(self.function, "facts", Facts()).constants
        given = [node.constant(x) if isinstance(x, Const) and not constants else x for x in operands]
        args, kwargs = call.given.filled(given)
        found = self.function(node, *args, **kwargs)
        leaves = [leaf for leaf in pytree.tree_leaves(found) if isinstance(leaf, Action)]
        wanted = [tuple(t.shape) for t in call.made.tensors]
        if [a.shape for a in leaves] != wanted:
            raise ValueError(f"{self.function.__name__} gave shapes {[a.shape for a in leaves]}, the module {wanted}")
        return tuple(leaves)


class Symmetrised(Cut):
    """Runs on both strands: its outputs are open, but for batches and lengths, which are found by running it.

    Args:
        path: of the module.
        why: what it is cut for.
        module: a copy of it, in the mode and precision to run in.
        seen: for each number of a call, two calls with other random inputs.
        hints: length axes of its outputs that are known.
        branches: it may branch on values, so that both strands must not share a batch.
    """

    def __init__(
        self,
        path: str,
        why: str | None,
        module: nn.Module,
        seen: Mapping[int, Sequence[ModuleCall]],
        *,
        hints: Hints,
        branches: bool,
    ) -> None:
        super().__init__(path, why)
        self.module, self.seen, self.hints, self.branches = module, seen, hints, branches
        self.known_roles: dict[Any, AxisRoles] = {}

    def __call__(self, node: Any, operands: list[Operand], call: ModuleCall) -> tuple[Action, ...]:
        """Open axes, batches and lengths."""
        self._check(operands, call)
        found = self._roles(operands, int(node.node.args[2]))
        return tuple(
            Action(tuple(_term(s, d, found.made_batch[i], found.lengths[i]) for d, s in enumerate(t.shape)))
            for i, t in enumerate(call.made.tensors)
        )

    def _roles(self, operands: list[Operand], index: int) -> AxisRoles:
        given = [x if isinstance(x, Action) else None for x in operands]
        key = (index, tuple(roles(a) for a in given))
        if key not in self.known_roles:
            try:
                self.known_roles[key] = axis_roles(self.module, self.seen[index], given, self.hints)
            except Undecided as fact:
                self._impossible(str(fact))
        return self.known_roles[key]

    def passage(self, operands: list[Operand], made: tuple[Action, ...], index: int) -> Passage:
        """Actions and batches of one call."""
        found = self._roles(operands, index)
        given = tuple(x if isinstance(x, Action) else None for x in operands)
        return Passage(given, made, found.given_batch, found.made_batch, found.stacks and not self.branches)

    def _check(self, operands: list[Operand], call: ModuleCall) -> None:
        """Refuse what cannot be mirrored or averaged."""
        strange = [v for b in (call.given, call.made) for v in b.rest if not isinstance(v, PLAIN)]
        if not any(isinstance(x, Action) for x in operands):
            self._impossible("it is given no tensor of the sequence, so it has no mirror image to run on")
        if strange:
            self._impossible(f"it is given or returns a {type(strange[0]).__name__}, in which tensors are not found")
        if call.changed:
            self._impossible("it writes into a tensor it is given")
        if not call.made.tensors or not all(t.is_floating_point() or t.is_complex() for t in call.made.tensors):
            self._impossible("it returns something else than numbers to average")

    def _impossible(self, why: str) -> None:
        refuse(
            f"{self.path} cannot run on both strands",
            why=why,
            do="write this step in a submodule with tensors in and out, which it does not change",
            never=False,
        )


def _term(size: int, dim: int, batch: int | None, lengths: frozenset[int]) -> Axis:
    if dim == batch:
        return ax.batch(size)
    return ax.length(size, ax.Role("length", steps=None)) if dim in lengths else ax.Var(size)
