"""The player: the process in which a policy's blocks run, one for each episode.

The target of `environments.isolation.pool`. It holds no database, no task, no truth and no evaluator. An API call is a
question to the parent, which lets the engine's process answer it; so whatever code runs here can do no more than the
APIs allow. It is forked anew for every episode, so nothing that a block leaves behind is there in the next.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib
import io
import os
import re
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from textwrap import dedent
from traceback import TracebackException
from typing import Any

from environments.appworld.inside import dates
from environments.appworld.inside.apis_proxy import on_the_wire
from environments.appworld.inside.guard import Refused, checked
from environments.appworld.inside.limits import Clock, TimeUpError, bounded_output
from environments.appworld.inside.names import MODULES
from environments.appworld.inside.proxies import block_namespace
from environments.appworld.inside.shell import Shell, printed

OUTPUT = 200_000
"""Characters a block may print; the agent is shown far fewer."""
FAILED = "Execution failed. Traceback:\n"
"""How the engine begins an observation of something that went wrong."""
SEED = 100
"""The engine's own seed of random numbers."""
_ENCODINGS = ("ascii", "latin-1", "utf-8", "utf-16", "utf-32", "idna", "raw_unicode_escape", "unicode_escape")
_PACKAGES = ("pendulum", "tzdata", "dateutil", "encodings")
_ZONES = ("/usr/share/zoneinfo", "/usr/lib/zoneinfo", "/usr/share/lib/zoneinfo", "/etc/localtime")
_ERRORS = {
    kind.__name__: kind
    for kind in (TypeError, ValueError, AttributeError, RuntimeError, OverflowError, RecursionError, MemoryError)
}


class Names(dict[str, Any]):
    """The names of a collection, with the words of the error for those that are not there."""

    error_message = "No app named '{key}' found."


