"""A results folder: written from the records of finished runs, and rendered again from the records it holds.

    spec.toml          the experiment                    table.md, .csv, .tex, .html    the table
    runs.jsonl.gz      what was run                      curve-*.svg                    learning curves
    rows.jsonl.gz      how it did on every task          episodes/                      a sample of episodes
    curve.jsonl.gz     points of learning curves         provenance.json                machine, versions, wall time
    steps.jsonl.gz     diagnostics of every step, over the seeds
    first-steps.jsonl.gz   the first steps of the first seed, as they were logged
    certified.json     that later code repeats the records, where somebody had it repeat them
    SHA256SUMS         checksums of all but the spec

Everything but the records themselves is a function of them: `render` makes the same bytes again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.core import records
from harness.core.errors import MissingDataError, UnmatchedError
from harness.core.fingerprint import fingerprint, slug
from harness.core.provenance import provenance
from harness.core.shipped import results
from harness.core.sums import require_whole
from harness.experiment import Experiment
from harness.protocols.backend import Start
from harness.report import plots
from harness.report.certificate import CERTIFIED, certified_by, read_certificate
from harness.report.files import RENDERED, seal_results, sealable, write_table
from harness.report.search import TRIALS, best_of_k, experiment_of, read_trials, search_grid
from harness.runs.beginning import first_steps
from harness.runs.paper import read_paper
from harness.runs.plan import Job, code_of_plug, code_revision
from harness.runs.record import Records, gather_records
from harness.runs.steps import logs_of_beginnings, logs_of_jobs, step_summary
from harness.tables.grid import Grid
from harness.tables.published import parse, quoted_beside
from harness.tables.table import Table, build

PUBLISHED = results() / "published.toml"
RUNS, ROWS, POINTS = "runs.jsonl.gz", "rows.jsonl.gz", "curve.jsonl.gz"
PROVENANCE, STEPS, FIRST_STEPS = "provenance.json", "steps.jsonl.gz", "first-steps.jsonl.gz"
REMEDY = "take the file back from where the folder came from, or make the records anew with: harness bench {}"
DECODINGS = ("sampled", "greedy")


def write_results(
    experiment: Experiment, jobs: Sequence[Job], starts: Mapping[int, Start], out: Path, allow_missing: bool = False
) -> Table:
    """Everything a results folder holds, from the records of the jobs; returns the table.

    What is damaged is left out, and the table's heading says so (`Table.damaged`).
    """
    found = gather_records(jobs, allow_missing=True)
    table = build_table(experiment, found, allow_missing)  # before anything is written: it may refuse
    out.mkdir(parents=True, exist_ok=True)
    write_records(found, out)
    if summary := step_summary(logs_of_jobs(jobs)):
        records.write_rows(out / STEPS, summary, "step summary")
    if logged := logs_of_beginnings(jobs, experiment.seeds[0], first_steps(experiment)):
        records.write_rows(out / FIRST_STEPS, logged, "steps")
    (out / CERTIFIED).unlink(missing_ok=True)  # it was of the records that stood here before
    of_starts = {
        str(seed): {"initial_checkpoint": start.checkpoint_hash, "measured": start.measured}
        for seed, start in starts.items()
    }
    measured = {"starts": of_starts, "wall_s": found.wall_s}
    records.write_json(out / PROVENANCE, provenance() | measured)
    _write_renderings(experiment, table, found, out)
    _copy_episodes(experiment, jobs, out, found)
    seal_results(out, [name for name in sealable(out) if name != TRIALS])
    return table


def build_table(experiment: Experiment, found: Records, allow_missing: bool = False) -> Table:
    """The table of an experiment from its records; a historical one is marked so, as are damaged records, which may
    be missing."""
    allow_missing = allow_missing or bool(found.damaged)
    runs = [run | {"budget": run["budget"] | _wall(found, run)} for run in found.runs]
    title = experiment.title or experiment.name
    _check_rows(experiment, found, allow_missing)
    extra = experiment.evaluation.extra
    table = build(
        runs, found.rows, title, experiment.seeds, extra=extra, allow_missing=allow_missing, points=found.points
    )
    old = historical(found.runs)
    standing = None if old is None else certified_by(found.certificate, found.runs)
    return replace(
        table,
        historical=old if standing is None else None,
        certified=standing,
        damaged=tuple(found.damaged),
        remedy=found.remedy,
    )


def _check_rows(experiment: Experiment, found: Records, allow_missing: bool) -> None:
    """MissingDataError for a method of the spec without a run: a row is never dropped in silence. A run whose plug or
    options the spec has changed since is another method's."""
    for wanted in experiment.methods:
        runs = [run for run in found.runs if run["method"] == wanted.label]
        changed = next((run for run in runs if (run["plug"], run["options"]) != (wanted.plug, wanted.options)), None)
        if changed is not None:
            was = f"{changed['plug']} with options {changed['options']}"
            raise UnmatchedError(
                f"{wanted.label} was recorded as {was}, the spec says {wanted.plug} with options {wanted.options}; "
                "run the experiment again"
            )
        turned = next((run for run in runs if run.get("exploratory", False) != wanted.exploratory), None)
        if turned is not None:
            was, now = ("exploratory" if flag else "tested" for flag in (turned["exploratory"], wanted.exploratory))
            raise UnmatchedError(
                f"{wanted.label} was run as {was}, the spec now says {now}: a row is declared so before its result is "
                "known; write the flag as it was, or run the row again under another label"
            )
        if found.runs and not runs and not allow_missing:
            raise MissingDataError(f"no run of {wanted.label!r}; run the experiment, or allow missing results")


