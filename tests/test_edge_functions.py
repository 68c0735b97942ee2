"""Each function that reads one edge, by itself: its two readings, whether they agree, and how channels choose.

The oracle mirrors by hand: what is read from the right edge is the mirror image of what the stock function reads from
the mirror image of its input, kernels mirrored too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rcps_convert import convert_model
from rcps_convert._torch import MadeOf
from rcps_convert.convert.fast import channels
from rcps_convert.errors import BreaksSymmetryError
from rcps_convert.geometry import UnplannedCallError, frames, readings
from rcps_convert.geometry.frames import Anchored, Entry, Table
from rcps_convert.geometry.readings import CallAxes, choose, setting_per_axis
from rcps_convert.geometry.table import EDGE_FUNCTIONS

LENGTHS = range(11, 19)

TOLERANCE = 1e-12
"""Largest deviation, of values of order one in float64."""


def drawn(*shape: int) -> Tensor:
    """Numbers that are the same for the same shape."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


@dataclass(frozen=True)
class Case:
    """A call of a function on (2, 6, L) or, with `height`, (2, 6, height, L).

    Attributes:
        function: a function of the table.
        args: its arguments after the tensor; a shape in place of a weight.
        kwargs: more of them.
        height: size of the axis before the last.
        reads, makes: length axes before and after.
        plain: no swapped channels, as the result has none of its own.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict, hash=False)
    height: int = 0
    reads: tuple[int, ...] = (2,)
    makes: tuple[int, ...] = (2,)
    plain: bool = False

    @property
    def is_convolution(self) -> bool:
        return bool(self.args) and isinstance(self.args[0], tuple) and "conv" in self.function.__name__

    def arguments(self, flip: bool = False) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments after the tensor, the kernel mirrored or not."""
        if not self.is_convolution:
            return self.args, self.kwargs
        weight = drawn(*self.args[0])
        weight = weight.flip(self.reads) if flip else weight  # the axes of a kernel are numbered as those of x
        return (weight, *self.args[1:]), self.kwargs

    def left(self, x: Tensor) -> Tensor:
        args, kwargs = self.arguments()
        return self.function(x, *args, **kwargs)  # type: ignore[no-any-return]

    def right(self, x: Tensor) -> Tensor:
        args, kwargs = self.arguments(flip=True)
        return self.function(x.flip(self.reads), *args, **kwargs).flip(self.makes)  # type: ignore[no-any-return]

    def input(self, length: int) -> Tensor:
        return drawn(2, 6, *([self.height] if self.height else []), length)


PLANE = {"height": 7, "reads": (3,), "makes": (3,)}

