"""Half products in Triton, for GPUs: sums of channels and of mirrored taps exist in registers only.

The tiles of each kernel are chosen by time at the first call of a shape, and kept for the process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import first_line
from . import pure
from .channels import ChannelPairs
from .product import Product, turned

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
"""What the kernels compute with; they sum in float32."""

ENTRIES = 2**31
"""Entries of a tensor from which on the kernels, which count in 32 bits, are not used."""

Tile = dict[str, int]


def _tiles(*rows: tuple[int, int, int, int], names: tuple[str, str, str]) -> list[Tile]:
    return [dict(zip((*names, "num_warps"), row, strict=True), num_stages=1) for row in rows]


FORWARD = _tiles(
    (16, 128, 16, 4), (16, 256, 16, 8), (32, 64, 16, 4), (32, 128, 16, 4), (32, 128, 32, 8),
    (64, 64, 16, 4), (64, 128, 16, 4), (64, 128, 16, 8), (128, 128, 16, 8),
    names=("BM", "BL", "BK"),
)  # fmt: skip
"""Tiles tried for results: pairs made, positions, pairs read at a time; warps."""

GRADIENT = _tiles(
    (16, 32, 32, 4), (32, 32, 32, 4), (32, 64, 32, 8), (64, 64, 32, 8), (64, 64, 64, 8),
    names=("BM", "BN", "BL"),
)  # fmt: skip
"""Tiles tried for the gradient of the weight: pairs made, pairs read, positions at a time; warps."""

FLAT = 8
"""Pairs read up to which a block holds several taps."""

SHARES = 4
"""Programs per multiprocessor among which the positions of a gradient are shared."""


@cache
def _loaded() -> tuple[Any, str]:
    """The kernels, or None and the reason."""
    try:
        from . import kernels
    except Exception as reason:  # not installed, or not for this system
        return None, first_line(reason)[:70]
    return kernels, ""


def why_not(device: torch.device) -> str:
    """Why the kernels cannot be used on a device, in a few words; empty where they can."""
    if device.type != "cuda":
        return "Triton computes on GPUs only"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "the GPU is older than what the kernels are made for"
    return _loaded()[1]


# --- how the entries are laid out -------------------------------------------------------------------


@dataclass(frozen=True)
class _Form:
    """How the entries of a product are laid out, as every kernel takes it.

    Attributes:
        channels: the units read and made, as tables.
        kinds: whether these are something else than two swapped halves.
        units, made: numbers of units.
        odd, middle: pairs of mirrored taps, and whether there is one in the middle.
    """

    channels: tuple[Tensor, Tensor]
    kinds: dict[str, bool]
    units: int
    made: int
    odd: int
    middle: bool


@cache
def _form_of(p: Product, device: torch.device) -> _Form:
    kinds = {"TABLED_IN": _is_tabled(p.reads), "TABLED_OUT": _is_tabled(p.makes)}
    tables = _table(p.reads, device), _table(p.makes, device)
    return _Form(tables, kinds, p.reads.units, p.makes.units, p.kernel // 2, p.kernel % 2 == 1)


def _table(ch: ChannelPairs, device: torch.device) -> Tensor:
    """The channels of each unit, first and second ones; a channel without a partner is both."""
    rows = [[*ch.first, *ch.fixed], [*ch.second, *ch.fixed]]
    return torch.tensor(rows, dtype=torch.int32, device=device)


def _is_tabled(ch: ChannelPairs) -> bool:
    return bool(ch.fixed) or [*ch.first, *ch.second] != [*range(ch.size)]


def _precision() -> str:
    """What float32 is multiplied in: TF32 where torch's setting allows it, else three products of it."""
    setting: Any = torch.backends.cudnn
    return "tf32" if setting.conv.fp32_precision == "tf32" else "tf32x3"


_HERE: AbstractContextManager[Any] = nullcontext()


def _on(x: Tensor) -> AbstractContextManager[Any]:
    """Kernels run on the device of a tensor."""
    here = x.device.type != "cuda" or x.device.index == torch.cuda.current_device()
    return _HERE if here else torch.cuda.device(x.device)


