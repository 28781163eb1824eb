"""What people type and mistype, and repetitions of a recorded experiment."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from experiments import GRPO, RLOO

from harness import ROOT
from harness.cli.running import numbers
from harness.core.episodes import read_episodes
from harness.core.errors import UserError
from harness.core.records import write_rows
from harness.report import folder
from harness.report.files import seal_results

Command = Callable[..., Any]


@pytest.mark.parametrize(
    ("text", "seeds"), [("0", (0,)), ("0,1,2", (0, 1, 2)), ("0-2", (0, 1, 2)), ("3, 5-6,5", (3, 5, 6))]
)
def test_seeds_as_people_write_them(text: str, seeds: tuple[int, ...]) -> None:
    assert numbers(text) == seeds


@pytest.mark.parametrize("text", ["-1", "1,,2", "a", "1-", "1.5", ""])
def test_seeds_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match=r"such as 0,1,2 or 0-2"):
        numbers(text)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("bench", "results/laptop/reasoning-min"), "did you mean"),
        (("bench", "README.md"), "is no spec: an experiment's spec is a TOML file"),
        (("show", "README.md"), "is no record of episodes"),
        (("compare", "grpo", "rloo", "--env", "Guess-v0", "--spec", "SPEC"), "leave the environment to the spec"),
    ],
)
def test_a_wrong_file_is_one_line(harness: Command, tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    (tmp_path / "README.md").write_text("# a page\n")
    spec = ROOT / "results" / "laptop" / "reasoning-mini" / "spec.toml"
    done = harness(*(str(spec) if word == "SPEC" else word for word in words))
    assert done.code == 2
    assert message in done.err
    assert done.err.count("\n") == 1


def test_the_last_episode_is_minus_one(harness: Command) -> None:
    file = ROOT / "results" / "laptop" / "reasoning-mini" / "episodes" / "grpo.jsonl.gz"
    episodes, _ = read_episodes(file)
    assert harness("show", str(file), "-1").out == harness("show", str(file), str(len(episodes) - 1)).out


def test_the_committed_table_is_printed_without_a_run(harness: Command) -> None:
    """From the records beside the spec: no start is trained, nothing is written."""
    folder = ROOT / "results" / "laptop" / "reasoning-mini"
    done = harness("table", str(folder / "spec.toml"), "--format", "csv")
    assert done.out == (folder / "table.csv").read_text()
    assert done.err == ""


# ---------------------------------------------------------------- repetitions


@pytest.mark.slow
def test_a_repetition_is_held_beside_the_record(harness: Command, spec: Callable[..., Path], tmp_path: Path) -> None:
    """The same machine gives the same rows; a record that says otherwise is called different, and nothing of it is
    touched."""
    file = spec(methods=[GRPO.model_dump(), RLOO.model_dump()])
    said = harness("bench", str(file), "--json")  # words to standard error, plain data to standard output
    assert said.code == 0
    assert "8 runs, 0 of them finished before" in said.err
    (benched,) = json.loads(said.out)["experiments"]
    assert {"GRPO", "RLOO"} <= {row["method"] for row in benched["rows"]}
    assert json.loads(harness("table", str(file), "--json").out) == benched["rows"]
    recorded = {place.name: place.read_bytes() for place in file.parent.iterdir() if place.is_file()}
    again = harness("bench", str(file), "--out", "elsewhere")
    assert again.code == 0
    assert "rows are the same as recorded" in again.out
    assert {place.name: place.read_bytes() for place in file.parent.iterdir() if place.is_file()} == recorded
    assert (tmp_path / "elsewhere" / "guessing" / "table.md").is_file()
    assert "guessing" in (tmp_path / "elsewhere" / "README.md").read_text()

    done = harness("reproduce", str(file.parent))
    assert done.code == 0
    assert "rows are the same as recorded" in done.out

    found = folder.read_records(file.parent)
    changed = [row | ({"success": 1.0 - row["success"]} if row["method"] == "gold" else {}) for row in found.rows]
    rows = [{key: value for key, value in row.items() if key != "matched"} for row in changed]
    write_rows(file.parent / folder.ROWS, rows, "rows", matched=changed[0]["matched"])
    seal_results(file.parent, [folder.ROWS])  # as a record that was made so, not one that was damaged
    differs = harness("reproduce", str(file.parent), "--json")
    assert differs.code == 1
    assert "1 differ" in differs.err
    told = json.loads(differs.out)
    assert [row["method"] for row in told["rows"] if row["verdict"] == "differs"] == ["gold"]
    assert (tmp_path / told["written"] / "table.md").is_file()


@pytest.mark.slow
def test_a_repetition_may_have_other_seeds_and_so_other_starts(
    harness: Command, spec: Callable[..., Path], tmp_path: Path
) -> None:
    tiny = {"width": 32, "layers": 2, "heads": 4, "kv_heads": 1, "mlp": 64, "window": 96, "vocabulary": 280}
    file = spec(
        model={"name": "tiny", "tiny": tiny},
        warm_start={"steps": 3, "batch": 8},
        evaluation={"every": 0, "tasks": 4, "start_tasks": 3},
        budget={"steps": 1},
    )
    done = harness("bench", str(file), "-j", "2")
    assert done.code == 0, done.err
    assert "done: start, seed 1" in done.out
    assert "start of seed 0:" in done.out
    starts = json.loads((file.parent / "provenance.json").read_text())["starts"]
    assert len({start["initial_checkpoint"] for start in starts.values()}) == len(starts) == 2
    again = harness("reproduce", str(file.parent), "--seeds", "5-6")
    assert again.code in (0, 1)
    assert "start of seed 6:" in again.out
    assert "Beside the recorded table" in again.out
    assert len(list((tmp_path / "cache" / "warm-starts").iterdir())) == 4
    provenance = tmp_path / "runs" / "reproductions" / "guessing-seeds-5-6" / "provenance.json"
    assert set(json.loads(provenance.read_text())["starts"]) == {"5", "6"}


def test_nothing_to_reproduce_is_said(harness: Command, tmp_path: Path) -> None:
    done = harness("reproduce", str(tmp_path))
    assert done.code == 2
    assert "holds no records" in done.err