CASES: dict[str, Case] = {
    "max pool": Case(F.max_pool1d, (3,)),
    "max pool, stride": Case(F.max_pool1d, (3,), {"stride": 2}),
    "max pool, step 1": Case(F.max_pool1d, (3, 1)),
    "max pool, padding": Case(F.max_pool1d, (4, 3), {"padding": 1}),
    "max pool, dilation": Case(F.max_pool1d, (2, 3), {"dilation": 2}),
    "max pool, ceil": Case(F.max_pool1d, (3,), {"ceil_mode": True}),
    "max pool 2d": Case(F.max_pool2d, ((2, 3),), **PLANE),
    "max pool 2d, both axes": Case(F.max_pool2d, (3,), height=7, reads=(2, 3), makes=(2, 3)),
    "mean pool": Case(F.avg_pool1d, (4,)),
    "mean pool, padding": Case(F.avg_pool1d, (4, 3, 2)),
    "mean pool, padding not counted": Case(F.avg_pool1d, (4, 3, 2, False, False)),
    "mean pool 2d": Case(F.avg_pool2d, ((3, 2), (2, 3), (1, 0)), **PLANE),
    "power pool": Case(F.lp_pool1d, (2.0, 3)),
    "power pool, stride": Case(F.lp_pool1d, (2.0, 3, 2)),
    "convolution": Case(torch.conv1d, ((8, 6, 5), None, 3)),
    "convolution, padding": Case(torch.conv1d, ((8, 6, 5), None, 3, 2)),
    "convolution, step 1": Case(torch.conv1d, ((8, 6, 5), None, 1, 2)),
    "convolution, wide stride": Case(torch.conv1d, ((8, 6, 1), None, 5)),
    "convolution, dilation": Case(torch.conv1d, ((8, 6, 3), None, 4, 0, 2)),
    "convolution, groups": Case(torch.conv1d, ((8, 3, 3), None, 2, 0, 1, 2)),
    "convolution, wide stride, groups": Case(torch.conv1d, ((8, 3, 1), None, 5, 0, 1, 2)),
    "convolution, wide stride, odd groups": Case(torch.conv1d, ((6, 2, 1), None, 5, 0, 1, 3)),
    "convolution, same": Case(torch.conv1d, ((8, 6, 4), None, 1, "same")),
    "convolution, same, dilation": Case(torch.conv1d, ((8, 6, 4), None, 1, "same", 3)),
    "convolution, valid": Case(torch.conv1d, ((8, 6, 4), None, 3, "valid")),
    "convolution 2d": Case(torch.conv2d, ((8, 6, 2, 4), None, (1, 3), (1, 2)), **PLANE),
    "convolution 2d, wide stride": Case(torch.conv2d, ((8, 6, 4, 1), None, (1, 3)), **PLANE),
    "convolution 2d, both axes": Case(
        torch.conv2d, ((8, 6, 2, 3), None, (3, 2), (0, 1)), height=9, reads=(2, 3), makes=(2, 3)
    ),
    "convolution 2d, same": Case(torch.conv2d, ((8, 6, 2, 4), None, 1, "same"), **PLANE),
    "transposed": Case(torch.conv_transpose1d, ((6, 8, 3), None, 2, 0, 1)),
    "transposed, aligned": Case(torch.conv_transpose1d, ((6, 8, 3), None, 2, 1)),
    "transposed, groups": Case(torch.conv_transpose1d, ((6, 4, 3), None, 2, 0, 1, 2)),
    "transposed, odd groups": Case(torch.conv_transpose1d, ((6, 2, 3), None, 2, 0, 1, 3)),
    "transposed 2d": Case(torch.conv_transpose2d, ((6, 8, 2, 3), None, 2, 0, (0, 1)), **PLANE),
    "transposed 2d, extra rows": Case(torch.conv_transpose2d, ((6, 8, 2, 3), None, 2, 0, (1, 0)), **PLANE),
    "pad": Case(F.pad, ((1, 3),)),
    "pad, alike": Case(F.pad, ((2, 2),)),
    "pad, another axis": Case(F.pad, ((2, 2, 0, 3),), **PLANE),
    "pad, both axes": Case(F.pad, ((1, 2, 0, 3),), height=7, reads=(2, 3), makes=(2, 3)),
    "unfold": Case(Tensor.unfold, (2, 4, 3), makes=(2, 3), plain=True),
    "unfold, from the end": Case(Tensor.unfold, (-1, 4, 3), makes=(2, 3), plain=True),
    "unfold, step 1": Case(Tensor.unfold, (2, 4, 1), makes=(2, 3), plain=True),
    "narrow": Case(torch.narrow, (2, 2, 5)),
    "narrow, from the end": Case(torch.narrow, (-1, -7, 5)),
    "narrow, another axis": Case(torch.narrow, (2, 0, 5), **PLANE),
    "slice": Case(Tensor.__getitem__, ((..., slice(1, -2)),)),
    "slice, alike": Case(Tensor.__getitem__, ((..., slice(2, -2)),)),
    "slice, step": Case(Tensor.__getitem__, ((slice(None), slice(None), slice(0, None, 2)),)),
    "slice, to a number": Case(Tensor.__getitem__, ((..., slice(None, 9)),)),
    "slice, new axis": Case(Tensor.__getitem__, ((None, ..., slice(3, None)),), makes=(3,), plain=True),
    "slice, all": Case(Tensor.__getitem__, ((..., slice(None)),)),
    "slice, all and a new axis": Case(Tensor.__getitem__, ((None, ..., slice(None)),), makes=(3,), plain=True),
    "slice, another axis": Case(Tensor.__getitem__, ((..., slice(1, 4), slice(None)),), **PLANE),
    "interpolate, nearest": Case(F.interpolate, (), {"scale_factor": 2}),
    "interpolate, to a size": Case(F.interpolate, (24,)),
    "interpolate, nearest exact": Case(F.interpolate, (4,), {"mode": "nearest-exact"}),
    "interpolate, linear": Case(F.interpolate, (), {"scale_factor": 1.5, "mode": "linear"}),
    "interpolate, linear, to a size": Case(F.interpolate, (7,), {"mode": "linear"}),
    "interpolate, aligned corners": Case(F.interpolate, (7,), {"mode": "linear", "align_corners": True}),
    "interpolate, area": Case(F.interpolate, (5,), {"mode": "area"}),
}

