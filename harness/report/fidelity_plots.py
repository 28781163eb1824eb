"""The plots of a fidelity measurement: every credit's figures, and two episodes token by token."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure as Drawing

from harness.evaluation.fidelity.measure import Row
from harness.evaluation.fidelity.metrics import METRICS, clear
from harness.report.fidelity import TITLES, Judged, short_name
from harness.report.plots import PALETTE, plain

CHANCE = {"sign": 0.5, "rank": 0.0, "within": 0.0, "mass": 0.1}
"""What a credit that knows nothing gets (a uniform one, for the mass)."""
UP, DOWN = "#0072B2", "#D55E00"
"""Colours of credit for and against a token."""
SIGNED = LinearSegmentedColormap.from_list("signed", [DOWN, "#f2f2f2", UP])
COLOURS = {"whole loss": PALETTE[0], "own stream": PALETTE[1], "control": "#555555"}
"""Colours of the kinds of credit."""


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
        axes.set_yticks(heights, [plain(line.name) for line in lines], fontsize=9)
    figure.suptitle(
        f"Credit against the truth on {plain(short_name(judged))}", fontsize=12, fontweight="bold", x=0.01, ha="left"
    )
    return figure


def examples(judged: Judged, pair: tuple[int, int]) -> Drawing:
    """Two episodes, token by token: the truth as bars, and below every credit as colour.

    Every credit is scaled to its own largest value in the episode.
    """
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
    outcome = "success" if row["success"] else "failure"
    _dress(axes, f"{outcome} on “{plain(row['prompt'])[:60]}”  (whiskers: ± 2 standard errors)")
    axes.set_xticks(range(len(truth)), [plain(token) for token in row["tokens"]], fontsize=10, family="monospace")
    axes.set_xlim(-0.5, len(truth) - 0.5)


def _strips(axes: Axes, credits: np.ndarray, tokens: Sequence[str], names: Sequence[str]) -> None:
    largest = np.abs(credits).max(axis=1, keepdims=True)
    axes.imshow(credits / np.where(largest > 0, largest, 1.0), cmap=SIGNED, vmin=-1, vmax=1, aspect="auto")
    axes.set_xticks(range(len(tokens)), [plain(token) for token in tokens], fontsize=10, family="monospace")
    axes.set_yticks(range(len(names)), [plain(name) for name in names], fontsize=9)
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


def _heights(kinds: Sequence[str]) -> list[float]:
    """From the top down, with a gap where the kind changes."""
    gaps = np.cumsum([0, *(a != b for a, b in itertools.pairwise(kinds))])
    return [-(place + 0.8 * gap) for place, gap in enumerate(gaps.tolist())]
