"""Run the rows and write docs/compatibility.md: ``python -m tests.compatibility [WORD ...]``.

With words, only rows with one of them in their group or name are run; the others keep their cells, as do those whose
packages are not installed.
"""

from __future__ import annotations

import sys

from . import ROWS, STRATEGIES
from .page import PAGE, cells, page


def main(words: list[str]) -> None:
    """Run rows, and write the page."""
    known = cells(PAGE.read_text(encoding="utf-8")) if PAGE.exists() else {}
    for row in ROWS:
        wanted = not words or any(word.lower() in f"{row.group} {row.name}".lower() for word in words)
        if wanted and row.can_run():
            for strategy in STRATEGIES:
                try:
                    known[row.name, strategy] = row.cell(strategy)
                except Exception as error:
                    known[row.name, strategy] = "?"
                    print(f"{row.name}, {strategy}: {type(error).__name__}: {str(error)[-1500:]}")
            print(row.name, [known[row.name, s] for s in STRATEGIES], flush=True)
            PAGE.write_text(page(known), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
