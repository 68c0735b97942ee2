"""Symmetrisation at a boundary: a submodule runs on its inputs and on their mirror images.

Used for a read-out behind a nonlinearity (conv -> ReLU -> pool -> output), whose filters would
otherwise be forced to be palindromes, and for what no rule covers: the weights of the submodule stay
untied, and its two readings, the second mapped back, are averaged.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .._torch import unseen
from ..algebra import axis as ax
from ..algebra.action import Action, ActionMap
from ..errors import ConversionError
from ..graph.closed_modules import Bundle
from ..graph.sandbox import fresh_copy
from .hooks import StrandHook, hook_of, install, uninstall
from .passage import Passage


class BothStrands(StrandHook):
    """Runs a module on both strands and averages the two readings, the second mapped back.

    Args:
        passage: how reverse complement acts on its tensors, and whether both strands fit into one batch.
    """

    def __init__(self, passage: Passage) -> None:
        self.passage = passage
        self.given = [None if a is None else ActionMap(a) for a in passage.given]
        self.made = [ActionMap(a) for a in passage.made]
        axes = [
            *zip(passage.given, passage.given_batch, strict=False),
            *zip(passage.made, passage.made_batch, strict=False),
        ]
        self.by_sample = all(_is_batch(a, dim) for a, dim in axes if a is not None and dim is not None)

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """Both strands on the batch axes; where they do not fit there, the arguments as they are."""
        if not self.passage.stacks:
            return args, kwargs
        bundle = Bundle.of((args, kwargs))
        with unseen():
            pairs = zip(bundle.tensors, self._mirrored(module, bundle), self.passage.given_batch, strict=True)
            return bundle.filled([x if dim is None else self._stacked(x, y, dim) for x, y, dim in pairs])

    def _stacked(self, x: Tensor, y: Tensor, dim: int) -> Tensor:
        """Both strands on a batch axis: sample by sample, so that what halves a batch halves it between samples.

        One after the other where the axis holds more than samples.
        """
        return torch.stack([x, y], dim + 1).flatten(dim, dim + 1) if self.by_sample else torch.cat([x, y], dim)

    def _apart(self, y: Tensor, dim: int) -> tuple[Tensor, ...]:
        """The two readings of a result."""
        return y.unflatten(dim, (y.shape[dim] // 2, 2)).unbind(dim + 1) if self.by_sample else y.chunk(2, dim)

    def after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """The mean of the two readings, the second mapped back."""
        bundle = Bundle.of(output)
        if self.passage.stacks:
            batches = [d for d in self.passage.made_batch if d is not None]
            with unseen():
                halves = [self._apart(y, d) for y, d in zip(bundle.tensors, batches, strict=True)]
        else:
            given = Bundle.of((args, kwargs))
            with unseen():
                again, names = given.filled(self._mirrored(module, given))
            halves = [*zip(bundle.tensors, Bundle.of(module.forward(*again, **names)).tensors, strict=True)]
        with unseen():
            try:
                return bundle.filled([(a + back(b)) / 2 for back, (a, b) in zip(self.made, halves, strict=True)])
            except ConversionError as fact:
                raise _at_other_shape(module, fact) from fact

    def _mirrored(self, module: nn.Module, given: Bundle) -> list[Tensor]:
        """The tensors a module is given, as the other strand has them."""
        if len(given.tensors) != len(self.given):
            raise ConversionError(
                f"a {type(module).__name__} that runs on both strands is called in another way than at conversion",
                got=f"{len(given.tensors)} tensors, {len(self.given)} at conversion",
                why="how reverse complement acts on each of them was found at conversion",
                do="convert with an example that calls it the way it is used",
            )
        try:
            return [x if other is None else other(x) for other, x in zip(self.given, given.tensors, strict=True)]
        except ConversionError as fact:
            raise _at_other_shape(module, fact) from fact


def _is_batch(action: Action, dim: int) -> bool:
    """Whether an axis holds samples and nothing else."""
    role = ax.role(action.axes[dim])
    return isinstance(ax.walk(action.axes[dim]), ax.Leaf) and role is not None and role.name == "batch"


def _at_other_shape(module: nn.Module, fact: ConversionError) -> ConversionError:
    """What a call at a shape that was not converted for is told."""
    return ConversionError(
        f"a {type(module).__name__} that runs on both strands was called at other lengths than at conversion",
        got=f"{fact.what}",
        why=fact.why,
        do="call the model at the length of its example, or convert it with an example of this length",
    )


def symmetrise(module: nn.Module, passage: Passage) -> None:
    """Attach `BothStrands` to a module, in place of one it may have."""
    uninstall(module)
    install(module, BothStrands(passage))


def symmetrised(model: nn.Module) -> list[str]:
    """The paths of the modules that run on both strands."""
    return [path for path, module in model.named_modules() if isinstance(hook_of(module), BothStrands)]


def unsymmetrised(model: nn.Module) -> nn.Module:
    """A copy of a model in which no module runs on both strands."""
    twin = fresh_copy(model)
    for path in symmetrised(twin):
        uninstall(twin.get_submodule(path))
    return twin
