"""Replies on disk, by the content of model and request. Any number of threads and processes of one machine may share
a folder.

The folder holds an SQLite database in write-ahead mode, which needs a local disk: network file systems do not lock it
reliably.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import diskcache

from harness.core.errors import EndpointError
from harness.endpoint.replies import Reply

DATABASE = "cache.db"
WAIT_S = 60.0
"""Longest wait for another process that is writing."""


class _BytesDisk(diskcache.Disk):  # type: ignore[misc]  # the library is untyped
    """Stores bytes and nothing else: pickles, which would run code from a folder that others may have filled, are not
    read."""

    def fetch(self, mode: int, filename: str | None, value: Any, read: bool) -> Any:
        """The bytes of an entry; ValueError for any other kind of value."""
        if mode not in (diskcache.core.MODE_RAW, diskcache.core.MODE_BINARY):
            raise ValueError(f"an entry of kind {mode} holds no bytes")
        return super().fetch(mode, filename, value, read)


class ReplyCache:
    """Remembered replies in one folder. Nothing is ever evicted: a reply has been paid for.

    EndpointError, which names the file, where the database cannot be opened, read or written. An entry that is damaged
    counts as absent, so that the question is asked again and the entry is mended.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # By process: a connection to SQLite must not be carried, or closed, across a fork.
        self._opened: dict[int, diskcache.Cache] = {}
        self._open()

    @staticmethod
    def key(request: Mapping[str, Any]) -> str:
        """The name of a request: a digest of its JSON with sorted keys, which the model's name is part of."""
        return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()

    def recall(self, key: str) -> Reply | None:
        """The reply remembered under a key, marked as cached; None where there is none."""
        with self._named("read"):
            try:
                entry = json.loads(self._open().get(key))
                stored = entry["reply"]
                if entry.get("checksum", "") not in ("", _checksum(stored)):  # older entries have none
                    return None
                return Reply(**stored | {"tool_calls": tuple(stored["tool_calls"]), "cached": True})
            except (ValueError, KeyError, TypeError, RecursionError):
                return None

    def remember(self, key: str, request: Mapping[str, Any], reply: Reply) -> None:
        """Keep a reply beside its request; whole or not at all, as others may be reading."""
        fields = {name: value for name, value in vars(reply).items() if name != "cached"}
        entry = {"request": request, "reply": fields, "checksum": _checksum(fields)}
        stored = json.dumps(entry, sort_keys=True).encode()
        with self._named("write"):
            self._open().set(key, stored, retry=False)

    def close(self) -> None:
        """Close this process's and thread's connection; the next use opens a new one."""
        opened = self._opened.pop(os.getpid(), None)
        if opened is not None:
            opened.close()

    def _open(self) -> diskcache.Cache:
        opened = self._opened.get(os.getpid())
        if opened is None:
            with self._named("write"):
                opened = diskcache.Cache(
                    str(self.folder), WAIT_S, _BytesDisk, eviction_policy="none", cull_limit=0, statistics=0
                )
            opened = self._opened.setdefault(os.getpid(), opened)
        return opened

    @contextlib.contextmanager
    def _named(self, verb: str) -> Iterator[None]:
        """Errors of the database and of the disk become EndpointErrors that say where."""
        try:
            yield
        except diskcache.Timeout:
            problem = f"another process has been writing for more than {WAIT_S:g} s"
        except EndpointError:
            raise
        except (
            Exception
        ) as error:  # a damaged database surfaces as sqlite3's errors, and as the library's own surprise at it
            problem = f"{type(error).__name__}: {error}"
        else:
            return
        raise EndpointError(
            f"cannot {verb} the cache file {self.folder / DATABASE}: {problem}; where it is damaged, remove the folder "
            f"{self.folder} to start a new cache"
        )


def _checksum(reply: Mapping[str, Any]) -> str:
    """By which a reply that a fault of the disk has changed is known."""
    return hashlib.sha256(json.dumps(reply, sort_keys=True).encode()).hexdigest()
