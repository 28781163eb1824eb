"""report, trajectories and view: from a spec to a page, through the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.core.records import read

Command = Callable[..., Any]


def test_a_place_without_records_is_refused(harness: Command, tmp_path: Path) -> None:
    said = harness("report", str(tmp_path))
    assert said.code == 2
    assert "harness bench" in said.err


@pytest.mark.slow
def test_a_bench_ends_with_its_report_and_trajectories_join_it(
    harness: Command, spec: Callable[..., Path], tmp_path: Path
) -> None:
    spec(seeds=[0])
    said = harness("bench", "guessing", "--out", "results")
    assert said.code == 0, said.err
    folder = tmp_path / "results" / "guessing"
    assert "report: results/guessing/report.html" in said.out
    first = (folder / "report.html").read_text()
    assert "harness trajectories" in first  # none were played, and how
    rows = read(folder / "steps.jsonl.gz").strict()
    assert [row["step"] for row in rows] == [0, 1]
    assert rows[0]["mean"]["groups"] > 0

    said = harness("trajectories", str(folder), "--tasks", "2", "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out)["episodes"] == 8
    said = harness("report", str(folder), "--json", "--out", "page.html")
    assert said.code == 0, said.err
    told = json.loads(said.out)
    assert told["written"] == "page.html"
    assert told["tables"][0]["headline"] in (tmp_path / "page.html").read_text()
    assert 'class="viewer"' in (tmp_path / "page.html").read_text()

    # A repetition that has played none shows those of its record, and says so.
    said = harness("bench", "results/guessing", "--out", "again")
    assert said.code == 0, said.err
    repeated = (tmp_path / "again" / "guessing" / "report.html").read_text()
    assert 'class="viewer"' in repeated
    assert "the record that is repeated here" in repeated
    assert "the record that is repeated here" not in (tmp_path / "page.html").read_text()

    # Beside itself, the table is the same to the last digit.
    said = harness("report", str(folder), "--beside", str(folder), "--out", "page.html")
    assert "rows are the same as recorded" in (tmp_path / "page.html").read_text()
