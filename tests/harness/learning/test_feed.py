"""The feed of a run: the same bytes whoever pulls from it, and one feed for several ranks."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from experiments import job, judged, quiet, small
from safetensors.numpy import load_file

from harness.backends.torch import TorchBackend
from harness.core import records
from harness.core.errors import HarnessError
from harness.experiment import PlugSettings
from harness.learning.checkpoints import checkpoints
from harness.learning.feed import RunFeed
from harness.learning.relay import Relay
from harness.learning.run import Run
from harness.protocols.backend import Completion, Prompt, SamplingParams, Start
from harness.protocols.capabilities import EVERYTHING, Capability
from harness.protocols.feed import Feed, Update
from harness.runs.job import run_job

WRITTEN = ("steps.jsonl", "rows.jsonl", "episodes.jsonl.gz", "done.json")
SHORT: dict[str, Any] = {
    "budget": {"steps": 3, "checkpoint_every": 1},
    "evaluation": {"every": 0, "tasks": 2, "samples": 1},
    "sampling": {"prompts_per_step": 3},
}


def run_of(directory: Path, folder: Path, **changes: Any) -> Run:
    experiment = small(**SHORT | changes)
    return Run(experiment, experiment.methods[0], 0, Start(directory, "0" * 64, {}), folder, judged(experiment))


def assert_same(folder: Path, other: Path) -> None:
    """Every record and the last checkpoint, byte for byte, but for whose they are: another backend's run is another."""
    files = [*WRITTEN, *(file.relative_to(other) for file in checkpoints(other)[-1].iterdir())]
    for name in files:
        if Path(name).name not in ("SHA256SUMS", "run_state.json"):
            assert anonymous(folder / name) == anonymous(other / name), name


def anonymous(file: Path) -> bytes:
    """A file's bytes; of a record that grows, those of its rows, without the header that names the run."""
    return file.read_bytes().partition(b"\n")[2] if file.suffix == ".jsonl" else file.read_bytes()


class Driving(TorchBackend):
    """A trainer with a loop of its own, as TRL has one: so many steps, the batch fetched when a step begins, the
    metrics handed over when the next is about to."""

    def drive(self, feed: Feed) -> None:
        metrics: dict[str, float] | None = None
        for _ in range(1000):
            if metrics is not None:
                feed.report(metrics)
            batch = feed.next()
            if batch is None:
                return
            metrics = self.update(batch.batch, batch.loss, batch.per_term)
        raise AssertionError("the feed did not end")


@pytest.mark.parametrize("optimiser", [{}, {"updates": 2, "minibatches": 3}])
def test_whoever_owns_the_loop_leaves_the_same_bytes(
    tiny_directory: Path, tmp_path: Path, optimiser: dict[str, Any]
) -> None:
    changes = SHORT | {"optimiser": optimiser}
    run_job(job(small(**changes), tiny_directory, tmp_path / "ours"), quiet)
    theirs = PlugSettings(plug=f"{__name__}:Driving")
    run_job(job(small(**changes, backend=theirs.plug), tiny_directory, tmp_path / "theirs"), quiet)
    pulled = run_of(tiny_directory, tmp_path / "pulled", **changes)
    with pulled.pool:
        feed, seen = RunFeed(pulled), []
        while (update := feed.next()) is not None:
            seen.append((update.step, update.number, update.last))
            feed.report(pulled.backend.update(update.batch, update.loss, update.per_term))
        assert feed.next() is None
    for name in ("theirs", "pulled"):
        assert_same(tmp_path / name, tmp_path / "ours")
    parts = optimiser.get("updates", 1) * optimiser.get("minibatches", 1)
    assert seen == [(step, number, number == parts - 1) for step in range(3) for number in range(parts)]


def test_an_update_carries_whole_episodes_and_the_counts_of_its_step(tiny_directory: Path, tmp_path: Path) -> None:
    """3 tasks with 4 siblings each: 12 rows in one part, or spread over 5 parts."""
    for minibatches, rows in ((1, [12]), (5, [3, 3, 2, 2, 2])):
        run = run_of(tiny_directory, tmp_path / str(minibatches), optimiser={"minibatches": minibatches})
        with run.pool:
            feed, sizes = RunFeed(run), []
            while (update := feed.next()) is not None and update.step == 0:
                assert update.batch.step_tokens == int(update.batch.mask.sum())
                assert update.batch.step_sequences == len(update.batch.lengths)
                sizes.append(len(update.batch.lengths))
                feed.report(run.backend.update(update.batch, update.loss))
        assert sizes == rows


