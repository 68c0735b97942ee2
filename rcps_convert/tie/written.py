"""Whether tensors were written into since they were last looked at."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .._torch import is_recorded, transform_level, version


class Written:
    """The state in which some tensors were seen last; a copy, or what is loaded, has seen none."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, int]] = []

    def __reduce__(self) -> Any:
        return Written, ()

    def since(self, *tensors: Any) -> bool:
        """Whether one of the tensors is another, or has other values, than when it was asked last.

        Where calls are compiled, recorded or transformed nothing can be told, and the answer is no.
        """
        if is_recorded() or transform_level() is not None:
            return False
        now = [(t, 0 if t.is_inference() else version(t)) for t in tensors if isinstance(t, Tensor)]
        same = len(now) == len(self.seen)
        same = same and all(a is b and v == w for (a, v), (b, w) in zip(now, self.seen, strict=True))
        self.seen = now
        return not same
