"""The smallest program that fails in the same way, and a snippet that shows it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from copy import deepcopy

from .grammar import Case, Drawn, Program, render

Judged = Callable[[Program], tuple[str, str]]
"""Outcome and reason of a program."""


def minimise(program: Program, judged: Judged, seconds: float = 60.0) -> Program:
    """Delta debugging: steps are left out and integers made smaller, as long as the kind of failure stays.

    Args:
        program: one that fails.
        judged: outcome and reason of a program.
        seconds: of computing, after which the smallest program so far is returned.
    """
    wanted, stop = judged(program), time.process_time() + seconds
    changed = True
    while changed:
        changed = False
        for smaller in _smaller(program):
            if time.process_time() > stop:
                return program
            alike = _alike(smaller, program)
            if (alike and _length(smaller) >= _length(program)) or (not alike and judged(smaller) != wanted):
                continue
            program, changed = smaller, True
            break
    return program


def _alike(a: Program, b: Program) -> bool:
    """Whether two programs render alike: then they need not be judged apart."""
    try:
        left, right = render(a), render(b)
    except Exception:
        return False
    return (left.source, left.ask, left.length) == (right.source, right.ask, right.length)


def _length(p: Program) -> tuple[int, int]:
    drawn = [p.start, p.read, *p.steps, *p.tail, *p.heads]
    return len(p.steps) + len(p.tail) + len(p.heads), sum(v != 0 for _, values in [*drawn, ["", p.ask]] for v in values)


def _smaller(p: Program) -> Iterator[Program]:
    """Programs with less in them, the largest cuts first."""
    for name in ("steps", "tail", "heads"):
        rows = getattr(p, name)
        for size in sorted({len(rows), (len(rows) + 1) // 2, 1}, reverse=True):
            for at in range(0, len(rows), max(size, 1)):
                kept = rows[:at] + rows[at + size :]
                if len(kept) < len(rows) and (name != "heads" or kept):
                    yield _with(p, name, kept)
    for name, simplest in (("start", "onehot"), ("read", "mean_read")):
        if getattr(p, name)[0] != simplest:
            yield _with(p, name, [simplest, [0] * 8])
    if any(p.ask):
        yield _with(p, "ask", [0] * len(p.ask))
    for at, v in enumerate(p.ask):
        if v:
            yield _with(p, "ask", [*p.ask[:at], 0, *p.ask[at + 1 :]])
    for name in ("steps", "tail", "heads"):
        for i, row in enumerate(getattr(p, name)):
            for less in _less(row):
                yield _with(p, name, [*getattr(p, name)[:i], less, *getattr(p, name)[i + 1 :]])
    for name in ("start", "read"):
        for less in _less(getattr(p, name)):
            yield _with(p, name, less)


def _less(row: Drawn) -> Iterator[Drawn]:
    name, values = row
    if any(values):
        yield [name, [0] * len(values)]
    for i, v in enumerate(values):
        for smaller in {0, v % 2, v % 3} if v > 3 else {0}:
            if v != smaller:
                yield [name, [*values[:i], smaller, *values[i + 1 :]]]


def _with(p: Program, name: str, value: object) -> Program:
    p = deepcopy(p)
    setattr(p, name, deepcopy(value))
    return p


def snippet(case: Case, seed: int, reason: str, says: str) -> str:
    """Text that rebuilds the model and converts it; it ends in the deviation where one call shows it."""
    shapes = [tuple(case.length if s == "L" else 2 if s == "N" else s for s in i.shape) for i in case.inputs]
    made = [
        f"torch.zeros{s}" if i.kind not in ("ids", "class") else f"torch.zeros({s}, dtype=torch.long)"
        for s, i in zip(shapes, case.inputs, strict=True)
    ]
    example = made[0] if len(made) == 1 else f"({', '.join(made)})"
    asked = "".join(f", {k}={v}" for k, v in case.ask.items())
    laws = [f"# under reverse complement {i.name} -> {i.law}" for i in case.inputs]
    laws += [f"# output {o.name} must become {o.law}" for o in case.outputs]
    lines = [f"# {reason}: {says}".replace("\n", "\n# "), case.source.rstrip(), "", "from rcps_convert import *", *laws]
    lines += [f"torch.manual_seed({seed})", f"model = convert_model(Net(), {example}{asked})"]
    return "\n".join(line.rstrip() for line in lines) + "\n"
