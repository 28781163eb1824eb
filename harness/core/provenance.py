"""What a run ran on: versions, machine and commit; no host name, no user, no path of the machine. Which sources it
ran says `harness.core.sources`."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from harness import ROOT

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
        "code": _git(root),
    }


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
