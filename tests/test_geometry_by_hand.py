"""Bounds, slices, grids and tables of calls that read one edge: value by value, judged by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rcps_convert import BreaksSymmetryError
from rcps_convert.geometry import functions
from rcps_convert.geometry.frames import (
    Anchored,
    Entry,
    Frame,
    Table,
    UnplannedCallError,
    _both,
    _mean_of,
    anchor,
    anchored,
    read_table,
    unanchor,
)
from rcps_convert.geometry.readings import CallAxes, Window, choose, setting_per_axis
from rcps_convert.geometry.table import EDGE_FUNCTIONS

X = torch.arange(2.0 * 6 * 12).view(2, 6, 12)
LAST, FIRST = CallAxes((2,), (2,)), CallAxes((1,), (1,))


def bound(function: Any, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
    edge = EDGE_FUNCTIONS[function]
    return edge, edge.bind(args, kwargs)


# --- blocks ---


@pytest.mark.parametrize(
    ("start", "length", "left", "right"),
    [(0, 12, 0, 0), (0, 5, 0, 7), (3, 6, 3, 3), (-4, 4, 8, 0), (-12, 3, 0, 9), (7, 5, 7, 0)],
)
def test_what_a_block_drops(start: int, length: int, left: int, right: int) -> None:
    for dim in (2, -1):
        edge, s = bound(torch.narrow, X, dim, start, length)
        assert edge._bounds(s) == (2, left, right)
        assert edge.aligned(s, LAST) is (left == right)
        assert edge.aligned(s, FIRST)
        assert edge.apart(s, LAST) == abs(left - right)
        assert edge.apart(s, FIRST) == 0
        assert edge.concerns(s, LAST)
        assert not edge.concerns(s, FIRST)
        assert torch.equal(edge.right(s, LAST), X[..., right : right + length])


# --- indices ---


@pytest.mark.parametrize(
    ("index", "found", "alike", "mirrored"),
    [
        (slice(None), (0, 12, 1), True, slice(0, 12, 1)),
        (slice(2, 10), (2, 8, 1), True, slice(2, 10, 1)),
        (slice(2, None), (2, 10, 1), False, slice(0, 10, 1)),
        (slice(None, -3), (0, 9, 1), False, slice(3, 12, 1)),
        (slice(-5, -1), (7, 4, 1), False, slice(1, 5, 1)),
        (slice(-20, 4), (0, 4, 1), False, slice(8, 12, 1)),
        (slice(3, 50), (3, 9, 1), False, slice(0, 9, 1)),
        (slice(None, None, 2), (0, 6, 2), False, slice(1, 12, 2)),
        (slice(1, None, 5), (1, 3, 5), False, slice(0, 11, 5)),
        (slice(0, 12, 11), (0, 2, 11), True, slice(0, 12, 11)),
        (slice(5, 5), (5, 0, 1), True, slice(5, 5)),
        (slice(7, 3), (7, 0, 1), True, slice(7, 3)),
        (slice(50, 60), (12, 0, 1), True, slice(50, 60)),
    ],
)
def test_slices_of_an_axis(index: slice, found: tuple[int, int, int], alike: bool, mirrored: slice) -> None:
    assert functions._slice(index, 12) == found
    assert functions._alike(index, 12) is alike
    assert functions._mirrored(index, 12) == mirrored
    x = torch.arange(12)
    start, count, step = found
    assert x[index].tolist() == [start + k * step for k in range(count)]
    assert torch.equal(x[mirrored], 11 - x[index].flip(0))


def test_single_positions_and_lists() -> None:
    assert functions._alike(2, 5)
    assert functions._alike(-3, 5)
    assert functions._alike([0, 1], 5)
    assert functions._alike(torch.tensor([0]), 5)
    for i in (0, 1, -1):
        with pytest.raises(BreaksSymmetryError, match=f"position {i} of 5 is read"):
            functions._alike(i, 5)
    with pytest.raises(BreaksSymmetryError):
        functions._alike(2, 6)
    assert functions._mirrored(2, 5) == 2
    assert [functions._takes(i) for i in (None, True, 3, slice(None))] == [0, 0, 1, 1]
    assert functions._takes(...) == 0
    assert functions._takes([0, 1]) == 1
    assert functions._takes(torch.zeros(2, 3, dtype=torch.bool)) == 2
    assert functions._takes(torch.zeros(2, 3, dtype=torch.long)) == 1


@pytest.mark.parametrize(
    ("index", "entries", "indifferent", "concerns", "apart"),
    [
        ((..., slice(1, None)), [(1, 2)], False, True, 1),
        ((slice(None), slice(None), slice(0, 9)), [(0, 0), (1, 1), (2, 2)], False, True, 3),
        ((slice(None), None, 0, slice(2, 10)), [(0, 0), (2, 1), (3, 2)], False, True, 0),
        (slice(None), [(0, 0)], True, False, 0),
        ((..., None), [], True, False, 0),
        (0, [(0, 0)], False, False, 0),
        ((slice(0, 1),), [(0, 0)], False, False, 0),
        ((slice(None), [0, 1]), [(0, 0), (1, 1)], False, False, 0),
        ((..., slice(None, None, 2)), [(1, 2)], False, True, 1),
    ],
)
def test_indices_of_a_tensor(index: Any, entries: Any, indifferent: bool, concerns: bool, apart: int) -> None:
    edge, s = bound(Tensor.__getitem__, X, index)
    assert edge._entries(s) == entries
    assert edge.indifferent(s) is indifferent
    assert edge.concerns(s, LAST) is concerns
    assert edge.apart(s, LAST) == apart
    assert edge.aligned(s, LAST) is (apart == 0)


# --- pads, windows, resampling ---


def test_pads_on_both_sides() -> None:
    for pad, same, alike, exchanged in (
        ((1, 1), True, True, (1, 1)),
        ((0, 2), False, False, (2, 0)),
        ((1, 1, 0, 3), False, True, (1, 1, 0, 3)),
        ((2, 0, 1, 1), False, False, (0, 2, 1, 1)),
    ):
        edge, s = bound(F.pad, X, pad)
        assert edge.indifferent(s) is same
        assert edge.aligned(s, LAST) is alike
        assert edge.concerns(s, LAST) is not alike
        assert torch.equal(edge.right(s, LAST), F.pad(X, exchanged))
        assert edge.aligned(s, CallAxes((2,), ()))  # no length afterwards


@pytest.mark.parametrize(
    ("size", "extent", "stride", "left", "right", "shift"),
    [(12, 3, 3, 0, 0, 0), (12, 5, 5, 0, 0, 2), (12, 3, 2, 1, 1, 1), (12, 3, 1, 2, 0, 2), (12, 3, 1, 0, 2, -2)],
)
def test_how_far_windows_from_the_right_lie(
    size: int, extent: int, stride: int, left: int, right: int, shift: int
) -> None:
    assert Window(2, size, extent, stride, left, right).shift == shift


@pytest.mark.parametrize(
    ("args", "indifferent", "windows", "aligned"),
    [
        ((3,), False, [(2, 12, 3, 3, 0, 0)], True),
        ((5,), False, [(2, 12, 5, 5, 0, 0)], False),
        ((3, 1), True, [(2, 12, 3, 1, 0, 0)], True),
        ((3, 2, 1), False, [(2, 12, 3, 2, 1, 1)], False),
        ((3, 3, 0, 2), False, [(2, 12, 5, 3, 0, 0)], False),
        ((1,), True, [(2, 12, 1, 1, 0, 0)], True),
    ],
)
def test_windows_of_pools(args: Any, indifferent: bool, windows: Any, aligned: bool) -> None:
    edge, s = bound(F.max_pool1d, X, *args)
    assert edge.indifferent(s) is indifferent
    found = edge.windows(s, LAST)
    assert [(w.dim, w.size, w.extent, w.stride, w.left, w.right) for w in found] == windows
    assert edge.windows(s, FIRST) == []
    assert edge.aligned(s, LAST) is aligned
    assert edge.concerns(s, LAST) is not (windows[0][3] == 1)
    assert edge.leaves(s, None)
    assert edge.leaves(s, 1)
    assert not edge.leaves(s, 2)
    expected = F.max_pool1d(X.flip(2), *args).flip(2)
    assert torch.equal(edge.right(s, LAST), expected)


def test_pads_of_convolutions() -> None:
    for padding, dilation, kernel, pads in (
        ("valid", 1, 4, (0, 0)), ("same", 1, 4, (1, 2)), ("same", 2, 4, (3, 3)), ("same", 1, 3, (1, 1)),
        (2, 1, 4, (2, 2)),
    ):  # fmt: skip
        edge, s = bound(F.conv1d, X, torch.zeros(4, 6, kernel), None, 1, padding, dilation)
        assert edge.pads(s, 0, 1, 1) == pads
        assert edge.indifferent(s) is (pads[0] == pads[1])
    edge, s = bound(F.conv_transpose1d, X, torch.zeros(6, 4, 3), None, 2, 0, 1)
    assert not edge.indifferent(s)
    assert not edge.aligned(s, LAST)
    assert edge.aligned(s, FIRST)
    edge, s = bound(F.conv_transpose1d, X, torch.zeros(6, 4, 3), None, 2)
    assert edge.indifferent(s)
    assert edge.aligned(s, LAST)


@pytest.mark.parametrize(
    ("how", "indifferent", "aligned"),
    [
        ({"size": 24}, False, True),
        ({"size": 18}, False, False),
        ({"size": 4}, False, False),
        ({"scale_factor": 2}, False, True),
        ({"scale_factor": 2.05}, False, False),
        ({"scale_factor": 2.05, "recompute_scale_factor": True}, False, True),
        ({"size": 18, "mode": "linear"}, False, True),
        ({"scale_factor": 1.3, "mode": "linear"}, False, False),
        ({"scale_factor": 1.3, "mode": "linear", "align_corners": True}, True, False),
        ({"size": 5, "mode": "area"}, True, True),
        ({"size": 4, "mode": "nearest-exact"}, False, True),
        ({"size": 6, "mode": "nearest-exact"}, False, False),
        ({"size": [24]}, False, True),
    ],
)
def test_grids_that_are_their_own_mirror_image(how: Any, indifferent: bool, aligned: bool) -> None:
    edge, s = bound(F.interpolate, X, **how)
    assert edge.indifferent(s) is indifferent
    assert edge.aligned(s, LAST) is aligned
    assert edge.aligned(s, FIRST)
    assert edge.concerns(s, LAST)
    assert not edge.concerns(s, FIRST)


def test_pieces_and_single_entries() -> None:
    for function, args, whole in ((torch.split, (12,), True), (torch.split, (6,), False), (torch.chunk, (1,), True)):
        edge, s = bound(function, X, *args, dim=-1)
        assert edge.concerns(s, LAST)
        assert not edge.concerns(s, FIRST)
        assert edge.aligned(s, FIRST)
        if whole:
            assert edge.aligned(s, LAST)
        else:
            with pytest.raises(BreaksSymmetryError, match="split cuts a length of 12 positions"):
                edge.aligned(s, LAST)
    odd = X[..., :11]
    edge, s = bound(torch.select, odd, 2, 5)
    assert edge.aligned(s, LAST)
    assert edge.listed(s) == ()
    edge, s = bound(torch.select, odd, 2, 4)
    with pytest.raises(BreaksSymmetryError):
        edge.aligned(s, LAST)
    edge, s = bound(torch.index_select, X, -1, torch.tensor([0, 1]))
    assert edge.listed(s) == (2,)
    assert edge.aligned(s, LAST)


# --- which reading each channel takes ---


def test_channels_take_their_readings() -> None:
    left, right = torch.zeros(1, 4, 2), torch.ones(1, 4, 2)
    assert choose(left, right, CallAxes((2,), (2,), 1))[0, :, 0].tolist() == [0, 0, 1, 1]
    assert choose(left, right, LAST)[0, :, 0].tolist() == [0.5] * 4
    assert choose(left, right, CallAxes((2,), (2,), 1, (1, 0, 2, 3)))[0, :, 0].tolist() == [0, 1, 0.5, 0.5]
    for tensor, site in ((left.long(), LAST), (left, CallAxes((2,), (2,), ids=True))):
        with pytest.raises(BreaksSymmetryError, match="two readings of a tensor of torch"):
            choose(tensor, tensor, site)
    assert choose(left.long(), right.long(), CallAxes((2,), (2,), 1))[0, :, 0].tolist() == [0, 0, 1, 1]
    assert setting_per_axis(3, 2) == setting_per_axis([3], 2) == setting_per_axis((3,), 2) == [3, 3]
    assert setting_per_axis([1, 2], 2) == [1, 2]


# --- calls that were seen ---


def entry(
    site: CallAxes | None = LAST, function: str = "max_pool1d", pattern: Any = (2, 6, None), fixed: Any = (0,)
) -> Entry:
    return Entry(function, pattern, site, fixed)


def test_calls_that_fit() -> None:
    one = entry()
    for shape, fits, loosely in (
        ((2, 6, 9), True, True),
        ((3, 6, 9), False, True),
        ((2, 5, 9), False, False),
        ((2, 6), False, False),
    ):
        assert one.fits("max_pool1d", torch.Size(shape)) is fits
        assert one.fits("max_pool1d", torch.Size(shape), loosely=True) is loosely
        assert not one.fits("avg_pool1d", torch.Size(shape), loosely=True)


def test_tables_are_kept_as_plain_values_and_joined() -> None:
    spread = CallAxes((2,), (2,), 1, (1, 0), True, 4)
    table = Table("a.b", ((entry(), entry(None)), (entry(spread),)), True, True, ("x",))
    again = read_table(json.loads(json.dumps(table.plain())))
    assert again == table
    assert "lengths" not in Table("a").plain()
    assert "spread" not in Table("a", ((entry(),),)).plain()["runs"][0][0]["site"]
    assert [*table.by_function] == ["max_pool1d"]
    assert len(Table("a", ((entry(), entry()), (entry(),))).by_function["max_pool1d"]) == 1
    both = _both(Table("a", ((entry(),),), lengths=("x",)), Table("b", ((entry(None),),), True))
    assert (both.path, both.free, both.strict, both.lengths) == ("b", True, False, ("x",))
    assert both.runs == ((entry(),), (entry(None),))


def test_the_mean_of_readings_serves_calls_that_differ_in_channels_only() -> None:
    halves, ids = CallAxes((2,), (2,), 1), CallAxes((2,), (2,), 0, ids=True)
    assert _mean_of([LAST, halves]) == LAST
    assert _mean_of([halves, ids]) == CallAxes((2,), (2,), ids=True)
    assert _mean_of([LAST, FIRST]) is None
    assert _mean_of([LAST, None]) is None
    assert _mean_of([]) is None


def test_forwards_that_made_the_calls_of_a_trace() -> None:
    table = Table("a", ((entry(), entry(function="pad")), (entry(),)))
    for seen, complete in ((["max_pool1d", "pad"], True), (["max_pool1d"], True), (["pad"], False), ([], False)):
        assert table.complete(seen) is complete
    assert Table("a").complete([])
    assert not Table("a").complete(["pad"])
    said = table.other_calls(["pad"])
    assert said.what == "forward called pad"
    assert said.got == "when traced: max_pool1d, pad or max_pool1d"
    assert said.where is not None
    assert said.where.path == "a"
    assert Table("a", ((),)).other_calls([]).what == "forward called nothing"
    assert Table("a", ((),)).other_calls([]).got == "when traced: nothing"


def test_calls_that_were_not_seen_are_refused_in_words() -> None:
    several = Table("a", ((entry(), entry(FIRST)),))
    with pytest.raises(UnplannedCallError, match="whose channels may be swapped in several ways"):
        several.find(["x"], "max_pool1d", torch.Size((2, 6, 9)))
    for function, shape in (("pad", (2, 6, 9)), ("max_pool1d", (2, 5, 9))):
        with pytest.raises(UnplannedCallError, match="as it was not when converted") as refused:
            several.find([], function, torch.Size(shape))
        assert f"{function} is called on a tensor of shape {shape}" in refused.value.what
    assert several.find(["max_pool1d"], "max_pool1d", torch.Size((2, 6, 9))) == (FIRST, True)
    assert several.find(["max_pool1d"], "max_pool1d", torch.Size((3, 6, 9))) == (FIRST, True)


class Pools(nn.Module):
    """Pools in one way or another."""

    def __init__(self, kernel: int = 5) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool1d(x, self.kernel) if self.kernel else x


def test_frames_run_both_readings_and_check_what_was_called() -> None:
    table = Table("a", ((entry(),),), strict=True)
    frame = Frame(table)
    with frame:
        y = Pools()(X)
    frame.finish()
    assert torch.equal(y, (F.max_pool1d(X, 5) + F.max_pool1d(X.flip(2), 5).flip(2)) / 2)
    assert (frame.seen, frame.read_twice, frame.placed) == (["max_pool1d"], True, False)
    aligned = Frame(table)
    with aligned:
        assert torch.equal(Pools(3)(X), F.max_pool1d(X, 3))
    assert not aligned.read_twice
    none = Frame(table)
    with none:
        Pools(0)(X)
    with pytest.raises(UnplannedCallError):
        none.finish()
    Frame(Table("a", ((entry(),),))).finish()  # not strict
    free = Frame(Table("a", free=True, strict=True))
    with free:
        assert torch.equal(Pools()(X), F.max_pool1d(X, 5))
    constant = Frame(Table("a", ((entry(None),),)))
    with constant:
        assert torch.equal(Pools()(X), F.max_pool1d(X, 5))


def test_calls_that_are_known_are_run_as_they_are_and_others_are_not() -> None:
    model = nn.Sequential(Pools(3), nn.MaxPool1d(3))
    tables = {"0": Table("0", ((entry(),),)), "1": Table("1", ((entry(),),))}
    anchor(model, tables)
    assert anchored(model) == tables
    model.eval()
    for part in model:
        wrapped: Any = part.forward
        assert isinstance(wrapped, Anchored)
        for _ in range(2):
            assert torch.equal(part(X), F.max_pool1d(X, 3))
        assert len(wrapped.stock) == 1
        y = part(X[..., :11])
        assert torch.equal(y, (F.max_pool1d(X[..., :11], 3) + F.max_pool1d(X[..., :11].flip(2), 3).flip(2)) / 2)
        assert len(wrapped.stock) == 1
    unanchor(model)
    assert anchored(model) == {}
    assert all("forward" not in vars(part) for part in model)


def test_a_setting_that_is_changed_is_another_call() -> None:
    model = nn.Sequential(nn.MaxPool1d(3), Pools(3)).eval()
    anchor(model, {"0": Table("0", ((entry(),),)), "1": Table("1", ((entry(),),))})
    for part in model:
        part(X)
    model[0].kernel_size = model[0].stride = model[1].kernel = 5  # type: ignore[assignment]
    expected = (F.max_pool1d(X, 5) + F.max_pool1d(X.flip(2), 5).flip(2)) / 2
    for part in model:
        assert torch.equal(part(X), expected)


def test_settings_are_the_plain_attributes_that_are_not_private() -> None:
    module = nn.MaxPool1d(3)
    module.gain_, module.table, module._own = 2, [3], 4  # type: ignore[assignment]
    names = {"training", "kernel_size", "stride", "padding", "dilation", "return_indices", "ceil_mode", "gain_"}
    assert {*Anchored(module, Table("a")).settings} == names
    assert Anchored(module, Table("a")).read_settings is not None
    assert Anchored(Pools(3), Table("a")).read_settings is None  # the user's own may read more


@pytest.mark.parametrize(
    ("function", "args", "sites"),
    [
        (F.max_pool2d, (5,), (2, 3)),
        (F.max_pool2d, (5, 3, 1), (2, 3)),
        (F.avg_pool2d, ((3, 5),), (2, 3)),
        (F.max_pool2d, (5,), (3,)),
        (F.avg_pool2d, (5, 2, 1), (2,)),
        (F.unfold, ((3, 5), 1, 1, 2), (2, 3)),
        (F.unfold, ((3, 5), 1, 0, 3), (3,)),
    ],
)
def test_windows_from_the_other_edge_of_planes(function: Any, args: Any, sites: tuple[int, ...]) -> None:
    plane = torch.randn(2, 3, 11, 12, generator=torch.Generator().manual_seed(0))
    edge, s = bound(function, plane, *args)
    found = edge.right(s, CallAxes(sites, sites))
    if function is F.unfold:
        grid = [len(range(0, n + 2 * p - k + 1, args[3])) for n, p, k in ((11, args[2], 3), (12, args[2], 5))]
        there = function(plane.flip(sites), *args).view(2, 3, 3, 5, *grid)
        expected = there.flip([d + 2 for d in sites]).flip([d for d in sites]).reshape(found.shape)
    else:
        expected = function(plane.flip(sites), *args).flip(sites)
    assert torch.allclose(found, expected, atol=1e-6)
