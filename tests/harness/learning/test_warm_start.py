"""The starting policy: made once from demonstrations, cached by content, measured, and as imperfect as it was asked
to be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from experiments import small
from odd_environments import FAILED

from harness import ROOT
from harness.core.errors import UserError
from harness.experiment import Experiment
from harness.learning.warm_start import MARGIN, checkpoint_hash, start_of

TINY = {
    "name": "tiny",
    "device": "cpu",
    "tiny": {"width": 32, "layers": 2, "heads": 4, "kv_heads": 1, "mlp": 64, "window": 96, "vocabulary": 280},
}
GUESS = {"id": "environments:Guess-v0", "options": {"windows": 3}}


def experiment(environment: dict[str, Any] = GUESS, model: dict[str, Any] = TINY, **warm_start: Any) -> Experiment:
    settings = {"steps": 3, "batch": 8, "measure": 3} | warm_start
    return small(environment=environment, model=model, warm_start=settings, sampling={"max_new_tokens": 4})


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_a_start_is_made_once(cache: Path) -> None:
    start = start_of(experiment(), cache)
    assert start.directory.parent == cache / "warm-starts"
    assert not [entry for entry in start.directory.parent.iterdir() if entry.name.startswith(".")]
    assert {"config.json", "model.safetensors", "tokenizer.json", "measured.json"} <= {
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
    (copy / "measured.json").write_text("{}")
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


def test_demonstrations_teach(cache: Path) -> None:
    """Gold alone, long enough to know the train split by heart; the habit alone finds the three lowest secrets of
    seven."""
    gold = start_of(experiment(steps=200, batch=12, lr=1e-2), cache)
    habit = start_of(experiment(steps=200, batch=12, lr=1e-2, habit_share=1.0), cache)
    train = {"train_split": "train", "eval_split": "train"}
    from harness.backends import SamplingParams
    from harness.backends.torch import TorchBackend
    from harness.core.seeds import SeedTree
    from harness.experiment import EnvironmentSettings
    from harness.rollout.environments import EnvironmentPool
    from harness.rollout.panel import play_panel, success_rate
    from harness.rollout.policies import TokenPolicy
    from harness.rollout.rollouts import Rollouts

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


def test_what_a_context_is_worth_is_measured_and_said(cache: Path) -> None:
    contexts = ("agents.contexts:Answer", "agents.contexts:SuccessfulSibling")
    measured = start_of(experiment(contexts=contexts, context_share=0.5), cache).measured
    assert (measured["split"], measured["tasks"]) == ("dev", 3)
    assert tuple(measured["contexts"]) == contexts
    for known in measured["contexts"].values():
        assert known["adds"] == pytest.approx(known["sampled"] - measured["sampled"])
        assert known["teacher_adds_nothing"] is (known["adds"] < MARGIN)
    assert measured["contexts"][contexts[0]]["teacher_adds_nothing"]  # three steps teach nobody to read


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