CAUTIOUS = {"interpolate, nearest exact"}
"""Both readings are taken at some lengths at which they agree."""

each = pytest.mark.parametrize("name", CASES)

PAIRS = {6: (1, 0, 2, 5, 4, 3), 8: (7, 1, 2, 4, 3, 6, 5, 0)}
"""Swapped channels that are no halves, some fixed."""


def close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=TOLERANCE)


def site_of(case: Case, channel: int | None = None, table: tuple[int, ...] | None = None) -> CallAxes:
    return CallAxes(case.reads, case.makes, channel, table)


@each
def test_the_other_reading_is_the_mirror_image_and_both_are_chosen_from(name: str) -> None:
    case = CASES[name]
    function = EDGE_FUNCTIONS[case.function]
    for length in LENGTHS:
        x = case.input(length)
        args, kwargs = case.arguments()
        settings, left, right = function.bind((x, *args), kwargs), case.left(x), case.right(x)
        if function.aligned(settings, site_of(case)):
            continue  # the stock function runs
        mean = (left + right) / 2
        assert close(function.both(settings, site_of(case)), mean), length
        if case.plain:
            continue
        half = left.shape[1] // 2
        expected = torch.cat([left[:, :half], right[:, half:]], 1)
        assert close(function.both(settings, site_of(case, 1)), expected), length
        if left.shape[1] in PAIRS:
            table = PAIRS[left.shape[1]]
            rows = [mean if j == i else left if i < j else right for i, j in enumerate(table)]
            expected = torch.stack([row[:, i] for i, row in enumerate(rows)], 1)
            assert close(function.both(settings, site_of(case, 1, table)), expected), length


@each
def test_a_call_is_aligned_where_both_readings_agree(name: str) -> None:
    case = CASES[name]
    function, site = EDGE_FUNCTIONS[case.function], site_of(case)
    for length in LENGTHS:
        x = case.input(length)
        args, kwargs = case.arguments()
        settings = function.bind((x, *args), kwargs)
        agree = close(case.left(x), case.right(x))
        aligned = function.aligned(settings, site)
        assert aligned is agree or (agree and name in CAUTIOUS), length
        assert aligned or function.concerns(settings, site), length
        assert aligned or not function.indifferent(settings), length


@each
def test_calls_that_read_both_edges_alike_at_every_length_are_known(name: str) -> None:
    case = CASES[name]
    args, kwargs = case.arguments()
    edge = EDGE_FUNCTIONS[case.function]
    steps = ("max pool, step 1", "convolution, step 1", "unfold, step 1")
    whole = (
        "transposed, aligned",
        "pad, alike",
        "slice, all",
        "slice, all and a new axis",
        "interpolate, aligned corners",
        "interpolate, area",
    )
    expected = name in steps + whole
    assert edge.indifferent(edge.bind((case.input(12), *args), kwargs)) is expected


def test_some_cases_agree_at_some_lengths_only() -> None:
    found = {name: {close(c.left(x), c.right(x)) for x in map(c.input, LENGTHS)} for name, c in CASES.items()}
    assert sum(len(seen) == 2 for seen in found.values()) > 15
    assert sum(seen == {False} for seen in found.values()) > 5


