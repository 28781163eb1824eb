"""Success metrics: read off the rows as the definition says, found by name, added by one declaration."""

from __future__ import annotations

import csv
import io
import itertools
from typing import Any

import numpy as np
import pytest
from renderings import renderings
from table_records import TASKS, Records

from harness.core.errors import MissingDataError, UnknownNameError, UserError
from harness.report.delimited import csv_text
from harness.report.markdown import markdown
from harness.tables import metrics
from harness.tables import statistics as stats
from harness.tables.metrics import METRICS, Metric, known, metric, outcome_grid
from harness.tables.records import EvaluationRow
from harness.tables.table import build


def answered(records: Records, **changed: Any) -> list[EvaluationRow]:
    """The sampled rows, every success by the answer "right", every failure by one of two others or none."""
    rows = []
    for number, row in enumerate(row for row in records.rows if row.decoding == "sampled"):
        assert row.success is not None
        right = round(row.success * row.samples)
        wrong = itertools.islice(itertools.cycle(["7", None, "8"][number % 3 :]), row.samples - right)
        answers = (*[("right", True)] * right, *((answer, False) for answer in wrong))
        rows.append(row.model_copy(update={"answers": answers} | changed))
    return rows


def test_names_and_their_nearest() -> None:
    assert (metric("pass@16").k, metric("pass@16").title, metric("pass@16").name) == (16, "pass@16", "pass@16")
    assert {name: known(name) for name in ("success", "TGC", "SGC", "pass^3", "maj@8")} == dict.fromkeys(
        ("success", "TGC", "SGC", "pass^3", "maj@8"), True
    )
    assert not any(map(known, ("pass@0", "pass@k", "pass@-1", "best@4", "SGC@2", "")))
    with pytest.raises(UnknownNameError, match="unknown success metric 'mj@8'; did you mean 'maj@8'"):
        metric("mj@8")
    with pytest.raises(UnknownNameError, match="did you mean 'SGC'"):
        metric("SCG")
    with pytest.raises(UnknownNameError, match=r"'pass@k'.*with a number for k"):
        metric("pass@k")
    assert all(declared.name == name and declared.needs for name, declared in METRICS.items())


def test_a_majority_is_read_off_the_recorded_answers() -> None:
    records = Records().add("GRPO", 0.6)
    rows = answered(records)
    estimate = build(records.runs, rows, extra=["maj@3"]).rows[0].scores["sampled"].extra["maj@3"]
    expected = []
    for row in rows:
        draws = list(itertools.combinations(row.answers or (), 3))
        expected.append(np.mean([_winner(draw) for draw in draws]))
    assert estimate.mean == pytest.approx(np.mean(expected), abs=1e-12)
    one = build(records.runs, [EvaluationRow(**row.model_dump()) for row in rows], extra=["maj@1"]).rows[0]
    assert one.scores["sampled"].extra["maj@1"].mean == pytest.approx(one.scores["sampled"].success.mean, abs=1e-12)


def _winner(draw: tuple[tuple[str | None, bool], ...]) -> float:
    votes = [answer for answer, _ in draw if answer is not None]
    best = {answer for answer in votes if votes.count(answer) == max(map(votes.count, votes))}
    return sum(answer == "right" for answer in best) / len(best) if best else 0.0


def test_what_a_metric_lacks_is_said_with_a_way_out() -> None:
    records = Records().add("GRPO", 0.6)
    with pytest.raises(MissingDataError, match=r"maj@2 needs the samples' answers, which task 'a_1' of GRPO, seed 0"):
        build(records.runs, records.rows, extra=["maj@2"])
    with pytest.raises(
        UserError, match=r"pass@8 needs 8 samples of every task, the records have 4; set evaluation\.sam"
    ):
        build(records.runs, records.rows, extra=["pass@8"])
    short = [records.rows[0].model_copy(update={"samples": 3, "failed": 1, "success": 1.0}), *records.rows[1:]]
    with pytest.raises(MissingDataError, match=r"pass@4 needs 4 finished samples .* task 'a_1' of GRPO, seed 0, has 3"):
        build(records.runs, short, extra=["pass@4"])


