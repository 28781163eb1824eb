"""Several updates on one batch: against a second implementation, killed and gone on with, and with ratios that act."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from experiments import driven, job, judged, quiet, small
from safetensors.numpy import load_file

from harness.core import records
from harness.core.types import Evidence
from harness.learning.checkpoints import checkpoints
from harness.learning.feed import learn
from harness.learning.run import Run
from harness.learning.sampling import sample_groups
from harness.learning.updating import _joined, update_on
from harness.losses import pack
from harness.protocols.backend import Start
from harness.rollout.evidence import gather
from harness.runs.job import run_job


def run_of(directory: Path, folder: Path, **changes: Any) -> Run:
    experiment = small(**changes)
    return Run(experiment, experiment.methods[0], 0, Start(directory, "0" * 64, {}), folder, judged(experiment))


def weights(run: Run) -> dict[str, np.ndarray]:
    run.folder.mkdir(parents=True, exist_ok=True)
    run.backend.save(run.folder)
    return load_file(run.folder / "model.safetensors")


@pytest.mark.parametrize(("updates", "minibatches"), [(1, 1), (3, 1), (1, 4), (2, 3), (1, 64)])
def test_updates_are_those_of_a_plain_loop(
    tiny_directory: Path, tmp_path: Path, updates: int, minibatches: int
) -> None:
    """Bit for bit: every pass visits every episode once, in parts that are packed and normalised on their own."""
    optimiser = {"updates": updates, "minibatches": minibatches, "schedule": "linear"}
    one, other = (run_of(tiny_directory, tmp_path / name, optimiser=optimiser) for name in ("one", "other"))
    with one.pool, other.pool:
        groups, _ = sample_groups(one)
        learned, _ = driven(learn(one, groups, one.method.initial_state()), one.backend)

        groups, _ = sample_groups(other)
        evidence = gather(other.method, groups, other.backend, None, other.seeds["step", 0]).evidence
        credits, _, _ = other.method.assign(groups, evidence, other.method.initial_state())
        pairs = [
            (episode.sequence, credit)
            for group, of_group in zip(groups, credits, strict=True)
            for episode, credit in zip(group.episodes, of_group, strict=True)
        ]
        rates = []
        for number in range(updates):
            order = list(range(len(pairs)))
            if minibatches > 1:
                order = other.seeds["minibatches", 0, number].rng().permutation(len(pairs)).tolist()
            size, larger = divmod(len(order), min(minibatches, len(order)))
            for place in range(min(minibatches, len(order))):
                count = size + (place < larger)
                part, order = [pairs[n] for n in order[:count]], order[count:]
                sequences, given = zip(*part, strict=True)
                rates.append(other.backend.update(pack(sequences, given), other.experiment.loss)["lr"])
            assert order == []
    here, there = weights(one), weights(other)
    assert all((here[name] == there[name]).all() for name in here)
    assert one.spent.optimiser_steps == len(rates) == updates * min(minibatches, 16)
    assert learned["lr"] == pytest.approx(np.mean(rates))
    # linear from the first update to 0 after the last of 6 steps
    whole = 6 * updates * minibatches
    assert rates == pytest.approx([3e-3 * (1 - done / whole) for done in range(len(rates))])


def test_one_update_of_one_part_packs_the_step_in_its_own_order(tiny_directory: Path, tmp_path: Path) -> None:
    """What a step was before it could have several updates: one call of the backend, its metrics as they are."""
    one, other = (run_of(tiny_directory, tmp_path / name) for name in ("one", "other"))
    with one.pool, other.pool:
        groups, _ = sample_groups(one)
        credits, _, _ = one.method.assign(groups, [[Evidence()] * 4] * len(groups), {})
        sequences = [episode.sequence for group in groups for episode in group.episodes]
        flat = [credit for of_group in credits for credit in of_group]
        assert driven(update_on(one, sequences, flat, per_term=True), one.backend) == other.backend.update(
            pack(sequences, flat), other.experiment.loss, per_term=True
        )


def test_with_several_updates_ratios_leave_one_and_the_clip_acts(tiny_directory: Path, tmp_path: Path) -> None:
    """At a rate far too large the policy is another after its first update than the one that sampled."""
    logged = []
    for updates in (1, 4):
        run = run_of(tiny_directory, tmp_path / str(updates), optimiser={"lr": 3e-2, "updates": updates})
        with run.pool:
            rows = [driven(learn(run, sample_groups(run)[0], {}), run.backend)[0] for _ in range(2)]
        logged.append({key: max(row[key] for row in rows) for key in ("ratio/clipped", "ratio/largest_log")})
    assert logged[0]["ratio/clipped"] == 0.0
    assert logged[0]["ratio/largest_log"] < 1e-4
    assert logged[1]["ratio/clipped"] > 0.05
    assert logged[1]["ratio/largest_log"] > 0.2


@pytest.mark.parametrize("after", [1, 3, 4])
def test_a_run_with_several_updates_goes_on_from_every_step(tiny_directory: Path, tmp_path: Path, after: int) -> None:
    class Killed(BaseException): ...

    def progress(what: str, done: int, total: int) -> None:
        if what == "training" and done == after:
            raise Killed

    experiment = small(optimiser={"updates": 2, "minibatches": 3})
    calm = job(experiment, tiny_directory, tmp_path / "calm")
    run_job(calm, quiet)
    stopped = job(experiment, tiny_directory, tmp_path / "stopped")
    with pytest.raises(Killed):
        run_job(stopped, progress)
    run_job(stopped, quiet)
    for name in ("rows.jsonl", "done.json", "episodes.jsonl.gz"):
        assert (stopped.folder / name).read_bytes() == (calm.folder / name).read_bytes(), name
    last = [checkpoints(done.folder)[-1] / "model.safetensors" for done in (stopped, calm)]
    assert last[0].read_bytes() == last[1].read_bytes()
    assert json.loads((calm.folder / "done.json").read_text())["optimiser_steps"] == 6 * 2 * 3
    assert len(records.read(calm.folder / "steps.jsonl").rows) == 6


def test_metrics_of_several_updates_by_hand() -> None:
    first = {"loss/total": 1.0, "ratio/largest_log": 0.0, "gradient/anchor": 3.0, "loss/anchor": 0.5}
    second = {"loss/total": 2.0, "ratio/largest_log": 0.7, "gradient/anchor": 9.0}
    joined = _joined([first, second])
    assert joined == {"loss/total": 1.5, "ratio/largest_log": 0.7, "gradient/anchor": 3.0, "loss/anchor": 0.25}
