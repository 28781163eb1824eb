"""Records on disk: append-only JSONL that survives a kill, a full disk and a damaged line.

    append("rows.jsonl", [{"seed": 0, "success": 1.0}])
    reading = read("rows.jsonl")            # reading.rows, and reading.damaged: which lines could not be read

A file starts with a header line, `{"kind":"records","schema":2,...}`; every other line is one row. The bytes depend on
the rows alone: keys sorted, floats by their shortest exact repr, no times. JSON has no number for NaN and the
infinities: they are written as null.

A line ends in a checksum of what stands before it, `,"check":"..."}`, so that each is known to be whole by itself. In
compressed files (schema 1) it has none: they are written as a whole, and their folder is sealed (`harness.core.sums`).
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import hashlib
import json
import math
import os
import re
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from harness.core.errors import DamagedRecordError, HarnessError, MissingDataError, UserError

SCHEMA, CHECKED = 1, 2
"""Versions of the layout of rows and episodes; a reader refuses a file with another one. CHECKED: every line carries
its checksum."""
CHECK = "check"
"""Key of a line's checksum, which no row may have."""
HALF = "half-written"
"""What is wrong with a last line that a kill cut off; the next `append` takes it back."""
_CHECK = re.compile(rb',?"check":"([0-9a-f]{16})"}')
_CHECK_LENGTH = len('"check":""}') + 16

Row = dict[str, Any]


class WriteError(HarnessError, OSError):
    """A record could not be written (no space, no permission): names the file, which still reads as before."""


@dataclass(frozen=True)
class Damage:
    """A line that could not be read, or a file."""

    file: str
    line: int
    """Counted from 1, as editors do; 0: the file as a whole."""
    reason: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.reason}" if self.line else f"{self.file} {self.reason}"


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


def checked_line(row: Mapping[str, Any]) -> str:
    """The same with a checksum at its end: the first 16 digits of the sha256 of the line without it."""
    return _with_checksum(line_of(row))


def _with_checksum(line: str) -> str:
    return f'{line[:-1]}{"," * (line != "{}")}"{CHECK}":"{_digest(line.encode())}"}}'


def append(path: str | Path, rows: Iterable[Mapping[str, Any]], kind: str = "records", **shared: Any) -> None:
    """Add rows in one write and one fsync; the file (and its folder) is created when missing, its header holds
    `shared`.

    A half-written last line, which a kill left, is taken back first. Several processes may append to one file. Raises
    UserError for a row that is no plain data (nothing is written then) and WriteError when the system refuses; the file
    then reads as before.
    """
    path = Path(path)
    if path.suffix == ".gz":
        raise UserError(f"{path}: a compressed file is written as a whole (write_episodes), not appended to")
    rows = list(rows)
    reserved = next((key for row in rows for key in ("schema", CHECK) if key in row), None)
    if reserved is not None:
        given = next(dict(row) for row in rows if reserved in row)
        meaning = "marks the header line" if reserved == "schema" else "is the line's checksum"
        raise UserError(f"{path}: a row may not have the key {reserved!r}, which {meaning}; got {given!r}")
    lines = [line_of(row) for row in rows]
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            size, fresh = _mend_end(handle)
            header = _header(handle)
            if header.get("schema") != SCHEMA or CHECK in header:  # a file begun without checksums goes on so
                lines = list(map(_with_checksum, lines))
            if not header:
                lines.insert(0, checked_line({"schema": CHECKED, "kind": kind} | shared))
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
    checked = any(_CHECK.fullmatch(piece[-_CHECK_LENGTH:]) for piece in pieces)
    for number, piece in enumerate(pieces, start=1):
        if not piece.strip() and not (checked and piece):
            continue
        try:
            row = _row_of(piece, checked)
        except (ValueError, RecursionError) as error:
            half = number == len(pieces) and _is_half(piece)  # no line end after it: its writer was stopped
            damaged.append(Damage(str(path), number, HALF if half else f"not a row ({error})"))
            continue
        if "schema" not in row:
            rows.append(row)
        elif row["schema"] in (SCHEMA, CHECKED):
            checked |= row["schema"] == CHECKED
            headers.append(row)
        else:
            raise DamagedRecordError(
                f"{path}, line {number}: written with schema {row['schema']!r}, "
                f"this version reads {SCHEMA} and {CHECKED}"
            )
    if not headers:
        damaged.insert(0, Damage(str(path), 1, "the header line with the schema version is missing"))
    if broken:
        damaged.append(Damage(str(path), len(pieces), broken))
    return Reading(rows, tuple(damaged), headers[0] if headers else {})


