"""Which way to compute a layer is the fastest, measured: each part of it, at the shape it meets."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .backends import STOCK, backend
from .operator import Ways
from .product import Product

PARTS = ("forward", "back", "weight")

SECONDS = 0.04
"""Time spent on each way of computing a part, if single runs are shorter."""

MARGIN = 0.97
"""A way is taken where it needs at most this share of the stock operator's time: less is noise."""

BEHIND = 1.6
"""A way that needs this many times the fastest one's time is not timed again."""

WORK = {"cpu": 5e8, "cuda": 1e12}
"""Multiplications of a timed call, by device; a larger batch is timed on fewer samples."""

CALLS = 4
"""Calls of a GPU that are timed together, one queued behind the other as in a model."""

SLACK = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 6e-2, torch.float16: 2e-2}
"""Largest deviation from the stock operator's result, in units of the largest entry."""


@dataclass
class Times:
    """Seconds of each part of a layer, by backend.

    Attributes:
        parts: for each part, seconds by name of the backend.
        differs: backends whose results are not the stock operator's.
        counted: the parts of a train step.
    """

    parts: dict[str, dict[str, float]] = field(default_factory=dict)
    differs: list[str] = field(default_factory=list)
    counted: Sequence[str] = PARTS

    def fastest(self, part: str) -> str:
        """The backend to compute a part with."""
        found = self.parts[part]
        best = min(found, key=lambda name: found[name])
        return best if found[best] <= MARGIN * found[STOCK] else STOCK

    def ways(self) -> Ways:
        """The fastest way for each part."""
        return Ways(*(self.fastest(part) for part in PARTS))

    def ratio(self, ways: Ways, parts: Sequence[str] | None = None) -> float:
        """Time in these ways over that of the stock operator, of some parts or of a train step."""
        parts = self.counted if parts is None else parts
        whole = sum(self.parts[part][STOCK] for part in parts)
        return sum(self.parts[part][getattr(ways, part)] for part in parts) / whole if whole else 1.0


def measured(
    p: Product, shape: Sequence[int], w: Tensor, bias: Tensor | None, names: Sequence[str], needs_input: bool
) -> Times:
    """Times of the parts of a layer.

    Args:
        p: what it multiplies.
        shape: of what the product reads.
        w: the whole weight.
        bias: its bias, or None.
        names: of the backends besides the stock operator's.
        needs_input: the layer's input has a gradient in a train step.
    """
    w, bias = w.detach(), None if bias is None else bias.detach()
    x = torch.randn(_timed_shape(p, shape, w.device), device=w.device).to(w.dtype)
    g = torch.randn_like(backend(STOCK, p).forward(x, w, bias, p))
    calls = {name: _calls(name, p, x, g, w, bias) for name in (STOCK, *names)}
    found = Times(differs=[name for name in names if not _agrees(calls[name], calls[STOCK])])
    found.counted = [part for part in PARTS if needs_input or part != "back"]
    for part in PARTS:
        found.parts[part] = seconds({n: calls[n][part] for n in calls if n not in found.differs})
    return found


def _timed_shape(p: Product, shape: Sequence[int], device: torch.device) -> list[int]:
    work = p.reads.size * p.makes.size * p.kernel * (1 if p.linear else shape[-1])
    return [max(1, min(shape[0], int(WORK.get(device.type, WORK["cpu"]) / work))), *shape[1:]]


Calls = dict[str, Callable[[], Tensor]]


def _calls(name: str, p: Product, x: Tensor, g: Tensor, w: Tensor, bias: Tensor | None) -> Calls:
    b = backend(name, p)
    return {
        "forward": lambda: b.forward(x, w, bias, p),
        "back": lambda: b.back(x, g, w, p),
        "weight": lambda: b.weight(x, g, w, p),
    }


def _agrees(calls: Calls, stock: Calls) -> bool:
    """Whether results are those of the stock operator; the gradient of a weight needs no check, as it is a free one."""
    for part in ("forward", "back"):
        y, wanted = calls[part]().double(), stock[part]()
        if not float((y - wanted).abs().max()) <= _slack(wanted) * max(float(wanted.abs().max()), 1e-30):
            return False
    return True


def _slack(y: Tensor) -> float:
    """`SLACK`; float32 of a GPU may be multiplied in TF32, which has as many digits as float16."""
    return SLACK[torch.float16 if y.is_cuda and y.dtype == torch.float32 else y.dtype]


def seconds(calls: dict[str, Callable[[], Tensor]]) -> dict[str, float]:
    """The shortest time of each call; they take turns, so that what else runs meets all of them.

    One that is far behind is not called again.
    """
    best = dict.fromkeys(calls, float("inf"))
    spent, rounds = 0.0, 0
    for call in calls.values():
        on_gpu = call().is_cuda  # the first one prepares
    taken_by = _seconds_on_gpu if on_gpu else _seconds
    while rounds < 4 or (spent < SECONDS * len(calls) and rounds < 50):
        behind = BEHIND * min(best.values())
        for name, call in calls.items():
            if best[name] <= behind or rounds < 2:
                taken = taken_by(call)
                best[name], spent = min(best[name], taken), spent + taken
        rounds += 1
    return best


def _seconds(call: Callable[[], Tensor]) -> float:
    """Time of a call, of the thread that makes it if it is the only one."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    call()
    return clock() - start


def _seconds_on_gpu(call: Callable[[], Tensor]) -> float:
    """Time of a call of a GPU, of several in a row: of what takes longer, the GPU or the calls themselves."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(CALLS):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000 / CALLS
