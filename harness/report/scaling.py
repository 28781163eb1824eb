"""A family of experiments that differ in one setting: steps to a fixed success against that setting, as a table and a
figure.

A folder of results folders declares it in `scaling.toml`:

    title = "Bifurcation-v0: steps to success against horizon"
    by = "environment.options.horizon"      # the setting that differs, as the specs name it
    label = "Turns"                         # its name on the axis
    success = 0.7                           # what has to be reached
    decoding = "sampled"
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from pydantic import ValidationError

from harness.core.errors import MissingDataError, UserError
from harness.core.fingerprint import flatten
from harness.core.records import write_whole
from harness.experiment import Settings, read_experiment
from harness.report import folder
from harness.report.escaping import markdown as escaped
from harness.report.markdown import grid_markdown
from harness.report.plots import MARKS, PALETTE, plain, write_plot
from harness.tables.grid import NOTHING, Grid
from harness.tables.scaling import Speed, speeds

DECLARATION, FIGURE = "scaling.toml", "scaling"


class Scaling(Settings):
    """What a family of experiments is compared by."""

    title: str
    by: str
    """The setting that differs, with dots: `environment.options.horizon`."""
    label: str
    success: float
    decoding: str = "sampled"


def read_scaling(place: Path) -> Scaling:
    """The declaration of a folder. UserError where it cannot be read."""
    file = place / DECLARATION
    try:
        return Scaling.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, ValidationError) as error:
        raise UserError(f"{file}: {error}") from None


def write_scaling(place: Path, declared: Path | None = None) -> Path:
    """`scaling.md` and `scaling.svg` of the results folders in `place`; returns the table's path.

    declared: the folder that holds the declaration, where that is another one. MissingDataError where no folder holds
    records with the setting.
    """
    scaling = read_scaling(declared or place)
    found = measure(scaling, sorted(file.parent for file in place.glob(f"*/{folder.RUNS}")), declared)
    write_plot(scaling_figure(found, scaling), place / FIGURE)
    lines = [
        f"Steps until success ({scaling.decoding}) first reaches {scaling.success:g}, on straight lines between "
        "the points of the learning curve: mean over seeds with a 95 % interval.",
        "A seed that does not get there counts with the whole budget; how many got there stands behind.",
    ]
    text = "\n".join(f"- {escaped(line)}" for line in lines)
    table = f"# {escaped(scaling.title)}\n\n{text}\n\n![{escaped(scaling.title)}]({FIGURE}.svg)\n\n"
    write_whole(place / f"{FIGURE}.md", table + grid_markdown(scaling_grid(found, scaling)) + "\n")
    return place / f"{FIGURE}.md"


def measure(scaling: Scaling, folders: Iterable[Path], declared: Path | None = None) -> list[Speed]:
    """The speeds of every method in every folder, by place on the axis."""
    found: list[Speed] = []
    for held in folders:
        spec = (declared / held.name if declared else held) / "spec.toml"
        place = flatten(read_experiment(spec).model_dump()).get(scaling.by)
        if not isinstance(place, int | float):
            raise UserError(f"{spec}: {scaling.by} is {place!r}, not a number to put on an axis")
        found += speeds(folder.read_records(held).points, float(place), scaling.success, scaling.decoding)
    if not found:
        raise MissingDataError("no results folder with records: run the family with: harness bench FOLDER")
    return sorted(found, key=lambda speed: speed.place)


def scaling_grid(found: Sequence[Speed], scaling: Scaling) -> Grid:
    """One line a method, one column a place of the axis."""
    places = sorted({speed.place for speed in found})
    methods = list(dict.fromkeys(speed.method for speed in found))
    cells = {(speed.method, speed.place): speed for speed in found}
    header = ("Method", *(f"{scaling.label} {place:g}" for place in places))
    rows = tuple(
        (method, *(_cell(cells[method, place]) if (method, place) in cells else NOTHING for place in places))
        for method in methods
    )
    return Grid(f"Steps to success {scaling.success:g}", header, rows)


def _cell(speed: Speed) -> str:
    if not speed.reached:
        return f"> {speed.budget:g} (0 of {speed.seeds})"
    return f"{speed.steps:.1f} [{speed.low:.1f}, {speed.high:.1f}] ({speed.reached} of {speed.seeds})"


def scaling_figure(found: Sequence[Speed], scaling: Scaling) -> Figure:
    """Steps against the setting, one line a method; hollow marks where not every seed got there."""
    figure = Figure(figsize=(7.2, 4.4), dpi=160, layout="constrained")
    axes = figure.add_subplot()
    methods = list(dict.fromkeys(speed.method for speed in found))
    values = sorted({speed.place for speed in found})
    beside = 0.007 * (values[-1] - values[0])  # intervals of rows stand side by side
    for number, method in enumerate(methods):
        own = [speed for speed in found if speed.method == method]
        colour, (dashes, marker) = PALETTE[number % len(PALETTE)], MARKS[number // len(PALETTE) % len(MARKS)]
        aside = beside * (number - (len(methods) - 1) / 2)
        places, steps = [speed.place + aside for speed in own], [speed.steps for speed in own]
        errors = [[s.steps - s.low for s in own], [s.high - s.steps for s in own]]
        axes.errorbar(places, steps, yerr=errors, color=colour, linestyle=dashes, linewidth=1.6, capsize=2.5)
        for speed, place in zip(own, places, strict=True):
            filled = colour if speed.reached == speed.seeds else "white"
            axes.plot([place], [speed.steps], marker=marker, color=colour, markerfacecolor=filled, markersize=5)
        axes.plot([], [], color=colour, linestyle=dashes, marker=marker, label=plain(method))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.set_xticks(values)
    axes.set_xlabel(scaling.label)
    axes.set_ylabel(f"Optimiser steps to success {scaling.success:g}")
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_ylim(bottom=0)
    figure.suptitle(plain(scaling.title), x=0.01, ha="left", fontsize=11, fontweight="bold")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=8.5, frameon=False)
    return figure
