"""Whether a model is converted already."""

from __future__ import annotations

from torch import nn

from ..strands.conjoined import Conjoined
from ..strands.mixed import Cross
from ..tie.hooks import hook_of
from ..tie.norms import FoldedNorm, PooledNorm
from ..tie.ties import ties


def is_converted(model: nn.Module) -> bool:
    """Whether a model carries ties or shared statistics, or reads both strands."""
    kinds = (FoldedNorm, PooledNorm, Cross, Conjoined)
    held = any(hook_of(m, kind) for m in model.modules() for kind in kinds)
    return bool(ties(model)) or held
