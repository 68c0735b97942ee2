"""The whole model, timed as it was and accelerated: on a GPU, launching can cost more than what the layers save."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

import torch
from torch import Tensor, nn

from ..._torch import pytree
from ...algebra.arguments import Example
from ...graph.sandbox import call, mode
from .attached import Accelerated
from .backends import STOCK
from .timing import CALLS, MARGIN, seconds

NOISE = 1.02
"""Times that differ by less than this factor are the same."""

LAUNCHING = 0.9
"""Largest share of a call's time in which the CPU may be launching work of a GPU: in a training loop it has more to do,
and where the GPU waits for it, half of the multiplications save nothing."""


class WholeTimes:
    """Time over that of the model as it was.

    Attributes:
        inference: of a call in eval mode.
        train: with the gradients of all parameters; None where these cannot be had in eval mode.
        launching: share of the time in which the CPU is launching work of a GPU, the larger of the two; 0 on a CPU.
    """

    def __init__(self, inference: float, train: float | None, launching: float = 0.0) -> None:
        self.inference, self.train, self.launching = inference, train, launching

    @property
    def faster(self) -> bool:
        """Whether nothing takes longer, something takes less time, and the GPU does not wait for the CPU."""
        found = [t for t in (self.inference, self.train) if t is not None]
        return max(found) <= NOISE and min(found) <= MARGIN and self.launching <= LAUNCHING

    def words(self) -> str:
        """In a few words."""
        train = "" if self.train is None else f", with gradients {self.train:.2f}"
        launching = f", {self.launching:.0%} of it for launching" if self.launching else ""
        return f"the whole model takes {self.inference:.2f} of the time without{train}{launching}"


def whole_times(model: nn.Module, example: Example) -> WholeTimes:
    """Time an accelerated model in eval mode, and the same with its stock operators."""
    with mode(model, False):
        with torch.no_grad():
            inference, launching = _ratio(model, lambda: _first(call(model, example)))
        try:
            with torch.enable_grad():
                train, more = _ratio(model, lambda: _gradients(model, example))
        except RuntimeError:  # such as cuDNN's recurrent layers, which have gradients in train mode only
            return WholeTimes(inference, None, launching)
    return WholeTimes(inference, train, max(launching, more))


def _ratio(model: nn.Module, run: Callable[[], Tensor]) -> tuple[float, float]:
    """Time over that without, and the share of it in which the CPU was launching work of a GPU."""

    def without() -> Tensor:
        with stock_operators(model):
            return run()

    times = seconds({STOCK: without, "accelerated": run})
    launching = median(_launching(run) for _ in range(5)) if run().is_cuda else 0.0
    return times["accelerated"] / times[STOCK], launching


def _launching(run: Callable[[], Tensor]) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(CALLS):
        run()
    launched = time.perf_counter() - start
    torch.cuda.synchronize()
    return launched / (time.perf_counter() - start)


def _floats(outputs: object) -> list[Tensor]:
    return [y for y in pytree.tree_leaves(outputs) if isinstance(y, Tensor) and y.is_floating_point()]


def _first(outputs: object) -> Tensor:
    return next((y for y in pytree.tree_leaves(outputs) if isinstance(y, Tensor)), torch.empty(0))


def _gradients(model: nn.Module, example: Example) -> Tensor:
    """Some gradient, after all were computed.

    Raises:
        RuntimeError: there are none.
    """
    outputs = [y for y in _floats(call(model, example)) if y.requires_grad]
    learned = [p for p in model.parameters() if p.requires_grad and p.numel()]
    if not outputs or not learned:
        raise RuntimeError("nothing has a gradient")
    found = torch.autograd.grad([y.sum() for y in outputs], learned, allow_unused=True)
    return next(g for g in found if g is not None)


@contextmanager
def stock_operators(model: nn.Module) -> Iterator[None]:
    """The model computes with its stock operators."""
    forwards = [f for m in model.modules() if isinstance(f := m.__dict__.get("forward"), Accelerated)]
    try:
        for forward in forwards:
            forward.idle = True
        yield
    finally:
        for forward in forwards:
            forward.idle = False
