"""Our own checks of answers to generators whose verifier pays for something wrong; `audit` says which those are.

A check takes the answer and the item as the generator made it, and says whether the answer is right. It reads the whole
answer: nothing that is left over, repeated or hedged is overlooked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from environments.reasoning import puzzles
from environments.reasoning.puzzles import parsed

Entry = Mapping[str, Any]
Check = Callable[[str, Entry], bool]

_NUMBER = re.compile(
    r"[-+]?(?:\d{1,400}|\d{1,3}(?:,\d{3}){1,100}|(?=\.\d))(?:\.\d{0,400})?(?:[eE][-+]?\d{1,3})?", re.ASCII
)
_FRACTION = re.compile(r"\\[dt]?frac\{(-?\d{1,40})\}\{(\d{1,40})\}|(-?\d{1,40})/(\d{1,40})", re.ASCII)
_COMPLEX = re.compile(r"(?P<re>[-+]?[\d.]+)?(?:(?P<sign>^[-+]?|[-+])(?P<im>[\d.]*)[ij])?", re.ASCII)
_CLOCK = re.compile(r"(?:(\d{1,6}) days?, ?)?(\d{1,3}):(\d{2})(?::(\d{2}(?:\.\d{1,6})?))?", re.ASCII)
_DAYS = re.compile(r"(-?\d{1,6})(?: days?)?", re.ASCII)
_CLAUSE = re.compile(r"(\w+) is an? (\w+)")

SIGNIFICANT = 4
"""Digits that a probability which is a rounded decimal must show at least."""


def number(text: str) -> Fraction | None:
    """The number that the whole text is (`1,234.5`, `-3e4`, `$7$`), or None. A bound on its length keeps it cheap."""
    text = text.strip().strip("$").strip().replace("−", "-")
    return Fraction(text.replace(",", "")) if len(text) < 900 and _NUMBER.fullmatch(text) else None


def fraction(text: str) -> tuple[int, int] | None:
    r"""Numerator and denominator of `3/4`, `\frac{3}{4}`, with dollar signs or without; None for anything else."""
    found = _FRACTION.fullmatch(text.strip().strip("$").replace(" ", ""))
    if found is None:
        return None
    top, bottom = (found[1], found[2]) if found[1] is not None else (found[3], found[4])
    return int(top), int(bottom)


def grid(text: str) -> list[list[str]]:
    """The cells of rows that are lines, divided by blanks."""
    return [line.split() for line in text.strip().splitlines()]


def _same_words(answer: str, entry: Entry) -> bool:
    return answer.casefold().split() == str(entry["answer"]).casefold().split()


def _same_number(answer: str, entry: Entry) -> bool:
    given = number(answer)
    return given is not None and bool(given == number(str(entry["answer"])))


def _same_word_or_number(answer: str, entry: Entry) -> bool:
    return _same_number(answer, entry) or _same_words(answer, entry)


def _same_grid(answer: str, entry: Entry) -> bool:
    return grid(answer) == grid(entry["answer"])


def _numbers_of_grid(answer: str, entry: Entry) -> bool:
    """Whether every cell is the reference's number."""
    given, right = ([[number(cell) for cell in row] for row in grid(text)] for text in (answer, entry["answer"]))
    return given == right and not any(None in row for row in given)


def _coin_flip(answer: str, entry: Entry) -> bool:
    """A probability: the fraction itself, or the decimal that it rounds to, with four significant digits or more."""
    parts = fraction(answer)
    given = number(answer) if parts is None else Fraction(*parts) if parts[1] else None
    if given is None:
        return False
    ratio = entry["metadata"]["rational"]
    right = Fraction(ratio["numerator"], ratio["denominator"])
    shown = answer.strip().partition(".")[2]
    if given == right or parts is not None or len(shown.lstrip("0")) < SIGNIFICANT or not shown.isdigit():
        return given == right
    unit = Fraction(1, 10 ** len(shown))
    return given == (right / unit + Fraction(1, 2)).__floor__() * unit


