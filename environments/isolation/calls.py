"""Calls to an object in another process, each with a deadline; what happens instead of an answer is one RemoteError.

`environments.isolation.pool` makes the processes. Arguments and results are JSON's values.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

from environments.isolation import processes
from environments.isolation.frames import FrameError, Frames, encode
from environments.isolation.processes import Output

Kind = Literal["boot", "deadline", "died", "protocol", "raised", "closed"]

GRACE = 0.2
"""Seconds in which a process whose connection broke may end by itself, so that its own exit status is known."""

Reap = Callable[["Worker", float], int | None]
"""Ends a worker's process, after so many seconds in which it may end by itself; its exit code where it is known."""

Answer = Callable[[Any, float], Any]
"""Answers a worker's question by a deadline."""

_CRASHES = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL})
_FROM_OUTSIDE = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})

_QUOTED = 2_000
"""Characters of a worker's message or traceback that an error quotes."""


class RemoteError(Exception):
    """A call or a start that failed.

    kind: "boot" (the object or its process did not start), "deadline", "died" (the process ended), "protocol" (it sent
    what is no answer), "raised" (the method raised; the worker goes on), "closed". After "deadline", "died" and
    "protocol" the worker is closed.

    With "deadline": cpu_s, the seconds of CPU it used; busy, whether it computed for at least half of the time (an
    endless loop); held, whether the machine kept it from running, stopped or without a processor. With "died": crashed,
    whether the interpreter itself broke down (stack or memory exhausted, a fault in C); killed, whether a signal that
    comes from outside ended it, or how it ended is not known. remote_type, remote_message, remote_traceback: of what
    was raised in the worker, else "".
    """

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(kind, message)
        self.kind = kind
        self.message = message
        self.busy = self.held = self.crashed = self.killed = False
        self.cpu_s = 0.0
        self.remote_type = self.remote_message = self.remote_traceback = ""

    def __str__(self) -> str:
        return self.message


