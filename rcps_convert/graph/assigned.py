"""Buffers that forward assigns, as in ``self.mean = 0.9 * self.mean + 0.1 * m``, seen by ``torch.export``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .._torch import all_modules, buffers_of


class AssignedBuffers:
    """Writes into a model's buffers, at the end of its forward, what forward assigned to them.

    ``torch.export`` loses sight of what is assigned in a submodule. Reads of a buffer before and after the assignment
    see what they see in the model.

    Args:
        model: the copy that is traced; two hooks are attached to it.
    """

    def __init__(self, model: nn.Module) -> None:
        self.held: list[tuple[nn.Module, str, Tensor]] = []
        model.register_forward_pre_hook(self._before)
        model.register_forward_hook(self._after)

    def _before(self, model: nn.Module, args: Any) -> None:
        self.held = held_buffers(model)

    def _after(self, model: nn.Module, args: Any, output: Any) -> None:
        for module, name, before in self.held:
            now = getattr(module, name)
            if now is not before and isinstance(now, Tensor) and now.shape == before.shape:
                with torch.no_grad():
                    before.copy_(now)
                setattr(module, name, before)


def held_buffers(model: nn.Module) -> list[tuple[nn.Module, str, Tensor]]:
    """The buffers of a model, each with the module that holds it and its name there."""
    return buffers_of(all_modules(model))
