"""Which mutants are judged: as many of each folder, of as many functions and kinds of change as there are."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from functools import cache
from pathlib import Path

from .operators import Mutant, mutants

PACKAGE = Path(__file__).resolve().parents[2] / "rcps_convert"

FOLDERS = ("algebra", "geometry", "tie", "measure", "rules")
"""The folders that are mutated."""


def rank(seed: int, *words: str) -> bytes:
    """A random number of a seed and words: edits elsewhere leave it as it is."""
    return hashlib.sha256("\0".join((str(seed), *words)).encode()).digest()


@cache
def all_mutants(folder: str) -> tuple[Mutant, ...]:
    """Every mutant of a folder."""
    paths = sorted((PACKAGE / folder).glob("*.py"))
    return tuple(m for p in paths for m in mutants(p.relative_to(PACKAGE).as_posix(), p.read_text()))


def order(folder: str, seed: int) -> list[Mutant]:
    """All mutants of a folder in the order in which they are drawn.

    One of each function in turn, the functions shuffled; in a function one of each kind of change in turn.
    """
    functions: dict[str, dict[str, list[Mutant]]] = defaultdict(lambda: defaultdict(list))
    for m in all_mutants(folder):
        functions[f"{m.file}:{m.scope}"][m.operator].append(m)
    placed = []
    for function, kinds in functions.items():
        turn = 0
        rows = [sorted(found, key=lambda m: rank(seed, m.key)) for found in kinds.values()]
        rows.sort(key=lambda row: rank(seed, function, row[0].operator))
        while any(rows):
            for row in (row for row in rows if row):
                placed.append((turn, rank(seed, function), row.pop(0)))
                turn += 1
    return [m for *_, m in sorted(placed, key=lambda entry: entry[:2])]


def draw(seed: int, count: int) -> list[Mutant]:
    """A number of mutants, an equal share from each folder, so ordered that each beginning is balanced too."""
    each = [order(folder, seed)[: -(-count // len(FOLDERS))] for folder in FOLDERS]
    return [m for row in zip(*each, strict=True) for m in row][:count]