class Player:
    """Runs blocks one after another. step_s: seconds of processor time one block may take, its API calls included.

    apis: the names of the APIs of every app. shown: characters of an observation; the rest is cut. guarded: whether a
    block is checked before it runs; tests of the walls behind the guard leave it out.
    """

    verbs = ("begin", "step")

    def __init__(
        self, apis: Mapping[str, Sequence[str]], step_s: float = 10.0, shown: int = 12_000, guarded: bool = True
    ) -> None:
        self._apis, self._shown, self._guarded = apis, shown, guarded
        self._clock = Clock(step_s)
        self._shell = Shell()
        self._dates: dict[str, Any] = {}
        self._ask_once = self._clock.shielded(self._put)
        self.ask: Any = None

    # A process's life

    def warm(self) -> None:
        """Import all that a block may use, stop the clock, and make the namespace of the first episode."""
        for name in MODULES:
            importlib.import_module(name)
        for encoding in _ENCODINGS:
            "a".encode(encoding)
        self._dates = dates.load()
        dates.freeze(datetime(2024, 1, 1))
        self._fill(sorted(self._apis))

    @property
    def readable(self) -> list[str]:
        """What stays readable: the standard library and the packages that blocks use; no package with a task in it."""
        library = sysconfig.get_path("stdlib")
        parts = [entry for entry in os.listdir(library) if entry not in ("site-packages", "dist-packages")]
        places = [os.path.join(library, entry) for entry in parts]
        for name in _PACKAGES:
            with contextlib.suppress(ImportError):
                places += list(getattr(importlib.import_module(name), "__path__", ()))
        return [*places, *_ZONES, os.devnull, "/dev/urandom", "/dev/zero"]

    def begin(self, moment: str, apps: list[str]) -> None:
        """An episode begins: its moment in ISO format, and the apps it has."""
        dates.freeze(datetime.fromisoformat(moment))
        if set(apps) != set(self._apis):
            self._fill(apps)

    def _fill(self, apps: Sequence[str]) -> None:
        collection = Names()
        for app in apps:
            kind = type("Names", (Names,), {"error_message": "No API named '{key}' found in the " + app + " app."})
            collection[app] = kind({name: self._api(app, name) for name in self._apis[app]})
        preamble = self._dates | {"print": printed, "input": _no_input, "apis": collection}
        self._shell.user_ns = block_namespace(preamble, SEED)
        if not self._guarded:
            self._shell.user_ns["__builtins__"] = builtins

    # Blocks

    def step(self, code: str) -> dict[str, str]:
        """Run a block: the `output` the agent sees, and its `status` ("ran", "refused", "malformed" or "time")."""
        output, status = self._block(code.strip())
        return {"output": cut(output, self._shown), "status": status}

    def _block(self, code: str) -> tuple[str, str]:
        try:
            tree = checked(code) if self._guarded else None
        except Refused as refusal:
            return f"{FAILED}{refusal}", "refused"
        except SyntaxError as error:
            line = error.text if isinstance(error.text, str) else ""
            return f"{FAILED}Syntax error in line:\n{line.rstrip()}\nMessage: {error.msg}", "malformed"
        if tree is not None:
            self._shell.parse = lambda _: tree
        try:
            return self._clock.timed(self._run, code), "ran"  # what the block raises may compute when it is shown
        except TimeUpError:
            return f"{FAILED}Execution timed out after {self._clock.seconds:g} seconds.", "time"

    def _run(self, code: str) -> str:
        written = io.StringIO()
        with contextlib.redirect_stdout(written), contextlib.redirect_stderr(io.StringIO()), bounded_output(OUTPUT):
            error = self._shell.run_cell(code)
        if error is not None:
            return FAILED + explained(error)
        return written.getvalue() if written.getvalue().strip() else "Execution successful."

    # API calls

    def _api(self, app: str, name: str) -> Any:
        def call(*arguments: Any, **parameters: Any) -> Any:
            if arguments:
                were = "was" if len(arguments) == 1 else "were"
                raise TypeError(f"{app}.{name} takes 0 positional arguments but {len(arguments)} {were} given")
            answer = self._ask_once({"app": app, "api": name, "arguments": on_the_wire(parameters)})
            if "error" in answer:
                kind, text = answer["error"]
                raise _ERRORS.get(kind, Exception)(text)
            return answer["value"]

        return call

    def _put(self, question: dict[str, Any]) -> Any:
        answer = self.ask(question)
        self._clock.charge(answer["cpu_s"])
        return answer


def _no_input(*_: Any, **__: Any) -> None:
    raise Exception("input(..) is not allowed. All decisions must be made autonomously.")


def explained(error: BaseException) -> str:
    """An error as the engine shows it: the frames of blocks alone, under the name it gives them.

    Total: an error whose own text cannot be made is named by its type.
    """
    try:
        text = "".join(TracebackException.from_exception(error).format())
    except TimeUpError:
        raise
    except BaseException as worse:  # the error's class, or one that it holds, is the block's own
        return f"{type(error).__name__}: (the text of this error cannot be made: {type(worse).__name__})"
    lines = list(_of_blocks(text.splitlines()))
    first = next((number for number, line in enumerate(lines) if "ipython-input" in line), 0)
    text = "\n".join(lines[first:])
    text = re.sub(r'File "<ipython-input-\d+-\w+>"', 'File "<python-input>"', text)
    return dedent(text.replace("Exception: 422:", "Exception:"))


def _of_blocks(lines: Sequence[str]) -> Iterator[str]:
    taken = False
    for line in lines:
        frame = re.match(r' +File "(.*?)", line (\d+), in .+', line)
        if frame:
            taken = "python-input" in frame[1]
        if taken or not line.startswith("  "):
            yield line


def cut(text: str, shown: int) -> str:
    """What the agent sees: cut, in characters that UTF-8 has, without memory addresses, which differ between
    processes."""
    text = text.encode("utf-8", "replace").decode()
    text = re.sub(r"\bat 0x[0-9a-f]+", "at 0x...", text)
    if len(text) <= shown:
        return text
    return f"{text[:shown]}\n[cut: {len(text) - shown} more characters were printed; print less at a time]"
