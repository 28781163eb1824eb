"""AppWorld-v0 on the real engine: gold solves every task, nothing less does, and an episode is what the contract of
text environments says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import gymnasium
import pytest
from goal_completion import VARIANTS, goal_completion
from playing import Played, in_parallel, play, text

from environments.appworld.env import AppWorldEnv
from environments.text import check_text_env

How = Literal["gold", "wrong", "idle"]
SPLITS = ("train", "dev", "test_normal", "test_challenge")


@pytest.fixture(scope="module")
def env() -> Iterator[AppWorldEnv]:
    made = AppWorldEnv("own")
    yield made
    made.close()


def own() -> AppWorldEnv:
    return AppWorldEnv("own")


def episode(env: AppWorldEnv, task: tuple[str, How]) -> Played:
    """An episode of a task. Idle is an agent that calls it done at once."""
    task_id, how = task
    done = ["apis.supervisor.complete_task()"]
    return play(env, task_id, {"gold": env.gold(task_id), "wrong": env.habit(task_id), "idle": done}[how] or [])


def scenario(task_id: str) -> str:
    return task_id.rpartition("_")[0]


def assert_gold_alone_solves(env: AppWorldEnv, task_ids: Sequence[str]) -> None:
    """Gold solves all tasks (TGC and SGC 100), doing nothing none, and the careless programme no scenario whole."""
    played = {
        how: in_parallel(own, 2, [(task_id, how) for task_id in task_ids], episode) for how in ("gold", "wrong", "idle")
    }
    for how in played:
        for task_id, one in zip(task_ids, played[how], strict=True):
            assert one.terminated, (how, task_id)
            assert one.reward == float(one.info["success"]), (how, task_id)
            metrics = one.info["metrics"]
            assert (metrics["tests_passed"] == metrics["tests"] > 0) == one.info["success"], (how, task_id)
    scores = goal_completion([one.episode for one in played["gold"]])
    assert (scores["TGC"], scores["SGC"], scores["tasks"]) == (100.0, 100.0, len(task_ids))
    assert scores["scenarios"] == len(task_ids) / VARIANTS
    assert [t for t, one in zip(task_ids, played["idle"], strict=True) if one.info["success"]] == []
    missed = {scenario(t) for t, one in zip(task_ids, played["wrong"], strict=True) if not one.info["success"]}
    assert missed == {scenario(task_id) for task_id in task_ids}
    assert goal_completion([one.episode for one in played["wrong"]])["SGC"] == 0.0


def test_gold_solves_a_scenario_of_each_split_and_nothing_less_does(env: AppWorldEnv) -> None:
    assert env.splits == SPLITS
    assert_gold_alone_solves(env, [task_id for split in SPLITS for task_id in env.tasks(split)[-VARIANTS:]])


@pytest.mark.slow
def test_gold_solves_every_task_and_nothing_less_does(env: AppWorldEnv) -> None:
    assert_gold_alone_solves(env, [task_id for split in SPLITS for task_id in env.tasks(split)])


@pytest.mark.slow
def test_keeps_the_contract_of_text_environments() -> None:
    """A second a block and few turns: an awkward action that computes without end is answered in every turn of an
    episode."""
    made = gymnasium.make("environments:AppWorld-v0", world="own", step_s=1.0, max_turns=12)
    try:
        check_text_env(made, samples=2)
    finally:
        made.close()


def test_a_task_opens_with_the_instructions_and_the_errand(env: AppWorldEnv) -> None:
    task_id = env.tasks("dev")[0]
    output, info = env.reset(options={"task_id": task_id})
    assert [message["role"] for message in output] == ["system", "user"]
    assert info == {"task_id": task_id, "split": "dev", "max_turns": env.max_turns}
    person = text(env.step("print(apis.supervisor.show_profile())")[0])
    instructions, errand = (message["content"] for message in output)
    assert "{" not in instructions.replace("{turns}", "")
    for known in ("apis.supervisor.complete_task", "api_docs", str(env.max_turns)):
        assert known in instructions
    email = instructions.partition("e-mail ")[2].partition(",")[0]
    assert "@" in email
    assert email in person
    assert errand.strip()


def test_an_episode_keeps_its_variables_and_counts_what_was_done(env: AppWorldEnv) -> None:
    task_id = env.tasks("train")[0]
    played = play(
        env,
        task_id,
        [
            "I shall count.\n```python\nn = 20\n```\nThen I shall see.",
            "print(n + 1)",
            "n + 1",
            "print(nobody)",
            "import os",
            "x = = 1",
            "",
            "print(len(apis.supervisor.show_account_passwords()) > 3, apis.supervisor.show_profile()['email'] != '')",
            "apis.supervisor.complete_task()",
        ],
    )
    output = played.outputs
    assert output[1] == "21\n"
    assert output[0] == output[2] == "Execution successful."
    assert "NameError: name 'nobody' is not defined" in output[3]
    assert "Importing 'os' is not allowed" in output[4]
    assert "Syntax error" in output[5]
    assert "no code to run" in output[6]
    assert output[7] == "True True\n"
    assert (played.reward, played.terminated, played.truncated) == (0.0, True, False)
    counted = {"turns": 9, "api_calls": 3, "tool_calls": 3, "refused": 1, "malformed": 1, "bad_actions": 3}
    metrics = played.info["metrics"]
    assert {name: metrics[name] for name in counted} == counted
    assert (metrics["timeouts"], metrics["killed"]) == (0, 0)
    with pytest.raises(RuntimeError, match="no episode is running"):
        env.step("print(1)")


def test_an_endless_block_is_interrupted_and_the_episode_goes_on() -> None:
    env = AppWorldEnv("own", step_s=0.4, deadline_s=5.0)
    played = play(env, env.tasks("train")[0], ["n = 7", "while True: pass", "print(n)"])
    assert "timed out after 0.4 seconds" in played.outputs[1]
    assert played.outputs[2] == "7\n"
    assert (played.terminated, played.truncated) == (False, False)
    env.close()


def test_what_an_episode_left_is_not_in_the_next(env: AppWorldEnv) -> None:
    task_id = env.tasks("train")[0]
    look = (
        "print('Zyzzyva' in [row['title'] for row in apis.simple_note.search_notes(access_token=token, "
        "query='Zyzzyva')])"
    )
    login = (
        "word = next(row['password'] for row in apis.supervisor.show_account_passwords() if "
        "row['account_name'] == 'simple_note')\n"
        "token = apis.simple_note.login(username=apis.supervisor.show_profile()['email'], "
        "password=word)['access_token']"
    )
    write = "apis.simple_note.create_note(title='Zyzzyva', content='x', access_token=token)"
    first = play(env, task_id, [login, look, write, look])
    assert (first.outputs[1], first.outputs[3]) == ("False\n", "True\n")
    assert play(env, task_id, [login, look]).outputs[1] == "False\n"
    assert "NameError" in play(env, task_id, ["print(token)"]).outputs[0]


@pytest.mark.parametrize(("options", "word"), [({"world": "ofical"}, "official"), ({"reward": "dens"}, "dense")])
def test_unknown_options_are_refused_with_the_nearest_right_name(options: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=f"did you mean '{word}'"):
        AppWorldEnv(**options)


def test_the_version_tells_settings_apart() -> None:
    versions = {
        AppWorldEnv("own", **more).version for more in ({}, {"max_turns": 9}, {"shown": 9}, {"reward": "dense"})
    }
    assert len(versions) == 4


def test_splits_training_may_see(env: AppWorldEnv) -> None:
    assert [split for split in env.splits if env.trainable(split)] == ["train", "dev"]
    assert env.protocol.startswith("AppWorld's engine, the project's own world")
