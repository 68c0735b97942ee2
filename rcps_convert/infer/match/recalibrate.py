"""Batch-norm statistics of a converted model, computed anew from inputs without labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..._torch import NormBase
from ...algebra.arguments import Example, check_model
from ...errors import ConversionError
from ...graph.export import does_not_run
from ...graph.sandbox import alone, call
from ...graph.transaction import all_or_nothing

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def recalibrate(
    model: nn.Module, batches: Any, *, progress: Callable[[int, int | None], object] | None = None
) -> nn.Module:
    """Compute the running statistics of every norm layer anew, from inputs without labels.

    Tied weights that are averages have activations of another spread than the trained model's had, so kept
    statistics no longer fit. The model runs once on each batch, in eval mode but for its norm layers, which
    standardise by the batch and average what they see. Weights, modes and gradients stay as they are.

    Args:
        model: a converted model, of any strategy, or a plain one; changed in place.
        batches: calls as ``model(...)`` takes them: a tensor, a tuple of arguments or a dict of keyword arguments, or
            an iterable of such. Large batches (100 samples and more) give better statistics.
        progress: called after each batch with the number of batches done, and of all where that is known.

    Returns: the same object.

    Raises:
        TypeError: `batches` is something else.
        ValueError: there is no batch.
        TraceError: the model does not run on a batch.

    Source: Jordan et al. 2022, REPAIR, section 3 (recalibrated statistics of merged networks).
    """
    check_model(model)
    one = isinstance(batches, (Tensor, tuple, Mapping))
    if not one and (isinstance(batches, str) or not isinstance(batches, Iterable)):
        raise TypeError(
            f"batches is a {type(batches).__name__}: give inputs of the model (a tensor, a tuple or a dict), or an "
            "iterable of such"
        )
    given = [batches] if one else batches
    all_or_nothing(model, lambda: _run(model, given, progress))
    return model


@alone
def _run(model: nn.Module, batches: Iterable[Example], progress: Callable[[int, int | None], object] | None) -> None:
    norms = [m for m in model.modules() if isinstance(m, NormBase) and m.running_mean is not None]
    total = len(batches) if isinstance(batches, Sized) else None
    done = 0
    with torch.no_grad(), _gathering(model, norms):
        for batch in batches:
            try:
                call(model, batch)
            except ConversionError:
                raise
            except Exception as reason:
                raise does_not_run(reason, "batches[...]") from reason
            done += 1
            if progress is not None:
                progress(done, total)
    if not done:
        raise ValueError("batches holds no inputs: the statistics would be those of nothing")


@contextmanager
def _gathering(model: nn.Module, norms: list[Any]) -> Iterator[None]:
    """Norm layers average what they see from now on, everything else is in eval mode."""
    modes = [(m, m.training) for m in model.modules()]
    momenta = [m.momentum for m in norms]
    model.eval()
    for m in norms:
        m.reset_running_stats()
        m.momentum = None
        m.train()
    try:
        yield
    finally:
        for m, was in modes:
            m.training = was
        for m, momentum in zip(norms, momenta, strict=True):
            m.momentum = momentum