def test_a_metric_stands_where_its_samples_are() -> None:
    """One greedy sample is too few for pass@4: the greedy block has no such column. Nor has any block a gain over a
    start that is not there."""
    records = Records().add("GRPO", 0.6)
    table = build(records.runs, records.rows, extra=["pass@4", "pass@1"])
    assert list(table.rows[0].scores["sampled"].extra) == ["pass@4", "pass@1"]
    assert list(table.rows[0].scores["greedy"].extra) == ["pass@1"]
    sampled, greedy = markdown(table).split("## Success, ")[1:]
    assert "| Method | Success | pass@4 | pass@1 |" in sampled
    assert "| Method | Success | pass@1 |" in greedy
    lines = {line["decoding"]: line for line in csv.DictReader(io.StringIO(csv_text(table)))}
    assert lines["greedy"]["pass@4"] == lines["greedy"]["pass@4_low"] == ""
    assert float(lines["sampled"]["pass@4"]) == pytest.approx(table.rows[0].scores["sampled"].extra["pass@4"].mean)


def test_an_environment_names_its_scenarios() -> None:
    """Seven scenarios of three, by a name that the ids do not show; the same rows without names are grouped by id."""
    records = Records().add("GRPO", 0.7)
    cells = records.cells["GRPO", "sampled"]  # seed, task
    scenario = {task: f"errand {place % 7}" for place, task in enumerate(TASKS)}
    rows = [row.model_copy(update={"scenario": scenario[row.task_id]}) for row in records.rows]
    score = build(records.runs, rows, extra=["SGC"]).rows[0].scores["sampled"]
    expected = np.stack([cells[:, place::7].prod(axis=1) for place in range(7)], axis=1)
    assert score.extra["SGC"].mean == pytest.approx(expected.mean())
    by_errand = np.stack([cells[:, place::7].mean(axis=1) for place in range(7)], axis=1)
    assert score.success == stats.mean_interval(by_errand)
    assert score.success.tasks == 7
    plain = build(records.runs, records.rows, extra=["SGC"]).rows[0].scores["sampled"].extra["SGC"]
    assert plain.mean == pytest.approx(cells.reshape(3, 7, 3).prod(axis=2).mean())
    with pytest.raises(UserError, match=r"SGC needs every variant of every scenario; 'errand 0' has 2, others have 3"):
        build(records.runs, [row for row in rows if row.task_id != TASKS[0]], extra=["SGC"])


def test_plain_success_keeps_its_name_beside_a_metric_of_its_own() -> None:
    records = Records().add("base", 0.3, role="base").add("GRPO", 0.6)
    assert "| Method | TGC | Gain over start | SGC |" in markdown(build(records.runs, records.rows, extra=["SGC"]))
    both = build(records.runs, records.rows, extra=["TGC", "SGC"])
    assert "| Method | Success | Gain over start | TGC | SGC |" in markdown(both)
    score = both.rows[1].scores["sampled"]
    assert score.extra["TGC"] == score.success


def test_one_declaration_makes_a_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    worst = Metric(
        "never@k",
        "Never in k",
        "samples",
        lambda part, k: outcome_grid(part, (1 - part.success) ** k),
        note="All miss.",
    )
    monkeypatch.setitem(metrics.METRICS, "never@k", worst)
    records = Records().add("base", 0.3, role="base").add("GRPO", 0.6)
    assert known("never@2")
    table = build(records.runs, records.rows, extra=["never@2"])
    expected = ((1 - records.cells["GRPO", "sampled"]) ** 2).mean()
    shown = renderings(table)
    for form, text in shown.items():
        assert ("never@2" if form == "csv" else "Never in k") in text, form
        assert f"{expected:.3f}" in text or form == "csv", form
        assert "All miss." in text or form == "csv", form
    assert f"{expected:.12g}" in shown["csv"]
