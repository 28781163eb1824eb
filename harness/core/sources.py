"""Which sources can change a run, and one hash of what they mean: everything a run's modules import, directly or not,
as far as it is ours or the user's own.

Python enters by its syntax tree without comments, docstrings and layout: a better comment leaves runs matched. Data
files enter by their bytes.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from harness import ROOT

OURS = ("harness", "environments", "agents")
"""The packages of this distribution. Beside them in ROOT stand the rest of a checkout, or all installed packages."""
DATA = {".md", ".toml", ".json", ".jsonl", ".txt", ".jinja"}
"""Files beside a module that it may read."""
_LAYOUT = {"kind", "type_comment", "type_ignores"}
"""Fields of a syntax tree that change nothing a program does."""


def revision(*modules: str) -> str:
    """sha256 over what the sources mean that these modules (dotted names) reach by import, as hex. Files of other
    distributions do not count: their versions stand in the provenance."""
    return _revision(modules, Path.cwd())


@lru_cache(maxsize=4096)
def _revision(modules: tuple[str, ...], _directory: Path) -> str:
    digest = hashlib.sha256()
    for name, file in sorted(reached(*modules)):
        content = _meaning(file)
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
    parts = module.split(".")
    for root in (*([ROOT] if parts[0] in OURS else []), Path.cwd().resolve()):
        stem = root.joinpath(*parts)
        for file in (stem.with_suffix(".py"), stem / "__init__.py"):
            if file.is_file():
                return root, file
    return None


# Read once a process: what counts is what the process runs, not what an editor saves meanwhile.
@lru_cache(maxsize=1024)
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_bytes(), filename=str(file))


@lru_cache(maxsize=1024)
def _meaning(file: Path) -> bytes:
    return _canonical(_tree(file)).encode("utf-8", "backslashreplace") if file.suffix == ".py" else file.read_bytes()


def _canonical(value: object) -> str:
    """A syntax tree as text that says the same under every version of Python: fields that are empty, and those of
    layout, are left out; a string that stands alone as a statement (a docstring) is too."""
    if isinstance(value, ast.AST):
        fields = ((name, entry) for name, entry in ast.iter_fields(value) if name not in _LAYOUT)
        text = ",".join(f"{name}={_canonical(entry)}" for name, entry in fields if entry not in (None, []))
        return f"{type(value).__name__}({text})"
    if isinstance(value, list):
        return f"[{','.join(_canonical(entry) for entry in value if not _is_docstring(entry))}]"
    return f"{type(value).__name__}:{value!r}"


def _is_docstring(node: object) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


@lru_cache(maxsize=1024)
def _imports(file: Path, package: str) -> tuple[str, ...]:
    return tuple(_imported(_tree(file), package))


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
