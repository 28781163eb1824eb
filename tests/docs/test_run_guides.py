"""The guides on where a run runs: they are linked, and the job that one of them shows is written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from guides import DOCS, commands, done

from harness import ROOT

GUIDES = sorted(file.name for file in DOCS.glob("run-*.md"))


@pytest.mark.parametrize("guide", GUIDES)
def test_a_guide_is_linked_and_says_what_was_run(guide: str) -> None:
    assert f"docs/{guide}" in (ROOT / "README.md").read_text(encoding="utf-8")
    text = (DOCS / guide).read_text(encoding="utf-8")
    for part in ("**What it needs.**", "**What was run.**"):
        assert part in text or guide == "run-with-trl.md"
    for link in re.findall(r"\]\(([\w-]+\.md)", text):
        assert (DOCS / link).is_file(), link


@pytest.mark.slow
def test_the_job_of_verl_is_written(tmp_path: Path) -> None:
    [command] = [line for line in commands("run-with-verl.md") if "export verl" in line]
    spec = ROOT / "results" / "laptop" / "bifurcation" / "spec.toml"
    done(tmp_path, command.replace("my_experiment.toml", str(spec)))
    assert (tmp_path / "runs/verl/mine/rows/grpo.yaml").is_file()
    assert (tmp_path / "runs/verl/mine/rows/gigpo.yaml").is_file()