def _complex(answer: str, entry: Entry) -> bool:
    text = answer.replace(" ", "").replace("−", "-").replace("*", "").strip("$()")
    found = _COMPLEX.fullmatch(text) if 0 < len(text) < 200 else None
    if found is None:
        return False
    sign, size = found["sign"] or "", found["im"]
    parts = (found["re"] or "0", "0" if size is None else f"{sign}{size or 1}")
    given = [number(part) for part in parts]
    return given == [Fraction(str(part)) for part in entry["metadata"]["result"]]


def _simplified(answer: str, entry: Entry) -> bool:
    metadata = entry["metadata"]
    return fraction(answer) == (metadata["simplified_numerator"], metadata["simplified_denominator"])


def _number_format(answer: str, entry: Entry) -> bool:
    return number(answer) == Fraction(str(entry["metadata"]["solution"]))


def _number_sorting(answer: str, entry: Entry) -> bool:
    return _number_list(answer) == _number_list(entry["answer"]) is not None


def _number_list(text: str) -> list[Fraction | None] | None:
    values = parsed(text.replace("'", '"'))
    if not isinstance(values, list) or not all(type(value) in (str, int, float) for value in values):
        return None
    numbers = [number(str(value)) for value in values]
    return None if None in numbers else numbers


def _polynomial_roots(answer: str, entry: Entry) -> bool:
    """Every real root once, in any order."""
    given, right = ([number(part) for part in text.split(",")] for text in (answer, entry["answer"]))
    return None not in given and sorted(map(str, given)) == sorted(map(str, right))


def _factors(answer: str, entry: Entry) -> bool:
    given, right = ([number(part) for part in re.split("[×x*]", text)] for text in (answer, entry["answer"]))
    return None not in given and sorted(map(str, given)) == sorted(map(str, right))


def _word_list(answer: str, entry: Entry) -> bool:
    return [word.strip() for word in answer.split(",")] == [word.strip() for word in entry["answer"].split(",")]


def _one_word(answer: str, entry: Entry) -> bool:
    return answer.strip().casefold() == str(entry["answer"]).strip().casefold()


def _word_without_blanks(answer: str, entry: Entry) -> bool:
    return "".join(answer.split()).casefold() == "".join(entry["answer"].split()).casefold()


def _interval(answer: str, entry: Entry) -> bool:
    if entry["metadata"]["task_type"] == "date":
        given, right = (_DAYS.fullmatch(text.strip()) for text in (answer, entry["answer"]))
        return given is not None and right is not None and int(given[1]) == int(right[1])
    given_s, right_s = _seconds(answer), _seconds(entry["answer"])
    return given_s is not None and given_s == right_s


def _seconds(text: str) -> Fraction | None:
    found = _CLOCK.fullmatch(text.strip())
    if found is None:
        return None
    days, hours, minutes, seconds = (Fraction(part or 0) for part in found.groups())
    return None if minutes >= 60 or seconds >= 60 else ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _geometry(answer: str, entry: Entry) -> bool:
    """A point with its two coordinates, an angle with its degree sign or without, or a radius."""

    def read(text: str) -> list[Fraction | None]:
        text = text.strip()
        if entry["metadata"]["task_type"] == "angle_measure":
            text = text.removesuffix("°")
        if text.startswith("(") and text.endswith(")"):
            text = text[1:-1]
        return [number(part) for part in text.split(",")]

    return None not in read(answer) and read(answer) == read(entry["answer"])


def _json(answer: str, entry: Entry) -> bool:
    given, right = parsed(answer), parsed(entry["answer"])
    return right is not None and same_json(given, right)


def _partitions(answer: str, entry: Entry) -> bool:
    given = parsed(answer)
    if not isinstance(given, list) or not all(isinstance(row, list) for row in given):
        return False
    if not all(isinstance(part, str) for row in given for part in row):
        return False
    return sorted(given) == sorted(entry["metadata"]["solution"])


