"""The command that has today's code repeat the beginning of a record: what it certifies, what it catches."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from experiments import GRPO, as_recorded_by

from harness.core import records, sources
from harness.core.sums import altered
from harness.report import folder
from harness.report.certificate import CERTIFIED
from harness.report.files import seal_results

Command = Callable[..., Any]
PLAIN = """
from agents.methods.grpo import GRPO


class Mine(GRPO):
    def assign(self, groups, evidence, state):
        credits, state, found = super().assign(groups, evidence, state)
        return credits, state, found
"""
RENAMED = PLAIN.replace("found", "noted")
"""Another syntax tree, and the same run."""
CHANGED = PLAIN.replace("return credits", "found = found | {'degenerate_groups': 7.0}\n        return credits")
"""A number that it logs is another."""
OLD = "0" * 16


def write_own(text: str, place: Path) -> None:
    """The module of the user's own method, as a process that begins now would see it."""
    (place / "own.py").write_text(text)
    sys.modules.pop("own", None)
    for cache in (sources._tree, sources._meaning, sources._imports, sources._revision):
        cache.cache_clear()


def state_of(place: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in place.iterdir() if file.is_file()}


@pytest.mark.slow
def test_a_record_whose_code_changed(harness: Command, spec: Callable[..., Path], tmp_path: Path) -> None:
    """Code that changed without a consequence is certified, once; code with one is caught, named by row, step and
    field, and writes nothing."""
    write_own(PLAIN, tmp_path)
    mine = {"label": "mine", "plug": "own:Mine", "options": {"kl": 0.0}}
    sampling = {"group_size": 2, "prompts_per_step": 2}
    evaluation = {"every": 2, "tasks": 4, "curve_tasks": 4, "samples": 1}
    file = spec(methods=[GRPO.model_dump(), mine], budget={"steps": 3}, sampling=sampling, evaluation=evaluation)
    assert harness("bench", str(file), "-j", "1").code == 0
    before = state_of(file.parent)
    done = harness("recertify", str(file.parent), "-j", "1")
    assert (done.code, state_of(file.parent)) == (0, before)
    assert "current: the code beside it is the code that recorded it" in done.out

    write_own(RENAMED, tmp_path)
    assert harness("tables", str(file.parent)).code == 0
    assert "A historical table" in (file.parent / "table.md").read_text()
    done = harness("recertify", str(file.parent), "-j", "1")
    assert done.code == 0, done.out + done.err
    assert "seed 0 of every row is repeated up to step 2" in done.out
    assert "all 5 rows are byte for byte what was recorded" in done.out
    assert altered(file.parent) == {}
    known = records.read_json(file.parent / CERTIFIED)
    assert known["rows"]["mine"] == {"starts": 1, "points": 2, "steps": 2}
    assert known["rows"]["base"] == {"starts": 1, "rows": 8}
    assert known["rows"]["gold"] == {"rows": 4}
    assert harness("tables", str(file.parent)).code == 0
    shown = (file.parent / "table.md").read_text()
    assert "A historical table" not in shown
    assert "seed 0 of every row repeated with later code of its methods up to step 2: byte for byte the same" in shown
    assert "certified already: seed 0 up to step 2" in harness("recertify", str(file.parent)).out
    assert not list((tmp_path / "runs").glob(".recertify-*"))

    write_own(CHANGED, tmp_path)
    before = state_of(file.parent)
    done = harness("recertify", str(file.parent), "-j", "1")
    assert done.code == 1
    assert state_of(file.parent) == before
    assert "same: GRPO" in done.out
    assert "differs: mine: step 0, method/degenerate_groups: recorded " in done.out
    assert "nothing is written" in done.out
    assert harness("tables", str(file.parent)).code == 0
    assert "A historical table" in (file.parent / "table.md").read_text()


@pytest.fixture
def old(harness: Command, spec: Callable[..., Path]) -> Path:
    """A folder as other code would have recorded it, without what it would take to repeat it."""
    file = spec(methods=[GRPO.model_dump()], budget={"steps": 1}, evaluation={"every": 0, "tasks": 2, "samples": 1})
    assert harness("bench", str(file), "-j", "1").code == 0
    as_recorded_by(OLD, file.parent)
    return file.parent


@pytest.mark.slow
def test_a_record_that_was_altered(harness: Command, old: Path) -> None:
    """Sealed as if it had been made so: another start stops it before anything is trained, another machine is named;
    damaged: it is refused, and said how to get it back."""
    known = records.read_json(old / folder.PROVENANCE)
    known["machine"]["cpu"] = "Z80"
    records.write_json(old / folder.PROVENANCE, known)
    reading = records.read(old / folder.RUNS)
    rows = [row | {"initial_checkpoint": "f" * 16} for row in reading.rows]
    records.write_rows(old / folder.RUNS, rows, "runs", matched=reading.header["matched"])
    seal_results(old, [folder.RUNS, folder.PROVENANCE])
    done = harness("recertify", str(old))
    assert done.code == 1
    assert "differs: start, initial_checkpoint: recorded ffffffffffffffff, repeated " in done.out
    assert "the CPU: recorded with Z80, here it is " in done.out
    assert f"harness reproduce {old}" in done.out
    assert "all rows" not in done.out  # nothing was trained
    assert not (old / CERTIFIED).exists()

    for words, message in [
        (["--seed", "7"], "holds no seed 7; it holds 0, 1"),
        (["--steps", "5"], "--steps says 5, the runs of "),
        (["--step", "1"], "No such option: --step"),
        (["--seed", "first"], "Invalid value for '--seed'"),
        (["--steps", "-1"], "Invalid value for '--steps'"),
    ]:
        refused = harness("recertify", str(old), *words)
        assert (refused.code, message in refused.err) == (2, True), refused.err

    (old / folder.ROWS).write_bytes((old / folder.ROWS).read_bytes()[:-9])
    damaged = harness("recertify", str(old))
    assert damaged.code == 1
    assert f"{folder.ROWS} is not what was written" in damaged.err
    assert "harness bench" in damaged.err


def test_nothing_to_recertify_is_said(harness: Command, tmp_path: Path) -> None:
    done = harness("recertify", str(tmp_path))
    assert done.code == 2
    assert "no records below" in done.err
