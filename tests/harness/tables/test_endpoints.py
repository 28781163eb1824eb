"""Rows judged together: controls, headroom and credit shares; what is not tested; losses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from table_records import FACTS, SEEDS, TASKS, Records

from harness.core.errors import UnknownNameError
from harness.experiment import fingerprint
from harness.report.grids import heading, results_grids, share_grid
from harness.report.markdown import markdown
from harness.tables.comparisons import family
from harness.tables.endpoints import Judgement
from harness.tables.table import Table, build


def experiment(oracle: float = 0.95, seeds: tuple[int, ...] = SEEDS) -> Records:
    made = Records().add("base", 0.3, seeds, role="base").add("GRPO", 0.5, seeds).add("Good", 0.7, seeds)
    made.add("Poor", 0.45, seeds).add("Try", 0.55, seeds, exploratory=True)
    return made.add("Oracle", oracle, seeds, control="upper").add("Inverted", 0.02, seeds, control="lower")


def judgement(table: Table, method: str, endpoint: str = "sampled") -> Judgement:
    found = next(row for row in table.rows if row.run.method == method).scores[endpoint].judged
    assert found is not None
    return found


def test_controls_and_exploratory_rows_stand_outside_the_family() -> None:
    made = experiment()
    table = build(made.runs, made.rows)
    assert table.judged.size == 4  # Good and Poor under two decodings
    tried = judgement(table, "Try")  # it has a difference and a credit share, and tests nothing
    assert tried == Judgement(tried.versus, share=tried.share)
    oracle = judgement(table, "Oracle")
    assert oracle.p is not None
    assert (oracle.p_adjusted, oracle.verdict, oracle.joint, oracle.share) == (None, None, None, None)
    without = [run for run in made.runs if run.control is None]
    rows = [row for row in made.rows if row.method not in ("Oracle", "Inverted")]
    assert build(without, rows).judged.size == 4
    text = markdown(table)
    assert "| Oracle (control) |" in text
    assert "- [1] Inverted: collapsed (sampled, greedy): its variance over seeds is its own" in text
    with pytest.raises(UnknownNameError, match="method for the comparison"):
        build(made.runs, made.rows, against="Oracle")


def test_credit_shares_where_the_oracle_shows_headroom() -> None:
    made = experiment()
    table = build(made.runs, made.rows)
    good, oracle = judgement(table, "Good"), judgement(table, "Oracle")
    assert table.judged.headroom["sampled"]
    assert oracle.versus.mean > table.judged.detectable["sampled"]
    assert good.share is not None
    assert good.share.mean == pytest.approx(good.versus.mean / oracle.versus.mean)
    assert good.share.low < good.share.mean < good.share.high
    assert "Headroom: credit from true values (Oracle) beats GRPO beyond the MDE (sampled" in "\n".join(heading(table))
    grid = share_grid(table)
    assert [row[0] for row in grid.rows] == ["Good", "Poor", "Try"]
    assert grid.rows[0][1].startswith(f"{good.share.mean:.3f} [")
    assert "## Credit share" in markdown(table)


def test_without_headroom_the_heading_says_so_and_there_are_no_shares() -> None:
    made = experiment(oracle=0.52)
    table = build(made.runs, made.rows)
    assert not any(table.judged.headroom.values())
    assert "on these tasks and this budget no credit assignment could have helped measurably" in markdown(table)
    assert judgement(table, "Good").share is None
    assert share_grid(table).rows == ()
    assert "Credit share" not in markdown(table)


def test_a_table_without_an_oracle_says_nothing_of_headroom() -> None:
    made = Records().add("GRPO", 0.5).add("Good", 0.7)
    assert "eadroom" not in markdown(build(made.runs, made.rows))


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_below_three_common_seeds_nothing_is_tested(seeds: tuple[int, ...]) -> None:
    made = experiment(seeds=seeds)
    table = build(made.runs, made.rows)
    found = judgement(table, "Good")
    assert (found.p, found.p_adjusted, found.verdict, found.detectable) == (None,) * 4
    assert table.judged.size == 0
    assert "No p-values below 3 common seeds" in "\n".join(heading(table))
    good = next(row for row in results_grids(table)[0].rows if row[0].startswith("Good"))
    header = results_grids(table)[0].header
    assert good[header.index("Adj. p")] == good[header.index("MDE")] == "-"


def test_the_detectable_effect_is_the_pools_and_never_one_comparisons() -> None:
    made = experiment()
    table = build(made.runs, made.rows)
    effects = {method: judgement(table, method).detectable for method in ("Good", "Poor", "Oracle")}
    assert len(set(effects.values())) == 1
    assert judgement(table, "Inverted").detectable is None
    two = Records().add("GRPO", 0.5).add("Good", 0.7)
    alone = build(two.runs, two.rows)
    assert judgement(alone, "Good").detectable is None
    assert judgement(alone, "Good").p is not None
    assert alone.judged.detectable == {}


def test_losses_stand_at_their_row_with_a_bound() -> None:
    made = experiment()
    lost = {("Good", 0, "sampled", "a_1"), ("Good", 2, "sampled", "b_2")}
    rows = [
        row.model_copy(update={"samples": 3, "failed": 1, "success": 1.0})
        if (row.method, row.seed, row.decoding, row.task_id) in lost
        else row
        for row in made.rows
    ]
    table = build(made.runs, rows)
    score = next(row for row in table.rows if row.run.method == "Good").scores["sampled"]
    assert score.lost == 2
    # two cells of 63 fall from 1 to 3/4
    assert score.lost_failed == pytest.approx(score.success.mean - 0.5 / 63)
    assert f"2 sampled episodes lost; success {score.lost_failed:.3f} if all had failed" in markdown(table)


# ---------------------------------------------------------------- the area endpoint


def curves(made: Records, chance: dict[str, float], steps: tuple[int, ...] = (0, 5, 10)) -> list[dict[str, Any]]:
    rng = np.random.default_rng(1)
    return [
        {
            **{"method": run.method, "seed": run.seed, "step": step, "panel": "f00d"},
            "tasks": {"sampled": "".join("01"[rng.random() < chance[run.method]] for _ in range(40))},
        }
        for run in made.runs
        if run.learns
        for step in steps
    ]


CHANCE = {"GRPO": 0.4, "Good": 0.9, "Poor": 0.4, "Try": 0.4, "Oracle": 0.95, "Inverted": 0.1}


def test_the_area_decides_where_it_is_declared_and_recorded() -> None:
    made = experiment()
    points = curves(made, CHANCE)
    table = build(made.runs, made.rows, points=reversed(points))
    assert table.endpoints == ("area", "sampled", "greedy")
    assert table.primary == "area"
    assert table.judged.size == 6
    good = judgement(table, "Good", "area")
    assert good.verdict == "different"
    cells = [[p["tasks"]["sampled"] for p in points if (p["method"], p["seed"]) == ("Good", seed)] for seed in SEEDS]
    by_step = np.array([[list(map(int, row)) for row in of_seed] for of_seed in cells])
    score = next(row for row in table.rows if row.run.method == "Good").scores["area"]
    # trapezoid over three points a half apart: 1/4, 1/2, 1/4
    assert score.success.mean == pytest.approx((by_step.mean(axis=(0, 2)) * [0.25, 0.5, 0.25]).sum())
    text = markdown(table)
    assert "- Primary endpoint: area under the learning curve, sampled\n" in text
    assert text.index("## Area under the learning curve, sampled") < text.index("## Success, sampled")
    base = next(row for row in table.rows if row.run.method == "base")
    assert "area" not in base.scores


def test_the_end_decides_where_that_was_declared() -> None:
    made = experiment()
    facts = FACTS | {"evaluation.primary": "final", "evaluation.decoding": "greedy", "evaluation.margin": 0.1}
    runs = [run.model_copy(update={"matched": facts}) for run in made.runs]
    rows = [row.model_copy(update={"matched": fingerprint(facts)}) for row in made.rows]
    table = build(runs, rows)
    assert (table.primary, table.margin, table.no_area) == ("greedy", 0.1, "")
    assert "- Primary endpoint: success at the end, greedy\n" in markdown(table)


def test_older_points_give_no_area_and_the_heading_says_why() -> None:
    made = experiment()
    points = [{key: value for key, value in p.items() if key != "tasks"} for p in curves(made, CHANCE)]
    table = build(made.runs, made.rows, points=points)
    assert table.endpoints == ("sampled", "greedy")
    assert "no area under the learning curve: the points of the learning curves do not hold the tasks'" in markdown(
        table
    )
    assert table.primary == "sampled"


def test_every_endpoint_is_in_the_family() -> None:
    """The same rows with one endpoint more: the adjusted p-values do not fall."""
    made = experiment()
    with_area = build(made.runs, made.rows, points=curves(made, CHANCE))
    without = build(made.runs, made.rows)
    for method in ("Good", "Poor"):
        more, fewer = judgement(with_area, method).p_adjusted, judgement(without, method).p_adjusted
        assert more is not None
        assert fewer is not None
        assert more >= fewer * 0.95
    assert family([]).level() == 0.05


def test_a_base_row_may_be_of_another_experiments_tasks() -> None:
    """What does not learn is in no comparison: the judged rows are the learned ones alone."""
    made = experiment()
    table = build(made.runs, made.rows)
    assert {method for _, method in table.judged.found} == {"Good", "Poor", "Try", "Oracle", "Inverted"}
    assert replace(table, title="x").judged is table.judged
    assert len(TASKS) == table.tasks
