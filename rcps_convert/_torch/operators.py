"""Operators, their overloads and schemas."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch._library.custom_ops import CustomOpDef as CustomOpDef

OPERATORS: tuple[type, ...] = (torch._ops.OpOverload, torch._ops.OpOverloadPacket, torch._ops.HigherOrderOperator)
"""What torch's operators are instances of."""


def overloads(op: Any) -> list[Any]:
    """The overloads of a packet; an operator that is none, or the one that a custom operator's definition holds."""
    if hasattr(op, "overloads") and not isinstance(op, torch._ops.OpOverload):
        return [getattr(op, name) for name in op.overloads()]
    return [getattr(op, "_opoverload", op)]


def is_operator(op: Any) -> bool:
    """Whether something is an operator, a packet of its overloads, or a custom operator's definition."""
    return isinstance(op, OPERATORS) or hasattr(op, "_opoverload")


def op_name(op: Any) -> str:
    """The operator's plain name: ``conv1d`` for ``aten.conv1d.default``."""
    return str(getattr(op, "_opname", None) or getattr(op, "__name__", str(op)))


@cache
def arguments(op: Any) -> tuple[Any, ...]:
    """The arguments an operator's schema names, each with ``name`` and ``alias_info``; none if it has no schema."""
    schema = getattr(op, "_schema", None)
    return tuple(schema.arguments) if schema is not None else ()


def writes(argument: Any) -> bool:
    """Whether an operator writes into this argument."""
    return argument.alias_info is not None and bool(argument.alias_info.is_write)


def plain_twin(op: Any) -> Any:
    """The operator that an in-place one is named after; None for other operators, and if there is none."""
    name = op_name(op)
    if not arguments(op) or not name.endswith("_") or name.endswith("__"):
        return None
    packet = getattr(getattr(torch.ops, op.namespace), name[:-1], None)
    return getattr(packet, op._overloadname, None) or getattr(packet, "default", None)
