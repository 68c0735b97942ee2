"""Parameters that no trace reads: they are not tied, so a call that reads one is refused.

They belong to a branch of forward that was not traced, such as a layer for long inputs only, or that an
attribute switches on later. With untied weights it would break the symmetry, and nothing would show it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from .._torch import calling_modules, is_compiling
from ..algebra import axis as ax
from ..algebra.action import Action
from ..errors import BreaksSymmetryError, Where
from ..graph.sandbox import fresh_copy, owner
from .attaching import register, ties
from .checks import Check, attach_check, checks_of, drop_checks
from .length_guard import LengthGuard, unguard
from .ties import RCTie


class UntiedParameterError(BreaksSymmetryError):
    """A call reads a parameter that was not tied."""


class Untied(RCTie):
    """The parametrization of a parameter that no trace reads: itself, but not inside a call.

    Args:
        name: of the parameter.
        shape: of the parameter.
        idle: no trace calls the module that holds it.
    """

    kind = "untied"

    def __init__(self, name: str, shape: Sequence[int], idle: bool) -> None:
        super().__init__(Action(tuple(ax.trivial(n) for n in shape)))
        self.name, self.idle, self.stored_shape = name, idle, self.full_shape

    def plain(self) -> dict[str, Any]:
        """The tie as plain values: no action, as nothing is tied."""
        return {"kind": self.kind, "name": self.name, "idle": self.idle}

    def expand(self, stored: Tensor) -> Tensor:
        """The parameter.

        Raises:
            UntiedParameterError: a module's forward reads it.
        """
        if is_compiling() or _inside_a_call():
            raise refusal(self.name)
        return stored

    def reduce(self, full: Tensor) -> Tensor:
        """The parameter."""
        return full

    def project(self, full: Tensor) -> Tensor:
        """The parameter."""
        return full


class IdleModule(Check):
    """The check of a module of a baked model that no trace calls, as its parameters were not tied.

    Args:
        name: of one of its parameters.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuse the call.

        Raises:
            UntiedParameterError: always.
        """
        raise refusal(self.name)


def refusal(name: str) -> UntiedParameterError:
    """What a call that reads an untied parameter is told."""
    return UntiedParameterError(
        f"forward reads {name}, which no trace of the model read",
        where=Where(name.rpartition(".")[0]),
        why="a branch of forward ran that was not traced, so its weights are not tied",
        do="convert with an example that takes this branch (another length, number of samples, mode or setting)",
    )


def _inside_a_call() -> bool:
    """Whether some module's forward is running; reading a parameter from outside is no call."""
    ours = (parametrize.ParametrizationList, RCTie)
    return any(not isinstance(module, ours) for module in calling_modules())


def leave_untied(model: nn.Module, names: Sequence[str], called: Collection[str]) -> None:
    """Refuse calls that read a parameter, in place; its `nn.Parameter` object stays.

    Args:
        model: changed.
        names: every name of the parameter.
        called: paths of the modules that some trace calls.
    """
    module, leaf = owner(model, names[0])
    parameter = getattr(module, leaf)
    if isinstance(parameter, nn.parameter.UninitializedParameter):
        return  # it has no values that could be read
    register(model, names, Untied(names[0], parameter.shape, is_idle(names, called)))


def is_idle(names: Sequence[str], called: Collection[str]) -> bool:
    """Whether no trace calls a module that holds a parameter.

    Args:
        names: every name of the parameter.
        called: paths of the modules that some trace calls.
    """
    return all(name.rpartition(".")[0] not in called for name in names)


def untied(model: nn.Module) -> dict[nn.Module, Untied]:
    """The modules of a model that hold such parameters, each with one of them."""
    return {module: tie for module, _, _, tie in ties(model) if isinstance(tie, Untied)}


def refuse_calls(found: dict[nn.Module, Untied]) -> None:
    """Refuse calls of the modules that no trace calls, in place: what is left of the refusal when a model is baked."""
    for module, tie in found.items():
        if tie.idle:
            refuse_call(module, tie.name)


def refuse_call(module: nn.Module, name: str) -> None:
    """Attach an `IdleModule` to a module.

    Args:
        module: changed in place.
        name: of one of its parameters.
    """
    attach_check(module, IdleModule(name))


def unguarded(model: nn.Module) -> nn.Module:
    """A model that refuses no length and no call: a copy of a baked one that does, else the model itself."""
    refusing = (LengthGuard, IdleModule)
    if not any(isinstance(h, refusing) for m in model.modules() for h in checks_of(m)):
        return model
    twin = fresh_copy(model)
    unguard(twin)
    allow_calls(twin)
    return twin


def allow_calls(model: nn.Module) -> None:
    """Undo `refuse_calls`, in place."""
    drop_checks(model, lambda check: isinstance(check, IdleModule))
