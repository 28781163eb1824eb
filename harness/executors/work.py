"""What executors do: works, each in a process of its own somewhere; the runs of an experiment and the starts they begin
from, whoever executes them.

    class Executor:  do(works, title, console) -> what each gives, or the error it raised

`local` (processes of this machine), `ray` (tasks of a Ray cluster) and `slurm` (jobs of a batch system) differ in where
and when alone: the same spec leaves the same records.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from rich.console import Console

from harness.core import records
from harness.core.errors import DamagedRecordError
from harness.core.words import shown
from harness.executors import errands
from harness.executors.bars import TRAINING
from harness.executors.errands import Doing, Report
from harness.experiment import Experiment
from harness.learning.warm_start import for_every_seed, start_of, start_seeds, starts_at_hand
from harness.protocols.backend import Start
from harness.runs.beginning import Beginning, read_beginning
from harness.runs.job import run_beginning, run_job
from harness.runs.plan import Job


@dataclass(frozen=True)
class Work:
    """Something to be done in a process of its own: plain data, so that it can be sent there."""

    name: str
    do: Doing
    lasting: bool = False
    """Whether what it has done so far can be kept, so that the first Ctrl-C lets it come to such a place."""
    so_far: Callable[[], str] | None = None
    """What has come of it so far, in a few words, read from what it has left; asked where the work was sent from."""


@runtime_checkable
class Executor(Protocol):
    """Does works at once, as many as it has room for."""

    @abstractmethod
    def do(self, works: Sequence[Work], title: str, console: Console) -> list[Any]:
        """What each work gives, or the error it raised, in order; progress is shown on the console. Ctrl-C ends the
        workers, once those that last have come to where they can go on, and is raised again."""
        ...


def run_all(jobs: Sequence[Job], executor: Executor, console: Console) -> list[tuple[Job, str]]:
    """Do all jobs that are not done; returns those that failed and why. Every run can be continued; where the
    executor can, Ctrl-C lets every run finish its step and save, and once more ends the workers at once."""
    open_jobs = [job for job in jobs if not job.done]
    works = [Work(job.name, partial(_run, job), lasting=True, so_far=partial(success_so_far, job)) for job in open_jobs]
    try:
        done = executor.do(works, "all runs", console)
    except KeyboardInterrupt:
        console.print(kept(jobs), highlight=False, soft_wrap=True)
        raise
    outcomes = zip(open_jobs, done, strict=True)
    return [(job, f"{type(o).__name__}: {o}") for job, o in outcomes if isinstance(o, Exception)]


def repeat_beginnings(jobs: Sequence[Job], steps: int, executor: Executor, console: Console) -> list[Any]:
    """The first steps of every job, done in folders without a run: what each left (`harness.runs.beginning.Beginning`),
    or the error it raised, in order."""
    works = [Work(job.name, partial(_beginning, job, steps)) for job in jobs]
    return executor.do(works, "all rows", console)


def success_so_far(job: Job) -> str:
    """The last point of a run's learning curve with its 95 % interval over tasks (Wilson, 1927), or the sampled success
    of its panel once it is finished; empty before there is either."""
    rows = _rows(job.folder / "rows.jsonl") if job.done else _rows(job.folder / "curve.jsonl")
    if job.done:
        sampled = [
            row["success"] for row in rows if row.get("decoding") == "sampled" and row.get("success") is not None
        ]
        rate, tasks = (sum(sampled) / len(sampled), len(sampled)) if sampled else (None, 0)
    else:
        rate, tasks = (rows[-1].get("sampled"), len(rows[-1].get("tasks", ""))) if rows else (None, 0)
    if rate is None or not tasks:
        return ""
    low, high = _wilson(float(rate), tasks)
    return f"success {rate:.2f} [{low:.2f}, {high:.2f}]"


def _wilson(rate: float, n: int, z: float = 1.96) -> tuple[float, float]:
    middle, spread = rate + z * z / (2 * n), z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return (middle - spread) / (1 + z * z / n), (middle + spread) / (1 + z * z / n)


def _rows(file: Path) -> list[dict[str, Any]]:
    """What can be read of a log that is being written."""
    try:
        return list(records.read(file).rows) if file.is_file() else []
    except (OSError, DamagedRecordError):
        return []


def kept(jobs: Sequence[Job]) -> str:
    """What an interruption leaves, and how to go on, in a line."""
    finished = sum(job.done for job in jobs)
    begun = [job for job in jobs if not job.done and any(job.folder.glob("checkpoint-*"))]
    return (
        f"kept: {finished} finished runs of {len(jobs)}, and {len(begun)} at their last checkpoint, under "
        f"{shown(jobs[0].folder.parent)}; the same command goes on with them"
    )


def make_starts(experiment: Experiment, cache: Path, executor: Executor, console: Console) -> dict[int, Start]:
    """The start of every seed; those that are not in the cache are made at once, and Ctrl-C leaves the finished ones.
    The first error of one that could not be made is raised."""
    seeds = start_seeds(experiment)
    made = starts_at_hand(experiment, cache, seeds)
    missing = [seed for seed in seeds if seed not in made]
    works = [Work(f"start, seed {seed}", partial(_start, experiment, cache, seed)) for seed in missing]
    for seed, outcome in zip(missing, executor.do(works, "all starts", console), strict=True):
        if isinstance(outcome, Exception):
            raise outcome
        made[seed] = outcome
    return for_every_seed(experiment, made)


def _run(job: Job, report: Report) -> None:
    run_job(job, report, errands.stopping)


def _beginning(job: Job, steps: int, report: Report) -> Beginning:
    def of_these(what: str, done: int, total: int) -> None:
        report(what, done, min(steps, total) if what == TRAINING else total)

    run_beginning(job, steps, of_these)
    return read_beginning(job, steps)


def _start(experiment: Experiment, cache: Path, seed: int, report: Report) -> Start:
    return start_of(experiment, cache, report, seed)
