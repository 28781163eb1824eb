"""The table of a fidelity measurement; all of it is a function of the recorded rows."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table as RichTable
from rich.text import Text

from harness.core.seeds import SeedTree
from harness.core.words import one_line
from harness.evaluation.fidelity.measure import Measurement, Row
from harness.evaluation.fidelity.metrics import LEVEL, METRICS, NEGLIGIBLE, RESAMPLES, Figure, Tokens, judge
from harness.report.escaping import markdown as escaped
from harness.report.grids import historical_note

TITLES = {
    "sign": "Sign accuracy",
    "rank": "Rank correlation, all tokens",
    "within": "Rank correlation, within episodes",
    "mass": "Mass on the top 10 %",
}
"""The figures' names for people."""
CAPTIONS = {
    "whole loss": "The whole loss: the advantage each method's loss amounts to",
    "own stream": "Own streams: what a method says of single tokens beside the advantage",
    "control": "Controls",
}
"""The blocks of the table by kind of credit, in their order."""


@dataclass(frozen=True)
class Line:
    """A row of the table."""

    name: str
    kind: str
    context: str | None
    covered: float
    """Share of the certain tokens that get any credit."""
    figures: dict[str, Figure]


@dataclass(frozen=True, eq=False)
class Judged:
    """A measurement with its figures."""

    measurement: Measurement
    tokens: Tokens
    credits: dict[str, np.ndarray]
    lines: list[Line]
    historical: str | None = None
    """The code revision that recorded the measurement, where the code beside it has changed since."""


def build(measurement: Measurement, historical: str | None = None) -> Judged:
    """The figures of every method's whole loss, of its own streams, and of two controls.

    The controls are random signs and sizes, and the truth estimated again by other re-rolls.
    """
    episodes = measurement.episodes
    lengths = [len(row["truth"]) for row in episodes]
    number = {task: n for n, task in enumerate(dict.fromkeys(row["task_id"] for row in episodes))}
    tokens = Tokens(
        task=np.repeat(np.array([number[row["task_id"]] for row in episodes], dtype=np.int64), lengths),
        episode=np.repeat(np.arange(len(episodes)), lengths),
        truth=_flat([row["truth"] for row in episodes]),
        error=_flat([row["error"] for row in episodes]),
    )
    seeds = SeedTree(int(measurement.facts["seed"]))["fidelity"]
    credits = {row["name"]: _flat([e["credit"][row["name"]] for e in episodes]) for row in measurement.methods}
    credits["random"] = seeds["random"].rng().standard_normal(len(tokens.truth))
    credits["truth, estimated again"] = _flat([row["again"] for row in episodes])
    known = {row["name"]: row for row in measurement.methods}
    judged = judge(np.stack(list(credits.values())), tokens, seeds)
    lines = [
        Line(
            name,
            known[name]["kind"] if name in known else "control",
            known[name]["context"] if name in known else None,
            float(np.mean(np.abs(credit[tokens.certain]) > NEGLIGIBLE)) if tokens.certain.any() else math.nan,
            figures,
        )
        for (name, credit), figures in zip(credits.items(), judged, strict=True)
    ]
    order = list(CAPTIONS)
    return Judged(measurement, tokens, credits, sorted(lines, key=lambda line: order.index(line.kind)), historical)


def heading(judged: Judged) -> list[str]:
    """What was measured, in sentences."""
    facts, tokens = judged.measurement.facts, judged.tokens
    certain = int(tokens.certain.sum())
    old = judged.historical
    return [
        *([historical_note(old)] if old is not None else []),
        f"{facts['tasks']} tasks of the {facts['split']} split x {facts['group_size']} siblings of one fixed policy "
        f"({facts['policy']}, weights {facts['weights'][:12]}, success {facts['success']:.2f}), seed {facts['seed']}.",
        f"{len(tokens.truth):,} sampled tokens on {facts['prefixes']:,} distinct prefixes, "
        f"{facts.get('sets', 2)} x {facts['rolls']} re-rolls each; "
        f"{certain:,} tokens ({certain / max(len(tokens.truth), 1):.0%}) have a truth beyond two standard errors.",
        f"Intervals: {LEVEL:.0%}, bootstrap over tasks ({RESAMPLES:,} resamples). "
        "A credit that knows nothing: sign 0.5, ranks 0, mass 0.1 if uniform.",
        "The last row is the truth measured a second time: what a perfect credit could reach against a truth with this "
        "noise.",
    ]


