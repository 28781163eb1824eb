"""Scores of answers, which none can hang, crash or take over.

Where we have a check of our own (`exact`), it decides. Else the library's verifier does, in a process of its own: most
of reasoning-gym's evaluate the agent's text or may run long on it, and math-verify takes its deadlines from SIGALRM,
which only a main thread may set. Only answers that are plain words and numbers are scored here by those verifiers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from environments.reasoning import exact, mathematics
from environments.reasoning.answers import is_wording, same_text
from environments.reasoning.grader_worker import EVALUATED, FORMULAS
from environments.reasoning.pool import POOL, GraderFailure, Verdict

__all__ = ["POOL", "GraderFailure", "Verdict", "score_generated", "score_math"]

TIMEOUT = 5.0
"""Seconds of its own processor time that a verifier may spend on an answer."""

MAX_FORMULA = 1_000
"""Characters of an answer that math-verify reads."""

MAX_ANSWER = 20_000
"""Characters of an answer that a verifier of the library reads, unless the reference is as long itself."""

_WORD = r"""(?:[A-Za-z]{1,40}|-?\d{1,6}(?:\.\d{1,6})?)"""
_PLAIN = re.compile(rf"""[\["' ]*{_WORD}(?:["', ]{{1,4}}{_WORD}){{0,60}}[\]"' ]*""", re.ASCII)
"""Words and numbers of bounded size, bare or as a list: no verifier outside the guarded ones does more than read
these."""


def score_generated(
    dataset: Any, name: str, settings: str, entry: Mapping[str, Any], answer: str, timeout: float = TIMEOUT
) -> Verdict:
    """The verdict on an answer to an item of a reasoning-gym dataset. `settings` is the JSON its worker-side twin is
    made from.

    The empty answer scores 0 (some verifiers grant it 0.01), the reference 1. Raises GraderFailure where no worker
    answers through no fault of the answer.
    """
    reference = entry["answer"]
    if not answer:
        return Verdict(0.0)
    if isinstance(reference, str) and answer.strip() == reference.strip():
        return Verdict(1.0)
    if len(answer) > max(MAX_ANSWER, 2 * len(reference or "")):
        return Verdict(0.0, "too long")
    if name in exact.FORMS and exact.FORMS[name].fullmatch(answer.strip()) is None:
        return Verdict(0.0)
    checked = exact.CHECKS.get(name)
    if checked is not None:
        if checked(answer, entry):
            return Verdict(1.0)
        if name not in exact.PARTIAL:
            return Verdict(0.0)
    verdict = _library(dataset, name, settings, entry, answer, timeout)
    # a verifier that calls full what our own check refuses has not looked closely enough to grant a part either
    return Verdict(0.0, "overpaid") if checked is not None and verdict.score >= 1.0 else verdict


def _library(dataset: Any, name: str, settings: str, entry: Mapping[str, Any], answer: str, timeout: float) -> Verdict:
    if name in EVALUATED or name in FORMULAS or _PLAIN.fullmatch(answer) is None:
        return POOL.ask(("generated", name, settings, entry, answer), timeout)
    try:
        return Verdict(float(dataset.score_answer(answer, entry)))
    except Exception as error:  # verifiers raise all kinds of things at answers they cannot read
        return Verdict(0.0, f"raised {type(error).__name__}")


def score_math(reference: str, answer: str, timeout: float = TIMEOUT, question: str = "") -> Verdict:
    """1 where an answer equals the reference as text or as mathematics; else 0.

    `mathematics` takes both apart into parts that must be equal one by one; numbers it compares itself, formulas go to
    math-verify, whose yes must also hold in figures. Raises GraderFailure as `score_generated` does.
    """
    if not answer:
        return Verdict(0.0)
    if is_wording(reference):
        return Verdict(float(same_text(answer, reference)))
    if mathematics.same_text(answer, reference):
        return Verdict(1.0)
    if len(answer) > MAX_FORMULA:
        return Verdict(0.0, "too long")
    notes: list[str] = []

    def read(one: str, other: str) -> bool:
        verdict = POOL.ask(("math", one, other), timeout) if not notes else Verdict(0.0)
        notes.extend([verdict.note] if verdict.note in ("timeout", "crashed") else [])
        return verdict.score >= 1.0

    right = mathematics.equal(reference, answer, read, question)
    return Verdict(float(right), "" if right else "".join(notes[:1]))
