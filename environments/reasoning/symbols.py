"""Signs, words and commands of a formula that a reader of formulas passes over, though they make it another answer."""

from __future__ import annotations

import re
from collections.abc import Iterable

_COMMAND = re.compile(r"\\([A-Za-z]+)")
_LETTERS = re.compile(r"[A-Za-z]+")
_KNOWN = re.compile(
    "frac|sqrt|cdot|times|div|pi|infty|log|ln|exp|(arc)?(sin|cos|tan)h?|cot|sec|csc|binom|begin|end|"
    "text(bf|normal|it)?|mbox|math(rm|bf|bb)|operatorname|circ|degree|leq?|geq?|lt|gt|neq?|cap|setminus|"
    "emptyset|varnothing|[lr]angle|[lr]vert|min|max|gcd|lcm|det|deg|prime"
)
"""Commands that an answer may have where the reference has none: notations, functions and numbers."""

_WORDS = re.compile(
    "(a|arc)?(sin|cos|tan)h?|cot|sec|csc|log|ln|exp|sqrt|pi|min|max|gcd|lcm|det|[pbv]?matrix|array|cases"
)
"""Words that are no product of letters."""

_STRAY = re.compile(r"[?#~@;`¬\"]|\\$|\d \d|\band\b")
_SEVERAL = re.compile(r"[,⦃]|(?<!\\sqrt)\[|[)}]\s?\d")
_RELATION = re.compile(r"[<>≤≥≠]|!=|\\(?:leq?|geq?|lt|gt|neq?)(?![A-Za-z])")
_INTERVAL = re.compile(r"[(\[]|.*∪", re.DOTALL)


def overlooked(reference: str, answer: str) -> bool:
    """Whether an answer has a symbol, a word, a command or a sign that the reference has not, and that says something
    else: a negation, a second number, an inequality where no interval is asked for.
    """
    signs = [_STRAY]
    signs += [] if "\\begin" in answer or _RELATION.search(reference) else [_SEVERAL]
    signs += [] if _INTERVAL.match(reference) else [_RELATION]
    if any(sign.search(answer) and not sign.search(reference) for sign in signs):
        return True
    if answer.count("|") % 2 or ("±" in answer) != ("±" in reference):
        return True
    commands = set(_COMMAND.findall(answer)) - set(_COMMAND.findall(reference))
    if not all(map(_KNOWN.fullmatch, commands)):
        return True
    letters = set("".join(_bare(reference))) | {"e", "i"}
    return any(not letters.issuperset(word) for word in _bare(answer) if not _WORDS.fullmatch(word))


def _bare(text: str) -> Iterable[str]:
    """The runs of letters that are neither commands nor inside `\\text{}`."""
    plain = re.sub(r"\\(?:text|textbf|textnormal|textit|mbox|mathrm|operatorname)\s?\{[^{}]*\}", " ", text)
    return _LETTERS.findall(_COMMAND.sub(" ", plain))
