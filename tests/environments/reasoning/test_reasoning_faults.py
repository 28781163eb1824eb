"""Whose fault it is that an answer has no verdict: real signals to real workers, and texts of every kind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from environments.reasoning import pool
from environments.reasoning.env import Reasoning
from environments.reasoning.grader import POOL, Verdict, score_math
from environments.reasoning.mini import ReasoningMini

SMALL = {"train": 3, "dev": 1, "test": 1}


@pytest.fixture(autouse=True, scope="module")
def _close_workers() -> Iterator[None]:
    yield
    POOL.close()


@pytest.fixture
def idle() -> int:
    """The process id of the only idle worker."""
    POOL.close()
    assert score_math("x + 1", "1 + x").score == 1.0
    (pid,) = POOL.workers()
    return pid


def play(env: Any, action: str, task_id: str | None = None) -> tuple[float, bool, dict[str, Any]]:
    env.reset(options={"task_id": task_id or env.tasks("train")[0]})
    _, reward, _, truncated, info = env.step(action)
    return reward, truncated, info


@pytest.fixture
def formulas(tmp_path: Path) -> Reasoning:
    path = tmp_path / "formulas.jsonl"
    path.write_text('{"question": "Expand x(x + 1).", "answer": "x^2 + x"}\n', encoding="utf-8")
    return Reasoning(file={"train": path})


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
def test_a_worker_lost_while_idle_costs_no_reward(idle: int, formulas: Reasoning, sent: int) -> None:
    os.kill(idle, sent)
    reward, truncated, info = play(formulas, "<answer>x(x+1)</answer>")
    assert (reward, truncated, info["success"]) == (1.0, False, True)
    assert "failure" not in info
    assert info["metrics"]["verifier_failed"] == 0.0
    assert idle not in POOL.workers()  # and the lost one is not kept
    assert score_math("x + 1", "x + 2") == Verdict(0.0)


def test_a_worker_that_goes_on_after_five_seconds_is_waited_for(idle: int, formulas: Reasoning) -> None:
    os.kill(idle, signal.SIGSTOP)
    waker = subprocess.Popen([sys.executable, "-c", f"import os, time; time.sleep(5); os.kill({idle}, 18)"])
    assert play(formulas, "<answer>x(x+1)</answer>")[0] == 1.0
    waker.wait()


BURNS = "(a+b+c+d+e)^{90}-\\sin(a)^{80}(a+b)^{200}"
"""Millions of terms when it is multiplied out."""


class Killed(pool.Worker):
    """A worker that something kills each time it is about to be asked."""

    def ask(self, job: tuple[Any, ...], cpu_s: float, wall_s: float) -> Verdict:
        if job[0] != "import":
            os.kill(self.process.pid, signal.SIGKILL)
        return super().ask(job, cpu_s, wall_s)


def test_a_machine_that_kills_every_worker_is_reported_and_earns_nothing(
    formulas: Reasoning, monkeypatch: pytest.MonkeyPatch
) -> None:
    POOL.close()
    monkeypatch.setattr(pool, "Worker", Killed)
    reward, truncated, info = play(formulas, "<answer>x(x+1)</answer>")
    assert (reward, truncated) == (0.0, True)
    assert info["failure"]["kind"] == "grader"
    assert "twice" in info["failure"]["message"]
    POOL.close()
    monkeypatch.undo()
    assert play(formulas, "<answer>x(x+1)</answer>")[0] == 1.0  # the environment goes on


def test_no_process_to_be_had_is_reported(formulas: Reasoning, monkeypatch: pytest.MonkeyPatch) -> None:
    POOL.close()
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    _, truncated, info = play(formulas, "<answer>x(x+1)</answer>")
    assert truncated
    assert info["failure"]["kind"] == "grader"


def test_processor_time_that_an_answer_burns_is_its_own(formulas: Reasoning) -> None:
    POOL.close()
    verdict = score_math("a+b+c+d+e", BURNS, timeout=0.5)
    assert verdict == (0.0, "timeout")
    assert POOL.workers() == []


def test_a_slow_worker_is_the_machine_s_a_busy_one_the_answer_s() -> None:
    """A worker that sleeps is lost; one that spends its processor time gives the verdict that it does."""
    worker = pool.Worker()
    os.kill(worker.process.pid, signal.SIGSTOP)
    with pytest.raises(pool.WorkerLost, match="killed"):
        worker.ask(("import", "json"), cpu_s=0.5, wall_s=1.0)
    busy = pool.Worker()
    assert busy.ask(("import", "json"), 60.0, 60.0) == Verdict(0.0)
    started = time.process_time()
    assert busy.ask(("math", "a+b+c+d+e", BURNS), 0.5, 60.0).note == "timeout"
    assert time.process_time() - started < 30.0  # the time was the worker's, not ours


ODD = st.one_of(
    st.text(st.characters(), max_size=40),
    st.text(st.sampled_from("\ud800\udfff\u0000\u202e٣²½𝟚−×→✅"), min_size=1, max_size=20),
    st.text(st.sampled_from("0123456789+-*/^()[]{}\\,.:;= $%eEijxn<>\n\"'"), max_size=40),
    st.sampled_from(
        ["\\frac" * 300, "(" * 900, "[" * 900, "{" * 900, "9**9**9", "1e999999", "\\text{" * 100, "-" * 900]
    ),
    st.sampled_from(["nan", "inf", "-inf", "1/0", "\\frac{1}{0}", "[[NaN]]", '{"a": 1e999}', "\x00", "\\boxed{" * 50]),
)
WRAPPED = st.tuples(
    ODD, st.sampled_from(["{}", "<answer>{}</answer>", "\\boxed{{{}}}", "Answer: {}", "<think>{}", "= {}"])
)


def never_the_machine_s(env: Any, task_id: str, drawn: tuple[str, str]) -> None:
    text, form = drawn
    reward, truncated, info = play(env, form.format(text), task_id)
    assert "failure" not in info
    assert not truncated
    assert reward in (0.0, 1.0)


GENERATORS = ["chain_sum", "coin_flip", "complex_arithmetic", "countdown", "game_of_life", "spiral_matrix", "jugs"]
GENERATORS += ["knights_knaves", "number_sorting", "puzzle24", "simple_integration", "time_intervals"]
SOURCE = Reasoning(datasets={name: {} for name in GENERATORS}, size=SMALL)
MINIS = [ReasoningMini(name, size={"train": 10, "dev": 10, "test": 10}) for name in ("chain_sum", "spell_backward")]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(SOURCE.tasks("train")), WRAPPED)
def test_no_text_is_a_failure_of_a_generator_s_grader(task_id: str, drawn: tuple[str, str]) -> None:
    never_the_machine_s(SOURCE, task_id, drawn)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(MINIS), WRAPPED)
def test_no_text_is_a_failure_of_mini(env: ReasoningMini, drawn: tuple[str, str]) -> None:
    never_the_machine_s(env, env.tasks("train")[0], drawn)


REFERENCES = ["75", "(1, 2]", "\\{1, 2\\}", "x^2 + x", "6 \\text{ cm}", "Paris", "1, -2", "\\frac{1}{3}", "7:32"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(REFERENCES), ODD)
def test_no_text_is_a_failure_of_the_mathematics(reference: str, text: str) -> None:
    assert score_math(reference, text).score in (0.0, 1.0)  # GraderFailure would be raised
