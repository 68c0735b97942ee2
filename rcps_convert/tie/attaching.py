"""The ties of a model: attached to its parameters, listed, and removed again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from .._torch import chains, hold_parameters, order_parameters, parameter_order, pre_hooks
from ..algebra.action import Action
from ..errors import ConversionError, Where
from ..graph.parametrized import add_property, keep_copyable, parametrized_class
from ..graph.sandbox import owner
from .checkpoints import expect_stored
from .ties import Kept, MirrorTie, RCTie
from .writing import OwnParameters, TiedList

STORED = "original"
"""The name under which torch keeps what is stored of a parametrized weight."""

KEPT = 2**24
"""Entries of all full weights of a private copy up to which they are kept between its calls."""


def attach(model: nn.Module, names: Sequence[str], tie: RCTie, init: str) -> None:
    """Tie a parameter, in all of its places; the `nn.Parameter` object stays the same.

    Args:
        model: the model, changed in place.
        names: every name of the parameter; a shared one has several.
        tie: the parametrization.
        init: ``"keep"`` the representatives' values, or ``"project"`` to the orbit mean.
    """
    module, leaf = owner(model, names[0])
    parameter = getattr(module, leaf)
    with torch.no_grad():
        if init == "project":
            parameter.copy_(tie.project(parameter))
        parameter.grad = None
    register(model, names, tie.to(parameter.device))


def attach_mirror(model: nn.Module, names: Sequence[str], action: Action, original: str, init: str) -> None:
    """Make a parameter the mirror image of another one; its own `nn.Parameter` object stays, and is empty.

    Args:
        model: the model, changed in place.
        names: every name of the parameter.
        action: how it is made from the other one.
        original: the other one's name.
        init: ``"keep"`` the other one's values, or ``"project"`` both to their mean.
    """
    module, leaf = owner(model, names[0])
    parameter = getattr(module, leaf)
    tie = MirrorTie(action, owner(model, original)).to(parameter.device)
    with torch.no_grad():
        if init == "project":
            tie.original.copy_(tie.image(tie.project(parameter)))
        parameter.grad = None
    register(model, names, tie)


def register(model: nn.Module, names: Sequence[str], tie: RCTie) -> None:
    """Attach a tie to a parameter, in all of its places."""
    for name in names:
        module, leaf = owner(model, name)
        order = next((c.plain_order for _, c in _chains(module)), parameter_order(module))
        _parametrize(module, leaf, tie)
        chain: Any = module.parametrizations[leaf]  # type: ignore[union-attr,index]
        chain.plain_order = order
        hold_parameters(module, OwnParameters)
        if getattr(chain, "expecting", None) is None:
            chain.expecting = expect_stored(module, leaf)
        keep_copyable(module)


def _parametrize(module: nn.Module, leaf: str, tie: RCTie) -> None:
    """As ``register_parametrization``, whose subclass the user's ``__init_subclass__`` would hear of."""
    if parametrize.is_parametrized(module, leaf):  # a module of two names
        return
    chain = TiedList([tie], getattr(module, leaf), unsafe=True)
    delattr(module, leaf)
    if not parametrize.is_parametrized(module):
        module.__class__ = parametrized_class(type(module))
        module.parametrizations = nn.ModuleDict()
    add_property(module, leaf)
    module.parametrizations[leaf] = chain  # type: ignore[operator,union-attr,index,assignment]


def ties(model: nn.Module) -> list[tuple[nn.Module, str, str, RCTie]]:
    """Every tied parameter of a model: its module, its name there, its full name, its tie."""
    found = []
    for path, module in model.named_modules():
        for leaf, chain in _chains(module):
            tie = next(p for p in chain if isinstance(p, RCTie))
            found.append((module, leaf, f"{path}.{leaf}" if path else leaf, tie))
    return found


def keep_full_weights(model: nn.Module) -> None:
    """Let a private copy keep its full weights between calls, if they are not large.

    Args:
        model: nothing writes into its parameters but by operators that autograd counts.
    """
    kept = [tie for _, _, _, tie in ties(model) if not tie.sources()]
    if sum(tie.full_shape.numel() for tie in kept) <= KEPT:
        for tie in kept:
            tie.known = Kept()


def mirrored(model: nn.Module) -> dict[str, tuple[str, MirrorTie]]:
    """For each parameter that has a mirror image: the image's name, and its tie."""
    paths = {id(module): path for path, module in model.named_modules()}
    return {
        ".".join(filter(None, (paths[id(tie.source[0])], tie.source[1]))): (name, tie)
        for _, _, name, tie in ties(model)
        if isinstance(tie, MirrorTie)
    }


def _chains(module: nn.Module) -> list[tuple[str, Any]]:
    """The parametrized parameters of a module that carry a tie."""
    return [(leaf, chain) for leaf, chain in chains(module).items() if any(isinstance(p, RCTie) for p in chain)]


def require_unpruned(model: nn.Module, what: str) -> None:
    """Refuse a model whose stored weights are pruned.

    Args:
        model: not touched.
        what: is refused.

    Raises:
        ConversionError: it is.
    """
    for path, module in model.named_modules():
        for leaf, chain in _chains(module):
            if _is_pruned(chain):
                raise ConversionError(
                    f"{what} of a model with a pruned weight",
                    where=Where(path),
                    got=f"a mask on what is stored of {leaf}",
                    why="the mask is no part of what the model was converted to, and would be lost",
                    do="make the zeros permanent first: torch.nn.utils.prune.remove"
                    f"(module.parametrizations.{leaf}, 'original')",
                )


def _is_pruned(chain: Any) -> bool:
    """Whether what is stored of a weight has a mask of ``torch.nn.utils.prune``."""
    return any(isinstance(hook, prune.BasePruningMethod) for hook in pre_hooks(chain))


def remove(module: nn.Module, leaf: str) -> None:
    """Untie a parameter: the same `nn.Parameter` object holds the full weight, in its old place."""
    chain = dict(_chains(module))[leaf]
    chain.expecting.remove()
    if _is_pruned(chain):
        prune.remove(chain, STORED)
    order = chain.plain_order
    parametrize.remove_parametrizations(module, leaf, leave_parametrized=True)
    keep_copyable(module)
    order_parameters(module, order)
