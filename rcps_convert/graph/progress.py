"""A line of progress on long conversions: what is being done, and for how long."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

PATIENCE = 1.0
"""Seconds after which a conversion is said to be under way."""


class _Line:
    """The line in a terminal that is written over and over.

    Args:
        stream: what it is written to; it stays the same while the standard error is turned elsewhere.
    """

    def __init__(self, stream: Any) -> None:
        self.stream, self.start, self.width = stream, time.monotonic(), 0

    def show(self, words: str) -> None:
        """Write what is being done, once the conversion takes long."""
        taken = time.monotonic() - self.start
        if taken >= PATIENCE:
            text = f"rcps_convert: {words} ({taken:.0f} s)"
            self._write(text.ljust(self.width))
            self.width = len(text)

    def clear(self) -> None:
        """Leave an empty line."""
        if self.width:
            self._write(" " * self.width)
            self._write("")

    def _write(self, text: str) -> None:
        try:
            self.stream.write(f"\r{text}")
            self.stream.flush()
        except (OSError, ValueError):  # the terminal is gone: no reason to stop a conversion
            self.width = 0


_LINE: ContextVar[_Line | None] = ContextVar("line", default=None)


def stage(words: str) -> None:
    """Say what is being done now, if it is to be said.

    Args:
        words: such as ``"tracing"``.
    """
    line = _LINE.get()
    if line is not None:
        line.show(words)


@contextmanager
def progress_shown(progress: bool | None) -> Iterator[None]:
    """Show a line of progress on the standard error.

    Args:
        progress: whether; None where the standard error is a terminal.
    """
    stream = sys.stderr
    terminal = getattr(stream, "isatty", lambda: False)
    shown = stream is not None and (terminal() if progress is None else progress)
    line = _Line(stream) if shown else None
    token = _LINE.set(line)
    try:
        yield
    finally:
        _LINE.reset(token)
        if line is not None:
            line.clear()
