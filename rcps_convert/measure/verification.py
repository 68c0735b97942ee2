"""What the check of a converted model found, and what to say where it decides nothing."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..algebra.action import Action
from ..errors import VerificationError

HELD = "in distribution, with random numbers held"
"""How a model was measured that draws random numbers in eval mode."""


@dataclass(frozen=True)
class Verification:
    """What the check of a converted model found.

    Attributes:
        error: largest relative deviation over draws, modes and outputs.
        tolerance: largest deviation taken for rounding.
        dtype: the precision the check ran in.
        varied: whether the outputs depended on the sequence at all.
        modes: the modes that were run, in words.
        cause: what the deviation is due to, where running the model tells: ``"noise"``, ``"state"``,
            ``"precision"``, ``"samples"``, ``"dtype"``, or the kinds of input it shows on; None if nothing tells.
        held: random numbers were held: the law holds in distribution.
        outputs: per output leaf the action it obeys, of those it may have; None for what holds no numbers.
        own: the check in the model's own precision, in words.
        shared: in train mode samples of one batch influence each other, so the law holds for whole batches.
    """

    error: float
    tolerance: float
    dtype: torch.dtype
    varied: bool
    modes: str
    cause: str | None
    held: bool
    outputs: tuple[Action | None, ...] = ()
    own: str | None = None
    shared: bool = False

    @property
    def passed(self) -> bool:
        """Whether the law held, on outputs that depend on the input."""
        return self.error <= self.tolerance and self.varied and self.cause is None

    def __str__(self) -> str:
        name = str(self.dtype).removeprefix("torch.")
        text = (
            f"error {self.error:.1e} in {name} on randomised parameters, {self.modes} (tolerance {self.tolerance:.0e})"
        )
        text = f"{text}; {self.own}" if self.own else text
        return f"{text}; {HELD}" if self.held else text


def undecided(found: Verification) -> VerificationError | None:
    """Why a check says nothing about the law, or what it says of its failure; None where it says nothing more."""
    if found.cause is not None:
        what, why, do = _CAUSES.get(found.cause, _TIES)
        return VerificationError(what.format(found.cause), got=str(found), why=why, do=do)
    if found.error == float("inf"):
        return VerificationError(
            "the model gives infinite or undefined outputs, so nothing could be verified",
            got=str(found),
            why="it was run on random inputs (one-hot bases, non-negative tracks) with randomised parameters",
            do="look for logarithms, divisions or exponentials that leave their range, or pass verify=False",
        )
    if not found.varied:
        return VerificationError(
            "the outputs do not depend on the sequence, so nothing could be verified",
            why="random sequences gave the same outputs, with three sets of random weights",
            do="check the example's length and values, or pass verify=False to convert unchecked",
        )
    return None


_CAUSES = {
    "noise": (
        "the model draws random numbers in eval mode, so nothing could be verified",
        "two runs on the same input differ when the random seed does",
        "draw them in train mode only (if self.training:), or take them as an input; with verify=False the model is "
        "converted unchecked",
    ),
    "state": (
        "the model computes something else at every call, so nothing could be verified",
        "two runs on the same input differ: something that is no buffer was changed by the first",
        "keep no state between calls in eval mode, or hold it in a registered buffer; with verify=False the model is "
        "converted unchecked",
    ),
    "precision": (
        "the conversion cannot be verified at this precision",
        "rounding alone moves the outputs as far as they are from the law: changing the weights in their last places "
        "does so too",
        "look for differences of nearly equal numbers, comparisons of numbers that are zero but for rounding, or very "
        "deep stacks without residuals; with verify=False the model is converted unchecked",
    ),
    "samples": (
        "samples of one batch influence each other",
        "mirroring some samples of a batch changed the results of the others, or changed their own in another way "
        "than mirroring all of them",
        "check for a recurrence or attention over the batch axis, such as a forgotten batch_first=True; samples that "
        "are compared are so outside of forward, by what it returns for each",
    ),
    "dtype": (
        "the converted model is not equivariant in its own precision, though it is in float64",
        "a number that forward computes and rounds (floor, a comparison, an index) comes out otherwise in float32",
        "compute it with whole numbers, or in float64",
    ),
}
_TIES = (
    "the converted model is not equivariant on some input: {}",
    "it is on random bases; here numbers tie, and which of equal numbers is taken (by argmax, the indices of a max "
    "pool or of a maximum, a sort) goes by their place and is not mirrored",
    'use values in place of their positions (amax, softmax weights), or strategy="conjoined"; where no input is like '
    "this, verify=False converts unchecked",
)
