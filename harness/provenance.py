"""What a run ran on: versions, machine and code revision; no host name, no user, no path of the machine."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
"""The folder that holds `harness`, `environments` and `agents`."""

PACKAGES = (
    "sibling-harness",
    "numpy",
    "scipy",
    "torch",
    "transformers",
    "tokenizers",
    "gymnasium",
    "reasoning-gym",
    "math-verify",
    "pydantic",
    "trl",
    "verl",
    "peft",
)
"""Distributions whose version can change a number; those that are not installed are left out."""

_TREES = ("harness", "environments", "agents")
_ONLY_PRESENT = {f"harness/{name}.py" for name in ("cli", "layouts", "published", "report", "stats", "tables")}
"""They read what a run recorded and cannot change it."""
_SUFFIXES = {".py", ".md", ".toml", ".json", ".jsonl", ".txt", ".jinja"}


def provenance(root: Path = ROOT) -> dict[str, Any]:
    """Everything that may explain why two runs of one spec differ, as plain data."""
    return {
        "python": platform.python_version(),
        "packages": _versions(),
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "cpu": _cpu_model(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        },
        "code": {"revision": code_revision(root), **_git(root)},
    }


def code_revision(root: Path = ROOT) -> str:
    """SHA-256 over name and content of every source file that can change a run (prompts and data included), as hex."""
    digest = hashlib.sha256()
    for tree in _TREES:
        for file in sorted((root / tree).rglob("*"), key=lambda file: file.as_posix()):
            name = file.relative_to(root).as_posix()
            if file.suffix in _SUFFIXES and file.is_file() and name not in _ONLY_PRESENT:
                content = file.read_bytes()
                digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or "unknown"


def _git(root: Path) -> dict[str, Any]:
    """The checkout's commit, and whether its sources differ from it; None for both outside a checkout of ours."""
    top = _ask_git(root, "rev-parse", "--show-toplevel")
    commit = _ask_git(root, "rev-parse", "--verify", "HEAD")
    if not top or not commit or Path(top).resolve() != root.resolve():
        return {"commit": None, "dirty": None}
    return {"commit": commit, "dirty": bool(_ask_git(root, "status", "--porcelain", "--", *_TREES))}


def _ask_git(root: Path, *words: str) -> str | None:
    command = ["git", "--no-optional-locks", "-C", str(root), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
