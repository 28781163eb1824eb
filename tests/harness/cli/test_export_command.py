"""`harness export`: a results folder by its path, a job of verl by its name, and help that teaches both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments import small

from harness import ROOT
from harness.experiment import write_spec

Command = Callable[..., Any]
FOLDER = str(ROOT / "results" / "laptop" / "tau3-airline-mini")


def test_help_teaches_both_and_each(harness: Command) -> None:
    said = harness("export", "--help").out
    assert "harness export RESULTS --to FORM" in said
    assert "harness export verl SPEC" in said
    assert harness("export").out.strip() == said.strip()
    assert "--window" in harness("export", "verl", "--help").out
    assert "rollout-card" in harness("export", FOLDER, "--help").out


def test_a_results_folder_needs_no_word_before_it(harness: Command, tmp_path: Path) -> None:
    for number, words in enumerate(([FOLDER, "--to", "checklist"], ["results", FOLDER, "--to", "checklist"])):
        assert harness("export", *words, "--out", str(tmp_path / str(number))).code == 0
    flipped = harness("export", "--to", "checklist", "--out", str(tmp_path / "2"), FOLDER)
    assert flipped.code == 0
    texts = {(tmp_path / str(number) / "CHECKLIST.md").read_bytes() for number in range(3)}
    assert len(texts) == 1
    assert "did you mean 'checklist'" in harness("export", FOLDER, "--to", "checklst", "--out", str(tmp_path)).err


def test_a_spec_becomes_a_job(harness: Command, tmp_path: Path) -> None:
    spec = tmp_path / "mine.toml"
    other = {"label": "mine", "plug": "agents.methods.hsd:HSD"}
    write_spec(
        small(methods=[{"label": "GRPO", "plug": "agents.methods.grpo:GRPO", "options": {"kl": 0.0}}, other]), spec
    )
    refused = harness("export", "verl", str(spec), "--out", str(tmp_path / "job"))
    assert refused.code == 2
    assert "'mine': it asks for 'contexts'" in refused.err
    assert not (tmp_path / "job").exists()
    done = harness("export", "verl", str(spec), "--out", str(tmp_path / "job"), "--method", "GRPO", "--window", "64")
    assert done.code == 0
    assert "max_model_len: 64" in (tmp_path / "job" / "rows" / "grpo.yaml").read_text()
    assert "launch.sh" in done.out
