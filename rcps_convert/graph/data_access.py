"""What forward does with ``.data`` while it is traced: a read is a ``detach``, a write is refused with its line."""

from __future__ import annotations

import traceback
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..errors import Where
from .program import innermost
from .writes import changed_in_forward


class DataAccess(TorchFunctionMode):
    """Lets ``.data`` be traced; ``torch.export`` itself loses sight of what it returns.

    Args:
        model: the copy that is traced.

    Raises:
        NoRuleError: forward sets the data of a parameter.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a call; of ``.data``, what stands for it."""
        if getattr(func, "__self__", None) is Tensor.data:
            if func.__name__ == "__get__":
                return args[0].detach()
            self._refuse(args[0])
            if any(b is args[0] for b in self.model.buffers()) and args[0].shape == args[1].shape:
                return args[0].detach().copy_(args[1])
        return func(*args, **(kwargs or {}))

    def _refuse(self, target: Tensor) -> None:
        """Report a parameter whose data are set; other tensors may be set."""
        name = next((n for n, p in self.model.named_parameters() if p is target), None)
        if name is not None:
            here = innermost([(f.filename, f.lineno or 0) for f in traceback.extract_stack()])
            raise changed_in_forward(name, "setting .data", Where("", here))
