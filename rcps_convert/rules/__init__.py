"""What each operator says of the actions of its operands and result: one short function per operator family.

Importing this folder registers them. A rule of your own needs what is listed here: `rule` and its `Const`,
the `Action` of a tensor and the functions of `axis`; `refuse`, `refuse_later` and `require_unsigned` to say no;
`broadcast`, `sum_of` and `same_ids` for operands that meet; `slide`, `advance` and `padded` for windows.
"""

from ..algebra import axis
from ..algebra.action import Action
from . import (
    complex_numbers,
    conv,
    linear,
    lookup,
    loss,
    norm,
    pieces,
    places,
    pointwise,
    pool,
    recurrent,
    reduce,
    shape,
)
from . import whole as whole
from .common import advance, broadcast, padded, same_ids, slide, sum_of
from .node import RuleNode
from .registry import Const, Facts, declare, refuse, refuse_later, require_unsigned, rule

FAMILIES = (
    conv, linear, lookup, places, loss, norm, pieces, pointwise, complex_numbers, pool, recurrent, reduce, shape
)  # fmt: skip
"""The modules of rules, one per operator family."""

__all__ = [
    "FAMILIES",
    "Action",
    "Const",
    "Facts",
    "RuleNode",
    "advance",
    "axis",
    "broadcast",
    "declare",
    "padded",
    "refuse",
    "refuse_later",
    "require_unsigned",
    "rule",
    "same_ids",
    "slide",
    "sum_of",
]
