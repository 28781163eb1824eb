"""The two roots of a built world: sharing files between them, and a hash of what they hold."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
from pathlib import Path


def share_without_truth(truth: Path, serve: Path) -> None:
    """Make ``serve`` the same root as ``truth`` without any ``ground_truth``, by hard links where there are any."""
    shutil.copytree(truth, serve, copy_function=_link, ignore=shutil.ignore_patterns("ground_truth"))


def content_hash(*roots: Path) -> str:
    """A sha256 over names and logical content below ``roots``: bytes of text files, rows of databases."""
    digest = hashlib.sha256()
    for root in roots:
        for path in sorted(path for path in root.rglob("*") if path.is_file()):
            digest.update(f"{path.relative_to(root.parent).as_posix()}\n".encode())
            digest.update(_dump(path) if path.suffix == ".db" else path.read_bytes())
    return digest.hexdigest()


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target


def _dump(path: Path) -> bytes:
    """The rows of every table: page layout and free space differ between builds, rows do not."""
    connection = sqlite3.connect(path)
    try:
        tables = connection.execute("select name, sql from sqlite_master where type = 'table' order by name").fetchall()
        lines = []
        for name, statement in tables:
            # The shadow tables of a full-text index hold its inner layout.
            if "_fts_" not in name:
                rows = sorted(map(repr, connection.execute(f'select * from "{name}"').fetchall()))
                lines.append("\n".join([name, str(statement), *rows]))
        return "\n".join(lines).encode()
    finally:
        connection.close()
