"""Cheats, harm and shell magic in the real engine: refused or fruitless, paid with reward 0, and the next episode is as
it would have been.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cheats import CHEATS, HARM, MAGICS, Cheat
from engine_like import SECRET
from playing import play

from environments.appworld.env import AppWorldEnv
from environments.appworld.inside.engine import unpack

AT_THE_ENGINE = [
    ("ground truth by its file", "print('GOT', open('TRUTH').read())"),
    ("ground truth by its loader", "from appworld.ground_truth import GroundTruth\nprint('GOT', GroundTruth)"),
    ("the task and its answer", "from appworld.task import Task\nprint('GOT', Task.load(TASK).ground_truth.answer)"),
    ("the world", "print('GOT', world, self)"),
    ("the collection's own requester", "print('GOT', apis._requester.request)"),
    ("the admin's app", "print('GOT', apis.admin)"),
    ("the admin's app by key", "print('GOT', apis['admin'])"),
    ("the path of an API", "print('GOT', apis.spotify.show_profile.__wrapped__)"),
    ("the engine's module by an API", "print('GOT', apis.spotify.login.__module__, apis.spotify.login.__globals__)"),
    ("the frame behind an API's error", "try:\n    apis.spotify.login()\nexcept Exception as e:\n"
                                        "    print('GOT', e.__traceback__.tb_frame)"),
    ("the response behind an API's error", "try:\n    apis.spotify.login()\nexcept Exception as e:\n"
                                           "    print('GOT', e.response)"),
    ("the arguments of an API's error", "try:\n    apis.spotify.login()\nexcept Exception as e:\n"
                                        "    print([1 for part in e.args if type(part) is not str] and 'GOT')"),
    ("the real print", "print('GOT', print.__globals__)"),
    ("the real input", "print('GOT', input.__globals__)"),
    ("standard output", "import sys\nsys.stdout = None\nprint('GOT')"),
    ("a date's class", "import datetime\ndatetime.datetime.now = None\nprint('GOT')"),
    ("the clock", "from datetime import datetime\ndatetime.tick\nprint('GOT', datetime.times_to_freeze)"),
]  # fmt: skip
"""(aim, block): what only the real engine has. TRUTH stands for a file of the task's ground truth, TASK for its id."""

BLOCKS = [cheat.code for cheat in CHEATS] + [code for _, code in AT_THE_ENGINE]
NAMES = [cheat.name for cheat in CHEATS] + [aim for aim, _ in AT_THE_ENGINE]

PROBE = """
import calendar, decimal, fractions, json, random, typing
from collections import Counter
from collections.abc import Sequence
print(json.dumps({"a": [1]}), json.loads("[1]"), fractions.Fraction(2, 6).limit_denominator(2), fractions.Fraction(1, \
3).numerator)
print(isinstance({}, Sequence), random.random(), decimal.Decimal(1) / 3, calendar.monthcalendar(2024, 2)[0], \
Counter("aab").most_common(1))
print(Counter("ab") == Counter("ba"), print, len(apis.supervisor.show_account_passwords()), DateTime.now(), \
"{}".format(1))
""".strip()
"""Prints something of everything that the blocks of HARM try to change for later episodes."""


@pytest.fixture(scope="module")
def env() -> Iterator[AppWorldEnv]:
    """Many turns, so that one episode can hold all cheats."""
    made = AppWorldEnv("own", max_turns=10_000)
    yield made
    made.close()


@pytest.fixture(scope="module")
def task_id(env: AppWorldEnv) -> str:
    return env.tasks("train")[0]


@pytest.fixture(scope="module")
def opened(env: AppWorldEnv, task_id: str) -> AppWorldEnv:
    env.reset(options={"task_id": task_id})
    return env


@pytest.fixture(scope="module")
def probed(env: AppWorldEnv, task_id: str) -> str:
    """What the probe says where nobody has cheated."""
    output = play(env, task_id, [PROBE]).outputs[0]
    assert "Execution failed" not in output
    return output


