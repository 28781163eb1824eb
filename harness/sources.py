"""Which source files can change a run: everything a run's modules import, directly or not, as far as it is ours or the user's own."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = {".md", ".toml", ".json", ".jsonl", ".txt", ".jinja"}
"""Files beside a module that it may read."""


def revision(*modules: str) -> str:
    """sha256 over the sources that these modules (dotted names) reach by import, as hex. Files of other distributions do not count: their
    versions stand in the provenance."""
    digest = hashlib.sha256()
    for name, file in sorted(reached(*modules)):
        content = _read(file)
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def reached(*modules: str) -> set[tuple[str, Path]]:
    """(name relative to its root, file) of every source file reached."""
    found: set[tuple[str, Path]] = set()
    waiting = list(modules)
    seen: set[str] = set()
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        located = _locate(module)
        if located is None:
            continue
        root, file = located
        found.add((file.relative_to(root).as_posix(), file))
        if file.parent != root and file.parent.parent != root:
            found |= {(d.relative_to(root).as_posix(), d) for d in file.parent.iterdir() if d.suffix in DATA}
        package = module if file.stem == "__init__" else module.rpartition(".")[0]
        waiting.extend(_imports(file, package))
    return found


def _locate(module: str) -> tuple[Path, Path] | None:
    """The root and file of a module of ours, or of one in the current directory (a user's own plug)."""
    for root in (ROOT, Path.cwd().resolve()):
        stem = root.joinpath(*module.split("."))
        for file in (stem.with_suffix(".py"), stem / "__init__.py"):
            if file.is_file():
                return root, file
    return None


@lru_cache(maxsize=1024)
def _read(file: Path) -> bytes:
    # Read once a process: what counts is what the process runs, not what an editor saves meanwhile.
    return file.read_bytes()


@lru_cache(maxsize=1024)
def _imports(file: Path, package: str) -> tuple[str, ...]:
    return tuple(_imported(ast.parse(_read(file)), package))


def _imported(tree: ast.Module, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*above, *filter(None, [node.module])])
            yield source
            for alias in node.names:
                yield f"{source}.{alias.name}"
