"""The starting policy: made once from demonstrations, cached by content, measured, and as imperfect as it was asked
to be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from experiments import process, small
from odd_environments import FAILED

from harness import ROOT
from harness.backends.torch import TorchBackend
from harness.core import records
from harness.core.errors import UserError
from harness.core.seeds import SeedTree
from harness.core.types import ContextRequest, Ending, Episode, TokenSequence
from harness.experiment import EnvironmentSettings, Experiment
from harness.learning.demonstrations import SHARED, Replays, as_sampled
from harness.learning.policy_hash import checkpoint_hash
from harness.learning.warm_start import for_every_seed, start_of, start_seeds, starts_at_hand
from harness.protocols.backend import SamplingParams
from harness.rollout.conversation import Request
from harness.rollout.environments import EnvironmentPool
from harness.rollout.panel import play_panel, success_rate
from harness.rollout.policies import TokenPolicy
from harness.rollout.rollouts import Rollouts

TINY = {
    "name": "tiny",
    "device": "cpu",
    "tiny": {"width": 32, "layers": 2, "heads": 4, "kv_heads": 1, "mlp": 64, "window": 96, "vocabulary": 280},
}
GUESS = {"id": "environments:Guess-v0", "options": {"windows": 3}}


def experiment(environment: dict[str, Any] = GUESS, model: dict[str, Any] = TINY, **warm_start: Any) -> Experiment:
    settings = {"steps": 3, "batch": 8} | warm_start
    return small(
        environment=environment,
        model=model,
        warm_start=settings,
        sampling={"max_new_tokens": 4},
        evaluation={"start_tasks": 3},
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_a_start_is_made_once(cache: Path) -> None:
    start = start_of(experiment(), cache)
    assert start.directory.parent == cache / "warm-starts"
    assert not [entry for entry in start.directory.parent.iterdir() if entry.name.startswith(".")]
    assert {"config.json", "model.safetensors", "tokenizer.json", "start.json"} <= {
        f.name for f in start.directory.iterdir()
    }
    assert not (start.directory / "trainer_state.pt").exists()
    before = {file: file.stat().st_mtime_ns for file in start.directory.iterdir()}
    assert start_of(experiment(), cache) == start
    assert {file: file.stat().st_mtime_ns for file in start.directory.iterdir()} == before


def test_the_same_settings_give_the_same_weights_anywhere(cache: Path, tmp_path: Path) -> None:
    assert start_of(experiment(), tmp_path).checkpoint_hash == start_of(experiment(), cache).checkpoint_hash


@pytest.mark.parametrize("change", [{"steps": 4}, {"lr": 1e-3}, {"habit_share": 0.5}, {"demonstrations": 5}])
def test_other_settings_give_another_start(cache: Path, change: dict[str, Any]) -> None:
    one, other = start_of(experiment(), cache), start_of(experiment(**change), cache)
    assert one.directory != other.directory
    assert one.checkpoint_hash != other.checkpoint_hash


def test_the_hash_is_of_what_the_model_says(cache: Path, tmp_path: Path) -> None:
    start = start_of(experiment(), cache)
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in start.directory.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert checkpoint_hash(copy) == start.checkpoint_hash
    (copy / "start.json").write_text("{}")
    assert checkpoint_hash(copy) == start.checkpoint_hash
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert checkpoint_hash(copy) != start.checkpoint_hash


def test_a_start_that_was_interrupted_is_made_again(tmp_path: Path) -> None:
    class Killed(BaseException): ...

    def progress(what: str, done: int, total: int) -> None:
        if done == 2:
            raise Killed

    with pytest.raises(Killed):
        start_of(experiment(), tmp_path, progress)
    assert list((tmp_path / "warm-starts").iterdir()) == []
    assert start_of(experiment(), tmp_path).measured["tasks"] == 3


def test_a_half_made_start_under_the_right_name_is_replaced(cache: Path, tmp_path: Path) -> None:
    start = start_of(experiment(), cache)
    half = tmp_path / "warm-starts" / start.directory.name
    half.mkdir(parents=True)
    (half / "config.json").write_text("{}")
    again = start_of(experiment(), tmp_path)
    assert (again.directory, again.checkpoint_hash) == (half, start.checkpoint_hash)


@pytest.mark.slow
def test_demonstrations_teach(cache: Path) -> None:
    """Gold alone, long enough to know the train split by heart; the habit alone finds the three lowest secrets of
    seven."""
    gold = start_of(experiment(steps=200, batch=12, lr=1e-2), cache)
    habit = start_of(experiment(steps=200, batch=12, lr=1e-2, habit_share=1.0), cache)
    train = {"train_split": "train", "eval_split": "train"}
    rates = []
    with EnvironmentPool(EnvironmentSettings(**GUESS, **train)) as pool:
        tasks = pool.environment.tasks("train")
        for start in (gold, habit):
            policy = TokenPolicy(TorchBackend(start.directory, device="cpu"), SamplingParams(4))
            rates.append(success_rate(play_panel(Rollouts(pool), policy, tasks, SeedTree(0), "greedy", 1)))
        counted = [
            len(pool.environment.gold(task)) > 0 and pool.environment.habit(task)[-1] == pool.environment.answer(task)
            for task in tasks
        ]
    assert rates[0] > 0.9
    assert rates[1] == pytest.approx(np.mean(counted), abs=0.1)


# ---------------------------------------------------------------- a start for every seed


def test_every_seed_has_a_start_of_its_own_and_one_tokenizer(cache: Path) -> None:
    one, other = start_of(experiment(), cache, seed=0), start_of(experiment(), cache, seed=1)
    assert one.checkpoint_hash != other.checkpoint_hash
    assert one.origin == other.origin
    assert one.origin != start_of(experiment(steps=4), cache).origin
    assert (one.directory / "tokenizer.json").read_bytes() == (other.directory / "tokenizer.json").read_bytes()


def test_the_tokenizer_is_shared_although_seeds_demonstrate_other_tasks(cache: Path) -> None:
    few = experiment(demonstrations=4, contexts=["agents.contexts:Answer"], context_share=0.5)
    directories = [start_of(few, cache, seed=seed).directory for seed in (0, 1, 2)]
    assert len({(place / "tokenizer.json").read_bytes() for place in directories}) == 1
    assert len({(place / "model.safetensors").read_bytes() for place in directories}) == 3


def test_the_texts_of_the_tokenizer_are_made_once_and_anew_where_they_are_damaged(tmp_path: Path) -> None:
    few = experiment(demonstrations=4, contexts=["agents.contexts:Answer"], context_share=0.5)
    first = start_of(few, tmp_path).directory
    [kept] = (tmp_path / "demonstrations").glob("texts-*.jsonl")
    whole, written = kept.read_bytes(), kept.stat().st_mtime_ns
    second = start_of(few, tmp_path, seed=1).directory
    assert kept.stat().st_mtime_ns == written
    lines = whole.splitlines(keepends=True)
    for damaged in (b"".join(lines[:-1]), whole.replace(b"text", b"tent", 2), b""):
        kept.write_bytes(damaged)
        shutil.rmtree(second)
        start_of(few, tmp_path, seed=1)
        assert kept.read_bytes() == whole
        assert (second / "tokenizer.json").read_bytes() == (first / "tokenizer.json").read_bytes()


def test_what_is_at_hand_is_known_without_making_anything(cache: Path, tmp_path: Path) -> None:
    wanted = experiment()
    assert starts_at_hand(wanted, tmp_path, [0, 1]) == {}
    made = start_of(wanted, tmp_path, seed=1)
    assert starts_at_hand(wanted, tmp_path, [0, 1]) == {1: made}
    taught = small(
        **wanted.model_dump(include={"environment", "model", "warm_start", "evaluation", "sampling"}),
        methods=[{"label": "OPSD", "plug": "agents.methods.opsd:OPSD"}],
    )
    assert starts_at_hand(taught, tmp_path, [1]) == {}  # made, but what its teacher reads has not been measured
    again = start_of(taught, tmp_path, seed=1)
    assert (again.directory, again.checkpoint_hash) == (made.directory, made.checkpoint_hash)
    assert starts_at_hand(taught, tmp_path, [1]) == {1: again}


def test_a_ready_made_model_is_the_start_of_every_seed(cache: Path) -> None:
    model = start_of(experiment(), cache).directory
    ready = small(model={"name": str(model)}, seeds=[4, 7])
    assert start_seeds(ready) == (0,)
    start = start_of(ready, cache)
    assert for_every_seed(ready, {0: start}) == {4: start, 7: start}
    assert start.origin == start.checkpoint_hash
    own = experiment().model_copy(update={"seeds": (4, 7)})
    assert start_seeds(own) == (4, 7)


def _make(folder: Path) -> None:
    start_of(experiment(), folder)


def test_two_processes_that_want_one_start_make_it_once(tmp_path: Path) -> None:
    with process(_make, tmp_path) as one, process(_make, tmp_path) as other:
        for running in (one, other):
            running.join(120)
            assert running.exitcode == 0
    (made,) = (tmp_path / "warm-starts").iterdir()
    (replayed,) = (tmp_path / "demonstrations").glob("[!t]*")
    (texts,) = (tmp_path / "demonstrations").glob("texts-*")
    assert records.read(texts).strict()
    scripts = [row["script"] for row in records.read(replayed).strict()]
    assert len(scripts) == len(set(scripts)) > 0
    assert start_of(experiment(), tmp_path).directory == made


# ---------------------------------------------------------------- demonstrations


@pytest.mark.parametrize("window", [64, 40, 34])
@pytest.mark.parametrize("kind", ["gold", "habit"])
def test_a_kept_replay_gives_the_tokens_of_playing_it_again(cache: Path, kind: str, window: int) -> None:
    """Against the rollout engine itself, windows that are too small included."""
    directory = start_of(experiment(), cache).directory
    backend = TorchBackend(directory, device="cpu")
    backend.window = window
    policy = TokenPolicy(backend, SamplingParams(4))
    with EnvironmentPool(EnvironmentSettings(**GUESS)) as pool:
        replays = Replays(EnvironmentSettings(**GUESS), pool, cache)
        tasks = pool.environment.tasks("train")
        scripts = replays.gold(tasks) if kind == "gold" else replays.habit(replays.gold(tasks))
        context = ContextRequest("the answer is 3")
        for given in (None, context):
            requests = [
                Request(task, SHARED["demonstration", task], context=given, script=scripts[task]) for task in tasks
            ]
            played = Rollouts(pool).play(requests, policy)
            kept = replays.play(scripts)
            fitting = 0
            for task, episode in zip(tasks, played, strict=True):
                found = as_sampled(task, given, scripts[task], kept[task], policy, pool.environment.tools)
                assert (found is None) is (episode.ending is Ending.TOKEN_LIMIT)
                if found is not None:
                    fitting += 1
                    for name in ("tokens", "mask", "logprobs", "turns"):
                        np.testing.assert_array_equal(getattr(found, name), getattr(episode.sequence, name), name)
            assert window < 64 or fitting == len(tasks)


def test_an_opening_may_show_another_agents_messages(cache: Path) -> None:
    """Examples in the opening are not the demonstrated agent's: what it sampled begins with its script."""
    directory = start_of(experiment(), cache).directory
    policy = TokenPolicy(TorchBackend(directory, device="cpu"), SamplingParams(4))
    said = [("user", "a"), ("assistant", "5"), ("user", "b"), ("assistant", "1"), ("user", "c"), ("assistant", "2")]
    messages = tuple({"role": role, "content": content} for role, content in said)
    empty = TokenSequence(*(np.zeros(0, dtype) for dtype in (np.int64, bool, float, np.int64)))
    found = as_sampled("t", None, ("1", "2"), Episode("t", empty, 1.0, True, Ending.COMPLETED, messages), policy, None)
    assert found is not None
    sampled = [policy.renderer.decode(found.tokens[found.mask & (found.turns == turn)].tolist()) for turn in (0, 1)]
    assert sampled == ["1", "2"]


