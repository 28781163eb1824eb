"""Tables: numbers are those of `stats` on the recorded cells, unmatched runs are refused, bytes are the records'."""

from __future__ import annotations

import csv
import io
import math
import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from harness.core.errors import MissingDataError, UnknownNameError, UnmatchedError, UserError
from harness.core.records import append
from harness.experiment import fingerprint
from harness.report import layouts
from harness.report.layouts import Grid
from harness.tables import statistics as stats
from harness.tables.published import published_grid, read_published
from harness.tables.table import Budget, EvaluationRow, Run, build

FACTS = {
    "environment.id": "environments:Guess-v0",
    "model.name": "tiny",
    "sampling.group_size": 8,
    "sampling.top_p": 1.0,
    "budget.steps": 40,
    "task_list": "f00d",
}
TASKS = [f"{scenario}_{variant}" for scenario in "abcdefg" for variant in (1, 2, 3)]
SEEDS = (0, 1, 2)


class Records:
    """Runs and rows of a small experiment whose success rates are drawn from one generator."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.runs: list[Run] = []
        self.rows: list[EvaluationRow] = []
        self.cells: dict[tuple[str, str], np.ndarray] = {}

    def add(self, method: str, rate: float, seeds: tuple[int, ...] = SEEDS, **run: Any) -> Records:
        for decoding, samples in (("sampled", 4), ("greedy", 1)):
            self.cells[method, decoding] = self.rng.binomial(samples, rate, (len(seeds), len(TASKS))) / samples
        for index, seed in enumerate(seeds):
            self.runs.append(Run(**{"method": method, "seed": seed, "matched": FACTS} | run))
            for decoding, samples in (("sampled", 4), ("greedy", 1)):
                for task, success in zip(TASKS, self.cells[method, decoding][index], strict=True):
                    row = {
                        "method": method,
                        "seed": seed,
                        "matched": fingerprint(FACTS),
                        "split": "test",
                        "task_id": task,
                    }
                    row |= {"decoding": decoding, "samples": samples, "success": success, "reward": success}
                    self.rows.append(EvaluationRow(**row, metrics={"turns": 2.0}))
        return self


def budget(seed: int) -> Budget:
    return Budget(
        rollouts=100 + seed, generated_tokens=2_000_000, optimiser_steps=40, dropped_groups=seed, wall_s=60.0 + seed
    )


@pytest.fixture
def records() -> Records:
    made = (
        Records()
        .add("base", 0.3, role="base")
        .add("GRPO", 0.6, plug="agents.methods.grpo:GRPO", kl=0.01, mixed_groups=False)
    )
    made.add("Other", 0.7, plug="mine:Other", options={"lam": 0.5}, context="successful sibling", summariser="rules")
    made.add("Other x10", 0.65, exploratory=True, notes=("weights inert",)).add("Third", 0.4)
    made.add("do-nothing", 0.0, (0,), role="reference").add("gold", 1.0, (0,), role="reference")
    made.runs = [
        run.model_copy(update={"budget": budget(run.seed)}) if run.role == "method" else run for run in made.runs
    ]
    return made


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
    assert (table.baseline, table.seeds, table.tasks, table.split) == ("GRPO", SEEDS, len(TASKS), "test")
    assert table.samples == {"sampled": 4, "greedy": 1}
    order = np.argsort(TASKS)
    for row in table.rows:
        for decoding, score in row.scores.items():
            cells = {method: records.cells[method, decoding][:, order] for method in (row.run.method, "base", "GRPO")}
            mine = cells[row.run.method]
            assert score.success == stats.mean_interval(mine)
            assert score.reward == pytest.approx(mine.mean())
            learned = row.run.role == "method"
            assert score.gain == (stats.paired_difference(mine, cells["base"]) if learned else None)
            compared = learned and row.run.method != "GRPO"
            versus = stats.paired_difference(mine, cells["GRPO"]) if compared else None
            assert score.versus == versus
            assert score.detectable == (stats.minimum_detectable_effect(versus) if versus else None)
            assert score.metrics == {"turns": 2.0}


def test_p_values_are_adjusted_over_the_comparisons_that_test_something(records: Records) -> None:
    rows = {row.run.method: row.scores["sampled"] for row in build(records.runs, records.rows).rows}
    tested = ["Other", "Third"]  # not the first method, nor what is exploratory, nor what does not learn
    assert [method for method, score in rows.items() if score.p is not None] == tested
    plain = [stats.p_value(rows[method].versus) for method in tested if rows[method].versus]
    assert [rows[method].p for method in tested] == plain
    assert [rows[method].p_holm for method in tested] == stats.holm(plain)
    other = build(records.runs, records.rows, baseline="Third")
    assert next(row for row in other.rows if row.run.method == "GRPO").scores["sampled"].p is not None
    with pytest.raises(UnknownNameError, match="did you mean 'GRPO'"):
        build(records.runs, records.rows, baseline="GPRO")


def test_pairing_goes_by_seed_and_task_and_not_by_the_order_of_records(records: Records) -> None:
    shuffled_runs, shuffled_rows = list(records.runs), list(records.rows)
    records.rng.shuffle(shuffled_rows)  # type: ignore[arg-type]
    assert layouts.csv_text(build(shuffled_runs, shuffled_rows)) == layouts.csv_text(build(records.runs, records.rows))


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
    assert table.rows[2].scores["sampled"].versus == stats.paired_difference(ours, theirs)
    text = layouts.markdown(table)
    assert "INCOMPLETE: Other: 2 of 3 seeds (missing 1)" in text
    assert "| Other (2 of 3 seeds) [1] |" in text
    back = build(runs, rows, allow_missing=True, baseline="Other").rows[1].scores["sampled"].versus
    assert back == stats.paired_difference(theirs, ours)
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
    assert "## Episodes" not in layouts.markdown(bare)
    some = [row.model_copy(update={"metrics": {"turns": None} if row.seed else {"turns": 4.0}}) for row in records.rows]
    assert build(records.runs, some).rows[1].scores["sampled"].metrics == {"turns": 4.0}


def test_failed_episodes_are_counted_and_in_no_mean(records: Records) -> None:
    rows = [records.rows[0].model_copy(update={"samples": 3, "failed": 1}), *records.rows[1:]]
    assert "Evaluation episodes lost to infrastructure failures: 1" in layouts.markdown(build(records.runs, rows))


def test_an_environment_may_have_success_without_reward(records: Records) -> None:
    table = build(records.runs, [row.model_copy(update={"reward": None}) for row in records.rows])
    assert math.isnan(table.rows[1].scores["sampled"].reward)
    assert {line["reward"] for line in csv.DictReader(io.StringIO(layouts.csv_text(table)))} == {""}


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
    assert layouts.markdown(plain) == layouts.markdown(build(records.runs, records.rows))


# ---------------------------------------------------------------- renderings


@pytest.mark.parametrize(
    ("mean", "low", "high", "as_rate", "as_gain"),
    [
        (0.4123, 0.3712, 0.4551, "0.412 [0.371, 0.455]", "+0.412 [+0.371, +0.455]"),
        (-0.0001, -0.02, 0.0, "0.000 [-0.020, 0.000]", "+0.000 [-0.020, +0.000]"),
        (0.5, -math.inf, math.inf, "0.500 [no interval]", "+0.500 [no interval]"),
    ],
)
def test_numbers_as_text(mean: float, low: float, high: float, as_rate: str, as_gain: str) -> None:
    estimate = stats.Estimate(mean, low, high, 0.1, 3.0, 3, 3)
    assert (layouts.rate(estimate), layouts.gain(estimate)) == (as_rate, as_gain)


def test_markdown_says_what_the_numbers_are_of(records: Records) -> None:
    text = layouts.markdown(build(records.runs, records.rows, title="Guess"))
    for said in (
        "# Guess\n",
        "- Environment: environments:Guess-v0, split test: 21 tasks; episodes per task and seed: 4 sampled, 1 greedy",
        "- Seeds: 0, 1, 2",
        "- Model: tiny; group size: 8; optimiser steps: 40; top-p: 1",
        "| Other [1] | ",
        "| Other x10 (exploratory) [2] | ",
        "- [1] Other: the teacher reads: successful sibling; written by: rules",
        "- [2] Other x10: weights inert",
        "- [3] do-nothing: interval over tasks (one seed)",
        "| GRPO | agents.methods.grpo:GRPO() | 0.01 | off |",
        "| Other | mine:Other(lam=0.5) | - | - |",
        # rollouts 100, 101, 102 are a mean, dropped groups 0 + 1 + 2 a sum
        "| GRPO | 101 | 2,000,000 | 0 | 0 | 40 | 0 | 3 | 0 |",
        "| GRPO | 61 |",
    ):
        assert said in text
    assert "Mini" not in text
    for line in text.splitlines():
        if line.startswith("| base"):
            assert re.fullmatch(r"\| base \|( (\d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\]|-|2) \|)+", line)
    blocks = [block.splitlines() for block in text.split("\n## ")]
    widths = [{line.count("|") for line in block if line.startswith("|")} for block in blocks[1:]]
    assert all(len(width) == 1 for width in widths)


def test_a_table_without_comparisons_has_no_columns_for_them() -> None:
    made = Records().add("base", 0.3, role="base").add("GRPO", 0.6)
    text = layouts.markdown(build(made.runs, made.rows))
    assert "| Method | Success | Gain over start |\n" in text
    assert "Holm" not in text
    assert "MDE" not in text


def test_wall_time_changes_nothing_but_the_block_of_costs(records: Records, tmp_path: Path) -> None:
    def slower(run: Run) -> Run:
        wall = run.budget.model_copy(update={"wall_s": 999.0 + run.seed})
        return run.model_copy(update={"budget": wall}) if run.role == "method" else run

    for name, runs in (("one", records.runs), ("two", [slower(run) for run in records.runs])):
        layouts.write_table(build(runs, records.rows), tmp_path / name)
    for end in ("csv", "tex", "html"):
        assert (tmp_path / f"one/table.{end}").read_bytes() == (tmp_path / f"two/table.{end}").read_bytes()
    one, two = ((tmp_path / name / "table.md").read_text().split("\n## Cost") for name in ("one", "two"))
    assert one[0] == two[0]
    assert one[1] != two[1]
    assert "1,000 |" in two[1]


def test_csv_carries_every_digit(records: Records) -> None:
    table = build(records.runs, records.rows)
    lines = list(csv.DictReader(io.StringIO(layouts.csv_text(table))))
    assert [(line["method"], line["decoding"]) for line in lines] == [
        (row.run.method, decoding) for row in table.rows for decoding in ("sampled", "greedy")
    ]
    other = next(line for line in lines if (line["method"], line["decoding"]) == ("Other", "sampled"))
    score = table.rows[2].scores["sampled"]
    assert score.gain
    assert score.p_holm is not None
    assert float(other["success_low"]) == pytest.approx(score.success.low, rel=1e-11)
    assert float(other["gain"]) == pytest.approx(score.gain.mean, rel=1e-11)
    assert float(other["p_holm"]) == pytest.approx(score.p_holm, rel=1e-11)
    assert (other["rollouts"], other["seeds"], other["tasks"], other["samples"]) == ("101", "3", "21", "4")
    assert "wall" not in ",".join(other)


def test_hostile_labels_break_no_rendering() -> None:
    label = r"a|b & <i>50%_$x^2$ \{#~} [bold]"
    made = Records().add("base", 0.3, role="base").add(label, 0.6, context="<script>").add("Other", 0.5)
    table = build(made.runs, made.rows, title="<b>")
    rows = [line for line in layouts.markdown(table).splitlines() if line.startswith("| a")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in rows[:2]} == {7}
    tex = layouts.latex(table)
    assert r"a|b \& <i>50\%\_\$x\textasciicircum{}2\$ \textbackslash{}\{\#\textasciitilde{}\} [bold]" in tex
    assert (
        tex.count(r"\begin{tabular}")
        == tex.count(r"\end{tabular}")
        == tex.count(r"\toprule")
        == tex.count(r"\bottomrule")
    )
    page = layouts.html_page(table)
    assert "<script>" not in page
    assert "<i>" not in page
    assert "a|b &amp; &lt;i&gt;50%" in page
    console = Console(file=io.StringIO(), width=80)
    layouts.terminal(table, console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[bold]" in printed
    assert max(map(len, printed.splitlines())) <= 80


def test_the_terminal_shows_whole_numbers_in_80_columns(records: Records) -> None:
    table = build(records.runs, records.rows)
    console = Console(file=io.StringIO(), width=80)
    layouts.terminal(table, console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in printed
    for row in table.rows:
        for score in row.scores.values():
            for part in layouts.rate(score.success).split(" ", 1):
                assert part in printed
            if score.versus:
                assert layouts.gain(score.versus).split(" ", 1)[1] in printed


class Balanced(HTMLParser):
    """Counts open tags that must be closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_html_is_one_whole_page(records: Records) -> None:
    page = layouts.html_page(build(records.runs, records.rows, title="Guess"))
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert "src=" not in page
    assert "href=" not in page


