"""Tables: numbers are those of `stats` on the recorded cells, unmatched runs are refused."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import asdict

import numpy as np
import pytest
from table_records import FACTS, SEEDS, TASKS, Records, small_experiment

from harness.core.errors import MissingDataError, UnknownNameError, UnmatchedError, UserError
from harness.experiment import fingerprint
from harness.report.delimited import csv_text
from harness.report.grids import metrics_grid
from harness.report.markdown import markdown
from harness.tables import statistics as stats
from harness.tables.comparisons import difference
from harness.tables.pooling import spread
from harness.tables.table import build


@pytest.fixture
def records() -> Records:
    return small_experiment()


def test_the_numbers_are_those_of_the_recorded_cells(records: Records) -> None:
    table = build(records.runs, reversed(records.rows))
    assert [row.run.method for row in table.rows] == [
        "base",
        "GRPO",
        "Other",
        "Other x10",
        "Third",
        "do-nothing",
        "gold",
    ]
    assert (table.against, table.seeds, table.tasks, table.split) == ("GRPO", SEEDS, len(TASKS), "test")
    assert table.samples == {"sampled": 4, "greedy": 1}
    order = np.argsort(TASKS)
    for row in table.rows:
        for decoding, score in row.scores.items():
            cells = {method: records.cells[method, decoding][:, order] for method in (row.run.method, "base", "GRPO")}
            mine = cells[row.run.method]
            np.testing.assert_equal(asdict(score.success), asdict(stats.mean_interval(mine)))  # NaN equals NaN here
            assert score.reward == pytest.approx(mine.mean())
            learned = row.run.role == "method"
            assert score.gain == (stats.paired_difference(mine, cells["base"]) if learned else None)
            compared = learned and row.run.method != "GRPO"
            rows = np.stack(
                [records.cells[name, decoding][:, order] for name in ("GRPO", "Other", "Other x10", "Third")]
            )
            versus = difference(mine, cells["GRPO"], spread(rows)) if compared else None
            assert score.versus == versus
            assert score.metrics == {"turns": 2.0}


def test_p_values_are_adjusted_over_the_comparisons_that_test_something(records: Records) -> None:
    rows = {row.run.method: row.scores["sampled"] for row in build(records.runs, records.rows).rows}
    tested = ["Other", "Third"]  # not the first method, nor what is exploratory, nor what does not learn
    judged = {method: score.judged for method, score in rows.items() if score.judged is not None}
    assert [method for method, found in judged.items() if found.p is not None] == tested
    for method in tested:
        found = judged[method]
        assert found.p == stats.p_value(found.versus)
        assert found.p_adjusted is not None
        assert found.p <= found.p_adjusted <= 4 * found.p  # two rows under two decodings
        assert found.joint is not None
        # the floor of 21 tasks may bind at one end, where both then are
        assert found.joint.low <= found.versus.low
        assert found.joint.high - found.joint.low > found.versus.high - found.versus.low
        assert found.verdict == "undecided"
    other = build(records.runs, records.rows, against="Third")
    found = next(row for row in other.rows if row.run.method == "GRPO").scores["sampled"].judged
    assert found is not None
    assert found.p is not None
    with pytest.raises(UnknownNameError, match="did you mean 'GRPO'"):
        build(records.runs, records.rows, against="GPRO")


def test_pairing_goes_by_seed_and_task_and_not_by_the_order_of_records(records: Records) -> None:
    shuffled_runs, shuffled_rows = list(records.runs), list(records.rows)
    records.rng.shuffle(shuffled_rows)  # type: ignore[arg-type]
    assert csv_text(build(shuffled_runs, shuffled_rows)) == csv_text(build(records.runs, records.rows))


def test_a_start_of_one_seed_serves_all_seeds() -> None:
    made = Records().add("base", 0.3, (0,), role="base").add("GRPO", 0.6)
    score = build(made.runs, made.rows).rows[1].scores["sampled"]
    assert score.gain == stats.paired_difference(made.cells["GRPO", "sampled"], made.cells["base", "sampled"])


def test_further_metrics(records: Records) -> None:
    table = build(records.runs, records.rows, extra=["pass@1", "pass^4", "pass@4"][:1])
    for row in table.rows:
        assert row.scores["sampled"].extra["pass@1"].mean == pytest.approx(row.scores["sampled"].success.mean)
    sampled = [row for row in records.rows if row.decoding == "sampled"]
    table = build(records.runs, sampled, extra=["pass@4", "pass^4"])
    for row in table.rows:
        cells = records.cells[row.run.method, "sampled"]
        assert row.scores["sampled"].extra["pass@4"].mean == pytest.approx((cells > 0).mean())
        assert row.scores["sampled"].extra["pass^4"].mean == pytest.approx((cells == 1).mean())
    greedy = [row for row in records.rows if row.decoding == "greedy"]
    table = build(records.runs, greedy, extra=["SGC"])
    cells = records.cells["Other", "greedy"].reshape(3, -1, 3)  # seed, scenario, variant
    assert table.rows[2].scores["greedy"].extra["SGC"].mean == pytest.approx(cells.all(axis=-1).mean())
    # four attempts at every variant: the chance that one attempt at each succeeds is the product of the rates
    table = build(records.runs, sampled, extra=["SGC"])
    rates = records.cells["Other", "sampled"].reshape(3, -1, 3)
    score = table.rows[2].scores["sampled"]
    assert score.extra["SGC"].mean == pytest.approx(rates.prod(axis=-1).mean())
    # variants of one scenario are no independent tasks: the interval is that of the scenarios' means
    assert score.success == stats.mean_interval(rates.mean(axis=-1))
    with pytest.raises(UnknownNameError, match="success metric 'pass_4'"):
        build(records.runs, records.rows, extra=["pass_4"])


# ---------------------------------------------------------------- refusals


def test_unmatched_runs_are_refused_with_key_and_both_values(records: Records) -> None:
    other = FACTS | {"sampling.group_size": 4, "loss.clip_low": 0.1}
    runs = [
        run.model_copy(update={"matched": other}) if run.method == "Other" and run.seed == 1 else run
        for run in records.runs
    ]
    with pytest.raises(UnmatchedError) as caught:
        build(runs, records.rows)
    assert "loss.clip_low is 'absent' in base (seed 0) and 0.1 in Other (seed 1)" in str(caught.value)
    assert "sampling.group_size is 8 in base (seed 0) and 4 in Other (seed 1)" in str(caught.value)
    assert "model.name" not in str(caught.value)
    stale = [records.rows[0].model_copy(update={"matched": fingerprint(other)}), *records.rows[1:]]
    with pytest.raises(UnmatchedError, match=r"base, seed 0: rows were evaluated under fingerprint"):
        build(records.runs, stale)


def test_facts_that_went_through_a_file_still_match(records: Records) -> None:
    facts = FACTS | {"optimiser.betas": (0.9, 0.95)}
    read = FACTS | {"optimiser.betas": [0.9, 0.95]}
    runs = [run.model_copy(update={"matched": facts if run.seed else read}) for run in records.runs]
    rows = [row.model_copy(update={"matched": fingerprint(facts)}) for row in records.rows]
    assert build(runs, rows).rows[1].seeds == SEEDS


def test_missing_seeds_are_refused_or_said_aloud(records: Records) -> None:
    runs = [run for run in records.runs if (run.method, run.seed) != ("Other", 1)]
    rows = [row for row in records.rows if (row.method, row.seed) != ("Other", 1)]
    with pytest.raises(MissingDataError, match=r"Other: 2 of 3 seeds \(missing 1\)"):
        build(runs, rows)
    table = build(runs, rows, allow_missing=True)
    order = np.argsort(TASKS)
    ours, theirs = (records.cells[method, "sampled"][[0, 2]][:, order] for method in ("Other", "GRPO"))
    versus = table.rows[2].scores["sampled"].versus
    assert versus is not None
    assert (versus.mean, versus.seeds) == (pytest.approx((ours - theirs).mean()), 2)
    text = markdown(table)
    assert "INCOMPLETE: Other: 2 of 3 seeds (missing 1)" in text
    assert "| Other (2 of 3 seeds) [1] |" in text
    back = build(runs, rows, allow_missing=True, against="Other").rows[1].scores["sampled"].versus
    assert back is not None
    assert (back.mean, back.low, back.high) == pytest.approx((-versus.mean, -versus.high, -versus.low))
    assert table.rows[2].scores["sampled"].judged.p is None  # two seeds are no evidence
    assert "- No p-values below 3 common seeds" in text
    with pytest.raises(MissingDataError, match=r"GRPO: 3 of 4 seeds \(missing 9\)"):
        build(records.runs, records.rows, seeds=[0, 1, 2, 9])


def test_missing_and_failed_tasks_are_refused_or_left_out_for_all(records: Records) -> None:
    gone = [
        row
        for row in records.rows
        if (row.method, row.seed, row.decoding, row.task_id) != ("Third", 2, "greedy", "c_2")
    ]
    with pytest.raises(MissingDataError, match=r"1 of 21 tasks lack.*task 'c_2' of Third, seed 2, greedy"):
        build(records.runs, gone)
    failed = [
        row.model_copy(update={"success": None, "reward": None, "samples": 0, "failed": 4})
        if (row.method, row.seed, row.decoding, row.task_id) == ("GRPO", 0, "sampled", "a_1")
        else row
        for row in gone
    ]
    table = build(records.runs, failed, allow_missing=True)
    assert (table.tasks, table.failed) == (19, 0)
    assert table.warnings == ("2 of 21 tasks lack a result in some run and are left out for all rows",)
    kept = [index for index, task in enumerate(TASKS) if task not in ("a_1", "c_2")]
    assert table.rows[1].scores["sampled"].success.mean == pytest.approx(
        records.cells["GRPO", "sampled"][:, kept].mean()
    )


def test_an_environment_may_measure_nothing_or_not_always(records: Records) -> None:
    bare = build(records.runs, [row.model_copy(update={"metrics": {}}) for row in records.rows])
    assert "## Episodes" not in markdown(bare)
    some = [row.model_copy(update={"metrics": {"turns": None} if row.seed else {"turns": 4.0}}) for row in records.rows]
    assert build(records.runs, some).rows[1].scores["sampled"].metrics == {"turns": 4.0}


def test_a_row_says_how_many_completions_were_cut(records: Records) -> None:
    cut = {"GRPO": {"truncated": 3.0}}
    tasks = sorted({row.task_id for row in records.rows})
    rows = [
        row.model_copy(update={"metrics": cut.get(row.method, {}) if row.task_id == tasks[0] else {}})
        for row in records.rows
    ]
    table = build(records.runs, rows)
    # 3 on one task, none on the others; rows without any have 0
    means = {row.run.method: row.scores["sampled"].metrics for row in table.rows}
    assert means.pop("GRPO") == {"truncated": 3.0 / len(tasks)}
    assert set(map(len, means.values())) == {0}
    grid = metrics_grid(table)
    place = grid.header.index("truncated, sampled")
    assert {cells[0].partition(" ")[0]: cells[place] for cells in grid.rows} == {
        row.run.method.partition(" ")[0]: f"{3.0 / len(tasks):.3g}" if row.run.method == "GRPO" else "0"
        for row in table.rows
    }


def test_failed_episodes_are_counted_and_in_no_mean(records: Records) -> None:
    rows = [records.rows[0].model_copy(update={"samples": 3, "failed": 1}), *records.rows[1:]]
    assert "Evaluation episodes lost to infrastructure failures: 1" in markdown(build(records.runs, rows))


def test_an_environment_may_have_success_without_reward(records: Records) -> None:
    table = build(records.runs, [row.model_copy(update={"reward": None}) for row in records.rows])
    assert math.isnan(table.rows[1].scores["sampled"].reward)
    assert {line["reward"] for line in csv.DictReader(io.StringIO(csv_text(table)))} == {""}


def test_records_that_contradict_each_other_are_refused(records: Records) -> None:
    first = records.rows[0]
    assert build(records.runs, [*records.rows, first]).tasks == 21  # recorded twice after a kill: counts once
    with pytest.raises(UserError, match=r"two different results for base, seed 0, sampled, task 'a_1'"):
        build(records.runs, [*records.rows, first.model_copy(update={"reward": 7.0})])
    with pytest.raises(UserError, match="base, seed 0 is given twice"):
        build([*records.runs, records.runs[0]], records.rows)
    with pytest.raises(UserError, match="rows of 'Stray', seed 0, whose run is not given"):
        build(records.runs, [*records.rows, first.model_copy(update={"method": "Stray"})])
    with pytest.raises(UserError, match=r"not a EvaluationRow: (.|\n)*decodings.*its fields: method, seed"):
        build(records.runs, [first.model_dump() | {"decodings": "greedy"}])
    with pytest.raises(MissingDataError, match="nothing to make a table of"):
        build([], [])


def test_rows_may_be_plain_data(records: Records) -> None:
    plain = build([run.model_dump() for run in records.runs], [row.model_dump() for row in records.rows])
    assert markdown(plain) == markdown(build(records.runs, records.rows))
