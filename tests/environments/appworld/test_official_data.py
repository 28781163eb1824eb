"""AppWorld-v0 on an official data folder: a stand-in in its exact layout and sizes, of tasks of the own world under ids
like AppWorld's.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from itertools import chain, cycle
from pathlib import Path

import pytest
from episodes import played, program
from experiments import small

from environments.appworld import install
from environments.appworld.engine_pool import EnginePool
from environments.appworld.env import AppWorldEnv
from harness.core.errors import UserError
from harness.protocols.backend import Start
from harness.runs.plan import observe

SIZES = {"train": 90, "dev": 57, "test_normal": 168, "test_challenge": 417}
SPLITS = list(SIZES)


@dataclass
class StandIn:
    """root: what APPWORLD_ROOT names; origin: from an id of the stand-in to the own task it is made of."""

    root: Path
    origin: dict[str, str]

    @property
    def data(self) -> Path:
        return self.root / "data"


def stand_in(root: Path) -> StandIn:
    """Scenarios of the own world's split of the same name, again and again, until the split is as large as the official
    one.
    """
    own = install.own_world() / "truth" / "data"
    splits = install.manifest_of(install.own_world())["splits"]
    data = root / "data"
    (data / "datasets").mkdir(parents=True)
    for shared in ("base_dbs", "api_docs"):
        (data / shared).symlink_to(own / shared)
    shutil.copy(own / "version.txt", data)
    made = StandIn(root, {})
    for number, (split, size) in enumerate(SIZES.items()):
        ids = [f"{number}{scenario:05x}e_{variant}" for scenario in range(size // 3) for variant in (1, 2, 3)]
        (data / "datasets" / f"{split}.txt").write_text("\n".join(ids) + "\n")
        for task_id, origin in zip(ids, cycle(splits[split]), strict=False):
            task = data / "tasks" / task_id
            task.mkdir(parents=True)
            shutil.copy(own / "tasks" / origin / "specs.json", task)
            for part in ("dbs", "ground_truth"):
                (task / part).symlink_to(own / "tasks" / origin / part)
            made.origin[task_id] = origin
    return made


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> StandIn:
    return stand_in(tmp_path_factory.mktemp("official"))


@pytest.fixture(scope="module")
def own() -> AppWorldEnv:
    return AppWorldEnv("own")


@pytest.fixture
def nowhere(own: AppWorldEnv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No official data: a cache of this test's own, where serving roots are made, too."""
    monkeypatch.delenv("APPWORLD_ROOT", raising=False)
    monkeypatch.setattr(install, "OFFICIAL", tmp_path / "official")
    return tmp_path


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def official(made: StandIn, own: AppWorldEnv, cache: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """The stand-in is named by APPWORLD_ROOT; where it is served from lies in a cache of these tests' own."""
    monkeypatch.setenv("APPWORLD_ROOT", str(made.root))
    monkeypatch.setattr(install, "CACHE", cache)
    return made


# ---------------------------------------------------------------- without it


def test_without_the_data_the_own_world_is_played_and_says_so(nowhere: Path) -> None:
    env = AppWorldEnv()
    assert env.known.root == AppWorldEnv("own").known.root
    assert "not AppWorld's tasks" in env.protocol
    with pytest.raises(ValueError, match=r"not installed.*harness setup appworld-data"):
        AppWorldEnv("official")


def test_a_root_without_data_is_named(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APPWORLD_ROOT", str(nowhere / "elsewhere"))
    for world in ("auto", "official"):
        with pytest.raises(ValueError, match=r"APPWORLD_ROOT names .*elsewhere.*harness setup appworld-data"):
            AppWorldEnv(world)  # type: ignore[arg-type]
    assert AppWorldEnv("own").splits  # which needs none


# ---------------------------------------------------------------- what is not whole


def test_data_that_is_not_whole_is_refused(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = stand_in(nowhere / "broken")
    monkeypatch.setenv("APPWORLD_ROOT", str(made.root))
    assert {split: len(ids) for split, ids in install.check_official(made.data).items()} == SIZES
    task_id = install.check_official(made.data)["test_normal"][7]
    specs = made.data / "tasks" / task_id / "specs.json"
    specs.rename(specs.with_name("elsewhere.json"))
    with pytest.raises(ValueError, match=f"incomplete: 1 tasks have no specs.json, {task_id} for one"):
        AppWorldEnv()
    specs.with_name("elsewhere.json").rename(specs)
    file = made.data / "datasets" / "dev.txt"
    file.write_text("\n".join(file.read_text().split()[:-1]))
    with pytest.raises(ValueError, match=r"split dev has 56 tasks, not 57; fetch it anew.*harness setup appworld-data"):
        AppWorldEnv()
    file.unlink()
    with pytest.raises(ValueError, match="split dev has 0 tasks"):
        AppWorldEnv("official")


def test_splits_are_read_as_the_engine_reads_them(nowhere: Path) -> None:
    """An id may have a tag behind a colon, a line may be empty."""
    made = stand_in(nowhere / "tagged")
    before = install.check_official(made.data)
    file = made.data / "datasets" / "train.txt"
    file.write_text("".join(f"{task_id}:a tag\n\n" for task_id in before["train"]))
    assert install.check_official(made.data) == before


# ---------------------------------------------------------------- what is


def test_auto_takes_the_official_data(official: StandIn, own: AppWorldEnv) -> None:
    env, same = AppWorldEnv(), AppWorldEnv("official")
    assert {split: len(env.tasks(split)) for split in env.splits} == SIZES
    assert env.protocol == "AppWorld"
    assert env.version == same.version != own.version
    assert [split for split in SPLITS if env.trainable(split)] == ["train", "dev"]
    # the official solutions are not the project's to ship
    task_id = env.tasks("train")[0]
    assert env.gold(task_id) is env.habit(task_id) is None


def test_an_official_task_is_played_and_judged(official: StandIn, own: AppWorldEnv) -> None:
    env = AppWorldEnv("official", reward="dense")
    engines = EnginePool.of(env.known.root, 10.0, 12_000, 1024)
    try:
        for split, which in (("train", "wrong"), ("test_challenge", "gold")):
            task_id = env.tasks(split)[-1]
            origin = official.origin[task_id]
            _, info, reward = played(env, task_id, program(own, origin, which))
            assert info is not None
            assert info["success"] == (which == "gold")
            assert (reward == 1.0) == (which == "gold")
            assert info["metrics"]["difficulty"] == own.known.facts[origin]["difficulty"]
    finally:
        env.close()
        engines.close()


def test_episodes_are_played_where_no_ground_truth_is(official: StandIn) -> None:
    root = AppWorldEnv("official").known.root
    assert root.truth == official.root
    served = {file for _, folders, files in os.walk(root.serve, followlinks=True) for file in chain(folders, files)}
    assert {"specs.json", "venmo.jsonl", "base_dbs", *official.origin} <= served
    kept_back = {path.name for path in next(official.data.glob("tasks/*/ground_truth")).iterdir()}
    assert "evaluation.py" in kept_back
    assert not served & {"ground_truth", *kept_back}


def test_new_data_in_the_same_place_is_served_anew(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = stand_in(nowhere / "growing")
    monkeypatch.setattr(install, "CACHE", nowhere / "cache")
    before = install.serving_root(made.data)
    assert install.serving_root(made.data) == before
    task = made.data / "tasks" / "feed123_1"
    shutil.copytree(made.data / "tasks" / install.check_official(made.data)["dev"][0], task, symlinks=True)
    after = install.serving_root(made.data)
    assert (after / "data" / "tasks" / task.name / "specs.json").read_text() == (task / "specs.json").read_text()
    assert not (before / "data" / "tasks" / task.name).exists()


def test_held_out_tasks_are_not_trained_on(official: StandIn, tiny_directory: Path) -> None:
    start = Start(tiny_directory, "0" * 64, {})
    for split in ("test_normal", "test_challenge"):
        experiment = small(environment={"id": "environments:AppWorld-v0", "train_split": split, "eval_split": "dev"})
        with pytest.raises(UserError, match=f"split '{split}' of environments:AppWorld-v0 may not be trained on"):
            observe(experiment, {0: start})
    experiment = small(environment={"id": "environments:AppWorld-v0", "train_split": "train", "eval_split": "dev"})
    assert observe(experiment, {0: start}).matched["environment.protocol"] == "AppWorld"
