"""What a starting policy can do, and what every privileged context that a teacher will read is worth to it.

A teacher whose context gains the start nothing is noise: the row's footnote says so. A context is known by what it
comes from, a source or a method with all its options, never by its name. Measured once for each starting checkpoint
and kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from harness.core.errors import DamagedRecordError
from harness.core.fingerprint import fingerprint
from harness.core.records import line_of, read, write_rows
from harness.core.seeds import SeedTree
from harness.core.sources import revision
from harness.core.types import ContextRequest, RolloutGroup
from harness.experiment import Experiment, MethodSettings
from harness.learning.demonstrations import Replays
from harness.protocols.backend import BackendSettings, SamplingParams, Start, deciding, make_backend
from harness.protocols.context import make_context
from harness.protocols.method import brings_context, make_method
from harness.rollout.environments import environment_module
from harness.rollout.panel import panel, play_panel
from harness.rollout.policies import TokenPolicy
from harness.rollout.rollouts import Rollouts

Progress = Callable[[str, int, int], None]
Context = Callable[[RolloutGroup, int, np.random.Generator], ContextRequest | None]
MARGIN = 0.10
"""Success a context must add on the starting policy; below it the teacher is noise."""
SAMPLES = 4
"""Episodes of every task, without a context and with each."""


@dataclass(frozen=True)
class Reader:
    """A privileged context that some row's teacher reads."""

    key: str
    """What it comes from, its options included."""
    name: str
    """For people."""
    read: Context
    module: str


def readers(experiment: Experiment) -> list[Reader]:
    """The contexts that the teachers of an experiment read, each once."""
    found = [reader_of(experiment, method) for method in experiment.methods]
    return list({reader.key: reader for reader in found if reader is not None}.values())


def reader_of(experiment: Experiment, row: MethodSettings) -> Reader | None:
    """What a row's teacher reads: the method's own context, or else the experiment's source; None where it has no
    teacher, or the teacher nothing to read."""
    made = make_method(row.plug, row.options)
    if made.needs.teacher == "none":
        return None
    if brings_context(made):
        name = made.describe().context or "the method's own"
        return Reader(_key(row.plug, row.options), name, made.context, row.plug.partition(":")[0])
    named = experiment.context
    if named is None:
        return None
    source = make_context(named.plug, named.options)
    return Reader(_key(named.plug, named.options), source.name, source, named.module)


def _key(plug: str, options: dict[str, Any]) -> str:
    return f"{plug}{line_of(options)}" if options else plug


def measure(
    experiment: Experiment, start: Start, replays: Replays, cache: Path, seed: int, progress: Progress
) -> dict[str, Any]:
    """Success of a start on dev tasks without a context, and what each context adds to it; what was measured before is
    read. Empty where nothing is asked for."""
    measuring = _measuring(experiment, start, replays, cache, seed, progress)
    return {} if measuring is None else measuring.result(readers(experiment))


def known_measurement(
    experiment: Experiment, start: Start, replays: Replays, cache: Path, seed: int
) -> dict[str, Any] | None:
    """The same where nothing has to be played for it; None elsewhere."""
    measuring = _measuring(experiment, start, replays, cache, seed, lambda what, done, total: None)
    if measuring is None:
        return {}
    wanted = readers(experiment)
    return measuring.result(wanted) if measuring.known(wanted) else None


def _measuring(
    experiment: Experiment, start: Start, replays: Replays, cache: Path, seed: int, progress: Progress
) -> _Measuring | None:
    """None where nothing is to be measured."""
    if not experiment.evaluation.start_tasks or not (experiment.warm_start or readers(experiment)):
        return None
    environment = replays.pool.environment
    split = "dev" if "dev" in environment.splits else experiment.environment.train_split
    tasks = panel(environment, split, experiment.evaluation.start_tasks)
    seeds = SeedTree(seed)["warm-start", "measure"]
    return _Measuring(experiment, start, replays, split, tasks, seeds, cache, progress)


Rates = list[float | None]
"""Success by task; None where every episode failed in the environment."""


