"""Whatever a block does to its process, and whoever kills it: a typed result in time, the right verdicts after it, and
nothing left at the end.
"""

from __future__ import annotations

import math
import os
import random
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playing import Left, Played, in_parallel, play

from environments.appworld.env import AppWorldEnv
from environments.isolation.pool import RemoteError, Worker
from environments.isolation.processes import cpu_seconds
from harness.core.seeds import SeedTree
from harness.experiment import EnvironmentSettings
from harness.rollout.conversation import Request
from harness.rollout.environments import EnvironmentPool
from harness.rollout.policies import MessagePolicy
from harness.rollout.rollouts import Rollouts
from harness.types import Ending

STEP_S, DEADLINE_S = 0.4, 4.0
TO_THE_DEADLINE = ("one that leaves every context well", "recursion without end")
"""Blocks that take all of their deadline, beside the one that stands for them in the fast tests."""
CATCH = "try:\n        {}\n    except BaseException:\n        pass"

HOSTILE: list[tuple[str, str, str]] = [
    ("an endless loop", "while True: pass", "timeouts"),
    ("one that catches everything", "while True:\n    " + CATCH.format("while True: pass"), "timeouts or killed"),
    ("one that leaves every context well", "class C:\n    def __enter__(self): pass\n"
                                           "    def __exit__(self, *a): return True\nwhile True:\n    with C():\n"
                                           "        while True: pass", "killed"),
    ("one in a clean-up", "def f():\n    try:\n        while True: pass\n    finally:\n"
                          "        f()\nf()", "timeouts or killed"),
    ("one in C", "sum(range(10**12))", "killed"),
    ("one in C that listens", "x = 9**9**9", "timeouts"),
    ("one in a regular expression", "import re\nre.match(r'(a+)+$', 'a' * 40 + 'b')", "timeouts"),
    ("one in what is shown", "class R:\n    def __repr__(self):\n        while True: pass\nprint(R())", "timeouts"),
    ("one in an error's text", "class E(Exception):\n    def __str__(self):\n        while True: pass\n"
                               "raise E()", "failed"),
    ("one of API calls", "while True: apis.supervisor.show_profile()", "timeouts or exceeded the limit"),
    ("a fork", "import os\nos.fork()", "refused"),
    ("a thread", "import threading\nthreading.Thread(target=print).start()", "refused"),
    ("a file descriptor closed", "import os\nos.closerange(0, 256)", "refused"),
    ("standard output closed", "import sys\nsys.stdout.close()", "refused"),
    ("more memory than there is", "x = bytearray(10**11)", "MemoryError"),
    ("a list without end", "list(range(10**12))", "MemoryError"),
    ("memory bit by bit", "def f():\n    x = []\n    while True: x.append([0] * 10**6)\nf()", "timeouts or "
                                                                                              "MemoryError"),
    ("a gigabyte of output", "print('x' * 10**9)", "timeouts or MemoryError or prints too much"),
    ("output without end", "while True: print('x' * 1000)", "prints too much"),
    ("a question", "print(input('What now?'))", "not allowed"),
    ("exit", "exit()", "not available"),
    ("quit", "quit()", "not available"),
    ("SystemExit", "raise SystemExit(3)", "not defined"),
    ("KeyboardInterrupt", "raise KeyboardInterrupt", "not defined"),
    ("GeneratorExit", "raise GeneratorExit", "cannot end the shell"),
    ("an error beside all errors", "raise BaseException('over')", "cannot end the shell"),
    ("deep recursion", "def f(n): return f(n + 1)\nf(0)", "RecursionError"),
    ("recursion without end", "def f():\n    try:\n        f()\n    finally:\n        f()\nf()", "timeouts or killed"),
    ("deep data to an API", "x = []\nfor _ in range(10**5): x = [x]\n"
                            "apis.supervisor.complete_task(answer=x)", "RecursionError"),
    ("deep data that breaks the interpreter", "x = ()\nfor _ in range(10**6): x = (x,)\nhash(x)", "killed or timeouts"),
    ("a huge answer", "apis.supervisor.complete_task(answer='x' * 10**7)", "ran"),
    ("half a character", "print('a\\ud800b')", "a?b"),
    ("zeros", "print('\\x00' * 3)", "\x00\x00\x00"),
    ("a sleep", "import time\ntime.sleep(10**6)", "Execution successful"),
]  # fmt: skip
"""(what it does, block, what becomes of it): a count of the metrics, or words of the answer; "or" where the machine's
speed decides."""


