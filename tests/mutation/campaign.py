"""Many mutants judged: the tests chosen for each, results as JSON lines, the table."""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest

from . import session as judge
from .draw import FOLDERS
from .live import Living
from .operators import Mutant

SURVIVORS = Path(__file__).parent / "survivors.json"
"""Mutants that may survive, each with the reason."""


class Coverage:
    """Which tests run which lines.

    Args:
        path: the notes of `session.record`.
    """

    def __init__(self, path: Path) -> None:
        self.seconds: dict[str, float] = {}
        self.failing: list[str] = []
        self.by_line: dict[tuple[str, int | None], set[str]] = defaultdict(set)
        for line in path.read_text().splitlines() if path.exists() else []:
            note = json.loads(line)
            if not note["passed"]:
                self.failing.append(note["test"])
                continue
            self.seconds[note["test"]] = note["seconds"]
            for file, numbers in note["lines"].items():
                same = note["sources"][file] == judge.digest(file)  # else the file has been edited, and lines moved
                for number in numbers if same else [None]:
                    self.by_line[file, number].add(note["test"])

    def runs(self, mutant: Mutant) -> bool:
        """Whether some test runs the line of a mutant; otherwise it counts at import, if at all."""
        return mutant.live and bool(self._running(mutant))

    def _running(self, mutant: Mutant) -> set[str]:
        nothing: set[str] = set()
        return self.by_line.get((mutant.file, mutant.line), nothing) | self.by_line.get((mutant.file, None), nothing)

    def tests(self, mutant: Mutant, budget: float) -> list[str]:
        """The tests that may notice a mutant: those that run its line or what it decorates, else all of its folder.

        The quickest first, as they look at the least, for half of the time; then one of each test function in turn.

        Args:
            mutant: a mutant.
            budget: seconds that they may take when nothing is wrong.
        """
        found = self._running(mutant)
        if not found:
            own = {str(Path(p).relative_to(judge.TESTS.parent)) for p in judge.files([mutant.file.split("/")[0]])}
            found = {t for t in self.seconds if t.partition("::")[0] in own}
        quick = self._within(sorted(found, key=lambda t: (self.seconds[t], t)), budget / 2)
        return quick + self._within(self._in_turn(found - set(quick)), budget - sum(self.seconds[t] for t in quick))

    def _within(self, tests: Iterable[str], budget: float) -> list[str]:
        """The first tests that take so long; one at least."""
        chosen, spent = [], 0.0
        for test in tests:
            spent += self.seconds[test]
            if spent > budget and chosen:
                break
            chosen.append(test)
        return chosen

    def _in_turn(self, tests: Iterable[str]) -> list[str]:
        functions: dict[str, list[str]] = defaultdict(list)
        for test in sorted(tests, key=lambda t: (self.seconds[t], t)):
            functions[test.partition("[")[0]].append(test)
        return [t for row in zip_longest(*functions.values()) for t in row if t is not None]


