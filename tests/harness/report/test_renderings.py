"""Renderings of a table: bytes are the records', and text of records breaks none of them."""

from __future__ import annotations

import csv
import io
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from renderings import renderings
from rich.console import Console
from table_records import FACTS, Records, small_experiment

from harness.core.records import append
from harness.experiment import fingerprint
from harness.report.columns import gain, rate
from harness.report.delimited import csv_text
from harness.report.files import write_table
from harness.report.grids import heading
from harness.report.html import html_page
from harness.report.latex import latex
from harness.report.markdown import markdown
from harness.report.terminal import terminal
from harness.tables import statistics as stats
from harness.tables.grid import Grid
from harness.tables.records import Run
from harness.tables.table import build


@pytest.fixture
def records() -> Records:
    return small_experiment()


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
    assert (rate(estimate), gain(estimate)) == (as_rate, as_gain)


def test_markdown_says_what_the_numbers_are_of(records: Records) -> None:
    text = markdown(build(records.runs, records.rows, title="Guess"))
    for line in (
        "# Guess\n",
        "- Environment: environments:Guess-v0, split test: 21 tasks; episodes per task and seed: 4 sampled, 1 greedy",
        "- Seeds: 0, 1, 2",
        "- Model: tiny; group size: 8; training steps, each a batch of rollouts: 40; top-p: 1",
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
        assert line in text
    assert "Mini " not in text
    for line in text.splitlines():
        if line.startswith("| base"):
            assert re.fullmatch(r"\| base \|( (\d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\]|-|2) \|)+", line)
    blocks = [block.splitlines() for block in text.split("\n## ")]
    widths = [{line.count("|") for line in block if line.startswith("|")} for block in blocks[1:]]
    assert all(len(width) == 1 for width in widths)


def test_a_table_without_comparisons_has_no_columns_for_them() -> None:
    made = Records().add("base", 0.3, role="base").add("GRPO", 0.6)
    text = markdown(build(made.runs, made.rows))
    assert "| Method | Success | Gain over start |\n" in text
    assert "Adj. p" not in text
    assert "Verdict" not in text
    assert "MDE" not in text


def test_wall_time_changes_nothing_but_the_block_of_costs(records: Records, tmp_path: Path) -> None:
    def slower(run: Run) -> Run:
        wall = replace(run.budget, wall_s=999.0 + run.seed)
        return run.model_copy(update={"budget": wall}) if run.role == "method" else run

    for name, runs in (("one", records.runs), ("two", [slower(run) for run in records.runs])):
        write_table(build(runs, records.rows), tmp_path / name)
    for end in ("csv", "tex", "html"):
        assert (tmp_path / f"one/table.{end}").read_bytes() == (tmp_path / f"two/table.{end}").read_bytes()
    one, two = ((tmp_path / name / "table.md").read_text().split("\n## Cost") for name in ("one", "two"))
    assert one[0] == two[0]
    assert one[1] != two[1]
    assert "1,000 |" in two[1]


def test_csv_carries_every_digit(records: Records) -> None:
    table = build(records.runs, records.rows)
    lines = list(csv.DictReader(io.StringIO(csv_text(table))))
    assert [(line["method"], line["decoding"]) for line in lines] == [
        (row.run.method, decoding) for row in table.rows for decoding in ("sampled", "greedy")
    ]
    other = next(line for line in lines if (line["method"], line["decoding"]) == ("Other", "sampled"))
    score = table.rows[2].scores["sampled"]
    assert score.gain
    assert score.judged is not None
    assert score.judged.p_adjusted is not None
    assert score.judged.joint is not None
    assert float(other["success_low"]) == pytest.approx(score.success.low, rel=1e-11)
    assert float(other["gain"]) == pytest.approx(score.gain.mean, rel=1e-11)
    assert float(other["p_adjusted"]) == pytest.approx(score.judged.p_adjusted, rel=1e-11)
    assert float(other["simultaneous_high"]) == pytest.approx(score.judged.joint.high, rel=1e-11)
    assert (other["verdict"], other["lost"]) == ("undecided", "0")
    assert (other["rollouts"], other["seeds"], other["tasks"], other["samples"]) == ("101", "3", "21", "4")
    assert "wall" not in ",".join(other)


@pytest.mark.parametrize("label", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1"])
def test_no_label_is_a_formula_of_a_spreadsheet(label: str) -> None:
    made = Records().add("GRPO", 0.6).add(label, 0.5)
    lines = list(csv.DictReader(io.StringIO(csv_text(build(made.runs, made.rows)))))
    assert {line["method"] for line in lines} == {"GRPO", "'" + label.replace("\t", " ")}
    assert any(line["difference"].startswith("-") for line in lines)  # a number stays one


def test_hostile_labels_break_no_rendering() -> None:
    label = r"a|b & <i>50%_$x^2$ \{#~} [bold]"
    made = Records().add("base", 0.3, role="base").add(label, 0.6, context="<script>").add("Other", 0.5)
    table = build(made.runs, made.rows, title="<b>")
    rows = [line for line in markdown(table).splitlines() if line.startswith("| a")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in rows[:2]} == {9}
    tex = latex(table)
    assert r"a|b \& <i>50\%\_\$x\textasciicircum{}2\$ \textbackslash{}\{\#\textasciitilde{}\} [bold]" in tex
    assert (
        tex.count(r"\begin{tabular}")
        == tex.count(r"\end{tabular}")
        == tex.count(r"\toprule")
        == tex.count(r"\bottomrule")
    )
    page = html_page(table)
    assert "<script>" not in page
    assert "<i>" not in page
    assert "a|b &amp; &lt;i&gt;50%" in page
    console = Console(file=io.StringIO(), width=80)
    terminal(table, console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[bold]" in printed
    assert max(map(len, printed.splitlines())) <= 80


def test_the_terminal_shows_whole_numbers_in_80_columns(records: Records) -> None:
    table = build(records.runs, records.rows)
    console = Console(file=io.StringIO(), width=80)
    terminal(table, console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in printed
    for row in table.rows:
        for score in row.scores.values():
            for part in rate(score.success).split(" ", 1):
                assert part in printed
            if score.versus:
                assert gain(score.versus).split(" ", 1)[1] in printed


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
    page = html_page(build(records.runs, records.rows, title="Guess"))
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert "src=" not in page
    assert "href=" not in page


def test_an_environments_protocol_heads_its_table() -> None:
    made = Records().add("GRPO", 0.6)
    facts = FACTS | {"environment.protocol": "chess against a random player"}
    runs = [run.model_copy(update={"matched": facts}) for run in made.runs]
    table = build(runs, [row.model_copy(update={"matched": fingerprint(facts)}) for row in made.rows])
    assert "- Protocol: chess against a random player\n" in markdown(table)
    assert "Protocol" not in markdown(build(made.runs, made.rows))


def test_a_historical_table_says_so_first(records: Records) -> None:
    table = build(records.runs, records.rows, title="Guess")
    shown, old = renderings(table), renderings(replace(table, historical="0123abcd"))
    for form in ("markdown", "latex", "html", "terminal"):
        assert "historical" not in shown[form]
        assert "recorded by code revision 0123abcd" in " ".join(old[form].split())
    assert old["csv"] == shown["csv"]
    assert markdown(replace(table, historical="0123abcd")).splitlines()[2].startswith("- A historical table: ")
    assert heading(replace(table, historical="0123abcd"))[1:] == heading(table)


def test_a_baseline_of_older_records_keeps_its_word() -> None:
    """Older records call a baseline "reference": the same table, and the file has the record's word."""
    new = Records().add("GRPO", 0.6).add("gold", 1.0, (0,), role="baseline")
    old = Records().add("GRPO", 0.6).add("gold", 1.0, (0,), role="reference")
    ours, theirs = renderings(build(new.runs, new.rows)), renderings(build(old.runs, old.rows))
    assert ours["csv"].replace("gold,baseline,", "gold,reference,") == theirs.pop("csv")
    assert {form: ours[form] for form in theirs} == theirs
    assert not old.runs[-1].learns
    assert old.runs[-1].is_baseline


def test_an_appended_block_may_be_any(records: Records) -> None:
    block = Grid("More", ("A", "B"), (("x", "1"),), ("note",))
    text = markdown(build(records.runs, records.rows), [block])
    assert text.endswith("## More\n\n| A | B |\n| --- | ---: |\n| x | 1 |\n\n- note\n")


def test_the_documented_code_runs(records: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = Path(__file__).parents[3] / "docs" / "reading-a-table.md"
    code = document.read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(tmp_path)
    append("runs.jsonl", [run.model_dump() for run in records.runs])
    append("rows.jsonl", [row.model_dump() for row in records.rows])
    printed: list[Any] = []
    exec(code, {"print": printed.append})
    assert printed == [build(records.runs, records.rows).rows[1].scores["sampled"].gain]
    assert (tmp_path / "results/guess/table.md").read_text().startswith("# Guess\n")
