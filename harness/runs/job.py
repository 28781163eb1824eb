"""One run, done or gone on with, by at most one process at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from harness.core import records
from harness.core.errors import DamagedRecordError
from harness.core.locks import locked
from harness.core.provenance import provenance
from harness.core.seeds import SeedTree
from harness.learning.judging import curve_point, final_evaluation, finish
from harness.learning.run import Progress, Run, Stopped, named
from harness.learning.train import train
from harness.protocols.policy import make_policy
from harness.rollout.environments import EnvironmentPool
from harness.rollout.panel import panel_rows, play_panel
from harness.rollout.policies import MessagePolicy
from harness.rollout.rollouts import Rollouts
from harness.runs.plan import Job
from harness.runs.record import describe


def run_job(job: Job, progress: Progress, stopping: Callable[[], bool] = lambda: False) -> None:
    """Do one run, or go on with it. stopping: whether to stop at the next step (`harness.learning.run.Stopped`)."""
    busy = f"another process is working on {job.folder.name}; wait for it, or end it"
    with locked(job.folder / ".lock", busy):
        if job.done:
            return
        _begin(job)
        run = Run(job.experiment, job.method, job.seed, job.start, job.folder, job.judged, progress)
        run.decided_by, run.stopping = job.decided_by, stopping
        with run.pool, contextlib.closing(run):
            if job.role == "method":
                train(run)
            elif job.role == "base":
                final_evaluation(run)
            else:
                finish(job.folder, _baseline_rows(job, run.pool), {}, job.identity)


def run_beginning(job: Job, steps: int, progress: Progress) -> None:
    """Do the first steps of a method's run in a folder without a run, and judge the point of its learning curve that is
    due after them: what the whole run leaves of them, byte for byte. A run that has no more steps than that, and one
    that does not learn, is done whole."""
    if job.role != "method" or steps >= job.experiment.budget.steps:
        run_job(job, progress)
        return
    _begin(job)
    run = Run(job.experiment, job.method, job.seed, job.start, job.folder, job.judged, progress)
    # The whole budget stays declared, since schedules depend on it: the run is stopped on its way.
    run.decided_by, run.stopping = job.decided_by, lambda: run.spent.step >= steps
    with run.pool, contextlib.closing(run):
        with contextlib.suppress(Stopped):
            train(run)
        curve_point(run, steps)


def _begin(job: Job) -> None:
    """Leave a run's facts in its folder. DamagedRecordError where another run has left its own."""
    file = job.folder / "run.json"
    if not file.exists():
        records.write_json(file, describe(job) | {"run": job.identity, "provenance": provenance()})
        return
    remedy = f"remove {job.folder} and call again: the run begins anew"
    try:
        known = records.read_json(file).get("run")
    except DamagedRecordError as error:
        raise DamagedRecordError(f"{error}; {remedy}") from None
    if known != job.identity:
        theirs, ours = named(known), named(job.identity)
        raise DamagedRecordError(f"{file} is of another run ({theirs}) than this one ({ours}); {remedy}")


def _baseline_rows(job: Job, pool: EnvironmentPool) -> list[dict[str, Any]]:
    """A policy that neither samples nor learns: one episode a task."""
    settings = job.experiment
    policy = MessagePolicy(make_policy(job.method.plug, job.method.options))
    episodes = play_panel(Rollouts(pool), policy, job.judged.tasks, SeedTree(job.seed)["evaluation"], "greedy", 1)
    return panel_rows(episodes, "greedy", settings.environment.eval_split, job.judged, pool.environment)