class Campaign:
    """Judges mutants and writes what became of them.

    Args:
        coverage: file of `session.record`.
        out: JSON lines; mutants that it has are not judged again.
        jobs: processes at a time.
        budget: seconds of tests for each mutant.
    """

    def __init__(self, coverage: Path, out: Path, jobs: int, budget: float) -> None:
        self.notes, self.out, self.jobs, self.budget = coverage, out, jobs, budget
        self.lines = latest(out)

    def baseline(self) -> list[str]:
        """Note what the tests run that are not noted yet; the tests that fail on the plain package."""

        def work(session: pytest.Session, items: dict[str, pytest.Item]) -> None:
            judge.record(session, items, known, self.notes)

        known = set((c := Coverage(self.notes)).seconds) | set(c.failing)
        in_child(lambda: started(work))
        return Coverage(self.notes).failing

    def run(self, mutants: list[Mutant], minutes: float) -> None:
        """Judge those that have no result: changes inside of functions first, then those made at import."""
        end = time.monotonic() + 60 * minutes
        coverage = Coverage(self.notes)
        left = [m for m in mutants if m.key not in self.lines]
        in_child(lambda: self._live([m for m in left if coverage.runs(m)], coverage, end))
        self.lines = latest(self.out)
        again = {key for key, line in self.lines.items() if line["outcome"] == "import"}
        self._at_import([m for m in left if not coverage.runs(m) or m.key in again], coverage, end)
        self.lines = latest(self.out)

    def _live(self, mutants: list[Mutant], coverage: Coverage, end: float) -> None:
        def work(session: pytest.Session, items: dict[str, pytest.Item]) -> None:
            children, living = judge.Children(self.jobs, self._write), Living()
            gc.freeze()
            for m in mutants:
                if time.monotonic() > end:
                    break
                names = [t for t in coverage.tests(m, self.budget) if t in items]
                chosen = [items[t] for t in names]
                limit = judge.SLOWER * sum(coverage.seconds[t] for t in names) + 20
                children.fork(m, lambda m=m, chosen=chosen: judge.judged(m, living, session, chosen), limit)
            children.finish()

        if mutants:
            started(work)

    def _at_import(self, mutants: list[Mutant], coverage: Coverage, end: float) -> None:
        children = judge.Children(self.jobs, self._write)
        for m in mutants:
            if time.monotonic() > end:
                break
            names = coverage.tests(m, self.budget)
            used = {t.partition("::")[0] for t in names}
            paths = [p for p in judge.files(FOLDERS) if str(Path(p).relative_to(judge.TESTS.parent)) in used]
            limit = judge.SLOWER * sum(coverage.seconds[t] for t in names) + 40
            children.fork(m, lambda m=m, p=paths, n=names: judge.judged_at_import(m, p, n), limit)
        children.finish()

    def _write(self, mutant: Mutant, result: dict) -> None:
        line = {"mutant": mutant.key, "line": mutant.line, **result}
        with self.out.open("a") as stream:
            stream.write(json.dumps(line) + "\n")
        print(f"{result['outcome']:9}{mutant.key}  [{result.get('by')}]", flush=True)


def started(work: Callable[[pytest.Session, dict[str, pytest.Item]], None]) -> None:
    """Collect all quick tests of the plain package and hand them to a function."""
    if not judge.start(judge.files(FOLDERS), work):
        raise RuntimeError("the tests of the plain package cannot be collected")


def in_child(work: Callable[[], Any]) -> None:
    """Do something in a forked process, which leaves this one as it is."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            work()
            sys.stdout.flush()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(1)
    if os.waitpid(pid, 0)[1]:
        raise RuntimeError("the process that runs the tests ended early")


def latest(path: Path) -> dict[str, dict]:
    """The last result of each mutant."""
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {line["mutant"]: line for line in lines}


def accepted() -> dict[str, str]:
    """The reasons of the mutants that may survive."""
    return json.loads(SURVIVORS.read_text())


def table(mutants: list[Mutant], lines: dict[str, dict]) -> str:
    """What became of the mutants of each folder, as Markdown."""
    rows = ["| Folder | Judged | Killed | Survived, accepted | Survived | Kill rate |", "|---|---|---|---|---|---|"]
    counts: dict[str, Counter[str]] = {folder: Counter() for folder in (*FOLDERS, "all")}
    for m in (m for m in mutants if m.key in lines):
        outcome = lines[m.key]["outcome"]
        kind = "accepted" if outcome == "survived" and m.key in accepted() else outcome
        counts[m.file.split("/")[0]][kind] += 1
        counts["all"][kind] += 1
    for folder, n in counts.items():
        judged = n.total()
        rate = f"{n['killed'] / judged:.1%}" if judged else "-"
        rows.append(f"| {folder} | {judged} | {n['killed']} | {n['accepted']} | {n['survived']} | {rate} |")
    return "\n".join(rows)
