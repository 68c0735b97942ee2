"""Writes the page supported-operators.md from the registry of rules.

python docs/supported_operators.py
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rcps_convert import rules
from rcps_convert.rules.registry import RULES, is_pointwise

PAGE = Path(__file__).with_name("supported-operators.md")

HEAD = """# Supported operators

This page is generated from the registry of rules by `python docs/supported_operators.py`.

A model converts if each operator in its graph has a rule, and if the rule finds its law kept. Modules do not matter:
`nn.Linear`, `nn.MultiheadAttention` or a class of yours are what they compute. The tables list operators as
`torch.export` names them, with the law that their rule states. In the laws, `x`, `w`, `b` and `y` are input, weight,
bias and result; `.C` is the channel axis and `.L` the length. What an operator does not take, axes that change their
sign or ids that are permuted, is refused.

An in-place operator (`relu_`) follows the rule of its plain twin. An operator without a rule is refused, never guessed:
write [a rule](adding-a-rule.md), declare the module with [`rc_leaf`](custom.md#declare-a-module-rc_leaf), or convert
with [`on_unsupported="both_strands"`](custom.md#what-no-rule-covers-both-strands).
"""

POINTWISE = """## Everything pointwise

Operators that torch itself tags as pointwise need no rule of their own, in any overload. Their operands act alike
wherever they broadcast. A signed axis passes through functions that are odd (`tanh`, `neg`, a product) and is refused
by the others. In torch 2.13 these are:

"""


def law(function: Any) -> str:
    """What a rule states: the first line of its docstring."""
    return (inspect.getdoc(function) or "").splitlines()[0].replace("|", "\\|")


def taken(function: Any) -> str:
    """What a rule takes beside plain actions: signed axes, ids."""
    return ", ".join(word for word in ("signs", "ids") if getattr(function.facts, word))


def families() -> dict[str, dict[Any, set[str]]]:
    """Names of operators by module of rules and rule, in the order of the modules and of their lines."""
    found: dict[str, dict[Any, set[str]]] = {}
    package = rules.__name__ + "."
    mine = [(op, f) for op, f in RULES.items() if f.__module__.startswith(package)]
    mine.sort(key=lambda pair: (pair[1].__module__, inspect.unwrap(pair[1]).__code__.co_firstlineno))
    for op, function in mine:
        found.setdefault(function.__module__, {}).setdefault(function, set()).add(name(op))
    return found


def name(op: Any) -> str:
    """An operator's name without its overload; the namespace only where it is not ATen's."""
    packet = str(getattr(op, "overloadpacket", getattr(op, "__name__", op)))
    return packet.removeprefix("aten.")


def pointwise() -> list[str]:
    """Names of the operators of torch that are tagged as pointwise and have no rule of their own."""
    own, found = {name(op) for op in RULES}, set()
    for full in torch._C._dispatch_get_all_op_names():
        space, _, rest = full.partition("::")
        word, _, overload = rest.partition(".")
        if space != "aten" or word in own or word.startswith("_") or word.endswith(("_", "backward")):
            continue
        if is_pointwise(getattr(getattr(torch.ops.aten, word), overload or "default")):
            found.add(word)
    return sorted(found)


def page() -> str:
    """The text of the page."""
    parts = [HEAD]
    for module, held in families().items():
        title = (inspect.getdoc(sys.modules[module]) or "").splitlines()[0].rstrip(".")
        rows = [f"| {', '.join(f'`{n}`' for n in sorted(ops))} | {law(f)} | {taken(f)} |" for f, ops in held.items()]
        parts.append("\n".join([f"## {title}", "", "| Operators | Law | Takes |", "|---|---|---|", *rows, ""]))
    parts.append(POINTWISE + ", ".join(f"`{n}`" for n in pointwise()) + ".\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
