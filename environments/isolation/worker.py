"""The other side of `environments.isolation.pool`: it makes an object once, then forks workers that serve calls to it.

Run by path in another interpreter (Python 3.10 or later), with nothing but the standard library:

    python worker.py <descriptor of the control socket> <id of the parent process>

Modules of this package can be imported there by their usual names, without the package's own __init__, which needs
Gymnasium.

The object is what `target`, "module:Name", returns for the boot message's options. Of its attributes, `verbs` (a tuple)
names the methods that may be called; these are optional: `warm()` is called once, before the first fork; `forked()` in
every fork, when its limits hold; `close()` at its end; `readable`, the paths that stay readable behind the wall. It is
given `sandboxed`, whether system calls are filtered, and `ask`, which puts a question to the parent amid a call.

The process that forks, the zygote, keeps to one thread and never runs untrusted code. It alone signals and reaps the
forks, whose ids therefore stay theirs; it adopts the processes they leave behind. When the parent is gone, everything
ends.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from types import ModuleType
from typing import Any, NoReturn

if __name__ == "__main__":
    _here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [place for place in sys.path if os.path.abspath(place) != _here]  # our files must hide no library's
    sys.modules["environments"] = ModuleType("environments")
    sys.modules["environments"].__path__ = [os.path.dirname(_here)]

from environments.isolation import sandbox, walls
from environments.isolation.frames import FrameError, Frames, encode
from environments.isolation.processes import children, kill_tree
from environments.isolation.walls import Wall

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_FOLDER = os.environ.get("TMPDIR", "")
"""The temporary folder that is this process's own, and ends with it."""

_TICK = 0.001
"""Seconds between two looks at a process that is to end."""
_TICKS = 5_000
"""Ticks that a killed process may take to end: one that waits for a disk cannot end at once."""


def as_report(error: BaseException) -> dict[str, str]:
    """An exception as JSON: its type, message and traceback, each bounded."""
    try:
        message = str(error)
    except Exception:  # the class may be untrusted code's own
        message = "(its message cannot be made)"
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return {"type": type(error).__name__[:200], "message": message[:20_000], "traceback": trace[-8_000:]}


class Zygote:
    """The process that makes the object, forks workers on demand, and reaps them."""

    def __init__(self, control: Frames, parent: int) -> None:
        self.control = control
        self.parent = parent
        self.forks: set[int] = set()
        self.made: Any = None
        self.limits: dict[str, Any] = {}
        self.wall: Wall | None = None
        self.single = False
        """Whether forks can neither start processes nor make files, so that they leave none behind."""

    def run(self) -> None:
        """Make the object and serve the parent until it closes the connection or is gone."""
        sandbox.prctl(_PR_SET_CHILD_SUBREAPER, 1)
        try:
            made = self._boot()
            self.control.write(encode(made))
            if "ok" in made:
                self._serve()
        except (EOFError, ConnectionError, FrameError):
            return
        finally:
            self._end()

    def _boot(self) -> dict[str, Any]:
        message = self.control.receive()
        self.limits = message["limits"]
        ready = threading.Event()
        watch = threading.Thread(target=self._watch, args=(ready,))
        watch.start()
        try:
            module, _, name = message["target"].partition(":")
            found: Any = importlib.import_module(module)
            for part in name.split("."):
                found = getattr(found, part)
            self.made = found(**message["options"])
            if hasattr(self.made, "warm"):
                self.made.warm()
            tuple(self.made.verbs)
            if self.limits["walled"]:
                self.wall = Wall(getattr(self.made, "readable", ()))
                self.single = self.limits["sandbox"] and not walls.standing().startswith("none")
            gc.collect()
            gc.freeze()
        except BaseException as error:  # SystemExit too: the parent reports it
            return {"raised": as_report(error)}
        finally:
            ready.set()
            watch.join()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, it would take the forks' exit codes away
        return {"ok": None}

    def _watch(self, ready: threading.Event) -> None:
        """End everything if the parent goes while the main thread cannot look."""
        while not ready.wait(0.5):
            if os.getppid() != self.parent:
                _remove(_FOLDER)
                os.killpg(0, signal.SIGKILL)

    def _serve(self) -> None:
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        while os.getppid() == self.parent:
            if not poll.poll(1000):
                continue
            message = self.control.receive()
            self.control.write(encode(self._handle(message)))

    def _handle(self, message: dict[str, Any]) -> dict[str, Any]:
        try:
            if message["do"] == "fork":
                return {"pid": self._fork()}
            return {"status": self._reap(message["pid"], message["grace_s"])}
        except OSError as error:  # no more processes, no more memory
            return {"raised": as_report(error)}

    def _fork(self) -> int:
        end, output = self.control.descriptors()
        try:
            pid = os.fork()
            if not pid:
                self._run_worker(end, output)
        finally:
            os.close(end)
            os.close(output)
        self.forks.add(pid)
        return pid

    def _run_worker(self, end: int, output: int) -> NoReturn:
        """In a fork: serve calls until the parent is done, and exit."""
        status = 1
        try:
            zygote = os.getppid()
            sandbox.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            os.setsid()
            self.control.close()
            nothing = os.open(os.devnull, os.O_RDONLY)
            for given, place in ((nothing, 0), (output, 1), (output, 2)):
                os.dup2(given, place)
            os.close(nothing)
            os.close(output)
            if os.getppid() == zygote:  # else it ended before the kernel was asked to end this process with it
                calls = Frames(socket.socket(fileno=end))
                del self.control, self.forks
                _serve_calls(self.made, calls, self.limits, self.wall)
            status = 0
        except BaseException:  # nothing may return into the zygote's code
            with contextlib.suppress(BaseException):
                traceback.print_exc()
        finally:
            os._exit(status)

    def _reap(self, pid: int, grace_s: float) -> int | None:
        """End a fork with all its descendants; its exit code as `subprocess` has it.

        None where it was none of ours or does not end.
        """
        if pid not in self.forks:
            return None
        for _ in range(int(grace_s / _TICK)):
            if _has_ended(pid):
                break
            time.sleep(_TICK)
        if self.single:
            os.kill(pid, signal.SIGKILL)
        else:
            kill_tree(pid)
        status = None
        for _ in range(_TICKS):
            ended, code = os.waitpid(pid, os.WNOHANG)
            if ended:
                status = os.waitstatus_to_exitcode(code)
                self.forks.discard(pid)
                break
            time.sleep(_TICK)
        if not self.single:
            self._sweep()
            _remove(_folder_of(pid))
        return status

    def _sweep(self) -> None:
        """Kill and reap what the forks left behind: their orphans are children of this process."""
        killed: set[int] = set()
        for _ in range(_TICKS):
            orphans = children(os.getpid()) - self.forks
            if not orphans:
                return
            for orphan in orphans:
                # a fork bomb leaves thousands, most of them dead: each is killed once
                if os.waitpid(orphan, os.WNOHANG)[0] == 0 and orphan not in killed:
                    kill_tree(orphan)
                    killed.add(orphan)
            time.sleep(_TICK)

    def _end(self) -> None:
        for pid in list(self.forks):
            self._reap(pid, 0.0)
        self._sweep()
        _remove(_FOLDER)


