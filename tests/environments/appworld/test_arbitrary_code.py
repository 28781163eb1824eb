"""Arbitrary Python in the player, the guard switched off: no answer, no truth, no other episode, no network, no program
to start, no file changed, no verdict forged; and what it does to itself is its own fault.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from environments.appworld.engine_pool import BlameError, EnginePool, Episode
from environments.appworld.env import AppWorldEnv
from environments.appworld.inside.engine import unpack
from environments.isolation import walls
from environments.isolation.pool import RemoteError

pytestmark = pytest.mark.skipif(walls.standing().startswith("none"), reason=walls.standing())
LONG = 60.0
PLAYER = (
    "import gc, os, sys\ngc.unfreeze()\n"
    "player = next(o for o in gc.get_objects() if type(o).__name__ == 'Player')\n"
    "frames = player.ask.__closure__[0].cell_contents\n"
)
"""What the blocks below begin with: the player's own object, and its end of the connection."""


@pytest.fixture(scope="module")
def env() -> Iterator[AppWorldEnv]:
    made = AppWorldEnv("own")
    yield made
    made.close()


@pytest.fixture(scope="module")
def pool(env: AppWorldEnv) -> Iterator[EnginePool]:
    made = EnginePool(env.known.root, 2.0, 200_000, 1024, guarded=False)
    yield made
    made.close()


@pytest.fixture(scope="module")
def task_id(env: AppWorldEnv) -> str:
    """One whose answer is a question's."""
    return next(task for task in env.tasks("train") if "answer" in " ".join(env.gold(task) or []))


@pytest.fixture
def episode(pool: EnginePool, task_id: str) -> Iterator[Episode]:
    made = pool.episode(task_id, LONG)
    yield made
    made.close()


def tried(episode: Episode, attempts: dict[str, str]) -> dict[str, str]:
    """What came of expressions, each tried: what it is worth, or the type of its error."""
    code = (
        PLAYER
        + "import socket, subprocess, ctypes, mmap, sqlite3, pathlib, json, tempfile, signal\nfound = {}\n"
        + f"for name, text in {attempts!r}.items():\n    try:\n        found[name] = 'GOT ' + repr(eval(text))[:200]\n"
        + "    except BaseException as error:\n        found[name] = type(error).__name__\nprint(json.dumps(found))"
    )
    output = episode.block(code, LONG)["output"]
    assert not output.startswith("Execution failed"), output
    found: dict[str, str] = json.loads(output)
    return found


def test_the_guard_is_off_and_ordinary_work_goes_on(episode: Episode) -> None:
    assert episode.player is not None
    assert episode.player.wall == walls.standing()
    found = tried(episode, {"sum": "1 + 1", "frames": "frames", "module": "os.getcwd()"})
    assert {name for name, text in found.items() if text.startswith("GOT")} == {"sum", "frames", "module"}
    assert "email" in episode.block("print(apis.supervisor.show_profile())", LONG)["output"]


def test_nothing_is_read(env: AppWorldEnv, episode: Episode, task_id: str) -> None:
    root = env.known.root
    truth = root.truth / "data" / "tasks" / task_id / "ground_truth"
    programs = env.known.programs
    paths = [
        *(truth / name for name in ("answer.json", "evaluation.py", "private_data.json")),
        *(root.serve / "data" / "tasks" / task_id / "specs.json", root.serve / "data" / "base_dbs" / "spotify.db"),
        *(
            Path("/etc/passwd"),
            Path("/proc/self/environ"),
            Path(f"/proc/{os.getpid()}/environ"),
            Path("/proc/self/maps"),
        ),
        *(Path(f"/proc/{os.getpid()}/mem"), Path.home() / ".bashrc", Path(__file__)),
        Path(walls.__file__).parents[1] / "appworld" / "world" / "scenarios" / "music.py",
        Path(programs or "") / f"{task_id}.json",
    ]
    found = tried(episode, {str(path): f"open({str(path)!r}, 'rb').read(9)" for path in paths})
    assert {path: text for path, text in found.items() if text.startswith("GOT")} == {}
    assert sum(Path(path).exists() for path in found) > 9
    folders = [str(truth), str(root.serve), str(root.truth), "/", "/tmp", "/proc", "/proc/self/fd", "/proc/self/cwd"]
    found = tried(episode, {path: f"os.listdir({path!r})" for path in folders})
    assert {path: text for path, text in found.items() if text.startswith("GOT")} == {}