# ---------------------------------------------------------------- published numbers

PUBLISHED = """
[[result]]
paper = "2606.12634v1"
table = "Table 1"
environment = "AppWorld"
split = "dev"
model = "Qwen3.5-4B"
method = "SGCD"
metric = "TGC"
value = 40.4
unit = "%"
note = "one run"

[[result]]
paper = "2606.15576v1"
table = "Table 2"
environment = "AIME-25"
model = "Qwen3-8B"
method = "HSD"
metric = "avg@16"
value = 0.25
unit = "fraction"
"""


def test_published_numbers_are_quoted_and_nothing_more(records: Records, tmp_path: Path) -> None:
    file = tmp_path / "published.toml"
    file.write_text(PUBLISHED)
    table = build(records.runs, records.rows)
    entries = read_published(file, environment="AppWorld", split="dev")
    assert entries == tomllib.loads(PUBLISHED)["result"][:1]
    block = published_grid(table, [*entries, *read_published(file, environment="AIME-25")])
    plain, quoted = layouts.markdown(table), layouts.markdown(table, [block])
    assert quoted.startswith(plain.rstrip("\n"))
    assert "| SGCD | Qwen3.5-4B | dev | TGC | 40.4% | arXiv 2606.12634v1, Table 1 | one run |" in quoted
    assert "| HSD | Qwen3-8B | - | avg@16 | 0.25 fraction | arXiv 2606.15576v1, Table 2 |  |" in quoted
    assert "**" not in quoted
    with pytest.raises(MissingDataError, match=r"no published result with \{'environment': 'Chess'\}"):
        read_published(file, environment="Chess")


