"""Checkpoints of a run that was killed while it wrote or removed one."""

from __future__ import annotations

from pathlib import Path

import pytest
from experiments import job, quiet, small

from harness.runs.job import run_job


@pytest.mark.parametrize("left", ["checkpoint-000001", ".checkpoint-000001", ".checkpoint-000002"])
def test_what_a_kill_left_of_a_checkpoint_goes_with_the_next(tiny_directory: Path, tmp_path: Path, left: str) -> None:
    """Half removed or half written, without the file that makes it one."""
    run = job(small(), tiny_directory, tmp_path / "run")
    (run.folder / left).mkdir(parents=True)
    (run.folder / left / "config.json").write_text("{}")
    run_job(run, quiet)
    assert [entry.name for entry in run.folder.glob("*checkpoint-*")] == ["checkpoint-000006"]
