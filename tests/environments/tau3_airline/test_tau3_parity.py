"""The adapter to the official package: what it sends there is well-formed and complete, and what it grades here is what
`step` graded.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
from pathlib import Path

import pytest

from environments.tau3_airline import parity
from environments.tau3_airline.actions import read_call
from environments.tau3_airline.env import Tau3AirlineEnv
from environments.tau3_airline.parity import Trajectory, as_official, built_in, disturbed, our_reward
from environments.tau3_airline.users import STOP

OFFICIAL = importlib.util.find_spec("tau2") is not None


def test_regrading_a_trajectory_gives_the_reward_of_playing_it() -> None:
    env = Tau3AirlineEnv()
    seen = set()
    for trajectory in built_in():
        env.reset(options={"task_id": trajectory.task_id})
        actions = [m["content"] for m in trajectory.messages if m["role"] == "assistant"][1:]
        reward = [env.step(action)[1] for action in actions][-1]
        assert our_reward(trajectory) == reward, trajectory.name
        seen.add((trajectory.name.split()[0], reward))
    # disturbed gold goes both ways, or it would compare nothing
    assert seen == {("gold", 1.0), ("hello", 1.0), ("hello", 0.0), ("disturbed", 1.0), ("disturbed", 0.0)}


def test_every_kind_of_disturbance() -> None:
    gold = [
        '{"name": "f", "arguments": {"n": 2, "on": true, "of": [{"k": 1}, {"k": 2}]}}',
        '{"name": "g", "arguments": {}}',
        "Done.",
    ]
    shorter, twice, floats, texts, turned, cut, noisy = disturbed(gold)
    assert (shorter, twice, cut) == ([gold[0], gold[2]], [*gold[:2], gold[1], gold[2]], gold[:2])
    assert read_call(floats[0]).arguments == {"n": 2.0, "on": True, "of": [{"k": 1.0}, {"k": 2.0}]}
    assert isinstance(read_call(floats[0]).arguments["n"], float)
    assert read_call(texts[0]).arguments == {"n": "2", "on": True, "of": [{"k": "1"}, {"k": "2"}]}
    assert read_call(turned[0]).arguments["of"] == [{"k": 2}, {"k": 1}]
    assert noisy[-3:] == gold
    assert len(list(disturbed(["Done."]))) == 1


def test_upstreams_messages_are_complete_and_ordered() -> None:
    messages = [
        {"role": "system", "content": "rules"},
        {"role": "assistant", "content": "Hi!"},
        {"role": "user", "content": "cancel"},
        {"role": "assistant", "content": '{"name": "calculate", "arguments": {"expression": "1 + 1"}}'},
        {"role": "tool", "content": "2.0"},
        {"role": "assistant", "content": '{"name": '},
        {"role": "tool", "content": "Error: no JSON"},
        {"role": "assistant", "content": '{"name": "nothing", "arguments": {}}'},
        {"role": "tool", "content": "Error: Tool 'nothing' not found."},
        {"role": "assistant", "content": "Two."},
        {"role": "user", "content": STOP},
    ]
    official = as_official(messages)
    # the action nobody could read is in neither world
    assert [m["role"] for m in official] == [
        "assistant",
        "user",
        "assistant",
        "tool",
        "assistant",
        "tool",
        "assistant",
        "user",
    ]
    (call,), (unknown,) = official[2]["tool_calls"], official[4]["tool_calls"]
    assert (call["name"], call["arguments"], call["requestor"]) == ("calculate", {"expression": "1 + 1"}, "assistant")
    assert (official[3]["id"], official[3]["content"], official[3]["error"]) == (call["id"], "2.0", False)
    assert (official[5]["id"], official[5]["error"]) == (unknown["id"], True)
    assert call["id"] != unknown["id"]
    assert Trajectory("t", "0", messages).ended
    assert not Trajectory("t", "0", messages[:-1]).ended
    assert not Trajectory("t", "0", []).ended


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_recorded_episodes_are_read(suffix: str, tmp_path: Path) -> None:
    rows = [
        {"schema": 1, "kind": "episodes"},
        {"task_id": "0", "ending": "completed", "messages": [{"role": "user", "content": STOP}]},
        {"task_id": "1", "ending": "error", "messages": []},
        {"task_id": "2", "ending": "turn_limit", "messages": []},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    file = tmp_path / f"e{suffix}"
    file.write_bytes(gzip.compress(text) if suffix.endswith("gz") else text)
    assert [(each.name, each.task_id) for each in parity.recorded(file)] == [
        (f"e{suffix} line 2", "0"),
        (f"e{suffix} line 4", "2"),
    ]


def test_a_damaged_file_and_a_foreign_task_are_named(tmp_path: Path) -> None:
    file = tmp_path / "e.jsonl"
    file.write_text('{"task_id": "0"}\n')
    with pytest.raises(ValueError, match=r"e\.jsonl, line 1: not a recorded episode \(KeyError: 'ending'\)"):
        list(parity.recorded(file))
    with pytest.raises(ValueError, match="unknown task 'cancel/NO6JO3/health'"):
        our_reward(Trajectory("t", "cancel/NO6JO3/health", []))


@pytest.mark.skipif(OFFICIAL, reason="the official package is installed")
def test_without_the_official_package_it_says_how_to_get_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert parity.main([]) == 2
    output = capsys.readouterr().err
    for part in ("No module named 'tau2'", "Python 3.12", "a2c0247", "TAU2_DATA_DIR"):
        assert part in output


@pytest.mark.slow
@pytest.mark.skipif(not OFFICIAL, reason="needs the official tau2 package")
def test_every_reward_agrees_with_the_official_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert parity.main([]) == 0, capsys.readouterr().out
