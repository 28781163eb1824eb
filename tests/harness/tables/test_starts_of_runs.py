"""Runs of one seed begin from one start; seeds may differ, and older records say it once for all."""

from __future__ import annotations

import pytest
from table_records import FACTS, Records

from harness.core.errors import UnmatchedError
from harness.core.fingerprint import fingerprint
from harness.tables.table import build


def begun(records: Records, method: str, by_seed: dict[int, str]) -> None:
    records.runs = [
        run.model_copy(update={"initial_checkpoint": by_seed[run.seed]}) if run.method == method else run
        for run in records.runs
    ]


@pytest.fixture
def records() -> Records:
    made = Records().add("base", 0.3, role="base").add("GRPO", 0.6).add("gold", 1.0, (0,), role="baseline")
    for method in ("base", "GRPO"):
        begun(made, method, {0: "aaaa", 1: "bbbb", 2: "cccc"})
    return made


def test_seeds_have_starts_of_their_own(records: Records) -> None:
    assert len(build(records.runs, records.rows).rows) == 3


def test_two_starts_under_one_seed_are_refused_by_name(records: Records) -> None:
    begun(records, "GRPO", {0: "aaaa", 1: "dddd", 2: "cccc"})
    said = r"initial_checkpoint is 'bbbb' in base \(seed 1\) and 'dddd' in GRPO \(seed 1\)"
    with pytest.raises(UnmatchedError, match=said):
        build(records.runs, records.rows)


def test_records_that_name_one_start_for_all_still_make_a_table() -> None:
    made = Records().add("base", 0.3, role="base").add("GRPO", 0.6)
    facts = FACTS | {"initial_checkpoint": "0123456789abcdef"}
    runs = [run.model_copy(update={"matched": facts}) for run in made.runs]
    rows = [row.model_copy(update={"matched": fingerprint(facts)}) for row in made.rows]
    assert build(runs, rows).facts["initial_checkpoint"] == "0123456789abcdef"
