"""The certificate of a results folder: that code other than what recorded it was made to repeat the beginning of every
row, and gave the same bytes.

    certified.json     schema, code revisions, seed, steps, what was compared, checksums of the records, provenance

It speaks of the code that repeated and of the records that were there: once either changes, it says nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.core import records
from harness.core.errors import DamagedRecordError
from harness.core.provenance import provenance
from harness.core.sums import require_whole
from harness.report.files import seal_results
from harness.runs.plan import code_of_plug, code_revision
from harness.tables.table import Certified

Row = dict[str, Any]
CERTIFIED = "certified.json"
SCHEMA = 1
_KEYS = ("recorded", "code", "sources", "plugs", "seed", "steps", "rows", "compared", "records")
"""What a certificate says, but for its date and its provenance."""


def write_certificate(
    folder: Path,
    runs: Sequence[Mapping[str, Any]],
    sources: Sequence[str],
    seed: int,
    steps: int,
    compared: Mapping[str, Mapping[str, int]],
    against: Iterable[str],
) -> Row:
    """Write and seal the certificate of a folder for the code of this process; returns it.

    runs: what is recorded, of which `seed` was repeated for `steps` training steps. sources: modules whose code
    repeated them. compared: how much of what was compared, by row. against: the folder's files that the repetition was
    held against.
    """
    plugs = sorted({run["plug"] for run in runs if run["plug"]})
    totals: dict[str, int] = {}
    for counts in compared.values():
        for name, count in counts.items():
            totals[name] = totals.get(name, 0) + count
    certificate: Row = {
        "schema": SCHEMA,
        "recorded": str(runs[0]["matched"].get("code")),
        "code": code_revision(sources),
        "sources": list(sources),
        "plugs": {plug: code_of_plug(plug) for plug in plugs},
        "seed": seed,
        "steps": steps,
        "rows": {label: dict(counts) for label, counts in compared.items()},
        "compared": totals,
        "records": {name: _sum(folder / name) for name in sorted(against)},
        "date": datetime.now(UTC).date().isoformat(),
        "provenance": provenance(),
    }
    records.write_json(folder / CERTIFIED, certificate)
    seal_results(folder, [CERTIFIED])
    return certificate


def read_certificate(folder: Path) -> Row:
    """The certificate of the records in a folder; empty where there is none, and where it is of other records.
    DamagedRecordError for one that is not what was written, or that cannot be read."""
    file = folder / CERTIFIED
    require_whole(folder, f"make it anew with: harness recertify {folder}", [CERTIFIED])
    if not file.is_file():
        return {}
    found = records.read_json(file)
    if found.get("schema") != SCHEMA:
        raise DamagedRecordError(f"{file} has schema {found.get('schema')!r}, this version reads {SCHEMA}")
    missing = [key for key in _KEYS if key not in found]
    if missing:
        raise DamagedRecordError(f"{file} does not say: {', '.join(missing)}")
    whole = all((folder / name).is_file() and _sum(folder / name) == known for name, known in found["records"].items())
    return found if whole else {}


def certified_by(certificate: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> Certified | None:
    """What a certificate says of runs, where the code beside it is the code that it was given for."""
    if not certificate or code_revision(certificate["sources"]) != certificate["code"]:
        return None
    plugs = {run["plug"] for run in runs if run["plug"]}
    if any(certificate["plugs"].get(plug) != code_of_plug(plug) for plug in plugs):
        return None
    return Certified(
        certificate["recorded"],
        certificate["code"],
        certificate["seed"],
        certificate["steps"],
        certificate["compared"],
    )


def _sum(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
