"""What a task of another library holds, as JSON's values, and a name for it: splits go by content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

LONG = 2_000
"""Entries of a list, or characters of a text, beyond which only their number is kept: word lists, mostly."""
DEEP = 8


def plain(value: Any, depth: int = DEEP) -> Any:
    """A value as JSON's, the same in every process: objects by their attributes, sets in order, code left out."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return value if len(value) <= LONG else f"{len(value)} characters"
    if isinstance(value, Mapping | list | tuple | set | frozenset) and len(value) > LONG:
        return f"{len(value)} entries"
    if depth == 0:
        return type(value).__name__
    if isinstance(value, Mapping):
        return {str(key): plain(entry, depth - 1) for key, entry in value.items() if not callable(entry)}
    if isinstance(value, list | tuple):
        return [plain(entry, depth - 1) for entry in value]
    if isinstance(value, set | frozenset):
        return sorted((plain(entry, depth - 1) for entry in value), key=dumped)
    if hasattr(value, "tolist"):  # arrays and numbers of numpy
        return plain(value.tolist(), depth - 1)
    return {"is": type(value).__name__} | plain(getattr(value, "__dict__", {}), depth - 1)


def dumped(value: Any) -> str:
    """A JSON value in one way of writing."""
    return json.dumps(value, sort_keys=True)


def digest(value: Any) -> str:
    """64 bits of a JSON value's SHA-256, in hexadecimal digits."""
    return hashlib.sha256(dumped(value).encode()).hexdigest()[:16]


def first_of_each(described: Iterable[tuple[str, Any]]) -> list[dict[str, str]]:
    """The tasks as `id` and `content`, the first alone of those with one content."""
    first: dict[str, str] = {}
    for task_id, content in described:
        first.setdefault(digest(content), task_id)
    return [{"id": task_id, "content": content} for content, task_id in first.items()]
