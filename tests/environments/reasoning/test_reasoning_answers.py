"""Where the answer stands in a completion and the reference in a record."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from environments.reasoning.answers import extract_answer, is_wording, last_boxed, same_text, split_reference
from environments.reasoning.env import Reasoning
from environments.reasoning.mini import ReasoningMini


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("<answer>1</answer> no, <answer> 2\n3 </answer>", "2\n3"),
        ("<answer>1</answer> so \\boxed{2}", "1"),
        ("first \\boxed{1}, then \\boxed{\\frac{1}{2}} #### 3", "\\frac{1}{2}"),
        ("thinking\n#### 42\nthat is it", "42"),
        ("#### Step 1\nAdd.\nFinal Answer: 7 apples\nbye", "7 apples"),
        ("ANSWER: 3\n#### 4", "4"),
        ("a\nlast line \n\n", "last line"),
        ("just this", "just this"),
        ("<answer>never closed", "<answer>never closed"),
        ("</answer> 1 <answer>", "</answer> 1 <answer>"),
        ("\\boxed{never {closed}\nline", "line"),
        ("", ""),
        (" \n\t\n", ""),
        ("**Answer:** 42", "42"),
        ("**Final answer**: 42.5 m", "42.5 m"),
        ("Answer: **42**", "42"),
        ("__Answer:__ 42", "42"),
        ("Answer:\n\n42\n", "42"),
        ("Answer:\n```\n1 2\n3 4\n```", "1 2\n3 4"),
        ("Here:\n```json\n[1, 2]\n```\n", "[1, 2]"),
        ("<answer>```\n1 2\n3 4\n```</answer>", "1 2\n3 4"),
        ("<answer>\\boxed{42}</answer>", "42"),
        ("**42**", "42"),
        ("`42`", "42"),
        ("**1** and **2**", "**1** and **2**"),
        ("\\boxed{1} and \\boxed{-2}", "1, -2"),
        ("\\boxed{1}. Hence, since x < 0, \\boxed{-2}", "-2"),
        ("\\boxed{\\boxed{3}}", "3"),
        ("<think>1</think>2", "2"),
        ("1</think>2", "2"),
        ("<think>1", ""),
        ("2<think>1", ""),
        ("<think>a <think> b</think> 2", "2"),
        ("<think>a <think> b</think> c </think> 2", "2"),
        ("[THINK]1[/THINK]2", "2"),
        ("◁think▷1◁/think▷2", "2"),
        ("<|channel|>analysis<|message|>1<|end|><|start|>assistant<|channel|>final<|message|>2", "2"),
        ("<|channel|>analysis<|message|>1", ""),
    ],
)
def test_the_answer_of_a_completion(completion: str, answer: str) -> None:
    assert extract_answer(completion) == answer


@given(st.text(), st.text())
def test_a_tagged_answer_is_found_behind_any_text(before: str, answer: str) -> None:
    if "<answer>" not in answer and "</answer>" not in answer:
        assert extract_answer(f"{before}<answer>{answer}</answer>") == answer.strip()


@pytest.mark.parametrize(
    "piece",
    [
        "<answer>",
        "</answer>",
        "\\boxed{",
        "{",
        "####",
        "answer:",
        "\n",
        "answer   ",
        "```",
        "<think>",
        "</think>",
        "**",
    ],
)
def test_hostile_repetition_is_read_in_linear_time(piece: str) -> None:
    started = time.perf_counter()
    extract_answer(piece * (1_000_000 // len(piece)))
    assert time.perf_counter() - started < 5.0  # quadratic reading would take minutes


def test_boxes() -> None:
    assert last_boxed("\\boxed{a{b}c} d") == "a{b}c"
    assert last_boxed("no box") is None


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("2 + 2 = 4\n#### 4", ("2 + 2 = 4", "4")),
        ("#### 4", (None, "4")),
        ("So $x = \\boxed{\\frac12}$.", ("So $x = \\boxed{\\frac12}$.", "\\frac12")),
        (" 1,234 ", (None, "1,234")),
    ],
)
def test_the_reference_of_a_record(text: str, parts: tuple[str | None, str]) -> None:
    assert split_reference(text) == parts


@pytest.mark.parametrize(("first", "second"), [("1,234", "1234"), ("$42$", "42"), ("Paris.", "paris"), ("a  b", "A b")])
def test_the_same_as_text(first: str, second: str) -> None:
    assert same_text(first, second)


@pytest.mark.parametrize(("first", "second"), [("1,2", "12"), ("4.2", "42"), ("", "0"), ("-1", "1")])
def test_not_the_same_as_text(first: str, second: str) -> None:
    assert not same_text(first, second)


def test_wording_is_told_from_mathematics() -> None:
    assert all(map(is_wording, ["Paris", "New York", "été"]))
    assert not any(map(is_wording, ["x", "42", "\\text{even}", "x = abc", "ab"]))


def test_the_answer_that_was_read_is_reported_at_the_end() -> None:
    """For majority votes: the text of the answer, and nothing where a completion has none."""
    chain = Reasoning(dataset="chain_sum", size={"train": 3, "dev": 1, "test": 1})
    mini = ReasoningMini(size={"train": 10, "dev": 10, "test": 10})
    for env, action, answer in (
        (chain, "so <answer> 12 </answer>", "12"),
        (chain, "  ", None),
        (mini, "8 6 = 6", "6"),
        (mini, "8 6 6", None),
    ):
        env.reset(seed=0)
        *_, info = env.step(action)
        assert info.get("answer") == answer
        assert ("answer" in info) == (answer is not None)