# ---------------------------------------------------------------- ready-made models


def test_a_directory_of_a_model_is_a_start_as_it_is(cache: Path, tmp_path: Path) -> None:
    model = start_of(experiment(), cache).directory
    start = start_of(small(model={"name": str(model)}), tmp_path)
    assert (start.directory, start.measured) == (model, {})
    assert start.checkpoint_hash == checkpoint_hash(model)
    assert json.loads((model / "config.json").read_text())["hidden_size"] == 32


def test_a_start_may_begin_from_a_model(cache: Path) -> None:
    model = start_of(experiment(), cache).directory
    further = start_of(experiment(model={"name": str(model)}), cache)
    assert further.directory not in (model, None)
    assert further.checkpoint_hash != checkpoint_hash(model)
    assert (further.directory / "tokenizer.json").read_bytes() == (model / "tokenizer.json").read_bytes()


# ---------------------------------------------------------------- what cannot be


def test_the_tiny_policy_needs_a_warm_start(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"needs a \[warm_start\] section"):
        start_of(small(), tmp_path)


def test_a_share_of_contexts_needs_a_context(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="context_share is set, but"):
        start_of(experiment(context_share=0.5), tmp_path)


def test_a_window_too_small_for_the_demonstrations_is_said(tmp_path: Path) -> None:
    cramped = TINY | {"tiny": TINY["tiny"] | {"window": 16}}  # type: ignore[operator]
    with pytest.raises(
        UserError,
        match=r"only \d of 12 demonstrations can .*: 0 failed .*, \d+ do not fit the model's window of 16 tokens",
    ):
        start_of(experiment(model=cramped), tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [("smollm", "unknown model 'smollm'; did you mean 'smollm2'"), ("no/such/place", "unknown model 'no/such/place'")],
)
def test_an_unknown_model_is_told_the_nearest(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        start_of(experiment(model={"name": name}), tmp_path)


def test_an_unknown_split_is_told_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown split 'trian'; did you mean 'train'"):
        start_of(experiment(environment=GUESS | {"train_split": "trian"}), tmp_path)


def test_demonstrations_that_fail_are_not_learned(tmp_path: Path) -> None:
    """An environment that breaks on every task leaves nothing to learn from, and that is said."""
    FAILED.clear()
    broken = {"id": "odd_environments:Faulty-v0", "options": {"fault": "raises"}}
    with pytest.raises(UserError, match="only 0 of 12 demonstrations can be learned from: 12 failed"):
        start_of(experiment(environment=broken), tmp_path)


def test_nothing_of_this_machine_is_in_a_start(cache: Path) -> None:
    start = start_of(experiment(), cache)
    for file in start.directory.iterdir():
        content = file.read_bytes()
        assert str(cache).encode() not in content, file.name
        assert str(ROOT).encode() not in content, file.name
