"""What a plan knows of the model it was made for, and whether another model is like it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConversionError
from .given import print_of
from .outline import Outline, outline


@dataclass(frozen=True)
class Architecture:
    """The parts of a model that its analysis looked at.

    Attributes:
        classes: of the modules, by path.
        parameters, buffers: shapes, by name.
        constants: values of the buffers that were taken for constants, by name.
        outline: the same for files: without the places where classes are defined.
        code: a fingerprint of the code of forward, and of the settings that it reads.
    """

    classes: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    buffers: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    constants: Mapping[str, Tensor] = field(default_factory=dict)
    outline: Outline = field(default_factory=dict)
    code: str = ""

    @classmethod
    def of(cls, model: nn.Module, constants: Collection[str] = ()) -> Architecture:
        """The architecture of a model.

        Args:
            model: not touched.
            constants: names of the buffers whose values were taken for constants.
        """
        buffers = dict(model.named_buffers(remove_duplicate=False))
        return cls(
            {path: _class_name(m) for path, m in model.named_modules(remove_duplicate=False)},
            {name: _shape(p) for name, p in model.named_parameters(remove_duplicate=False)},
            {name: _shape(b) for name, b in buffers.items()},
            {name: b.detach().clone() for name, b in buffers.items() if name in constants},
            outline(model),
            print_of(model),
        )

    def require(self, model: nn.Module) -> None:
        """State that a model has this architecture.

        Raises:
            ConversionError: it has not; the message names the first difference.
        """
        for name, planned, found in self._differences(Architecture.of(model, self.constants)):
            raise ConversionError(
                f"the plan was made for another model: {name or 'the model itself'}",
                got=f"{found}, planned {planned}",
                why="a plan holds for one architecture, and for the values of the buffers that its forward reads",
                do="make a plan for this model with plan_conversion",
            )

    def _differences(self, other: Architecture) -> Iterator[tuple[str, Any, Any]]:
        kinds = [
            ("module", self.classes, other.classes),
            ("parameter", self.parameters, other.parameters),
            ("buffer", self.buffers, other.buffers),
        ]
        for kind, mine, theirs in kinds:
            for name in {**mine, **theirs}:
                if mine.get(name) != theirs.get(name):
                    yield name, mine.get(name, f"no such {kind}"), theirs.get(name, f"no such {kind}")
            for planned, found in zip(mine, theirs, strict=False):  # in which order forward may go through them
                if planned != found:
                    yield found, f"{planned} in its place", f"{found} before it"
        for name, value in self.constants.items():
            if not _same_values(value, other.constants[name]):
                yield name, "the values of the model it was made for", "a buffer of other values"


def _class_name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _shape(value: Tensor) -> tuple[int, ...]:
    lazy = isinstance(value, (nn.parameter.UninitializedParameter, nn.parameter.UninitializedBuffer))
    return () if lazy else tuple(value.shape)


def _same_values(a: Tensor, b: Tensor) -> bool:
    """Whether two buffers are equal, in the coarser of their precisions."""
    a, b = a.cpu(), b.cpu()
    return torch.equal(a.nan_to_num(), b.to(a.dtype).nan_to_num()) or torch.equal(
        a.to(b.dtype).nan_to_num(), b.nan_to_num()
    )
