"""The page that joins tables: of every table its heading, plots, success and files."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.core.errors import MissingDataError
from harness.report.index import write_index


def test_the_index_joins_the_tables_below(tmp_path: Path) -> None:
    for name in ("guess", "reasoning-mini"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "table.md").write_text(
            f"# {name}\n\n- Seeds: 0, 1\n\n## Success, sampled\n\n| a |\n\n"
            "## Success, greedy\n\n| b |\n\n## Cost\n\n| 17 s |\n"
        )
        (folder / "table.csv").touch()
    (tmp_path / "guess" / "curve.svg").touch()
    text = write_index(tmp_path, "Laptop results").read_text()
    assert text.startswith("# Laptop results\n")
    assert text.index("## guess") < text.index("![curve of guess](guess/curve.svg)") < text.index("## reasoning-mini")
    assert text.count("### Success, sampled\n\n| a |") == 2
    assert text.count("### Success, greedy\n\n| b |") == 2
    assert "17 s" not in text  # wall time would make two equal runs differ
    assert "[table.csv](guess/table.csv), [table.md](guess/table.md)" in text
    with pytest.raises(MissingDataError, match=r"no table\.md"):
        write_index(tmp_path / "guess", "Nothing")
