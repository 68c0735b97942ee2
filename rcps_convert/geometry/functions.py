"""Functions that read one edge of a length and not the other, and their readings."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import BreaksSymmetryError
from .readings import CallAxes, EdgeFunction, Settings, Sliding, Window, choose, setting_per_axis


class Pooling(Sliding):
    """Max, average and power-average pools."""

    def __init__(self, function: Any, rank: int, names: str, **defaults: Any) -> None:
        super().__init__(function, names, **defaults)
        self._rank = rank

    def rank(self, s: Settings) -> int:
        """As in the function's name."""
        return self._rank

    def right(self, s: Settings, site: CallAxes) -> Tensor:
        """Without padding a crop; with it the padding is made outside of the pool where that is the same."""
        if s.get("return_indices"):
            _refuse_indices()
        filler = self._filler(s)
        if s.get("ceil_mode") or filler is None:
            return super().right(s, site)
        x, pads = s["input"], setting_per_axis(s.get("padding", 0), self._rank)
        if not any(pads):
            for w in self.windows(s, site):
                x = x.narrow(w.dim, w.shift, x.shape[w.dim] - w.shift)
            return self.call(s, input=x)  # type: ignore[no-any-return]
        sides = [[p, p] for p in pads]
        for w in self.windows(s, site):
            sides[w.dim - x.dim()][0] -= w.shift
        x = F.pad(x, [n for side in reversed(sides) for n in side], value=filler)
        return self.call(s, input=x, padding=0)  # type: ignore[no-any-return]

    def _filler(self, s: Settings) -> float | None:
        """What may stand for the function's own padding; None if nothing can."""
        if "count_include_pad" in self.names:
            return 0.0 if s["count_include_pad"] else None
        return float("-inf") if s["input"].is_floating_point() else None


def _refuse_indices() -> None:
    raise BreaksSymmetryError(
        "a pool that returns indices, at a length that leaves a remainder",
        why="the indices of the two readings name places in two different crops",
        do="use a length that divides, or pool without return_indices",
    )


class Windows(Sliding):
    """``Tensor.unfold``: windows of one axis, a new axis of positions inside them."""

    def windows(self, s: Settings, site: CallAxes) -> list[Window]:
        """The one window, if its axis is a length."""
        x = s["input"]
        dim = s["dimension"] % x.dim()
        return [Window(dim, x.shape[dim], s["size"], s["step"], 0, 0)] if dim in site.reads else []

    def leaves(self, s: Settings, dim: int | None) -> bool:
        """Any axis but that of the windows and the new one."""
        return dim not in (s["dimension"] % s["input"].dim(), s["input"].dim())

    def indifferent(self, s: Settings) -> bool:
        """A step of 1 leaves no remainder."""
        return bool(s["step"] == 1)

    def right(self, s: Settings, site: CallAxes) -> Tensor:
        """The windows of a crop."""
        (w,), x = self.windows(s, site), s["input"]
        return self.call(s, input=x.narrow(w.dim, w.shift, w.size - w.shift))  # type: ignore[no-any-return]


class Patches(Sliding):
    """``F.unfold``: patches in columns."""

    keeps_axes = False

    def rank(self, s: Settings) -> int:
        """Planes."""
        return 2

    def right(self, s: Settings, site: CallAxes) -> Tensor:
        """The patches of a crop, padded outside of the function."""
        x = s["input"]
        sides = [[p, p] for p in setting_per_axis(s["padding"], 2)]
        for w in self.windows(s, site):
            sides[w.dim - x.dim()][0] -= w.shift
        return self.call(s, input=F.pad(x, [*sides[1], *sides[0]]), padding=0)  # type: ignore[no-any-return]


