"""The page that joins the tables of several experiments.

write_index("results/laptop", "Laptop results")           # README.md over every folder below that holds a table
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

from harness import ROOT
from harness.core.errors import MissingDataError
from harness.core.records import write_whole
from harness.report.escaping import markdown as escaped
from harness.report.files import REPORT

RESULTS = ("Success", "Area under the learning curve", "Credit share")
"""Blocks that the page shows, by how their captions begin."""
_FILES = {".md", ".csv", ".tex", ".html"}


def write_index(folder: str | Path, title: str) -> Path:
    """`folder`/README.md: of every folder below that holds a table.md the heading, the plots and the success.

    Raises MissingDataError when there is no table below.
    """
    folder = Path(folder)
    tables = sorted(folder.glob("*/table.md"))
    if not tables:
        raise MissingDataError(f"no table.md in any folder below {folder}")
    parts = [f"# {escaped(title)}"]
    if folder.resolve().is_relative_to(ROOT):
        guide = os.path.relpath(ROOT / "docs/reading-a-table.md", folder.resolve())
        parts.append(f"[How to read these tables]({Path(guide).as_posix()})")
    for table in tables:
        parts += _section(table)
    path = folder / "README.md"
    write_whole(path, "\n\n".join(part for part in parts if part) + "\n")
    return path


def _section(table: Path) -> list[str]:
    """One table's title and heading, its plots, its blocks of success, and links to its files."""
    name = table.parent.name
    first, *blocks = table.read_text(encoding="utf-8").split("\n## ")
    plots = [plot for plot in sorted(table.parent.iterdir()) if plot.suffix == ".svg"]
    parts = ["#" + first.strip()]  # its title, one level down
    parts += [f"![{escaped(f'{plot.stem} of {name}')}]({quote(f'{name}/{plot.name}')})" for plot in plots]
    parts += ["### " + block.strip() for block in blocks if block.startswith(RESULTS)]
    files = [file.name for file in sorted(table.parent.iterdir()) if file.suffix in _FILES and file.name != REPORT]
    links = [f"[{escaped(file)}]({quote(f'{name}/{file}')})" for file in files]
    return [*parts, "All of it: " + ", ".join(links) + "."]
