"""Commands and scripts run in this process, as an interpreter of their own would: importing torch takes seconds."""

from __future__ import annotations

import contextlib
import io
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """The path, the arguments, the number of threads and the random numbers are afterwards as they were."""
    path, arguments, threads = [*sys.path], [*sys.argv], torch.get_num_threads()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        sys.path[:], sys.argv[:] = path, arguments
        torch.set_num_threads(threads)


def finished(run: Callable[[], object], arguments: Sequence[object] = ()) -> subprocess.CompletedProcess[str]:
    """Exit status and output of a function that ends as a command does.

    Args:
        run: returns an exit status or nothing, or raises `SystemExit`.
        arguments: for the report.
    """
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), kept():
        try:
            status = run()
        except SystemExit as stop:
            status = stop.code
    if isinstance(status, str):  # an interpreter prints it, and ends with 1
        err.write(status)
        status = 1
    return subprocess.CompletedProcess([*map(str, arguments)], int(status or 0), out.getvalue(), err.getvalue())


def run_script(script: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A script, run as the main program; it finds what lies beside it."""

    def run() -> None:
        sys.argv[:] = [str(script), *map(str, arguments)]
        sys.path.insert(0, str(script.parent))
        runpy.run_path(str(script), run_name="__main__")

    beside = [p.stem for p in script.parent.glob("*.py")]
    ours = {name: sys.modules.pop(name) for name in beside if name in sys.modules}  # the tests have a `models` too
    try:
        return finished(run, [script, *arguments])
    finally:
        for name in beside:
            sys.modules.pop(name, None)
        sys.modules.update(ours)
