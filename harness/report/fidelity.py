"""The table and the plots of a fidelity measurement; all of it is a function of the recorded rows."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure as Drawing
from rich.table import Table as Grid

from harness.core.provenance import provenance
from harness.core.records import SCHEMA, line_of, write_json, write_whole
from harness.core.seeds import SeedTree
from harness.evaluation.fidelity.measure import Measurement, Row
from harness.evaluation.fidelity.metrics import LEVEL, METRICS, NEGLIGIBLE, RESAMPLES, Figure, Tokens, clear, judge
from harness.report.plots import PALETTE, write_plot

TITLES = {
    "sign": "Sign accuracy",
    "rank": "Rank correlation, all tokens",
    "within": "Rank correlation, within episodes",
    "mass": "Mass on the top 10 %",
}
CHANCE = {"sign": 0.5, "rank": 0.0, "within": 0.0, "mass": 0.1}
"""What a credit that knows nothing gets (a uniform one, for the mass)."""
UP, DOWN = "#0072B2", "#D55E00"
SIGNED = LinearSegmentedColormap.from_list("signed", [DOWN, "#f2f2f2", UP])
COLOURS = {"whole loss": PALETTE[0], "own stream": PALETTE[1], "control": "#555555"}
CAPTIONS = {
    "whole loss": "The whole loss: the advantage each method's loss amounts to",
    "own stream": "Own streams: what a method says of single tokens beside the advantage",
    "control": "Controls",
}


@dataclass(frozen=True)
class Line:
    """A row of the table."""

    name: str
    kind: str
    context: str | None
    spoken: float
    """Share of the certain tokens that get any credit."""
    figures: dict[str, Figure]


@dataclass(frozen=True, eq=False)
class Judged:
    """A measurement with its figures."""

    measurement: Measurement
    tokens: Tokens
    credits: dict[str, np.ndarray]
    lines: list[Line]


def build(measurement: Measurement) -> Judged:
    """Every method's figures, its own streams', and two controls': random signs and sizes, and the truth estimated again by other re-rolls."""
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
    order = list(COLOURS)
    return Judged(measurement, tokens, credits, sorted(lines, key=lambda line: order.index(line.kind)))


def heading(judged: Judged) -> list[str]:
    """What was measured, in sentences."""
    facts, tokens = judged.measurement.facts, judged.tokens
    certain = int(tokens.certain.sum())
    return [
        f"{facts['tasks']} tasks of the {facts['split']} split x {facts['group_size']} siblings of one fixed policy ({facts['policy']}, weights "
        f"{facts['weights'][:12]}, success {facts['success']:.2f}), seed {facts['seed']}.",
        f"{len(tokens.truth):,} sampled tokens on {facts['prefixes']:,} distinct prefixes, 2 x {facts['rolls']} re-rolls each; "
        f"{certain:,} tokens ({certain / max(len(tokens.truth), 1):.0%}) have a truth beyond two standard errors.",
        f"Intervals: {LEVEL:.0%}, bootstrap over tasks ({RESAMPLES:,} resamples). A credit that knows nothing: sign 0.5, ranks 0, mass 0.1 if uniform.",
        "The last row is the truth measured a second time: what a perfect credit could reach against a truth with this noise.",
    ]


def grids(judged: Judged) -> list[tuple[str, list[list[str]]]]:
    """The table's blocks as text: caption, and rows of which the first is the header."""
    header = ["Credit", *(TITLES[name] for name in METRICS), "Tokens with credit", "Teacher reads"]
    blocks = []
    for kind, caption in CAPTIONS.items():
        lines = [line for line in judged.lines if line.kind == kind]
        rows = [
            [line.name, *(_text(line.figures[n]) for n in METRICS), f"{line.spoken:.2f}", line.context or "–"]
            for line in lines
        ]
        if rows:
            blocks.append((caption, [header, *rows]))
    return blocks


def markdown(judged: Judged) -> str:
    """table.md"""
    parts = [f"# Credit fidelity on {_short(judged)}", "\n".join(f"* {said}" for said in heading(judged))]
    for caption, (header, *rows) in grids(judged):
        rule = ["---", *["---:"] * (len(header) - 2), "---"]
        parts.append(f"## {caption}\n\n" + "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows)))
    return "\n\n".join(parts) + "\n"


def terminal(judged: Judged) -> list[Grid]:
    """The table for a terminal, which teachers read what left out."""
    out = []
    for caption, (header, *rows) in grids(judged):
        grid = Grid(header[0], title=caption, title_justify="left")
        for name in header[1:-1]:
            grid.add_column(name, justify="right")
        for row in rows:
            grid.add_row(*row[:-1])
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
        writer.writerow([line.name, line.kind, line.context or "", *figures, f"{line.spoken:.6f}"])
    return out.getvalue()


def write(measurement: Measurement, folder: Path) -> Judged:
    """Everything a fidelity folder holds but its notes."""
    judged = build(measurement)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "facts.json", measurement.facts | {"methods": measurement.methods})
    rows = ({"schema": SCHEMA, "kind": "fidelity"}, *measurement.episodes)
    write_whole(
        folder / "episodes.jsonl.gz", gzip.compress("".join(line_of(row) + "\n" for row in rows).encode(), mtime=0)
    )
    write_json(folder / "provenance.json", provenance())
    write_whole(folder / "table.md", markdown(judged))
    write_whole(folder / "table.csv", csv_text(judged))
    write_plot(dots(judged), folder / "fidelity")
    if (pair := example_pair(measurement.episodes)) is not None:
        write_plot(examples(judged, pair), folder / "example")
    return judged