@pytest.mark.parametrize(
    ("function", "args"),
    [
        (torch.select, (2, 3)), (torch.chunk, (3, -1)), (torch.split, (5, 2)), (torch.unbind, (2,)),
        (Tensor.__getitem__, ((..., 4),)), (Tensor.tensor_split, (2, 2)),
    ],
)  # fmt: skip
def test_pieces_and_single_positions_of_a_length_are_refused(function: Callable[..., Any], args: tuple) -> None:
    x, edge = drawn(2, 6, 12), EDGE_FUNCTIONS[function]
    settings = edge.bind((x, *args), {})
    assert edge.concerns(settings, CallAxes((2,), (2,)))
    with pytest.raises(BreaksSymmetryError):
        edge.aligned(settings, CallAxes((2,), (2,)))


@pytest.mark.parametrize(
    ("function", "args"),
    [
        (torch.select, (1, 3)), (torch.chunk, (3, -2)), (torch.split, (5, 1)), (torch.unbind, (0,)),
        (torch.chunk, (1, 2)), (torch.select, (2, 6)), (Tensor.__getitem__, ((..., 6),)),
        (Tensor.__getitem__, ((slice(None), 2, slice(None)),)),
    ],
)  # fmt: skip
def test_pieces_of_another_axis_a_whole_length_and_its_middle_are_not(
    function: Callable[..., Any], args: tuple
) -> None:
    edge = EDGE_FUNCTIONS[function]
    assert edge.aligned(edge.bind((drawn(2, 6, 13), *args), {}), CallAxes((2,), (2,)))


@pytest.mark.parametrize("new", [None, True])
def test_a_new_axis_before_a_length_is_no_index_of_it(new: object) -> None:
    edge, site = EDGE_FUNCTIONS[Tensor.__getitem__], CallAxes((2,), (3,))
    whole = edge.bind((drawn(2, 6, 12), (..., new, slice(None))), {})
    assert not edge.concerns(whole, site)
    assert edge.aligned(edge.bind((drawn(2, 6, 12), (..., new, slice(1, -1))), {}), site)


def test_readings_of_windows_lie_no_crop_apart() -> None:
    pool, crop, site = EDGE_FUNCTIONS[F.max_pool1d], EDGE_FUNCTIONS[torch.narrow], CallAxes((2,), (2,))
    assert pool.apart(pool.bind((drawn(2, 6, 11), 3), {}), site) == 0
    assert crop.apart(crop.bind((drawn(2, 6, 12), 2, 1, 8), {}), site) == 2


def test_resampling_concerns_the_axes_it_resamples() -> None:
    edge = EDGE_FUNCTIONS[F.interpolate]
    settings = edge.bind((drawn(2, 6, 12),), {"size": 7})
    assert edge.concerns(settings, CallAxes((2,), (2,)))
    assert not edge.concerns(settings, CallAxes((1,), (1,)))


def test_a_pool_that_returns_indices_has_one_reading_only() -> None:
    pool = EDGE_FUNCTIONS[F.max_pool1d]
    with pytest.raises(BreaksSymmetryError, match="indices"):
        pool.right(pool.bind((drawn(2, 6, 11), 3), {"return_indices": True}), CallAxes((2,), (2,)))


def test_channels_are_those_of_the_result() -> None:
    x, crop = drawn(2, 6, 12), EDGE_FUNCTIONS[Tensor.__getitem__]
    left, right = x[None, ..., 3:], x[None, ..., :-3]
    expected = torch.cat([left[:, :, :3], right[:, :, 3:]], 2)
    assert close(crop.both(crop.bind((x, (None, ..., slice(3, None))), {}), CallAxes((2,), (3,), 2)), expected)


def test_readings_are_chosen_where_the_tensors_are() -> None:
    site = CallAxes((2,), (2,), 1, PAIRS[6])
    left, right = torch.empty(2, 6, 9, device="meta"), torch.empty(2, 6, 9, device="meta")
    assert choose(left, right, site).device == left.device


