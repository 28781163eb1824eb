"""What a table refuses, each with the names of what does not fit."""

from __future__ import annotations

from typing import Any

import pytest
from table_records import FACTS, Records

from harness.core.errors import UnmatchedError, UserError
from harness.experiment import fingerprint
from harness.tables.records import EvaluationRow, Run
from harness.tables.table import build


def experiment() -> Records:
    return Records().add("base", 0.3, role="base").add("GRPO", 0.6, plug="a:G").add("Other", 0.5, plug="a:O")


def with_facts(made: Records, **facts: Any) -> tuple[list[Run], list[EvaluationRow]]:
    matched = FACTS | facts
    runs = [run.model_copy(update={"matched": matched}) for run in made.runs]
    return runs, [row.model_copy(update={"matched": fingerprint(matched)}) for row in made.rows]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"plug": "b:Mine"}, "plug is 'a:O' under seed 0 and 'b:Mine' under seed 2"),
        ({"options": {"kl": 1.0}}, r"options is \{\} under seed 0 and \{'kl': 1.0\} under seed 2"),
        ({"code": "f00d"}, "code is '' under seed 0 and 'f00d' under seed 2"),
        ({"exploratory": True}, "exploratory is False under seed 0 and True under seed 2"),
        ({"control": "upper"}, "control is None under seed 0 and 'upper' under seed 2"),
        ({"role": "baseline"}, "role is 'method' under seed 0 and 'baseline' under seed 2"),
        ({"kl": 0.1}, "kl is None under seed 0 and 0.1 under seed 2"),
    ],
)
def test_one_label_is_one_row(changed: dict[str, Any], message: str) -> None:
    made = experiment()
    runs = [
        run.model_copy(update=changed) if (run.method, run.seed) == ("Other", 2) else run for run in made.runs
    ]  # fmt: skip
    with pytest.raises(UnmatchedError, match=f"Other is not one row: {message}"):
        build(runs, made.rows)


@pytest.mark.parametrize("success", [-0.01, 1.5])
def test_a_success_is_a_rate(success: float) -> None:
    made = experiment()
    rows = [made.rows[0].model_copy(update={"success": success}), *made.rows[1:]]
    with pytest.raises(UserError, match=rf"between 0 and 1, got {success} for base, seed 0, sampled, task 'a_1'"):
        build(made.runs, rows)


def test_samples_are_as_many_as_matched() -> None:
    made = experiment()
    runs, rows = with_facts(made, **{"evaluation.samples": 4})
    build(runs, rows)
    lost = [rows[0].model_copy(update={"samples": 3, "failed": 1}), *rows[1:]]
    build(runs, lost)  # a lost sample was one of them
    fewer = [rows[0].model_copy(update={"samples": 3}), *rows[1:]]
    with pytest.raises(UnmatchedError, match=r"base, seed 0, sampled, task 'a_1' has 3 samples, .* judged by 4"):
        build(runs, fewer)
    greedy = next(n for n, row in enumerate(rows) if row.decoding == "greedy")
    rows[greedy] = rows[greedy].model_copy(update={"samples": 2})
    with pytest.raises(UnmatchedError, match=r"greedy, task 'a_1' has 2 samples, .* judged by 1"):
        build(runs, rows)


def test_rows_are_of_the_matched_split() -> None:
    runs, rows = with_facts(experiment(), **{"environment.eval_split": "test"})
    build(runs, rows)
    rows[5] = rows[5].model_copy(update={"split": "dev"})
    with pytest.raises(UnmatchedError, match="is of split 'dev', the runs are judged on 'test'"):
        build(runs, rows)


def test_a_seed_that_the_heading_does_not_name() -> None:
    made = experiment()
    with pytest.raises(UnmatchedError, match=r"base \(seed 2\) has a seed that is none of the table's \(0, 1\)"):
        build(made.runs, made.rows, seeds=[0, 1])
    stray = Records().add("base", 0.3, (7,), role="base").add("GRPO", 0.6)
    with pytest.raises(UnmatchedError, match=r"base \(seed 7\)"):
        build(stray.runs, stray.rows)
