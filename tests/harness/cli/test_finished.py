"""A call of `bench` that has nothing to do says again what it said, at once, and only then."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Command

import harness.cli.experiments as commands
from harness.core import sources

NOTHING = "everything was there"
OWN = """
from agents.methods.grpo import GRPO


class Mine(GRPO):
    name = "mine"
"""


def old(file: Path) -> Path:
    """Not written just now: what is may have been read before."""
    os.utime(file, (1e9, 1e9))
    return file


def again(harness: Command) -> str:
    said = harness("bench", "guessing/spec.toml", "--out", "results", "-j", "1")
    assert said.code == 0
    return said.out


def grids(out: str) -> str:
    """What is printed of tables: from the first block on."""
    return out[out.index("Area") if "Area" in out else out.index("Success") :].partition("report:")[0].strip()


def test_what_was_printed_is_printed_again_without_a_look_at_the_runs(
    harness: Command, spec: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    old(spec(budget={"steps": 1}, seeds=[0]))
    first = again(harness)
    plain = json.loads(harness("bench", "guessing/spec.toml", "--out", "results", "-j", "1", "--json").out)
    monkeypatch.setattr(commands, "run_experiment", lambda *_: pytest.fail("looked at the runs"))
    said = again(harness)
    assert NOTHING in said
    assert grids(said) == grids(first)
    assert json.loads(harness("bench", "guessing/spec.toml", "--out", "results", "-j", "1", "--json").out) == plain


def test_a_process_says_again_what_another_said(spec: Callable[..., Path]) -> None:
    """What a call imports sets environment variables of its own, which the next one does not have yet."""
    file = old(spec(budget={"steps": 1}, seeds=[0]))
    words = [sys.executable, "-m", "harness.cli", "bench", str(file), "--out", "results", "-j", "1"]
    here = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    here["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    done = [subprocess.run(words, env=here, cwd=file.parent.parent, capture_output=True, text=True) for _ in range(2)]
    first, second = (process.stdout for process in done)
    assert [process.returncode for process in done] == [0, 0], done[0].stderr
    assert (NOTHING in first, NOTHING in second) == (False, True)


@pytest.mark.parametrize(
    "change",
    [
        lambda: next(Path("runs").glob("guessing/*/grpo*/steps.jsonl")).unlink(),
        lambda: os.utime("guessing/spec.toml"),
        lambda: Path("results/guessing/table.md").write_text("mine"),
        lambda: Path("results/guessing/report.html").unlink(),
        lambda: Path("runs/.finished").rename("elsewhere"),
        lambda: next(Path("runs/.finished").iterdir()).write_text('{"own": 3}'),
        lambda: next(Path("runs/.finished").iterdir()).write_bytes(b"\xff"),
        lambda: os.environ.update(SOME_ROOT="elsewhere"),
    ],
    ids=["run", "spec", "table", "report", "no note", "another note", "damaged note", "environment"],
)
def test_a_change_is_seen(
    harness: Command, spec: Callable[..., Path], change: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    old(spec(budget={"steps": 1}, seeds=[0]))
    again(harness)
    assert NOTHING in again(harness)
    monkeypatch.setenv("SOME_ROOT", "")  # restored afterwards
    monkeypatch.delenv("SOME_ROOT")
    change()
    assert NOTHING not in again_or_damaged(harness)


def again_or_damaged(harness: Command) -> str:
    said = harness("bench", "guessing/spec.toml", "--out", "results", "-j", "1")
    return said.out + said.err


def test_a_method_of_ones_own_is_looked_at(
    harness: Command, spec: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    own = tmp_path / "mine_and_finished.py"
    own.write_text(OWN)
    old(own)
    methods = [
        {"label": "GRPO", "plug": "agents.methods.grpo:GRPO", "options": {"kl": 0.0}},
        {"label": "mine", "plug": "mine_and_finished:Mine", "options": {"kl": 0.0}},
    ]
    old(spec(budget={"steps": 1}, seeds=[0], methods=methods))
    assert NOTHING not in again(harness)
    assert NOTHING in again(harness)
    own.write_text(OWN.replace('"mine"', '"other"'))
    for cache in (sources._tree, sources._meaning, sources._imports, sources._revision):
        cache.cache_clear()  # as in a process that begins now
    assert NOTHING not in again(harness)


def test_what_was_changed_while_it_ran_is_not_noted(
    harness: Command, spec: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = old(spec(budget={"steps": 1}, seeds=[0]))
    run = commands.run_experiment

    def edited(*given: Any) -> Any:
        os.utime(file)
        return run(*given)

    monkeypatch.setattr(commands, "run_experiment", edited)
    again(harness)
    monkeypatch.setattr(commands, "run_experiment", run)
    assert NOTHING not in again(harness)
    assert NOTHING in again(harness)
