"""One run: one method under one seed, from the shared starting weights to its last checkpoint. The loop fits on a screen.

    sample groups -> gather evidence -> assign credit -> pack -> update -> record

A run lives in a folder of its own and can be killed at any moment: `steps.jsonl` is append-only (a step recorded twice counts once, the later one),
checkpoints appear whole or not at all, and everything random is derived from the seed and the step.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from harness.core import records
from harness.core.budget import Budget, budget_fields
from harness.core.errors import HarnessError, UserError
from harness.core.plugs import construct, resolve
from harness.core.seeds import SeedTree
from harness.core.types import Ending, RolloutGroup
from harness.experiment.settings import Experiment, MethodSettings
from harness.learning.warm_start import Start
from harness.losses.packing import pack
from harness.protocols.backend import SamplingParams
from harness.rollout.environments import EnvironmentPool
from harness.rollout.evidence import Gathered, gather
from harness.rollout.panel import judged_tasks, panel, play_panel, success_rate, task_rows, tasks_of
from harness.rollout.rollouts import PolicySpeaker, Request, Rollouts

Progress = Callable[[str, int, int], None]
"""What is going on, how much of it is done, and out of how much."""
TERM_GRADIENTS_EVERY = 10
"""Steps between measurements of each loss term's own gradient norm: one costs a backward pass per term."""
SAMPLE_GROUPS = 2
"""Groups of the last step kept as a sample of episodes."""


@dataclass
class Spent(Budget):
    """What a run has spent so far, and where it stands in its list of tasks."""

    step: int = 0
    cursor: int = 0

    def budget(self) -> dict[str, int]:
        """The declared budget fields alone."""
        return {field.name: getattr(self, field.name) for field in budget_fields()}


@dataclass
class Run:
    """Everything one run works with; `train` drives it."""

    experiment: Experiment
    method: MethodSettings
    seed: int
    start: Start
    folder: Path
    progress: Progress = lambda what, done, total: None
    spent: Spent = field(default_factory=Spent)

    @cached_property
    def seeds(self) -> SeedTree:
        return SeedTree(self.seed)

    @cached_property
    def pool(self) -> EnvironmentPool:
        return EnvironmentPool(self.experiment.environment)

    @cached_property
    def rollouts(self) -> Rollouts:
        return Rollouts(self.pool)

    @cached_property
    def backend(self) -> Any:
        e = self.experiment
        return resolve(e.backend, "backend")(
            self.start.directory, e.optimiser, e.budget.steps, e.sampling.temperature, e.model.dtype, e.model.device
        )

    @cached_property
    def speaker(self) -> PolicySpeaker:
        sampling = self.experiment.sampling
        return PolicySpeaker(
            self.backend, SamplingParams(sampling.max_new_tokens, sampling.temperature, sampling.top_p)
        )

    @cached_property
    def train_tasks(self) -> list[str]:
        facts, split = self.pool.facts, self.experiment.environment.train_split
        tasks = tasks_of(facts, split)
        if not facts.trainable(split):
            raise UserError(f"split {split!r} of {self.experiment.environment.id} may not be trained on")
        return tasks


def train(run: Run) -> None:
    """Train, evaluate and record; continues from the last checkpoint when the folder has one, and does nothing when it is finished."""
    method = construct(run.method.plug, run.method.options, "method")
    source = construct(run.experiment.context, {}, "context source") if run.experiment.context else None
    state = _resume(run, method.initial_state())
    experiment = run.experiment
    while run.spent.step < experiment.budget.steps:
        step, began = run.spent.step, time.monotonic()
        run.progress("training", step, experiment.budget.steps)
        _curve_point(run, step)
        groups, sampled = sample_groups(run)
        row: dict[str, Any] = {"step": step} | sampled
        if groups:
            asked = getattr(method, "external_calls", 0)
            gathered = gather(method, groups, run.backend, source, run.seeds["step", step])
            credits, state, diagnostics = method.assign(groups, gathered.evidence, state)
            sequences = [episode.sequence for group in groups for episode in group.episodes]
            batch = pack(sequences, [credit for row_ in credits for credit in row_])
            updated = run.backend.update(batch, experiment.loss, per_term=step % TERM_GRADIENTS_EVERY == 0)
            run.spent.optimiser_steps += 1
            row |= (
                updated
                | _evidence_facts(run, gathered)
                | {f"method/{key}": value for key, value in diagnostics.items()}
            )
            run.spent.external_calls += getattr(method, "external_calls", 0) - asked
        run.spent.step += 1
        records.append(run.folder / "steps.jsonl", [row], kind="steps")
        records.append(run.folder / "timing.jsonl", [{"step": step, "wall_s": time.monotonic() - began}], kind="timing")
        last = run.spent.step == experiment.budget.steps
        if last:  # before the last checkpoint, behind which nothing is played again
            kept = [e for group in groups[:SAMPLE_GROUPS] for e in group.episodes]
            records.write_episodes(run.folder / "episodes.jsonl.gz", kept)
        if last or run.spent.step % experiment.budget.checkpoint_every == 0:
            _checkpoint(run, state)
    _curve_point(run, run.spent.step)
    final_evaluation(run)


