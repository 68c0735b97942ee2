"""TODO."""

from __future__ import annotations

from torch import nn

from ..strands.conjoined import conjoined
from ..strands.mixed import Cross
from ..tie.hooks import hook_of
from ..tie.norms import FoldedNorm, PooledNorm, keeps_statistics
from ..tie.ties import ties


def is_converted(model: nn.Module) -> bool:
    """Whether a model carries ties or shared statistics, or reads both strands."""
    return bool(ties(model)) or any(_is_shared(m) or conjoined(m) for m in model.modules())


def _is_shared(module: nn.Module) -> bool:
    """Whether a module shares statistics, other than those that a baked model goes on sharing."""
    hook = hook_of(module)
    return isinstance(hook, (FoldedNorm, Cross)) or (isinstance(hook, PooledNorm) and keeps_statistics(module))