def own(**more: Any) -> AppWorldEnv:
    return AppWorldEnv("own", **({"step_s": STEP_S, "deadline_s": DEADLINE_S} | more))


@pytest.fixture(scope="module")
def env() -> Iterator[AppWorldEnv]:
    made = own()
    yield made
    made.close()


@pytest.fixture(scope="module")
def calm() -> Iterator[AppWorldEnv]:
    """With the time that honest programmes need."""
    made = own(step_s=10.0, deadline_s=60.0)
    yield made
    made.close()


def became(output: str, metrics: dict[str, float]) -> set[str]:
    counted = {name for name in ("timeouts", "killed", "refused", "malformed") if metrics[name]}
    if output.startswith("Execution failed"):
        counted.add("failed")
    return counted or {"ran"}


@pytest.mark.parametrize(
    ("what", "code", "expected"),
    [pytest.param(*row, id=row[0], marks=[pytest.mark.slow] if row[0] in TO_THE_DEADLINE else []) for row in HOSTILE],
)
def test_a_hostile_block_has_a_typed_result_and_the_next_episode_works(
    env: AppWorldEnv, what: str, code: str, expected: str
) -> None:
    task_id = env.tasks("train")[0]
    played = play(env, task_id, [code])
    output = played.outputs[0]
    assert "failure" not in played.info
    assert played.reward == 0.0
    if not played.terminated:
        ended = env.step("print(6 * 7)\napis.supervisor.complete_task()")
        assert ended[0][0]["content"] == "42\n"
        played = Played(played.outputs, *ended[1:])
    assert played.terminated
    assert (played.reward, played.info["success"]) == (0.0, False)
    found = became(output, played.info["metrics"])
    assert any(word in found or word in output for word in expected.split(" or ")), (found, output[-300:])
    output.encode()
    assert play(env, task_id, ["print(1 + 1)"]).outputs == ["2\n"]


def test_blocks_run_where_new_processes_are_forbidden_if_the_system_can(env: AppWorldEnv) -> None:
    env.reset(options={"task_id": env.tasks("train")[0]})
    assert env._worker.sandbox == "seccomp" or env._worker.sandbox.startswith("none: ")


# ---------------------------------------------------------------- processes that are killed


def kill_amid(env: AppWorldEnv) -> threading.Thread:
    """Kills the player as soon as it computes (or, where that cannot be seen, in the end)."""
    pid = env._worker.pid
    used = cpu_seconds(pid)

    def kill() -> None:
        for _ in range(5_000):
            if cpu_seconds(pid) > used + 0.05:
                break
            time.sleep(0.001)
        os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


def test_a_player_killed_in_mid_step_is_a_failure_and_no_verdict(env: AppWorldEnv) -> None:
    task_id = env.tasks("train")[0]
    env.reset(options={"task_id": task_id})
    killing = kill_amid(env)
    output, reward, terminated, truncated, info = env.step("while True: pass")
    killing.join()
    assert (output, reward, terminated, truncated) == ((), 0.0, False, True)
    assert info["success"] is False
    assert info["failure"]["kind"] == "died"
    assert "SIGKILL" in info["failure"]["message"]
    with pytest.raises(RuntimeError, match="no episode is running"):
        env.step("print(1)")
    assert play(env, task_id, env.gold(task_id) or []).reward == 1.0


def test_a_player_killed_between_steps_is_a_failure(env: AppWorldEnv) -> None:
    task_id = env.tasks("train")[0]
    play(env, task_id, ["x = 1"])
    os.kill(env._worker.pid, signal.SIGKILL)
    _, reward, terminated, truncated, info = env.step("print(x)")
    assert (reward, terminated, truncated, info["failure"]["kind"]) == (0.0, False, True, "died")


