"""Whether a model is converted already."""

from __future__ import annotations

from torch import nn

from ..strands.conjoined import Conjoined
from ..strands.mixed import Cross
from ..tie.attaching import ties
from ..tie.hooks import hook_of
from ..tie.norms import FoldedNorm, PooledNorm, keeps_statistics
from ..tie.states import SharedState


def is_converted(model: nn.Module) -> bool:
    """Whether a model carries ties or shared statistics, or reads both strands."""
    reads_both = any(hook_of(m, kind) for m in model.modules() for kind in (Cross, Conjoined))
    return bool(ties(model)) or reads_both or any(map(_shares, model.modules()))


def _shares(module: nn.Module) -> bool:
    """Whether a module shares statistics, other than those that a baked model goes on sharing."""
    pooled = hook_of(module, PooledNorm) is not None and keeps_statistics(module)
    return pooled or hook_of(module, FoldedNorm) is not None or hook_of(module, SharedState) is not None
