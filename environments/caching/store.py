"""An engine's answers, kept by content: bytes under a 32-byte key, in memory and in an SQLite file that processes
share.

Losing it costs time and nothing else, so no trouble with the disk ever reaches the caller: a damaged file is set aside
and a new one begun; on a full or read-only disk the store goes on in memory. Either is logged. A killed process loses
its last second at most.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

LOG = logging.getLogger(__name__)
COUNTS = ("hits", "misses", "replayed", "audits", "uncached", "seconds")
"""Answers served; answers executed; transitions executed again to get to where an answer was asked for; answers served
after they had been executed again and compared; executed answers that could not be kept; seconds spent in the
engine."""
FLUSH_ENTRIES, FLUSH_SECONDS = 256, 1.0
BUSY_SECONDS, SWITCHES = 10.0, 200
"""How long a process waits for another one, and how often it tries to switch on the log meanwhile."""
DAMAGE = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT}
"""Primary error codes of a file that is no store; SQLITE_ERROR is a missing table."""
BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
ENTRY_BYTES = 200
"""What an entry takes in memory beside its value: key, headers, a place in the dictionary."""
SCHEMA = f"""
    CREATE TABLE IF NOT EXISTS transitions (key BLOB PRIMARY KEY, value BLOB NOT NULL);
    CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS counts (
        pid INTEGER, started REAL, {" REAL, ".join(COUNTS)} REAL, PRIMARY KEY (pid, started)
    );
