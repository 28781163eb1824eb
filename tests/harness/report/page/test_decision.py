"""The decision in words: each sentence is the table's own verdict, nothing more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from table_records import FACTS, TASKS, Records, small_experiment

from harness.experiment import fingerprint
from harness.report.folder import build_table, read_records
from harness.report.page.decision import decide, findings, listed
from harness.report.search import experiment_of
from harness.tables.records import EvaluationRow, Run
from harness.tables.table import Table, build

ROOT = Path(__file__).parents[4]
Rates = dict[str, float]


def table_of(rates: Rates, seeds: int = 3, tasks: int = 400, noise: float = 0.0, **kinds: str) -> Table:
    """One decoding; every method solves its share of the tasks, in the same places for equal shares."""
    rng, runs, rows = np.random.default_rng(0), [], []
    luck = rng.random((seeds, tasks))
    for method, rate in rates.items():
        solved = luck + noise * rng.standard_normal(luck.shape) < rate
        for seed in range(seeds):
            runs.append(Run(method=method, seed=seed, matched=FACTS, control=kinds.get(method)))
            rows += [
                EvaluationRow(
                    method=method, seed=seed, matched=fingerprint(FACTS), split="test", task_id=f"t{task}",
                    decoding="sampled", samples=1, success=float(solved[seed, task]),
                )
                for task in range(tasks)
            ]  # fmt: skip
    return build(runs, rows)


def words(table: Table) -> dict[str, str]:
    return {finding.method: finding.word for finding in findings(table, table.primary)}


def test_a_better_row_is_the_one_to_use() -> None:
    table = table_of({"Plain": 0.3, "Good": 0.6, "Bad": 0.1})
    assert words(table) == {"Good": "better", "Bad": "worse"}
    decision = decide(table)
    assert decision.headline == "Good is better than Plain."
    assert decision.use == "Use Good."
    assert decision.pick == "Good"
    assert any(said.startswith("Bad is worse by 0.") for said in decision.sentences)


def test_of_two_better_rows_the_larger_gain_is_named_and_that_they_are_not_compared() -> None:
    decision = decide(table_of({"Plain": 0.2, "Good": 0.5, "Best": 0.8}))
    assert decision.headline == "Good and Best are better than Plain."
    assert decision.use.startswith("Use Best:")
    assert "not compared with each other" in decision.use


def test_what_is_undecided_is_not_called_the_same() -> None:
    table = table_of({"Plain": 0.4, "Other": 0.42}, tasks=40, noise=0.4)
    assert words(table) == {"Other": "undecided"}
    decision = decide(table)
    assert decision.headline == "No method is shown to be better than Plain."
    assert "one method is undecided" in decision.use
    assert any("no evidence that they are the same" in said for said in decision.sentences)


def test_what_makes_no_difference_is_said_with_the_margin() -> None:
    # Equal in every cell: the interval is its floor, about 3 / T = 0.004 at 900 tasks, well within 0.02.
    table = table_of({"Plain": 0.4, "Twin": 0.4}, tasks=900)
    assert words(table) == {"Twin": "equivalent"}
    decision = decide(table)
    assert decision.headline == "No method makes a difference that matters to Plain."
    assert decision.use == "Use Plain: nothing here improves on it."
    assert any("no difference larger than 0.02" in said for said in decision.sentences)


def test_a_lead_that_is_gone_at_the_end_is_said_and_never_the_one_to_use() -> None:
    """In the record HSD as printed leads over the whole of training and has fallen back by its end."""
    folder = ROOT / "results" / "full" / "bifurcation"
    experiment, found = experiment_of(folder), read_records(folder)
    decision = decide(build_table(experiment, found))
    assert decision.headline == (
        "HSD and HSD, frozen teacher are better than GRPO, but HSD is not shown to be so at the end."
    )
    assert decision.use == "Use HSD, frozen teacher: its gain is there at the end too."
    others = {
        name: [entry for entry in getattr(found, name) if entry["method"] != "HSD, frozen teacher"]
        for name in ("runs", "rows", "points")
    }
    alone = decide(build_table(experiment, replace(found, **others), allow_missing=True))
    assert (alone.pick, alone.use[:16]) == ("HSD", "No clear choice:")


def test_all_others_worse() -> None:
    assert (
        decide(table_of({"Plain": 0.8, "A": 0.3, "B": 0.2})).headline == "Plain is better than every other method here."
    )


def test_headroom_is_the_tables_own() -> None:
    there = decide(table_of({"Plain": 0.3, "A": 0.31, "B": 0.32, "Best": 0.9}, noise=0.2, Best="upper"))
    assert any(said.startswith("Headroom: credit from true values (Best) beats Plain") for said in there.sentences)
    none = decide(table_of({"Plain": 0.3, "A": 0.31, "B": 0.32, "Best": 0.3}, noise=0.2, Best="upper"))
    assert any(said.startswith("Headroom: none that can be measured.") for said in none.sentences)
    unknown = decide(table_of({"Plain": 0.3, "A": 0.31}))
    assert any("no row with true values was run" in said for said in unknown.sentences)


def test_a_control_is_never_the_one_to_use() -> None:
    decision = decide(table_of({"Plain": 0.3, "A": 0.3, "Best": 0.9}, tasks=900, Best="upper"))
    assert decision.pick == "Plain"
    assert "Best" not in decision.headline


@pytest.mark.parametrize("seeds", [1, 2])
def test_below_three_seeds_nothing_is_said_to_differ(seeds: int) -> None:
    table = table_of({"Plain": 0.2, "A": 0.9}, seeds=seeds)
    assert words(table) == {"A": "untested"}
    decision = decide(table)
    assert decision.headline == "No verdict: nothing was tested against Plain."
    assert decision.sure.startswith("Not sure at all")
    assert "better" not in " ".join(decision.sentences)


def test_one_method_alone_is_no_choice() -> None:
    decision = decide(table_of({"Plain": 0.4}))
    assert decision.headline == "Nothing is compared in this table."
    assert decision.sentences == ()


def test_an_exploratory_row_decides_nothing() -> None:
    records = small_experiment()
    decision = decide(build(records.runs, records.rows))
    assert any(said.startswith("Other x10 is exploratory") for said in decision.sentences)
    assert "Other x10" not in decision.headline + decision.use


def test_every_verdict_of_the_table_is_said() -> None:
    records: Records = small_experiment()
    table = build(records.runs, records.rows)
    said = " ".join(decide(table).sentences)
    for (endpoint, method), judged in table.judged.found.items():
        if endpoint == table.primary and judged.verdict:
            assert method in said
    assert len(TASKS) == table.tasks


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ((), ""),
        (("A",), "A"),
        (("A", "B"), "A and B"),
        (("A", "B", "C"), "A, B and C"),
        (("A, x", "B", "C"), "A, x; B and C"),
    ],
)
def test_names_in_a_sentence(names: Sequence[str], text: str) -> None:
    assert listed(names) == text
