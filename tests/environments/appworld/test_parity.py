"""AppWorld-v0 beside AppWorld itself: the same blocks are answered alike and leave the same state, and both judge it
alike.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from episodes import episode, played, program
from goal_completion import goal_completion
from raw_engine import RawEngine

from environments.appworld import install
from environments.appworld.env import AppWorldEnv

ALIKE = r'''
import random
print(random.random(), random.sample(range(100), 3))
===
print({"a": 1, "b": [1, 2]}); print([1, "é", None]); print((1, 2)); print("a", 2, sep="-", end="!")
===
print({"long": "x" * 120})
===
x = 5
x
===
print(apis.supervisor.show_profile()["email"].upper())
===
print(apis.api_docs.show_api_doc(app_name="spotify", api_name="login"))
===
apis.spotify.show_song(song_id=99999999)
===
apis.spotify.show_song_library(access_token="nope")
===
apis.spotify.login(username="a", password="b")
===
apis.spotify.login(user="a")
===
apis.spotify.nope()
===
apis.nope.login()
===
apis.venmo.show_transactions(access_token=5, page_index=-1)
===
try:
    apis.spotify.show_song(song_id=99999999)
except Exception as error:
    print(error)
===
def outer(n):
    return inner(n) + 1
def inner(n):
    return 1 // n
===
print(outer(0))
===
try:
    outer(0)
except ZeroDivisionError as error:
    raise ValueError("again") from error
===
try:
    outer(0)
except ZeroDivisionError:
    {}["key"]
===
print("before"); 1 / 0
===
for i in range(3):
    print(i)
    if i == 1: raise KeyError(i)
===
class Mine(Exception): pass
raise Mine("mine")
===
error = ValueError("noted"); error.add_note("a note"); raise error
===
raise ExceptionGroup("group", [ValueError(1), KeyError("k")])
===
def steps():
    yield 1
    raise RuntimeError("amid")
list(steps())
===
"{a}".format(b=1)
===
[1, 2][
5]
===
assert x == 2, "no"
===
print(undefined)
===
"é" + 1
===
if True:
print(1)
===
print("unclosed
===
return 5
===
!ls
===
x?
===
# nothing but a comment
===
print()
===
print("a\n\n")
===
print(DateTime.now(), pendulum.now(), Counter("aab"), re.sub("a", "b", "cat"), math.pi, json.loads("[1]"))
===
import time
from datetime import date, datetime
print(datetime.now(), date.today(), time.time())
'''.strip("\n").split("\n===\n")  # fmt: skip
"""Blocks of one episode: what prints, what fails and how that is reported, the frozen clock, names that live on."""

CHOSEN = (
    ("import os\nprint(os.getcwd())", "is not allowed"),
    ("print(apis.spotify)", "spotify(add_album_to_library"),
    ("print(apis.spotify.login)", "<function login at 0x...>"),
)
"""Blocks that the project answers differently, on purpose, and how."""


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RawEngine]:
    with RawEngine(tmp_path_factory.mktemp("raw") / "root") as engine:
        yield engine


def first_of(env: AppWorldEnv, splits: Sequence[str]) -> list[str]:
    """The first task of the split's scenario of each difficulty."""
    found: dict[tuple[str, int], str] = {}
    for split in splits:
        for task_id in env.tasks(split):
            found.setdefault((split, env.known.facts[task_id]["difficulty"]), task_id)
    return list(found.values())


def compare(raw: RawEngine, folder: Path, task_id: str, blocks: list[str], name: str) -> dict[str, Any]:
    """Play both and hold what was printed, what was changed and the verdicts against each other. Returns the raw
    engine's account.
    """
    env = AppWorldEnv("own", max_turns=len(blocks), outputs=str(folder / name))
    output, info, reward = played(env, task_id, blocks)
    theirs = raw.play(task_id, blocks, name)
    assert output == theirs["outputs"][: len(output)]
    # the reply of the last turn is the verdict's, unless the block ended the task itself
    assert len(output) >= len(blocks) - (not theirs["completed"])
    assert info is not None
    assert (info["success"], reward) == (theirs["success"], float(theirs["success"]))
    metrics = info["metrics"]
    passed, failed = len(theirs["passed"]), len(theirs["failed"])
    assert (metrics["tests_passed"], metrics["tests"], metrics["difficulty"]) == (
        passed,
        passed + failed,
        theirs["difficulty"],
    )
    assert left(folder / name, task_id) == left(raw.root / "experiments" / "outputs" / name, task_id)
    return theirs


def left(experiment: Path, task_id: str) -> dict[str, Any]:
    """What an experiment's folder keeps of a task: the changes of every app, the engine's counts, the report on every
    test.
    """
    home = experiment / "tasks" / task_id
    changes = {
        file.name: [json.loads(line) for line in file.read_text().splitlines()]
        for file in (home / "dbs").glob("*.jsonl")
    }
    hashes = json.loads((home / "dbs" / "model_hashes.json").read_text())
    report = (home / "evaluation" / "report.md").read_text()
    assert changes
    assert hashes
    assert report
    return {"changes": changes, "hashes": hashes, "report": report}


