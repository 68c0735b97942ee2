"""Operators that torch has under a second name, as ``torch.subtract`` for ``torch.sub``: read as the usual ones."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from .._torch import arguments, op_name, overloads

ALIASES = {
    "absolute": "abs", "arccos": "acos", "arccosh": "acosh", "arcsin": "asin", "arcsinh": "asinh", "arctan": "atan",
    "arctan2": "atan2", "arctanh": "atanh", "divide": "div", "fix": "trunc", "greater": "gt", "greater_equal": "ge",
    "less": "lt", "less_equal": "le", "linalg_matmul": "matmul", "multiply": "mul", "negative": "neg",
    "not_equal": "ne", "row_stack": "vstack", "special_digamma": "digamma", "special_erf": "erf",
    "special_erfc": "erfc", "special_erfinv": "erfinv", "special_exp2": "exp2", "special_expit": "sigmoid",
    "special_expm1": "expm1", "special_gammaln": "lgamma", "special_i0": "i0", "special_log1p": "log1p",
    "special_log_softmax": "log_softmax", "special_logit": "logit", "special_logsumexp": "logsumexp",
    "special_polygamma": "polygamma", "special_psi": "digamma", "special_round": "round", "special_sinc": "sinc",
    "special_softmax": "softmax", "special_xlogy": "xlogy", "subtract": "sub", "true_divide": "div",
}  # fmt: skip
"""Operators that torch documents as another name of one, by plain name: a trace keeps the name that was called."""


@cache
def usual(op: Any) -> Any:
    """The operator that one is another name of, ``aten.sub.Tensor`` for ``aten.subtract.Tensor``; else itself."""
    name = op_name(op)
    inplace = "_" * name.endswith("_")
    other = ALIASES.get(name.removesuffix("_"))
    if other is None or getattr(op, "namespace", "") != "aten":
        return op
    same = [o for o in overloads(getattr(torch.ops.aten, other + inplace)) if _types(o) == _types(op)]
    return same[0] if len(same) == 1 else op


def _types(op: Any) -> list[tuple[str, str]]:
    return [(a.name, str(a.type)) for a in arguments(op)]
