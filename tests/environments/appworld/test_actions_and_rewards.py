"""What AppWorld-v0 takes for code, what it shows of the answer, and what an episode is worth."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from episodes import episode, played, program
from goal_completion import by_difficulty, goal_completion
from hypothesis import given
from hypothesis import strategies as st

from environments.appworld.env import SHOWN, AppWorldEnv, block_of
from environments.appworld.metrics import summarise

ENDS = "apis.supervisor.complete_task()"


@pytest.fixture(scope="module")
def env() -> AppWorldEnv:
    return AppWorldEnv("own", reward="dense")


# ---------------------------------------------------------------- actions


@pytest.mark.parametrize(
    ("action", "code"),
    [
        ("x = 1", "x = 1"),
        ("```python\nx = 1\n```", "x = 1\n"),
        ("```py\nx = 1\n```", "x = 1\n"),
        ("```Python3  \nx = 1\n```", "x = 1\n"),
        ("```\nx = 1\n```", "x = 1\n"),
        ("```python\r\nx = 1\r\n```", "x = 1\r\n"),
        ("I look first.\n```python\nx = 1\ny = 2\n```\nThen I pay.", "x = 1\ny = 2\n"),
        ("Like so: ```python\nx = 1\n```", "x = 1\n"),
        ("```python\nx = 1\n```\n```python\ny = 2\n```", "x = 1\n"),
        ("```python\nx = 1", "x = 1"),
        ("```python\nx = 1\n  ```", "x = 1\n"),
        ("```python\n```", ""),
        ("```python\n\n```", "\n"),
        ("I want `x` and ```y```.\n```python\nx = 1\n```", "x = 1\n"),
        ("```json\n{}\n```\nso\n```python\nx = 1\n```", "x = 1\n"),
        ("```bash\nls\n```\nor\n```\nx = 1\n```", "x = 1\n"),
        ('```python\nx = """\nno ``` fence\n"""\n```', 'x = """\nno ``` fence\n"""\n'),
        ("```json\n{}\n```", "```json\n{}\n```"),
        ("", ""),
        ("<think>\n```python\nbad()\n```\n</think>\n```python\nx = 1\n```", "x = 1\n"),
        ("```python\nbad()\n```\n</think>x = 1", "x = 1"),
        ("<think>\n```python\nbad()\n```", ""),
    ],
)
def test_the_code_of_an_action(action: str, code: str) -> None:
    assert block_of(action) == code


@given(st.text(), st.text(st.characters(exclude_characters="`"), min_size=1), st.sampled_from(["python", "py", ""]))
def test_any_code_between_fences_is_found(around: str, code: str, language: str) -> None:
    before = around.replace("`", "")
    assert block_of(f"{before}\n```{language}\n{code}\n```\n{around}") == f"{code}\n"


@given(st.text(st.sampled_from("`\n py=\r\ta")) | st.text())
def test_every_string_is_some_code(action: str) -> None:
    assert block_of(action) in action


def test_thinking_is_not_run_and_names_live_on(env: AppWorldEnv) -> None:
    task_id = env.tasks("train")[0]
    output, info, _ = played(
        env,
        task_id,
        ["x = 20\n```\nx = 5 # nobody runs this\n```python\nx = 7", "print(x + 1)", f"print('end')\n{ENDS}"],
    )
    assert output == ["Execution successful.", "21\n", "end\n"]
    assert info is not None
    assert info["metrics"]["turns"] == 3


def test_empty_refused_and_malformed_blocks_cost_a_turn_and_are_counted(env: AppWorldEnv) -> None:
    env.reset(options={"task_id": env.tasks("train")[0]})
    for action, holds in (
        ("", "no code to run"),
        ("```python\n \n```", "no code to run"),
        ("Let me think about this.", "Syntax error in line"),
        ("```python\nimport os\n```", "Importing 'os' is not allowed"),
        ("```python\nprint(1)\n```", "1"),
    ):
        output, reward, terminated, truncated, _ = env.step(action)
        assert holds in output[0]["content"]
        assert (reward, terminated, truncated) == (0.0, False, False)
    *_, info = env.step(ENDS)
    metrics = info["metrics"]
    assert (metrics["turns"], metrics["bad_actions"], metrics["refused"], metrics["malformed"]) == (6, 4, 1, 1)
    assert metrics["api_calls"] == metrics["tool_calls"] == 1


def test_a_long_observation_is_cut_and_says_so(env: AppWorldEnv) -> None:
    printed = [SHOWN - 1, SHOWN, SHOWN + 1000]  # and the end of the line
    output, _, _ = played(env, env.tasks("train")[0], [f"print('é' * {length})" for length in printed])
    assert output[0] == "é" * (SHOWN - 1) + "\n"
    assert output[1] == f"{'é' * SHOWN}\n[cut: 1 more characters were printed; print less at a time]"
    assert output[2] == f"{'é' * SHOWN}\n[cut: 1001 more characters were printed; print less at a time]"
    env.close()


# ---------------------------------------------------------------- what the agent reads


def test_a_task_opens_with_the_instructions_filled_in_and_the_task(env: AppWorldEnv) -> None:
    (system, user), info = env.reset(options={"task_id": env.tasks("dev")[0]})
    assert (system["role"], user["role"], info["max_turns"]) == ("system", "user", 50)
    env.step("profile = apis.supervisor.show_profile()")
    output = env.step("print(profile['first_name'], profile['last_name'], profile['email'], profile['phone_number'])")[
        0
    ]
    first, last, email, phone = output[0]["content"].split()
    for part in (f"{first} {last}", email, phone, "- venmo: ", "You have 50 turns"):
        assert part in system["content"]
    assert not re.search(r"\{\w+\}", system["content"])
    env.close()


