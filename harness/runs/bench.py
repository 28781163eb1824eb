"""An experiment from its spec to its table: which runs it needs, as many at once as there are cores, and what is written of them.

Work lives under `runs/`, one folder a run, named by what decides its result; a table under `results/` is a function of those records. A run that
is finished is never run again, a run that was killed goes on from its last checkpoint.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tomli_w

from harness.core import records
from harness.core.errors import DamagedRecordError, HarnessError, UserError
from harness.rollout.panel import judged_tasks, play_panel, task_rows, tasks_of
from harness.experiment.settings import Experiment, MethodSettings, fingerprint
from harness.core.plugs import construct
from harness.core.provenance import provenance
from harness.rollout.rollouts import Rollouts, TextSpeaker
from harness.core.seeds import SeedTree
from harness.core.sources import revision
from harness.learning.warm_start import Start
from harness.rollout.environments import EnvironmentPool

BASE = MethodSettings(label="base", plug="")
REFERENCES = (
    MethodSettings(label="do-nothing", plug="agents.policies.reference:DoNothing"),
    MethodSettings(label="gold", plug="agents.policies.reference:Gold"),
)
Progress = Callable[[str, int, int], None]
Role = Literal["base", "method", "reference"]


@dataclass(frozen=True)
class Job:
    """One run to be had: plain data, so that it can be sent to another process."""

    experiment: Experiment
    start: Start
    role: Role
    method: MethodSettings
    seed: int
    matched: dict[str, Any]
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.method.label}, seed {self.seed}"

    @property
    def done(self) -> bool:
        return (self.folder / "done.json").is_file()


def plan(experiment: Experiment, start: Start, root: Path) -> list[Job]:
    """All runs of an experiment: the starting point and the methods under every seed, the reference policies once."""
    matched = observe(experiment, start)
    key = fingerprint(matched)[:12]
    base = root / slug(experiment.name) / key
    jobs: list[Job] = []
    wanted: list[tuple[Role, MethodSettings, Sequence[int]]] = [("base", BASE, experiment.seeds)]
    wanted += [("method", method, experiment.seeds) for method in experiment.methods]
    wanted += [("reference", policy, experiment.seeds[:1]) for policy in REFERENCES]
    for role, method, seeds in wanted:
        own = fingerprint(
            [role, method.plug, method.options, _plug_revision(method), _context_of(experiment, method, role)]
        )[:8]
        for seed in seeds:
            folder = base / f"{slug(method.label)}-{own}-seed{seed}"
            jobs.append(Job(experiment, start, role, method, seed, matched, folder))
    return jobs


def observe(experiment: Experiment, start: Start) -> dict[str, Any]:
    """The matched facts of an experiment: its spec, and what was found out about tasks, environment, weights and code."""
    settings = experiment.environment
    with EnvironmentPool(settings) as pool:
        facts = pool.facts
        tasks = tasks_of(facts, settings.train_split)
        if not facts.trainable(settings.train_split):
            raise UserError(f"split {settings.train_split!r} of {settings.id} may not be trained on")
        judged = judged_tasks(facts, experiment)
        shared = sorted(set(tasks) & set(judged))
        if shared:
            raise UserError(f"task {shared[0]!r} is trained on and judged on: the splits must be disjoint")
        return experiment.matched_facts(
            **{
                "environment.version": facts.version,
                "environment.protocol": getattr(facts, "protocol", None),
                "tasks.train": fingerprint(tasks)[:16],
                "tasks.panel": fingerprint(judged)[:16],
                "initial_checkpoint": start.checkpoint_hash[:16],
                "code": revision("harness.learning.train", experiment.backend.partition(":")[0], type(facts).__module__)[:16],
            }
        )


def _plug_revision(method: MethodSettings) -> str:
    return revision(method.plug.partition(":")[0]) if method.plug else ""


def _context_of(experiment: Experiment, method: MethodSettings, role: Role) -> str | None:
    """The plug of the experiment's context source where this row's teacher reads it."""
    if role != "method" or experiment.context is None:
        return None
    made = construct(method.plug, method.options, "method")
    return None if made.needs.teacher == "none" or hasattr(made, "context") else experiment.context


def slug(label: str) -> str:
    """A label as a folder's name."""
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-") or "run"


