"""Replicas for ``nn.DataParallel`` of modules whose forward is set on the instance.

A replica is a shallow copy with other weights. A forward that was set on the original is copied along, and would
compute with the original's weights.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import MethodType
from typing import Any

from torch import nn

from .._torch import REPLICATE, replica


class Replicating:
    """Makes replicas of a module whose forward belongs to the replica.

    Args:
        module: the module; a deep copy of it holds a copy of this, bound to the copy.

    Attributes:
        forward: that was set on it, which the user may put another one in the place of.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module, self.forward = module, module.__dict__.get("forward")

    def __call__(self) -> Any:
        """A replica."""
        made = replica(self.module)
        del made.__dict__[REPLICATE]
        made.forward = rebound(self.module.forward, self.module, made)
        return made


def rebound(forward: Any, module: nn.Module, copy: nn.Module) -> Any:
    """A module's forward, for its replica; what is bound to neither stays as it is."""
    if hasattr(forward, "bound_to"):
        return forward.bound_to(copy)
    mine = inspect.ismethod(forward) and forward.__self__ is module
    return MethodType(forward.__func__, copy) if mine else forward


def follow_replicas(module: nn.Module) -> None:
    """Let a module's replicas have a forward of their own, in place."""
    module.__dict__[REPLICATE] = Replicating(module)


def replaced_forward(attributes: Mapping[str, Any]) -> Any:
    """The forward that was set on a module, where another one stands in its place now; else None.

    Args:
        attributes: the module's own.
    """
    kept = attributes.get(REPLICATE)
    forward = getattr(kept, "forward", None) if isinstance(kept, Replicating) else None
    return None if attributes.get("forward") is forward else forward


def accept_forward(module: nn.Module) -> None:
    """Take the forward that stands in the place of the one that was set on a module for the module's own, in place."""
    if replaced_forward(vars(module)) is not None:
        follow_replicas(module)


def unfollow_replicas(module: nn.Module) -> None:
    """Undo `follow_replicas`."""
    module.__dict__.pop(REPLICATE, None)
