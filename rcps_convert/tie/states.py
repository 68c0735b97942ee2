"""Statistics that a module keeps in buffers of its own: averaged over the strands after each train-mode forward.

What a train-mode forward writes into a buffer depends on the strand it was given, so swapped channels would come
to hold different numbers, and nothing that reads them in eval mode would obey the law. The mean of the buffer and its
mirror image holds what both strands would have written on average, and is the same on both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .._torch import unseen
from ..algebra.action import Action, ActionMap
from ..algebra.texts import read_action, write_action
from ..geometry import place_around
from ..graph.sandbox import owner
from .hooks import Inside, StrandHook
from .written import Written


class SharedState(StrandHook):
    """Averages buffers with their mirror images when a train-mode forward has written into them.

    Args:
        buffers: how reverse complement acts on each, by its name in the module.
    """

    def __init__(self, buffers: Mapping[str, Action]) -> None:
        self.buffers = dict(buffers)
        self.mirrors = {name: ActionMap(action) for name, action in buffers.items()}
        self.written = Written()

    def plain(self) -> dict[str, Any]:
        """The hook as plain values."""
        return {"buffers": {name: write_action(action) for name, action in self.buffers.items()}}

    def held(self, module: nn.Module) -> list[Tensor]:
        """The buffers of a module."""
        return [getattr(*owner(module, name)) for name in self.mirrors]

    def renew(self, module: nn.Module) -> None:
        """Average the buffers if something was written into them since they were read last."""
        if self.written.since(*self.held(module)):
            self.share(module)
            self.written.since(*self.held(module))

    def share(self, module: nn.Module) -> None:
        """Average the buffers over the strands, in place."""
        for value, mirror in zip(self.held(module), self.mirrors.values(), strict=True):
            with torch.no_grad():
                value.copy_(_shared(value, mirror))


def _shared(value: Tensor, mirror: ActionMap) -> Tensor:
    """The mean of a buffer and its mirror image."""
    return (value + mirror(value)) / 2


class AroundState(Inside):
    """A module's forward, after which its buffers are averaged over the strands in train mode.

    The forward writes into copies: their values may be needed for gradients, and stay as they are.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the module's own forward returns."""
        hook: SharedState = self.hook  # type: ignore[assignment]
        if not self.module.training:
            with unseen():
                hook.renew(self.module)
            return self._own(*args, **kwargs)
        mirrors = hook.mirrors
        places = [(*owner(self.module, name), mirror) for name, mirror in mirrors.items()]
        held = [getattr(holder, leaf) for holder, leaf, _ in places]
        written: list[Tensor] = []
        try:
            for (holder, leaf, _), value in zip(places, held, strict=True):
                setattr(holder, leaf, value.detach().clone())
            output = self._own(*args, **kwargs)
            written = [getattr(holder, leaf).detach() for holder, leaf, _ in places]
        finally:
            for (holder, leaf, _), value in zip(places, held, strict=True):
                setattr(holder, leaf, value)
        with unseen(), torch.no_grad():  # the modules around this one do not see its calls
            for (_, _, mirror), value, new in zip(places, held, written, strict=True):
                value.copy_(_shared(new, mirror))
        return output


def share_states(module: nn.Module, buffers: Mapping[str, Action]) -> None:
    """Let a module keep statistics that are the same on both strands, in place.

    Args:
        module: its train-mode forward writes the buffers.
        buffers: how reverse complement acts on each, by its name in the module.
    """
    hook = SharedState(buffers)
    hook.share(module)
    place_around(module, AroundState(module, hook))


def read_buffers(row: Mapping[str, Any]) -> dict[str, Action]:
    """The buffers of a `SharedState` from its plain values."""
    return {name: read_action(text) for name, text in row["buffers"].items()}