class Worker:
    """One object in a process of its own. It serves one caller at a time, others wait.

    Workers come from `WorkerPool.spawn` and `WorkerPool.take`. pid: its process; uses: times it was taken; sandbox:
    "seccomp", or "none: " and why its system calls are not filtered; wall: what keeps it from files, or "none: " and
    why nothing does.
    """

    def __init__(self, label: str, pid: int, frames: Frames, output: Output, reap: Reap) -> None:
        self.label = label
        self.pid = pid
        self.uses = 0
        self.sandbox = self.wall = ""
        self.since = processes.started(pid)
        self._frames = frames
        self._output = output
        self._reap = reap
        self._owner = os.getpid()
        self._number = 0
        self._open = True
        self._lock = threading.RLock()

    @property
    def alive(self) -> bool:
        """Whether the worker's process is there, and waits for a call or is in one of another thread's."""
        if not self._lock.acquire(blocking=False):
            return self._open
        try:
            return self._open and self._frames.silent()
        finally:
            self._lock.release()

    def call(self, verb: str, deadline_s: float, **arguments: Any) -> Any:
        """What the object's method returns.

        Raises RemoteError; TypeError or ValueError for arguments that are no JSON.
        """
        return self._ask(verb, deadline_s, arguments)

    def converse(self, verb: str, deadline_s: float, answer: Answer, **arguments: Any) -> Any:
        """What the object's method returns, which may ask for answers on its way.

        answer: called with a question and the deadline, a point of `time.monotonic`. What it raises ends the worker.
        Raises as `call` does.
        """
        return self._ask(verb, deadline_s, arguments, answer)

    def wait_ready(self, deadline_s: float) -> None:
        """Wait until the object is ready in the worker's process; for `WorkerPool.spawn`."""
        try:
            reply = self._frames.receive(time.monotonic() + deadline_s)
        except (EOFError, OSError, FrameError) as error:  # TimeoutError is an OSError
            raise self._failed("boot", f"did not start ({type(error).__name__})") from None
        except BaseException:
            self.kill()
            raise
        if "raised" in reply:
            failure = raised("boot", f"{self._name()} did not start", reply["raised"])
            self.kill()
            raise failure
        self.sandbox, self.wall = reply["ok"], reply["wall"]

    def close(self, deadline_s: float = 5.0) -> None:
        """Let the object close itself within `deadline_s` seconds, then end its process."""
        if self._owner == os.getpid() and self._lock.acquire(timeout=deadline_s):
            try:
                if self.alive:
                    with contextlib.suppress(RemoteError):
                        self._ask(None, deadline_s, {})
            finally:
                self._lock.release()
        self.kill(GRACE)

    def kill(self, grace_s: float = 0.0) -> int | None:
        """End the process and its descendants at once; its exit code (negative: a signal), None where not known."""
        if not self._open:
            return None
        if self._owner != os.getpid():
            self.forget()
            return None
        try:
            return self._reap(self, grace_s)
        finally:
            self.release()

    def release(self) -> None:
        """Close this side of a process that is dead; a call that another thread waits in ends first."""
        with self._lock:
            self.forget()

    def forget(self) -> None:
        """Close this side's descriptors and nothing else, whoever uses them."""
        self._open = False
        self._frames.close()
        self._output.close()

    def _ask(self, verb: str | None, deadline_s: float, arguments: dict[str, Any], answer: Answer | None = None) -> Any:
        with self._lock:
            return self._exchange(verb, deadline_s, arguments, answer)

    def _exchange(self, verb: str | None, deadline_s: float, arguments: dict[str, Any], answer: Answer | None) -> Any:
        if not self._open or self._owner != os.getpid():
            raise RemoteError("closed", f"{self._name()} is closed, or belongs to process {self._owner}")
        self._number += 1
        frame = encode({"verb": verb, "arguments": arguments, "number": self._number})
        name = f"{verb!r}" if verb else "closing"
        self._output.empty()  # an error quotes what this call wrote, and old output fills no disk
        used, waited = processes.cpu_seconds(self.pid), processes.waited_seconds(self.pid)
        deadline = time.monotonic() + deadline_s
        try:
            self._frames.write(frame, deadline)
            reply = self._frames.receive(deadline)
            while answer is not None and isinstance(reply, dict) and "asks" in reply:
                self._frames.write(encode({"answer": answer(reply["asks"], deadline)}), deadline)
                reply = self._frames.receive(deadline)
            if not self._is_answer(reply):
                raise FrameError(f"what came is no answer: {str(reply)[:200]}")
        except TimeoutError:
            spent = max(0.0, processes.cpu_seconds(self.pid) - used)
            held = processes.is_held(self.pid, waited + deadline_s / 2)
            failure = self._failed(
                "deadline", f"did not end {name} within {deadline_s:g} s; it used {spent:.2f} s of CPU"
            )
            failure.cpu_s, failure.busy, failure.held = spent, spent >= deadline_s / 2, held
            raise failure from None
        except (EOFError, OSError):
            raise self._failed("died", f"died in {name}") from None
        except FrameError as error:
            raise self._failed("protocol", f"broke the protocol in {name}: {error}") from None
        except BaseException:  # an interrupt: what comes later would be taken for the next call's answer
            self.kill()
            raise
        if "raised" in reply:
            raise raised("raised", f"{name} of {self.label}", reply["raised"])
        return reply["ok"]

    def _is_answer(self, reply: Any) -> bool:
        """Whether what came answers the present call; whoever sent it may have meant to deceive."""
        if not isinstance(reply, dict) or reply.get("number") != self._number:
            return False
        if "raised" not in reply:
            return "ok" in reply
        report = reply["raised"]
        fields = ("type", "message", "traceback")
        return isinstance(report, dict) and all(isinstance(report.get(field), str) for field in fields)

    def _failed(self, kind: Kind, what: str) -> RemoteError:
        """Kill the worker; the error names what is known of its end."""
        tail = self._output.tail()
        status = self.kill(GRACE if kind in ("died", "boot") else 0.0)
        end = "" if kind == "deadline" else f"; {processes.ending(status)}"
        error = RemoteError(kind, f"{self._name()} {what}{end}{tail}")
        error.crashed = kind == "died" and status is not None and -status in _CRASHES
        error.killed = kind == "died" and (status is None or -status in _FROM_OUTSIDE)
        return error

    def _name(self) -> str:
        return f"worker {self.pid} of {self.label}"


def raised(kind: Kind, where: str, report: Mapping[str, str]) -> RemoteError:
    """The error for what was raised in the other process; report: its `type`, `message` and `traceback`."""
    error = RemoteError(kind, f"{where}: {report['type']}: {report['message'][:_QUOTED]}")
    error.remote_type, error.remote_message = report["type"], report["message"]
    error.remote_traceback = report["traceback"]
    if kind == "boot":
        error.message += f"\n{report['traceback'][-_QUOTED:]}"
    return error
