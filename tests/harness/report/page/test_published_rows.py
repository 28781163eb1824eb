"""Which of the papers' figures stand below a table on the page."""

from __future__ import annotations

from typing import Any

from experiments import small
from table_records import small_experiment

from harness.report.page.article import _published
from harness.tables.table import build

METHOD = {"label": "GRPO", "plug": "agents.methods.grpo:GRPO"}
"""From arXiv 2402.03300."""


def entry(**changes: Any) -> dict[str, Any]:
    known = {"environment": "guess", "paper": "2402.03300v1", "table": "Table 1", "model": "m", "method": "GRPO"}
    return known | {"metric": "win rate", "value": 40.0, "unit": "%"} | changes


ENTRIES = [
    entry(),
    entry(paper="2606.00001v1", method="other"),  # the same environment, a paper that no row is from
    entry(environment="AppWorld", method="elsewhere"),
]


def methods(quotes: list[dict[str, str]], plug: str = "agents.methods.grpo:GRPO") -> list[str]:
    """The methods whose published figures stand below a table on Guess-v0."""
    records = small_experiment()
    table = build(records.runs, records.rows)
    grid, why_none = _published(table, small(methods=[METHOD | {"plug": plug}]), quotes, ENTRIES)
    assert why_none == ""
    return [row[0] for row in grid.rows] if grid else []


def test_below_a_table_stand_figures_of_its_environment_and_its_methods_papers() -> None:
    assert methods([]) == ["GRPO"]
    assert methods([], plug="nowhere:Mine") == []  # a method that cannot be imported here names no paper


def test_a_papers_spec_quotes_what_it_names_and_nothing_else() -> None:
    assert methods([{"paper": "2606.00001", "environment": "guess"}]) == ["other"]
    assert methods([{"paper": "2402.03300", "environment": "AppWorld"}]) == ["elsewhere"]