def _roles(answer: str, entry: Entry) -> bool:
    """Every name once, with its one role: `Joseph is an angel, and Zoey is a devil.`"""
    given, right = _assigned(answer), _assigned(entry["answer"])
    return given is not None and given == right


def _assigned(text: str) -> dict[str, str] | None:
    clauses = re.split(r",? and |, ", text.strip().strip("().").casefold())
    found = [_CLAUSE.fullmatch(clause.strip()) for clause in clauses]
    pairs = [(clause[1], clause[2]) for clause in found if clause is not None]
    return dict(pairs) if len(pairs) == len(found) == len({name for name, _ in pairs}) else None


def same_json(first: Any, second: Any) -> bool:
    """Whether two JSON values are equal, true and 1 kept apart, numbers to twelve digits."""
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(same_json(first[key], second[key]) for key in first)
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(same_json, first, second))
    if type(first) in (int, float) and type(second) in (int, float):
        floats = float in (type(first), type(second))
        return bool(first == second or (floats and abs(first - second) <= 1e-12 * abs(second)))
    return type(first) is type(second) and bool(first == second)


FORMS = {
    "rubiks_cube": re.compile(r"[FBUDLRMESxyzXYZ]w?'?2?(?:\s+[FBUDLRMESxyzXYZ]w?'?2?){0,500}", re.ASCII),
    "sokoban": re.compile(r"[UDLR]{1,2000}", re.ASCII),
}
"""How an answer must look before the library's verifier, right but for what it passes over, may see it."""

PARTIAL = frozenset({"countdown", "letter_jumble", "spell_backward", "word_sorting"})
"""Of CHECKS, those for whose wrong answers the library's partial credit stands where it is less than full."""

REFUSED = {
    "propositional_logic": "its verifier takes a premise copied from the question for a conclusion, and its items have "
    "no reference",
}
"""Generators that are not offered, and why."""


def gradable(entry: Entry) -> bool:
    """Whether an item can be answered at all: its reference is not empty, nor the question again, unsolved."""
    answer = entry["answer"]
    return not isinstance(answer, str) or (bool(answer.strip()) and "Integral(" not in answer)


CHECKS: dict[str, Check] = {
    "advanced_geometry": _geometry,
    "arc_agi": _same_grid,
    "boxnet": puzzles.boxes_lifted,
    "calendar_arithmetic": _same_word_or_number,
    "codeio": _json,
    "coin_flip": _coin_flip,
    "complex_arithmetic": _complex,
    "countdown": puzzles.countdown,
    "cryptarithm": puzzles.cryptarithm,
    "decimal_arithmetic": _same_number,
    "figlet_font": _word_without_blanks,
    "fraction_simplification": _simplified,
    "game_of_life": _json,
    "game_of_life_halting": _one_word,
    "graph_color": puzzles.coloured,
    "gsm_symbolic": _same_number,
    "jugs": puzzles.jugs,
    "kakurasu": puzzles.kakurasu,
    "knights_knaves": _roles,
    "letter_jumble": _same_words,
    "number_format": _number_format,
    "number_sorting": _number_sorting,
    "palindrome_partitioning": _partitions,
    "polynomial_equations": _polynomial_roots,
    "pool_matrix": _numbers_of_grid,
    "prime_factorization": _factors,
    "puzzle24": puzzles.puzzle24,
    "quantum_lock": puzzles.quantum_lock,
    "rearc": _same_grid,
    "rush_hour": puzzles.rush_hour,
    "spell_backward": _one_word,
    "survo": _same_grid,
    "time_intervals": _interval,
    "tower_of_hanoi": puzzles.hanoi,
    "word_sorting": _word_list,
}
"""What is right, by the generator's name, in place of the library's verifier."""