@pytest.mark.parametrize("name", ["convolution, wide stride", "convolution, wide stride, groups", "transposed"])
def test_half_of_the_filters_read_each_edge_at_the_cost_of_one_pass(name: str) -> None:
    case, x = CASES[name], CASES[name].input(13)
    args, kwargs = case.arguments()
    edge, made = copy.copy(EDGE_FUNCTIONS[case.function]), []

    def counted(*given: Any) -> Tensor:
        made.append(case.function(*given))
        return made[-1]

    edge.function = counted
    both = edge.both(edge.bind((x, *args), kwargs), CallAxes(case.reads, case.makes, 1))
    half = both.shape[1] // 2
    assert [y.shape[1] for y in made] == [half, half]
    assert close(both, torch.cat([case.left(x)[:, :half], case.right(x)[:, half:]], 1))


def test_a_mean_of_ids_is_refused() -> None:
    crop = EDGE_FUNCTIONS[Tensor.__getitem__]
    settings = crop.bind((torch.arange(24).reshape(2, 12), (..., slice(1, None))), {})
    with pytest.raises(BreaksSymmetryError, match="no mean"):
        crop.both(settings, CallAxes((1,), (1,)))
    numbers = crop.bind((drawn(2, 12), (..., slice(1, None))), {})
    with pytest.raises(BreaksSymmetryError, match="no mean"):
        crop.both(numbers, CallAxes((1,), (1,), ids=True))


@pytest.mark.parametrize(("value", "rank", "settings"), [(3, 2, [3, 3]), ([3], 2, [3, 3]), ((3, 4), 2, [3, 4])])
def test_a_setting_is_given_once_or_for_each_axis(value: Any, rank: int, settings: list[int]) -> None:
    assert setting_per_axis(value, rank) == settings


@pytest.mark.parametrize("dim", [2, -1])
def test_windows_leave_every_axis_but_their_own_and_the_new_one(dim: int) -> None:
    edge = EDGE_FUNCTIONS[Tensor.unfold]
    settings = edge.bind((drawn(2, 6, 12), dim, 3, 2), {})
    assert [edge.leaves(settings, d) for d in (None, 0, 1, 2, 3)] == [True, True, True, False, False]


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_functions_have_the_names_that_users_call_them_by(rank: int) -> None:
    named = [f"{kind}{rank}d" for kind in ("max_pool", "avg_pool", "lp_pool")]
    assert [EDGE_FUNCTIONS[getattr(F, name)].name for name in named] == named
    assert EDGE_FUNCTIONS[getattr(torch, f"conv{rank}d")].name == f"conv{rank}d"


@pytest.mark.parametrize(
    ("site", "words"),
    [
        (CallAxes((2,), (2,), 1), "first half"),
        (CallAxes((2,), (2,)), "mean"),
        (CallAxes((2,), (2,), 1, (1, 0, 2)), "of two swapped channels"),
    ],
)
def test_which_channels_take_which_reading_in_words(site: CallAxes, words: str) -> None:
    assert words in site.words()