# ---------------------------------------------------------------- one run


def run_job(job: Job, progress: Progress) -> None:
    """Do one run, or go on with it; at most one process at a time."""
    from harness.learning.train import Run, final_evaluation, finish, train

    with _alone(job.folder):
        if job.done:
            return
        if not (job.folder / "run.json").is_file():
            records.write_json(job.folder / "run.json", describe(job) | {"provenance": provenance()})
        run = Run(job.experiment, job.method, job.seed, job.start, job.folder, progress)
        with run.pool:
            if job.role == "method":
                train(run)
            elif job.role == "base":
                final_evaluation(run)
            else:
                finish(job.folder, _reference_rows(job, run.pool), {})


def _reference_rows(job: Job, pool: EnvironmentPool) -> list[dict[str, Any]]:
    """A policy that neither samples nor learns: one episode a task."""
    settings = job.experiment
    tasks = judged_tasks(pool.facts, settings)
    speaker = TextSpeaker(construct(job.method.plug, {}, "policy"))
    episodes = play_panel(Rollouts(pool), speaker, tasks, SeedTree(job.seed)["evaluation"], "greedy", 1)
    return task_rows(episodes, "greedy", settings.environment.eval_split)


def describe(job: Job) -> dict[str, Any]:
    """A run's facts for a table (`harness.tables.records.Run` without its budget)."""
    facts: dict[str, Any] = {
        "method": job.method.label,
        "seed": job.seed,
        "role": job.role,
        "plug": job.method.plug,
        "options": job.method.options,
        "exploratory": job.method.exploratory,
        "matched": job.matched,
    }
    if job.role != "method":
        return facts
    made = construct(job.method.plug, job.method.options, "method")
    kl = getattr(made, "static_kl", getattr(made, "kl", 0.0))
    facts |= {
        "kl": kl,
        "mixed_groups": job.experiment.sampling.mixed_groups,
        "notes": list(getattr(made, "table_notes", ())),
    }
    if made.needs.teacher != "none":
        source = _context_of(job.experiment, job.method, job.role)
        facts["context"] = getattr(made, "context_name", None) or (
            construct(source, {}, "context source").name if source else "the method's own"
        )
        measured = job.start.measured.get("contexts", {}).values()
        known = next((entry for entry in measured if entry["name"] == facts["context"]), None)
        if known is not None and known["teacher_adds_nothing"]:
            facts["notes"].append(f"teacher adds nothing: its context gains the start {known['adds']:+.3f} success")
    if getattr(made, "summariser_name", None):
        facts["summariser"] = made.summariser_name
    return facts


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a run's folder; the lock goes with the process, however that ends."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HarnessError(f"another process is working on {folder.name}; wait for it, or end it") from None
        yield
    finally:
        os.close(handle)


# ---------------------------------------------------------------- what is written


