"""Buffers that are the same before each pass of a model, and in train mode what forward counts: writes are undone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property

import torch
from torch import Tensor, nn

from .._torch import NormBase, all_modules, buffers_of, is_held, stock_code, version, versions
from ..graph.counters import Counters


class KeptBuffers:
    """The values of a model's buffers, taken once for as long as nobody but forward changes them.

    Who writes into a buffer between two passes does so where torch counts it, or calls `forget`.

    Args:
        model: a private copy.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.values: dict[int, tuple[Tensor, int, Tensor]] = {}  # the buffer, its writes, its value
        self.norms: dict[int, tuple[nn.Module, bool]] = {}  # by id: a module, and whether it is a norm of torch's own

    @cached_property
    def counters(self) -> Counters:
        """What forward counts, as it is before the first pass in train mode."""
        return Counters(self.model)

    def forget(self) -> None:
        """Take the values anew before the next pass."""
        self.values.clear()

    @contextmanager
    def held(self, training: bool = False, modules: list[nn.Module] | None = None) -> Iterator[None]:
        """A pass, after which every buffer is in its place and has its value. No gradients are recorded.

        Args:
            modules: the model and all of its modules, where they are known.
            training: the pass is one in train mode, in which forward may count; what it counts has its value again.
        """
        modules = all_modules(self.model) if modules is None else modules
        places = buffers_of(modules)
        buffers = [buffer for *_, buffer in places]
        written = versions(buffers)
        values = [*map(self._value, buffers, written)]
        try:
            with self.counters.held() if training else nullcontext():
                yield
        finally:
            rows = zip(places, values, written, versions(buffers), strict=True)
            for (module, _, buffer), value, before, now in rows:
                if before != now or not (self._writes_nothing(module) or torch.equal(buffer, value)):
                    buffer.copy_(value)
                    self.values[id(buffer)] = buffer, version(buffer), value
            if [*map(id, buffers)] != [id(buffer) for *_, buffer in buffers_of(modules)]:
                _put_back(places)

    def _writes_nothing(self, module: nn.Module) -> bool:
        """Whether a module is a norm of torch's own in eval mode, which reads its statistics only."""
        known = self.norms.get(id(module))
        if known is None:
            is_norm = isinstance(module, NormBase) and stock_code(type(module)) is not None
            known = self.norms[id(module)] = module, is_norm
        return known[1] and not module.training

    def _value(self, buffer: Tensor, written: int) -> Tensor:
        known = self.values.get(id(buffer))
        if known is None or known[0] is not buffer or known[1] != written:
            known = self.values[id(buffer)] = buffer, written, buffer.detach().clone()
        return known[2]


def _put_back(places: Iterable[tuple[nn.Module, str, Tensor]]) -> None:
    """Put buffers back in the places where others are now."""
    for module, name, buffer in places:
        if not is_held(module, name, buffer):
            setattr(module, name, buffer)
