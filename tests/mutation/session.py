"""The tests that judge: collected once, then run in a forked child for each mutant."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import sys
import tempfile
import time
import types
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from .draw import FOLDERS, PACKAGE
from .live import Importer, Living, exchange
from .operators import Mutant

TESTS = Path(__file__).resolve().parents[1]

PARTS = {
    "algebra": (
        "test_terms_in_full.py", "test_axis.py", "test_action.py", "test_augment.py", "test_arguments.py",
        "test_specs.py", "test_special_tokens.py", "test_structured_outputs.py", "test_plan_text.py",
        "test_devices.py", "test_algebra_by_hand.py",
    ),
    "geometry": (
        "test_geometry_by_hand.py", "test_edge_functions.py", "test_geometry.py", "test_transforms.py",
        "test_stock_calls.py",
    ),
    "tie": (
        "test_ties_in_full.py", "test_tie.py", "test_norm.py", "test_guards.py", "test_branches.py", "test_states.py",
        "test_life.py", "test_call_arguments.py", "test_ties_by_hand.py",
    ),
    "measure": (
        "test_verify.py", "test_along_sequence.py", "test_vmap.py", "test_measured_*.py", "test_lengths.py",
        "test_jumps.py", "test_thresholds.py", "test_ways.py", "test_mirrored_samples.py",
    ),
    "rules": ("test_rules_in_full.py", "test_rules_by_hand.py", "test_rules.py"),
}  # fmt: skip
"""The files of the quick tests of each folder; those of the other folders are run after them."""

LEFT_OUT = "not wrong_action and not every_operator and not hundred_layers"
"""Tests of tests, which judge nothing that the laws do not, and what takes a minute."""

OPTIONS = ("-m", "variation or not slow", "-k", LEFT_OUT, "-o", "addopts=", "-s")
PLUGINS_LEFT_OUT = ("terminal", "cacheprovider", "xdist", "timeout", "faulthandler")

SLOWER = 4
"""How many times its usual computing time a selection of tests may take, 20 s beside."""

MOST_CALLS = 50
"""Calls of one function whose lines are looked at, for each test."""


def files(folders: Iterable[str]) -> list[str]:
    """Test files, those of the folders in their order."""
    patterns = [p for folder in folders for p in PARTS[folder]]
    return [str(path) for p in patterns for path in sorted(TESTS.glob(p))]


class Plugin:
    """A pytest plugin that hands the collected tests to a function in place of running them.

    Args:
        work: takes the session, and the tests by their ids.
    """

    def __init__(self, work: Callable[[pytest.Session, dict[str, pytest.Item]], None]) -> None:
        self.work = work
        self.failed: bool | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Called by pytest after collection."""
        self.failed = bool(session.testsfailed)
        if not self.failed:
            self.work(session, {item.nodeid: item for item in session.items})
        return True


def start(paths: list[str], work: Callable[[pytest.Session, dict[str, pytest.Item]], None]) -> bool:
    """Collect the tests of files and hand them to a function; whether all were collected.

    Raises:
        RuntimeError: pytest did not come as far as that.
    """
    plugin = Plugin(work)
    left_out = [word for name in PLUGINS_LEFT_OUT for word in ("-p", f"no:{name}")]
    code = pytest.main([*OPTIONS, *left_out, "--rootdir", str(TESTS.parent), *paths], plugins=[plugin])
    if plugin.failed is None or code == pytest.ExitCode.INTERNAL_ERROR:
        raise RuntimeError(f"pytest ended with {code!r}")
    return not plugin.failed


def first_failure(session: pytest.Session, items: list[pytest.Item]) -> tuple[str | None, int]:
    """Run tests until one fails: its id, and how many ran."""
    for number, item in enumerate(items, 1):
        following = items[number] if number < len(items) else None
        before = session.testsfailed
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.testsfailed > before:
            return item.nodeid, number
    return None, len(items)


# --- what each test runs ----------------------------------------------------------------------------


class Tracer:
    """Notes the lines of the mutated folders that run."""

    def __init__(self) -> None:
        self.prefixes = tuple(str(PACKAGE / folder) + os.sep for folder in FOLDERS)
        self.lines: dict[str, set[int]] = defaultdict(set)
        self.calls: Counter[types.CodeType] = Counter()

    def __call__(self, frame: types.FrameType, event: str, arg: Any) -> Any:
        code = frame.f_code
        if not code.co_filename.startswith(self.prefixes):
            return None
        self.calls[code] += 1
        if self.calls[code] > MOST_CALLS:
            return None
        self.lines[code.co_filename].add(code.co_firstlineno)
        return self.line

    def line(self, frame: types.FrameType, event: str, arg: Any) -> Any:
        """Called for each line."""
        self.lines[frame.f_code.co_filename].add(frame.f_lineno)
        return self.line


