r"""Whether two answers in LaTeX or plain signs are equal, taken apart here and compared piece by piece.

A reader of formulas alone takes `(10,100)` for `(10100)`, `6` for `6 m`, and looks past words. So lists, tuples,
intervals, sets, unions, ratios, units, names and numbers are told apart by how they are written, and only what is left,
a formula, goes to the reader.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

from environments.reasoning.answers import is_wording
from environments.reasoning.answers import same_text as same_words
from environments.reasoning.symbols import overlooked
from environments.reasoning.units import unit_of, units_in

Reader = Callable[[str, str], bool]
"""Whether two formulas are equal: (reference, answer)."""

MOST = 24
"""Elements of a list that is compared without order; each may be compared with each."""

DEEPEST = 12
"""Brackets within brackets that an answer may have."""

DIGITS = 6
"""Significant digits a rounded decimal needs to stand for a fraction such as 1/3."""

_REPLACED = (
    (re.compile(r"\\(?:left|right|displaystyle|limits|bigl?|bigr|Bigl?|Bigr)(?![A-Za-z])"), ""),
    (re.compile(r"(?<=\d)\s?(?:\{,\}|\{ ?, ?\}|,\s?\\!)\s?(?=\d{3})"), ""),
    (re.compile(r"\\[!,;: ]|(?<=\S)~|\\q?quad"), " "),
    (re.compile(r"\\[dtc]frac"), r"\\frac"),
    (re.compile(r"\\(?:text|mathrm|textbf|textnormal|mbox|textit)\s?\{\s*(?:and|or)\s*\}"), " and "),
    (re.compile(r"(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])"), " and "),
    (re.compile(r"\\[{]|\\lbrace(?![A-Za-z])"), "⦃"),
    (re.compile(r"\\[}]|\\rbrace(?![A-Za-z])"), "⦄"),
    (re.compile(r"\\cup(?![A-Za-z])"), "∪"),
    (re.compile(r"\\infty(?![A-Za-z])"), "∞"),
    (re.compile(r"\\in(?![A-Za-z])"), "∈"),
    (re.compile(r"\\approx(?![A-Za-z])|≈"), "="),
    (re.compile(r"\\pm(?![A-Za-z])"), "±"),
    (re.compile(r"\\\$|\$|\\[()\[\]]"), ""),
)
_CLOSING = {"(": ")]", "[": ")]", "{": "}", "⦃": "⦄"}
_READABLE = {"⦃": "\\{", "⦄": "\\}", "∪": "\\cup ", "∞": "\\infty ", "∈": "\\in ", "±": "\\pm "}
_WHOLE_TEXT = re.compile(r"\\(?:text|mathrm|textbf|textnormal|mbox|textit)\s?\{([^{}]*)\}")
_TEXTS = re.compile(r"\\(?:text|mathrm|textbf|textnormal|mbox|textit)\s?\{([^{}]*)\}")
_CHOICE = re.compile(r"\(?([A-Z])\)?")
_NAME = re.compile(r"(?!\d)(?=[^A-Za-z]*[A-Za-z])[A-Za-z\d\\|:(),_{}' ]{1,60}")
_RELATION = re.compile(r"[<>≤≥≠]|\\(?:leq?|geq?|lt|gt|neq?)(?![A-Za-z])|!=")
_EQUALS = re.compile(r"(?<![<>!:=])=(?!=)")
_DECIMAL = re.compile(r"[-+]?(?:\d{1,300}(?:\.\d{0,300})?|\.\d{1,300})", re.ASCII)
_GROUPED = re.compile(r"[-+]?[1-9]\d{0,2}(?:[, ]\d{3})+(?:\.\d+)?", re.ASCII)
_COMMA_DECIMAL = re.compile(r"[-+]?(?:0,\d{1,9}|\d{1,9},\d{1,2})", re.ASCII)
_QUOTIENT = re.compile(
    r"([-+]?)(?:\\frac\s?(?:\{\s?(-?\d{1,60})\s?\}\s?\{\s?(\d{1,60})\s?\}|(\d)\s?(\d))|(\d{1,60})\s?/\s?(\d{1,60}))",
    re.ASCII,
)
_SCIENTIFIC = re.compile(
    r"([-+]?\d{1,60}(?:\.\d{0,60})?)\s?(?:[eE]|(?:\\times|\\cdot|×|\*)\s?10\s?\^)\s?\{?([-+]?\d{1,3})\}?", re.ASCII
)


class Literal(NamedTuple):
    """A number that is written out; digits counts the significant ones of a decimal, and is 0 for a fraction."""

    value: Fraction
    digits: int


def same_text(answer: str, reference: str) -> bool:
    """Whether two answers are written alike, but for blanks, dollar signs, spacing and the size of brackets."""
    return _tight(_normal(answer)) == _tight(_normal(reference)) != ""


def equal(reference: str, answer: str, read: Reader, question: str = "") -> bool:
    """Whether an answer equals the reference.

    Tuples, intervals, ratios and vectors are ordered, sets and bare lists are not. An answer must be as many things as
    the reference is. Its unit must be the reference's or, where that has none, one that the question names; it may be
    left out. Words that are no unit must stand in both.
    """
    right, given = _normal(reference), _normal(answer)
    if not _nested_well(given):
        return False
    unit = unit_of(given)
    if unit is not None and unit_of(right) is None and unit.name in units_in(question):
        given = unit.value
    return _equal(right, given, read)


def _nested_well(text: str) -> bool:
    """Whether every bracket is closed, round ones by square ones too as in `(0, 1]`, and none is DEEPEST in others:
    readers take minutes over what is not.
    """
    opened: list[str] = []
    for sign in text:
        if sign in "([{⦃":
            opened.append(_CLOSING[sign])
        elif sign in ")]}⦄" and (not opened or sign not in opened.pop()):
            return False
        if len(opened) > DEEPEST:
            return False
    return not opened


def _tight(text: str) -> str:
    """The text without blanks but those between digits, which are no number together."""
    return re.sub(r"(?<!\d) | (?!\d)", "", text)


def _normal(text: str) -> str:
    text = text.strip().replace("−", "-").replace("\u00a0", " ")
    for pattern, written in _REPLACED:
        text = pattern.sub(written, text)
    text = " ".join(text.split()).rstrip(" .,;")
    whole = _WHOLE_TEXT.fullmatch(text)
    text = text if whole is None else whole[1].strip()
    choice = _CHOICE.fullmatch(text)
    return text if choice is None else choice[1]


def _equal(reference: str, answer: str, read: Reader) -> bool:
    if not reference or not answer:
        return False
    if _tight(reference) == _tight(answer):
        return True
    numbers = _literal(reference, beside=answer), _literal(answer, beside=reference)
    if numbers[0] is not None and numbers[1] is not None:
        same = _same_number(numbers[0], numbers[1])
        # fractions are written in more ways than one: two readers must agree on them
        return same and (min(numbers[0].digits, numbers[1].digits) > 0 or read(_readable(reference), _readable(answer)))
    if is_wording(reference):
        return same_words(answer, reference)
    for take_apart in (_units, _equations, _unions, _ratios, _brackets):
        verdict = take_apart(reference, answer, read)
        if verdict is not None:
            return verdict
    if sorted(_TEXTS.findall(answer)) != sorted(_TEXTS.findall(reference)) or overlooked(reference, answer):
        return False
    return read(_readable(reference), _readable(answer))


def _readable(text: str) -> str:
    for sign, command in _READABLE.items():
        text = text.replace(sign, command)
    return text


def _units(reference: str, answer: str, read: Reader) -> bool | None:
    """None where neither has a unit."""
    right, given = unit_of(reference), unit_of(answer)
    if right is None and given is None:
        return None
    if right is None or given is None:
        if right is None:
            return None if given is not None and given.letter and given.name in reference else False
        if right.letter:
            return None
    elif right.name != given.name:
        return False
    return _equal(right.value if right else reference, given.value if given else answer, read)


def _equations(reference: str, answer: str, read: Reader) -> bool | None:
    """`x = 5` for 5 and 5 for `x = 5`; None where neither has an equals sign or both are equations to be solved."""
    if len(_split(reference)) > 1 or len(_split(answer)) > 1:
        return None
    (right, right_name), (given, given_name) = _named(reference), _named(answer)
    if right_name and given_name and right_name != given_name and not _RELATION.search(reference + answer):
        return False
    if right_name and (given_name or not _EQUALS.search(answer)):
        return _equal(right, given, read)
    if given_name and not _EQUALS.search(reference):
        return _equal(right, given, read)
    if _EQUALS.search(answer) and not _EQUALS.search(reference):
        # 2 + 3 = 5 says 5, and 4 = 5 says nothing: each side must be the answer
        sides = _EQUALS.split(given)
        return len(sides) <= 4 and all(_equal(reference, side.strip(), read) for side in sides)
    if _EQUALS.search(reference) and not _EQUALS.search(answer):
        return False
    return None


def _named(text: str) -> tuple[str, str]:
    """(value, name) of `x = value` and `x ∈ value`; (text, "") of anything else."""
    if len(_split(text)) > 1:
        return text, ""
    sign = re.search(r"∈|(?<![<>!:=])=(?!=)", text)
    if sign is None or _NAME.fullmatch(text[: sign.start()].strip()) is None or not text[sign.end() :].strip():
        return text, ""
    return text[sign.end() :].strip(), text[: sign.start()].replace(" ", "")


def _unions(reference: str, answer: str, read: Reader) -> bool | None:
    right, given = reference.split("∪"), answer.split("∪")
    if len(right) == len(given) == 1 or _RELATION.search(reference + answer):
        return None
    return _matched([part.strip() for part in right], [part.strip() for part in given], read)


def _ratios(reference: str, answer: str, read: Reader) -> bool | None:
    right, given = reference.split(":"), answer.split(":")
    if len(right) == 1 and len(given) == 1:
        return None
    return len(right) == len(given) and all(
        _equal(one.strip(), other.strip(), read) for one, other in zip(right, given, strict=True)
    )


def _brackets(reference: str, answer: str, read: Reader) -> bool | None:
    """None where both are one thing."""
    (right_open, right, right_close), (given_open, given, given_close) = _listed(reference), _listed(answer)
    if len(right) < 2 and len(given) < 2 and "⦃" not in (right_open, given_open):
        return None
    if (_RELATION.search(answer) and not given_open) or (_RELATION.search(reference) and not right_open):
        # an interval may be written as an inequality; a list of several must not be
        return None if len(right) < 2 or right_open or len(given) < 2 else _matched(right, given, read)
    if len(right) != len(given) or len(right) > MOST:
        return False
    brackets = right_open + right_close, given_open + given_close
    ordered = brackets[0] not in ("", "⦃⦄") or brackets[1] not in ("", "⦃⦄")
    if ordered and brackets[0] != brackets[1] and not ("()" in brackets and "" in brackets):
        return False
    if ordered or _differently_named(right, given):
        return all(_equal(one, other, read) for one, other in zip(right, given, strict=True))
    return _matched(right, given, read)


def _differently_named(right: list[str], given: list[str]) -> bool:
    """Whether the reference says which is which (`a = 4, b = 5`) and the answer does not."""
    names = [_named(part)[1] for part in right]
    return all(names) and len(set(names)) > 1 and not any(_named(part)[1] for part in given)


def _matched(right: list[str], given: list[str], read: Reader) -> bool:
    """Whether each thing of one list is equal to one of the other's."""
    left = list(given)
    for one in right:
        place = next((place for place, other in enumerate(left) if _equal(one, other, read)), None)
        if place is None:
            return False
        left.pop(place)
    return not left


