"""Jumps of outputs: which outputs step, and weights on either side of a jump."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from by_hand import bases
from torch import Tensor, nn

from rcps_convert.algebra.specs import OneHot
from rcps_convert.measure.jumps import HALVINGS, beside_jumps, has_steps
from rcps_convert.measure.probe import Probe

SAMPLES = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("y", "dim", "steps"),
    [
        (SAMPLES, 0, False),
        (SAMPLES.sign(), 0, True),
        (SAMPLES > 0, 0, True),
        (SAMPLES / SAMPLES.abs() * (1 + 1e-14 * SAMPLES), 0, True),
        (torch.cat([SAMPLES, SAMPLES.sign()], 1), 0, True),
        (SAMPLES.sign().mT, 1, True),
        (SAMPLES.mT, 1, False),
        (SAMPLES[:, 0].sign(), 0, True),
        (torch.complex(SAMPLES, SAMPLES.sign()), 0, True),
        (torch.complex(SAMPLES, SAMPLES), 0, False),
        (torch.ones(8, 2), 0, True),
        (torch.full((8, 2), float("nan")), 0, True),
        (torch.zeros(8, 0), 0, False),
        (torch.cat([SAMPLES[:7], torch.full((1, 3), float("nan"))]), 0, False),  # no number is one more value
        (torch.cat([SAMPLES[:7], torch.full((1, 3), float("inf"))]), 0, False),
        (torch.cat([SAMPLES[:7], torch.full((1, 3), -float("inf"))]), 0, False),
    ],
)
def test_an_output_that_takes_few_values_has_steps(y: Tensor, dim: int, steps: bool) -> None:
    assert has_steps(y, dim) is steps


class Scores(nn.Module):
    def __init__(self, hide: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.c, self.o, self.hide = nn.Conv1d(4, 6, 3), nn.Linear(6, 2), hide

    def forward(self, x: Tensor) -> Tensor:
        return self.hide(self.o(self.c(x).tanh().mean(-1)))


def probe_of(hide: Callable[[Tensor], Tensor]) -> Probe:
    example, spec = bases(4, 12), OneHot("ACGT")
    return Probe(Scores(hide), example, [spec], [spec.action(example.shape)])


def beside(probe: Probe, drawn: list[Tensor], hide: Callable[[Tensor], Tensor], sample: int = 0) -> list[Tensor]:
    """The scores before they are hidden, on either side of a jump."""
    found = []
    for _ in beside_jumps(probe, drawn, 0, (0, sample)):
        probe.model.hide = lambda s: s
        found.append(probe.outputs(drawn))
        probe.model.hide = hide
    return found


@pytest.mark.parametrize(("levels", "sample"), [(1, 0), (2, 3), (20, 1)])
def test_a_jump_of_a_sample_lies_between_weights_that_are_close(levels: int, sample: int) -> None:
    def hide(s: Tensor) -> Tensor:
        return (levels * s).floor()

    probe = probe_of(hide)
    drawn = probe.inputs(0)
    left, right = beside(probe, drawn, hide, sample)
    assert not torch.equal(hide(left)[sample], hide(right)[sample])
    assert (left - right).abs().max() < 20 * 2**-HALVINGS


def test_what_is_continuous_does_not_jump() -> None:
    probe = probe_of(torch.tanh)
    assert beside(probe, probe.inputs(0), torch.tanh) == []


@pytest.mark.parametrize("hide", [torch.sign, torch.tanh])
def test_afterwards_the_weights_are_a_set_that_was_drawn(hide: Callable[[Tensor], Tensor]) -> None:
    probe, other = probe_of(hide), probe_of(hide)
    beside(probe, probe.inputs(0), hide)
    for seed in sorted(probe.perturbed):
        other.perturb(seed, anew=True)
    assert all(torch.equal(a, b) for a, b in zip(probe.model.parameters(), other.model.parameters(), strict=True))


def test_where_nothing_depends_on_the_weights_none_is_found() -> None:
    probe = probe_of(lambda s: s * 0 + 1)
    assert beside(probe, probe.inputs(0), probe.model.hide) == []
