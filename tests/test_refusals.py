"""What must not be refused, and refusals that say the true reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lawful import assert_exact
from oracle import Signs, assert_law
from tiers import chosen, some
from torch import Tensor, nn
from torch.export import register_dataclass

from rcps_convert import (
    BreaksSymmetryError,
    NeedsChoiceError,
    NoRuleError,
    TraceError,
    Tracks,
    convert_model,
    plan_conversion,
)
from rcps_convert.errors import Where

TOLERANCE = 1e-10
"""Relative error in float64."""


class Steps(nn.Module):
    """Named layers, and a function of them and the input."""

    def __init__(self, forward: Any, **layers: Any) -> None:
        super().__init__()
        self.steps = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Any:
        return self.steps(self, x)


# --- results of which only the shape is read --------------------------------------------------------

SHAPES_ONLY = {
    "zeros like a column": lambda m, x: torch.cat([torch.zeros_like(m.c(x)[..., :2]), m.c(x)], -1).amax(-1),
    "ones like one position": lambda m, x: F.max_pool1d(m.c(x), 2).mean(-1) + torch.ones_like(m.c(x)[:, :, 0]),
    "new_zeros of a crop": lambda m, x: F.max_pool1d(m.c(x) + m.c(x)[:1, :, 1:].new_zeros(()), 2).amax(-1),
}


@pytest.mark.parametrize("batch", some([1, 5], 1))
@pytest.mark.parametrize("name", some(SHAPES_ONLY, 2))
def test_a_crop_for_its_shape_is_left_alone(name: str, batch: int) -> None:
    model = convert_model(
        Steps(SHAPES_ONLY[name], c=nn.Conv1d(4, 6, 3, padding=1)), torch.zeros(2, 4, 21), verify=False
    )
    assert_law(model, torch.zeros(2, 4, 21), tolerance=TOLERANCE, batch=batch, lengths=(20, 21, 24))


# --- windows that slide over the bases --------------------------------------------------------------

PLANE = torch.zeros(2, 1, 4, 21)

OVER_BASES: dict[str, tuple[dict[str, Any], Any]] = {
    "padded": ({"c": nn.Conv2d(1, 8, (3, 5), padding=(1, 2))}, lambda m, x: m.c(x).relu().amax((2, 3))),
    "unpadded": (
        {"c": nn.Conv2d(1, 8, (2, 5)), "o": nn.Linear(24, 3)},
        lambda m, x: m.o(m.c(x).relu().flatten(1, 2).amax(2)),
    ),
    "deep": (
        {"c": nn.Conv2d(1, 6, 3, padding=1), "d": nn.Conv2d(6, 5, (3, 4), stride=(1, 2), padding=(1, 0))},
        lambda m, x: m.d(m.c(x).relu()).relu().amax((2, 3)),
    ),
    "even and strided": (
        {"c": nn.Conv2d(1, 6, (2, 4), stride=(2, 3)), "d": nn.Conv1d(12, 3, 1)},
        lambda m, x: m.d(m.c(x).relu().flatten(1, 2)).sigmoid().mean(-1),
    ),
    "one filter": (
        {"c": nn.Conv2d(1, 1, (3, 4), stride=(1, 2), padding=(1, 0)), "o": nn.Linear(4, 2)},
        lambda m, x: m.o(m.c(x).relu().mean(3).squeeze(1)),
    ),
    "pooled": (
        {"c": nn.Conv2d(1, 1, 3, padding=1), "o": nn.Linear(4, 2)},
        lambda m, x: m.o(F.max_pool2d(m.c(x), (3, 4), (1, 4), (1, 0)).mean(3).squeeze(1)),
    ),
    "transposed": (
        {"c": nn.ConvTranspose2d(1, 6, (3, 5), stride=(2, 1), padding=(1, 2))},
        lambda m, x: m.c(x).relu().amax((2, 3)),
    ),
    "patches": (
        {"o": nn.Linear(9, 3)},
        lambda m, x: m.o(F.unfold(x, 3, padding=1).transpose(1, 2)).relu().mean(1),
    ),
    "one-sided": (
        {"c": nn.Conv2d(1, 1, (3, 1), padding=(1, 0)), "o": nn.Linear(4, 2)},
        lambda m, x: m.o(F.pad(m.c(x).exp(), (2, 0)).mean(3).squeeze(1)),
    ),
}


@pytest.mark.parametrize("name", some(OVER_BASES, 2))
def test_windows_slide_over_bases_that_are_reversed(name: str) -> None:
    layers, forward = OVER_BASES[name]
    torch.manual_seed(0)
    for layer in layers.values():
        layer.reset_parameters()  # those made when the file was read depend on what was read before
    model = convert_model(Steps(forward, **layers), PLANE, layout="n 1 c l", verify=False)
    assert_exact(model, PLANE, tolerance=TOLERANCE, layout="n x c l", lengths=(18, 21, 23))


@pytest.mark.parametrize("alphabet", some(["ATCG", "ATGC", "ACGTN"], 1))
@pytest.mark.parametrize("name", ["padded", "patches", "transposed"])
def test_windows_over_other_orders_are_refused_with_the_reason(alphabet: str, name: str) -> None:
    layers, forward = OVER_BASES[name]
    plane = torch.zeros(2, 1, len(alphabet), 21)
    with pytest.raises(NoRuleError, match="backwards") as caught:
        convert_model(Steps(forward, **layers), plane, inputs=alphabet)
    assert "ACGT" in str(caught.value.do)


@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(1, 8, (3, 5), stride=(2, 1), padding=(1, 2)), nn.ConvTranspose2d(1, 4, 3, 2, 1, output_padding=(1, 0))],
)
def test_windows_must_reach_both_edges_of_the_bases(layer: nn.Module) -> None:
    with pytest.raises(BreaksSymmetryError, match="two edges of an axis of 4 entries"):
        convert_model(Steps(lambda m, x: m.c(x).amax((2, 3)), c=layer), PLANE)


# --- antisymmetric outputs --------------------------------------------------------------------------


def conv(channels: int = 6) -> nn.Conv1d:
    return nn.Conv1d(4, channels, 3, padding=1)


DNA = torch.zeros(2, 4, 12)

PAIRED: dict[str, Any] = {
    "reversed channels": lambda m, x: m.o(m.c(x).relu().mean(-1).flip(1)),
    "rolled channels": lambda m, x: m.o(m.c(x).relu().mean(-1).roll(1, 1)),
    "channels in another order": lambda m, x: m.o(m.c(x).relu().mean(-1)[:, [5, 4, 3, 2, 1, 0]]),
    "channels of alternating sizes": lambda m, x: m.o(m.c(x).relu().mean(-1) * torch.tensor([1.0, 2, 3, 1, 2, 3])),
    "a reversed score": lambda m, x: m.p(m.c(x).relu().mean(-1)).flip(1),
    "an odd power": lambda m, x: m.o(m.c(x).relu().mean(-1)) ** 3,
    "symmetric limits": lambda m, x: m.o(m.c(x).relu().mean(-1)).clamp(-0.1, 0.1),
}


@pytest.mark.parametrize("name", some(PAIRED, 2))
def test_open_channels_are_paired_where_pairs_commute(name: str) -> None:
    torch.manual_seed(0)
    layers = {"c": conv(), "o": nn.Linear(6, 1), "p": nn.Linear(6, 2)}
    model = convert_model(Steps(PAIRED[name], **layers), DNA, outputs="antisymmetric", verify=False)
    assert_exact(model, DNA, tolerance=TOLERANCE, outputs="antisymmetric")
    assert float(model(torch.eye(4)[torch.randint(4, (3, 12))].mT).abs().max()) > 1e-7


@pytest.mark.parametrize(("power", "low"), [(2, -1.0), (3, -0.5), (2.5, 0.0)])
def test_even_powers_and_uneven_limits_break_signs(power: float, low: float) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.o(m.c(x).relu().mean(-1)).clamp(low, 1.0) ** power

    with pytest.raises(NeedsChoiceError, match="cannot be antisymmetric"):
        convert_model(Steps(forward, c=conv(), o=nn.Linear(6, 1)), DNA, outputs="antisymmetric")


def test_a_constant_still_fixes_what_pairs_do_not_leave() -> None:
    model = Steps(lambda m, x: m.o(m.c(x).relu().mean(-1) * torch.arange(6.0)), c=conv(), o=nn.Linear(6, 2))
    converted = convert_model(model, DNA)
    assert_exact(converted, DNA, tolerance=TOLERANCE)
    assert converted.c.weight.shape == model.c.weight.shape


ZERO: dict[str, tuple[dict[str, nn.Module], Any, Any, str | None]] = {
    "beside its channels": (
        {"c": conv(), "o": nn.Linear(6, 1)},
        lambda m, x: (m.c(x).mean(-1), m.o(m.c(x).mean(-1))),
        ("auto", "antisymmetric"),
        "o",
    ),
    "before its channels": (
        {"c": conv(), "o": nn.Linear(6, 1)},
        lambda m, x: (m.o(m.c(x).mean(-1)), m.c(x).mean(-1)),
        ("antisymmetric", "auto"),
        "o",
    ),
    "beside a second head": (
        {"c": conv(), "v": nn.Linear(6, 1), "o": nn.Linear(1, 2), "p": nn.Linear(1, 3)},
        lambda m, x: (m.o(m.v(m.c(x).mean(-1))) * 2, m.p(m.v(m.c(x).mean(-1))).log_softmax(1)),
        ("antisymmetric", "auto"),
        "o",
    ),
    "one channel": (
        {"c": conv(1), "o": nn.Linear(1, 2)},
        lambda m, x: m.o(m.c(x).mean(-1))[:, :1] - m.o(m.c(x).mean(-1))[:, 1:],
        "antisymmetric",
        "o",
    ),
    "a maximum over channels": (
        {"c": conv(), "o": nn.Linear(1, 3)},
        lambda m, x: m.o(m.c(x).amax(1).mean(-1, keepdim=True)),
        "antisymmetric",
        "o",
    ),
    "the largest by its index": (
        {"c": conv(), "o": nn.Linear(6, 1)},
        lambda m, x: m.o(m.c(x).gather(1, m.c(x).argmax(1, keepdim=True)).expand(-1, 6, -1).mean(-1)).squeeze(-1),
        "antisymmetric",
        None,
    ),
    "weights per channel": (
        {"c": conv(), "o": nn.Linear(6, 1)},
        lambda m, x: m.o(m.c(x).relu().mean(-1) * torch.arange(6.0)),
        "antisymmetric",
        "o",
    ),
}


@pytest.mark.parametrize("name", chosen(ZERO, lambda name: name in ("weights per channel", "the largest by its index")))
def test_a_score_that_would_be_zero_is_refused(name: str) -> None:
    layers, forward, outputs, where = ZERO[name]
    with pytest.raises(NeedsChoiceError, match="would be zero, whatever the weights") as caught:
        convert_model(Steps(forward, **layers), DNA, outputs=outputs)
    assert caught.value.where == (None if where is None else Where(where))
    assert ("Tracks" in str(caught.value.do)) == isinstance(outputs, tuple)


def test_the_way_out_of_a_score_that_would_be_zero() -> None:
    torch.manual_seed(0)
    layers, forward, _, _ = ZERO["beside its channels"]
    outputs = (Tracks("+++---", layout="n c"), "antisymmetric")
    model = convert_model(Steps(forward, **layers), DNA, outputs=outputs)
    assert_exact(model, DNA, tolerance=TOLERANCE, outputs=(Signs("+++---", "n c"), "antisymmetric"))
    assert float(model(torch.eye(4)[torch.randint(4, (3, 12))].mT)[1].abs().max()) > 1e-7


BOUNDED = {
    "sigmoid": (lambda y: y.sigmoid(), "lies between 0 and 1"),
    "softmax": (lambda y: y.softmax(-1), "lies between 0 and 1"),
    "relu": (lambda y: y.relu().squeeze(0), "is never negative"),
    "softplus": (lambda y: F.softplus(y).unsqueeze(1), "is never negative"),
    "log_softmax": (lambda y: y.log_softmax(1), "is never positive"),
}


@pytest.mark.parametrize("name", BOUNDED)
def test_what_lies_on_one_side_of_zero_cannot_be_antisymmetric(name: str) -> None:
    last, words = BOUNDED[name]
    model = Steps(lambda m, x: last(m.o(m.c(x).relu().mean(-1))), c=conv(), o=nn.Linear(6, 2))
    with pytest.raises(NeedsChoiceError, match="cannot be antisymmetric") as caught:
        convert_model(model, DNA, outputs="antisymmetric")
    assert f"{name} {words}, so it cannot change its sign" in str(caught.value.why)
    assert "logits" in str(caught.value.do)
    assert "tanh" in str(caught.value.do)


# --- positions that a dense layer writes ------------------------------------------------------------

OVER_POSITIONS: dict[str, tuple[dict[str, nn.Module], Any]] = {
    "gru": (
        {"r": nn.GRU(6, 4, bidirectional=True, batch_first=True), "o": nn.Linear(8, 3)},
        lambda m, x: m.o(m.r(m.d(m.c(x)).mT)[0].mean(1)),
    ),
    "lstm over fewer positions": (
        {"r": nn.LSTM(6, 4, bidirectional=True), "o": nn.Linear(8, 3), "d": nn.Linear(12, 5)},
        lambda m, x: m.o(m.r(m.d(m.c(x)).permute(2, 0, 1))[0].relu().sum(0)),
    ),
    "two layers": (
        {"r": nn.RNN(6, 4, 2, bidirectional=True, batch_first=True), "o": nn.Linear(8, 3)},
        lambda m, x: m.o(m.r(m.d(m.c(x)).relu().mT)[0]).amax(1),
    ),
}


@pytest.mark.parametrize("name", some(OVER_POSITIONS, 1))
def test_a_recurrence_reads_positions_that_a_dense_layer_writes(name: str) -> None:
    torch.manual_seed(0)
    layers, forward = OVER_POSITIONS[name]
    model = convert_model(Steps(forward, **{"c": conv(), "d": nn.Linear(12, 12), **layers}), DNA, verify=False)
    assert_exact(model, DNA, tolerance=TOLERANCE)


@pytest.mark.parametrize("how", some([{"kernel_size": 14, "padding": 1}, {"kernel_size": 5, "dilation": 3}], 1))
def test_one_position_that_a_dense_layer_writes_is_spread_over_a_length(how: dict[str, int]) -> None:
    torch.manual_seed(0)
    layers = {"d": nn.Linear(6, 1), "t": nn.ConvTranspose1d(1, 8, **how), "o": nn.Conv1d(8, 2, 3, padding=1)}
    plain = Steps(lambda m, x: m.o(m.t(m.d(m.c(x).relu().mean(-1))[:, None]).relu()), c=conv(), **layers)
    assert_exact(convert_model(plain, DNA, outputs="+-", verify=False), DNA, tolerance=TOLERANCE, outputs="+-")


def test_a_recurrence_over_channels_beside_positions_is_refused() -> None:
    model = Steps(lambda m, x: m.r(m.c(x))[0].mean(-1), c=conv(), r=nn.GRU(12, 4, bidirectional=True, batch_first=True))
    with pytest.raises(BreaksSymmetryError, match="runs over an axis that is no length"):
        convert_model(model, DNA)


def test_a_recurrence_over_two_sequences_in_a_row_is_refused() -> None:
    """As in SPEID and EPIVAN."""
    model = Steps(
        lambda m, x: m.r(torch.cat([m.c(x), m.d(x)[..., 2:-2]], -1).mT)[0].mean(1),
        **{"c": conv(), "d": conv(), "r": nn.GRU(6, 4, bidirectional=True, batch_first=True)},
    )
    with pytest.raises(BreaksSymmetryError, match="runs over several sequences that are put one behind") as caught:
        convert_model(model, DNA)
    assert "(12 reversed + 8 reversed), not all as one" in str(caught.value)


# --- outputs that no spec says --------------------------------------------------------------------


JOINED: list[Any] = [
    lambda m, h: torch.cat([m.plus(h), m.minus(h)], 1),
    lambda m, h: torch.stack([m.plus(h)[:, 0], m.minus(h)[:, 0]], 1),
    lambda m, h: torch.hstack([m.plus(h), m.minus(h)]),
]


@pytest.mark.parametrize("join", some(JOINED, 1))
def test_strands_that_two_layers_write_are_refused_with_a_way_out(join: Any) -> None:
    strands = {"plus": nn.Conv1d(6, 1, 5, padding=2), "minus": nn.Conv1d(6, 1, 5, padding=2)}
    with pytest.raises(NeedsChoiceError) as caught:
        convert_model(Steps(lambda m, x: join(m, m.c(x).relu()), c=conv(), **strands), DNA, outputs="+-")
    assert "let one layer write both" in str(caught.value)


@pytest.mark.parametrize("places", some([lambda h: h.argmax(-1), lambda h: h.max(-1)[1], lambda h: h.argmin(-1)], 1))
def test_positions_that_are_returned_are_refused_with_a_way_out(places: Any) -> None:
    model = Steps(lambda m, x: (m.c(x).relu().mean(-1), places(m.c(x))), c=conv())
    found = plan_conversion(model, DNA, verify=False).problems
    assert "output 1 holds positions along a length" in [p.what for p in found]
    assert "(amax)" in str(found[-1])


# --- places of maxima -------------------------------------------------------------------------------

UNPOOLED: dict[str, Any] = {
    "one axis": lambda m, x: F.max_unpool1d(*F.max_pool1d(m.c(x), 2, return_indices=True), 2).amax(-1),
    "with a size": lambda m, x: F.max_unpool1d(
        *F.max_pool1d(m.c(x).relu(), 3, return_indices=True), 3, output_size=(12,)
    ).mean(-1),
    "two axes": lambda m, x: F.max_unpool2d(
        *F.max_pool2d(m.c(x).unsqueeze(2), (1, 4), return_indices=True), (1, 4)
    ).amax((2, 3)),
}


@pytest.mark.parametrize("seed", some(range(3), 1))
@pytest.mark.parametrize("name", UNPOOLED)
def test_unpooling_is_refused_whatever_numbers_are_drawn(name: str, seed: int) -> None:
    torch.manual_seed(seed)
    with pytest.raises(BreaksSymmetryError, match="puts values back where a pool found them") as caught:
        convert_model(Steps(UNPOOLED[name], c=conv()), DNA, verify=False)
    assert "equal values" in str(caught.value.why)


# --- outputs that are not opened --------------------------------------------------------------------


class Closed:
    """An output of a class of its own."""

    def __init__(self, score: Tensor) -> None:
        self.score = score


@dataclass
class Opened:
    """The same, registered."""

    score: Tensor


register_dataclass(Opened)


def test_an_object_is_refused_with_the_way_to_open_it() -> None:
    model = Steps(lambda m, x: Closed(m.o(m.c(x).mean(-1))), c=conv(), o=nn.Linear(6, 2))
    with pytest.raises(TraceError, match="the model returns an object of class Closed") as caught:
        convert_model(model, DNA, verify=False)
    assert "dataclass" in str(caught.value.do)


def test_a_registered_dataclass_is_opened() -> None:
    model = Steps(lambda m, x: Opened(m.o(m.c(x).mean(-1))), c=conv(), o=nn.Linear(6, 2))
    converted = convert_model(model, DNA)
    x = torch.eye(4, dtype=torch.float64)[torch.randint(4, (3, 12))].mT
    difference = converted.double()(x).score - converted(x.flip(1, 2)).score
    assert float(difference.abs().max()) < TOLERANCE


@pytest.mark.parametrize(("spec", "fitting"), [("+-", "+-."), (Tracks("."), Tracks("+.-"))])
def test_too_few_tracks_are_refused_with_the_way_to_name_all(spec: Any, fitting: Any) -> None:
    model = nn.Conv1d(4, 3, 5, padding=2)
    with pytest.raises(NeedsChoiceError, match="no axis has") as caught:
        convert_model(model, DNA, outputs=spec, verify=False)
    assert "each channel that the output has" in str(caught.value.do)
    assert convert_model(model, DNA, outputs=fitting, verify=False) is not None
