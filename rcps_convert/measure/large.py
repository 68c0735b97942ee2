"""What is done only where activations are large, as behind ``(h - 50).relu()``, or while gradients are recorded.

No weight that is drawn near the model's own may open such a gate. Rules hold for all numbers; but none asks what the
samples of a batch have to do with each other, and some models are measured alone. So that is measured once more with
all parameters much larger.
"""

from __future__ import annotations

from .inputs import KINDS
from .law import CLEARLY, Allowed, Law
from .probe import Probe

TIMES_LARGER = 1e3
"""What parameters are multiplied by."""

SAMPLES = 4
"""Samples of random bases of which some are mirrored."""

SEED = 1
"""Of the random bases."""

ANEW = (101, 102, 103)
"""Seeds of weights that are drawn anew."""

HELD_BY_ALL = 1e-6
"""Largest deviation from the law of whole batches; beyond it large numbers tell of rounding."""


def blended_where_large(law: Law) -> float:
    """How far mirroring some samples moves the results of others, with large parameters; zero where that tells nothing.

    Args:
        law: measured on the usual parameters, which showed where outputs have samples.
    """
    if not law.batches or not law.any_batch:
        return 0.0
    probe, kinds = law.probe, [KINDS[0]] * max(SAMPLES, law.probe.batch or 1)
    other = Law(probe, law.outputs)
    other.batches, other.summed, other.any_batch = law.batches, law.summed, True
    with probe.multiplied(TIMES_LARGER):
        try:
            other.measure(SEED, kinds)
            error = max(other.blended[False].values(), default=0.0)
            found = CLEARLY < error < float("inf") and other.only_blended(HELD_BY_ALL)
            return error if found and other.rounding(SEED, kinds, training=False, enough=error) < error else 0.0
        except Exception:  # a model may raise anything on numbers it was not made for
            return 0.0


def fails_where_large(probe: Probe, outputs: Allowed) -> bool:
    """Whether the law clearly fails with large parameters, by more than rounding.

    Args:
        probe: a copy of a model that is measured alone.
        outputs: the actions an output may have.
    """
    with probe.multiplied(TIMES_LARGER):
        try:
            return _clearly_fails(probe, outputs)
        except Exception:  # a model may raise anything on numbers it was not made for
            return False


def fails_as_given(probe: Probe, outputs: Allowed) -> bool:
    """Whether the law clearly fails with the weights that a model has: one run more than the first tells that.

    Args:
        probe, outputs: as of `fails_where_large`; no parameter of the copy was changed.
    """
    return CLEARLY < Law(probe, outputs).as_given() < float("inf")


def error_anew(probe: Probe, outputs: Allowed) -> float:
    """How far the law clearly fails with weights unlike those of a model: a gate may be closed for all that are near.

    Args:
        probe, outputs: as of `fails_where_large`; the weights of the copy are others afterwards.
    """
    for seed in ANEW:
        probe.perturb(seed, anew=True)
        try:
            error = _clear_error(probe, outputs)
        except Exception:  # a model may raise anything on numbers it was not made for
            return 0.0
        if error:
            return error
    return 0.0


def fails_with_gradients(probe: Probe, outputs: Allowed) -> bool:
    """Whether the law clearly fails while gradients are recorded, where forward may take another way.

    Args:
        probe, outputs: as of `fails_where_large`.
    """
    probe.recorded = True
    try:
        return _clearly_fails(probe, outputs)
    finally:
        probe.recorded = False


def _clearly_fails(probe: Probe, outputs: Allowed) -> bool:
    return _clear_error(probe, outputs) > 0


def _clear_error(probe: Probe, outputs: Allowed) -> float:
    """The error of the law where it is more than rounding; else zero."""
    law, kinds = Law(probe, outputs), [KINDS[0]] * (probe.batch or 1)
    law.measure(SEED, kinds)
    error = law.error([False])
    is_clear = CLEARLY < error < float("inf")
    return error if is_clear and law.rounding(SEED, kinds, training=False, enough=error) < error else 0.0
