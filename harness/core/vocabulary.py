"""Whether two tokenizers mean the same by an id."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def vocabulary_hash(tokens: Mapping[str, int]) -> str:
    """sha256 of a vocabulary, token to id: equal where every id stands for the same token, in whatever order they are
    listed."""
    listed = sorted((place, token) for token, place in tokens.items())
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def vocabulary_in(folder: Path) -> dict[str, int] | None:
    """The vocabulary that a model directory's `tokenizer.json` spells out; None where it has none that can be read."""
    try:
        described: dict[str, Any] = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        pieces = described["model"]["vocab"]
        known = {piece: place for place, (piece, _) in enumerate(pieces)} if isinstance(pieces, list) else dict(pieces)
        return known | {str(added["content"]): int(added["id"]) for added in described.get("added_tokens", ())}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
