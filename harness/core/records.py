"""Records on disk: append-only JSONL that survives a kill, a full disk and a damaged line.

    append("rows.jsonl", [{"seed": 0, "success": 1.0}])
    reading = read("rows.jsonl")            # reading.rows, and reading.damaged: which lines could not be read

A file starts with a header line, `{"kind":"records","schema":1}`; every other line is one row. The bytes depend on the
rows alone: keys sorted, floats by their shortest exact repr, no times. JSON has no number for NaN and the infinities:
they are written as null.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import json
import math
import os
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from harness.core.errors import DamagedRecordError, HarnessError, MissingDataError, UserError

SCHEMA = 1
"""Version of the layout of rows and episodes; a reader refuses a file with another one."""

Row = dict[str, Any]


class WriteError(HarnessError, OSError):
    """A record could not be written (no space, no permission): names the file, which still reads as before."""


@dataclass(frozen=True)
class Damage:
    """A line that could not be read."""

    file: str
    line: int
    """Counted from 1, as editors do."""
    reason: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.reason}"


@dataclass(frozen=True)
class Reading:
    """All rows that could be read, in order, and what could not."""

    rows: list[Row]
    damaged: tuple[Damage, ...] = ()
    header: Row = field(default_factory=dict)
    """The first header line: `kind`, `schema`, and what all rows share."""

    def strict(self) -> list[Row]:
        """The rows, or DamagedRecordError naming every damaged line."""
        if self.damaged:
            raise DamagedRecordError("; ".join(map(str, self.damaged)))
        return self.rows


# ---------------------------------------------------------------- rows


def line_of(row: Mapping[str, Any]) -> str:
    """One row as one line of JSON, without the line's end.

    Takes what JSON takes, plus numpy scalars and arrays. Raises UserError for anything else, naming where it stands.
    """
    return json.dumps(plain(row, "row"), sort_keys=True, separators=(",", ":"), allow_nan=False)


def append(path: str | Path, rows: Iterable[Mapping[str, Any]], kind: str = "records") -> None:
    """Add rows in one write and one fsync; the file (and its folder) is created when missing.

    After a half-written last line the rows start on a fresh line. Several processes may append to one file. Raises
    UserError for a row that is no plain data (nothing is written then) and WriteError when the system refuses; the file
    then reads as before.
    """
    path = Path(path)
    if path.suffix == ".gz":
        raise UserError(f"{path}: a compressed file is written as a whole (write_episodes), not appended to")
    rows = list(rows)
    reserved = next((row for row in rows if "schema" in row), None)
    if reserved is not None:
        raise UserError(
            f"{path}: a row may not have the key 'schema', which marks the header line; got {dict(reserved)!r}"
        )
    lines = [line_of(row) for row in rows]
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            size = os.fstat(handle).st_size
            if not _has_header(handle):
                lines.insert(0, line_of({"schema": SCHEMA, "kind": kind}))
            fresh = "" if size == 0 or os.pread(handle, 1, size - 1) == b"\n" else "\n"
            _write_all(handle, (fresh + "".join(line + "\n" for line in lines)).encode(), size)
        finally:
            os.close(handle)
        if size == 0:
            _sync_folder(path.parent)


def read(path: str | Path) -> Reading:
    """Every readable row of a `.jsonl` or `.jsonl.gz` file; the damaged lines are named, never dropped in silence.

    Raises MissingDataError when there is no such file, DamagedRecordError when another schema version wrote it.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingDataError(f"no file of records at {path}")
    content, broken = _content(path)
    rows: list[Row] = []
    damaged: list[Damage] = []
    headers: list[Row] = []
    pieces = content.split(b"\n")
    for number, piece in enumerate(pieces, start=1):
        if not piece.strip():
            continue
        try:
            row = json.loads(piece)
            if not isinstance(row, dict):
                raise ValueError(f"a row is a JSON object, this is a {type(row).__name__}")
        except (ValueError, RecursionError) as error:
            cut = number == len(pieces)  # no line end after it: the writer was stopped in the middle
            damaged.append(Damage(str(path), number, "half-written" if cut else f"not a row ({error})"))
            continue
        if "schema" not in row:
            rows.append(row)
        elif row["schema"] == SCHEMA:
            headers.append(row)
        else:
            raise DamagedRecordError(
                f"{path}, line {number}: written with schema {row['schema']!r}, this version reads {SCHEMA}"
            )
    if not headers:
        damaged.insert(0, Damage(str(path), 1, "the header line with the schema version is missing"))
    if broken:
        damaged.append(Damage(str(path), len(pieces), broken))
    return Reading(rows, tuple(damaged), headers[0] if headers else {})


