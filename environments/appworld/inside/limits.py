"""What a block may take: a limit on its processor time that it cannot catch for long, and one on what it prints."""

from __future__ import annotations

import contextlib
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

AGAIN_S = 0.05
"""Seconds between reminders to a block that goes on after its time is up: it may have caught the first."""


class TimeUpError(BaseException):
    """The block's time is up. No Exception, so that ordinary error handling lets it pass."""


class Clock:
    """A limit in seconds of processor time on what runs under it; what must not be cut in two is shielded.

    Whether it is interrupted is read from the stack, not from a flag: between two lines that set a flag a signal may
    come.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._late = False
        """Whether the time ran out amid a transaction."""
        self._until: float | None = None
        """The processor time of this process at which a timed call's time is up."""

    def timed(self, function: Callable[..., Any], *given: Any, **named: Any) -> Any:
        """Call a function; raise TimeUpError in it, again and again, when it takes longer. Main thread only."""
        self._late, self._until = False, _cpu() + self.seconds
        signal.signal(signal.SIGPROF, self._on_signal)
        signal.setitimer(signal.ITIMER_PROF, self.seconds, AGAIN_S)
        try:
            return _timed(function, given, named)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            self._late, self._until = False, None

    def charge(self, seconds: float) -> None:
        """Take seconds that another process spent for the timed call off its time; from within a shielded function."""
        if self._until is not None:  # what the kernel says is left is rounded up, which adds up over many calls
            self._until -= seconds
            left = self._until - _cpu()
            self._late = self._late or left <= 0
            signal.setitimer(signal.ITIMER_PROF, max(left, 1e-6), AGAIN_S)

    def shielded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function as a transaction: a timed call is interrupted behind it, not amid it."""

        def whole(*given: Any, **named: Any) -> Any:
            try:
                return _shielded(function, given, named)
            finally:
                if self._late:
                    raise TimeUpError

        return whole

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        shielded = False
        while frame is not None:
            if frame.f_code is _timed.__code__:
                self._late = shielded
                if not shielded:
                    raise TimeUpError
                return
            shielded = shielded or frame.f_code is _shielded.__code__
            frame = frame.f_back


def _cpu() -> float:
    """Seconds of processor time of this process; other clocks are frozen."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _timed(function: Callable[..., Any], given: tuple[Any, ...], named: dict[str, Any]) -> Any:
    return function(*given, **named)


def _shielded(function: Callable[..., Any], given: tuple[Any, ...], named: dict[str, Any]) -> Any:
    return function(*given, **named)


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