class Convolution(Sliding):
    """Convolutions: one pass, with windows wide enough for both readings; else each half of the filters for its edge.

    A kernel followed by r zeros reads from the left edge where a stride leaves a remainder of r, and one that
    follows r zeros reads from the right. A few more taps cost less than two convolutions of half the filters.
    """

    mixes = True

    def rank(self, s: Settings) -> int:
        """Of the kernel."""
        return int(s["weight"].dim()) - 2

    def kernel(self, s: Settings) -> Any:
        """The weight's last axes."""
        return list(s["weight"].shape[2:])

    def pads(self, s: Settings, i: int, rank: int, extent: int) -> tuple[int, int]:
        """Padding "same" puts an odd number of positions one more on the right."""
        if s["padding"] == "valid":
            return 0, 0
        if s["padding"] == "same":
            dilation = setting_per_axis(s["dilation"], rank)
            whole = dilation[i] * (s["weight"].shape[2 + i] - 1)
            return whole // 2, whole - whole // 2
        return super().pads(s, i, rank, extent)

    def both(self, s: Settings, site: CallAxes) -> Tensor:
        """The re-anchored convolution."""
        windows = self.windows(s, site)
        if all(w.stride == 1 for w in windows):
            return self._one_pass(s, windows, site)
        taps = self._more_taps(s, windows)
        if taps is not None and (site.channel is None or self._of_filters(s, site)):
            return self._longer_kernels(s, taps, site)
        parts = self._halves(s) if site.halves and self._of_filters(s, site) else None
        if parts is None:
            return choose(self.call(s), self._shifted(s, windows), site)
        first, second = parts
        return torch.cat([self.call(first), self._shifted(second, windows)], site.channel or 0)

    def _of_filters(self, s: Settings, site: CallAxes) -> bool:
        """Whether the swapped channels are the filters, not entries of another axis the windows slide along."""
        return bool(site.channel == s["input"].dim() - self.rank(s) - 1)

    def _one_pass(self, s: Settings, windows: list[Window], site: CallAxes) -> Tensor:
        """Wide padding gives every window of both readings; each channel takes its own."""
        x, rank = s["input"], self.rank(s)
        pads = [max(self.pads(s, i, rank, 1)) for i in range(rank)]
        y: Tensor = self.call(s, padding=pads)
        left = right = y
        for i in range(rank):
            dim, mine = x.dim() - rank + i, self.pads(s, i, rank, 1)
            out = y.shape[dim] - (2 * pads[i] - sum(mine))
            from_right = mine[::-1] if any(w.dim == dim for w in windows) else mine
            left = left.narrow(dim, pads[i] - mine[0], out)
            right = right.narrow(dim, pads[i] - from_right[0], out)
        return choose(left, right, site)

    def _more_taps(self, s: Settings, windows: list[Window]) -> list[int] | None:
        """Zeros to add to the kernel along each axis; None where they do not fit its dilation, or are too many."""
        rank = self.rank(s)
        dilation, found = setting_per_axis(s["dilation"], rank), [0] * rank
        for w in windows:
            i = w.dim - (s["input"].dim() - rank)
            if w.shift % dilation[i] or w.shift // dilation[i] > s["weight"].shape[2 + i]:
                return None
            found[i] = w.shift // dilation[i]
        return found

    def _longer_kernels(self, s: Settings, taps: list[int], site: CallAxes) -> Tensor:
        """The kernels of each reading, chosen filter by filter; of a fixed one their mean."""
        after = F.pad(s["weight"], [n for t in reversed(taps) for n in (0, t)])
        before = F.pad(s["weight"], [n for t in reversed(taps) for n in (t, 0)])
        filters = CallAxes((), (), None if site.channel is None else 0, site.table)
        return self.call(s, weight=choose(after, before, filters))  # type: ignore[no-any-return]

    def _shifted(self, s: Settings, windows: list[Window]) -> Tensor:
        """The windows that end at the right edge: wider padding, and the windows too many on the left dropped."""
        x, rank = s["input"], self.rank(s)
        pads = [self.pads(s, i, rank, 1)[0] for i in range(rank)]
        crops = []
        for w in windows:
            extra = 1 if w.shift else 0
            pads[w.dim - x.dim()] += extra * w.stride - w.shift
            crops.append((w.dim, extra, (w.size + w.left + w.right - w.extent) // w.stride + 1))
        y: Tensor = self.call(s, padding=pads)
        for dim, start, count in crops:
            y = y.narrow(dim, start, count)
        return y

    def _halves(self, s: Settings) -> tuple[Settings, Settings] | None:
        """The settings for each half of the filters; None when a group holds filters of both."""
        groups, w, x = s["groups"], s["weight"], s["input"]
        if groups > 1 and groups % 2:
            return None
        channel, found = x.dim() - self.rank(s) - 1, []
        for part in (0, 1):
            cut = {"weight": _half(w, 0, part), "bias": None if s["bias"] is None else _half(s["bias"], 0, part)}
            if groups > 1:
                cut |= {"input": _half(x, channel, part), "groups": groups // 2}
            found.append({**s, **cut})
        return found[0], found[1]


def _half(x: Tensor, dim: int, part: int) -> Tensor:
    return x.chunk(2, dim)[part]


class Transposed(Convolution):
    """Transposed convolutions: extra positions are added on the right."""

    def indifferent(self, s: Settings) -> bool:
        """No extra positions."""
        return not any(setting_per_axis(s["output_padding"], self.rank(s)))

    def aligned(self, s: Settings, site: CallAxes) -> bool:
        """No extra positions along lengths."""
        rank = self.rank(s)
        extra = setting_per_axis(s["output_padding"], rank)
        return not any(extra[i] for i in range(rank) if s["input"].dim() - rank + i in site.reads)

    def concerns(self, s: Settings, site: CallAxes) -> bool:
        """Extra positions along lengths."""
        return not self.aligned(s, site)

    def both(self, s: Settings, site: CallAxes) -> Tensor:
        """Each half of the filters for its edge."""
        parts = self._halves(s) if site.halves and self._of_filters(s, site) else None
        if parts is None:
            return choose(self.call(s), self.right(s, site), site)
        return torch.cat([self.call(parts[0]), self.right(parts[1], site)], site.channel or 0)

    def right(self, s: Settings, site: CallAxes) -> Tensor:
        """The mirror image of what the mirrored kernel makes of the mirror image."""
        x, rank = s["input"], self.rank(s)
        taps = [d - x.dim() + rank + 2 for d in site.reads]
        flipped: Tensor = self.call(s, input=x.flip(site.reads), weight=s["weight"].flip(taps))
        return flipped.flip(site.makes)

    def _halves(self, s: Settings) -> tuple[Settings, Settings] | None:
        groups, w, x = s["groups"], s["weight"], s["input"]
        if groups > 1 and groups % 2:
            return None
        channel, found = x.dim() - self.rank(s) - 1, []
        for part in (0, 1):
            cut = {"bias": None if s["bias"] is None else _half(s["bias"], 0, part)}
            if groups > 1:
                cut |= {"input": _half(x, channel, part), "weight": _half(w, 0, part), "groups": groups // 2}
            else:
                cut |= {"weight": _half(w, 1, part)}
            found.append({**s, **cut})
        return found[0], found[1]


class Padding(EdgeFunction):
    """``F.pad`` and its kin."""

    widens = True

    def indifferent(self, s: Settings) -> bool:
        """The same on both sides."""
        pad = s["pad"]
        return all(pad[2 * i] == pad[2 * i + 1] for i in range(len(pad) // 2))

    def _lengths(self, s: Settings, site: CallAxes) -> list[int]:
        """Places in the list of pads that belong to lengths; one beside which entries stay is none afterwards."""
        last, dims = s["input"].dim() - 1, {*site.reads} & {*site.makes}
        return [2 * i for i in range(len(s["pad"]) // 2) if last - i in dims]

    def aligned(self, s: Settings, site: CallAxes) -> bool:
        """Both ends of lengths alike."""
        return all(s["pad"][i] == s["pad"][i + 1] for i in self._lengths(s, site))

    def concerns(self, s: Settings, site: CallAxes) -> bool:
        """Sides of a length that differ."""
        return not self.aligned(s, site)

    def right(self, s: Settings, site: CallAxes) -> Tensor:
        """The sides exchanged."""
        pad = list(s["pad"])
        for i in self._lengths(s, site):
            pad[i], pad[i + 1] = pad[i + 1], pad[i]
        return self.call(s, pad=pad)  # type: ignore[no-any-return]


class Narrow(EdgeFunction):
    """``narrow``: a block of one axis."""

    def _bounds(self, s: Settings) -> tuple[int, int, int]:
        """The axis, and what is dropped on its left and right."""
        x = s["input"]
        dim = s["dim"] % x.dim()
        start = s["start"] if s["start"] >= 0 else s["start"] + x.shape[dim]
        return dim, start, x.shape[dim] - start - s["length"]

    def aligned(self, s: Settings, site: CallAxes) -> bool:
        """Both ends dropped alike."""
        dim, left, right = self._bounds(s)
        return dim not in site.reads or left == right

    def concerns(self, s: Settings, site: CallAxes) -> bool:
        """Narrowing a length."""
        return s["dim"] % s["input"].dim() in site.reads

    def apart(self, s: Settings, site: CallAxes) -> int:
        """The difference between what is dropped on either side."""
        dim, left, right = self._bounds(s)
        return abs(left - right) if dim in site.reads else 0

    def right(self, s: Settings, site: CallAxes) -> Tensor:
        """The mirrored block."""
        return self.call(s, start=self._bounds(s)[2])  # type: ignore[no-any-return]


class Indexing(EdgeFunction):
    """``x[...]`` with slices, numbers and positions."""

    keeps_axes = False

    def _entries(self, s: Settings) -> list[tuple[int, int]]:
        """Each index that takes of an axis, as (place in the index, axis)."""
        index, rank = _as_tuple(s["index"]), s["input"].dim()
        used = sum(_takes(i) for i in index)
        found, dim = [], 0
        for place, i in enumerate(index):
            if i is Ellipsis:
                dim += rank - used
            elif i is not None and not isinstance(i, bool):
                found.append((place, dim))
                dim += _takes(i)
        return found

    def indifferent(self, s: Settings) -> bool:
        """Nothing is left out."""
        return all(i is None or i is Ellipsis or i == slice(None) for i in _as_tuple(s["index"]) if _is_plain(i)) and (
            all(_is_plain(i) for i in _as_tuple(s["index"]))
        )

    def aligned(self, s: Settings, site: CallAxes) -> bool:
        """Slices of lengths drop both ends alike; a number is the middle.

        Raises:
            BreaksSymmetryError: a single position other than the middle is read.
        """
        index = _as_tuple(s["index"])
        return all(_alike(index[place], s["input"].shape[dim]) for place, dim in self._lengths(s, site))

    def _lengths(self, s: Settings, site: CallAxes) -> list[tuple[int, int]]:
        return [(place, dim) for place, dim in self._entries(s) if dim in site.reads]

    def listed(self, s: Settings) -> tuple[int, ...]:
        """Axes indexed by a list or a tensor; one of truth values takes several."""
        index = _as_tuple(s["index"])
        lists = [(i, dim) for place, dim in self._entries(s) if not isinstance(i := index[place], (slice, int))]
        return tuple(dim + k for i, dim in lists for k in range(_takes(i)))

    def concerns(self, s: Settings, site: CallAxes) -> bool:
        """Leaving out positions of a length."""
        index = _as_tuple(s["index"])
        return any(index[place] != slice(None) for place, _ in self._lengths(s, site))

    def apart(self, s: Settings, site: CallAxes) -> int:
        """The largest difference between what is dropped on either side of a length."""
        index, found = _as_tuple(s["index"]), [0]
        for place, dim in self._lengths(s, site):
            if isinstance(index[place], slice):
                size = s["input"].shape[dim]
                start, count, step = _slice(index[place], size)
                found.append(abs(2 * start + (count - 1) * step + 1 - size))
        return max(found)

    def right(self, s: Settings, site: CallAxes) -> Tensor:
        """The mirrored slices."""
        index = list(_as_tuple(s["index"]))
        for place, dim in self._lengths(s, site):
            index[place] = _mirrored(index[place], s["input"].shape[dim])
        return s["input"][tuple(index)]  # type: ignore[no-any-return]


def _as_tuple(index: Any) -> tuple[Any, ...]:
    return index if isinstance(index, tuple) else (index,)


def _is_plain(i: Any) -> bool:
    return i is None or i is Ellipsis or isinstance(i, slice)


def _takes(i: Any) -> int:
    """How many axes an index takes."""
    if i is None or i is Ellipsis or isinstance(i, bool):
        return 0
    if isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8):
        return i.dim()
    return 1


def _slice(i: slice, size: int) -> tuple[int, int, int]:
    """Start, number of entries and step of a slice of an axis."""
    step = 1 if i.step is None else i.step
    start = 0 if i.start is None else i.start if i.start >= 0 else max(i.start + size, 0)
    stop = size if i.stop is None else i.stop if i.stop >= 0 else i.stop + size
    start, stop = min(start, size), min(stop, size)
    return start, max(0, (stop - start + step - 1) // step), step


def _alike(i: Any, size: int) -> bool:
    if isinstance(i, slice):
        start, count, step = _slice(i, size)
        return count == 0 or start == size - 1 - (start + (count - 1) * step)
    if isinstance(i, Tensor) or not isinstance(i, int):
        return True  # a list of positions: inference found it its own mirror image, at this length only
    if 2 * (i % size) != size - 1:
        raise BreaksSymmetryError(
            f"position {i} of {size} is read",
            why="under reverse complement it becomes another position",
            do="pool over positions, or read the middle of an odd length",
        )
    return True


def _mirrored(i: Any, size: int) -> Any:
    if not isinstance(i, slice):
        return i
    start, count, step = _slice(i, size)
    if not count:
        return i
    return slice(size - 1 - (start + (count - 1) * step), size - start, step)


class Cutting(EdgeFunction):
    """``split``, ``chunk``, ``unbind`` and their kin: pieces of a length are exchanged by reverse complement."""

    def aligned(self, s: Settings, site: CallAxes) -> bool:
        """A single piece, or an axis that is no length.

        Raises:
            BreaksSymmetryError: a length is cut into several pieces.
        """
        dim = s["dim"] % s["input"].dim()
        if dim in site.reads and not self._whole(s, dim):
            raise BreaksSymmetryError(
                f"{self.name} cuts a length of {s['input'].shape[dim]} positions",
                why="under reverse complement the first piece becomes the last",
                do="process the whole length, or crop both ends alike",
            )
        return True

    def concerns(self, s: Settings, site: CallAxes) -> bool:
        """Cutting along a length."""
        return s["dim"] % s["input"].dim() in site.reads

    def _whole(self, s: Settings, dim: int) -> bool:
        return len(self.call(s)) == 1


class Taking(Cutting):
    """``select`` and ``index_select``: single positions."""

    def listed(self, s: Settings) -> tuple[int, ...]:
        """The axis, if a tensor says which entries are taken."""
        return (s["dim"] % s["input"].dim(),) if isinstance(s["index"], Tensor) else ()

    def _whole(self, s: Settings, dim: int) -> bool:
        index = s["index"]
        return isinstance(index, Tensor) or 2 * (index % s["input"].shape[dim]) == s["input"].shape[dim] - 1


class Resampling(EdgeFunction):
    """``F.interpolate``."""

    def indifferent(self, s: Settings) -> bool:
        """Windows of areas are their own mirror image."""
        return s["mode"] == "area" or s["align_corners"] is True

    def concerns(self, s: Settings, site: CallAxes) -> bool:
        """Resampling a length."""
        return any(dim > 1 for dim in site.reads)

    def aligned(self, s: Settings, site: CallAxes) -> bool:
        """A grid that is its own mirror image: a whole ratio for nearest, a whole size for the others."""
        x = s["input"]
        rank = x.dim() - 2
        return all(self._even(s, i, rank, x.shape[i + 2]) for i in range(rank) if i + 2 in site.reads)

    def _even(self, s: Settings, i: int, rank: int, size: int) -> bool:
        scale = None if s["scale_factor"] is None else _per_axis(s["scale_factor"], rank)[i]
        out = _per_axis(s["size"], rank)[i] if scale is None else int(size * scale)
        exact = scale is None or s.get("recompute_scale_factor") or abs(size * scale - out) < 1e-9
        if not s["mode"].startswith("nearest"):
            return bool(exact)
        centred = s["mode"] == "nearest-exact" and size % out == 0 and (size // out) % 2 == 1
        return bool(exact) and (out % size == 0 or centred)


def _per_axis(value: Any, rank: int) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value] * rank