def grids(judged: Judged) -> list[tuple[str, list[list[str]]]]:
    """The table's blocks as text: caption, and rows of which the first is the header."""
    header = ["Credit", *(TITLES[name] for name in METRICS), "Tokens with credit", "Teacher reads"]
    blocks = []
    for kind, caption in CAPTIONS.items():
        lines = [line for line in judged.lines if line.kind == kind]
        rows = [
            [line.name, *(_text(line.figures[n]) for n in METRICS), f"{line.covered:.2f}", line.context or "–"]
            for line in lines
        ]
        if rows:
            blocks.append((caption, [header, *rows]))
    return blocks


def markdown(judged: Judged) -> str:
    """table.md"""
    parts = [f"# Credit fidelity on {escaped(short_name(judged))}"]
    parts.append("\n".join(f"* {escaped(line)}" for line in heading(judged)))
    for caption, (header, *rows) in grids(judged):
        rule = ["---", *["---:"] * (len(header) - 2), "---"]
        lines = [header, rule, *([escaped(cell) for cell in row] for row in rows)]
        parts.append(f"## {caption}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines))
    return "\n\n".join(parts) + "\n"


def terminal(judged: Judged) -> list[RichTable]:
    """The table's blocks for a terminal, without the column of what teachers read."""
    out = []
    for caption, (header, *rows) in grids(judged):
        grid = RichTable(header[0], title=caption, title_justify="left")
        for name in header[1:-1]:
            grid.add_column(name, justify="right")
        for row in rows:
            grid.add_row(*(Text(one_line(cell)) for cell in row[:-1]))
        out.append(grid)
    return out


def csv_text(judged: Judged) -> str:
    """table.csv: one line a credit, every figure with its bounds."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    bounds = [f"{name}{end}" for name in METRICS for end in ("", "_low", "_high")]
    writer.writerow(["credit", "kind", "context", *bounds, "tokens_with_credit"])
    for line in judged.lines:
        figures = [
            f"{value:.6f}"
            for n in METRICS
            for value in (line.figures[n].value, line.figures[n].low, line.figures[n].high)
        ]
        writer.writerow([line.name, line.kind, line.context or "", *figures, f"{line.covered:.6f}"])
    return out.getvalue()


def lines(judged: Judged) -> list[dict[str, str]]:
    """The lines of table.csv for programs that read JSON: a mapping from column to cell for each."""
    return list(csv.DictReader(io.StringIO(csv_text(judged))))


def example_pair(episodes: Sequence[Row]) -> tuple[int, int] | None:
    """Places of a failure and a success of one task, or None where no group is mixed.

    The task is the one in which a failure's worst token and a success's best are furthest apart.
    """
    best: tuple[float, tuple[int, int]] | None = None
    for task in dict.fromkeys(row["task_id"] for row in episodes):
        places = [n for n, row in enumerate(episodes) if row["task_id"] == task and row["truth"]]
        failures = [n for n in places if not episodes[n]["success"]]
        successes = [n for n in places if episodes[n]["success"]]
        if failures and successes:
            worst = min(failures, key=lambda n: min(episodes[n]["truth"]))
            right = max(successes, key=lambda n: max(episodes[n]["truth"]))
            apart = max(episodes[right]["truth"]) - min(episodes[worst]["truth"])
            if best is None or apart > best[0]:
                best = apart, (worst, right)
    return best[1] if best else None


def short_name(judged: Judged) -> str:
    """The environment's id without its module."""
    return str(judged.measurement.facts["environment"]).rpartition(":")[2]


def _text(figure: Figure) -> str:
    if math.isnan(figure.value):
        return "–"
    value, low, high = (round(number, 2) + 0.0 for number in (figure.value, figure.low, figure.high))  # + 0.0: no -0.00
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _flat(rows: Sequence[Sequence[float]]) -> np.ndarray:
    return np.array([value for row in rows for value in row], dtype=np.float64)
