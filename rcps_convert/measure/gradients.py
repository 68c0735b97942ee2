"""Whether gradients obey the law: forward may change them, by a hook on a tensor or a backward pass of its own.

Where outputs obey the law, so do their gradients, ``f'(rc x) = rho f'(x)``, if forward leaves them as they are.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..algebra.action import Action, act
from ..algebra.arguments import with_leaves
from ..algebra.opened import output_leaves
from ..graph.held_objects import named_by_users_code
from ..graph.sandbox import call, fix_randomness, mode, undisturbed_rng
from .probe import Probe
from .without_dropout import InDouble, WithoutDropout

CLEARLY = {torch.float64: 1e-6}
"""Relative deviation that is no rounding; by default `ROUGHLY`."""

ROUGHLY = 1e-2
"""The same in lower precision."""

SEED = 12
"""Of the random bases."""

HOOKS = {"register_hook", "register_post_accumulate_grad_hook"}
"""Methods by which a forward changes gradients."""


def gradients_part(probe: Probe, outputs: Sequence[Action | None]) -> float:
    """How far the gradients of the two strands are apart; zero where they are not, or forward leaves them as they are.

    Args:
        probe: a copy of a model whose outputs obey the law.
        outputs: the action of each output.
    """
    if not _changes_gradients(probe.model):
        return 0.0
    drawn, generator = probe.inputs(SEED), torch.Generator().manual_seed(SEED)
    try:
        made = [_resized(y, a) for y, a in zip(output_leaves(probe.outputs(drawn)), outputs, strict=True)]
        weights = [None if y is None else torch.randn(y[0].shape, generator=generator).to(y[0]) for y in made]
        images = [None if y is None or v is None else act(y[1], v) for v, y in zip(weights, made, strict=True)]
        ours, theirs = _gradients(probe, drawn, weights), _gradients(probe, probe.mirrored(drawn), images)
    except Exception:  # a model may refuse to be differentiated
        return 0.0
    mapped = [g if a is None or g is None else act(a, g) for g, a in zip(ours[0], probe.actions, strict=True)]
    pairs = [*zip(mapped, theirs[0], strict=True), *zip(ours[1], theirs[1], strict=True)]
    found = max((_apart(a, b) for a, b in pairs if a is not None and b is not None), default=0.0)
    return found if found > CLEARLY.get(probe.dtype, ROUGHLY) else 0.0


def _changes_gradients(model: nn.Module) -> bool:
    """Whether the code of forward names what may change gradients."""
    names = named_by_users_code(model)
    held = (getattr(sys.modules.get(file), name, None) for file, read in names.globals.items() for name in read)
    own = any(isinstance(value, type) and issubclass(value, torch.autograd.Function) for value in held)
    return own or bool(names.read & HOOKS)


def _resized(y: Any, action: Action | None) -> tuple[Tensor, Action] | None:
    """An output and its action; None where it has no gradient, or the action is not known at its size."""
    if not isinstance(y, Tensor) or not y.is_floating_point() or action is None:
        return None
    found = action.walk().resized(tuple(y.shape))
    return None if found is None else (y, found)


def _gradients(probe: Probe, drawn: list[Any], weights: list[Tensor | None]) -> tuple[list[Any], list[Any]]:
    """Gradients of the weighted sum of all outputs: by input leaf, and by parameter."""
    given = [x.clone().requires_grad_() if isinstance(x, Tensor) and x.is_floating_point() else x for x in drawn]
    wide = not probe.as_given and probe.dtype == torch.float64
    with undisturbed_rng(), torch.enable_grad(), mode(probe.model, False), probe.buffers.held(False):
        fix_randomness()
        with InDouble() if wide else WithoutDropout():
            made = output_leaves(call(probe.model, with_leaves(probe.example, given)))
        total = torch.stack([(v * y).sum() for v, y in zip(weights, made, strict=True) if v is not None]).sum()
        inputs = [x for x in given if isinstance(x, Tensor) and x.requires_grad]
        trained = [p for p in probe.model.parameters() if p.requires_grad]
        found = torch.autograd.grad(total, [*inputs, *trained], allow_unused=True)
    by_leaf = {id(x): g for x, g in zip(inputs, found, strict=False)}
    return [by_leaf.get(id(x)) for x in given], [*found[len(inputs) :]]


def _apart(a: Tensor, b: Tensor) -> float:
    """How far two gradients are apart, relative to their size."""
    size = float(torch.maximum(a.abs().max(), b.abs().max())) if a.numel() else 0.0
    return float((a - b).abs().max()) / size if size else 0.0
