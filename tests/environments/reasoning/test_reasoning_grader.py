"""The grader: what verifiers and math-verify say, and that no answer hangs, crashes or takes over the process."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import reasoning_gym.factory

from environments.reasoning.generated import Generator
from environments.reasoning.grader import POOL, Verdict, score_generated, score_math
from environments.reasoning.grader_worker import EVALUATED, FORMULAS, refused


@pytest.fixture(autouse=True, scope="module")
def _close_workers() -> Iterator[None]:
    yield
    POOL.close()


def verdict(name: str, answer: str, timeout: float = 20.0, index: int = 0) -> Verdict:
    source = Generator(name, {}, {"train": 5}, seed=1)
    item = source.item("train", index)
    dataset, settings = source.dataset("train", item.attempt)
    assert item.entry is not None
    return score_generated(dataset, name, settings, item.entry, answer, timeout)


def test_the_guarded_generators_are_all_that_evaluate_answers() -> None:
    """Every verifier of the installed library that calls `eval` or `parse_expr` is behind a guard."""
    found = set()
    for name, (dataset, _) in reasoning_gym.factory.DATASETS.items():
        source = inspect.getsource(dataset)
        # number_sorting evaluates its own reference only
        calls = re.findall(
            r"(?:eval|parse_expr|sympify|exec)\((?!entry|expr\b)", source[source.find("def score_answer") :]
        )
        if "def score_answer" in source and calls:
            found.add(name)
    assert found - {"bitwise_arithmetic", "propositional_logic"} == EVALUATED | FORMULAS


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("spiral_matrix", "__import__('os').system('true')"),
        ("spiral_matrix", "entry['answer'].split()"),
        ("n_queens", "9**9**9"),
        ("string_insertion", "[c for c in oracle_answer]"),
        ("binary_matrix", "answer"),
        ("countdown", "open('x')"),
        ("countdown", "input()"),
        ("puzzle24", "(1).__class__"),
        ("simple_integration", 'exec("1")'),
        ("polynomial_multiplication", "breakpoint()"),
        ("polynomial_multiplication", "x\n;y"),
    ],
)
def test_code_is_refused(name: str, answer: str) -> None:
    assert refused(name, answer)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("spiral_matrix", "[1, 2, 3]"),
        ("spiral_matrix", "1 2 3"),
        ("n_queens", "_ Q _ _\n_ _ _ Q"),
        ("binary_matrix", "[[0, 1], [1, 0]]"),
        ("countdown", "78*(37 - 29) + 71 + 3 - 16"),
        ("simple_integration", "3*x**2/2 + sin(x) + .5*exp(2.5*x) + C"),
        ("leg_counting", "entry['answer']"),
    ],
)
def test_answers_are_not_refused(name: str, answer: str) -> None:
    assert not refused(name, answer)


def test_a_refused_answer_scores_nothing_and_has_no_effect(tmp_path: Path) -> None:
    target = tmp_path / "touched"
    assert verdict("spiral_matrix", f"open({str(target)!r}, 'w')") == (0.0, "refused")
    assert not target.exists()


def test_a_list_is_as_good_as_a_row_for_the_spiral() -> None:
    source = Generator("spiral_matrix", {}, {"train": 1}, seed=1)
    reference = source.item("train", 0).answer
    assert reference is not None
    assert source.score("train", 0, reference).score == 1.0
    assert source.score("train", 0, "[" + reference.replace(" ", ", ") + "]").score > 0.0


def test_another_formula_for_the_same_number_is_right() -> None:
    # "a + b" and "(a + b)" differ as text: only the verifier in the worker can tell that they are equal
    source = Generator("countdown", {}, {"train": 1}, seed=1)
    reference = source.item("train", 0).answer
    assert source.score("train", 0, f"({reference})") == (1.0, "")


def test_an_answer_that_hangs_its_verifier_is_cut_off() -> None:
    started = time.perf_counter()
    assert verdict("countdown", "9**9**9", timeout=1.0) == (0.0, "timeout")
    # 1 s for the answer, the rest for starting a worker on a busy machine
    assert time.perf_counter() - started < 60.0
    # the next answer gets a fresh worker
    assert verdict("countdown", "1 + 1").note == ""


def test_the_empty_answer_scores_nothing_where_the_verifier_would_give_something() -> None:
    assert verdict("countdown", "") == (0.0, "")
    assert verdict("sentence_reordering", "") == (0.0, "")


def test_a_verifier_that_takes_any_text_is_replaced() -> None:
    assert verdict("game_of_life_halting", "x") == (0.0, "")
    source = Generator("game_of_life_halting", {}, {"train": 1}, seed=1)
    other = {"True": "False", "False": "True"}[source.item("train", 0).answer or ""]
    assert source.score("train", 0, other).score == 0.0
    assert source.score("train", 0, (source.item("train", 0).answer or "").lower()).score == 1.0


@pytest.mark.parametrize("name", ["prime_factorization", "game_of_life", "boxnet"])
@pytest.mark.parametrize("answer", ["{}", "[1,2]", "1e9999", "x"])
def test_a_verifier_that_raises_is_no_failure(name: str, answer: str) -> None:
    assert verdict(name, answer).score < 0.1


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        ("\\frac{1}{2}", "0.5"),
        ("\\frac{1}{2}", "$1/2$"),
        ("1000", "1,000"),
        ("x^2+1", "1 + x^2"),
        ("3\\sqrt{2}", "\\sqrt{18}"),
        ("\\{1,2\\}", "\\{2, 1\\}"),
        ("Paris", "paris"),
        ("\\text{even}", "\\text{even}"),
    ],
)
def test_equal_as_mathematics(reference: str, answer: str) -> None:
    assert score_math(reference, answer, 30.0) == (1.0, "")


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        ("5", "4 or 5"),
        ("5", "1, 2, 3, 4, 5"),
        ("(1,2)", "(2,1)"),
        ("5", "-5"),
        ("Paris", "pairs"),
        ("5", ""),
        ("12", "1 2"),
    ],
)
def test_not_equal_as_mathematics(reference: str, answer: str) -> None:
    assert score_math(reference, answer, 30.0).score == 0.0


def test_mathematics_is_graded_off_the_main_thread() -> None:
    verdicts: list[Any] = []
    threads = [threading.Thread(target=lambda: verdicts.append(score_math("0.5", "1/2", 60.0))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == [(1.0, "")] * 2


def test_mathematics_that_takes_too_long_is_cut_off() -> None:
    assert score_math("5", "9^{9^{9^{9}}}", 1.0).score == 0.0


def test_a_worker_ends_with_its_parent() -> None:
    code = (
        "from environments.reasoning.grader import POOL, score_math\n"
        "assert score_math('0.5', '1/2', 60.0).score == 1\n"
        "print(*[worker.process.pid for workers in POOL._idle.values() for worker in workers], flush=True)\n"
        "import os; os._exit(0)\n"  # no clean-up: only the closed pipe tells the worker
    )
    pid = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    status = Path(f"/proc/{pid}/status")
    deadline = time.monotonic() + 20.0
    while status.exists() and "\nState:\tZ" not in status.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not status.exists() or "\nState:\tZ" in status.read_text()
