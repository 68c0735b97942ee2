"""What tools that explain a model need to know of a converted one: how pools read, and which filters are partners."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .._torch import ConvTransposeNd, chains, pytree
from ..algebra import axis as ax
from ..algebra.arguments import check_model
from ..errors import ConversionError
from ..geometry import Anchored, CallAxes
from ..tie.ties import RCTie
from .state import is_converted

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
"""The layers whose filters are listed."""

Rule = Callable[..., Any]
"""What a DeepLIFT implementation calls in the place of a module's backward pass."""


def deep_lift_rule(rule: Rule) -> Rule:
    """The DeepLIFT rule of a pool, for pools that were re-anchored too.

    A rule computes the pool of ``module.input`` again, as the class does, from the left edge. A re-anchored pool reads
    half of its channels from the right edge, where its length leaves a remainder. The result applies the rule to each
    reading, the second turned round, and adds up.

    Args:
        rule: that of tangermeme, called with module, gradient of the inputs and of the outputs, or of captum, called
            with module, inputs, outputs and both gradients. Either finds ``module.input`` and ``module.output``.

    Returns: a rule that is called alike. For any other module it is the one that was given.

    Example:
        >>> rules = {torch.nn.MaxPool1d: deep_lift_rule(lambda module, grad_input, grad_output: grad_input)}
    """

    @functools.wraps(rule)
    def both_edges(module: nn.Module, *given: Any, **settings: Any) -> Any:
        site = _site(module)
        return rule(module, *given, **settings) if site is None else _added(rule, module, site, given, settings)

    return both_edges


def _site(module: nn.Module) -> CallAxes | None:
    """What is known of the one call of a re-anchored pool."""
    own = module.__dict__.get("forward")
    if not isinstance(own, Anchored) or not own.table.runs or len(own.table.runs[0]) != 1:
        return None
    return own.table.find([], own.table.runs[0][0].function, module.input.shape)[0]  # type: ignore[union-attr,arg-type]


def _added(rule: Rule, module: nn.Module, site: CallAxes, given: tuple[Any, ...], settings: dict[str, Any]) -> Any:
    """The rule on the reading from the left edge and on that from the right, added up."""
    inputs: Tensor = module.input  # type: ignore[assignment]
    outputs: Tensor = module.output  # type: ignore[assignment]
    left, parts = _read_left(site, inputs), []
    try:
        for share, read, made in ((left, (), ()), (1 - left, site.reads, site.makes)):
            module.input = inputs.flip(read)
            with torch.no_grad():
                module.output = type(module).forward(module, module.input)
            before = pytree.tree_map_only(Tensor, _turned(share, read), given[-2])
            after = pytree.tree_map_only(Tensor, _turned(share, made), given[-1])
            values = (module.input, module.output)[: len(given) - 2]
            found = rule(module, *values, before, after, **settings)
            parts.append(pytree.tree_map_only(Tensor, _turned(torch.ones(()), read), found))
    finally:
        module.input, module.output = inputs, outputs
    return pytree.tree_map(torch.add, *parts)


def _turned(share: Tensor, dims: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    return lambda gradient: (gradient * share.to(gradient)).flip(dims)


def _read_left(site: CallAxes, x: Tensor) -> Tensor:
    """The part of each channel that is read from the left edge: one, none, or half."""
    if site.channel is None:
        return torch.full([1] * x.dim(), 0.5)
    count = x.shape[site.channel]
    here = torch.arange(count)
    partner = (here + count // 2) % count if site.table is None else torch.tensor(site.table)
    part = torch.where(here == partner, 0.5, (here < partner).float())
    return part.view([count if d == site.channel else 1 for d in range(x.dim())])


def filter_pairs(model: nn.Module) -> dict[str, list[tuple[int, int]]]:
    """Each filter of the tied convolutions of a model with its partner, which finds its motif on the other strand.

    Args:
        model: converted to tied weights.

    Returns: for each convolution, by path, pairs of filters, the smaller number first; ``(i, i)`` is a filter that is
        its own partner, such as a palindrome. A list of motifs needs the first of each pair.

    Raises:
        ConversionError: the model has no tied convolution.
        TypeError: it is no model.
    """
    check_model(model)
    found = {path: _pairs(module, tie) for path, module in model.named_modules() if (tie := _tie(module)) is not None}
    if not found:
        raise ConversionError(
            "the model has no tied convolution",
            got="a model that reads both strands" if is_converted(model) else "a model that is not converted",
            why="filters have partners where their weights are tied",
            do="give what convert_model(model, example) returned; every filter of a model that reads both strands "
            "finds its motif on either",
        )
    return found


def _tie(module: nn.Module) -> RCTie | None:
    chain = chains(module).get("weight") if isinstance(module, CONVOLUTIONS) else None
    return chain[0] if chain is not None and isinstance(chain[0], RCTie) else None


def _pairs(module: nn.Module, tie: RCTie) -> list[tuple[int, int]]:
    partner = ax.indices(tie.action.axes[1 if isinstance(module, ConvTransposeNd) else 0]).tolist()
    return [(i, j) for i, j in enumerate(partner) if i <= j]