# ---------------------------------------------------------------- sampling


def sample_groups(run: Run) -> tuple[list[RolloutGroup], dict[str, float]]:
    """The step's groups, and what sampling them was like. A group with a failed episode is dropped whole, and counted.

    With mixed-group sampling, candidate tasks are tried in the run's order until enough groups have unequal rewards or the limit is
    reached; every candidate costs budget.
    """
    sampling = run.experiment.sampling
    wanted, limit = sampling.prompts_per_step, sampling.prompts_per_step * sampling.candidate_limit
    kept: list[RolloutGroup] = []
    seen: list[RolloutGroup] = []
    tried = 0
    while len(kept) < wanted and tried < (limit if sampling.mixed_groups else wanted):
        amount = min(wanted - len(kept), limit - tried)
        tried += amount
        finished = _play_groups(run, _next_tasks(run, amount))
        seen.extend(finished)
        kept.extend(g for g in finished if not sampling.mixed_groups or np.ptp(g.rewards) > 0)
    run.spent.candidates += tried
    return kept, _sampling_facts(seen, kept)


def _next_tasks(run: Run, amount: int) -> list[str]:
    """The next tasks of the run's own order: every epoch is a fresh permutation, the same for every method under one seed."""
    chosen = []
    for place in range(run.spent.cursor, run.spent.cursor + amount):
        epoch, offset = divmod(place, len(run.train_tasks))
        order = run.seeds["task-order", epoch].rng().permutation(len(run.train_tasks))
        chosen.append(run.train_tasks[int(order[offset])])
    run.spent.cursor += amount
    return chosen


def _play_groups(run: Run, tasks: list[str]) -> list[RolloutGroup]:
    size = run.experiment.sampling.group_size
    place = run.seeds["rollout", run.spent.step]
    first = run.spent.cursor - len(tasks)
    requests = [Request(t, place[first + n, sibling]) for n, t in enumerate(tasks) for sibling in range(size)]
    failures = sum(run.rollouts.failures.values())
    episodes = run.rollouts.play(requests, run.speaker)
    run.spent.failed_episodes += sum(run.rollouts.failures.values()) - failures
    run.spent.rollouts += len(episodes)
    run.spent.generated_tokens += sum(int(e.sequence.mask.sum()) for e in episodes)
    groups = []
    facts = run.pool.facts
    for n, task in enumerate(tasks):
        siblings = tuple(episodes[n * size : (n + 1) * size])
        if any(episode.ending is Ending.ERROR for episode in siblings):
            run.spent.dropped_groups += 1
            continue
        # A terse task gives a teacher its answer, never the working.
        solution = None if facts.terse else facts.gold(task)
        groups.append(RolloutGroup(task, siblings, None if solution is None else tuple(solution), facts.answer(task)))
    return groups


def _sampling_facts(seen: list[RolloutGroup], kept: list[RolloutGroup]) -> dict[str, float]:
    episodes = [episode for group in seen for episode in group.episodes]
    if not episodes:
        return {"groups": 0.0}
    endings = Counter(episode.ending for episode in episodes)
    facts = {
        "groups": float(len(kept)),
        "reward": float(np.mean([e.reward for e in episodes])),
        "success": float(np.mean([e.success for e in episodes])),
        "mixed_share": float(np.mean([np.ptp(g.rewards) > 0 for g in seen])),
        "sampled_tokens": float(np.mean([e.sequence.mask.sum() for e in episodes])),
        "nats_per_token": -sum(float(e.sequence.logprobs.sum()) for e in episodes)
        / max(sum(int(e.sequence.mask.sum()) for e in episodes), 1),
    }
    return facts | {f"ending/{ending.value}": count / len(episodes) for ending, count in sorted(endings.items())}