def _has_ended(pid: int) -> bool:
    """Whether a child is a zombie. It is left one: its id has to stay its own until its descendants are gone."""
    if not hasattr(os, "waitid"):  # macOS
        return True
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _serve_calls(made: Any, calls: Frames, limits: dict[str, Any], wall: Wall | None) -> None:
    """Enter the limits, then answer calls until the parent closes the connection or asks for the end."""
    if wall is None:
        folder = _folder_of(os.getpid())
        os.makedirs(folder)
        os.chdir(folder)
        os.environ["TMPDIR"] = tempfile.tempdir = folder
    try:
        confined, stands = sandbox.confine(limits, wall)
        made.sandboxed = confined == "seccomp"
        made.ask = lambda question: _ask(calls, question)
        if hasattr(made, "forked"):
            made.forked()
    except BaseException as error:
        calls.write(encode({"raised": as_report(error)}))
        return
    calls.write(encode({"ok": confined, "wall": stands}))
    while True:
        try:
            message = calls.receive()
        except (EOFError, ConnectionError):
            return
        closing = message["verb"] is None
        frame = _answer(made, message, closing)
        try:
            calls.write(frame)
        except ConnectionError:
            return
        if closing:
            return


def _ask(calls: Frames, question: Any) -> Any:
    """Put a question to the parent amid a call, and wait for its answer. ValueError for what is no JSON or too long."""
    calls.write(encode({"asks": question}))
    return calls.receive()["answer"]


def _answer(made: Any, message: dict[str, Any], closing: bool) -> bytes:
    number = message["number"]
    try:
        if closing:
            value = made.close() if hasattr(made, "close") else None
        else:
            verb = message["verb"]
            if verb.startswith("_") or verb not in made.verbs:
                raise AttributeError(f"there is no verb {verb!r}; there are {', '.join(made.verbs)}")
            value = getattr(made, verb)(**message["arguments"])
        return encode({"ok": value, "number": number})
    except BaseException as error:  # SystemExit too: what untrusted code raises ends no worker
        return encode({"raised": as_report(error), "number": number})


def _folder_of(pid: int) -> str:
    """The temporary folder of a fork, inside the zygote's own."""
    return os.path.join(_FOLDER, str(pid))


def _remove(folder: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    Zygote(Frames(socket.socket(fileno=int(sys.argv[1])), takes_descriptors=True), int(sys.argv[2])).run()
    sys.stdout.flush()
    os._exit(0)
