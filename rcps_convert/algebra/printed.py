"""What is printed of plans and reports: a summary, and tables; as text, and as HTML whose tables fold."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby


@dataclass(frozen=True)
class Section:
    """A part of what is printed: a table, or lines.

    Attributes:
        title: what it shows; HTML folds the part behind it.
        header: of the columns.
        rows: of the table.
        lines: text.
    """

    title: str
    header: tuple[str, ...] = ()
    rows: Sequence[tuple[str, ...]] = ()
    lines: Sequence[str] = ()

    def text(self) -> list[str]:
        """The part as lines."""
        return columns([self.header, *self.rows]) if self.rows else list(self.lines)

    def html(self) -> str:
        """The part behind its title."""
        inner = table([self.header, *self.rows]) if self.rows else _preformatted(self.lines)
        count = len(self.rows) or len(self.lines)
        return f"<details><summary>{html.escape(self.title)} ({count})</summary>{inner}</details>"


@dataclass(frozen=True)
class Printed:
    """What is printed of something.

    Attributes:
        title: one line.
        summary: names and texts, the most important facts.
        sections: the rest; parts with nothing in them are left out.
    """

    title: str
    summary: Sequence[tuple[str, str]] = ()
    sections: Sequence[Section] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [self.title, *columns(self.summary)]
        for i, section in enumerate(self._filled()):
            lines += ["", *section.text()] if i or self.summary else section.text()
        return "\n".join(lines)

    def html(self) -> str:
        """A page: the summary, and the sections folded."""
        head = f"<b>{html.escape(self.title)}</b>{table(self.summary) if self.summary else ''}"
        parts = "".join(section.html() for section in self._filled())
        return f'<div style="max-width:100%;overflow-x:auto">{head}{parts}</div>'

    def _filled(self) -> list[Section]:
        return [s for s in self.sections if s.rows or s.lines]


def columns(rows: Iterable[Sequence[str]]) -> list[str]:
    """Rows as indented lines, their cells below each other; the last column is as wide as it is."""
    rows = list(rows)
    if not rows:
        return []
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]) - 1)]
    return ["  " + "  ".join([*(c.ljust(w) for c, w in zip(r, widths, strict=False)), r[-1]]).rstrip() for r in rows]


def table(rows: Iterable[Sequence[str]]) -> str:
    """Rows as a table in HTML."""
    body = "".join("<tr>" + "".join(_cell(c) for c in cells) + "</tr>" for cells in rows)
    return f"<table>{body}</table>"


def _cell(text: str) -> str:
    return f'<td style="text-align:left;white-space:normal">{html.escape(text)}</td>'


def _preformatted(lines: Sequence[str]) -> str:
    return f'<pre style="white-space:pre-wrap">{html.escape(chr(10).join(lines))}</pre>'


# --- what is alike is said once -----------------------------------------------------------------


def alike(items: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Texts with the paths they are said of, those of equal texts and alike paths put together.

    Args:
        items: paths and texts, in order.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for path, text in items:
        found.setdefault((pattern(path), text), []).append(path)
    return [(together(paths), text) for (_, text), paths in found.items()]


def pattern(path: str) -> str:
    """What alike paths have in common: they differ in numbers only."""
    return re.sub(r"\d+", "*", path)


def listed(paths: Iterable[str]) -> str:
    """Paths, alike ones put together: ``stem, blocks.0-3.norm``."""
    return ", ".join(path for path, _ in alike((path, "") for path in paths))


def together(paths: Sequence[str]) -> str:
    """Alike paths as one: ``blocks.0.conv1``, ``blocks.0.conv2``, ``blocks.1.conv1`` ... as ``blocks.0-1.conv1-2``.

    Where not every combination of the numbers occurs, the first paths are named.
    """
    parts = [re.split(r"(\d+)", path) for path in paths]
    values = [list(dict.fromkeys(place)) for place in zip(*parts, strict=True)]
    if math.prod(map(len, values)) == len(paths):
        return "".join(_ranges(v) if len(v) > 1 else v[0] for v in values)
    return ", ".join([*paths[:2], f"... ({len(paths)} in all)"] if len(paths) > 3 else paths)


def _ranges(numbers: Sequence[str]) -> str:
    """Numbers in order, neighbours as a range: ``0-3,5``."""
    runs = []
    for _, run in groupby(enumerate(sorted(map(int, numbers))), lambda pair: pair[1] - pair[0]):
        values = [n for _, n in run]
        runs.append(str(values[0]) if len(values) == 1 else f"{values[0]}-{values[-1]}")
    return ",".join(runs)
