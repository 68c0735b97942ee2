"""What must not be refused, and refusals that say the true reason."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lawful import assert_exact
from oracle import assert_law
from torch import Tensor, nn

from rcps_convert import BreaksSymmetryError, NoRuleError, convert_model

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


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("name", SHAPES_ONLY)
def test_a_crop_for_its_shape_is_left_alone(name: str, batch: int) -> None:
    model = convert_model(Steps(SHAPES_ONLY[name], c=nn.Conv1d(4, 6, 3, padding=1)), torch.zeros(2, 4, 21))
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


@pytest.mark.parametrize("name", OVER_BASES)
def test_windows_slide_over_bases_that_are_reversed(name: str) -> None:
    torch.manual_seed(0)
    layers, forward = OVER_BASES[name]
    model = convert_model(Steps(forward, **layers), PLANE, layout="n 1 c l")
    assert_exact(model, PLANE, tolerance=TOLERANCE, layout="n x c l", lengths=(18, 21, 23))


@pytest.mark.parametrize("alphabet", ["ATCG", "ATGC", "ACGTN"])
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