def test_a_judge_that_is_killed_is_replaced_and_the_verdict_stands(calm: AppWorldEnv) -> None:
    task_id = calm.tasks("dev")[0]
    assert play(calm, task_id, calm.gold(task_id) or []).reward == 1.0
    engines = calm._engines
    engines._verdicts.clear()
    killed = {judge.pid for judge in engines._judges}
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    assert play(calm, task_id, calm.gold(task_id) or []).reward == 1.0
    assert killed
    assert not killed & {judge.pid for judge in engines._judges}


def test_a_judge_that_fails_is_not_kept(calm: AppWorldEnv, tmp_path: Path) -> None:
    calm.reset(options={"task_id": calm.tasks("dev")[0]})
    assert calm._episode is not None
    outcome = calm._episode.outcome(60.0)
    assert outcome is not None
    before = Left.now(tmp_path)
    idle = len(calm._engines._judges)
    for _ in range(2):
        with pytest.raises(RemoteError) as raised:
            calm._engines.judge("nosuchtask_1", outcome, None, 60.0)
        assert raised.value.kind == "raised"
    assert len(calm._engines._judges) == max(0, idle - 2)
    assert len(before.processes) - len(Left.now(tmp_path).processes) == min(2, idle)


class Killer(MessagePolicy):
    """Replays scripts, and kills the player in the second turn of so many episodes."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.left = times

    def act(self, conversations: Any) -> Any:
        for conversation in conversations:
            if conversation.turn == 1 and self.left:
                self.left -= 1
                os.kill(conversation.environment.unwrapped._worker.pid, signal.SIGKILL)
        return super().act(conversations)


@pytest.mark.parametrize("times", [1, 2])
def test_rollouts_try_again_and_then_report_an_error(env: AppWorldEnv, times: int) -> None:
    task_id = env.tasks("train")[0]
    options = {"world": "own", "step_s": STEP_S, "deadline_s": DEADLINE_S}
    settings = EnvironmentSettings(id="environments:AppWorld-v0", options=options, deadline_s=60.0)
    request = Request(task_id, SeedTree(0), script=tuple(env.gold(task_id) or []))
    with EnvironmentPool(settings) as pool:
        rollouts = Rollouts(pool)
        (episode,) = rollouts.play([request], Killer(times))
    assert rollouts.failures == {"died": times}
    if times == 1:
        assert (episode.ending, episode.reward, episode.success) == (Ending.COMPLETED, 1.0, True)
    else:
        assert episode.ending is Ending.ERROR
        assert math.isnan(episode.reward)
        assert (episode.success, episode.metrics) == (False, {})


# ---------------------------------------------------------------- nothing is left


def kill(*workers: Worker) -> None:
    """Those that live: of the others the ids may be somebody else's."""
    for worker in workers:
        if worker.alive:
            os.kill(worker.pid, signal.SIGKILL)


def kill_the_zygote(env: AppWorldEnv) -> None:
    """Kill the process that workers are forked from; they end with it."""
    zygote = env._engines._workers._zygote
    if zygote is not None and zygote._process is not None:
        os.kill(zygote._process.pid, signal.SIGKILL)
        zygote._process.wait()


SHORT = ["x = 1", "print(apis.supervisor.show_profile())", "apis.supervisor.complete_task()"]


def play_with_kills(env: AppWorldEnv, episodes: int, ways: list[str]) -> dict[str, int]:
    """Episodes among whose steps processes are killed, by the draw of a seed. What came of the episodes, counted."""
    rng = random.Random(episodes)
    counted = {"judged": 0, "died": 0}
    tasks = env.tasks("train")
    for number in range(episodes):
        task_id = tasks[number % len(tasks)]
        blocks = (env.gold(task_id) or []) if task_id.endswith("_1") else SHORT
        struck = rng.randrange(2 * len(blocks))  # every other episode is left alone
        env.reset(options={"task_id": task_id})
        info: dict[str, Any] = {}
        for turn, block in enumerate(blocks):
            output = block
            if turn == struck:
                way = rng.choice(ways)
                if way == "amid":
                    killing, output = kill_amid(env), "while True: pass"
                elif way == "between":
                    kill(env._worker)
                elif way == "judges":
                    kill(*env._engines._judges)
                else:
                    kill_the_zygote(env)
            _, _, terminated, truncated, info = env.step(output)
            if output != block:
                killing.join()
            if terminated or truncated:
                break
        assert "failure" in info or info["success"] == (blocks is not SHORT)
        counted[info["failure"]["kind"] if "failure" in info else "judged"] += 1
    return counted


