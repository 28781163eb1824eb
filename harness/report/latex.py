"""A table as LaTeX, set with booktabs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import jinja2

from harness.core.words import one_line
from harness.report.escaping import tex, tex_cell
from harness.report.grids import blocks, heading
from harness.tables.grid import Grid
from harness.tables.table import Table


def latex(table: Table, appendix: Sequence[Grid] = ()) -> str:
    """booktabs tables, one per block, without wall time; the heading stands above them as comments."""
    return _template().render(heading=heading(table), grids=[*blocks(table, cost=False), *appendix])


def _line(cells: Sequence[str]) -> str:
    first, *others = cells
    return " & ".join([tex_cell(first), *map(tex, others)])


@cache
def _template() -> jinja2.Template:
    # Braces and percent signs are TeX's own: the template marks its places by angle brackets.
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("harness.report"),
        autoescape=False,  # the filters escape: HTML's entities mean nothing to TeX
        undefined=jinja2.StrictUndefined,
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"tex": tex, "line": _line, "comment": one_line}
    return environment.get_template("table.tex.j2")
