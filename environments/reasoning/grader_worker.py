"""The grader's other side: a process that scores answers until its input ends.

It imports nothing of ours and may be killed at any moment.

It reads pickled jobs from stdin and writes one line of JSON for each: {"score": float, "note": str}. An agent's text is
data here, but some verifiers of reasoning-gym evaluate it as Python; `refused` keeps everything from them that is no
plain literal or formula.
"""

from __future__ import annotations

import ast
import functools
import importlib
import json
import os
import pickle
import re
import sys
from typing import Any

MEMORY = 4 << 30
"""Address space in bytes: an answer such as 9**9**9 shall not take the machine's memory before its time is up."""

EVALUATED = frozenset({"binary_matrix", "n_queens", "spiral_matrix", "string_insertion"})
"""Generators whose verifier calls `eval` on the answer, with its own local variables (the reference among them) in
reach."""

FORMULAS = frozenset(
    {"countdown", "intermediate_integration", "polynomial_multiplication", "puzzle24", "simple_integration"}
)
"""Generators whose verifier calls `sympy.parse_expr`, which evaluates, on the answer."""

_FUNCTIONS = frozenset(
    {"sin", "cos", "tan", "cot", "sec", "csc", "asin", "acos", "atan", "sinh", "cosh", "tanh"}
    | {"exp", "log", "ln", "sqrt", "pi", "Abs"}
)
_FORMULA = re.compile(r"(?:\d+(?:\.\d*)?|\.\d+|[A-Za-z]+|[\s+\-*/^(),])*")


def refused(name: str, answer: str) -> bool:
    """Whether this generator's verifier must not see the answer: evaluating it could do more than compute a value."""
    if name in FORMULAS:
        words = re.findall(r"[A-Za-z]+", answer)
        return _FORMULA.fullmatch(answer) is None or any(len(word) > 1 and word not in _FUNCTIONS for word in words)
    if name in EVALUATED:
        try:
            ast.parse(answer.lstrip(" \t"), mode="eval")
        except (SyntaxError, ValueError):
            return False  # no expression: `eval` raises too, and the verifier compares text
        except (MemoryError, RecursionError):
            return True
        try:
            ast.literal_eval(answer)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            return True
    return False


@functools.cache
def _dataset(name: str, settings: str) -> Any:
    from reasoning_gym.factory import create_dataset

    return create_dataset(name, **json.loads(settings))


def score(job: tuple[str, ...]) -> tuple[float, str]:
    """The score in 0..1 and a note on why, of one job.

    A job is ("generated", name, settings, entry, answer) or ("math", reference, answer); ("import", module) loads what
    these need.
    """
    if job[0] == "import":
        importlib.import_module(job[1])
        return 0.0, ""
    if job[0] == "math":
        from math_verify import parse, verify

        # Dollar signs make the whole answer a formula; its own timeouts are off, for the parent kills this process
        reference, answer = (parse(f"${text.strip().strip('$')}$", parsing_timeout=None) for text in job[1:])
        return float(verify(reference, answer, timeout_seconds=None)), ""
    _, name, settings, entry, answer = job
    if refused(name, answer):
        return 0.0, "refused"
    return float(_dataset(name, settings).score_answer(answer, entry)), ""


def main() -> None:
    """Serve jobs until stdin ends, which it does when the parent is gone."""
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # whatever a verifier prints must not reach the replies
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    while True:
        try:
            job = pickle.load(sys.stdin.buffer)  # written by our own parent
        except EOFError:
            return
        try:
            value, note = score(job)
        except Exception as error:  # a verifier may raise anything at a strange answer
            value, note = 0.0, f"raised {type(error).__name__}: {error}"[:200]
        replies.write(json.dumps({"score": value, "note": note}) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
