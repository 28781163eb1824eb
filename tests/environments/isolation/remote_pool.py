"""Pools of workers for tests, in this interpreter's own Python, and what is left of them afterwards."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from environments.isolation.pool import RemoteError, WorkerPool
from environments.isolation.processes import children

HERE = Path(__file__).parent

LONG = 60.0
"""Seconds that no call here needs."""


def pool(target: str = "Target", options: Mapping[str, Any] | None = None, **more: Any) -> WorkerPool:
    """A pool of workers of one of remote_targets' classes."""
    environ = {"PYTHONPATH": str(HERE)} | dict(more.pop("environ", {}))
    return WorkerPool(Path(sys.executable), f"remote_targets:{target}", options or {}, environ=environ, **more)


def failure(call: Callable[[], Any]) -> RemoteError:
    """The error of a call that has to fail."""
    with pytest.raises(RemoteError) as caught:
        call()
    return caught.value


def descriptors() -> set[str]:
    """This process's open files, as the kernel names them (the listing's own left out)."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
        except FileNotFoundError:
            continue
    return found


def descendants(pid: int) -> set[int]:
    """A process's children and theirs."""
    found = children(pid)
    return found.union(*(descendants(child) for child in found))


def wait_for(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait until something holds that needs no time worth mentioning. Raises AssertionError where it does not come."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def wait_until_gone(pids: Iterable[int], seconds: float = 60.0) -> set[int]:
    """The processes of these that are still there when all should have ended long ago."""
    meant = set(pids)
    with contextlib.suppress(AssertionError):
        wait_for(lambda: not any(map(_runs, meant)), seconds)
    return set(filter(_runs, meant))


def _runs(pid: int) -> bool:
    """Whether a process is there; one that has ended and waits for the machine's first process to reap it is not."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return not (state == "Z" and parent == "1")
