"""Interpreters of their own for other libraries, whose pins exclude this project's or need not be mixed with them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

HOME = Path(os.environ.get("HARNESS_HOME", Path(__file__).resolve().parents[2]))
"""Where `.venvs` is: the checkout, unless the environment variable HARNESS_HOME names another folder."""
WANTED = {"textarena": ("textarena==0.7.4",), "verifiers": ("verifiers==0.4.0", "gymnasium>=1.0")}
"""What each library's interpreter has; Gymnasium beside verifiers is for this project's environments there."""
Progress = Callable[[str, int, int], None]


class NotInstalledError(RuntimeError):
    """The library is not in the interpreter that was to play it; the message names the command that puts it there."""


def interpreter(package: str, python: str | None = None) -> Path:
    """The interpreter that has a library: the one that is named, its own under `.venvs`, or this one.

    ValueError where the one that is named is no file.
    """
    own = HOME / ".venvs" / package / "bin" / "python"
    chosen = Path(python) if python is not None else own if own.exists() else Path(sys.executable)
    if not chosen.is_file():
        raise ValueError(f"python={python!r} is no file: it names the interpreter that has {package}")
    return chosen.absolute()


def set_up_textarena(progress: Progress) -> str:
    """TextArena in an interpreter of its own. NotInstalledError where it cannot be put there."""
    return _set_up("textarena", progress)


def set_up_verifiers(progress: Progress) -> str:
    """verifiers in an interpreter of its own. NotInstalledError where it cannot be put there."""
    return _set_up("verifiers", progress)


def _set_up(package: str, progress: Progress) -> str:
    folder, wanted = HOME / ".venvs" / package, WANTED[package]
    mark = folder / "ready"
    explained = f"{', '.join(wanted)} in {folder}"
    if mark.is_file() and mark.read_text() == " ".join(wanted):
        return explained
    python = folder / "bin" / "python"
    steps = (
        (f"making .venvs/{package}", (sys.executable, "-m", "venv", "--clear", str(folder))),
        (f"installing {wanted[0]}", (str(python), "-m", "pip", "install", "--quiet", *wanted)),
    )
    for number, (what, command) in enumerate(steps):
        progress(what, number, len(steps))
        made = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        if made.returncode:
            output = (made.stderr or made.stdout).strip()[-2000:]
            raise NotInstalledError(f"{what} failed (exit status {made.returncode}):\n{output}")
    progress(f".venvs/{package} is ready", len(steps), len(steps))
    mark.write_text(" ".join(wanted))
    return explained
