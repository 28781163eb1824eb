"""What a block may take: a limit on its processor time that it cannot catch for long, and one on what it prints."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

AGAIN_S = 0.05
"""Seconds between reminders to a block that goes on after its time is up: it may have caught the first."""


class TimeUpError(BaseException):
    """The block's time is up. No Exception, so that ordinary error handling lets it pass."""


class Clock:
    """A limit in seconds of processor time on what runs under it; what must not be cut in two is shielded."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._shields = 0
        self._on = False

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Raise TimeUpError, again and again, in a block that takes longer."""
        signal.signal(signal.SIGPROF, self._ring)
        self._on = True
        signal.setitimer(signal.ITIMER_PROF, self.seconds, AGAIN_S)
        try:
            yield
        finally:
            while self._on:
                with contextlib.suppress(TimeUpError):  # a ring in this very line
                    self._on = False
                    signal.setitimer(signal.ITIMER_PROF, 0)

    @contextlib.contextmanager
    def shield(self) -> Iterator[None]:
        """Let a transaction finish; the next ring after it is heard."""
        self._shields += 1
        try:
            yield
        finally:
            self._shields -= 1

    def _ring(self, number: int, frame: FrameType | None) -> None:
        if self._on and not self._shields:
            raise TimeUpError


class Counted:
    """A text stream that stops a block which prints without end."""

    def __init__(self, stream: Any, most: int) -> None:
        self._stream = stream
        self._left = most

    def write(self, text: str) -> int:
        """Write, or raise RuntimeError once more than the limit has come."""
        self._left -= len(text)
        if self._left < 0:
            raise RuntimeError("this block prints too much; print less")
        self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""


@contextlib.contextmanager
def bounded_output(most: int) -> Iterator[None]:
    """Bound what is written to standard output and error, each to `most` characters."""
    outer = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = Counted(outer[0], most), Counted(outer[1], most)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = outer
