"""Small experiments for tests, and runs of them in processes of their own."""

from __future__ import annotations

import multiprocessing
import resource
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from harness.experiment import Experiment, MethodSettings, parse_experiment
from harness.protocols.backend import Backend, Start
from harness.protocols.feed import Update
from harness.report import folder as results
from harness.report.files import seal_results
from harness.rollout.environments import EnvironmentPool
from harness.rollout.panel import Panel
from harness.runs.job import run_job
from harness.runs.plan import Job, judged_panel

GRPO = MethodSettings(label="GRPO", plug="agents.methods.grpo:GRPO", options={"kl": 0.0})
RLOO = MethodSettings(label="RLOO", plug="agents.methods.grpo:RLOO")
SPEC: dict[str, Any] = {
    "name": "small",
    "seeds": [0],
    "environment": {"id": "odd_environments:Parity-v0"},
    "model": {"name": "tiny", "device": "cpu"},
    "sampling": {"group_size": 4, "prompts_per_step": 4, "max_new_tokens": 3},
    "optimiser": {"lr": 3e-3},
    "budget": {"steps": 6, "checkpoint_every": 2},
    "evaluation": {"tasks": 6, "samples": 2, "every": 2, "curve_tasks": 4},
    "methods": [GRPO.model_dump(exclude_none=True)],
}


def small(**changes: Any) -> Experiment:
    """The experiment above; `environment={"id": ...}` is laid over the section, anything else replaces the entry."""
    data = dict(SPEC)
    for key, value in changes.items():
        data[key] = data[key] | value if isinstance(data.get(key), dict) else value
    return parse_experiment(data)


def judged(experiment: Experiment) -> Panel:
    """What the experiment's policies are judged on."""
    with EnvironmentPool(experiment.environment) as pool:
        return judged_panel(pool.environment, experiment)


def job(experiment: Experiment, directory: Path, folder: Path, seed: int = 0) -> Job:
    """A run of the experiment's first method from the model in `directory`."""
    start = Start(directory, "0" * 64, {})
    return Job(
        experiment, start, "method", experiment.methods[0], seed, {"model": "tiny"}, (), judged(experiment), folder
    )


def driven(updates: Generator[Update, Any, Any], backend: Backend) -> Any:
    """What a part of a feed comes to when the backend takes its steps."""
    metrics = None
    while True:
        try:
            update = updates.send(metrics)
        except StopIteration as end:
            return end.value
        metrics = backend.update(update.batch, update.loss, per_term=update.per_term)


def quiet(what: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


def work(job: Job) -> None:
    run_job(job, quiet)


def work_on_a_small_disk(job: Job, largest_file: int, outbox: Any) -> None:
    """Run with files of at most so many bytes; sends the error's type and words, or None."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))
    try:
        run_job(job, quiet)
    except Exception as error:
        outbox.put((type(error).__name__, str(error)))
    else:
        outbox.put(None)


@contextmanager
def process(target: Callable[..., None], *args: Any) -> Iterator[BaseProcess]:
    """A real process of its own, without the seconds that importing torch costs: a clean server has done that
    already."""
    context = forkserver()
    started = context.Process(target=target, args=args)
    started.start()
    try:
        yield started
    finally:
        started.kill()
        started.join()


def forkserver() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["harness.learning.train", "harness.backends.torch", "transformers.models.llama.modeling_llama"]
    )
    return context


def as_recorded_by(code: str, folder: Path) -> None:
    """A results folder as another code revision would have written and sealed it."""
    found = results.read_records(folder)
    runs = [run | {"matched": run["matched"] | {"code": code}} for run in found.runs]
    results.write_records(replace(found, runs=runs), folder)
    seal_results(folder, [results.RUNS, results.ROWS, results.POINTS])