def test_memory_holds_no_truth_and_no_other_episode(env: AppWorldEnv, episode: Episode, task_id: str) -> None:
    """Every string that the process holds, and every module: no path of a task, no program, no answer, no evaluator."""
    code = (
        PLAYER
        + "seen, left, texts = set(), [*gc.get_objects(), *sys.modules.values()], []\n"
        + "while left:\n    thing = left.pop()\n    if id(thing) in seen: continue\n    seen.add(id(thing))\n"
        + "    if type(thing) in (str, bytes): texts.append(str(thing))\n    left += gc.get_referents(thing)\n"
        + "everything = ' '.join(texts)\n"
        + "marks = [mark[::-1] for mark in ('hturt_dnuorg', 'yp.noitaulave', 'atad_tset', MARK)]\n"
        + "print(len(texts) > 10_000, [mark for mark in marks if mark in everything], sorted(m for m in sys.modules "
        + "if m.startswith(('appworld', 'sqlalchemy', 'fastapi', 'environments.appworld'))))"
    )
    instruction = str(episode.facts["instruction"])[:30]
    output = episode.block(code.replace("MARK", repr(instruction[::-1])), 2 * LONG)["output"]
    holds, _, rest = output.partition(" ")
    assert holds == "True", output
    assert rest.startswith("[] "), output
    for module in ("evaluator", "task", "engine", "world", "databases", "sqlalchemy", "fastapi"):
        assert not {f".{module}'", f"'{module}"} & set(rest.split(", ")), output
        assert f".{module}'" not in rest, output