@pytest.mark.parametrize(
    ("function", "args"), [(F.max_pool1d, (4, 3)), (F.pad, ((1, 3),)), (torch.narrow, (2, 2, 5)), (F.avg_pool1d, (4,))]
)
def test_swapped_halves_are_read_once_each(function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    seen: list[int] = []

    def counted(x: Tensor, *rest: Any) -> Tensor:
        seen.append(x.shape[1])
        return function(x, *rest)  # type: ignore[no-any-return]

    edge = copy.copy(EDGE_FUNCTIONS[function])
    edge.function = counted
    edge.both(edge.bind((drawn(2, 6, 14), *args), {}), CallAxes((2,), (2,), 1))
    assert seen == [3, 3]


@pytest.mark.parametrize("padding", [0, 1])
def test_patches_of_the_right_edge_are_those_of_a_crop(padding: int) -> None:
    x, edge = drawn(2, 3, 4, 12), EDGE_FUNCTIONS[F.unfold]
    settings = edge.bind((x, (2, 3)), {"stride": (1, 4), "padding": padding})
    padded = F.pad(x, [padding] * 4)
    rest = (12 + 2 * padding - 3) % 4
    left, right = F.unfold(padded, (2, 3), stride=(1, 4)), F.unfold(padded[..., rest:], (2, 3), stride=(1, 4))
    assert not close(left, right)
    assert close(edge.both(settings, CallAxes((3,), (2,))), (left + right) / 2)


def test_channels_that_windows_slide_along_are_chosen_afterwards() -> None:
    x, pool = drawn(2, 3, 7, 14), EDGE_FUNCTIONS[F.max_pool2d]
    settings = pool.bind((x, (2, 3), (1, 3)), {})
    left, right = F.max_pool2d(x, (2, 3), (1, 3)), F.max_pool2d(x.flip(3), (2, 3), (1, 3)).flip(3)
    expected = torch.cat([left[:, :, :3], right[:, :, 3:]], 2)
    assert close(pool.both(settings, CallAxes((3,), (3,), 2)), expected)


def test_a_kernel_is_made_longer_by_its_own_length_at_most() -> None:
    conv, x = EDGE_FUNCTIONS[torch.conv2d], drawn(2, 6, 7, 12)
    for taps, stride, found in ((1, 4, None), (2, 4, [0, 2]), (4, 5, [0, 3])):
        settings = conv.bind((x, drawn(8, 6, 4, taps), None, (1, stride)), {})
        windows = conv.windows(settings, CallAxes((3,), (3,)))  # type: ignore[attr-defined]
        assert conv._more_taps(settings, windows) == found  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("index", "axes"),
    [
        ((slice(None), [0, 2]), (1,)),
        ((slice(None), torch.tensor([True] * 6)), (1,)),
        ((slice(None), torch.ones(6, 12, dtype=torch.bool)), (1, 2)),
        ((0, ..., torch.tensor([1, 2])), (2,)),
        ((slice(None), 1, slice(1, 4)), ()),
    ],
)
def test_axes_that_are_indexed_by_a_list(index: Any, axes: tuple[int, ...]) -> None:
    edge = EDGE_FUNCTIONS[Tensor.__getitem__]
    assert edge.listed(edge.bind((drawn(2, 6, 12), index), {})) == axes


def test_inside_of_a_transform_and_outside() -> None:
    seen: list[bool] = []

    def noted(x: Tensor) -> Tensor:
        seen.append(frames.is_in_transform())
        return x

    noted(drawn(2))
    torch.func.vmap(noted)(drawn(2))
    assert seen == [False, True]


# --- the calls of a module --------------------------------------------------------------------------

HALVES, MEAN = CallAxes((2,), (2,), 1), CallAxes((2,), (2,))


def entry(site: CallAxes | None, function: str = "max_pool1d", samples: int | None = None) -> Entry:
    return Entry(function, (samples, 6, None), site, (0,))


def test_a_call_is_found_by_its_shape_then_by_its_place_and_else_the_mean_serves() -> None:
    shape = torch.Size([2, 6, 11])
    one = Table("tower", ((entry(HALVES),),))
    assert one.find([], "max_pool1d", shape) == (HALVES, False)
    fixed = Table("tower", ((entry(HALVES, samples=3),),))
    assert fixed.find([], "max_pool1d", shape) == (HALVES, False)
    two = Table("tower", ((entry(HALVES), entry(MEAN)),))
    assert two.find([], "max_pool1d", shape) == (HALVES, True)
    assert two.find(["max_pool1d"], "max_pool1d", shape) == (MEAN, True)
    assert two.find(["other"], "max_pool1d", shape) == (MEAN, False)


