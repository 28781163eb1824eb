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
import signal
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

INTEGRALS = frozenset({"intermediate_integration", "simple_integration"})
"""Generators whose verifier compares derivatives."""

RELATIVE, EXACT = 2e-6, 1e-15
"""How far two equal values may be apart, relative to the larger: where one is a rounded decimal, and elsewhere."""

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


def foreign_symbols(name: str, entry: Any, answer: str) -> bool:
    """Whether an integral holds letters besides the variable, the constant C and e: to a derivative they are constants,
    and whatever is said with them would count for nothing."""
    if name not in INTEGRALS:
        return False
    known = {entry["metadata"]["variable"], "C", "e", "E"}
    return any(len(word) == 1 and word not in known for word in re.findall(r"[A-Za-z]+", answer))


@functools.cache
def _dataset(name: str, settings: str) -> Any:
    from reasoning_gym.factory import create_dataset

    return create_dataset(name, **json.loads(settings))


def score(job: tuple[Any, ...]) -> tuple[float, str]:
    """The score in 0..1 and a note on why, of one job.

    A job is ("generated", name, settings, entry, answer) or ("math", reference, answer); ("import", module) loads what
    these need.
    """
    if job[0] == "import":
        importlib.import_module(job[1])
        return 0.0, ""
    if job[0] == "math":
        return float(_equal(*job[1:])), ""
    _, name, settings, entry, answer = job
    if refused(name, answer) or foreign_symbols(name, entry, answer):
        return 0.0, "refused"
    return float(_dataset(name, settings).score_answer(answer, entry)), ""


def _equal(reference: str, answer: str) -> bool:
    """What math-verify says of two formulas; its yes must hold in figures too."""
    from math_verify import parse, verify

    # Dollar signs make the whole text a formula; its own timeouts are off, for this process ends when its time is up
    first, second = (parse(f"${text.strip().strip('$')}$", parsing_timeout=None) for text in (reference, answer))
    if not first or not second or not verify(first, second, timeout_seconds=None):
        return False
    return _agree_in_figures(first[0], second[0])


def _agree_in_figures(first: Any, second: Any) -> bool:
    """False where two expressions have values, at given values of their symbols, that differ by more than RELATIVE.

    math-verify compares decimals to six places and rounds what is very small to 0: 6.63e-34 equals 1.38e-23.
    """
    import sympy  # type: ignore[import-untyped]

    if not (isinstance(first, sympy.Expr) and isinstance(second, sympy.Expr)):
        return True
    symbols = sorted(first.free_symbols | second.free_symbols, key=str)
    values = {symbol: sympy.Rational(2 * place + 7, 5) for place, symbol in enumerate(symbols)}
    one, other = (sympy.N(part.doit().subs(values), 30) for part in (first, second))
    if not (one.is_number and other.is_number and one.is_finite and other.is_finite):
        return True
    rounded = first.has(sympy.Float) or second.has(sympy.Float)
    return bool(abs(one - other) <= (RELATIVE if rounded else EXACT) * max(abs(one), abs(other)))


def main() -> None:
    """Serve jobs until stdin ends, which it does when the parent is gone."""
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # whatever a verifier prints must not reach the replies
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    while True:
        try:
            seconds, job = pickle.load(sys.stdin.buffer)  # written by our own parent
        except EOFError:
            return
        # SIGPROF, which nothing here handles, ends the process once it has spent so much processor time on the job
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            value, note = score(job)
        except Exception as error:  # a verifier may raise anything at a strange answer
            value, note = 0.0, f"raised {type(error).__name__}"
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        replies.write(json.dumps({"score": value, "note": note}) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