def test_nothing_is_changed_started_or_sent(episode: Episode, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("as it was")
    tmp_path.chmod(0o777)
    target.chmod(0o666)
    path, new = str(target), str(tmp_path / "new")
    before = target.stat()
    found = tried(
        episode,
        {
            "write": f"open({path!r}, 'w')",
            "make": f"open({new!r}, 'w')",
            "make here": "open('new', 'w')",
            "make in tmp": "tempfile.NamedTemporaryFile()",
            "folder": f"os.mkdir({new!r})",
            "remove": f"os.unlink({path!r})",
            "rename": f"os.rename({path!r}, {new!r})",
            "mode": f"os.chmod({path!r}, 0o777)",
            "times": f"os.utime({path!r})",
            "owner": f"os.chown({path!r}, os.getuid(), -1)",
            "database": f"sqlite3.connect({new!r}).execute('create table t (a)')",
            "socket": "socket.socket()",
            "udp": "socket.socket(type=socket.SOCK_DGRAM)",
            "unix": "socket.socket(socket.AF_UNIX)",
            "pair": "socket.socketpair(type=socket.SOCK_DGRAM)",
            "name": "socket.create_connection(('127.0.0.1', 80), 1)",
            "shell": "subprocess.run(['true'])",
            "system": "[None][os.system('true')]",
            "fork": "os.fork()",
            "exec": "os.execv(sys.executable, ['python'])",
            "kill the parent": "os.kill(os.getppid(), 9)",
            "kill this": "os.kill(os.getpid(), 9)",
            "stop this": "os.kill(os.getpid(), 19)",
            "limits": "__import__('resource').setrlimit(0, (1, 1))",
            "trace": f"[None][ctypes.CDLL(None).ptrace(16, {os.getpid()}, 0, 0)]",
            "shared memory": "[1][ctypes.CDLL(None).shmget(0, 4096, 0o1666)]",
        },
    )
    failing = {"system", "trace", "shared memory"}  # a -1 or an exit status that is no index
    assert {name: text for name, text in found.items() if text.startswith("GOT") and name not in failing} == {}
    assert found["trace"] == found["shared memory"] == "GOT None"[:0] or found["trace"] != "GOT 0"
    assert list(tmp_path.iterdir()) == [target]
    after = target.stat()
    assert (after.st_mode, after.st_mtime_ns, after.st_size) == (before.st_mode, before.st_mtime_ns, before.st_size)


def test_only_its_own_descriptors_are_open(episode: Episode) -> None:
    output = episode.block(
        "import os, stat\nkinds = {}\nfor number in range(256):\n    try: kinds[number] = os.fstat(number).st_mode\n"
        "    except OSError: pass\nprint(sorted(kinds)[:3], len(kinds), sum(map(stat.S_ISSOCK, kinds.values())))",
        LONG,
    )["output"]
    assert output == "[0, 1, 2] 4 1\n"


FORGED = {
    "another app's path": {"app": "spotify", "api": "show_song", "arguments": {"song_id": "../../dbs"}},
    "the bank": {"app": "admin", "api": "show_card_balance", "arguments": {}},
    "no app": {"app": "dbs", "api": "save", "arguments": {"to_db_home_path": "/tmp"}},
    "the requester's": {"app": "spotify", "api": "show_song", "arguments": {"song_id": 1, "track": False}},
    "another moment": {"app": "spotify", "api": "show_song", "arguments": {"song_id": 1, "_system_datetime": "x"}},
    "an app that is a list": {"app": ["spotify"], "api": {}, "arguments": {}},
    "no arguments": {"app": "spotify", "api": "show_song", "arguments": [1]},
    "no question": 7,
    "nothing": None,
}


def test_a_forged_question_is_answered_by_an_error(episode: Episode) -> None:
    code = PLAYER + "print([sorted(player.ask(question)) for question in QUESTIONS])"
    output = episode.block(code.replace("QUESTIONS", repr(list(FORGED.values()))), LONG)["output"]
    assert output == f"{[['cpu_s', 'error']] * len(FORGED)}\n"
    assert unpack(episode.outcome(LONG) or "")["changes"] == {}
    assert not episode.completed


ENDS: dict[str, str] = {
    "another answer to the step": "frames.write(encode({'ok': {'output': 'x', 'status': 'ran', 'completed': True}, "
    "'number': 2}))\nos._exit(0)",
    "an answer that is none": "frames.write(encode({'ok': [], 'number': 99}))",
    "a report that is none": "frames.write(encode({'raised': 'x', 'number': 2}))",
    "no frame": "os.write(frames.fileno(), b'x' * 100)",
    "a frame too large": "os.write(frames.fileno(), b'\\xff' * 8)",
    "an exit": "os._exit(0)",
    "a crash": "import ctypes\nctypes.string_at(0)",
    "an abort": "os.abort()",
    "memory that is not given back": "held = []\nwhile True: held.append(bytearray(1 << 24))",
    "a connection closed": "os.close(frames.fileno())",
    "a sleep": "import threading\nthreading.Event().wait()",
    "an endless loop that listens to nothing": "import signal\nsignal.setitimer(signal.ITIMER_PROF, 0)\nwhile 1: pass",
}


@pytest.mark.parametrize("what", list(ENDS))
def test_what_it_does_to_itself_is_its_own_fault(pool: EnginePool, task_id: str, what: str) -> None:
    """Observed, or ended by its own doing; the machine is never blamed, and nothing says that the task is done."""
    code = PLAYER + "from environments.isolation.frames import encode\n" + ENDS[what]
    deadline_s = 5.0 if "sleep" in what or "loop" in what else LONG
    for _ in range(5):
        episode = pool.episode(task_id, LONG)
        try:
            for block in (code, "print(1)"):
                assert isinstance(episode.block(block, deadline_s)["output"], str)
        except BlameError:
            break
        except RemoteError as error:
            if error.held and deadline_s < LONG:  # a crowded machine had no processor for it: it may try again
                episode.close()
                continue
            raise
        break
    assert not episode.completed
    assert unpack(episode.outcome(LONG) or "")["changes"] == {}
    episode.close()


def test_nothing_is_left_for_the_next_episode(pool: EnginePool, task_id: str) -> None:
    first = pool.episode(task_id, LONG)
    spoilt = "import fractions, builtins, sys\nfractions.Fraction = builtins.sorted = lambda *a, **k: 'GOT'\n"
    assert first.block(spoilt + "sys.modules['re'] = None\nprint(sorted(1))", LONG)["output"] == "GOT\n"
    assert first.player is not None
    pid = first.player.pid
    first.close()
    second = pool.episode(task_id, LONG)
    assert second.player is not None
    assert second.player.pid != pid
    output = second.block("import fractions, re\nprint(sorted('ba'), fractions.Fraction(1), re)", LONG)["output"]
    assert output.startswith("['a', 'b'] 1 <module")
    second.close()


def test_what_it_changes_is_what_the_apis_changed(pool: EnginePool, env: AppWorldEnv, task_id: str) -> None:
    """With the guard off a gold program leaves what it leaves with the guard on."""
    outcomes: list[Any] = []
    for engines in (pool, env._engines):
        episode = engines.episode(task_id, LONG)
        for block in env.gold(task_id) or []:
            episode.block(block, LONG)
        assert episode.completed
        outcomes.append(episode.outcome(LONG))
        episode.close()
    assert outcomes[0] == outcomes[1]
    assert pool.judge(task_id, outcomes[0], None, LONG)["success"] is True