def test_calls_of_one_shape_are_told_apart_by_their_place_in_forward() -> None:
    class Twice(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return F.max_pool1d(x, 3), F.max_pool1d(x, 3)

    module, x, pool = Twice(), drawn(2, 6, 11), EDGE_FUNCTIONS[F.max_pool1d]
    table = Table("", ((entry(HALVES), entry(MEAN)),))
    both = Anchored(module, table)(x)
    settings = pool.bind((x, 3), {})
    assert all(close(y, pool.both(settings, site)) for y, site in zip(both, (HALVES, MEAN), strict=True))


def test_a_module_is_let_go_other_ways_unless_there_is_no_solution_for_them() -> None:
    assert (Table("tower").strict, Table("tower").free) == (False, False)
    assert Table("tower").complete([])
    assert not Table("tower", ((entry(MEAN),),)).complete([])


def test_tables_of_the_same_calls_are_one() -> None:
    tables = {Table("tower", ((entry(site),),)) for site in (HALVES, MEAN, HALVES)}
    assert len(tables) == 2


def test_a_mean_of_ids_stays_one_of_ids() -> None:
    ids = CallAxes((2,), (2,), ids=True)
    table = Table("tower", ((entry(HALVES), entry(ids)),))
    assert table.find(["other"], "max_pool1d", torch.Size([2, 6, 11])) == (ids, False)


def test_an_unplanned_call_says_where() -> None:
    table = Table("tower.block", ((entry(HALVES), entry(CallAxes((1,), (1,)))),))
    for seen, function in (([], "avg_pool1d"), (["other"], "max_pool1d")):
        with pytest.raises(UnplannedCallError) as caught:
            table.find(seen, function, torch.Size([2, 6, 11]))
        assert caught.value.where is not None
        assert caught.value.where.path == "tower.block"
        assert ("several ways" in str(caught.value)) == (function == "max_pool1d")
    assert table.other_calls(["a"]).where.path == "tower.block"  # type: ignore[union-attr]


def test_a_sequence_without_a_batch_axis_is_refused_with_the_way_out() -> None:
    """The plain model takes one, and so do tied weights; what is told by its axes cannot be."""
    net = nn.Sequential(nn.Conv1d(4, 6, 3, padding=1), nn.MaxPool1d(2), nn.AdaptiveAvgPool1d(1))
    model = convert_model(net, torch.zeros(2, 4, 20))
    x = torch.rand(2, 4, 21)
    with pytest.raises(UnplannedCallError, match=r"a tensor of 2 axes, and one of 3 was converted") as refused:
        model(x[0])
    assert "model(x[None])" in str(refused.value)
    torch.testing.assert_close(model(x[0][None])[0], model(x)[0])


def test_a_copy_shows_the_compiler_what_the_original_did(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[bool] = []
    monkeypatch.setattr(frames, "_show_pads_to_compiler", lambda: shown.append(True))
    copy.copy(Anchored(nn.Linear(3, 4), Table("")))
    assert shown == [True, True]


def test_a_module_is_as_it_was_when_its_calls_are_no_longer_re_anchored() -> None:
    pool = nn.MaxPool1d(3)
    before = dict(vars(pool))
    frames.anchor(pool, {"": Table("", ((entry(HALVES),),))})
    assert vars(pool) != before
    frames.unanchor(pool)
    assert vars(pool) == before


def test_a_forward_is_bound_to_a_replica_with_what_it_replaced() -> None:
    module, replica = nn.Linear(3, 4), nn.Linear(3, 4)
    plain = Anchored(module, Table("")).bound_to(replica)
    assert (plain.module, plain.before) == (replica, None)
    module.forward = module.forward  # type: ignore[method-assign]
    bound = Anchored(module, Table("")).bound_to(replica)
    assert bound.before.__self__ is replica


CPU = torch.device("cpu")

KEPT: dict[str, Callable[[], tuple[Tensor, ...]]] = {
    "sides of pairs": lambda: readings._kept_sides((1, 0, 2, 4, 3), CPU),
    "places of entries": lambda: (channels._index((3, 1, 4), CPU),),
    "weights put together": lambda: (MadeOf(torch.ones(3), lambda half: half.take(torch.tensor([0, 2]))).made,),
}
"""What is made in one call and kept for the next."""


@pytest.mark.parametrize("name", KEPT)
def test_what_one_call_keeps_serves_calls_that_record_gradients(name: str) -> None:
    readings._kept_sides.cache_clear()
    channels._index.cache_clear()
    with torch.inference_mode():
        kept = KEPT[name]()
    assert not any(t.is_inference() for t in kept)


@pytest.mark.parametrize(("table", "first", "swapped"), [((1, 0, 2), "100", "110"), ((0, 2, 1), "010", "011")])
def test_which_channels_are_the_first_of_a_pair(table: tuple[int, ...], first: str, swapped: str) -> None:
    for sides in (readings._sides, readings._kept_sides):
        assert ["".join(str(int(v)) for v in found) for found in sides(table, CPU)] == [first, swapped]
