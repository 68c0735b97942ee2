"""Symmetrisation at a boundary: a submodule runs on its inputs and on their mirror images.

Used for a read-out behind a nonlinearity (conv -> ReLU -> pool -> output), whose filters would
otherwise be forced to be palindromes, and for what no rule covers: the weights of the submodule stay
untied, and its two readings, the second mapped back, are averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .action import Mirror
from .axis import Step, follows, nearest
from .cuts import Passage
from .errors import BreaksSymmetryError, ConversionError
from .geometry import unseen
from .hooks import StrandHook, drop, hook_of, install, uninstall
from .modules import fresh_copy
from .opaque import Bundle


class BothStrands(StrandHook):
    """Runs a module on both strands and averages the two readings, the second mapped back.

    Args:
        passage: how reverse complement acts on its tensors, and whether both strands fit into one batch.
    """

    def __init__(self, passage: Passage) -> None:
        self.passage = passage
        self.given = [None if a is None else Mirror(a) for a in passage.given]
        self.made = [Mirror(a) for a in passage.made]

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """Both strands on the batch axes; where they do not fit there, the arguments as they are."""
        if not self.passage.stacks:
            return args, kwargs
        bundle = Bundle.of((args, kwargs))
        with unseen():
            pairs = zip(bundle.tensors, self._mirrored(module, bundle), self.passage.given_batch, strict=True)
            return bundle.filled([x if dim is None else torch.cat([x, y], dim) for x, y, dim in pairs])

    def leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """The mean of the two readings, the second mapped back."""
        bundle = Bundle.of(output)
        if self.passage.stacks:
            batches = [d for d in self.passage.made_batch if d is not None]
            with unseen():
                halves = [y.chunk(2, d) for y, d in zip(bundle.tensors, batches, strict=True)]
        else:
            given = Bundle.of((args, kwargs))
            with unseen():
                again, names = given.filled(self._mirrored(module, given))
            halves = [*zip(bundle.tensors, Bundle.of(module.forward(*again, **names)).tensors, strict=True)]
        with unseen():
            return bundle.filled([(a + back(b)) / 2 for back, (a, b) in zip(self.made, halves, strict=True)])

    def _mirrored(self, module: nn.Module, given: Bundle) -> list[Tensor]:
        """The tensors a module is given, as the other strand has them."""
        if len(given.tensors) != len(self.given):
            raise ConversionError(
                f"a {type(module).__name__} that runs on both strands is called in another way than at conversion",
                got=f"{len(given.tensors)} tensors, {len(self.given)} at conversion",
                why="how reverse complement acts on each of them was found at conversion",
                do="convert with an example that calls it the way it is used",
            )
        return [x if other is None else other(x) for other, x in zip(self.given, given.tensors, strict=True)]


@dataclass(frozen=True)
class LengthRule:
    """At which lengths of one input operators read both edges alike.

    Attributes:
        leaf: index of the input among the leaves of the call.
        dim: its length axis.
        start: the length it was converted at, in positions.
        chains: for each way the length takes through the model, what each operator does to it.
    """

    leaf: int
    dim: int
    start: int
    chains: tuple[tuple[Step, ...], ...]

    def holds(self, length: int) -> bool:
        """Whether every operator reads both edges of this length alike."""
        return all(follows(c, length) for c in self.chains)

    def ends_well(self, length: int) -> bool:
        """Whether the last operator of each chain does; those before it may be re-anchored."""
        return all(steps[-1].aligned(_through(steps[:-1], length)) for steps in self.chains)

    def nearest(self, length: int) -> list[int]:
        """The nearest lengths below and above at which the last operators read both edges alike."""
        return nearest(length, self.ends_well)


def _through(steps: Sequence[Step], length: int) -> int:
    """A length after several operators."""
    for step in steps:
        length = step.out(length)
    return length


class LengthGuard:
    """The forward pre-hook of a converted model with windows that cannot be re-anchored.

    That is an operator with a rule of the user's own: at a length it does not fit, the model would not
    be equivariant, and nothing would show it.

    Args:
        rules: for each input with a length.
    """

    def __init__(self, rules: Sequence[LengthRule]) -> None:
        self.rules = tuple(rules)

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuse a length at which the model is not exact.

        Raises:
            BreaksSymmetryError: a window would leave a remainder at this length.
        """
        values = pytree.tree_leaves((args, kwargs))
        for rule in self.rules:
            length = values[rule.leaf].shape[rule.dim] if rule.leaf < len(values) else rule.start
            if not rule.ends_well(int(length)):
                near = " and ".join(str(n) for n in rule.nearest(int(length)))
                raise BreaksSymmetryError(
                    f"an input of {int(length)} positions, in a model converted at {rule.start}",
                    why="at this length an operator that cannot be re-anchored leaves a remainder at the right edge",
                    do=f"pad or crop the input: the nearest lengths that work are {near}; or bake the model first",
                )


def guard(model: nn.Module, rules: Sequence[LengthRule]) -> None:
    """Attach a `LengthGuard` to a model, in place."""
    model.register_forward_pre_hook(LengthGuard(rules), with_kwargs=True)


def unguard(model: nn.Module) -> None:
    """Detach every `LengthGuard` of a model."""
    for module in model.modules():
        drop(module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs, LengthGuard)


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
