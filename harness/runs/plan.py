"""Which runs an experiment needs: plain data, made from its spec and from what was found out about tasks,
environment, weights and code.

Work lives under `runs/`, one folder a run, named by what decides its result. A run that is finished is never run
again, a run that was killed goes on from its last checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.core.catalogue import catalogue
from harness.core.errors import UserError
from harness.core.fingerprint import fingerprint, slug
from harness.core.sources import revision
from harness.experiment import Experiment, MethodSettings
from harness.experiment.search import trials_of
from harness.learning.run import Identity, identity
from harness.protocols.backend import Start, capabilities_of, deciding
from harness.protocols.capabilities import check_demands
from harness.protocols.context import make_context
from harness.protocols.environment import TextEnvironment
from harness.protocols.method import brings_context, make_method
from harness.rollout.environments import EnvironmentPool, environment_module
from harness.rollout.panel import Panel, panel, tasks_of
from harness.tables.metrics import metric

BASE = MethodSettings(label="base", plug="")
"""The row of the starting policy."""
TRAINER = "harness.learning.train"
"""The module whose imports are the code of every run."""
Role = Literal["base", "method", "baseline"]


@dataclass(frozen=True)
class Job:
    """One run to be had: plain data, so that it can be sent to another process."""

    experiment: Experiment
    start: Start
    role: Role
    method: MethodSettings
    seed: int
    matched: dict[str, Any]
    """What all runs of one table share (`Experiment.matched_facts`)."""
    sources: tuple[str, ...]
    """Modules whose code, with all they import, `matched` holds the revision of."""
    judged: Panel
    folder: Path
    decided_by: str = ""
    """A digest of what the folder is named by, beside the label and the seed."""

    @property
    def identity(self) -> Identity:
        """Which run this is, as its records and checkpoints say it."""
        return identity(self.experiment, self.method, self.seed, self.decided_by)

    @property
    def name(self) -> str:
        """Label and seed, for people."""
        return f"{self.method.label}, seed {self.seed}"

    @property
    def done(self) -> bool:
        """Whether the run is finished and whole."""
        return (self.folder / "done.json").is_file()


def plan(experiment: Experiment, starts: Mapping[int, Start], root: Path) -> list[Job]:
    """All runs of an experiment: the starting point and the methods under every seed from the start of that seed, the
    baselines once."""
    seen = observe(experiment, starts)
    base = root / slug(experiment.name) / fingerprint(seen.matched)[:12]
    jobs: list[Job] = []
    for role, method, seeds in _rows(experiment):
        decided_by = [
            role,
            method.plug,
            method.options,
            code_of_plug(method.plug),
            context_plug(experiment, method, role),
            method.own,
        ]
        effective = experiment.for_row(method)
        for seed in seeds:
            start = starts[seed]
            own = fingerprint([*decided_by, "" if role == "baseline" else start.checkpoint_hash])[:8]
            folder = base / f"{slug(method.label)}-{own}-seed{seed}"
            jobs.append(Job(effective, start, role, method, seed, seen.matched, seen.sources, seen.judged, folder, own))
    return jobs


def baselines() -> list[MethodSettings]:
    """The policies that do not learn and stand at the ends of every table."""
    return [MethodSettings(label=label, plug=plug) for label, plug in catalogue("baselines").items()]


def _rows(experiment: Experiment) -> list[tuple[Role, MethodSettings, Sequence[int]]]:
    rows: list[tuple[Role, MethodSettings, Sequence[int]]] = [("base", BASE, experiment.seeds)]
    rows += [("method", method, experiment.seeds) for method in experiment.methods]
    return rows + [("baseline", policy, experiment.seeds[:1]) for policy in baselines()]


@dataclass(frozen=True)
class Observed:
    """What was found out about an experiment before anything is run."""

    matched: dict[str, Any]
    """The facts all its runs share (`Experiment.matched_facts`)."""
    sources: tuple[str, ...]
    """Modules whose code is among them."""
    judged: Panel


def observe(experiment: Experiment, starts: Mapping[int, Start]) -> Observed:
    """Tasks, environment, starts and code of an experiment. UserError where it may not be run as it stands."""
    settings = experiment.environment
    with EnvironmentPool(settings) as pool:
        environment = pool.environment
        tasks = tasks_of(environment, settings.train_split)
        if not environment.trainable(settings.train_split):
            raise UserError(f"split {settings.train_split!r} of {settings.id} may not be trained on")
        if experiment.evaluation.curve_split is not None:
            tasks_of(environment, experiment.evaluation.curve_split)  # refuses one that the environment does not have
        judged = judged_panel(environment, experiment)
        shared = sorted(set(tasks) & set(judged.tasks))
        if shared:
            raise UserError(f"task {shared[0]!r} is trained on and judged on: the splits must be disjoint")
        sources = (TRAINER, experiment.backend.module, environment_module(pool))
        observed = {
            "environment.version": environment.version,
            "environment.protocol": environment.protocol,
            "environment.mini": environment.mini,
            "tasks.train": fingerprint(tasks)[:16],
            "tasks.panel": fingerprint(judged.tasks)[:16],
            "start": _origin(experiment, starts),
            "code": code_revision(sources),
        }
    decided = experiment.model_copy(update={"backend": deciding(experiment.backend)})
    return Observed(decided.matched_facts(**observed), sources, judged)


def _origin(experiment: Experiment, starts: Mapping[int, Start]) -> str:
    """What all starts were made from, their seeds apart. UserError where a seed has none, or two were made
    differently."""
    missing = [seed for seed in experiment.seeds if seed not in starts]
    if missing:
        raise UserError(f"no start for seed {missing[0]}; there are starts for {sorted(starts)}")
    origins = sorted({starts[seed].origin or starts[seed].checkpoint_hash for seed in experiment.seeds})
    if len(origins) > 1:
        raise UserError(f"the starts of one experiment were made in {len(origins)} ways: {', '.join(origins)}")
    return origins[0][:16]


def judged_panel(environment: TextEnvironment, experiment: Experiment) -> Panel:
    """The panel of an experiment, as its success metrics want it."""
    wanted = experiment.evaluation
    metrics = [metric(name) for name in wanted.extra]
    scenarios, answers = any(m.scenarios for m in metrics), any(m.answers for m in metrics)
    tasks = panel(environment, experiment.environment.eval_split, wanted.tasks, whole_scenarios=scenarios)
    return Panel(tuple(tasks), scenarios, answers)


def code_revision(sources: Sequence[str]) -> str:
    """The revision of these modules and all they import, as a run's matched facts hold it."""
    return revision(*sources)[:16]