def _row_of(piece: bytes, checked: bool) -> Row:
    """The row of a line. ValueError where it is none, or not the one that was written."""
    row = json.loads(piece)
    if not isinstance(row, dict):
        raise ValueError(f"a row is a JSON object, this is a {type(row).__name__}")
    if checked or row.get("schema") == CHECKED:
        end = _CHECK.search(piece, max(len(piece) - _CHECK_LENGTH - 1, 0))
        if end is None or end.end() != len(piece):
            raise ValueError("it has no checksum")
        if _digest(piece[: end.start()] + b"}") != end[1].decode():
            raise ValueError("it is not what was written: its checksum is another")
        row.pop(CHECK)
    return row


def _is_half(piece: bytes) -> bool:
    """Whether a line that is no row can be the beginning of one: nothing closes a row but its last byte, so what holds
    a whole object was not cut off but changed."""
    try:
        json.JSONDecoder().raw_decode(piece.decode(errors="replace"))
    except (ValueError, RecursionError):
        return True
    return False


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()[:16]


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


def _header(handle: int) -> Row:
    """The header line at the start of an open file; empty where there is none."""
    first, _, _ = os.pread(handle, 1 << 16, 0).partition(b"\n")
    try:
        row = json.loads(first)
    except (ValueError, RecursionError):
        return {}
    return row if isinstance(row, dict) and "schema" in row else {}


def _mend_end(handle: int) -> tuple[int, str]:
    """(size, what has to stand before a new line): a last line without its end is cut off if it is the half of a row,
    and kept otherwise, whole or damaged."""
    size = os.fstat(handle).st_size
    if size == 0 or os.pread(handle, 1, size - 1) == b"\n":
        return size, ""
    tail, start = b"", size
    while b"\n" not in tail and start > 0:
        step = min(start, 1 << 16)
        start -= step
        tail = os.pread(handle, step, start) + tail
    last = tail[tail.rfind(b"\n") + 1 :]
    try:
        _row_of(last, b'"check"' in last)
    except (ValueError, RecursionError):
        if _is_half(last):
            os.ftruncate(handle, size - len(last))
            return size - len(last), ""
    return size, "\n"


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
    packed = path.suffix == ".gz"
    header = {"schema": SCHEMA if packed else CHECKED, "kind": kind} | shared
    text = "".join((line_of if packed else checked_line)(row) + "\n" for row in (header, *rows))
    write_whole(path, gzip.compress(text.encode(), mtime=0) if packed else text)


def write_json(path: str | Path, value: Any) -> None:
    """Replace a file by the JSON of a value."""
    write_whole(path, json_text(value))


def json_text(value: Any) -> str:
    """Indented JSON with sorted keys and a line end; NaN and infinities as null."""
    return json.dumps(plain(value, "value"), sort_keys=True, indent=2, allow_nan=False) + "\n"


def read_json(path: str | Path) -> Row:
    """The JSON object in a file. DamagedRecordError where it holds none, in one sentence that begins with the file."""
    path = Path(path)
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DamagedRecordError(f"{path} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        empty = path.is_file() and path.stat().st_size == 0
        raise DamagedRecordError(f"{path} is {'empty' if empty else f'no JSON ({error})'}") from None
    if not isinstance(value, dict):
        raise DamagedRecordError(f"{path} holds no JSON object but a {type(value).__name__}")
    return value


def _sync_folder(folder: Path) -> None:
    """A file's name is safe on disk only once its folder is."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
