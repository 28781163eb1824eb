"""Reasoning-v0 on generators and on files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import reasoning_gym.factory

from environments.reasoning.env import Reasoning
from environments.reasoning.exact import REFUSED
from environments.reasoning.generated import split_of_question
from environments.reasoning.grader import POOL
from environments.text import check_text_env


@pytest.fixture(autouse=True, scope="module")
def _close_workers() -> Iterator[None]:
    yield
    POOL.close()


def jsonl(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def play(env: Reasoning, task_id: str, action: str) -> tuple[float, dict[str, Any]]:
    env.reset(options={"task_id": task_id})
    _, reward, terminated, _, info = env.step(action)
    assert terminated
    return reward, info


def test_it_keeps_the_contract() -> None:
    check_text_env(gymnasium.make("environments:Reasoning-v0", datasets={"leg_counting": {}, "n_queens": {}}))


def test_a_mixture() -> None:
    env = Reasoning(
        datasets={"chain_sum": {"max_terms": 3}, "leg_counting": {}}, size={"train": 3, "dev": 1, "test": 2}
    )
    assert env.tasks("test") == ["chain_sum/test/0", "chain_sum/test/1", "leg_counting/test/0", "leg_counting/test/1"]
    assert env.tasks("dev") == ["chain_sum/dev/0", "leg_counting/dev/0"]
    messages, _ = env.reset(options={"task_id": "chain_sum/test/1"})
    assert [message["role"] for message in messages] == ["system", "user"]
    assert messages[1]["content"].startswith("State the final answer")
    assert messages[1]["content"].count(" + ") + messages[1]["content"].count(" - ") <= 2


def test_the_verifier_scores_and_sparse_rewards_want_a_full_score() -> None:
    sparse, dense = Reasoning(), Reasoning(reward="dense")
    task_id = sparse.tasks("test")[0]
    answer = sparse.answer(task_id)
    # chain_sum grants len(reference) / len(answer) to an answer that holds the reference, and reads 7.0 as 7
    hedged = f"<answer>{answer} {answer}</answer>"
    assert play(sparse, task_id, hedged)[0] == 0.0
    reward, info = play(dense, task_id, hedged)
    assert reward == info["metrics"]["score"] == len(answer or "") / (2 * len(answer or "") + 1)
    assert info["success"] is False
    assert play(sparse, task_id, f"so it is\nAnswer: {answer}.0")[0] == 1.0
    assert play(dense, task_id, "")[1]["metrics"]["answered"] == 0.0


def test_no_question_is_in_two_splits_even_where_there_are_few() -> None:
    # one or two one-digit terms: 10 + 200 questions for 600 items
    env = Reasoning(
        datasets={"chain_sum": {"min_terms": 1, "max_terms": 2, "max_digits": 1}},
        size={"train": 200, "dev": 200, "test": 200},
    )
    questions = {
        split: {env.reset(options={"task_id": task_id})[0][1]["content"] for task_id in env.tasks(split)}
        for split in env.splits
    }
    assert not questions["train"] & questions["dev"]
    assert not questions["train"] & questions["test"]
    assert not questions["dev"] & questions["test"]


def test_items_do_not_depend_on_the_order_they_are_asked_for() -> None:
    first, second = Reasoning(dataset="gcd", seed=5), Reasoning(dataset="gcd", seed=6)
    forward = [first.answer(task_id) for task_id in first.tasks("dev")]
    code = Reasoning(dataset="gcd", seed=5, size={"dev": 100, "train": 0, "test": 0})
    assert forward == [code.answer(task_id) for task_id in reversed(code.tasks("dev"))][::-1]
    assert forward != [second.answer(task_id) for task_id in second.tasks("dev")]


def test_too_few_different_questions_are_an_error() -> None:
    # the only question is on the number 5, so two of the three splits have none
    env = Reasoning(datasets={"count_bits": {"min_n": 5, "max_n": 5}})
    home = split_of_question("How many 1 bits are there in the binary representation of the number 5?")
    assert env.answer(f"count_bits/{home}/0") == "2"
    for split in set(env.splits) - {home}:
        with pytest.raises(ValueError, match="too few different questions"):
            env.answer(f"count_bits/{split}/0")


SLOW = frozenset({"knight_swap", "sokoban"})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # arc_agi's package leaves its data file open
@pytest.mark.parametrize("name", sorted(set(reasoning_gym.factory.DATASETS) - {"composite"} - set(REFUSED) - SLOW))
def test_every_generator(name: str) -> None:
    env = Reasoning(dataset=name, size={"train": 2, "dev": 1, "test": 1})
    for split in env.splits:
        for task_id in env.tasks(split):
            gold = env.gold(task_id)
            assert play(env, task_id, "")[0] == 0.0
            assert play(env, task_id, "x")[0] == 0.0
            assert gold is None or play(env, task_id, gold[0])[0] == 1.0


@pytest.mark.parametrize(
    ("given", "output"),
    [
        ({"dataset": "chian_sum"}, "unknown reasoning-gym generator 'chian_sum'; did you mean 'chain_sum'"),
        ({"dataset": "composite"}, "unknown reasoning-gym generator"),
        ({"datasets": {"chain_sum": {"max_term": 3}}}, "'max_term'; did you mean 'max_terms'"),
        ({"datasets": {"chain_sum": {"seed": 3}}}, "'seed' is an option of the environment"),
        ({"datasets": {"chain_sum": {"min_terms": 9, "max_terms": 3}}}, "refuses .*max_terms must be >= min_terms"),
        ({"dataset": "gcd", "file": "x.jsonl"}, "one of dataset, datasets, file and name; got dataset, file"),
        ({"reward": "spars"}, "did you mean 'sparse'"),
        ({"size": {"trian": 1}}, "did you mean 'train'"),
        ({"size": {"train": -1}}, "whole number of items, got -1"),
    ],
)
def test_wrong_options_are_refused(given: Mapping[str, Any], output: str) -> None:
    with pytest.raises(ValueError, match=output):
        Reasoning(**given)


def test_generators_know_answers_only_and_say_so() -> None:
    assert Reasoning().terse
    assert not Reasoning(terse=False).terse
    assert Reasoning(dataset="rush_hour").gold("rush_hour/test/0") is None


def test_the_version_tells_configurations_apart() -> None:
    versions = {
        Reasoning(**given).version
        for given in (
            {},
            {"seed": 1},
            {"reward": "dense"},
            {"size": {"dev": 99}},
            {"dataset": "gcd"},
            {"datasets": {"chain_sum": {"max_terms": 3}}},
        )
    }
    assert len(versions) == 6
    assert Reasoning().version == Reasoning(dataset="chain_sum").version
    assert "reasoning-gym=0.1.25" in Reasoning().version


def test_a_gsm8k_file(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "gsm.jsonl",
        {"question": "What is 40 + 2?", "answer": "Add them.\n#### 42"},
        {"problem": "Half of one?", "solution": "It is $\\boxed{\\frac{1}{2}}$."},
        {"problem": "Twice two?", "answer": 4, "solution": "2 + 2"},
    )
    env = Reasoning(file={"test": path})
    assert env.tasks("test") == ["gsm/test/1", "gsm/test/2", "gsm/test/3"]
    assert env.gold("gsm/test/1") == ["Add them.\n<answer>42</answer>"]
    assert env.gold("gsm/test/3") == ["2 + 2\n<answer>4</answer>"]
    assert (env.answer("gsm/test/2"), env.terse) == ("\\frac{1}{2}", False)
    assert play(env, "gsm/test/1", "I think\n#### 42.0")[0] == 1.0
    assert play(env, "gsm/test/2", "that is \\boxed{0.5}")[0] == 1.0
    assert play(env, "gsm/test/2", "that is \\boxed{0.6}")[0] == 0.0
    for task_id in env.tasks("test"):
        assert play(env, task_id, env.gold(task_id)[0])[0] == 1.0  # type: ignore[index]


def test_boxes_that_stand_together_are_all_wanted(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "two.jsonl", {"question": "Roots?", "answer": "They are \\boxed{1} and \\boxed{-2}."})
    env = Reasoning(file={"test": path})
    for action in ("<answer>-2, 1</answer>", "so \\boxed{1} and \\boxed{-2}", "x = 1 or x = -2"):
        assert play(env, "two/test/1", action)[0] == 1.0
    for action in ("<answer>-2</answer>", "\\boxed{1}", "1, -2, 3", "1, 2"):
        assert play(env, "two/test/1", action)[0] == 0.0


def test_a_unit_that_only_the_question_names(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "units.jsonl", {"question": "How many cm is it?", "answer": "6"})
    env = Reasoning(file={"test": path})
    assert [play(env, "units/test/1", f"<answer>{text}</answer>")[0] for text in ("6", "6 cm", "6 m")] == [1, 1, 0]


@pytest.mark.parametrize(
    ("action", "reward"),
    [
        ("<think>maybe <answer>119</answer>? no wait", 0.0),
        ("<think>maybe <answer>119</answer>? no wait</think>\nI do not know", 0.0),
        ("maybe <answer>119</answer></think> I do not know", 0.0),
        ("<answer>119</answer><think>or", 0.0),
        ("<think>no <answer>3</answer></think><answer>119</answer>", 1.0),
        ("**Answer:** 119", 1.0),
    ],
)
def test_thinking_is_never_graded(tmp_path: Path, action: str, reward: float) -> None:
    env = Reasoning(file={"test": jsonl(tmp_path / "t.jsonl", {"question": "?", "answer": "119"})})
    assert play(env, "t/test/1", action)[0] == reward


def test_a_file_keeps_the_contract(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "sums.jsonl", *({"question": f"{n} + {n}", "answer": str(2 * n)} for n in range(40)))
    env = gymnasium.make("environments:Reasoning-v0", file=str(path))
    inner: Any = env.unwrapped
    assert [len(inner.tasks(split)) for split in ("train", "dev", "test")] == [32, 4, 4]
    assert inner.terse
    check_text_env(env, samples=4)


@pytest.mark.parametrize(("count", "sizes"), [(1, [1, 0, 0]), (2, [1, 0, 1]), (3, [1, 1, 1]), (30, [24, 3, 3])])
def test_even_a_short_file_has_a_test_split(tmp_path: Path, count: int, sizes: list[int]) -> None:
    path = jsonl(tmp_path / "f.jsonl", *({"question": f"q{n}", "answer": str(n)} for n in range(count)))
    env = Reasoning(file=path)
    assert [len(env.tasks(split)) for split in env.splits] == sizes


def test_a_question_in_two_files_counts_for_the_held_out_split(tmp_path: Path) -> None:
    train = jsonl(tmp_path / "a.jsonl", {"question": "What  is 1?", "answer": "1"}, {"question": "2?", "answer": "2"})
    test = jsonl(tmp_path / "b.jsonl", {"question": "what is 1?", "answer": "1"})
    env = Reasoning(file={"train": train, "test": test})
    assert (env.tasks("train"), env.tasks("test")) == (["a/train/2"], ["a/test/1"])


def test_the_version_follows_the_file_s_content(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"question": "1?", "answer": "1"})
    before = Reasoning(file=path).version
    assert before == Reasoning(file=path).version
    jsonl(path, {"question": "1?", "answer": "2"})
    assert before != Reasoning(file=path).version


@pytest.mark.parametrize(
    ("line", "output"),
    [
        ('{"question": "x"', "line 3: Expecting"),
        ('["x"]', "line 3: a record is an object"),
        ('{"question": "x"}', "line 3: no text under any of answer, final_answer, solution; the record has question"),
        ('{"question": " ", "answer": "1"}', "line 3: the question or the answer is empty"),
        ('{"question": "x", "answer": "#### "}', "line 3: the question or the answer is empty"),
        ('{"question": "x", "answer": NaN}', "line 3: no text under"),
        ('{"question": "x", "answer": "It is \\\\boxed{1}. Or else, then, \\\\boxed{2}."}', "line 3: .* several boxes"),
        ('{"question": "x", "answer": "so \\\\boxed{1"}', "line 3: .* never closed"),
        ('{"question": "x", "answer": "#### 1\\n#### 2"}', "line 3: .* several '####'"),
        ('{"question": "x", "answer": "N/A"}', "line 3: the answer 'N/A' is none"),
        ("[" * 100_000, "line 3"),
        ("\udcff", "line 3: 'utf-8'"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str, output: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"question": "x", "answer": "1"}\n\n' + line.encode("utf-8", "surrogateescape") + b"\n")
    with pytest.raises(ValueError, match=f"bad.jsonl, {output}"):
        Reasoning(file=path)


def test_a_missing_file_and_an_unknown_split_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jsonl"):
        Reasoning(file=tmp_path / "nowhere.jsonl")
    with pytest.raises(ValueError, match="did you mean 'test'"):
        Reasoning(file={"tset": tmp_path / "x.jsonl"})


def test_a_hub_name_says_what_to_do_where_it_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match="file="):
        Reasoning(name="no-such-owner/no-such-dataset")


def test_a_folder_through_datasets(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    jsonl(tmp_path / "train.jsonl", {"question": "1 + 1?", "answer": "#### 2"})
    jsonl(tmp_path / "test.jsonl", {"question": "2 + 2?", "answer": "#### 4"})
    env = Reasoning(name=str(tmp_path))
    assert env.answer(env.tasks("test")[0]) == "4"
