"""Training: the same spec gives the same bytes, and no kill, full disk or failing environment changes what comes out
in the end."""

from __future__ import annotations

import json
import multiprocessing
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from experiments import GRPO, RLOO, forkserver, job, judged, process, quiet, small, work, work_on_a_small_disk
from odd_environments import FAILED, PLAYED
from safetensors.numpy import load_file

from harness.core import records
from harness.core.episodes import read_episodes
from harness.core.errors import HarnessError
from harness.learning.checkpoints import checkpoints
from harness.learning.run import Run
from harness.learning.sampling import sample_groups
from harness.learning.train import train
from harness.learning.warm_start import start_of
from harness.protocols.backend import Start
from harness.runs.job import run_job
from harness.runs.plan import BASE, Job
from harness.runs.record import gather_records

RECORDS = ("steps.jsonl", "rows.jsonl", "curve.jsonl", "episodes.jsonl.gz", "done.json")


def finished(job: Job) -> Path:
    run_job(job, quiet)
    return job.folder


def once_each(file: Path) -> list[dict[str, Any]]:
    """The rows of a file, a step recorded twice taken once, the later one."""
    return [row for _, row in sorted({row["step"]: row for row in records.read(file).rows}.items())]


def assert_same_result(folder: Path, other: Path) -> None:
    for name in ("rows.jsonl", "episodes.jsonl.gz", "done.json"):
        assert (folder / name).read_bytes() == (other / name).read_bytes(), name
    for name in ("steps.jsonl", "curve.jsonl"):
        assert once_each(folder / name) == once_each(other / name), name


def run_of(tiny_directory: Path, folder: Path, seed: int = 0, **changes: Any) -> Run:
    experiment = small(**changes)
    return Run(experiment, experiment.methods[0], seed, Start(tiny_directory, "0" * 64, {}), folder, judged(experiment))


# ---------------------------------------------------------------- the same every time


def test_one_spec_gives_the_same_bytes_here_and_elsewhere(tiny_directory: Path, tmp_path: Path) -> None:
    here = [finished(job(small(), tiny_directory, tmp_path / name)) for name in ("one", "two")]
    elsewhere = tmp_path / "elsewhere"
    with process(work, job(small(), tiny_directory, elsewhere)) as other:
        other.join(60)
        assert other.exitcode == 0
    for name in RECORDS:
        contents = {(folder / name).read_bytes() for folder in (*here, elsewhere)}
        assert len(contents) == 1, name
    other_seed = finished(job(small(), tiny_directory, tmp_path / "seed", seed=1))
    assert (other_seed / "steps.jsonl").read_bytes() != (elsewhere / "steps.jsonl").read_bytes()


def test_what_a_run_leaves_behind(tiny_directory: Path, tmp_path: Path) -> None:
    folder = finished(job(small(), tiny_directory, tmp_path / "run"))
    steps = records.read(folder / "steps.jsonl").strict()
    assert [row["step"] for row in steps] == list(range(6))
    assert {"reward", "success", "groups", "loss/total", "gradient_norm", "method/degenerate_groups"} <= set(steps[0])
    assert [row["step"] for row in records.read(folder / "curve.jsonl").strict()] == [0, 2, 4, 6]
    rows = records.read(folder / "rows.jsonl").strict()
    assert [(row["decoding"], row["samples"]) for row in rows] == [("sampled", 2)] * 6 + [("greedy", 1)] * 6
    episodes, damaged = read_episodes(folder / "episodes.jsonl.gz")
    assert (len(episodes), damaged) == (2 * 4, ())
    spent = json.loads((folder / "done.json").read_text())
    # 6 steps x 4 tasks x 4 siblings, each of one turn of 1 to 3 tokens
    assert (spent["rollouts"], spent["candidates"], spent["optimiser_steps"]) == (96, 24, 6)
    assert 96 <= spent["generated_tokens"] <= 288
    assert (spent["failed_episodes"], spent["dropped_groups"], spent["teacher_tokens"]) == (0, 0, 0)
    assert [file.name for file in checkpoints(folder)] == ["checkpoint-000006"]


def test_a_second_call_changes_no_file(tiny_directory: Path, tmp_path: Path) -> None:
    folder = finished(job(small(), tiny_directory, tmp_path / "run"))
    before = {file: (file.stat().st_mtime_ns, file.stat().st_ino) for file in folder.rglob("*")}
    finished(job(small(), tiny_directory, tmp_path / "run"))
    assert {file: (file.stat().st_mtime_ns, file.stat().st_ino) for file in folder.rglob("*")} == before