def nothing_is_left(room: Path, episodes: int, ways: list[str]) -> None:
    """room: the folder of temporary files, ours alone."""
    before = Left.now(room)
    env = own(shown=8_000 + episodes, step_s=10.0, deadline_s=60.0)  # settings, and so processes, of its own
    counted = play_with_kills(env, episodes, ways)
    assert sum(counted.values()) == episodes
    assert min(counted.values()) >= episodes // 10
    during = Left.now(room)
    # two that others are forked from, an engine or two, a judge or two, a player
    assert 2 <= len(during.processes - before.processes) <= 7
    assert [path.name[:7] for path in during.files] == ["remote-", "remote-"]
    env.close()
    env._engines.close()
    assert Left.now(room) == before


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


WAYS = ["amid", "amid", "between", "judges"]


def test_after_some_episodes_with_kills_nothing_is_left(room: Path) -> None:
    nothing_is_left(room, 20, WAYS)


@pytest.mark.slow
@pytest.mark.heavy
def test_after_many_episodes_with_kills_nothing_is_left(room: Path) -> None:
    """Also of the process that the others are forked from."""
    nothing_is_left(room, 200, [*WAYS, *WAYS, *WAYS, "first"])


# ---------------------------------------------------------------- episodes at the same time

LOGIN = (
    "me = apis.supervisor.show_profile()['email']\n"
    "words = {row['account_name']: row['password'] for row in apis.supervisor.show_account_passwords()}\n"
    "token = apis.simple_note.login(username=me, password=words['simple_note'])['access_token']"
)
NOTE = "apis.simple_note.create_note(title='Ticket {number}', content='{number}', access_token=token)"
NOTES = (
    "rows = [row for page in range(5) for row in apis.simple_note.search_notes(access_token=token, "
    "query='Ticket', page_index=page, page_limit=20)]\n"
    "print(sorted({row['title'] for row in rows if row['title'].startswith('Ticket')}))"
)


def ticketed(env: AppWorldEnv, job: tuple[int, str, str]) -> tuple[Any, ...]:
    """An episode that writes a note of its own, looks which such notes there are, and goes on by that. Everything that
    was answered.
    """
    number, task_id, how = job
    note = [LOGIN, NOTES, NOTE.format(number=number), NOTES]
    rest = {
        "gold": env.gold(task_id), "wrong": env.habit(task_id), "done": ["apis.supervisor.complete_task()"], "left": [],
    }[how]  # fmt: skip
    played = play(env, task_id, [*(note if how != "gold" else []), *(rest or [])])
    if how != "gold":
        assert played.outputs[1] == "[]\n"
        assert played.outputs[3] == f'["Ticket {number}"]\n'
    return tuple(played)


def alone_and_together(jobs: list[tuple[int, str, str]], shuffle: Callable[[list[Any]], None]) -> None:
    def make() -> AppWorldEnv:
        return own(step_s=10.0, deadline_s=60.0)

    alone = in_parallel(make, 1, jobs, ticketed)
    order = list(range(len(jobs)))
    shuffle(order)
    together = in_parallel(make, 4, [jobs[place] for place in order], ticketed)
    assert [together[order.index(place)] for place in range(len(jobs))] == alone
    assert {row[4].get("success") for row in alone} == {True, False, None}


def jobs_of(count: int, seed: int) -> list[tuple[int, str, str]]:
    env = own(step_s=10.0, deadline_s=60.0)
    tasks = [task_id for split in env.splits for task_id in env.tasks(split)]
    rng = random.Random(seed)
    # few tasks: the same world is open several times at once
    chosen = rng.sample(tasks, 6)
    return [(number, rng.choice(chosen), rng.choice(["gold", "wrong", "done", "left"])) for number in range(count)]


def test_a_few_episodes_at_once_share_nothing_and_end_as_alone() -> None:
    alone_and_together(jobs_of(8, seed=3), random.Random(1).shuffle)


@pytest.mark.slow
@pytest.mark.heavy
def test_many_episodes_at_once_share_nothing_and_end_as_alone() -> None:
    alone_and_together(jobs_of(200, seed=2), random.Random(2).shuffle)
