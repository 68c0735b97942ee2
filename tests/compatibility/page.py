"""The page docs/compatibility.md: written from cells, and read back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from . import ROWS, STRATEGIES, Row

PAGE = Path(__file__).resolve().parents[2] / "docs" / "compatibility.md"

HEAD = """# Compatibility

What torch's world does with converted models. Each cell is the result of a test with a small model (convolutions, batch
norms with an even and an odd number of channels, a pool at a length that does not divide, linear layers) converted with
that strategy: *works* means that the tool did its job and that the two strands agreed afterwards, to 1e-9 in float64 or
to the precision of the tool.

`python -m tests.compatibility` runs the rows and writes this page; `tests/test_compatibility.py` runs them again and
compares. Rows marked \\* need a package that the tests do not install, or take seconds: they run with `pytest -m slow`
where the package is there. Everything ran on a CPU, with torch 2.13.
"""

FOOT = """
AOTInductor takes inputs with the strides of its example, and does not check them: give it contiguous tensors.

What is not in the tables was not tried: several GPUs, quantisation, tensor parallelism, DeepSpeed.
What was tried on one GPU is in `tests/test_cuda.py`.
What an error means, and what to do instead, is on [After conversion](after-conversion.md).
"""

Cells = Mapping[tuple[str, str], str]


def label(row: Row) -> str:
    """The name of a row on the page."""
    return row.name + (" \\*" if row.needs or row.slow else "")


def page(known: Cells) -> str:
    """The text of the page."""
    parts = [HEAD]
    for group in dict.fromkeys(row.group for row in ROWS):
        lines = [f"## {group}", "", f"| tool | {' | '.join(STRATEGIES)} |", "|---|" + "---|" * len(STRATEGIES)]
        for row in (r for r in ROWS if r.group == group):
            lines.append(f"| {label(row)} | {' | '.join(known.get((row.name, s), '?') for s in STRATEGIES)} |")
        parts.append("\n".join([*lines, ""]))
    return "\n".join(parts) + FOOT


def cells(text: str) -> dict[tuple[str, str], str]:
    """What a page says."""
    found = {}
    names = {label(row): row.name for row in ROWS}
    for line in text.splitlines():
        parts = [part.strip() for part in re.split(r"(?<!\\)\|", line.strip("| "))]
        if parts[0] in names and len(parts) == 1 + len(STRATEGIES):
            found.update({(names[parts[0]], s): cell for s, cell in zip(STRATEGIES, parts[1:], strict=True)})
    return found
