"""One process at a time: a lock file that goes with the process which holds it, however that ends."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import filelock

from harness.core.errors import HarnessError


@contextlib.contextmanager
def locked(file: Path, busy: str = "") -> Iterator[None]:
    """Hold a lock file, made with its folder where it is missing.

    busy: what to say, as a HarnessError, where another process holds it; empty: wait for it. HarnessError too where
    something else stands in the file's place.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(file)
    try:
        lock.acquire(blocking=not busy)
    except filelock.Timeout:
        raise HarnessError(busy) from None
    except IsADirectoryError:
        raise HarnessError(f"{file} is a folder where a lock file belongs; remove it and call again") from None
    try:
        yield
    finally:
        lock.release()
