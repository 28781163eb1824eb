"""Objects that tests let live in another interpreter: well-behaved ones, and ones that do what a policy's code may
do."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import struct
import sys
import time
from typing import Any


class Target:
    """Answers, and misbehaves on demand. `diary`: a file that says what was called when nobody asked."""

    verbs = (
        *("echo", "count", "facts", "run", "raises", "loop", "power", "sleep", "halt", "exit", "die", "bomb", "daemon"),
        *("balloon", "crash", "dig", "wide", "sink", "hide", "chatter", "unreadable", "unsent", "garbage", "forge"),
        "_secret",
    )

    def __init__(self, diary: str = "", fail: str = "") -> None:
        self.diary = diary
        self.fail = fail
        self.forks: list[int] = []
        self.calls = 0
        self.warmed = 0
        if fail == "init":
            raise ValueError("no such world")

    def warm(self) -> None:
        self.warmed += 1
        if self.fail == "exit":
            print("last words", flush=True)
            os._exit(7)
        while self.fail == "hang":
            time.sleep(60)

    def forked(self) -> None:
        self.forks.append(os.getpid())
        if self.fail == "forked":
            raise ValueError("not ready")

    def close(self) -> None:
        if self.diary:
            with open(self.diary, "a", encoding="utf-8") as file:
                file.write(f"closed {os.getpid()}\n")

    def not_a_verb(self) -> None: ...

    def _secret(self) -> None: ...

    def echo(self, value: Any) -> Any:
        return value

    def count(self) -> int:
        self.calls += 1
        return self.calls

    def facts(self) -> dict[str, Any]:
        """What the process sees of itself."""
        return {
            "pid": os.getpid(),
            "parent": os.getppid(),
            "session": os.getsid(0),
            "forks": self.forks,
            "warmed": self.warmed,
            "environ": dict(os.environ),
            "folder": os.getcwd(),
            "descriptors": sorted(int(name) for name in os.listdir("/proc/self/fd")),
            "modules": sorted(sys.modules),
            "path": sys.path,
            "sandboxed": self.sandboxed,  # type: ignore[attr-defined]
            "stdin": sys.stdin.read(),
        }

    def run(self, code: str) -> Any:
        """What a policy's code does: anything. The value of `result` is the answer."""
        names: dict[str, Any] = {"made": self}
        exec(code, names)
        return names.get("result")

    def raises(self, name: str, text: str) -> None:
        raise {"ValueError": ValueError, "SystemExit": SystemExit, "KeyboardInterrupt": KeyboardInterrupt}[name](text)

    def loop(self) -> None:
        while True:
            pass

    def power(self) -> int:
        return 9**9**9

    def sleep(self, seconds: float) -> str:
        time.sleep(seconds)
        return "slept"

    def halt(self) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)

    def exit(self, status: int) -> None:
        print("going", file=sys.stderr)
        os._exit(status)

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def bomb(self) -> None:
        """Fork for ever; what was forked sleeps."""
        while True:
            if not os.fork():
                time.sleep(600)

    def daemon(self) -> int:
        """Leave a process of another session behind, whose parent is gone."""
        reader, writer = os.pipe()
        if not (child := os.fork()):
            os.setsid()
            if grandchild := os.fork():
                os.write(writer, struct.pack("i", grandchild))
                os._exit(0)
            time.sleep(600)
        os.waitpid(child, 0)
        return int(struct.unpack("i", os.read(reader, 4))[0])

    def balloon(self) -> int:
        held = []
        while True:
            held.append(bytearray(1 << 24))

    def crash(self) -> None:
        """Read where there is no memory, as a library in C may."""
        ctypes.string_at(0)

    def wide(self, size: int) -> str:
        return "x" * size

    def hide(self) -> str:
        os.closerange(0, 4096)
        return "never read"

    def chatter(self, size: int) -> str:
        """Print, and write to descriptor 1, as a library in C would."""
        print("x" * size)
        os.write(1, b"\xff\x00garbage\n")
        return "printed"

    def dig(self) -> None:
        def deeper(n: int) -> int:
            return deeper(n + 1)

        deeper(0)

    def sink(self, size: int) -> None:
        with open("big", "wb") as file:
            file.write(b"x" * size)

    def unreadable(self) -> Any:
        return object()

    def unsent(self) -> Any:
        loop: list[Any] = []
        loop.append(loop)
        return loop

    def garbage(self, frame: str) -> None:
        """Write something of its own into the socket that answers go through."""
        _answers().sendall(frame.encode("latin-1"))
        time.sleep(600)

    def forge(self) -> str:
        """Put an answer to the next call into the stream."""
        text = b'{"ok":"forged","number":1}'
        _answers().sendall(struct.pack(">I", len(text)) + text)
        return "true"


def _answers() -> socket.socket:
    for name in os.listdir("/proc/self/fd"):
        try:
            found = socket.socket(fileno=os.dup(int(name)))
        except OSError:
            continue
        if found.family == socket.AF_UNIX:
            return found
        found.detach()
    raise LookupError("no socket")


class Outer:
    """A factory may hang inside a class."""

    class Inner(Target):
        """Found by a dotted name."""


class Verbless:
    """Lacks what a target needs."""


class Namesakes:
    """Imports modules of the package over there, without the package's own beginning."""

    verbs = ("names",)

    def names(self) -> dict[str, Any]:
        import environments
        import environments.isolation.frames

        return {
            "limit": environments.isolation.frames.MAX_FRAME,
            "initialised": hasattr(environments, "register"),
            "gymnasium": "gymnasium" in sys.modules,
        }
