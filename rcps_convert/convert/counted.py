"""The refusal of a model whose forward takes another way once it has counted far enough, or at random."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn

from ..algebra.arguments import Example
from ..errors import BreaksSymmetryError, ConversionError, Where
from ..geometry import UnplannedCallError
from ..measure.counted import Elsewhere, elsewhere, goes_at_random
from ..measure.verification import Verification

UNDECIDED = ("noise", "precision", "dtype")
"""Causes of a deviation that say nothing of the way forward takes."""


def counted(
    model: nn.Module, converted: nn.Module, example: Example, measure: Callable[[nn.Module, Example], Verification]
) -> list[ConversionError]:
    """What stands in the way of converting a model that counts, or sets other values of Python's own.

    Args:
        model, converted: before and after; not touched.
        example: what it is called with.
        measure: the check of the law for a model.
    """
    for other in elsewhere(model, converted, example):
        try:
            found = measure(other.model, example)
        except Exception:  # such a call is refused, or ends in an error of the model's own
            continue
        if not found.passed and found.varied and found.error < float("inf") and found.cause not in UNDECIDED:
            return [_refusal(other, found)]
    return []


@contextmanager
def ways_at_random_named(model: nn.Module, example: Example) -> Iterator[None]:
    """Say of a call that was not traced whether it is made at random.

    Args:
        model: not touched.
        example: what it is called with.

    Raises:
        BreaksSymmetryError: the block met a call that was not traced, and with other random numbers the train-mode
            forward makes other calls.
    """
    try:
        yield
    except UnplannedCallError as reason:
        if not goes_at_random(model, example):
            raise
        raise BreaksSymmetryError(
            "forward takes one way or another at random in train mode",
            where=reason.where,
            got=reason.what,
            why="a trace holds the way that was drawn, and how reverse complement acts on the others is not known",
            do="draw in the data loader what changes sequences at random (a shift, a reverse complement: a tied model "
            'needs none), or compute each way and choose by torch.where; or strategy="conjoined"',
        ) from reason


def _refusal(other: Elsewhere, found: Verification) -> ConversionError:
    return BreaksSymmetryError(
        f"forward sets {other.name} itself, and with another value of it the strands disagree",
        where=Where(other.path),
        got=f"{other.name} = {other.value!r}: error {found.error:.1e}",
        why="the calls of a model bring it there, where forward takes a way that was not traced",
        do="count outside of forward, and convert a model for each way it takes; "
        'or strategy="conjoined", which reads both strands in one call',
    )