def _listed(text: str) -> tuple[str, list[str], str]:
    """(opening bracket, elements, closing bracket) of `(1, 2]`, of `⦃1, 2⦄` and, without brackets, of `1, 2`."""
    inner = text
    for _ in range(4):
        if len(inner) < 2 or inner[0] not in "([⦃{" or _closing(inner) != len(inner) - 1:
            break
        if inner[0] == "{":  # braces that group are no brackets
            inner = inner[1:-1].strip()
            continue
        elements = _split(inner[1:-1], grouped=False)
        if len(elements) < 2 and inner[0] != "⦃":
            break
        return inner[0], elements, inner[-1]
    return "", _split(inner), ""


def _closing(text: str) -> int:
    """The place of the bracket that closes the first character's; any kind closes any, as in `(0, 1]`. -1 for none."""
    depth = 0
    for place, sign in enumerate(text):
        depth += (sign in "([{⦃") - (sign in ")]}⦄")
        if depth == 0:
            return place
    return -1


def _split(text: str, grouped: bool = True) -> list[str]:
    """The parts between commas, semicolons and `and` that stand in no bracket.

    grouped: whether `1,200` alone is one number; between brackets it is two.
    """
    if grouped and _GROUPED.fullmatch(text):
        return [text]
    parts, depth, start, place = [], 0, 0, 0
    while place < len(text):
        depth += (text[place] in "([{⦃") - (text[place] in ")]}⦄")
        width = 1 if text[place] in ",;" else 5 if text.startswith(" and ", place) else 0
        if depth == 0 and width:
            parts.append(text[start:place].strip())
            start = place + width
        place += width or 1
    parts.append(text[start:].strip())
    joined = any(not part for part in parts[:-1]) and ", and " in text  # "1, 2, and 3"
    return [part for part in parts if part] if joined else parts


