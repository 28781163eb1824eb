"""The command in this process, and a small spec for it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tomli_w
from experiments import small

from harness.cli import entry as cli
from harness.cli import screen


class Said(NamedTuple):
    code: int
    out: str
    err: str


Command = Callable[..., Said]


@pytest.fixture
def harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """The command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("HARNESS_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(screen.console, "_width", 200)

    def run(*words: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["harness", *words])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        return Said(int(exit_.value.code or 0), *capfd.readouterr())

    return run


@pytest.fixture
def spec(tiny_directory: Path, tmp_path: Path) -> Callable[..., Path]:
    """A spec file on Guess from the tiny policy."""

    def write(**changes: Any) -> Path:
        settings: dict[str, Any] = {
            "name": "guessing",
            "environment": {"id": "environments:Guess-v0"},
            "model": {"name": str(tiny_directory)},
            "budget": {"steps": 2},
            "evaluation": {"every": 0, "tasks": 4},
            "seeds": [0, 1],
        }
        data = json.loads(small(**settings | changes).model_dump_json(exclude_none=True))
        file = tmp_path / "guessing" / "spec.toml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(tomli_w.dumps(data))
        return file

    return write