def code_of_plug(plug: str) -> str:
    """The revision of a method's (or policy's) own code, as its runs hold it; empty where there is none."""
    return code_revision([plug.partition(":")[0]]) if plug else ""


def context_plug(experiment: Experiment, method: MethodSettings, role: Role) -> Any:
    """The experiment's context source, as its spec writes it, where this row's teacher reads it."""
    if role != "method" or experiment.context is None:
        return None
    made = make_method(method.plug, method.options)
    reads = made.needs.teacher != "none" and not brings_context(made)
    return experiment.context.model_dump() if reads else None


def check_plugs(experiment: Experiment) -> None:
    """Everything a spec names and its options, made once: a typing mistake shows before anything is run, and so does
    what the backend lacks of what the experiment asks for."""
    for method in experiment.methods:
        make_method(method.plug, method.options)
    trials = [trial.row for trial in trials_of(experiment)]
    for row in trials:
        make_method(row.plug, row.options)
    warm_start = experiment.warm_start
    for named in (*([experiment.context] if experiment.context else ()), *(warm_start.contexts if warm_start else ())):
        make_context(named.plug, named.options)
    check_demands(
        experiment.backend.plug, capabilities_of(experiment.backend), experiment, [*experiment.methods, *trials]
    )
    for name in experiment.evaluation.extra:
        metric(name)
    if experiment.warm_start is not None:
        with EnvironmentPool(experiment.environment) as pool:
            check_demonstrated(experiment, pool.environment)


def check_demonstrated(experiment: Experiment, environment: TextEnvironment) -> None:
    """UserError where the environment knows no solutions that the experiment's warm start could learn from."""
    settings = experiment.environment
    for task in tasks_of(environment, settings.train_split)[:1]:
        if environment.gold(task) is None:
            raise UserError(
                f"{settings.id} knows no gold actions (task {task!r}, for one), and a warm start learns from them: "
                "supply them, or take [warm_start] out of the spec and name a model that can act already"
            )
