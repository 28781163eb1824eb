"""Checksums of the files of a folder, in a file beside them that `sha256sum -c SHA256SUMS` reads too.

A folder that is finished (a checkpoint, a start, a run, results) is sealed; what reads it later asks `altered` first. A
seal notices damage and mistakes. It is no signature: who may write the files may write it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from harness.core.errors import DamagedRecordError
from harness.core.records import write_whole

SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  ([^\n]+)")


def seal(
    folder: Path,
    names: Iterable[str],
    written: Collection[str] | None = None,
    ahead: Mapping[str, bytes] | None = None,
) -> None:
    """Write the checksums of these files, named relative to the folder.

    written: those that have just been written; of the others a checksum that is known already is kept, so that damage
    is never taken for the truth. None: all of them. ahead: the bytes of files that are written next, by name.
    """
    known = {} if written is None else (_listed(folder) or {})
    sums = {
        name: _sum(folder / name) if written is None or name in written or name not in known else known[name]
        for name in names
    }
    sums |= {name: hashlib.sha256(content).hexdigest() for name, content in (ahead or {}).items()}
    write_whole(folder / SUMS, "".join(f"{value}  {name}\n" for name, value in sorted(sums.items())))


def altered(folder: Path, names: Collection[str] | None = None) -> dict[str, str] | None:
    """What is wrong with the sealed files of a folder, by name; None where it was never sealed. names: of these alone.

    A list of checksums that cannot be read is itself among what is wrong, under the name SHA256SUMS.
    """
    try:
        listed = _listed(folder)
    except DamagedRecordError as error:
        return {SUMS: str(error)}
    if listed is None:
        return None
    wrong = {}
    for name, value in listed.items():
        if names is not None and name not in names:
            continue
        file = folder / name
        if not file.is_file():
            wrong[name] = "is missing"
        elif _sum(file) != value:
            wrong[name] = "is not what was written: its checksum is another" if file.stat().st_size else "is empty"
    for name in sorted(set(names or ()) - set(listed)):
        if (folder / name).exists():
            wrong[name] = f"has no checksum in {SUMS}"
    return wrong


def require_whole(folder: Path, remedy: str, names: Collection[str] | None = None) -> None:
    """DamagedRecordError naming every sealed file that was altered, with what to do; a folder never sealed passes."""
    wrong = altered(folder, names)
    if wrong:
        raise DamagedRecordError(f"{in_words(folder, wrong)}; {remedy}")


def in_words(folder: Path, wrong: Mapping[str, str]) -> str:
    """What `altered` found, as words."""
    return "; ".join(f"{folder / name} {reason}" for name, reason in wrong.items())


def _listed(folder: Path) -> dict[str, str] | None:
    """Checksum by name. DamagedRecordError where the list is none of ours."""
    file = folder / SUMS
    if not file.is_file():
        return None
    try:
        *lines, last = file.read_bytes().decode("utf-8").split("\n")
    except UnicodeDecodeError:
        raise DamagedRecordError("is damaged: it is no text") from None
    found = [_LINE.fullmatch(line) for line in lines]
    if last or not found or None in found:
        raise DamagedRecordError("is damaged: a line of it is no checksum and name")
    return {match[2]: match[1] for match in found if match is not None}


def _sum(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