def test_a_mini_number_is_said_to_be_one_and_never_set_beside_a_published_one() -> None:
    made = Records().add("GRPO", 0.6)
    mini = FACTS | {"environment.id": "environments:GuessMini-v0"}
    runs = [run.model_copy(update={"matched": mini}) for run in made.runs]
    table = build(runs, [row.model_copy(update={"matched": fingerprint(mini)}) for row in made.rows])
    assert "A Mini environment" in layouts.markdown(table)
    with pytest.raises(UserError, match="never set beside published"):
        published_grid(table, [])


def test_an_environments_protocol_heads_its_table() -> None:
    made = Records().add("GRPO", 0.6)
    facts = FACTS | {"environment.protocol": "chess against a random player"}
    runs = [run.model_copy(update={"matched": facts}) for run in made.runs]
    table = build(runs, [row.model_copy(update={"matched": fingerprint(facts)}) for row in made.rows])
    assert "- Protocol: chess against a random player\n" in layouts.markdown(table)
    assert "Protocol" not in layouts.markdown(build(made.runs, made.rows))


def test_an_appended_block_may_be_any(records: Records) -> None:
    block = Grid("More", ("A", "B"), (("x", "1"),), ("note",))
    text = layouts.markdown(build(records.runs, records.rows), [block])
    assert text.endswith("## More\n\n| A | B |\n| --- | ---: |\n| x | 1 |\n\n- note\n")


def test_the_documented_code_runs(records: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = Path(__file__).parents[3] / "docs" / "reading-a-table.md"
    code = document.read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(tmp_path)
    append("runs.jsonl", [run.model_dump() for run in records.runs])
    append("rows.jsonl", [row.model_dump() for row in records.rows])
    said: list[Any] = []
    exec(code, {"print": said.append})
    assert said == [build(records.runs, records.rows).rows[1].scores["sampled"].gain]
    assert (tmp_path / "results/guess/table.md").read_text().startswith("# Guess\n")
