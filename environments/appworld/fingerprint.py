"""A hash of what Python sources mean: a comment, a docstring or another layout leaves it as it was."""

from __future__ import annotations

import ast
import hashlib
import threading
from collections.abc import Iterable
from pathlib import Path

_LAYOUT = {"kind", "type_comment", "type_ignores"}
"""Fields of a syntax tree that change nothing a program does."""
_parsing = threading.Lock()
"""Python 3.11 counts the depth of a tree for the whole process: two threads that parse at once fail with
SystemError."""


def meaning_hash(files: Iterable[tuple[str, Path]]) -> str:
    """sha256, as hex, over the names given and the syntax trees of the files, in the order of the names."""
    digest = hashlib.sha256()
    for name, file in sorted(files):
        with _parsing:
            tree = ast.parse(file.read_bytes(), filename=str(file))
        meaning = _canonical(tree).encode("utf-8", "backslashreplace")
        digest.update(f"{name}\0{len(meaning)}\0".encode() + meaning)
    return digest.hexdigest()


def _canonical(value: object) -> str:
    """A syntax tree as text, the same under every version of Python: no empty fields, layout or docstrings."""
    if isinstance(value, ast.AST):
        fields = ((name, entry) for name, entry in ast.iter_fields(value) if name not in _LAYOUT)
        parts = ",".join(f"{name}={_canonical(entry)}" for name, entry in fields if entry not in (None, []))
        return f"{type(value).__name__}({parts})"
    if isinstance(value, list):
        return f"[{','.join(_canonical(entry) for entry in value if not _is_docstring(entry))}]"
    return f"{type(value).__name__}:{value!r}"


def _is_docstring(node: object) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
