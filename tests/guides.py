"""The guides under docs/ as a reader follows them: files written as the text says, commands run by the real command."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"
FILE = re.compile(r"`([\w.]+\.(?:py|toml))`[^`]*?:\n+```\w+\n(.*?)^```$", re.DOTALL | re.MULTILINE)
"""A block that is introduced by the name of its file and a colon."""


def written(guide: str, folder: Path) -> list[str]:
    """Write the files that a guide shows into a folder; returns their names."""
    files = FILE.findall((DOCS / guide).read_text(encoding="utf-8"))
    for name, text in files:
        (folder / name).write_text(text, encoding="utf-8")
    return [name for name, _ in files]


def commands(guide: str) -> list[str]:
    """The lines of a guide's bash blocks that call `harness`, comments taken off."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", (DOCS / guide).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    lines = [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("harness ")]


def harness(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    """`harness ...` in a folder, in a process of its own that finds this checkout first."""
    words = shlex.split(command)
    assert words[0] == "harness", command
    environ = os.environ | {"PYTHONPATH": str(DOCS.parent), "COLUMNS": "200"}
    called = [sys.executable, "-m", "harness.cli", *words[1:]]
    return subprocess.run(called, cwd=folder, env=environ, capture_output=True, text=True, check=False, timeout=500)


def parsed(parser: Any, name: str, words: list[str]) -> Any:
    """What a command's parser makes of these words, a sub-command's where it has such."""
    context = parser.make_context(name, words)
    if not hasattr(parser, "resolve_command"):
        return context
    inner, command, rest = parser.resolve_command(context, [*context._protected_args, *context.args])
    return command.make_context(inner, rest, parent=context)


def done(folder: Path, command: str) -> str:
    """What a command prints that has to succeed."""
    result = harness(folder, command)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def refused(folder: Path, command: str) -> str:
    """What a command says that has to be refused as the caller's mistake."""
    result = harness(folder, command)
    assert result.returncode == 2, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stderr
