"""A table as Markdown, CSV, LaTeX, HTML and on the terminal.

The same table gives the same bytes; wall time stands in one block of the Markdown and nowhere else.
"""

from __future__ import annotations

import csv
import html
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from harness.core.records import write_whole
from harness.tables import statistics as stats
from harness.tables.table import Score, Table, TableRow

NOTHING = "-"


@dataclass(frozen=True)
class Grid:
    """A block of text cells under a caption; the first column names the row."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    left: int = 1
    """Columns of words, set flush left; the others are numbers."""


# ---------------------------------------------------------------- numbers as text


def rate(estimate: stats.Estimate) -> str:
    """`0.412 [0.371, 0.455]`"""
    return f"{_rounded(estimate.mean):.3f} {_bracket(estimate, '.3f')}"


def gain(estimate: stats.Estimate) -> str:
    """`+0.153 [+0.101, +0.205]`; a mean that rounds to nothing has a plus."""
    return f"{_rounded(estimate.mean):+.3f} {_bracket(estimate, '+.3f')}"


def p_text(p: float | None) -> str:
    """`0.012`, and `<0.001` where three digits end."""
    if p is None:
        return NOTHING
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _rounded(value: float) -> float:
    return round(value, 3) + 0.0  # + 0.0 turns -0.0 into 0.0


def _bracket(estimate: stats.Estimate, form: str) -> str:
    if not (math.isfinite(estimate.low) and math.isfinite(estimate.high)):
        return "[no interval]"
    return f"[{_rounded(estimate.low):{form}}, {_rounded(estimate.high):{form}}]"


def _count(value: float) -> str:
    return f"{value:,.0f}"


# ---------------------------------------------------------------- blocks


def heading(table: Table) -> list[str]:
    """What the numbers are of, a line each."""
    facts = table.facts
    samples = ", ".join(f"{table.samples[decoding]} {decoding}" for decoding in table.decodings)
    lines = [
        f"Environment: {table.environment}, split {table.split}: {table.tasks} tasks; "
        f"episodes per task and seed: {samples}",
        f"Seeds: {', '.join(map(str, table.seeds))}",
    ]
    if is_mini(table):
        lines.insert(
            1,
            "A Mini environment: compact rendering, procedural tasks; its numbers mean nothing outside this table.",
        )
    if _by_scenario(table):
        lines.insert(
            1,
            "Success is task goal completion (TGC); SGC is the share of scenarios with every variant solved in one attempt each; "
            "intervals take scenarios as independent, not their variants.",
        )
    if facts.get("environment.protocol"):
        lines.insert(1, f"Protocol: {facts['environment.protocol']}")
    known = {
        "Model": "model.name",
        "group size": "sampling.group_size",
        "prompts per step": "sampling.prompts_per_step",
        "optimiser steps": "budget.steps",
        "temperature": "sampling.temperature",
        "top-p": "sampling.top_p",
        "aggregation of the loss": "loss.aggregate",
        "code revision": "code",
    }
    said = [f"{name}: {_fact(facts[key])}" for name, key in known.items() if facts.get(key) is not None]
    if said:
        lines.append("; ".join(said))
    lines.append(f"Evaluation episodes lost to infrastructure failures: {table.failed}")
    lines += [f"INCOMPLETE: {warning}" for warning in table.warnings]
    return lines


def _by_scenario(table: Table) -> bool:
    return any("SGC" in score.extra for row in table.rows for score in row.scores.values())


def is_mini(table: Table) -> bool:
    """Mini environments carry the word in their id: `...Mini-v0`."""
    return "Mini-v" in table.environment


def results_grids(table: Table) -> list[Grid]:
    """Success per method, one block per decoding; what must be said of single rows stands under the last."""
    marks = _marks(table)
    grids = []
    for decoding in table.decodings:
        scored = [(row, row.scores[decoding]) for row in table.rows if decoding in row.scores]
        names = tuple(scored[0][1].extra)
        success = "TGC" if "SGC" in names else "Success"
        compared = any(score.versus for _, score in scored)
        comparison = (f"Difference to {table.baseline}", "Holm p", "MDE") if compared else ()
        rows = []
        for row, score in scored:
            cells = [
                _label(row, table, marks),
                rate(score.success),
                NOTHING if score.gain is None else gain(score.gain),
            ]
            cells += _comparison(score) if compared else []
            rows.append((*cells, *(rate(score.extra[name]) for name in names)))
        grids.append(
            Grid(f"Success, {decoding}", ("Method", success, "Gain over start", *comparison, *names), tuple(rows))
        )
    return [*grids[:-1], replace(grids[-1], notes=_footnotes(table, marks))]


def settings_grid(table: Table) -> Grid:
    """What each learned row ran with."""
    rows = [
        (
            row.run.method,
            f"{row.run.plug}({', '.join(f'{key}={_fact(value)}' for key, value in sorted(row.run.options.items()))})",
            NOTHING if row.run.kl is None else f"{row.run.kl:g}",
            {None: NOTHING, True: "on", False: "off"}[row.run.mixed_groups],
        )
        for row in table.rows
        if row.run.role == "method"
    ]
    return Grid("Methods", ("Method", "Plug", "Reference KL", "Mixed-group sampling"), tuple(rows), left=2)


_SPENT = {
    "rollouts": "Rollouts",
    "generated_tokens": "Generated tokens",
    "teacher_tokens": "Teacher tokens",
    "external_calls": "External calls",
    "optimiser_steps": "Optimiser steps",
    "candidates": "Candidate tasks",
    "dropped_groups": "Dropped groups, total",
    "failed_episodes": "Failed episodes, total",
}


def budget_grid(table: Table) -> Grid:
    """What each learned row spent, the same bytes twice."""
    rows = [
        (row.run.method, *(_count(row.budget[key]) for key in _SPENT)) for row in table.rows if row.run.role == "method"
    ]
    return Grid("Budget (training, mean per seed)", ("Method", *_SPENT.values()), tuple(rows))


def metrics_grid(table: Table) -> Grid:
    """Means of what the environment measures besides success."""
    columns = [
        (decoding, name)
        for decoding in table.decodings
        for name in sorted(
            {name for row in table.rows if decoding in row.scores for name in row.scores[decoding].metrics}
        )
    ]
    rows = []
    for row in table.rows:
        values = [
            row.scores[decoding].metrics.get(name, math.nan) if decoding in row.scores else math.nan
            for decoding, name in columns
        ]
        rows.append((row.run.method, *(NOTHING if math.isnan(value) else f"{value:.3g}" for value in values)))
    header = ("Method", *(f"{name}, {decoding}" for decoding, name in columns))
    return Grid("Episodes (mean)", header, tuple(rows) if columns else ())


def cost_grid(table: Table) -> Grid:
    """Wall time: the one block that differs from run to run."""
    rows = [(row.run.method, f"{row.wall_s:,.0f}") for row in table.rows if row.wall_s is not None]
    return Grid("Cost (wall time of training on this machine)", ("Method", "Seconds per seed"), tuple(rows))


def _grids(table: Table, cost: bool) -> list[Grid]:
    grids = [*results_grids(table), settings_grid(table), budget_grid(table), metrics_grid(table)]
    grids += [cost_grid(table)] if cost else []
    return [grid for grid in grids if grid.rows]


def _comparison(score: Score) -> list[str]:
    if score.versus is None:
        return [NOTHING] * 3
    found = score.detectable
    return [gain(score.versus), p_text(score.p_holm), NOTHING if found is None or math.isnan(found) else f"{found:.3f}"]


def _marks(table: Table) -> dict[str, int]:
    """Numbers of the footnotes, by method."""
    noted = [row.run.method for row in table.rows if _said(row)]
    return {method: number for number, method in enumerate(noted, start=1)}


def _label(row: TableRow, table: Table, marks: Mapping[str, int]) -> str:
    label = row.run.method
    if row.run.exploratory:
        label += " (exploratory)"
    if row.run.role == "method" and len(row.seeds) < len(table.seeds):
        label += f" ({len(row.seeds)} of {len(table.seeds)} seeds)"
    return f"{label} [{marks[row.run.method]}]" if row.run.method in marks else label


def _footnotes(table: Table, marks: Mapping[str, int]) -> tuple[str, ...]:
    common = [
        "Brackets: 95 % intervals over seeds and tasks as crossed random effects.",
        "Gains and differences are paired by seed and task.",
    ]
    if any(score.versus for row in table.rows for score in row.scores.values()):
        common.append("Holm p: p-value, adjusted for all comparisons of its block; exploratory rows are not tested.")
        common.append(
            "MDE: minimum detectable effect, the true difference that this comparison would find with 80 % power."
        )
    own = [f"[{marks[row.run.method]}] {row.run.method}: {_said(row)}" for row in table.rows if row.run.method in marks]
    return (*common, *own)


def _said(row: TableRow) -> str:
    """What a reader must know of one row."""
    said = []
    over = {score.success.over for score in row.scores.values()} - {"seeds and tasks"}
    if over:
        said.append(f"interval over {', '.join(sorted(over))}")
    if row.run.context:
        said.append(f"the teacher reads: {row.run.context}")
    if row.run.summariser:
        said.append(f"written by: {row.run.summariser}")
    return "; ".join([*said, *row.run.notes])


def _fact(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


# ---------------------------------------------------------------- renderings


def markdown(table: Table, appendix: Sequence[Grid] = ()) -> str:
    """The whole table; the block "Cost" holds wall time, everything else is the same bytes for the same records."""
    parts = [f"# {table.title or table.environment}", "\n".join(f"- {line}" for line in heading(table))]
    for grid in [*_grids(table, cost=True), *appendix]:
        parts += [
            f"## {grid.caption}",
            _markdown_grid(grid),
            *("\n".join(f"- {note}" for note in grid.notes),) * bool(grid.notes),
        ]
    return "\n\n".join(parts) + "\n"


def _markdown_grid(grid: Grid) -> str:
    rule = ["---" if column < grid.left else "---:" for column in range(len(grid.header))]
    lines = [grid.header, rule, *grid.rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def latex(table: Table, appendix: Sequence[Grid] = ()) -> str:
    """booktabs tables, one per block, without wall time."""
    parts = [f"% {line}" for line in heading(table)]
    for grid in [*_grids(table, cost=False), *appendix]:
        body = "\n".join(" & ".join(map(_tex, row)) + r" \\" for row in grid.rows)
        parts.append(
            "\\begin{table}\n"
            f"\\caption{{{_tex(grid.caption)}}}\n"
            f"\\begin{{tabular}}{{{'l' * grid.left}{'r' * (len(grid.header) - grid.left)}}}\n\\toprule\n"
            f"{' & '.join(map(_tex, grid.header))} \\\\\n\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}\n"
            + "".join(f"\\par {_tex(note)}\n" for note in grid.notes)
            + "\\end{table}"
        )
    return "\n".join(parts) + "\n"


_TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {
    c: "\\" + c for c in "&%$#_{}"
}


def _tex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in text)


_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem;color:#222}table{border-collapse:collapse;margin:.5rem 0}"
    "th,td{padding:.25rem .7rem;text-align:right;border-bottom:1px solid #ddd;font-variant-numeric:tabular-nums}"
    "th:first-child,td:first-child{text-align:left}thead th{border-bottom:2px solid #444}li{color:#555}"
)


def html_page(table: Table, appendix: Sequence[Grid] = ()) -> str:
    """One self-contained page, without wall time."""
    title = html.escape(table.title or table.environment)
    parts = [f"<h1>{title}</h1>", _html_list(heading(table))]
    for grid in [*_grids(table, cost=False), *appendix]:
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in grid.header)
        body = "\n".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in grid.rows
        )
        parts.append(
            f"<h2>{html.escape(grid.caption)}</h2>\n"
            f"<table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>"
        )
        parts.append(_html_list(grid.notes))
    page = "\n".join(part for part in parts if part)
    head = f'<meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en">{head}\n{page}\n</html>\n'


def _html_list(lines: Iterable[str]) -> str:
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""


def terminal(table: Table, console: Console | None = None) -> None:
    """Results and budget, printed; intervals stand under their means, to fit 80 columns."""
    console = console or Console()
    for line in (table.title or table.environment, *heading(table)):
        console.print(line, markup=False, highlight=False)
    for grid in (*results_grids(table), _without_zeros(budget_grid(table))):
        if grid.rows:
            console.print("", _rich(grid), *grid.notes, sep="\n", markup=False, highlight=False)


def _without_zeros(grid: Grid) -> Grid:
    kept = [column for column in range(len(grid.header)) if any(row[column] != "0" for row in grid.rows)]
    rows = tuple(tuple(row[column] for column in kept) for row in grid.rows)
    return replace(grid, header=tuple(grid.header[column] for column in kept), rows=rows)


def _rich(grid: Grid) -> RichTable:
    shown = RichTable(
        title=Text(grid.caption), title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 0)
    )
    rows = [(row[0], *(cell.replace(" [", "\n[") for cell in row[1:])) for row in grid.rows]
    for column, name in enumerate(grid.header):
        lines = [line for row in rows for line in row[column].split("\n")]
        words = column < grid.left  # names may be broken into lines, numbers may not
        shown.add_column(
            Text(name), justify="left" if words else "right", min_width=None if words else max(map(len, lines))
        )
    for row in rows:
        shown.add_row(*map(Text, row))
    return shown


def csv_text(table: Table) -> str:
    """One line per method and decoding, all digits, no wall time."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    extra = sorted({name for row in table.rows for score in row.scores.values() for name in score.extra})
    intervals = ("success", "gain", "difference", *extra)
    header = ["method", "role", "exploratory", "decoding", "seeds", "tasks", "samples", "reward"]
    header += [f"{name}{end}" for name in intervals for end in ("", "_low", "_high")]
    writer.writerow([*header, "p", "p_holm", "detectable", *_SPENT])
    for row in table.rows:
        for decoding, score in row.scores.items():
            success = score.success
            cells: list[Any] = [
                row.run.method,
                row.run.role,
                row.run.exploratory,
                decoding,
                success.seeds,
                success.tasks,
            ]
            cells += [table.samples[decoding], _digits(score.reward)]
            for estimate in (success, score.gain, score.versus, *(score.extra[name] for name in extra)):
                cells += (
                    ["", "", ""] if estimate is None else map(_digits, (estimate.mean, estimate.low, estimate.high))
                )
            cells += map(_digits, (score.p, score.p_holm, score.detectable))
            writer.writerow([*cells, *(_digits(row.budget[key]) for key in _SPENT)])
    return out.getvalue()


def _digits(value: float | None) -> str:
    """Twelve digits: more than anyone reads, fewer than another order of summation could change."""
    return "" if value is None or math.isnan(value) else f"{value:.12g}"


def write_table(table: Table, folder: str | Path, appendix: Sequence[Grid] = ()) -> None:
    """table.md, table.csv, table.tex and table.html, each replaced as a whole."""
    folder = Path(folder)
    write_whole(folder / "table.md", markdown(table, appendix))
    write_whole(folder / "table.csv", csv_text(table))
    write_whole(folder / "table.tex", latex(table, appendix))
    write_whole(folder / "table.html", html_page(table, appendix))
