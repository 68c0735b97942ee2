"""For tests of the user's own, importable as ``rcps_convert.testing``.

>>> import torch
>>> from rcps_convert import convert_model
>>> from rcps_convert.testing import assert_equivariant
>>> model = torch.nn.Sequential(torch.nn.Conv1d(4, 8, 5), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(32, 1))
>>> assert_equivariant(convert_model(model, torch.zeros(2, 4, 8)), torch.zeros(2, 4, 8))
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .algebra.arguments import Example
from .algebra.nesting import input_actions, read_call
from .algebra.opened import output_leaves
from .graph.sandbox import alone
from .measure.probe import Probe
from .measure.report import check_equivariance

__all__ = ["assert_equivariant"]


def assert_equivariant(
    model: nn.Module,
    example: Example,
    *,
    inputs: Any = "ACGT",
    outputs: Any = "auto",
    layout: Any = "auto",
    tolerance: float | None = None,
) -> None:
    """Fail unless a model obeys the law ``f(rc x) = rho f(x)``, and each output depends on the sequence.

    It is measured on random sequences and other kinds of input, on a copy in eval mode, with the weights as they are.

    Args:
        model: any model, converted or not.
        example: what it is called with; only shapes and dtypes matter. Call it once for each length that matters.
        inputs, outputs, layout, tolerance: as in `check_equivariance`. State `outputs` where you know them: with
            ``"auto"`` an output is held to the best of several readings.

    Raises:
        AssertionError: an output deviates by more than the tolerance, or is the same for every sequence.
        NeedsChoiceError, TraceError, TypeError, ValueError: as in `check_equivariance`.
    """
    report = check_equivariance(model, example, inputs=inputs, outputs=outputs, layout=layout, tolerance=tolerance)
    if not report:
        raise AssertionError(f"{type(model).__name__} is {report}")
    constant = _constant_outputs(model, read_call(model, example, inputs), inputs, layout)
    if constant:
        raise AssertionError(
            f"{type(model).__name__}: output {', '.join(map(str, constant))} is the same for every sequence, so "
            "nothing was tested; give it weights that are not zero"
        )


@alone
def _constant_outputs(model: nn.Module, example: Example, inputs: Any, layout: Any) -> list[int]:
    """The outputs of real numbers that two random inputs give alike."""
    probe = Probe(model, example, *input_actions(example, inputs, layout))
    one, other = (output_leaves(probe.outputs(probe.inputs(seed))) for seed in (0, 1))
    real = [isinstance(y, Tensor) and y.is_floating_point() for y in one]
    return [i for i, is_real in enumerate(real) if is_real and torch.equal(one[i], other[i])]
