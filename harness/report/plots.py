"""Plots of learning curves.

figure = learning_curves(points, lines={"do-nothing": 0.0, "start": 0.31})
write_plot(figure, "results/laptop/guess/curve")          # curve.svg
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter
from scipy import stats

from harness.core.errors import MissingDataError, UnknownNameError
from harness.core.records import write_whole

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colours, distinct under every common colour blindness; yellow left out, too faint on white."""
MARKS: tuple[tuple[Any, str], ...] = (("-", "o"), ((0, (5, 1.5)), "s"), ((0, (1.5, 1.2)), "^"))
"""Line and marker: they distinguish methods when there are more of them than colours."""

AXES = {"step": "Optimiser steps", "rollouts": "Rollouts", "generated_tokens": "Generated tokens"}
"""Names of the horizontal axis, by the key of the points."""
VALUES = {"success": "Success", "sampled": "Success, sampled", "greedy": "Success, greedy"}
"""Names of the vertical axis; another value stands by its own name."""
_GREY = "#555555"
_LABEL_GAP = 0.055
"""Least distance of two labels, as a share of the axis's height."""


def learning_curves(
    points: Iterable[Mapping[str, Any]],
    x: str = "step",
    lines: Mapping[str, float] | None = None,
    title: str = "",
    value: str = "success",
    band: Literal["range", "interval"] = "range",
) -> Figure:
    """Mean over seeds of every method's learning curve, with a band, labelled at its right end.

    points: records with `method`, `seed`, `step`, the value, and `rollouts` or `generated_tokens` where they are the
    axis; methods keep the order of their first record. Only steps that all seeds of a method have are drawn. lines:
    horizontal lines of policies that do not learn. band: the seeds' range, or the 95 % t interval of their mean
    (`interval`; needs two seeds).

    Raises MissingDataError without a point to draw, UnknownNameError for an axis that does not exist.
    """
    if x not in AXES:
        raise UnknownNameError("axis", x, AXES)
    frame = pd.DataFrame(list(points))
    if frame.empty or frame[value].isna().all():
        raise MissingDataError(f"no point of a learning curve with {value!r}: nothing to plot")
    figure = Figure(figsize=(7.2, 4.2), dpi=160, layout="constrained")
    axes = figure.add_subplot()
    labels: list[tuple[float, str, str]] = []
    seeds = []
    for number, (method, part) in enumerate(frame.groupby("method", sort=False)):
        colour = PALETTE[number % len(PALETTE)]
        places, grid = _curve(part, x, value)
        mean, (low, high) = grid.mean(axis=0), _band(grid, band)
        axes.fill_between(places, low, high, color=colour, alpha=0.16, linewidth=0)
        dashes, marker = MARKS[number // len(PALETTE) % len(MARKS)]
        axes.plot(places, mean, color=colour, linestyle=dashes, linewidth=1.8, marker=marker, markersize=3.5)
        labels.append((float(mean[-1]), plain(str(method)), colour))
        seeds.append(len(grid))
    for name, height in (lines or {}).items():
        axes.axhline(height, color=_GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        labels.append((height, plain(name), _GREY))
    _dress(axes, AXES[x], value, max(height for height, _, _ in labels))
    _label_ends(axes, labels)
    several = {"range": "range of the seeds", "interval": "95 % interval of the mean over seeds"}[band]
    count = f"{min(seeds)}" if min(seeds) == max(seeds) else f"{min(seeds)} to {max(seeds)}"
    caption = f"mean of {count} seeds, band: {several}" if max(seeds) > 1 else "one seed, no band"
    axes.set_title(f"{plain(title)}\n" if title else "", loc="left", fontsize=11, fontweight="bold")
    axes.text(0, 1.02, caption, transform=axes.transAxes, fontsize=8.5, color=_GREY)
    return figure


def _curve(part: pd.DataFrame, x: str, value: str) -> tuple[np.ndarray, np.ndarray]:
    """Places on the axis (mean over seeds) and values [seed, step], for the steps that all seeds have."""
    values = part.pivot(index="seed", columns="step", values=value).dropna(axis="columns")
    if values.empty:
        raise MissingDataError(f"{part.method.iloc[0]}: its seeds have no step in common")
    places = part[part.step.isin(values.columns)].groupby("step")[x].mean() if x != "step" else values.columns
    return np.asarray(places, dtype=np.float64), values.to_numpy(dtype=np.float64)


def _band(grid: np.ndarray, band: str) -> tuple[np.ndarray, np.ndarray]:
    seeds = len(grid)
    if band == "range" or seeds == 1:
        return grid.min(axis=0), grid.max(axis=0)
    half = stats.t.ppf(0.975, seeds - 1) * grid.std(axis=0, ddof=1) / math.sqrt(seeds)
    return np.clip(grid.mean(axis=0) - half, 0, None), grid.mean(axis=0) + half


def _dress(axes: Axes, xlabel: str, value: str, highest: float) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(VALUES.get(value, value))
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.01)
    bottom, top = axes.get_ylim()
    axes.set_ylim(min(bottom, 0.0) if bottom < 0.25 * top else bottom, max(top, highest))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def _label_ends(axes: Axes, labels: Sequence[tuple[float, str, str]]) -> None:
    """Names right of the axes at their lines' ends, pushed apart where they would touch; a hair line leads back."""
    bottom, top = axes.get_ylim()
    ordered = sorted(labels)
    ends = [(height - bottom) / (top - bottom) for height, _, _ in ordered]
    for place, end, (_, name, colour) in zip(spread(ends, _LABEL_GAP), ends, ordered, strict=True):
        axes.annotate(
            name,
            xy=(1.0, end),
            xytext=(1.035, place),
            xycoords="axes fraction",
            textcoords="axes fraction",
            va="center",
            fontsize=9,
            color=colour,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 0.7,
                "relpos": (0, 0.5),
                "shrinkA": 0,
                "shrinkB": 0,
            },
        )


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Sorted places moved as little as needed for neighbours to be `gap` apart (least squares, order kept).

    Neighbours that are too near form a block around the mean of what its members wanted; blocks that meet are merged
    (pool adjacent violators on place - index * gap).
    """
    blocks: list[list[float]] = []
    for index, place in enumerate(places):
        blocks.append([place - index * gap])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    flat = [float(np.mean(block)) for block in blocks for _ in block]
    return [shifted + index * gap for index, shifted in enumerate(flat)]


def plain(text: str) -> str:
    """Text from records as a label: one line of printable characters, none of which starts a formula."""
    return "".join(character if character.isprintable() else "·" for character in text).replace("$", r"\$")


def write_plot(figure: Figure, stem: str | Path) -> Path:
    """`stem`.svg, without a date: the same figure gives the same bytes under one matplotlib."""
    path, drawn = Path(f"{stem}.svg"), io.BytesIO()
    figure.draw_without_rendering()  # the constrained layout settles at its second pass only
    with matplotlib.rc_context({"svg.hashsalt": "sibling-harness"}):
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    write_whole(path, drawn.getvalue())
    return path
