"""Columns of the results: one declaration makes one, in every rendering."""

from __future__ import annotations

import csv
import io

import pytest
from renderings import renderings
from table_records import small_experiment

from harness.report import columns
from harness.report.columns import Column, gain, three_digits
from harness.tables.table import Table, build


@pytest.fixture
def table() -> Table:
    records = small_experiment()
    return build(records.runs, records.rows)


def test_one_declaration_makes_a_column(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    error = Column(
        "error",
        lambda table: "Std. error",
        lambda score: score.success.error,
        three_digits,
        estimate=False,
        note="Std. error: of the success.",
    )
    before = renderings(table)
    monkeypatch.setattr(columns, "COLUMNS", (*columns.COLUMNS, error))
    after = renderings(table)
    score = table.rows[1].scores["sampled"]
    for form in ("markdown", "latex", "html", "terminal"):
        assert "Std. error" not in before[form]
        assert "Std. error: of the success." in after[form]
        assert f"{score.success.error:.3f}" in after[form]
    lines = list(csv.DictReader(io.StringIO(after["csv"])))
    assert lines[2]["error"] == f"{score.success.error:.12g}"
    assert [{key: value for key, value in line.items() if key != "error"} for line in lines] == list(
        csv.DictReader(io.StringIO(before["csv"]))
    )


def test_a_column_with_an_interval_has_three_fields_in_the_file(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    lead = Column("lead", lambda table: "Lead", lambda score: score.versus, gain, shown=lambda scores: False)
    monkeypatch.setattr(columns, "COLUMNS", (*columns.COLUMNS, lead))
    shown = renderings(table)
    assert not any("Lead" in text for text in shown.values())
    for line in csv.DictReader(io.StringIO(shown["csv"])):
        for end in ("", "_low", "_high"):
            assert line[f"lead{end}"] == line[f"difference{end}"]