def test_two_processes_do_not_work_on_one_run(tiny_directory: Path, tmp_path: Path) -> None:
    long = small(budget={"steps": 10_000})
    with process(work, job(long, tiny_directory, tmp_path)):
        _wait_for(tmp_path / "steps.jsonl")
        with pytest.raises(HarnessError, match="another process is working on"):
            run_job(job(long, tiny_directory, tmp_path), quiet)


# ---------------------------------------------------------------- it learns


@pytest.mark.slow
def test_grpo_teaches_a_policy_to_halve(tmp_path: Path) -> None:
    """Guess-v0, two windows, from a start that counts up on most of its demonstrations. Under seeds 0 to 3, 20 steps
    raise success on held-out tasks from 0.56 to between 0.71 and 0.86; a rate of 56 episodes has a standard error of
    0.067."""
    experiment = small(
        environment={"id": "environments:Guess-v0", "options": {"windows": 2, "players": 4}},
        model={
            "tiny": {"width": 64, "layers": 2, "heads": 4, "kv_heads": 1, "mlp": 128, "window": 64, "vocabulary": 290}
        },
        warm_start={"steps": 200, "batch": 16, "lr": 1e-2, "habit_share": 0.6},
        sampling={"group_size": 8, "prompts_per_step": 28, "max_new_tokens": 4},
        optimiser={"lr": 2e-3},
        budget={"steps": 20, "checkpoint_every": 20},
        evaluation={"every": 0, "tasks": 14, "samples": 4, "start_tasks": 14},
    )
    start = start_of(experiment, tmp_path / "cache")
    rates = []
    for role, method in (("base", BASE), ("method", experiment.methods[0])):
        done = Job(experiment, start, role, method, 0, {}, (), judged(experiment), tmp_path / role)
        rows = records.read(finished(done) / "rows.jsonl").strict()
        rates.append(np.mean([row["success"] for row in rows if row["decoding"] == "sampled"]))
    rewards = [row["reward"] for row in records.read(done.folder / "steps.jsonl").strict()]
    assert np.mean(rewards[-5:]) > np.mean(rewards[:5]) + 0.1
    assert rates[1] > rates[0] + 0.07


# ---------------------------------------------------------------- killed, damaged, out of space


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_kills_at_random_moments_change_nothing(tiny_directory: Path, tmp_path: Path, seed: int) -> None:
    experiment = small(budget={"steps": 50, "checkpoint_every": 7}, evaluation={"every": 9})
    calm = finished(job(experiment, tiny_directory, tmp_path / "calm"))
    hunted = job(experiment, tiny_directory, tmp_path / "hunted")
    rng, kills = random.Random(seed), 0
    while not hunted.done:
        with process(work, hunted) as running:
            if kills < 4:
                _kill_after(running, hunted.folder / "steps.jsonl", rng)
            running.join(60)
            kills += running.exitcode == -9
    assert kills == 4
    assert_same_result(hunted.folder, calm)
    # ... and so does the table
    told, calm_told = gather_records([hunted]), gather_records([replace(hunted, folder=calm)])
    assert (told.runs, told.rows, told.points) == (calm_told.runs, calm_told.rows, calm_told.points)


def _kill_after(running: Any, file: Path, rng: random.Random) -> None:
    """SIGKILL once the run has written some more, up to about five steps' worth, at whatever it is doing then."""
    written = file.stat().st_size if file.is_file() else 0
    until = written + rng.randrange(1, 2500)
    while running.is_alive() and not (file.is_file() and file.stat().st_size >= until):
        time.sleep(rng.uniform(0, 0.005))
    running.kill()


def interrupted(tiny_directory: Path, folder: Path, after: int) -> Job:
    """A run that was killed `after` steps."""

    class Killed(BaseException): ...

    def progress(what: str, done: int, total: int) -> None:
        if what == "training" and done == after:
            raise Killed

    stopped = job(small(), tiny_directory, folder)
    with pytest.raises(Killed):
        run_job(stopped, progress)
    return stopped


@pytest.mark.parametrize("after", range(6))
def test_a_run_goes_on_from_every_step(tiny_directory: Path, tmp_path: Path, after: int) -> None:
    calm = finished(job(small(), tiny_directory, tmp_path / "calm"))
    assert_same_result(finished(interrupted(tiny_directory, tmp_path / "run", after)), calm)