def read(folder: Path) -> Measurement:
    """The measurement recorded in a folder."""
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    lines = gzip.decompress((folder / "episodes.jsonl.gz").read_bytes()).decode().splitlines()
    return Measurement(
        {k: v for k, v in facts.items() if k != "methods"}, facts["methods"], [json.loads(line) for line in lines[1:]]
    )


# ---------------------------------------------------------------- plots


def dots(judged: Judged) -> Drawing:
    """A dot and an interval for every credit, one panel a metric; a dashed line where chance is."""
    lines = judged.lines
    figure = Drawing(figsize=(12.5, 1.5 + 0.29 * len(lines)), dpi=150, layout="constrained")
    heights = _heights([line.kind for line in lines])
    for axes, name in zip(figure.subplots(1, len(METRICS), sharey=True), METRICS, strict=True):
        axes.axvline(CHANCE[name], color="#888888", linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        for line, height in zip(lines, heights, strict=True):
            shown, colour = line.figures[name], COLOURS[line.kind]
            axes.plot(
                [shown.low, shown.high],
                [height, height],
                color=colour,
                linewidth=2.2,
                alpha=0.45,
                solid_capstyle="butt",
            )
            axes.plot(shown.value, height, "o", color=colour, markersize=5)
        _dress(axes, TITLES[name])
        axes.set_yticks(heights, [line.name for line in lines], fontsize=9)
    figure.suptitle(f"Credit against the truth on {_short(judged)}", fontsize=12, fontweight="bold", x=0.01, ha="left")
    return figure


def example_pair(episodes: Sequence[Row]) -> tuple[int, int] | None:
    """A failure and a success of one task: the task in which a failure's worst token and a success's best are furthest apart. None without mixed group."""
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


def examples(judged: Judged, pair: tuple[int, int]) -> Drawing:
    """Two episodes, token by token: the truth as bars, and below every credit as colour, each scaled to its own largest value in the episode."""
    names = [line.name for line in judged.lines if line.name != "random"]
    figure = Drawing(figsize=(12.5, 3.0 + 0.27 * len(names)), dpi=150, layout="constrained")
    panels = figure.subplots(2, 2, sharey="row", gridspec_kw={"height_ratios": [2.0, 0.27 * len(names)]})
    for column, place in enumerate(pair):
        row = judged.measurement.episodes[place]
        _bars(panels[0, column], row)
        here = judged.tokens.episode == place
        _strips(
            panels[1, column], clear(np.stack([judged.credits[name][here] for name in names])), row["tokens"], names
        )
    panels[0, 0].set_ylabel("truth: V(after) − V(before)", fontsize=9)
    figure.suptitle("Two siblings, token by token", fontsize=12, fontweight="bold", x=0.01, ha="left")
    return figure


def _bars(axes: Axes, row: Row) -> None:
    truth, error = np.array(row["truth"]), np.array(row["error"])
    colours = [UP if value > 0 else DOWN for value in truth]
    axes.bar(range(len(truth)), truth, color=colours, width=0.7, yerr=2 * error, ecolor="#333333", capsize=2)
    axes.axhline(0, color="#333333", linewidth=0.8)
    _dress(
        axes,
        f"{'success' if row['success'] else 'failure'} on “{_shown(row['prompt'])[:60]}”  (whiskers: ± 2 standard errors)",
    )
    axes.set_xticks(range(len(truth)), [_shown(token) for token in row["tokens"]], fontsize=10, family="monospace")
    axes.set_xlim(-0.5, len(truth) - 0.5)


def _strips(axes: Axes, credits: np.ndarray, tokens: Sequence[str], names: Sequence[str]) -> None:
    largest = np.abs(credits).max(axis=1, keepdims=True)
    axes.imshow(credits / np.where(largest > 0, largest, 1.0), cmap=SIGNED, vmin=-1, vmax=1, aspect="auto")
    axes.set_xticks(range(len(tokens)), [_shown(token) for token in tokens], fontsize=10, family="monospace")
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.set_xticks(np.arange(len(tokens) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    for side in axes.spines.values():
        side.set_visible(False)


def _dress(axes: Axes, title: str) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.set_title(title, loc="left", fontsize=9.5)
    axes.tick_params(axis="both", length=0)
    axes.grid(axis="x", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)


def _shown(text: str) -> str:
    """Text as a label: one line of printable characters, none of which starts a formula."""
    return "".join(character if character.isprintable() else "·" for character in text).replace("$", r"\$")


def _heights(kinds: Sequence[str]) -> list[float]:
    """From the top down, with a gap where the kind changes."""
    gaps = np.cumsum([0, *(a != b for a, b in itertools.pairwise(kinds))])
    return [-(place + 0.8 * gap) for place, gap in enumerate(gaps.tolist())]


def _text(figure: Figure) -> str:
    if math.isnan(figure.value):
        return "–"
    value, low, high = (round(number, 2) + 0.0 for number in (figure.value, figure.low, figure.high))  # + 0.0: no -0.00
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _flat(rows: Sequence[Sequence[float]]) -> np.ndarray:
    return np.array([value for row in rows for value in row], dtype=np.float64)


def _short(judged: Judged) -> str:
    return str(judged.measurement.facts["environment"]).rpartition(":")[2]
