"""ReasoningMini-v0: rendering, the habit's share, splits by content."""

from __future__ import annotations

import re
import timeit

import gymnasium
import pytest

from environments.reasoning.mini import CHAIN_SUM, ReasoningMini
from environments.text import check_text_env


@pytest.fixture(scope="module")
def mini() -> ReasoningMini:
    return ReasoningMini()


def prompt_of(env: ReasoningMini, task_id: str) -> str:
    return env.reset(options={"task_id": task_id})[0][0]["content"]


def reward_of(env: ReasoningMini, task_id: str, action: str) -> float:
    env.reset(options={"task_id": task_id})
    return env.step(action)[1]


@pytest.mark.parametrize("dataset", ["chain_sum", "spell_backward"])
def test_it_keeps_the_contract(dataset: str) -> None:
    check_text_env(gymnasium.make("environments:ReasoningMini-v0", dataset=dataset))


def test_a_sum_by_hand() -> None:
    # 4 + 7 = 11, 11 - 5 = 6, 6 - 2 = 4; adding every term: 11, 16, 18
    metadata = {"expression": "4 + 7 - 5 - 2"}
    assert CHAIN_SUM.gold(metadata) == "11 6 4 = 4"
    assert CHAIN_SUM.habit(metadata) == "11 16 18 = 18"
    assert CHAIN_SUM.keep(metadata)
    assert not CHAIN_SUM.keep({"expression": "4 - 7 + 5"})  # -3 on the way
    assert not CHAIN_SUM.keep({"expression": "4 + 7 - 0"})  # the habit would be right in spite of a minus
    assert not CHAIN_SUM.keep({"expression": "9 + 9 - 8"})  # the habit would pass 20


def test_gold_is_the_arithmetic_python_does(mini: ReasoningMini) -> None:
    for task_id in mini.tasks("dev"):
        prompt = prompt_of(mini, task_id)
        assert re.fullmatch(r"\d( [+-] \d){2,3}", prompt)
        assert mini.answer(task_id) == str(eval(prompt))
        words = prompt.split()
        totals = [str(eval(" ".join(words[:end]))) for end in range(3, len(words) + 1, 2)]
        assert mini.gold(task_id) == [f"{' '.join(totals)} = {totals[-1]}"]
        assert all(0 <= int(total) <= 20 for total in totals)


def test_the_habit_solves_exactly_three_in_ten_and_just_those_without_a_minus(mini: ReasoningMini) -> None:
    for split in mini.splits:
        right = {task_id for task_id in mini.tasks(split) if reward_of(mini, task_id, mini.habit(task_id)[0]) == 1.0}
        assert len(right) == 0.3 * len(mini.tasks(split))
        assert right == {task_id for task_id in mini.tasks(split) if "-" not in prompt_of(mini, task_id)}


def test_gold_solves_every_task(mini: ReasoningMini) -> None:
    assert all(
        reward_of(mini, task_id, mini.gold(task_id)[0]) == 1.0 for split in mini.splits for task_id in mini.tasks(split)
    )


def test_questions_are_all_different(mini: ReasoningMini) -> None:
    prompts = [prompt_of(mini, task_id) for split in mini.splits for task_id in mini.tasks(split)]
    assert [len(mini.tasks(split)) for split in mini.splits] == [4000, 250, 500]
    assert len(set(prompts)) == len(prompts) == 4750


@pytest.mark.parametrize(
    ("action", "reward"),
    [
        ("= {}", 1.0),
        ("99 98 = 97 = {} ", 1.0),
        ("{}", 0.0),
        ("", 0.0),
        ("=", 0.0),
        ("= {} {}", 0.0),
        ("= 1{}", 0.0),
        ("{} =", 0.0),
    ],
)
def test_only_what_follows_the_last_equals_sign_counts(mini: ReasoningMini, action: str, reward: float) -> None:
    task_id = mini.tasks("test")[0]
    answer = mini.answer(task_id)
    assert reward_of(mini, task_id, action.format(answer, answer)) == reward


def test_a_word_by_hand() -> None:
    env = ReasoningMini("spell_backward")
    task_id = next(task_id for task_id in env.tasks("train") if len(prompt_of(env, task_id)) == 9)
    word = prompt_of(env, task_id).replace(" ", "")
    backward = " ".join(reversed(word))
    assert env.gold(task_id) == [f"{backward} = {backward}"]
    assert env.answer(task_id) == word[::-1]
    swapped = " ".join([word[4], *word[1:4], word[0]])
    assert env.habit(task_id) == [f"{swapped} = {swapped}"]
    assert reward_of(env, task_id, f"= {backward}") == 1.0


def test_tasks_come_from_the_seed_and_the_version_says_so() -> None:
    small = {"train": 20, "dev": 10, "test": 10}
    first, again, other = (ReasoningMini(size=small, seed=seed) for seed in (0, 0, 1))
    asked = [[prompt_of(env, task_id) for task_id in env.tasks("train")] for env in (first, again, other)]
    assert asked[0] == asked[1] != asked[2]
    assert first.version == again.version != other.version
    assert first.version != ReasoningMini(size={"train": 21, "dev": 10, "test": 10}).version


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ValueError, match="did you mean 'chain_sum'"):
        ReasoningMini("chain_sums")
    with pytest.raises(ValueError, match="did you mean 'train'"):
        ReasoningMini(size={"trian": 3})
    with pytest.raises(ValueError, match=r"has only \d+ questions"):
        ReasoningMini("spell_backward", size={"dev": 2500}).reset(options={"split": "dev"})
    with pytest.raises(ValueError, match="did you mean 'chain_sum/dev/"):
        ReasoningMini().gold("chain_sum/dev/250")


def test_terse_is_a_flag() -> None:
    assert not ReasoningMini().terse
    assert ReasoningMini(terse=True).terse


def test_an_episode_takes_well_under_a_millisecond(mini: ReasoningMini) -> None:
    def episode() -> None:
        mini.reset(seed=1)
        mini.step("3 4 = 5")

    episode()
    assert min(timeit.repeat(episode, number=100, repeat=5)) / 100 < 5e-4