def aimed(code: str, env: AppWorldEnv, task_id: str, folder: Path) -> tuple[str, Path]:
    """The block with its files filled in, and the canary; the secret and the ground truth do exist.

    GOT is spelt in two parts, so that it is not in the lines that a traceback quotes.
    """
    secret, canary = folder / "secret", folder / "canary"
    secret.write_text(SECRET)
    truth = env.known.root.truth / "data" / "tasks" / task_id / "ground_truth" / "evaluation.py"
    assert truth.is_file()
    parts = {"GOT'": "G' 'OT'", 'GOT"': 'G" "OT"'}
    files = {"SECRET_FILE": secret, "CANARY": canary, "TRUTH": truth, "TASK": repr(task_id)}
    for name, value in (parts | files).items():
        code = code.replace(name, str(value))
    return code, canary


def test_the_served_root_holds_no_ground_truth(env: AppWorldEnv) -> None:
    root = env.known.root
    assert not list(root.serve.rglob("ground_truth"))
    assert list(root.truth.rglob("ground_truth"))


@pytest.mark.parametrize("code", BLOCKS, ids=NAMES)
def test_a_cheat_is_refused_or_fruitless(opened: AppWorldEnv, task_id: str, tmp_path: Path, code: str) -> None:
    """All in one episode: what one of them prepares, the next may use."""
    code, canary = aimed(code, opened, task_id, tmp_path)
    output, reward, terminated, truncated, info = opened.step(code)
    assert "GOT" not in output[0]["content"]
    assert SECRET not in output[0]["content"]
    assert not canary.exists()
    assert (reward, terminated, truncated, set(info)) == (0.0, False, False, {"task_id"})


def test_what_is_allowed_is_seen(opened: AppWorldEnv, task_id: str, tmp_path: Path) -> None:
    """The control: a block made like the cheats that takes what it may have is answered with the mark."""
    code, _ = aimed("print('GOT', apis.supervisor.show_profile()['email'] != '')", opened, task_id, tmp_path)
    output = opened.step(code)[0]
    assert output[0]["content"] == "GOT True\n"


def player(env: AppWorldEnv) -> int:
    """The id of the process in which the episode's blocks run."""
    assert env._worker is not None
    return env._worker.pid


@pytest.mark.parametrize(("aim", "code"), HARM, ids=[aim for aim, _ in HARM])
def test_the_next_episode_is_as_ever(env: AppWorldEnv, task_id: str, probed: str, aim: str, code: str) -> None:
    env.reset(options={"task_id": task_id})
    process = player(env)
    output = env.step(code)[0][0]["content"]
    assert "Execution failed" in output or aim == "the global random stream"
    env.reset(options={"task_id": task_id})
    assert player(env) != process
    assert env.step(PROBE)[0][0]["content"] == probed


@pytest.mark.parametrize("code", MAGICS)
def test_magic_is_a_syntax_error(opened: AppWorldEnv, tmp_path: Path, code: str) -> None:
    canary = tmp_path / "canary"
    output, reward, terminated, truncated, _ = opened.step(code.replace("CANARY", str(canary)))
    assert "Syntax error in line" in output[0]["content"]
    assert not canary.exists()
    assert (reward, terminated, truncated) == (0.0, False, False)


@pytest.mark.slow
@pytest.mark.parametrize("cheat", CHEATS, ids=lambda cheat: cheat.name)
def test_a_cheat_alone_changes_nothing_and_scores_nothing(
    env: AppWorldEnv, task_id: str, probed: str, tmp_path: Path, cheat: Cheat
) -> None:
    """In an episode of its own, which is judged, and after which the same world is as it was."""
    code, canary = aimed(cheat.code, env, task_id, tmp_path)
    env.reset(options={"task_id": task_id})
    output = env.step(code)[0][0]["content"]
    assert "GOT" not in output
    assert SECRET not in output
    assert not canary.exists()
    assert env._episode is not None
    assert unpack(env._episode.outcome(60.0) or "")["changes"] == {}
    _, reward, terminated, _, info = env.step("apis.supervisor.complete_task()")
    assert (reward, terminated, info["success"]) == (0.0, True, False)
    env.reset(options={"task_id": task_id})
    assert env.step(PROBE)[0][0]["content"] == probed