def test_out_of_turn_is_said(tiny_directory: Path, tmp_path: Path) -> None:
    run = run_of(tiny_directory, tmp_path)
    with run.pool:
        feed = RunFeed(run)
        with pytest.raises(RuntimeError, match="no update is waiting"):
            feed.report({})
        update = feed.next()
        assert update is not None
        with pytest.raises(RuntimeError, match="not reported"):
            feed.next()
        feed.report(run.backend.update(update.batch, update.loss))
        with pytest.raises(RuntimeError, match="no update is waiting"):
            feed.report({})


def test_a_feed_goes_on_where_another_stopped(tiny_directory: Path, tmp_path: Path) -> None:
    run_job(job(small(**SHORT), tiny_directory, tmp_path / "calm"), quiet)
    for _ in range(3):  # each process takes one step and is gone before it is told of the next
        run = run_of(tiny_directory, tmp_path / "hunted")
        with run.pool:
            feed = RunFeed(run)
            assert feed.resumed_from == (checkpoints(run.folder) or [None])[-1]
            update = feed.next()
            assert update is not None
            feed.report(run.backend.update(update.batch, update.loss, update.per_term))
            feed.next()
    assert_same(tmp_path / "hunted", tmp_path / "calm")


class Plain(TorchBackend):
    """Cannot measure single terms."""

    asked: list[bool]

    @classmethod
    def capabilities(cls) -> frozenset[Capability]:
        return EVERYTHING - {Capability.TERM_GRADIENTS}

    def update(self, batch: Any, loss: Any, per_term: bool = False) -> dict[str, float]:
        assert not per_term
        return super().update(batch, loss)


def test_what_a_trainer_cannot_measure_it_is_not_asked_for(tiny_directory: Path, tmp_path: Path) -> None:
    anchored = {"label": "GRPO", "plug": "agents.methods.grpo:GRPO", "options": {"kl": 0.1}}
    measured = []
    for plug in ("harness.backends.torch:TorchBackend", f"{__name__}:Plain"):
        experiment = small(**SHORT | {"budget": {"steps": 1}}, backend=plug, methods=[anchored])
        done = job(experiment, tiny_directory, tmp_path / plug.rpartition(":")[2])
        run_job(done, quiet)
        first = records.read(done.folder / "steps.jsonl").strict()[0]
        measured.append({name for name in first if name.startswith("gradient/")})
    assert measured == [{"gradient/surrogate", "gradient/anchor"}, set()]


# ---------------------------------------------------------------- versions of weights


def test_a_completion_says_which_weights_sampled_it(tiny_directory: Path, tmp_path: Path) -> None:
    run = run_of(tiny_directory, tmp_path)
    with run.pool:
        prompt = Prompt([1, 2, 3])
        feed, versions = RunFeed(run), []
        while (update := feed.next()) is not None:
            versions.append(run.backend.sample([prompt], SamplingParams(2))[0].version)
            assert versions[-1] == run.backend.version
            feed.report(run.backend.update(update.batch, update.loss))
        before = run.backend.version
        run.backend.load(checkpoints(run.folder)[-1])
        assert run.backend.version not in (before, *versions)
    assert len(set(versions)) == 3


class Stale(TorchBackend):
    """A sampler that never hears of an update."""

    def sample(self, prompts: Any, params: SamplingParams) -> list[Completion]:
        return [Completion(c.tokens, c.logprobs, c.stopped, version=0) for c in super().sample(prompts, params)]


def test_stale_weights_are_refused_by_their_version(tiny_directory: Path, tmp_path: Path) -> None:
    stale = job(small(**SHORT, backend=f"{__name__}:Stale"), tiny_directory, tmp_path)
    with pytest.raises(HarnessError, match=r"version 0 of the weights, the current one is 1.*Trainer\.sync"):
        run_job(stale, quiet)
    assert [row["step"] for row in records.read(tmp_path / "steps.jsonl").strict()] == [0]


# ---------------------------------------------------------------- several ranks


