"""What other tools are given of a results folder holds what the folder holds."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from harness import ROOT
from harness.core import records
from harness.core.errors import UserError
from harness.report.export import card, checklist, frames, inspect_log, trackers
from harness.report.export.held import Held, read_held

FOLDER = ROOT / "results" / "laptop" / "tau3-airline-mini"


@pytest.fixture(scope="module")
def held() -> Held:
    return read_held(FOLDER)


def test_a_card_holds_every_row_and_names_every_drop(held: Held, tmp_path: Path) -> None:
    written = {file.name: file for file in card.write_card(held, tmp_path)}
    rows = [json.loads(line) for line in written["rows.jsonl"].read_text().splitlines()]
    recorded = records.read(FOLDER / "rows.jsonl.gz").rows
    assert [{k: v for k, v in row.items() if k != "matched"} for row in rows] == recorded
    told = json.loads(written["card.json"].read_text())
    kept = Counter(json.loads(line)["method"] for line in written["rollouts.jsonl"].read_text().splitlines())
    assert told["record"]["rollouts"] == dict(kept)
    drops = json.loads(written["drops.json"].read_text())
    assert sum(row["failed"] for row in drops["evaluation"]) == sum(row["failed"] for row in recorded)


def test_rows_become_flat_and_stay_as_many(held: Held) -> None:
    made = frames.frames(held)
    assert len(made["rows"]) == len(held.found.rows)
    assert made["rows"][0]["metrics.turns"] == held.found.rows[0]["metrics"]["turns"]
    tokens = next(iter(held.episodes.values()))[0]["tokens"]
    assert made["episodes"][0]["tokens"] == tokens
    assert all(not isinstance(value, dict) for row in made["episodes"] for value in row.values())


def test_the_score_of_a_log_is_the_share_of_episodes_that_succeeded(held: Held) -> None:
    for method, episodes in held.episodes.items():
        log = inspect_log.log_of(held, method)
        mean = sum(bool(episode["success"]) for episode in episodes) / len(episodes)
        assert log["results"]["scores"][0]["metrics"]["mean"]["value"] == pytest.approx(mean)
        assert len({(sample["id"], sample["epoch"]) for sample in log["samples"]}) == len(episodes)


def test_a_checklist_leaves_open_what_no_record_tells(held: Held) -> None:
    told = dict(checklist.answers(held))
    assert told["Seeds"].startswith(f"{len(held.experiment.seeds)}: ")
    assert told["License of data and weights"] == checklist.OPEN


def test_trackers_get_every_point_of_every_curve(held: Held) -> None:
    sampled = [scalar for scalar in trackers.scalars(held) if scalar[1] == "success/sampled"]
    assert [scalar[2] for scalar in sampled] == [point["sampled"] for point in held.found.points]


@pytest.mark.slow
@pytest.mark.heavy
def test_inspect_reads_our_logs(held: Held, tmp_path: Path) -> None:
    inspect_ai = pytest.importorskip("inspect_ai.log", reason="inspect_ai is not installed: pip install inspect-ai")
    for file in inspect_log.write_logs(held, tmp_path):
        read = inspect_ai.read_eval_log(str(file))
        assert read.status == "success"
        assert len(read.samples) == read.results.total_samples


@pytest.mark.slow
@pytest.mark.heavy
def test_parquet_comes_back_as_it_was(held: Held, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install pyarrow")
    import pandas as pd

    written = {file.stem: file for file in frames.write_parquet(held, tmp_path)}
    for name, rows in frames.frames(held).items():
        assert len(pd.read_parquet(written[name])) == len(rows)


def test_what_is_not_installed_is_said(held: Held, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(UserError, match="pip install"):
        list(frames.write_parquet(held, tmp_path))