def _evidence_facts(run: Run, gathered: Gathered) -> dict[str, float]:
    run.spent.teacher_tokens += gathered.teacher_tokens
    episodes = sum(len(row) for row in gathered.evidence)
    return {
        "teacher/share": gathered.with_context / max(episodes, 1),
        "teacher/too_long": float(gathered.too_long),
    }


# ---------------------------------------------------------------- evaluation


def _curve_point(run: Run, step: int) -> None:
    """A point of the learning curve, where one is due and not recorded yet."""
    settings = run.experiment.evaluation
    due = settings.every and (step % settings.every == 0 or step == run.experiment.budget.steps)
    file = run.folder / "curve.jsonl"
    if not due or (file.is_file() and any(row["step"] == step for row in records.read(file).rows)):
        return
    split = settings.curve_split or run.experiment.environment.eval_split
    tasks = panel(run.pool.facts, split, settings.curve_tasks)
    point: dict[str, Any] = {
        "step": step,
        "rollouts": run.spent.rollouts,
        "generated_tokens": run.spent.generated_tokens,
    }
    for decoding in ("sampled", "greedy"):
        episodes = play_panel(run.rollouts, run.speaker, tasks, run.seeds["curve", step], decoding, 1)
        point[decoding] = success_rate(episodes)
    records.append(file, [point], kind="curve")


def final_evaluation(run: Run) -> None:
    """The rows of the table: the whole panel, sampled and greedy, written at once."""
    settings, split = run.experiment.evaluation, run.experiment.environment.eval_split
    tasks = judged_tasks(run.pool.facts, run.experiment)
    rows = []
    for decoding, samples in (("sampled", settings.samples), ("greedy", 1)):

        def report(done: int, total: int, decoding: str = decoding) -> None:
            run.progress(f"evaluating, {decoding}", done, total)

        episodes = play_panel(
            run.rollouts, run.speaker, tasks, run.seeds["evaluation"], decoding, samples, progress=report
        )
        rows.extend(task_rows(episodes, decoding, split))
    finish(run.folder, rows, run.spent.budget())


def finish(folder: Path, rows: list[dict[str, Any]], budget: dict[str, int]) -> None:
    """The last word of a run: its rows, then the file whose presence says that it is whole."""
    (folder / "rows.jsonl").unlink(missing_ok=True)
    records.append(folder / "rows.jsonl", rows, kind="rows")
    records.write_json(folder / "done.json", budget)


# ---------------------------------------------------------------- checkpoints


def _checkpoint(run: Run, state: Any) -> None:
    """A folder that appears whole: written under another name, renamed, and only then are older ones removed."""
    name = f"checkpoint-{run.spent.step:06d}"
    scratch = run.folder / f".{name}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        run.backend.save(scratch)
        # The position in the seed tree is the step and the cursor: every stream is derived from them.
        records.write_json(scratch / "run_state.json", {"spent": asdict(run.spent), "method": state, "seed": run.seed})
        shutil.rmtree(run.folder / name, ignore_errors=True)
        os.replace(scratch, run.folder / name)
    except Exception as error:  # torch and safetensors report a full disk each by an error of their own
        shutil.rmtree(scratch, ignore_errors=True)
        raise HarnessError(
            f"could not write {name} in {run.folder}: {error}; make room and call again, the run continues"
        ) from error
    for older in checkpoints(run.folder)[:-1]:
        shutil.rmtree(older, ignore_errors=True)


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints of a run, oldest first."""
    return sorted(entry for entry in folder.glob("checkpoint-*") if (entry / "run_state.json").is_file())


def _resume(run: Run, initial: Any) -> Any:
    """Put the run where its last checkpoint left it; returns the method's state."""
    run.folder.mkdir(parents=True, exist_ok=True)
    found = checkpoints(run.folder)
    if not found:
        return initial
    saved = json.loads((found[-1] / "run_state.json").read_text())
    run.backend.load(found[-1])
    run.spent = Spent(**saved["spent"])
    return saved["method"]


def wall_seconds(folder: Path) -> float:
    """Time the steps of a run took, each counted once."""
    file = folder / "timing.jsonl"
    if not file.is_file():
        return math.nan
    by_step: dict[int, float] = {row["step"]: row["wall_s"] for row in records.read(file).rows}
    return sum(by_step.values())