def _pieces(count: int, size: int) -> int:
    return -(-count // size)


# --- tiles ----------------------------------------------------------------------------------------

_CHOSEN: dict[Any, Tile] = {}


def _fastest(key: Any, tiles: Sequence[Tile], rows: int, run: Callable[[Tile], object]) -> Tile:
    """The tile with which a kernel runs fastest, of those that the device has room for; tried once per key.

    Raises:
        RuntimeError: there is room for none.
    """
    if key not in _CHOSEN:
        fitting = [t for t in tiles if t["BM"] < 2 * max(rows, 9)] or tiles[:1]  # larger ones would be half empty
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            return fitting[-1]  # nothing can be timed
        times = [(_time(run, tile), i) for i, tile in enumerate(fitting)]
        best, place = min(times)
        if best == float("inf"):
            raise RuntimeError("no tile of a half product fits the device")
        _CHOSEN[key] = fitting[place]
    return _CHOSEN[key]


def _time(run: Callable[[Tile], object], tile: Tile) -> float:
    """Milliseconds of a kernel, the shortest of a few; infinite where the device has no room for its tiles."""
    try:
        run(tile)
    except Exception:  # Triton raises errors of many classes where shared memory or registers are exceeded
        return float("inf")
    if not torch.cuda.is_available():  # kernels are interpreted
        return 0.0
    found = []
    for _ in range(3):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run(tile)
        end.record()
        end.synchronize()
        found.append(start.elapsed_time(end))
    return min(found)


# --- the three products ----------------------------------------------------------------------------


def _prepared(w: Tensor, p: Product, form: _Form, back: bool) -> Tensor:
    """The weight in the basis of half sums and half differences, as the kernels read it."""
    wo, wi, wt = w.stride()
    found = w.new_empty(form.made * form.units * (4 * form.odd + 2 * form.middle))
    _loaded()[0].half_weights[(_pieces((form.odd + form.middle) * form.units, 256), form.made)](
        w, found, *form.channels, wi if back else wo, wo if back else wi, wt, form.units, form.made, p.reads.pairs,
        p.makes.pairs, p.kernel, **form.kinds, TURNED=back, B=256,
    )  # fmt: skip
    return found


def _compute(x: Tensor, w: Tensor, bias: Tensor | None, p: Product, back: bool) -> Tensor:
    form, how = _form_of(p, x.device), _precision() if x.dtype == torch.float32 else "ieee"
    y = x.new_empty(x.shape[0], p.makes.size, p.made(x.shape[2]))
    weights, total = _prepared(w, p, form, back), len(x) * y.shape[2]

    def run(tile: Tile) -> None:
        grid = (_pieces(form.made, tile["BM"]) * _pieces(total, tile["BL"]),)
        _loaded()[0].half_forward[grid](
            x, weights, y if bias is None else bias, y, *form.channels, *x.stride(), *y.stride(), y.shape[2],
            x.shape[2], total, form.units, form.made, p.kernel, p.dilation, p.pad, **form.kinds,
            BIASED=bias is not None, PAIRED=p.kernel > 1, MIDDLE=form.middle, FLAT=form.units <= FLAT,
            WHOLE=form.units % tile["BK"] == 0, PRECISION=how, **tile,
        )  # fmt: skip

    key = ("forward", total.bit_length(), form.units, form.made, p.kernel, x.dtype, how, x.device)
    run(_CHOSEN.get(key) or _fastest(key, FORWARD, form.made, run))
    return y


def compute(x: Tensor, w: Tensor, bias: Tensor | None, p: Product) -> Tensor:
    """A tied convolution.

    Args:
        x: (N, C, L).
        w: the whole weight, (out, in, K).
        bias: (out,), or None.
        p: the product.
    """
    if not _has_room(x, p):
        return F.conv1d(x, w, bias, padding=p.pad, dilation=p.dilation)
    with _on(x):
        return _compute(x, w, bias, p, back=False)


def back(x: Tensor, g: Tensor, w: Tensor, p: Product) -> Tensor:
    """The gradient of what a tied convolution reads."""
    if not _has_room(g, p.transposed()):
        return F.conv1d(g, turned(w), padding=p.span - p.pad, dilation=p.dilation)
    with _on(x):
        return _compute(g, w, None, p.transposed(), back=True)


def _has_room(x: Tensor, p: Product) -> bool:
    """Whether the kernels can count the entries of what a product reads and makes."""
    samples, _, length = x.shape
    reach = x.numel() if x.is_contiguous() else sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True))
    return reach < ENTRIES and samples * p.makes.size * p.made(length) < ENTRIES


def weight_gradient(x: Tensor, g: Tensor, w: Tensor, p: Product) -> Tensor:
    """The gradient of the weight of a tied convolution."""
    if not (_has_room(x, p) and _has_room(g, p.transposed())):
        return pure.weight_gradient(x, g, w, p)
    with _on(x):
        form, found = _form_of(p, x.device), torch.zeros_like(w)
        pairs = _gradient(x, g, p, form, form.odd * form.units, middle=False) if form.odd else found[:0]
        centre = _gradient(x, g, p, form, form.units, middle=True) if form.middle else found[:0]
        _loaded()[0].half_fold[(_pieces((form.odd + form.middle) * form.units, 256), form.made)](
            pairs, centre, found, *form.channels, *w.stride(), form.units, form.made, p.reads.pairs, p.makes.pairs,
            p.kernel, len(pairs), len(centre), **form.kinds, B=256,
        )  # fmt: skip
        return found


def _gradient(x: Tensor, g: Tensor, p: Product, form: _Form, depth: int, middle: bool) -> Tensor:
    """The gradient for mirrored taps, or for the one in the middle, share by share of the positions."""
    how, total = _precision() if x.dtype == torch.float32 else "ieee", len(x) * g.shape[2]
    flat = form.units <= FLAT and not middle
    wide = depth if flat else form.units

    def run(tile: Tile) -> Tensor:
        programs = _pieces(form.made, tile["BM"]) * _pieces(wide, tile["BN"]) * (depth // wide)
        count = max(1, min(SHARES * _multiprocessors(x.device) // programs, _pieces(total, 4 * tile["BL"])))
        share = _pieces(total, count * tile["BL"]) * tile["BL"]
        count = _pieces(total, share)
        found = x.new_empty(count, 2 if middle else 4, form.made, depth, dtype=torch.float32)
        _loaded()[0].half_gradient[(programs, count)](
            x, g, found, *form.channels, *x.stride(), *g.stride(), g.shape[2], x.shape[2], total, form.units, form.made,
            p.kernel, p.dilation, p.pad, share, **form.kinds, MIDDLE=middle, FLAT=flat,
            WHOLE=form.units % tile["BN"] == 0, PRECISION=how, **tile,
        )  # fmt: skip
        return found

    key = ("weight", total.bit_length(), form.units, form.made, p.kernel, middle, x.dtype, how, x.device)
    return run(_CHOSEN.get(key) or _fastest(key, GRADIENT, form.made, run))


@cache
def _multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count