@dataclass
class _Measuring:
    """One start, measured."""

    experiment: Experiment
    start: Start
    replays: Replays
    split: str
    tasks: Sequence[str]
    seeds: SeedTree
    cache: Path
    progress: Progress

    def known(self, wanted: Sequence[Reader]) -> bool:
        """Whether everything wanted has been measured."""
        files = [self._file(""), *(self._file(reader.key, reader.module) for reader in wanted)]
        return all(file.is_file() for file in files)

    def result(self, wanted: Sequence[Reader]) -> dict[str, Any]:
        """Everything wanted, played where it is not known."""
        plain = self.plain()
        found = {"split": self.split, "tasks": len(self.tasks)}
        found |= {decoding: _mean(rates) for decoding, rates in plain.items()}
        return found | {"contexts": self.contexts(wanted, plain["sampled"])}

    def plain(self) -> dict[str, Rates]:
        """Success without a context, by decoding."""
        file = self._file("")
        if not file.is_file():
            rates = {"sampled": self._play("sampled", SAMPLES, 0), "greedy": self._play("greedy", 1, 1)}
            write_rows(file, [rates], "measured")
        return _kept(file)

    def contexts(self, wanted: Sequence[Reader], plain: Rates) -> dict[str, Any]:
        """Of each context: the share of tasks it has something to say on, and what it adds there."""
        missing = [reader for reader in wanted if not self._file(reader.key, reader.module).is_file()]
        groups = self._groups() if missing else {}
        alike: dict[str, Rates] = {}
        """By what is read: two rows whose teachers read the same are measured once."""
        for number, reader in enumerate(missing):
            rng = {task: self.seeds["context", task].rng() for task in groups}
            offered = {task: reader.read(group, 0, rng[task]) for task, group in groups.items()}
            given = [offered.get(task) for task in self.tasks]
            content = fingerprint([None if request is None else request.content for request in given])
            if content not in alike:
                alike[content] = self._play("sampled", SAMPLES, 2 + number, given, of=2 + len(missing))
            write_rows(self._file(reader.key, reader.module), [{"sampled": alike[content]}], "measured")
        return {
            reader.key: {"name": reader.name} | _added(_kept(self._file(reader.key, reader.module))["sampled"], plain)
            for reader in wanted
        }

    def _groups(self) -> dict[str, RolloutGroup]:
        """The groups that contexts are drawn from, of the tasks whose gold actions are known."""
        known = [task for task in self.tasks if self.replays.pool.environment.gold(task) is not None]
        return {group.task_id: group for group in self.replays.groups(known)}

    def _play(
        self,
        decoding: str,
        samples: int,
        stage: int,
        contexts: Sequence[ContextRequest | None] | None = None,
        of: int = 2,
    ) -> Rates:
        """Success by task; with contexts only where there is one, None elsewhere."""
        chosen = [place for place in range(len(self.tasks)) if contexts is None or contexts[place] is not None]
        tasks = [self.tasks[place] for place in chosen]
        given = None if contexts is None else [contexts[place] for place in chosen]
        rates: Rates = [None] * len(self.tasks)
        rollouts, seeds = Rollouts(self.replays.pool), self.seeds[decoding, contexts is not None]
        for place, episodes in zip(
            chosen, play_panel(rollouts, self.policy, tasks, seeds, decoding, samples, given), strict=True
        ):
            finished = [float(episode.success) for episode in episodes if not math.isnan(episode.reward)]
            rates[place] = sum(finished) / len(finished) if finished else None
        self.progress("measuring the start", stage + 1, of)
        return rates

    @cached_property
    def policy(self) -> TokenPolicy:
        """The start."""
        model, sampling = self.experiment.model, self.experiment.sampling
        settings = BackendSettings(None, 1, sampling.temperature, model.dtype, model.device)
        backend = make_backend(self.experiment.backend, self.start, settings)
        params = SamplingParams(sampling.max_new_tokens, sampling.temperature, sampling.top_p)
        return TokenPolicy(backend, params, sampling.history)

    def _file(self, reader: str, *modules: str) -> Path:
        """Where one measurement is kept, by everything that decides it."""
        e = self.experiment
        decided_by = {
            "checkpoint": self.start.checkpoint_hash,
            "environment": [e.environment.id, e.environment.options, self.replays.pool.environment.version],
            "sampling": e.sampling.model_dump(include={"temperature", "top_p", "max_new_tokens", "history"}),
            "model": [e.model.dtype, deciding(e.backend).model_dump()],
            "tasks": self.tasks,
            "seeds": [self.seeds.root, *self.seeds.path],
            "context": reader,
            "code": revision(__name__, e.backend.module, environment_module(self.replays.pool), *modules),
        }
        return self.cache / "measured" / f"{fingerprint(decided_by)[:16]}.jsonl"


def _kept(file: Path) -> dict[str, Rates]:
    """What was measured before. DamagedRecordError where it is not what was written."""
    reading = read(file)
    if reading.damaged or len(reading.rows) != 1:
        where = "; ".join(map(str, reading.damaged)) or f"{file} holds {len(reading.rows)} measurements, not one"
        raise DamagedRecordError(f"{where}; remove the file and call again: it is measured anew")
    return reading.rows[0]


def _added(rates: Rates, plain: Rates) -> dict[str, Any]:
    """What a context adds on the tasks on which it was offered and both rates are known."""
    both = [(a, b) for a, b in zip(rates, plain, strict=True) if a is not None and b is not None]
    if not both:
        return {"offered": 0.0, "sampled": None, "adds": None, "teacher_adds_nothing": False}
    adds = _mean([a - b for a, b in both])
    return {
        "offered": len(both) / len(rates),
        "sampled": _mean([a for a, _ in both]),
        "adds": adds,
        "teacher_adds_nothing": adds < MARGIN,
    }


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else math.nan
