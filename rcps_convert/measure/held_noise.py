"""Random numbers held: every number of a draw is the same, so that a mirrored draw is the draw itself.

Independent noise is the same in distribution under any permutation, so a model that adds it may obey the law in
distribution. To measure that, both readings must see the same noise, each in its own places.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._torch import DispatchMode, draws_random_numbers, pytree
from ..graph.sandbox import fix_randomness

BASE = 10_000
"""Between the first seeds of two runs; each draw of a run has a seed of its own."""


class HeldNoise(DispatchMode):
    """Fills what a draw returns with its first number, if nothing but random numbers is in it.

    What is drawn from given numbers (`torch.bernoulli` of probabilities, a choice among rows) is left as it is, and so
    are whole numbers: an order or a place that is drawn means something else on each entry.

    Args:
        seed: of the random numbers.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.draws = BASE * (1 + seed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not draws_random_numbers(func):
            return func(*args, **kwargs)
        self.draws += 1
        given = pytree.tree_map_only(Tensor, torch.zeros_like, (args, kwargs))
        fix_randomness(self.draws)
        drawn = func(*args, **kwargs)
        fix_randomness(self.draws)
        if isinstance(drawn, Tensor) and drawn.is_floating_point() and drawn.numel():
            again = func(*given[0], **given[1])
            if torch.equal(drawn, again):
                drawn.fill_(drawn.flatten()[0].item())
        return drawn
