"""Objects in another interpreter: a pool makes one there and forks workers from it, each serving calls by a deadline.

For libraries whose pins exclude ours, and for untrusted code. A worker that hangs, crashes, floods its output or
attacks is killed with all its descendants and costs its caller one RemoteError; `environments.isolation.worker` is the
other side. Arguments and results are JSON's values.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from environments.isolation import processes
from environments.isolation.calls import GRACE, RemoteError, Worker, raised
from environments.isolation.frames import FrameError, Frames, encode
from environments.isolation.processes import Output

__all__ = ["Limits", "RemoteError", "Worker", "WorkerPool"]

_CONTROL_S = 30.0
"""Seconds a zygote may take to fork or to reap."""

_EXIT_S = 5.0
"""Seconds it may take to end."""

_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
"""All that the other interpreter sees of our environment: keys of endpoints stay here."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a worker may use.

    memory_mb: MiB of address space beyond what it has when it is forked; file_mb: MiB of any one file it writes;
    open_files: open file descriptors. sandbox: whether seccomp forbids new processes, programs and signals to others,
    where the kernel has it; network: whether a worker so confined keeps its sockets. walled: whether files are out of
    reach, but for reading what the object's `readable` names (see `environments.isolation.walls`).
    """

    memory_mb: int = 1024
    file_mb: int = 64
    open_files: int = 256
    sandbox: bool = True
    network: bool = False
    walled: bool = False

    def __post_init__(self) -> None:
        for name in ("memory_mb", "file_mb", "open_files"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")


class WorkerPool:
    """Workers forked from one warm process of another interpreter, the zygote, which makes the object before it forks.

    The zygote starts when it is first needed, and again when it has died. interpreter: its Python; target:
    "module:Name" there, called with `options` (see `environments.isolation.worker` for what the object needs); boot_s:
    seconds the object may take to be made, and a worker to start; environ: environment variables beside a bare minimum;
    label: its name in messages; recycle_after: times a worker is taken before another replaces it; idle: workers kept
    for later.

    Any thread may use it. A forked copy of this process starts its own. Its workers end with it, and it ends with
    `close`, with a `with` block, when nothing refers to it any more, and with this process, however that ends.
    """

    def __init__(
        self,
        interpreter: Path,
        target: str,
        options: Mapping[str, Any],
        *,
        boot_s: float = 120.0,
        limits: Limits | None = None,
        environ: Mapping[str, str] | None = None,
        label: str = "",
        recycle_after: int = 200,
        idle: int = 8,
    ) -> None:
        if not all(target.partition(":")):
            raise ValueError(f"the target is {target!r}; it must be 'module:Name'")
        self.limits = limits or Limits()
        self.label = label or target
        self.recycle_after = recycle_after
        self.idle = idle
        self._interpreter = interpreter
        self._boot = encode({"target": target, "options": dict(options), "limits": dataclasses.asdict(self.limits)})
        self._boot_s = boot_s
        self._environ = dict(environ or {})
        self._lock = threading.Lock()
        self._zygote: _Zygote | None = None
        self._finalizer: weakref.finalize[Any, Any] | None = None
        self._waiting: list[Worker] = []
        _POOLS.add(self)

    def spawn(self) -> Worker:
        """A new worker. Raises RemoteError of kind "boot"."""
        with self._lock:
            if self._zygote is not None and not self._zygote.alive:
                self._end()
            fresh = self._zygote is None
            zygote = self._zygote = self._zygote or self._start()
        try:
            return zygote.fork(self._boot_s)
        except _ZygoteDiedError as error:
            if fresh:
                raise RemoteError("boot", f"{self.label}: {error}") from None
        with self._lock:
            if self._zygote is zygote:
                self._end()
            zygote = self._zygote = self._zygote or self._start()
        try:
            return zygote.fork(self._boot_s)
        except _ZygoteDiedError as error:
            raise RemoteError("boot", f"{self.label}: {error}") from None

    def take(self) -> Worker:
        """An idle worker or a new one; bring it back with `give`. Raises RemoteError of kind "boot"."""
        while True:
            with self._lock:
                worker = self._waiting.pop() if self._waiting else None
            if worker is None:
                worker = self.spawn()
            elif not worker.alive:
                worker.kill()
                continue
            worker.uses += 1
            return worker

    def give(self, worker: Worker) -> None:
        """Take back a worker that the next caller can use as it is; one that is dead or was used often is closed."""
        with self._lock:
            keep = (
                self._zygote is not None
                and self._zygote.has(worker)
                and worker.alive
                and worker.uses < self.recycle_after
            )
            if keep and len(self._waiting) < self.idle:
                self._waiting.append(worker)
                return
        worker.close()

    def close(self) -> None:
        """End all workers and the process they come from. A later `spawn` starts anew."""
        with self._lock:
            for worker in self._waiting:
                worker.close(1.0)
            self._end()

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _start(self) -> _Zygote:
        zygote = _Zygote(self._interpreter, self._environ, self.label)
        self._finalizer = weakref.finalize(self, zygote.end)
        self._finalizer.atexit = False  # `_close_all` lets idle objects close themselves before
        try:
            zygote.boot(self._boot, self._boot_s)
        except BaseException:
            zygote.end(patience_s=GRACE)
            self._finalizer.detach()
            raise
        return zygote

    def _end(self) -> None:
        self._waiting.clear()
        if self._zygote is not None and self._finalizer is not None:
            self._finalizer.detach()  # called, it would do nothing while this process exits
            self._zygote.end()
            self._zygote = None

    def _forget(self) -> None:
        """In a forked copy of this process: the sockets are the original's."""
        self._lock = threading.Lock()
        self._waiting.clear()
        if self._zygote is not None and self._finalizer is not None:
            self._finalizer.detach()
            self._zygote.forget()
            self._zygote = None


