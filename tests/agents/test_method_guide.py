"""The guide to adding a method: its code is run as it stands there, checked, and trained in one table beside GRPO."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "adding-a-method.md"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "my_method.py").write_text(re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)[0])
    return tmp_path


def harness(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harness.cli", *words], cwd=folder, capture_output=True, text=True, check=False
    )


def test_the_guides_method_keeps_the_contract(folder: Path) -> None:
    done = harness(folder, "check-method", "my_method:Mine")
    assert done.returncode == 0, done.stderr
    assert "keeps the contract" in done.stdout


def test_a_broken_one_is_told_what_is_wrong(folder: Path) -> None:
    file = folder / "my_method.py"
    file.write_text(
        file.read_text().replace("np.where(sequence.mask, advantage * weights, 0.0)", "advantage * weights")
    )
    done = harness(folder, "check-method", "my_method:Mine")
    assert done.returncode == 2
    assert "mask" in done.stderr
    done = harness(folder, "check-method", "my_method:Mein")
    assert "did you mean 'my_method:Mine'" in done.stderr


def test_it_stands_in_a_table_beside_grpo(folder: Path) -> None:
    spec = ROOT / "results" / "demo" / "spec.toml"
    words = ["--env", "Guess-v0", "--spec", str(spec), "--seeds", "0", "--steps", "2"]
    done = harness(folder, "compare", "grpo", "my_method:Mine", *words)
    assert done.returncode == 0, done.stderr
    assert "my_method:Mine" in done.stdout
    table = next(folder.glob("runs/comparisons/*/table.md")).read_text()
    assert "my_method:Mine" in table
    assert "grpo" in table
