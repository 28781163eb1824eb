"""What is said while works are going on: numbers by hand, on a console that is no terminal."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest
from rich.console import Console

from harness.executors import bars
from harness.executors.work import Work


def works(count: int, found: str = "") -> list[Work]:
    return [Work(f"run {n}", print, so_far=(lambda: found) if found else None) for n in range(count)]


def test_a_summary_counts_what_is_done_and_running() -> None:
    out = io.StringIO()
    with bars.bars(Console(file=out, width=200), "all runs", works(4, "success 0.50 [0.40, 0.60]")) as shown:
        shown.began = time.monotonic() - 100
        shown.show(0, "training", 0, 40)
        shown.show(1, "training", 20, 40)  # gone on with: its first 20 steps are an earlier call's
        shown.show(0, "training", 20, 40)
        shown.show(1, "training", 30, 40)
        # 30 steps in 100 s; of 4 runs 1.25 are done, of which this call did 0.75: 2.75 are left, 100 / 0.75 s each.
        assert shown.left(100.0) == pytest.approx(2.75 * 100 / 0.75)
        assert shown.summary() == "all runs: 0 of 4 done, 2 running, 0.3 steps/s, about 6 min left"
        shown.show(0, "evaluating, sampled", 1, 10)  # its training is over
        assert shown.left(100.0) == pytest.approx(2.25 * 100 / 1.25)
        shown.finish(0, True)
        shown.finish(1, False)
    said = out.getvalue()
    assert "done: run 0  success 0.50 [0.40, 0.60]  (1 of 4, 100 s)" in said
    assert "failed: run 1  (2 of 4" in said


def test_nothing_is_foretold_before_anything_was_done() -> None:
    with bars.bars(Console(file=io.StringIO()), "all runs", works(2)) as shown:
        shown.show(0, "training", 5, 10)
        assert shown.left(10.0) is None
        assert "left" not in shown.summary()


def test_without_a_terminal_there_is_a_plain_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    with bars.bars(Console(file=out, width=200), "all runs", works(1)) as shown:
        shown.show(0, "training", 1, 10)
        assert out.getvalue() == ""
        monkeypatch.setattr(bars, "LINE_EVERY_S", 0.0)
        shown.show(0, "training", 2, 10)
    assert out.getvalue().startswith("  all runs: 0 of 1 done, 1 running")
    assert out.getvalue().count("\n") == 1


def test_an_interval_by_hand() -> None:
    """Wilson's interval of 0 of 10: 0 to z^2 / (n + z^2) = 3.8416 / 13.8416."""
    from harness.executors.work import _wilson

    low, high = _wilson(0.0, 10)
    assert low == pytest.approx(0.0, abs=1e-12)
    assert high == pytest.approx(3.8416 / 13.8416)


def test_success_so_far_is_read_from_what_a_run_has_left(tmp_path: Path, tiny_directory: Path) -> None:
    from experiments import job, small

    from harness.core import records
    from harness.executors.work import success_so_far

    run = job(small(), tiny_directory, tmp_path / "run")
    assert success_so_far(run) == ""
    run.folder.mkdir(parents=True)
    points = [{"step": 0, "sampled": 0.25, "tasks": "0001"}, {"step": 2, "sampled": 0.5, "tasks": "0011"}]
    records.append(run.folder / "curve.jsonl", points, kind="curve")
    assert success_so_far(run).startswith("success 0.50 [")
    rows = [{"decoding": "sampled", "success": 1.0}, {"decoding": "greedy", "success": 0.0}]
    records.append(run.folder / "rows.jsonl", rows, kind="rows")
    (run.folder / "done.json").write_text("{}")
    assert success_so_far(run).startswith("success 1.00 [")
