"""One hash for plain data, nested tables as one level of keys, and names that may be those of folders."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one level of dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        name = f"{prefix}{key}"
        flat.update(flatten(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value})
    return flat


def fingerprint(data: Any) -> str:
    """sha256 of plain data in its one canonical JSON form."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def slug(label: str) -> str:
    """A label as a folder's name."""
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-") or "run"