def test_torn_lines_and_half_checkpoints_are_passed_over(tiny_directory: Path, tmp_path: Path) -> None:
    calm = finished(job(small(), tiny_directory, tmp_path / "calm"))
    stopped = interrupted(tiny_directory, tmp_path / "run", 5)
    for name in ("steps.jsonl", "curve.jsonl", "timing.jsonl"):
        with (stopped.folder / name).open("a") as file:
            file.write('{"step": 5, "rew')
    whole = checkpoints(stopped.folder)[-1]
    for name in (".checkpoint-000006", "checkpoint-000099"):
        (stopped.folder / name).mkdir()
        (stopped.folder / name / "model.safetensors").write_bytes((whole / "model.safetensors").read_bytes()[:100])
    folder = finished(stopped)
    assert_same_result(folder, calm)
    assert records.read(folder / "steps.jsonl").damaged == ()  # the half line was taken back


def test_rows_that_were_cut_short_are_written_again(tiny_directory: Path, tmp_path: Path) -> None:
    """Killed while the rows of the table were being written: they are whole only once done.json stands beside them."""
    calm = finished(job(small(), tiny_directory, tmp_path / "calm"))
    hurt = job(small(), tiny_directory, finished(job(small(), tiny_directory, tmp_path / "run")))
    (hurt.folder / "done.json").unlink()
    rows = (hurt.folder / "rows.jsonl").read_bytes()
    (hurt.folder / "rows.jsonl").write_bytes(rows[: len(rows) // 2])
    assert_same_result(finished(hurt), calm)


@pytest.mark.parametrize(("largest_file", "named"), [(2000, "steps.jsonl"), (30_000, "checkpoint-000002")])
def test_a_full_disk_is_said_and_the_run_goes_on_afterwards(
    tiny_directory: Path, tmp_path: Path, largest_file: int, named: str
) -> None:
    """No file may grow beyond so many bytes: the model has about 80,000."""
    calm = finished(job(small(), tiny_directory, tmp_path / "calm"))
    squeezed = job(
        small(budget={"checkpoint_every": 2 if "checkpoint" in named else 6}), tiny_directory, tmp_path / "run"
    )
    outbox = forkserver().SimpleQueue()
    with process(work_on_a_small_disk, squeezed, largest_file, outbox) as running:
        kind, words = outbox.get()
        running.join()
    assert kind in ("WriteError", "HarnessError")
    assert named in words
    assert "make room" in words
    assert not squeezed.done
    assert not list(squeezed.folder.glob(".checkpoint-*"))
    assert_same_result(finished(squeezed), calm)


# ---------------------------------------------------------------- environments that fail


def test_a_group_with_a_failed_episode_is_dropped_whole_and_counted(tiny_directory: Path, tmp_path: Path) -> None:
    FAILED.clear()
    PLAYED.clear()
    bad = "2-8:4"
    environment = {"id": "odd_environments:Faulty-v0", "options": {"fault": "raises", "only": bad}}
    sampling = {"prompts_per_step": 12}  # all of the train split in every step
    run = run_of(tiny_directory, tmp_path, environment=environment, sampling=sampling, evaluation={"tasks": 2})
    assert bad in run.train_tasks
    with run.pool:
        for step in range(3):
            groups, facts = sample_groups(run)
            assert sorted(group.task_id for group in groups) == sorted(set(run.train_tasks) - {bad})
            assert all(np.isfinite(group.rewards).all() for group in groups)
            assert facts["groups"] == len(run.train_tasks) - 1
            assert run.spent.dropped_groups == step + 1
            assert run.spent.failed_episodes == (step + 1) * 4 * 2  # four siblings, two attempts each


def test_a_run_in_which_everything_fails_learns_nothing_and_says_so(tiny_directory: Path, tmp_path: Path) -> None:
    environment = {"id": "odd_environments:Faulty-v0", "options": {"fault": "raises", "at": "reset"}}
    folder = finished(job(small(environment=environment, budget={"steps": 2}), tiny_directory, tmp_path))
    spent = json.loads((folder / "done.json").read_text())
    assert (spent["dropped_groups"], spent["optimiser_steps"]) == (8, 0)
    for row in records.read(folder / "rows.jsonl").strict():
        assert (row["success"], row["reward"], row["samples"]) == (None, None, 0)  # not 0: nothing is known
    before, after = (load_file(place / "model.safetensors") for place in (tiny_directory, checkpoints(folder)[-1]))
    assert all((before[name] == after[name]).all() for name in before)


def test_failures_that_pass_leave_the_run_as_it_would_have_been(tiny_directory: Path, tmp_path: Path) -> None:
    """Every train task fails once and then works: same tokens, same rewards, same credit."""
    FAILED.clear()
    environment: dict[str, Any] = {"id": "odd_environments:Faulty-v0", "options": {"windows": 3}}
    steps = []
    for name, fault in (("healthy", {}), ("shaky", {"fault": "raises", "times": 1})):
        settings = environment | {"options": environment["options"] | fault}
        folder = finished(job(small(environment=settings, budget={"steps": 3}), tiny_directory, tmp_path / name))
        steps.append(records.read(folder / "steps.jsonl").strict())
        spent = json.loads((folder / "done.json").read_text())
        assert spent["dropped_groups"] == 0
        assert (spent["failed_episodes"] > 0) is (name == "shaky")
    for healthy, shaky in zip(*steps, strict=True):
        assert healthy.keys() == shaky.keys()
        for key, value in healthy.items():
            # float32 in batches of another shape
            assert shaky[key] == pytest.approx(value, rel=1e-3, abs=1e-5), key


# ---------------------------------------------------------------- which tasks


def test_methods_under_one_seed_meet_the_same_tasks_in_the_same_order(tiny_directory: Path, tmp_path: Path) -> None:
    orders = []
    for method in (GRPO, RLOO):
        run = run_of(tiny_directory, tmp_path / method.label, methods=[method.model_dump()])
        with run.pool:
            orders.append([group.task_id for _ in range(7) for group in sample_groups(run)[0]])
    assert orders[0] == orders[1]
    other = run_of(tiny_directory, tmp_path / "other", seed=1)
    with other.pool:
        assert [group.task_id for _ in range(7) for group in sample_groups(other)[0]] != orders[0]


def test_every_epoch_covers_every_task_once(tiny_directory: Path, tmp_path: Path) -> None:
    """12 tasks, 5 a step: epochs do not fall together with steps."""
    run = run_of(tiny_directory, tmp_path, sampling={"prompts_per_step": 5})
    with run.pool:
        order = [group.task_id for _ in range(12) for group in sample_groups(run)[0]]
    epochs = [order[start : start + 12] for start in range(0, 60, 12)]
    assert all(sorted(epoch) == sorted(run.train_tasks) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 5


def test_mixed_groups_are_groups_with_unequal_rewards(tiny_directory: Path, tmp_path: Path) -> None:
    """Tasks with the number 1 are always solved and those with 50 hardly ever: only the others teach anything."""
    run = run_of(tiny_directory, tmp_path, sampling={"mixed_groups": True, "candidate_limit": 3, "prompts_per_step": 4})
    with run.pool:
        for _ in range(5):
            before = run.spent.candidates
            groups, facts = sample_groups(run)
            tried = run.spent.candidates - before
            assert all(np.ptp(group.rewards) > 0 for group in groups)
            assert not any(group.task_id.endswith(":1") for group in groups)
            assert len(groups) <= 4 <= tried <= 12
            assert len(groups) == 4 or tried == 12
            assert facts["groups"] == len(groups)
            assert run.spent.rollouts == run.spent.candidates * 4
            run.spent.step += 1


def test_the_limit_of_candidates_holds(tiny_directory: Path, tmp_path: Path) -> None:
    """Every task is always solved: no group is mixed, and the step is over after candidate_limit x prompts_per_step
    of them."""
    environment = {"id": "odd_environments:Parity-v0", "options": {"numbers": (1,)}}
    sampling = {"mixed_groups": True, "candidate_limit": 3, "prompts_per_step": 4}
    folder = finished(
        job(small(environment=environment, sampling=sampling, budget={"steps": 2}), tiny_directory, tmp_path)
    )
    spent = json.loads((folder / "done.json").read_text())
    assert (spent["candidates"], spent["rollouts"], spent["optimiser_steps"]) == (24, 96, 0)
    assert [row["groups"] for row in records.read(folder / "steps.jsonl").strict()] == [0, 0]


def test_a_split_that_may_not_be_trained_on_is_refused(tiny_directory: Path, tmp_path: Path) -> None:
    environment = {"train_split": "test", "eval_split": "train"}
    with pytest.raises(HarnessError, match="'test' of odd_environments:Parity-v0 may not be trained on"):
        train(run_of(tiny_directory, tmp_path, environment=environment))


def _wait_for(file: Path) -> None:
    end = time.monotonic() + 30
    while not file.is_file():
        assert time.monotonic() < end, f"{file.name} did not appear"
        time.sleep(0.01)


def test_children_are_gone() -> None:
    assert not [child for child in multiprocessing.active_children() if child.is_alive()]