def gather_records(
    jobs: Sequence[Job], allow_missing: bool = False
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """Runs, evaluation rows and learning-curve points of finished jobs, in the jobs' order.

    Raises DamagedRecordError naming file and line of a row that cannot be read; with `allow_missing` the rows that can be are used, and the
    run's notes name the others.
    """
    from harness.learning.train import wall_seconds

    runs, rows, points = [], [], []
    for job in jobs:
        if not job.done:
            continue
        facts = describe(job)
        reading = records.read(job.folder / "rows.jsonl")
        if reading.damaged and not allow_missing:
            raise DamagedRecordError(
                f"{'; '.join(map(str, reading.damaged))}; the other runs are whole: remove done.json beside it and run the experiment "
                "again to evaluate this one anew, or allow missing results"
            )
        damage = [f"damaged and left out: {where}" for where in reading.damaged]
        notes = list(facts.get("notes", [])) + run_notes(job) + damage
        budget = json.loads((job.folder / "done.json").read_text())
        runs.append(facts | {"notes": notes, "budget": budget | {"wall_s": _known(wall_seconds(job.folder))}})
        name = {"method": job.method.label, "seed": job.seed}
        rows += [name | {"matched": fingerprint(job.matched)} | row for row in reading.rows]
        if (job.folder / "curve.jsonl").is_file():
            by_step = {row["step"]: row for row in records.read(job.folder / "curve.jsonl").rows}
            points += [name | by_step[step] for step in sorted(by_step)]
    return runs, rows, points


def _known(value: float) -> float | None:
    return None if value != value else value


def run_notes(job: Job) -> list[str]:
    """What a reader of the row has to know of how the run went, from its own log: whether the method's credit was worth its name, and how
    much of the gradient its terms beside the surrogate had."""
    file = job.folder / "steps.jsonl"
    if not file.is_file():
        return []
    rows = list({row["step"]: row for row in records.read(file).rows}.values())
    prefix = "method/"
    history = [
        {
            key.removeprefix(prefix): math.nan if value is None else value
            for key, value in row.items()
            if key.startswith(prefix)
        }
        for row in rows
    ]
    judge = getattr(construct(job.method.plug, job.method.options, "method"), "verdict", None)
    verdict = judge([entry for entry in history if entry]) if judge else None
    return ([verdict] if verdict else []) + _term_shares(rows)


def _term_shares(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Gradient norm of each term beside the surrogate's, where they were measured."""
    said = []
    for term in ("likelihood", "anchor", "distillation"):
        shares = [
            row[f"gradient/{term}"] / row["gradient/surrogate"]
            for row in rows
            if row.get("gradient/surrogate") and row.get(f"gradient/{term}") is not None
        ]
        if shares:
            said.append(f"{term} term: {statistics.median(shares):.2g} of the surrogate's gradient norm")
    return said


def write_spec(experiment: Experiment, file: Path) -> None:
    """The spec as TOML, readable again to the same experiment."""
    data = json.loads(experiment.model_dump_json(exclude_none=True))
    records.write_whole(file, tomli_w.dumps(data))


def write_results(
    experiment: Experiment, jobs: Sequence[Job], start: Start, out: Path, allow_missing: bool = False
) -> Any:
    """Everything a results folder holds, from the records of the jobs; returns the table."""
    from harness.report import plots as report
    from harness.report.files import write_table
    from harness.tables import table as tables

    runs, rows, points = gather_records(jobs, allow_missing)
    table = tables.build(
        runs,
        rows,
        experiment.title or experiment.name,
        experiment.seeds,
        extra=experiment.evaluation.extra,
        allow_missing=allow_missing,
    )
    out.mkdir(parents=True, exist_ok=True)
    write_table(table, out)
    records.write_rows(out / "rows.jsonl", rows, "rows")
    # What differs from one call to the next (times, machine) stands apart from what may not.
    records.write_rows(
        out / "runs.jsonl",
        [run | {"budget": {k: v for k, v in run["budget"].items() if k != "wall_s"}} for run in runs],
        "runs",
    )
    records.write_json(
        out / "provenance.json", provenance() | {"start": start.measured, "initial_checkpoint": start.checkpoint_hash}
    )
    if points:
        records.write_rows(out / "curve.jsonl", points, "curve")
        title = experiment.title or experiment.name
        for decoding in ("sampled", "greedy"):
            figure = report.learning_curves(points, value=decoding, title=title)
            report.write_plot(figure, out / f"curve-{decoding}")
    sample = [
        job.folder / "episodes.jsonl.gz" for job in jobs if job.role == "method" and job.seed == experiment.seeds[0]
    ]
    for file, job in zip(
        sample, [j for j in jobs if j.role == "method" and j.seed == experiment.seeds[0]], strict=True
    ):
        if file.is_file():
            records.write_whole(out / "episodes" / f"{slug(job.method.label)}.jsonl.gz", file.read_bytes())
    return table