def plain(value: Any, where: str) -> Any:
    """The value as what JSON carries (NaN and infinities as None). UserError naming the place of anything else."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        stray = [key for key in value if not isinstance(key, str)]
        if stray:
            raise UserError(f"{where}: keys must be text, got {stray[0]!r}")
        return {key: plain(entry, f"{where}.{key}") for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry, f"{where}[{index}]") for index, entry in enumerate(value)]
    raise UserError(
        f"{where}: {type(value).__name__} is no plain data; allowed: text, numbers, booleans, null, lists, mappings"
    )


def _has_header(handle: int) -> bool:
    first, _, _ = os.pread(handle, 4096, 0).partition(b"\n")
    try:
        return "schema" in json.loads(first)
    except (ValueError, TypeError):
        return False


def _write_all(handle: int, data: bytes, size: int) -> None:
    """All of it, or none: what a full disk cut off is taken back, so that no half row stays behind."""
    try:
        written = 0
        while written < len(data):
            written += os.write(handle, data[written:])
        os.fsync(handle)
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(handle, size)
        raise


def _content(path: Path) -> tuple[bytes, str]:
    """The bytes, unpacked as far as they go, and what is wrong with the packing ("" when nothing is)."""
    with _naming(path):
        raw = path.read_bytes()
    if path.suffix != ".gz":
        return raw, ""
    unpacker, unpacked = zlib.decompressobj(wbits=31), b""
    try:
        for start in range(0, len(raw), 4096):
            unpacked += unpacker.decompress(raw[start : start + 4096])
    except zlib.error as error:
        return unpacked, f"the compressed data is damaged from here on ({error})"
    return unpacked, "" if unpacker.eof else "the compressed data ends early"


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """OSErrors leave as WriteError with the file and a way out."""
    try:
        yield
    except OSError as error:
        raise WriteError(
            error.errno,
            f"{path}: {error.strerror}; the file reads as before; make room or permit writing, then run it again",
        ) from error


# ---------------------------------------------------------------- whole files


def write_whole(path: str | Path, data: str | bytes) -> None:
    """Replace a file as a whole: a reader, even after a kill, finds the old bytes or the new, never a mixture.

    Raises WriteError when the system refuses; the old file is then untouched.
    """
    path = Path(path)
    payload = data.encode() if isinstance(data, str) else data
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            try:
                _write_all(handle, payload, 0)
                os.fchmod(handle, 0o644)
            finally:
                os.close(handle)
            os.replace(scratch, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(scratch)
            raise
        _sync_folder(path.parent)


def write_rows(path: str | Path, rows: Iterable[Mapping[str, Any]], kind: str = "records", **shared: Any) -> None:
    """Replace a whole `.jsonl` or `.jsonl.gz` file by these rows under their header; `shared`: what all rows have in
    common, put into the header."""
    path = Path(path)
    text = "".join(line_of(row) + "\n" for row in ({"schema": SCHEMA, "kind": kind} | shared, *rows))
    write_whole(path, gzip.compress(text.encode(), mtime=0) if path.suffix == ".gz" else text)


def write_json(path: str | Path, value: Any) -> None:
    """Replace a file by indented JSON with sorted keys and a line end; NaN and infinities as null."""
    write_whole(path, json.dumps(plain(value, "value"), sort_keys=True, indent=2, allow_nan=False) + "\n")


def _sync_folder(folder: Path) -> None:
    """A file's name is safe on disk only once its folder is."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