"""


class TransitionStore:
    """A dictionary from bytes to bytes that outlives the process.

    For all threads of one process; a forked child makes its own.
    """

    def __init__(self, folder: Path | None, version: str, memory_mb: float = 256.0) -> None:
        """folder: where the file lies, named by the version's hash; None keeps everything in memory. version: any text.

        memory_mb: megabytes held in memory at most; the oldest entries beyond that are read from disk again.
        """
        digest = hashlib.sha256(_plain(version)).hexdigest()[:16]
        self.file = None if folder is None else Path(folder) / f"{digest}.sqlite"
        self.version = version
        self.condemned: str | None = None
        """Why nothing of this may be served: found by this process, or by another, which shows at the next flush."""
        self._lock = threading.RLock()
        self._memory: dict[bytes, bytes] = {}
        self._held, self._room = 0, int(memory_mb * 1e6)
        self._pending: dict[bytes, bytes] = {}
        self._counts = dict.fromkeys(COUNTS, 0.0)
        self._counted, self._started, self._flushed = 0, time.time(), time.monotonic()
        self._disk: _Disk | None = None
        self._open()

    def get(self, key: bytes) -> bytes | None:
        """The value under a key, or None."""
        value = self._memory.get(
            key
        )  # without the lock: a hit costs microseconds, and one look at a dictionary is atomic
        if value is not None:
            return value
        with self._lock:
            value = self._pending.get(key)
            if value is None and self._disk is not None:
                with self._contained():
                    value = self._disk.read(key)
            if value is not None:
                self._remember(key, value)
            return value

    def put(self, key: bytes, value: bytes) -> None:
        """Keep a value. The first one under a key stays."""
        with self._lock:
            self._remember(key, value)
            if self._disk is not None and self._disk.writes:
                self._pending[key] = value
                # in batches: a transaction an answer would cost more than most engines do
                if len(self._pending) % FLUSH_ENTRIES == 0 or time.monotonic() - self._flushed >= FLUSH_SECONDS:
                    self.flush()

    def count(self, **amounts: float) -> None:
        """Add to some of COUNTS."""
        with self._lock:
            for name, amount in amounts.items():
                self._counts[name] += amount
            self._counted += 1
            # Where everything is a hit nothing is ever put, and the counts and a condemnation elsewhere still have to
            # get through.
            if self._counted % FLUSH_ENTRIES == 0 and time.monotonic() - self._flushed >= FLUSH_SECONDS:
                self.flush()

    def counts(self) -> dict[str, float]:
        """What this process has counted so far."""
        with self._lock:
            return dict(self._counts)

    def flush(self) -> None:
        """Write what is not on disk yet, and learn whether another process has condemned the store."""
        with self._lock:
            self._flushed = time.monotonic()
            if self._disk is None:
                return
            with self._contained():
                if self._disk.writes:
                    self._disk.write(self._pending, self._started, self._counts)
                    self._pending.clear()
                self.condemned = self.condemned or self._disk.condemned()
            if self.condemned:
                self._forget()
                self._disconnect()

    def condemn(self, why: str) -> None:
        """Serve nothing of this any more, in this process and the others; the file is set aside as `*.condemned`."""
        with self._lock:
            self.condemned = why
            self._forget()
            if self._disk is not None and self._disk.writes:
                with self._contained():
                    self._disk.condemn(why)
            self._set_aside("condemned")

    def close(self) -> None:
        """Flush, and let go of the file."""
        with self._lock:
            self.flush()
            self._disconnect()

    def _remember(self, key: bytes, value: bytes) -> None:
        if key in self._memory or self.condemned:
            return
        self._memory[key] = value
        self._held += len(value) + ENTRY_BYTES
        # a dictionary keeps its order: the first key is the oldest
        while self._held > self._room and self._memory:
            self._held -= len(self._memory.pop(next(iter(self._memory)))) + ENTRY_BYTES

    def _forget(self) -> None:
        self._memory.clear()
        self._pending.clear()
        self._held = 0

    def _open(self) -> None:
        """Connect; a damaged or condemned file is set aside first, and where that is impossible there is no file."""
        if self.file is None:
            return
        why: Exception | str | None = None
        for _ in range(
            2
        ):  # what was set aside is begun anew once; what stands there then and is damaged too is left alone
            found = _inode(self.file)
            try:
                self._disk = _Disk(self.file, self.version)
                why = self._disk.condemned()
            except (OSError, sqlite3.Error) as error:
                why = error
                if not _is(error, DAMAGE):
                    break
                self._set_aside("damaged", found)
            else:
                if why is None:
                    return
                self._set_aside("condemned", found)
            LOG.warning("the transition cache %s was set aside: %s", self.file.name, why)
        self._disconnect()
        LOG.warning("the transition cache %s is kept in memory alone: %s", self.file.name, why)

    @contextlib.contextmanager
    def _contained(self) -> Iterator[None]:
        """Whatever goes wrong on disk ends here: try later, begin a new file, write no more, or in the end read no
        more.
        """
        try:
            yield
        except sqlite3.Error as error:
            assert self._disk is not None
            assert self.file is not None
            if _is(error, BUSY):
                return  # what is pending stays pending, and the next flush tries again
            if _is(error, DAMAGE):
                LOG.warning("the transition cache %s was set aside: %s", self.file.name, error)
                self._set_aside("damaged")
                self._open()
                return
            LOG.warning("the transition cache %s is not written any more: %s", self.file.name, error)
            if not self._disk.writes:
                self._disconnect()
            else:
                self._disk.writes = False
            self._pending.clear()

    def _set_aside(self, ending: str, inode: int | None = None) -> None:
        """Rename the file, unless another process was faster: then its successor stands there."""
        mine = self._disk.inode if self._disk is not None else inode
        self._disconnect()
        if self.file is None or mine is None or _inode(self.file) != mine:
            return
        number = 0
        while (place := Path(f"{self.file}.{ending}{number or ''}")).exists():
            number += 1
        # The log before the file: a log that stays would be read into the next file.
        for suffix in ("-wal", "-shm", ""):
            with contextlib.suppress(OSError):
                os.rename(f"{self.file}{suffix}", f"{place}{suffix}")

    def _disconnect(self) -> None:
        if self._disk is not None:
            with contextlib.suppress(sqlite3.Error):
                self._disk.connection.close()
        self._disk = None


class _Disk:
    """An open file; raises sqlite3.Error."""

    def __init__(self, file: Path, version: str) -> None:
        self.writes = True
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self.connection = _connect_for_writing(file, version)
        except (OSError, sqlite3.Error) as error:
            if _is(error, DAMAGE) or not file.is_file():
                raise
            self.writes = False
            LOG.warning("the transition cache %s is read and not written: %s", file.name, error)
            self.connection = _connect_for_reading(file)
        self.inode = _inode(file)

    def read(self, key: bytes) -> bytes | None:
        row = self.connection.execute("SELECT value FROM transitions WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        # SQLite checks no content: without this a flipped bit on disk would become an observation
        value, checksum = row[0][:-4], row[0][-4:]
        if _checksum(key, value) != checksum:
            damage = sqlite3.DatabaseError("an entry does not match its checksum")
            damage.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise damage
        return bytes(value)

    def write(self, entries: Mapping[bytes, bytes], started: float, counts: Mapping[str, float]) -> None:
        sealed = [(key, value + _checksum(key, value)) for key, value in entries.items()]
        row = (os.getpid(), started, *(counts[name] for name in COUNTS))
        # takes the write lock at once: a lock upgraded later could fail although the process has waited
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            self.connection.executemany("INSERT OR IGNORE INTO transitions VALUES (?, ?)", sealed)
            if any(counts.values()):
                self.connection.execute(f"INSERT OR REPLACE INTO counts VALUES ({', '.join('?' * len(row))})", row)
            self.connection.execute("COMMIT")
        finally:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")

    def condemned(self) -> str | None:
        row = self.connection.execute("SELECT value FROM facts WHERE name = 'condemned'").fetchone()
        return None if row is None else str(row[0])

    def condemn(self, why: str) -> None:
        self.connection.execute("INSERT OR REPLACE INTO facts VALUES ('condemned', ?)", (_text(why),))


def statistics(folder: Path | str) -> dict[str, dict[str, Any]]:
    """What the files of a folder hold, by version.

    `entries`, the totals of COUNTS, `hit_rate` (NaN where nothing was asked), and `processes`, the counts of each with
    its `pid` and `started` (seconds since the epoch). Files that cannot be read are left out.
    """
    found: dict[str, dict[str, Any]] = {}
    for file in sorted(Path(folder).glob("*.sqlite")):
        with contextlib.suppress(sqlite3.Error), contextlib.closing(_connect_for_reading(file)) as connection:
            (version,) = connection.execute("SELECT value FROM facts WHERE name = 'version'").fetchone()
            (entries,) = connection.execute("SELECT count(*) FROM transitions").fetchone()
            rows = connection.execute("SELECT * FROM counts ORDER BY started").fetchall()
            processes = [dict(zip(("pid", "started", *COUNTS), row, strict=True)) for row in rows]
            totals = {name: sum(process[name] for process in processes) for name in COUNTS}
            asked = totals["hits"] + totals["misses"]
            rate = totals["hits"] / asked if asked else float("nan")
            found[version] = {"entries": entries, **totals, "hit_rate": rate, "processes": processes}
    return found


def _connect(address: str) -> sqlite3.Connection:
    return sqlite3.connect(address, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, uri=True)


def _connect_for_writing(file: Path, version: str) -> sqlite3.Connection:
    connection = _connect(f"file:{quote(str(file))}")
    try:
        for patience in range(SWITCHES, 0, -1):
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.Error as error:  # while another process does so SQLite does not wait by itself
                if not (patience > 1 and _is(error, BUSY)):
                    raise
                time.sleep(BUSY_SECONDS / SWITCHES)
        # Without waiting for the disk: after a power failure the checksums show what is whole.
        connection.execute("PRAGMA synchronous = OFF")
        connection.executescript(SCHEMA)
        connection.execute("INSERT OR IGNORE INTO facts VALUES ('version', ?)", (_text(version),))
    except BaseException:
        connection.close()
        raise
    return connection


def _connect_for_reading(file: Path) -> sqlite3.Connection:
    """Where no log stands beside the file and none can be made, SQLite reads it only as immutable: without writers."""
    beside = "" if Path(f"{file}-wal").exists() else "&immutable=1"
    connection = _connect(f"file:{quote(str(file))}?mode=ro{beside}")
    try:
        connection.execute("SELECT count(*) FROM facts").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def _is(error: Exception, codes: set[int]) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in codes


def _inode(file: Path) -> int | None:
    try:
        return file.stat().st_ino
    except OSError:
        return None


def _checksum(key: bytes, value: bytes) -> bytes:
    return zlib.crc32(value, zlib.crc32(key)).to_bytes(4, "big")


def _plain(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _text(text: str) -> str:
    """SQLite keeps no lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode()
