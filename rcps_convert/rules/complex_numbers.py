"""Complex numbers, put together and taken apart; why Fourier transforms have no rule."""

from __future__ import annotations

from typing import Any

from ..algebra import axis as ax
from ..algebra.action import Action
from .common import broadcast, sum_of
from .registry import aten, declare, rule


@rule(aten.view_as_complex.default, signs=True)
def together(node: Any, x: Action) -> Action:
    """The last axis holds the real and the imaginary parts, which stay apart."""
    ax.unify(x.axes[-1], ax.trivial(2))
    return Action(x.axes[:-1])


@rule(aten.view_as_real.default, signs=True)
def apart(node: Any, x: Action) -> Action:
    """A new last axis for the real and the imaginary parts."""
    return Action((*x.axes, ax.trivial(2)))


@rule(aten.real.default, aten.imag.default, aten._conj.default, signs=True)
@rule(aten.resolve_conj.default, signs=True)
def part(node: Any, x: Action) -> Action:
    """Linear over the real numbers, entry by entry: any action passes."""
    return x


@rule(aten.complex.default, signs=True)
def from_parts(node: Any, real: Action, imaginary: Action) -> Action:
    """Real and imaginary parts agree."""
    return sum_of(node, [real, imaginary])


@rule(aten.polar.default, because="an absolute value has no sign, and an angle turns round")
def polar(node: Any, absolute: Action, angle: Action) -> Action:
    """Absolute values and angles agree."""
    return broadcast(node, [absolute, angle])


declare(
    *(getattr(aten, f"fft_{kind}") for kind in ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft", "fft2", "ifft2")),
    *(getattr(aten, f"fft_{kind}") for kind in ("rfft2", "irfft2", "fftn", "ifftn", "rfftn", "irfftn")),
    unruled="a Fourier transform mixes all positions, and no law was found for the steps around it: a convolution by "
    "it obeys one if its kernel is one parameter that reaches equally far to both sides, and the padding is cut off",
)
