"""Whose fault it was: one test a line of docs/faults.md, as far as AppWorld is concerned, and random blocks."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from environments.appworld.engine_pool import EnginePool
from environments.appworld.env import AppWorldEnv

LOGIN = (
    "me = apis.supervisor.show_profile()['email']\n"
    "words = {row['account_name']: row['password'] for row in apis.supervisor.show_account_passwords()}\n"
    "token = apis.simple_note.login(username=me, password=words['simple_note'])['access_token']\n"
)
DONE = "apis.supervisor.complete_task({answer})"

THE_AGENTS: dict[str, list[str]] = {
    "an answer that is no number": [DONE.format(answer="answer=float('nan')")],
    "an answer without end": [DONE.format(answer="answer=float('-inf')")],
    "an answer that is half a character": [DONE.format(answer=r"answer='\ud800'")],
    "an answer with a null": [DONE.format(answer=r"answer='\x00'")],
    "an answer longer than integers may be": ["apis.supervisor.complete_task(answer=10 ** 5000)"],
    "an answer that is a list of lists": ["apis.supervisor.complete_task(answer=[[1, [2, None]]])"],
    "an answer nested without end": ["x = []\nx.append(x)\napis.supervisor.complete_task(answer=x)"],
    "a status that is none": ["apis.supervisor.complete_task(status='\\udfff')"],
    "a syntax error of odd parts": ["raise SyntaxError('m', ('f', 'x', 'y', 'z'))"],
    "a syntax error of odder parts": ["raise SyntaxError('m', ('f', 1, -5, 'z', 'a', {}))"],
    "an error whose text raises": ["class E(Exception):\n    def __str__(self): raise self\nraise E()"],
    "an error whose text is none": ["class E(Exception):\n    def __str__(self): return 1\nraise E()"],
    "an error whose notes are none": ["e = ValueError(1)\ne.add_note('x' * 10**6)\nraise e"],
    "a group of errors, deep": [
        "e = ValueError(1)\nfor _ in range(3000):\n    e = ExceptionGroup('g', [e])\nraise e",
    ],
    "a chain of errors": ["e = None\nfor _ in range(5000):\n    n = ValueError(1)\n    n.x = e\n    e = n\nraise e"],
    "a name of an error with surrogates": ["raise KeyError('\\ud800' * 100)"],
    "notes of many characters": [LOGIN]
    + [f"apis.simple_note.create_note(title='{n}', content='€' * 900_000, access_token=token)" for n in range(5)],
    "a note that is too long": [
        LOGIN + "apis.simple_note.create_note(title='x', content='€' * 3_000_000, access_token=token)"
    ],
    "output of many characters": ["print('\\x01' * 199_000)", "print('€' * 199_000)"],
    "output in a call's arguments": ["apis.spotify.search_songs(query='\\x00' * 5_000_000)"],
    "kept memory": ["kept = ['x' * 10**8 for _ in range(5)]", "more = ['y' * 10**8 for _ in range(9)]", "print(1)"],
    "deleted names": ["del apis\nprint(1)", "print(apis)"],
    "a deleted account": [
        LOGIN
        + "print(apis.simple_note.delete_account(access_token=token, username=me, password=words['simple_note']))",
        "print(apis.simple_note.search_notes(access_token=token))",
    ],
    "an address in a path": ["print(apis.spotify.show_song(song_id='../../dbs/cache?'))"],
    "a number in a path that is none": ["print(apis.spotify.show_song(song_id=float('nan')))"],
    "an argument that is no data": ["apis.spotify.show_song(song_id=print)"],
    "an argument that is odd data": ["apis.spotify.show_song(**{'\\ud800': {(1, 2): b'x'}})"],
    "no end of calls": ["for _ in range(1100): apis.supervisor.show_profile()"],
    "everything raised": ["raise BaseException"],
    "recursion": ["f = lambda: f()\nf()"],
}
"""Blocks that an agent may write, and after which it says that it is done."""


@pytest.fixture(scope="module")
def env() -> Iterator[AppWorldEnv]:
    made = AppWorldEnv("own", max_turns=8)
    yield made
    made.close()


@pytest.fixture(scope="module")
def task_id(env: AppWorldEnv) -> str:
    return env.tasks("train")[0]


def ended(env: AppWorldEnv, task_id: str, blocks: list[str]) -> dict[str, Any]:
    """The info at the end of an episode of these blocks, and of the word that it is done, or of its turns; its reward
    is 0.
    """
    env.reset(options={"task_id": task_id})
    for block in [*blocks, *["apis.supervisor.complete_task()"] * env.max_turns]:
        output, reward, terminated, truncated, info = env.step(f"```python\n{block}\n```")
        assert "failure" not in info, info
        assert reward == 0.0
        for message in output:
            message["content"].encode()
        json.dumps(info)
        if terminated or truncated:
            break
    assert terminated or truncated
    assert info["success"] is False
    return dict(info)


@pytest.mark.parametrize("what", list(THE_AGENTS))
def test_what_an_agent_writes_is_its_own(env: AppWorldEnv, task_id: str, what: str) -> None:
    ended(env, task_id, THE_AGENTS[what])


def test_notes_within_the_limit_are_kept_and_judged(env: AppWorldEnv, task_id: str) -> None:
    env.reset(options={"task_id": task_id})
    for block in THE_AGENTS["notes of many characters"]:
        assert env.step(block)[0][0]["content"] == "Execution successful."
    info = env.step("apis.supervisor.complete_task()")[4]
    assert info["metrics"]["tests"] > 0
    assert info["success"] is False


def test_more_than_can_be_judged_ends_the_episode_unsolved(env: AppWorldEnv, task_id: str) -> None:
    """Ten notes of two million characters of a cheap generator: packed they have more than a message may have."""
    code = (
        LOGIN + "import random\nfor n in range(10):\n"
        "    apis.simple_note.create_note(title=str(n), content=random.randbytes(1_000_000).hex(), access_token=token)"
    )
    env.reset(options={"task_id": task_id})
    assert env.step(code)[0][0]["content"] == "Execution successful."
    _, reward, terminated, _, info = env.step("apis.supervisor.complete_task()")
    assert (reward, terminated, info["metrics"]["tests"]) in [(0.0, True, 0.0), (0.0, True, 4.0)]
    assert "failure" not in info


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
WORDS = st.sampled_from(
    [*"apis.()=[]1{}:x\n ", "supervisor", "spotify", "complete_task", "show_song", "answer", "song_id"]
)
CALLS = st.sampled_from(["supervisor.complete_task", "spotify.show_song", "simple_note.create_note", "venmo.login"])
NAMES = st.sampled_from(["answer", "status", "song_id", "title", "content", "username", "password", "access_token"])


@st.composite
def calls(draw: st.DrawFn) -> str:
    """A call of an API with random data."""
    return f"print(apis.{draw(CALLS)}(**{draw(st.dictionaries(NAMES, VALUES, max_size=3))!r}))".replace(
        "nan", "float('nan')"
    ).replace("inf", "float('inf')")


BLOCKS = st.text(st.characters(), max_size=80) | st.lists(WORDS, max_size=20).map("".join) | calls() | VALUES.map(repr)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(BLOCKS, min_size=1, max_size=4))
def test_random_blocks_are_never_a_failure_and_never_a_success(
    env: AppWorldEnv, task_id: str, blocks: list[str]
) -> None:
    ended(env, task_id, blocks)


# ---------------------------------------------------------------- the machine's


def engine_pid(env: AppWorldEnv) -> int:
    assert env._episode is not None
    return env._episode._engine.pid


def player_pid(env: AppWorldEnv) -> int:
    assert env._worker is not None
    return env._worker.pid


@pytest.mark.parametrize("process", [engine_pid, player_pid], ids=["engine", "player"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_is_killed_is_the_machines(
    env: AppWorldEnv, task_id: str, process: Any, number: signal.Signals
) -> None:
    env.reset(options={"task_id": task_id})
    os.kill(process(env), number)
    _, reward, terminated, truncated, info = env.step("print(apis.supervisor.show_profile())")
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert info["failure"]["kind"] == "died"
    assert env.reset(options={"task_id": task_id})  # and the next episode is played


@pytest.mark.parametrize("process", [engine_pid, player_pid], ids=["engine", "player"])
def test_a_process_that_is_stopped_is_the_machines(task_id: str, process: Any) -> None:
    env = AppWorldEnv("own", deadline_s=2.0)
    env.reset(options={"task_id": task_id})
    os.kill(process(env), signal.SIGSTOP)
    _, _, terminated, truncated, info = env.step("print(apis.supervisor.show_profile())")
    assert (terminated, truncated, info["failure"]["kind"]) == (False, True, "deadline")
    env.close()


def test_a_stopped_judge_is_replaced(env: AppWorldEnv, task_id: str) -> None:
    """Retried once in a fresh worker, and the verdict is the right one."""
    pool = EnginePool(env.known.root, 10.0, 12_000, 1024)
    episode = pool.episode(task_id, 60.0)
    for block in env.gold(task_id) or []:
        episode.block(block, 60.0)
    outcome = episode.outcome(60.0)
    assert outcome is not None
    assert pool.judge(task_id, outcome, None, 60.0)["success"] is True
    pool._verdicts.clear()
    (judge,) = pool._judges
    os.kill(judge.pid, signal.SIGSTOP)
    assert pool.judge(task_id, outcome, None, 10.0)["success"] is True
    episode.close()
    pool.close()
