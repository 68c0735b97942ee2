"""Reverse-complement augmentation: the baseline an equivariant model is compared with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._torch import pytree
from ..errors import NeedsChoiceError
from . import axis as ax
from .action import Action, ActionMap
from .arguments import check_count, check_number
from .nesting import lay_over
from .specs import Invariant, Spec, check_ids, check_layout, read_spec


class ReverseComplementAugment:
    """Replaces random samples of a batch by their reverse complements, inputs and targets together.

    Args:
        inputs: what the inputs are, as in `convert_model`; nested like them.
        targets: what the targets are: ``"invariant"``, tracks such as ``"+-"`` (they are mirrored, and their
            strands swap), ``"antisymmetric"``; nested like them.
        layout: axes of the inputs in einops letters, or ``"auto"``.
        p: probability that a sample is replaced.
        seed: of the choices; the same seed makes the same choices.

    Example:
        >>> augment = ReverseComplementAugment(targets="+-", seed=0)
        >>> x, profile = augment(torch.rand(8, 4, 100), torch.rand(8, 2, 100))

    Raises:
        ValueError: a spec that cannot be read, or p outside of 0 to 1.
    """

    def __init__(
        self, inputs: Any = "ACGT", targets: Any = "invariant", *, layout: Any = "auto", p: float = 0.5, seed: int = 0
    ) -> None:
        check_number("probability p", p, 0, 1)
        check_count("seed", seed, low=-(2**63))
        _check_specs(inputs, "inputs")
        _check_specs(targets, "targets")
        for how in pytree.tree_leaves(layout):
            check_layout(how)
        self.inputs, self.targets, self.layout, self.p = inputs, targets, layout, p
        self.generator = torch.Generator().manual_seed(seed)

    def choose(self, samples: int) -> Tensor:
        """Which samples of the next batch are replaced, (N,)."""
        check_count("samples", samples, low=0)
        return torch.rand(samples, generator=self.generator) < self.p

    def __call__(self, x: Any, *targets: Any) -> Any:
        """The batch with random samples reverse-complemented.

        Args:
            x: a tensor, or a tuple or dict of them, each with the batch in front.
            targets: the targets, if there are any: one argument, of any nesting.

        Returns: x alone, or ``(x, target)``; new tensors.

        Raises:
            NeedsChoiceError: a tensor does not fit its spec, or has no batch in front.
        """
        if len(targets) > 1:
            raise TypeError("give one target; several go into a tuple or a dict")
        example = next((leaf for leaf in pytree.tree_leaves(x) if isinstance(leaf, Tensor) and leaf.dim()), None)
        if example is None:
            raise TypeError(f"x={x!r}: give a tensor, or a tuple or dict of them, each with the batch in front")
        chosen = self.choose(len(example))
        mirrored = _mirrored(x, self.inputs, self.layout, chosen, "inputs")
        return (mirrored, _mirrored(targets[0], self.targets, "auto", chosen, "targets")) if targets else mirrored


def _check_specs(given: Any, what: str) -> None:
    """Refuse what is no spec, in any nesting."""
    found = pytree.tree_leaves(given, is_leaf=lambda s: isinstance(s, Spec))
    for spec in found or [given]:
        read_spec(spec, what)


def _mirrored(structure: Any, given: Any, layout: Any, chosen: Tensor, what: str) -> Any:
    leaves, nesting = pytree.tree_flatten(structure)
    if not any(isinstance(leaf, Tensor) for leaf in leaves):
        raise TypeError(f"the {what} hold no tensor: {structure!r}; give tensors with the batch in front")
    specs = [read_spec(s, what) for s in lay_over(given, structure, what)]
    layouts = [layout] * len(leaves) if isinstance(layout, str) else lay_over(layout, structure, "layout")
    changed = [
        _one(leaf, spec, how, chosen, what) if isinstance(leaf, Tensor) else leaf
        for leaf, spec, how in zip(leaves, specs, layouts, strict=True)
    ]
    return pytree.tree_unflatten(changed, nesting)


def _one(x: Tensor, spec: Spec, layout: str, chosen: Tensor, what: str) -> Tensor:
    if type(spec) is Invariant:
        return x
    check_ids(spec, x)
    action = spec.action(x.shape, layout)
    if not _batched(action) or x.shape[0] != len(chosen):
        raise NeedsChoiceError(
            f"{what} of shape {tuple(x.shape)} have no batch of {len(chosen)} in front",
            why="samples are replaced one by one",
            do="give a batch whose tensors have shape (N, ...)",
        )
    keep = chosen.to(x.device).view(-1, *[1] * (x.dim() - 1))
    return torch.where(keep, ActionMap(action)(x), x)


def _batched(action: Action) -> bool:
    role = ax.role(action.axes[0]) if action.axes else None
    return role is not None and role.name == "batch"