class _ZygoteDiedError(Exception):
    """The zygote does not answer."""


class _Zygote:
    """This side of the process that workers are forked from: its socket, its folder and its workers."""

    def __init__(self, interpreter: Path, environ: Mapping[str, str], label: str) -> None:
        self.label = label
        self._lock = threading.RLock()  # garbage collection may end it amid anything
        self._owner = os.getpid()
        self._workers: dict[int, Worker] = {}
        self._folder = tempfile.mkdtemp(prefix="remote-")
        self._output = Output()
        ours, theirs = socket.socketpair()
        self._frames = Frames(ours)
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._process = subprocess.Popen(
                [interpreter, Path(__file__).with_name("worker.py"), str(theirs.fileno()), str(self._owner)],
                stdin=subprocess.DEVNULL,
                stdout=self._output.fileno(),
                stderr=self._output.fileno(),
                pass_fds=[theirs.fileno()],
                cwd=self._folder,
                env={**_environment(self._folder), **environ},
                start_new_session=True,
            )
        except OSError as error:
            self.end()
            raise RemoteError(
                "boot", f"{label}: the interpreter {str(interpreter)!r} does not start: {error}"
            ) from None
        finally:
            theirs.close()

    @property
    def alive(self) -> bool:
        """Whether it can be asked to fork."""
        with self._lock:  # amid another thread's question there is an answer on its way
            return self._frames.silent()

    def boot(self, frame: bytes, boot_s: float) -> None:
        """Let it make the object. Raises RemoteError of kind "boot"."""
        deadline = time.monotonic() + boot_s
        try:
            self._frames.write(frame, deadline)
            reply = self._frames.receive(deadline)
        except TimeoutError:
            text = f"{self.label} was not made within {boot_s:g} s{self._output.tail()}"
            raise RemoteError("boot", text) from None
        except (EOFError, ConnectionError, FrameError) as error:
            raise RemoteError("boot", f"{self.label} was not made: {self._describe_end(error)}") from None
        if "raised" in reply:
            raise raised("boot", f"{self.label} was not made", reply["raised"])

    def fork(self, boot_s: float) -> Worker:
        """A worker that is ready. Raises _ZygoteDiedError, and RemoteError of kind "boot"."""
        ours, theirs = socket.socketpair()
        output = Output()
        frames = Frames(ours)
        try:
            with self._lock, theirs:
                reply = self._ask({"do": "fork"}, _CONTROL_S, [theirs.fileno(), output.fileno()])
                if "raised" in reply:
                    raise raised("boot", f"{self.label} was not forked", reply["raised"])
                pid = int(reply["pid"])
                worker = self._workers[pid] = Worker(self.label, pid, frames, output, self.reap)
        except BaseException:
            frames.close()
            output.close()
            raise
        worker.wait_ready(boot_s)
        return worker

    def has(self, worker: Worker) -> bool:
        """Whether it forked this worker and has not reaped it."""
        return self._workers.get(worker.pid) is worker

    def reap(self, worker: Worker, grace_s: float) -> int | None:
        """End a worker's process; its exit code where it is known."""
        with self._lock:
            if self._workers.pop(worker.pid, None) is None:
                return None
            try:
                status = self._ask({"do": "reap", "pid": worker.pid, "grace_s": grace_s}, _CONTROL_S).get("status")
            except _ZygoteDiedError:
                processes.kill_tree(worker.pid, worker.since)
                return None
            return None if status is None else int(status)

    def end(self, patience_s: float | None = None) -> None:
        """End the process, its workers and its folder; in a forked copy, nothing."""
        if self._owner != os.getpid():
            return
        with self._lock:
            self._frames.close()  # it then kills its workers and leaves
            if self._process is not None:
                try:
                    self._process.wait(_EXIT_S if patience_s is None else patience_s)
                except subprocess.TimeoutExpired:
                    processes.kill_tree(self._process.pid)
                    self._process.wait()
            orphans, self._workers = list(self._workers.values()), {}
            self._output.close()
            shutil.rmtree(self._folder, ignore_errors=True)
        for worker in orphans:
            if self._process is not None and self._process.returncode:  # else it has killed them itself
                processes.kill_tree(worker.pid, worker.since)
            worker.release()

    def forget(self) -> None:
        """In a forked copy of this process: close the descriptors, else the zygote would not see the original's end."""
        self._frames.close()
        self._output.close()
        for worker in self._workers.values():
            worker.forget()
        if self._process is not None:
            self._process.returncode = 0  # no child of ours: nothing to wait for

    def _ask(self, message: dict[str, Any], seconds: float, descriptors: list[int] | None = None) -> dict[str, Any]:
        if self._frames.fileno() < 0:
            raise _ZygoteDiedError("the pool was closed")
        deadline = time.monotonic() + seconds
        try:
            self._frames.write(encode(message), deadline, descriptors or [])
            return dict(self._frames.receive(deadline))
        except (OSError, EOFError, FrameError) as error:  # TimeoutError is an OSError
            text = self._describe_end(error)
            self._frames.close()
            raise _ZygoteDiedError(f"the process that forks workers does not answer: {text}") from None
        except BaseException:
            self._frames.close()
            raise

    def _describe_end(self, error: Exception) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            assert self._process is not None
            self._process.wait(GRACE)
        status = self._process.returncode if self._process is not None else None
        return f"{type(error).__name__}; {processes.ending(status)}{self._output.tail()}"


def _environment(folder: str) -> dict[str, str]:
    """Bare and the same everywhere. Output is not buffered: what a process wrote before it died is there to be read."""
    ours = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    fixed = {"LANG": "C.UTF-8", "TZ": "UTC", "PYTHONHASHSEED": "0", "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    return ours | fixed | {"HOME": folder, "TMPDIR": folder}


_POOLS: weakref.WeakSet[WorkerPool] = weakref.WeakSet()


def _close_all() -> None:
    for pool in list(_POOLS):
        pool.close()


def _forget_all() -> None:
    for pool in list(_POOLS):
        pool._forget()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
