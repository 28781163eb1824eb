"""The page on exports: its commands do what it says."""

from __future__ import annotations

from pathlib import Path

import pytest
from guides import commands, done, harness

from harness import ROOT


@pytest.mark.slow
def test_its_commands(tmp_path: Path) -> None:
    *exports, plan = commands("exports.md")
    for command in exports:
        folder = command.split()[2]
        done(tmp_path, command.replace(folder, str(ROOT / folder)))
    assert {"card.json", "drops.json", "CHECKLIST.md"} <= {file.name for file in (tmp_path / "runs/card").iterdir()}
    assert list((tmp_path / "runs/logs").glob("*.json"))
    spec = plan.split()[-1]
    planned = harness(tmp_path, plan.replace(spec, str(ROOT / spec)))
    assert planned.returncode == 1
    assert "hf download Qwen/Qwen3.5-4B" in planned.stdout