@cache
def digest(file: str) -> str:
    """What tells one state of a file of the package from another."""
    return hashlib.sha256((PACKAGE / file).read_bytes()).hexdigest()[:12]


def record(session: pytest.Session, items: dict[str, pytest.Item], known: set[str], out: Path) -> None:
    """Run each test on the plain package and note, as JSON lines, whether it passes, how long it takes, what it runs.

    Tests noted before are left out; a test that fails does not judge mutants.
    """
    new = [item for name, item in items.items() if name not in known]
    with out.open("a") as stream:
        for item, following in zip(new, [*new[1:], None], strict=False):
            tracer, failed, begun = Tracer(), session.testsfailed, time.process_time()
            sys.settrace(tracer)
            try:
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            finally:
                sys.settrace(None)
            lines = {str(Path(f).relative_to(PACKAGE)): sorted(found) for f, found in tracer.lines.items()}
            seconds, passed = time.process_time() - begun, session.testsfailed == failed
            note = {"test": item.nodeid, "passed": passed, "seconds": seconds, "lines": lines}
            stream.write(json.dumps(note | {"sources": {file: digest(file) for file in lines}}) + "\n")
            stream.flush()


# --- children ---------------------------------------------------------------------------------------


class Children:
    """Forked processes, some at a time.

    Args:
        jobs: how many.
        done: takes the mutant and what became of it.
    """

    def __init__(self, jobs: int, done: Callable[[Mutant, dict], None]) -> None:
        self.jobs, self.done = jobs, done
        self.running: dict[int, tuple[Mutant, Path, float]] = {}

    def fork(self, mutant: Mutant, work: Callable[[], dict], seconds: float) -> None:
        """Do some work in a child that may compute for so long; waits for a place."""
        while len(self.running) >= self.jobs:
            self.wait()
        handle, name = tempfile.mkstemp(prefix="mutant")
        os.close(handle)
        pid = os.fork()
        if pid == 0:
            _child(work, Path(name), seconds)
        self.running[pid] = mutant, Path(name), time.monotonic() + 20 * seconds + 60

    def wait(self) -> None:
        """Wait until one is done; those that hang are ended."""
        while True:
            for pid, (mutant, path, deadline) in list(self.running.items()):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if not ended and time.monotonic() > deadline:
                    os.kill(pid, signal.SIGKILL)
                    ended, status = os.waitpid(pid, 0)
                if ended:
                    del self.running[pid]
                    text = path.read_text()
                    path.unlink()
                    self.done(mutant, json.loads(text) if text else _unsaid(status))
                    return
            time.sleep(0.02)

    def finish(self) -> None:
        """Wait for all."""
        while self.running:
            self.wait()


def _unsaid(status: int) -> dict:
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    how = "too slow" if number in (signal.SIGXCPU, signal.SIGKILL) else f"the process ended ({status})"
    return {"outcome": "killed", "by": how}


def _child(work: Callable[[], dict], out: Path, seconds: float) -> None:
    """Run some work, write what it returns, and end the process."""
    try:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        limit = int(time.process_time() + seconds) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
        begun = time.process_time()
        result = work()
        result["seconds"] = round(time.process_time() - begun, 2)
        out.write_text(json.dumps(result))
    except BaseException as error:
        out.write_text(json.dumps({"outcome": "error", "by": f"{type(error).__name__}: {error}"}))
    finally:
        os._exit(0)


def judged(mutant: Mutant, living: Living, session: pytest.Session, items: list[pytest.Item]) -> dict:
    """What becomes of a mutant of a function's body, in this process."""
    try:
        exchange(mutant, living)
    except ValueError as reason:
        return {"outcome": "import", "by": str(reason)}
    return _verdict(*first_failure(session, items))


def judged_at_import(mutant: Mutant, paths: list[str], chosen: list[str]) -> dict:
    """What becomes of a mutant that takes effect when its module is imported, in this process."""
    results: list[tuple[str | None, int]] = []

    def work(session: pytest.Session, items: dict[str, pytest.Item]) -> None:
        gone = {name.partition("[")[0] for name in chosen if name not in items}  # a name may print what is mutated
        renamed = [items[name] for name in items if name not in chosen and name.partition("[")[0] in gone]
        results.append(first_failure(session, [*(items[name] for name in chosen if name in items), *renamed]))

    Importer(mutant).install()
    if not start(paths, work):
        return {"outcome": "killed", "by": "import", "tests": 0}
    return _verdict(*results[0])


def _verdict(by: str | None, count: int) -> dict:
    return {"outcome": "killed" if by else "survived", "by": by, "tests": count}