def test_instructions_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "instructions.md"
    file.write_text('For {name} in {turns} turns. Keep {"this"} and {that} é.\n', encoding="utf-8")
    env = AppWorldEnv("own", instructions=str(file), max_turns=7)
    (system, _), _ = env.reset(options={"task_id": env.tasks("dev")[0]})
    env.close()
    assert system["content"].startswith("For ")
    assert system["content"].endswith(' in 7 turns. Keep {"this"} and {that} é.')
    assert "{name}" not in system["content"]
    # other instructions are another environment to a record of runs
    other = tmp_path / "other.md"
    other.write_text("Do.")
    assert len({AppWorldEnv("own", instructions=given).version for given in (None, str(file), str(other))}) == 3


def test_instructions_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"\xe9")
    for name in ("absent", "latin", "."):
        with pytest.raises(ValueError, match=r"the file of instructions .* cannot be read"):
            AppWorldEnv("own", instructions=str(tmp_path / name))


def test_unknown_options_name_the_nearest_right_one() -> None:
    with pytest.raises(ValueError, match="unknown world 'offical'; did you mean 'official'"):
        AppWorldEnv("offical")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown reward 'spares'; did you mean 'sparse'"):
        AppWorldEnv("own", reward="spares")  # type: ignore[arg-type]


# ---------------------------------------------------------------- rewards


def test_dense_rewards_by_hand(env: AppWorldEnv) -> None:
    """(f - f0) / (1 - f0): a task with four tests of which doing nothing passes two gives 0, 1/2, 1 or less than
    nothing.
    """
    task_id = "genresweep_1"  # tests: the answer, the songs gone, no other song gone, no other table changed
    sparse = AppWorldEnv("own")
    gold = program(env, task_id, "gold")
    assert gold[-1] == ENDS
    spoil = "apis.spotify.like_song(song_id=library[0]['song_id'], access_token=spotify)"
    by_hand = {
        # blocks, tests passed, dense, sparse
        "gold": (gold, 4, 1.0, 1.0),
        "nothing": ([ENDS], 3, 0.5, 0.0),  # even the answer that was not asked for is right
        "not ended": ([*gold[:-1]], 3, 0.5, 0.0),
        "spoilt": ([*gold[:-1], spoil, ENDS], 3, 0.5, 0.0),
        "half, spoilt": ([gold[0], spoil, ENDS], 2, 0.0, 0.0),
        "half, spoilt, not ended": ([gold[0], spoil], 1, -0.5, 0.0),
    }
    for name, (blocks, passed, dense, plain) in by_hand.items():
        for of, worth in ((env, dense), (sparse, plain)):
            of.max_turns = len(blocks)
            _, info, reward = played(of, task_id, blocks)
            assert info is not None
            found = (info["metrics"]["tests_passed"], info["metrics"]["tests"], reward, info["success"])
            assert found == (passed, 4, worth, name == "gold"), name
    env.max_turns = 50


def test_turns_that_run_out_are_judged_as_they_stand(env: AppWorldEnv) -> None:
    """What was done counts; that the task was not ended, and so not answered, fails it."""
    gold = program(env, "genresweep_1", "gold")
    short = AppWorldEnv("own", reward="dense", max_turns=len(gold) - 1)
    short.reset(options={"task_id": "genresweep_1"})
    for block in gold[:-2]:
        assert not short.step(block)[3]
    _, reward, terminated, truncated, info = short.step(gold[-2])
    assert (terminated, truncated, info["success"]) == (False, True, False)
    assert info["metrics"]["tests_passed"] == 3
    with pytest.raises(RuntimeError, match="no episode is running"):
        short.step(gold[-1])
    assert reward == 0.5


def test_scores_of_a_set_of_episodes(env: AppWorldEnv) -> None:
    names = env.tasks("train")[:3] + env.tasks("dev")[:3]
    plays = ["gold", "gold", "gold", "gold", "wrong", "gold"]
    episodes = [episode(task, which, env) for task, which in zip(names, plays, strict=True)]
    scores = goal_completion(episodes)
    assert (scores["TGC"], scores["SGC"], scores["tasks"], scores["scenarios"]) == (pytest.approx(500 / 6), 50.0, 6, 2)
    report = env.summary(episodes)
    assert report["per episode"]["killed"] == 0
    assert report["per episode"]["API calls"] > 5


def test_scores_of_several_episodes_a_task_by_hand() -> None:
    def of(task_id: str, success: bool, level: float) -> dict[str, object]:
        return {"task_id": task_id, "success": success, "metrics": {"difficulty": level, "api_calls": 4.0}}

    episodes = [of("a_1", True, 1), of("a_1", False, 1), of("a_2", True, 1), of("a_3", True, 1), of("b_1", False, 2)]
    scores, levels, report = goal_completion(episodes), by_difficulty(episodes), summarise(episodes)
    # tasks: 1/2, 1, 1 and 0; the one whole scenario is solved by one attempt at each in a half of the cases
    assert (scores["TGC"], scores["SGC"], scores["tasks"], scores["scenarios"]) == (62.5, 50.0, 4, 1)
    assert levels["1"] == {"TGC": pytest.approx(250 / 3), "SGC": 50.0, "tasks": 3, "scenarios": 1}
    assert levels["2"] == {"TGC": 0.0, "SGC": None, "tasks": 1, "scenarios": 0}
    assert report["difficulty"]["1"] == {"tasks": 3, "success": pytest.approx(5 / 6)}
    assert report["difficulty"]["2"] == {"tasks": 1, "success": 0.0}
    assert report["per episode"]["API calls"] == 4.0
    assert summarise([]) == {}
