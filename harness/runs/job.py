"""One run, done or gone on with, by at most one process at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock

from harness.core import records
from harness.core.errors import HarnessError
from harness.core.provenance import provenance
from harness.core.seeds import SeedTree
from harness.learning.judging import final_evaluation, finish
from harness.learning.run import Progress, Run
from harness.learning.train import train
from harness.protocols.policy import make_policy
from harness.rollout.environments import EnvironmentPool
from harness.rollout.panel import panel_rows, play_panel
from harness.rollout.policies import MessagePolicy
from harness.rollout.rollouts import Rollouts
from harness.runs.plan import Job
from harness.runs.record import describe


def run_job(job: Job, progress: Progress) -> None:
    """Do one run, or go on with it."""
    with _alone(job.folder):
        if job.done:
            return
        if not (job.folder / "run.json").is_file():
            records.write_json(job.folder / "run.json", describe(job) | {"provenance": provenance()})
        run = Run(job.experiment, job.method, job.seed, job.start, job.folder, job.judged, progress)
        with run.pool, contextlib.closing(run):
            if job.role == "method":
                train(run)
            elif job.role == "base":
                final_evaluation(run)
            else:
                finish(job.folder, _baseline_rows(job, run.pool), {})


def _baseline_rows(job: Job, pool: EnvironmentPool) -> list[dict[str, Any]]:
    """A policy that neither samples nor learns: one episode a task."""
    settings = job.experiment
    policy = MessagePolicy(make_policy(job.method.plug, job.method.options))
    episodes = play_panel(Rollouts(pool), policy, job.judged.tasks, SeedTree(job.seed)["evaluation"], "greedy", 1)
    return panel_rows(episodes, "greedy", settings.environment.eval_split, job.judged, pool.environment)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a run's folder; the lock goes with the process, however that ends."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / ".lock")
    try:
        with lock.acquire(blocking=False):
            yield
    except filelock.Timeout:
        raise HarnessError(f"another process is working on {folder.name}; wait for it, or end it") from None
    except IsADirectoryError:
        raise HarnessError(
            f"{folder / '.lock'} is a folder where a lock file belongs; remove it and call again"
        ) from None
