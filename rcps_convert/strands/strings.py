"""Both strands as strings: for tokenizers that cut the reverse complement of a string into other tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..algebra.arguments import check_choice, check_model
from ..algebra.opened import flatten
from ..algebra.specs import reverse_complement
from ..errors import BreaksSymmetryError
from .conjoined import MERGES, Merge


class ConjoinedStrings(nn.Module):
    """A model that is called with strings of DNA, and reads both strands of each; see `conjoined_strings`.

    Attributes:
        model: the model, as it was.
    """

    def __init__(self, model: nn.Module, tokenize: Callable[[list[str]], Any], merge: Merge) -> None:
        super().__init__()
        self.model, self.tokenize, self.merge = model, tokenize, merge

    def forward(self, strings: Sequence[str], **given: Any) -> Any:
        """The merged readings.

        Args:
            strings: N sequences.
            given: further arguments of the model; tensors with N entries on the first axis are repeated.

        Raises:
            BreaksSymmetryError: an output has entries along the sequence.
            ValueError: a letter has no complement.
        """
        if isinstance(strings, str) or not all(isinstance(s, str) for s in strings):
            raise TypeError(f"strings={strings!r}: give a list of strings, such as ['ACGT', 'GATTACA']")
        both = [text for s in strings for text in (s, str(reverse_complement(s)))]
        ids, device = self.tokenize(both), next((p.device for p in self.parameters()), None)
        ids = {k: _moved(v, device) for k, v in ids.items()} if isinstance(ids, Mapping) else _moved(ids, device)
        n = len(strings)
        beside = {k: v.repeat_interleave(2, 0) if _is_batch(v, n) else v for k, v in given.items()}
        output = self.model(**ids, **beside) if isinstance(ids, dict) else self.model(ids, **beside)
        leaves, again = flatten(output)
        return again([self._merged(y, n) for y in leaves])

    def _merged(self, y: Any, n: int) -> Any:
        if not isinstance(y, Tensor) or y.dim() == 0:
            return y
        if y.dim() > 2 or y.shape[0] != 2 * n:
            raise BreaksSymmetryError(
                f"an output of shape {tuple(y.shape)} for {2 * n} strings, both strands of {n}",
                why="the two strands are cut into other tokens, so entries along one have no partner along the other",
                do="return one row per string: pool over the tokens, or read the first one",
            )
        ours, theirs = y.unflatten(0, (n, 2)).unbind(1)
        return (MERGES[self.merge] if isinstance(self.merge, str) else self.merge)(ours, theirs)


def _moved(value: Any, device: torch.device | None) -> Any:
    return value.to(device) if isinstance(value, Tensor) and device is not None else value


def _is_batch(value: Any, n: int) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == n


def conjoined_strings(
    model: nn.Module, tokenize: Callable[[list[str]], Any], *, merge: Merge = "mean"
) -> ConjoinedStrings:
    """A model of strings that gives the same result for a sequence and its reverse complement, whatever its tokens are.

    Both strands of each string are tokenized, run as one batch, and their results merged. For byte-pair encoding and
    for k-mers that do not overlap, whose ids no permutation mirrors. Where one does, `convert_model` with `Tokens` and
    ``strategy="conjoined"`` takes ids and keeps the model's class.

    Args:
        model: returns one row per string; used as it is, not copied.
        tokenize: from a list of strings to what the model is called with: a tensor, or a mapping of arguments.
        merge: ``"mean"``, ``"sum"``, ``"max"``, or a symmetric function of two tensors.

    Returns: a module that is called with a list of strings.

    Raises:
        TypeError, ValueError: an argument is not what it takes.
    """
    check_model(model)
    if not callable(tokenize):
        raise TypeError(f"tokenize={tokenize!r}: give a function from strings to what the model is called with")
    if not callable(merge):
        check_choice("merge", merge, (*MERGES,))
    return ConjoinedStrings(model, tokenize, merge)
