"""Whole programs that use a pool and end in all kinds of ways; `python remote_scripts.py <name> <file to report
to>`."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from remote_pool import LONG, pool

from environments.isolation.pool import RemoteError, Worker, WorkerPool

KEPT: list[WorkerPool] = []
"""Nurseries that are referred to until the program ends."""


def report(file: Path, **facts: Any) -> None:
    """Write facts for the test, at once and whole."""
    draft = file.with_suffix(".draft")
    draft.write_text(json.dumps(facts))
    draft.replace(file)


def begin(diary: str = "") -> tuple[WorkerPool, Worker, dict[str, Any]]:
    home = pool(options={"diary": diary})
    KEPT.append(home)
    worker = home.take()
    facts = worker.call("facts", LONG)
    return home, worker, {"pids": [worker.pid, facts["parent"]], "folder": facts["environ"]["HOME"]}


def forgets(file: Path) -> None:
    """End without closing anything."""
    home, worker, facts = begin(str(file) + ".diary")
    home.give(worker)
    report(file, **facts, spare=home.spawn().pid)


def raises(file: Path) -> None:
    _, _, facts = begin()
    report(file, **facts)
    raise ValueError("on purpose")


def busy(file: Path) -> None:
    """One worker computes for ever, another waits."""
    home, worker, facts = begin()
    other = home.take()
    facts["pids"].append(other.pid)
    threading.Thread(target=lambda: other.call("sleep", 600, seconds=600), daemon=True).start()
    report(file, **facts)
    worker.call("loop", 600)


def booting(file: Path) -> None:
    """The object is never made."""
    report(file, pids=[os.getpid()], folder="")
    pool(options={"fail": "hang"}, boot_s=600).spawn()


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
        report(file.with_suffix(".copy"), kind=kind, parent=seen["parent"], folder=seen["environ"]["HOME"], pid=own.pid)
        os._exit(0)
    os.waitpid(copy, 0)
    facts["counted"] = worker.call("count", LONG)
    facts["same"] = home.take() is idle and idle.call("count", LONG) == 1
    home.close()
    report(file, **facts)


def outlived(file: Path) -> None:
    """A copy of this process lives on, with all that it was given."""
    _, worker, facts = begin()
    if not (copy := os.fork()):
        time.sleep(600)
        os._exit(0)
    report(file, **facts, copy=copy)
    worker.call("loop", 600)


if __name__ == "__main__":
    {f.__name__: f for f in (forgets, raises, busy, booting, forked, outlived)}[sys.argv[1]](Path(sys.argv[2]))