def _wall(found: Records, run: dict[str, Any]) -> dict[str, float]:
    """The mean of a row's seeds: a table shows no more."""
    seconds = found.wall_s.get(run["method"])
    return {"wall_s": sum(seconds) / len(seconds)} if seconds else {}


def historical(runs: Sequence[dict[str, Any]]) -> str | None:
    """The code revision that recorded these runs, where the code that they would run today is another; None where
    they are current.

    Records that do not name the modules of their code are older than the fingerprints of today, and historical.
    """
    if not runs:
        return None
    recorded = str(runs[0]["matched"].get("code"))
    sources = runs[0].get("sources") or ()
    plugs = {(run["plug"], run.get("code", "")) for run in runs if run["plug"]}
    unchanged = all(code_of_plug(plug) == code for plug, code in plugs)
    return None if sources and code_revision(sources) == recorded and unchanged else recorded


# ---------------------------------------------------------------- records


def write_records(found: Records, folder: Path) -> None:
    """Runs, rows and points, compressed; what all runs share stands once, in the header."""
    matched = found.runs[0]["matched"] if found.runs else {}
    runs = [{key: value for key, value in run.items() if key != "matched"} for run in found.runs]
    rows = [{key: value for key, value in row.items() if key != "matched"} for row in found.rows]
    damaged = {"damaged": found.damaged} if found.damaged else {}
    records.write_rows(folder / RUNS, runs, "runs", matched=matched, **damaged)
    records.write_rows(folder / ROWS, rows, "rows", matched=fingerprint(matched))
    if found.points:
        records.write_rows(folder / POINTS, found.points, "curve")


def read_records(folder: Path, certified: bool = True) -> Records:
    """The records of a results folder, and their certificate where `certified` asks for it. MissingDataError where it
    holds none, DamagedRecordError where they are not those that were written."""
    if not (folder / RUNS).is_file():
        raise MissingDataError(f"{folder} holds no records ({RUNS}): run its experiment with: harness bench {folder}")
    require_whole(folder, REMEDY.format(folder), (RUNS, ROWS, POINTS, PROVENANCE))
    runs, rows = records.read(folder / RUNS), records.read(folder / ROWS)
    points = records.read(folder / POINTS).strict() if (folder / POINTS).is_file() else []
    known = records.read_json(folder / PROVENANCE) if (folder / PROVENANCE).is_file() else {}
    return Records(
        [{"matched": runs.header["matched"]} | run for run in runs.strict()],
        [{"matched": rows.header["matched"]} | row for row in rows.strict()],
        points,
        known.get("wall_s", {}),
        list(runs.header.get("damaged", [])),
        certificate=read_certificate(folder) if certified else {},
    )


# ---------------------------------------------------------------- renderings


def render(folder: Path) -> Table:
    """Write a results folder's tables and plots anew from its records; returns the table."""
    experiment, found = experiment_of(folder), read_records(folder)
    table = build_table(experiment, found)
    _write_renderings(experiment, table, found, folder)
    seal_results(folder, [name for name in sealable(folder) if Path(name).suffix in RENDERED])
    return table


def _write_renderings(experiment: Experiment, table: Table, found: Records, out: Path) -> None:
    rows = read_trials(experiment, out) if (out / TRIALS).is_file() else []
    write_table(table, out, [*([search_grid(experiment, rows)] if rows else []), *quoted(table, out)])
    if rows:
        plots.write_plot(best_of_k(rows), out / "best-of-k")
    for decoding in DECODINGS if found.points else ():
        title = experiment.title or experiment.name
        plots.write_plot(plots.learning_curves(found.points, value=decoding, title=title), out / f"curve-{decoding}")


def quoted(table: Table, place: Path) -> list[Grid]:
    """The papers' figures that the `paper.toml` in a folder asks for, to stand below its table."""
    quotes = read_paper(place).quote
    return quoted_beside(table, quotes, parse(PUBLISHED.read_text(encoding="utf-8"))) if quotes else []


def _copy_episodes(experiment: Experiment, jobs: Sequence[Job], out: Path, found: Records) -> None:
    """A sample of episodes of every method, of the first seed, but for a damaged one; none of an earlier record."""
    for earlier in (out / "episodes").glob("*.jsonl.gz"):
        earlier.unlink()
    for job in jobs:
        file = job.folder / "episodes.jsonl.gz"
        hurt = any(where.startswith(f"{job.folder.name}/{file.name}") for where in found.damaged)
        if job.role == "method" and job.seed == experiment.seeds[0] and file.is_file() and not hurt:
            records.write_whole(out / "episodes" / f"{slug(job.method.label)}.jsonl.gz", file.read_bytes())
