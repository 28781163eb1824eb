"""The record of a search beside a spec, and what it says: the settings that won, and the best of k trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from harness.core import records
from harness.core.errors import MissingDataError, UnmatchedError
from harness.core.sums import require_whole
from harness.experiment import Experiment, read_experiment
from harness.experiment.search import search_facts, with_tuned
from harness.report.files import seal_results
from harness.report.plots import MARKS, PALETTE, plain
from harness.tables.grid import Grid
from harness.tables.search import Tried, best_of, chosen, tried

TRIALS = "trials.jsonl.gz"


def write_trials(experiment: Experiment, rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """The record of a search, and the declaration that it belongs to."""
    folder.mkdir(parents=True, exist_ok=True)
    records.write_rows(folder / TRIALS, rows, "trials", search=search_facts(experiment))
    seal_results(folder, [TRIALS])


def read_trials(experiment: Experiment, folder: Path) -> list[dict[str, Any]]:
    """The recorded trials of an experiment's search.

    MissingDataError where there are none, UnmatchedError where they are of a search that was declared otherwise.
    """
    file = folder / TRIALS
    if not file.is_file():
        raise MissingDataError(f"{folder} holds no {TRIALS}: make it with: harness tune {folder}")
    require_whole(folder, f"take it back from where the folder came from, or: harness tune {folder}", [TRIALS])
    reading = records.read(file)
    if reading.header.get("search") != search_facts(experiment):
        raise UnmatchedError(
            f"{file} is the record of another search than the spec declares; make it anew with: harness tune {folder}"
        )
    return reading.strict()


def with_winners(experiment: Experiment, rows: Sequence[Mapping[str, Any]]) -> Experiment:
    """The experiment with a tuned row beside every row that was searched."""
    return with_tuned(experiment, {method: chosen(trials).settings for method, trials in tried(rows).items()})


def experiment_of(folder: Path) -> Experiment:
    """The experiment of a results folder as it was run: its spec, and the rows that its search added."""
    experiment = read_experiment(folder / "spec.toml")
    return with_winners(experiment, read_trials(experiment, folder)) if experiment.search else experiment


def search_grid(experiment: Experiment, rows: Sequence[Mapping[str, Any]]) -> Grid:
    """One line a row: what won, and the expected best score of k of its trials."""
    found = tried(rows)
    counts = _counts(max(map(len, found.values()), default=1))
    lines = tuple((method, _settings(chosen(of)), *_cells(of, counts)) for method, of in found.items())
    search = experiment.search
    notes: tuple[str, ...] = ()
    if search is not None:
        what = {"area": "mean height of the learning curve", "final": "success at the end"}[search.rule]
        notes = (
            f"Search: {search.trials} trials of every row on split {search.split}, tuning seeds "
            f"{', '.join(map(str, search.seeds))}; score: {what}, sampled, mean over the seeds.",
            "k: expected best score of k trials, drawn from those that were made.",
        )
    return Grid("Search", ("Row", "Chosen", *(f"k = {k}" for k in counts)), lines, notes, left=2)


def best_of_k(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """The expected best score of k trials, a line for every row."""
    figure = Figure(figsize=(7.2, 4.2), dpi=160, layout="constrained")
    axes = figure.add_subplot()
    for number, (method, of) in enumerate(tried(rows).items()):
        scores = [trial.score for trial in of]
        places = range(1, len(of) + 1)
        dashes, marker = MARKS[number // len(PALETTE) % len(MARKS)]
        heights = [best_of(scores, k) for k in places]
        colour = PALETTE[number % len(PALETTE)]
        axes.plot(places, heights, color=colour, linestyle=dashes, marker=marker, markersize=3.5, label=plain(method))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.set_xlabel("Trials")
    axes.set_ylabel("Expected best score")
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.legend(frameon=False, fontsize=9)
    return figure


def _counts(most: int) -> list[int]:
    """1, 2, 4, ... and the last."""
    return sorted({*(2**n for n in range(most.bit_length()) if 2**n <= most), most})


def _cells(trials: Sequence[Tried], counts: Sequence[int]) -> list[str]:
    scores = [trial.score for trial in trials]
    return [f"{best_of(scores, k):.3f}" if k <= len(scores) else "-" for k in counts]


def _settings(trial: Tried) -> str:
    return ", ".join(
        f"{name} = {value:g}" if isinstance(value, float) else f"{name} = {value}"
        for name, value in trial.settings.items()
    )