class Pipes:
    """A channel between threads: one queue for each rank above 0."""

    def __init__(self, rank: int, pipes: list[queue.Queue[Any]]) -> None:
        self.rank, self.pipes = rank, pipes

    def broadcast(self, item: Any) -> Any:
        if self.rank:
            return self.pipes[self.rank - 1].get(timeout=60)
        for pipe in self.pipes:
            pipe.put(item)
        return item


class Listening(TorchBackend):
    """A rank above 0: it steps, and does nothing else."""

    def sample(self, prompts: Any, params: SamplingParams) -> list[Completion]:
        raise AssertionError("only rank 0 plays")

    def score(self, *given: Any, **options: Any) -> Any:
        raise AssertionError("only rank 0 gathers")


def follower(channel: Pipes, backend: Listening, out: dict[int, Any]) -> None:
    try:
        relay = Relay(channel, None)
        if relay.resumed_from is not None:
            backend.load(relay.resumed_from)
        backend.drive(relay)
        out[channel.rank] = [weight.detach().numpy().copy() for weight in backend.model.parameters()]
    except HarnessError as error:
        out[channel.rank] = str(error)


def together(run: Run, ranks: int, lead: Callable[[Relay], None]) -> dict[int, Any]:
    """The ranks of a run, each a thread; what those above 0 end with."""
    pipes: list[queue.Queue[Any]] = [queue.Queue() for _ in range(ranks - 1)]
    out: dict[int, Any] = {}
    e = run.experiment
    # Made one after the other: transformers does not open models in two threads at once.
    models = [Listening(run.start.directory, e.optimiser, e.budget.steps, device="cpu") for _ in pipes]
    threads = [
        threading.Thread(target=follower, args=(Pipes(rank, pipes), model, out), daemon=True)
        for rank, model in enumerate(models, start=1)
    ]
    assert run.backend.vocabulary == models[0].vocabulary
    for thread in threads:
        thread.start()
    try:
        with run.pool:
            lead(Relay(Pipes(0, pipes), RunFeed(run)))
    finally:
        for thread in threads:
            thread.join(60)
    return out


def test_ranks_step_alike_and_rank_0_alone_plays_and_writes(tiny_directory: Path, tmp_path: Path) -> None:
    run_job(job(small(**SHORT), tiny_directory, tmp_path / "calm"), quiet)
    run = run_of(tiny_directory, tmp_path / "ranks")
    ends = together(run, 3, run.backend.drive)
    assert_same(tmp_path / "ranks", tmp_path / "calm")
    own = [weight.detach().numpy() for weight in run.backend.model.parameters()]
    for rank in (1, 2):
        assert all(np.array_equal(a, b) for a, b in zip(own, ends[rank], strict=True))


def test_all_ranks_go_on_from_the_checkpoint(tiny_directory: Path, tmp_path: Path) -> None:
    class Killed(BaseException): ...

    def progress(what: str, done: int, total: int) -> None:
        if what == "training" and done == 2:
            raise Killed

    stopped = run_of(tiny_directory, tmp_path)
    stopped.progress = progress
    with stopped.pool, pytest.raises(Killed):
        stopped.backend.drive(RunFeed(stopped))
    run = run_of(tiny_directory, tmp_path)
    ends = together(run, 2, run.backend.drive)
    saved = load_file(checkpoints(tmp_path)[-1] / "model.safetensors")
    assert {weight.tobytes() for weight in ends[1]} == {weight.tobytes() for weight in saved.values()}


def test_an_error_of_rank_0_ends_the_others_in_words(tiny_directory: Path, tmp_path: Path) -> None:
    run = run_of(tiny_directory, tmp_path)
    ends: dict[int, Any] = {}

    def lead(relay: Relay) -> None:
        update = relay.next()
        assert isinstance(update, Update)
        relay.report(run.backend.update(update.batch, update.loss))
        (tmp_path / "steps.jsonl").unlink(missing_ok=True)
        (tmp_path / "steps.jsonl").mkdir()  # nothing can be recorded any more
        with pytest.raises(OSError, match=r"steps\.jsonl"):
            relay.next()

    ends = together(run, 2, lead)
    assert ends[1].startswith("rank 0 stopped, and all others with it: WriteError: ")


def test_the_feed_is_on_rank_0_alone() -> None:
    for rank, held in ((0, False), (1, True)):
        feed: Any = object.__new__(RunFeed) if held else None
        with pytest.raises(ValueError, match=f"rank 0 holds the feed, and no other; this is rank {rank}"):
            Relay(Pipes(rank, []), feed)