def _literal(text: str, beside: str) -> Literal | None:
    """The number that a text is. `1,5` is one only beside a number with a decimal point, and else a list."""
    text = text.strip().strip("{}").strip()
    if _GROUPED.fullmatch(text):
        text = re.sub("[, ]", "", text)
    elif _COMMA_DECIMAL.fullmatch(text) and "." in beside:
        text = text.replace(",", ".")
    if _DECIMAL.fullmatch(text):
        return Literal(Fraction(text), _digits(text))
    found = _SCIENTIFIC.fullmatch(text)
    if found is not None:
        return Literal(Fraction(found[1]) * Fraction(10) ** int(found[2]), _digits(found[1]))
    found = _QUOTIENT.fullmatch(text)
    if found is None:
        return None
    top, bottom = next((found[one], found[one + 1]) for one in (2, 4, 6) if found[one] is not None)
    if int(bottom) == 0:
        return None
    return Literal(Fraction(int(top), int(bottom)) * (-1 if found[1] == "-" else 1), 0)


def _digits(decimal: str) -> int:
    """How many significant digits a decimal shows, 1 for zero."""
    return max(1, len(decimal.strip("-+").replace(".", "").lstrip("0")))


def _same_number(first: Literal, second: Literal) -> bool:
    """Exactly, except that a decimal of DIGITS digits stands for the fraction that it is the rounding of."""
    if first.value == second.value:
        return True
    rounded, exact = (first, second) if first.digits else (second, first)
    if exact.digits or rounded.digits < DIGITS or not rounded.value or _terminates(exact.value):
        return False
    return bool(abs(rounded.value - exact.value) * 2 <= abs(rounded.value) / 10 ** (rounded.digits - 1))


def _terminates(value: Fraction) -> bool:
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1
