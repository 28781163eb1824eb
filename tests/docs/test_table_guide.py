"""The page on reading a table: its commands and its code do what it says."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from guides import DOCS, commands, done, refused

from harness import ROOT

GUIDE = "reading-a-table.md"


@pytest.mark.slow
def test_its_commands(tmp_path: Path) -> None:
    by_paper, by_method, one, everything = commands(GUIDE)
    assert "AppWorld" in done(tmp_path, by_paper)
    assert "quoted for orientation" in done(tmp_path, by_method)
    place = tmp_path / one.split()[-1]
    shutil.copytree(ROOT / one.split()[-1], place)
    kept = {file.name: file.read_bytes() for file in place.iterdir() if file.is_file()}
    for name in ("table.md", "table.csv", "curve-sampled.svg"):
        (place / name).unlink()
    done(tmp_path, one)
    assert {file.name: file.read_bytes() for file in place.iterdir() if file.is_file()} == kept
    assert everything == "harness tables"  # tests/harness/report/test_collection.py renders all of them


def test_a_filter_that_is_no_name_is_refused_with_the_nearest(tmp_path: Path) -> None:
    assert "did you mean 'AppWorld'" in refused(tmp_path, "harness published --environment Appworld")


def test_its_code_for_a_results_folder(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The other block is run by tests/harness/report/test_renderings.py."""
    monkeypatch.chdir(ROOT)
    code = re.findall(r"```python\n(.*?)```", (DOCS / GUIDE).read_text(encoding="utf-8"), re.DOTALL)
    assert len(code) == 2
    exec(compile(code[1], GUIDE, "exec", dont_inherit=True), {})
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("base Estimate(mean=")
    assert printed[-1].startswith("gold Estimate(mean=1.0")
