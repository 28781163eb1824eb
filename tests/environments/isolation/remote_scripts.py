"""Whole programs that use a nursery and end in all kinds of ways; `python remote_scripts.py <name> <file to say things in>`."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from far import LONG, nursery

from environments.isolation.pool import Nursery, RemoteError, Worker

KEPT: list[Nursery] = []
"""Nurseries that are referred to until the program ends."""


def said(file: Path, **facts: Any) -> None:
    """Write facts for the test, at once and whole."""
    draft = file.with_suffix(".draft")
    draft.write_text(json.dumps(facts))
    draft.replace(file)


def begin(diary: str = "") -> tuple[Nursery, Worker, dict[str, Any]]:
    home = nursery(options={"diary": diary})
    KEPT.append(home)
    worker = home.take()
    facts = worker.call("facts", LONG)
    return home, worker, {"pids": [worker.pid, facts["parent"]], "folder": facts["environ"]["HOME"]}


def forgets(file: Path) -> None:
    """End without closing anything."""
    home, worker, facts = begin(str(file) + ".diary")
    home.give(worker)
    said(file, **facts, spare=home.spawn().pid)


def raises(file: Path) -> None:
    _, _, facts = begin()
    said(file, **facts)
    raise ValueError("on purpose")


def busy(file: Path) -> None:
    """One worker computes for ever, another waits."""
    home, worker, facts = begin()
    other = home.take()
    facts["pids"].append(other.pid)
    threading.Thread(target=lambda: other.call("sleep", 600, seconds=600), daemon=True).start()
    said(file, **facts)
    worker.call("loop", 600)


def booting(file: Path) -> None:
    """The object is never made."""
    said(file, pids=[os.getpid()], folder="")
    nursery(options={"fail": "hang"}, boot_s=600).spawn()


def forked(file: Path) -> None:
    """A copy of this process leaves the original's workers alone and has its own."""
    home, worker, facts = begin()
    idle = home.take()
    home.give(idle)
    if not (copy := os.fork()):
        try:
            worker.call("count", LONG)
            kind = "none"
        except RemoteError as error:
            kind = error.kind
        worker.close()
        own = home.take()
        seen = own.call("facts", LONG)
        home.close()
        said(file.with_suffix(".copy"), kind=kind, parent=seen["parent"], folder=seen["environ"]["HOME"], pid=own.pid)
        os._exit(0)
    os.waitpid(copy, 0)
    facts["counted"] = worker.call("count", LONG)
    facts["same"] = home.take() is idle and idle.call("count", LONG) == 1
    home.close()
    said(file, **facts)


def outlived(file: Path) -> None:
    """A copy of this process lives on, with all that it was given."""
    _, worker, facts = begin()
    if not (copy := os.fork()):
        time.sleep(600)
        os._exit(0)
    said(file, **facts, copy=copy)
    worker.call("loop", 600)


if __name__ == "__main__":
    {f.__name__: f for f in (forgets, raises, busy, booting, forked, outlived)}[sys.argv[1]](Path(sys.argv[2]))
