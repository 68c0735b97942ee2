"""Writes the listing of the package into how-it-works.md, from the first line of each file.

python docs/package_listing.py
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "rcps_convert"
PAGE = ROOT / "docs" / "how-it-works.md"
ORDER = ("_torch", "algebra", "geometry", "graph", "tie", "measure", "rules", "infer", "strands", "convert")
"""Folders in the order of their imports: each may import from those before it."""


def said(path: Path) -> str:
    """The first line of a file's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").splitlines()[0]


def siblings(path: Path) -> set[str]:
    """Files of the same folder that a file imports."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    own = [n for n in nodes if isinstance(n, ast.ImportFrom) and n.level == 1]
    return {n.module for n in own if n.module} | {a.name for n in own if not n.module for a in n.names}


def lines() -> Iterator[str]:
    """Folders in the order of their imports, and in each the files likewise; folders inside of it come last."""
    for name in ORDER:
        inside = sorted(p.parent for p in (PACKAGE / name).glob("*/__init__.py"))
        for folder in (PACKAGE / name, *inside):
            yield f"{folder.relative_to(PACKAGE).as_posix() + '/':<24}{said(folder / '__init__.py')}"
            files = {p.stem: p for p in sorted(folder.glob("*.py")) if p.stem != "__init__"}
            graph = {stem: sorted(siblings(path) & files.keys()) for stem, path in files.items()}
            for stem in TopologicalSorter(graph).static_order():
                yield f"  {stem + '.py':<22}{said(files[stem])}"


def page(text: str) -> str:
    """The page with its listing replaced."""
    listing = "```text\n" + "\n".join(lines()) + "\n```"
    return re.sub(r"(?<=<!-- listing -->\n).*?(?=\n<!-- end -->)", lambda _: listing, text, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"wrote {PAGE}")
