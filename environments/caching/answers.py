"""What `reset` or `step` returned: the key it is kept under, its form as bytes, and whether it may be kept at all."""

from __future__ import annotations

import hashlib
import json
from typing import Any

Answer = Any
"""What `reset` (2 parts) or `step` (5 parts) returned; any object, since an environment may be wrong."""


def key_of(before: bytes, text: str) -> bytes:
    """The key of what follows `before` by `text`: 32 bytes name a whole path, so that paths share their beginnings."""
    return hashlib.sha256(before + text.encode("utf-8", "surrogatepass")).digest()


def malformed(answer: Answer, size: int) -> bool:
    """Whether it is no tuple of `size` parts with an info at its end."""
    return not (isinstance(answer, tuple) and len(answer) == size and isinstance(answer[-1], dict))


def failed(answer: Answer, size: int) -> bool:
    """Whether the environment itself failed: an answer to pass on, and never to keep."""
    return malformed(answer, size) or bool(answer[-1].get("failure"))


def encoded(answer: Answer) -> bytes | None:
    """The answer as JSON; None where JSON would not give back exactly the same."""
    if not isinstance(answer[0], tuple):
        return None
    try:
        text = json.dumps((list(answer[0]), *answer[1:]), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        data = text.encode("utf-8", "surrogatepass")
        return data if _same(decoded(data), answer) else None
    except (TypeError, ValueError, RecursionError):
        return None


def decoded(data: bytes) -> Answer:
    """The answer that `encoded` made the bytes of."""
    messages, *others = json.loads(data.decode("utf-8", "surrogatepass"))
    return (tuple(messages), *others)


def short(value: Any) -> str:
    """The value for an error message: its repr, cut in the middle."""
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:200]} ... {text[-80:]}"


def _same(one: Any, other: Any) -> bool:
    """Equal in value, types, and the order of keys."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)
