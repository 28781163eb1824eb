"""A table as one self-contained HTML page: no script, nothing to load."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import jinja2

from harness.core.words import one_line
from harness.report.grids import blocks, heading
from harness.tables.grid import Grid
from harness.tables.table import Table


def html_page(table: Table, appendix: Sequence[Grid] = ()) -> str:
    """The whole table without wall time: the same records give the same bytes."""
    grids = [*blocks(table, cost=False), *appendix]
    return (
        environment()
        .get_template("table.html.j2")
        .render(title=table.title or table.environment, heading=heading(table), grids=grids)
    )


def _plain(value: Any) -> Any:
    # Markup is what a macro has rendered and escaped; only bare text comes from records.
    return one_line(value) if type(value) is str else value


@cache
def environment() -> jinja2.Environment:
    """How every HTML template of ours is rendered: escaped, strict about names, records' words kept on one line."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("harness.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_plain,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