def test_blocks_are_answered_as_the_raw_engine_answers_them(raw: RawEngine, tmp_path: Path) -> None:
    task_id = AppWorldEnv("own").tasks("train")[0]
    theirs = compare(raw, tmp_path, task_id, [*ALIKE, "apis.supervisor.complete_task()"], "alike")
    assert sum(output.startswith("Execution failed") for output in theirs["outputs"]) > 20
    assert not theirs["success"]


def test_programs_leave_the_same_state_and_get_the_same_verdict(raw: RawEngine, tmp_path: Path) -> None:
    env = AppWorldEnv("own")
    verdicts = []
    for task_id in first_of(env, ["train"]):
        for which in ("gold", "wrong"):
            verdict = compare(raw, tmp_path, task_id, program(env, task_id, which), which)
            verdicts.append((which, verdict["success"]))
    assert len(verdicts) == 6
    assert set(verdicts) == {("gold", True), ("wrong", False)}


def test_an_episode_that_runs_out_of_turns_is_judged_as_it_stands(raw: RawEngine, tmp_path: Path) -> None:
    env = AppWorldEnv("own")
    task_id = next(task for task in env.tasks("train") if len(program(env, task, "gold")) > 2)
    theirs = compare(raw, tmp_path, task_id, program(env, task_id, "gold")[:-1], "unfinished")
    assert not theirs["completed"]
    assert not theirs["success"]
    assert len(theirs["passed"]) > 1


def test_what_is_answered_differently_on_purpose(raw: RawEngine) -> None:
    env = AppWorldEnv("own")
    task_id = env.tasks("train")[0]
    blocks = [block for block, _ in CHOSEN]
    ours, _, _ = played(env, task_id, blocks)
    theirs = raw.play(task_id, blocks, "chosen")["outputs"]
    for (_, holds), output, raw_said in zip(CHOSEN, ours, theirs, strict=True):
        assert holds in output
        assert holds not in raw_said
    env.close()


@pytest.mark.slow
def test_every_held_out_task_leaves_the_same_state_and_verdict(raw: RawEngine, tmp_path: Path) -> None:
    env = AppWorldEnv("own")
    for split in ("test_normal", "test_challenge"):
        for task_id in env.tasks(split):
            for which in ("gold", "wrong"):
                compare(raw, tmp_path, task_id, program(env, task_id, which), which)


@pytest.mark.slow
def test_the_engines_own_limit_on_calls_is_kept(raw: RawEngine, tmp_path: Path) -> None:
    block = "for call in range(1001):\n    profile = apis.supervisor.show_profile()"
    task_id = AppWorldEnv("own").tasks("train")[0]
    blocks = [block, "print(call)\napis.supervisor.complete_task()"]
    theirs = compare(raw, tmp_path, task_id, blocks, "calls")
    assert "1000" in theirs["outputs"][0]


def test_appworlds_own_command_finds_the_same_scores(tmp_path: Path) -> None:
    """`appworld evaluate` reads what the environment kept, and counts TGC and SGC by itself."""
    (tmp_path / "data").symlink_to(install.own_world() / "truth" / "data", target_is_directory=True)
    env = AppWorldEnv("own", outputs=str(tmp_path / "experiments" / "outputs" / "mixed"))
    tasks = env.tasks("dev")
    # two scenarios whole, one but for its last variant, one by half, and nothing done in the rest
    plays = ["gold"] * 8 + ["wrong", "gold", "wrong", "wrong"] + ["idle"] * (len(tasks) - 12)
    episodes = [episode(task_id, which, env) for task_id, which in zip(tasks, plays, strict=True)]
    counted = goal_completion(episodes)
    command = [install.interpreter(), "-m", "appworld.cli", "evaluate", "mixed", "dev", "--root", str(tmp_path)]
    subprocess.run(command, env=install.environ(), check=True, capture_output=True, cwd=tmp_path)
    report = json.loads((tmp_path / "experiments" / "outputs" / "mixed" / "evaluations" / "dev.json").read_text())
    assert {name: found["success"] for name, found in report["individual"].items()} == {
        played["task_id"]: played["success"] for played in episodes
    }
    # the command rounds to a tenth
    scores = report["aggregate"]
    assert round(counted["TGC"], 1) == scores["task_goal_completion"] == 60.0
    assert round(counted["SGC"], 1) == scores["scenario_goal_completion"] == 40.0
    for level, found in env.summary(episodes)["difficulty"].items():
        rows = [row["success"] for row in report["individual"].values() if row["difficulty"] == int(level)]
        assert (found["tasks"], round(found["success"], 6)) == (len(rows), round(sum(rows) / len(rows), 6))
