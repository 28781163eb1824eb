r"""Units and other words behind a value: `6 \text{ cm}`, `28\%`, `90^\circ`, `125 miles`."""

from __future__ import annotations

import re
from typing import NamedTuple

_NAMES = {
    "mm": "millimeter millimetre",
    "cm": "centimeter centimetre",
    "m": "meter metre",
    "km": "kilometer kilometre",
    "in": "inch inche",
    "ft": "foot feet",
    "yd": "yard",
    "mi": "mile",
    "mg": "milligram",
    "g": "gram",
    "kg": "kilogram",
    "lb": "lbs pound",
    "oz": "ounce",
    "ml": "mL milliliter millilitre",
    "l": "L liter litre",
    "s": "sec second",
    "min": "minute",
    "h": "hr hour",
    "day": "",
    "week": "",
    "month": "",
    "year": "",
    "°": "degree deg",
    "%": "percent pct percentage",
    "$": "dollar usd",
    "€": "euro",
    "£": "",
    "cent": "",
    "yuan": "",
    "mph": "",
    "unit": "",
    "N": "newton",
    "J": "joule",
    "W": "watt",
    "Hz": "hertz",
    "K": "kelvin",
    "Pa": "pascal",
    "V": "volt",
    "mol": "mole",
}
_KNOWN = {other: name for name, others in _NAMES.items() for other in (name, *others.split())}
_POWERS = {"²": "2", "³": "3"}
_TEXT = r"\\(?:text|mathrm|textbf|textnormal|mbox|textit|operatorname)\s?\{([^{}]{1,60})\}"
_BEHIND = re.compile(
    rf"(?P<value>.*[^\s\\^])\s?(?:{_TEXT}|(?P<sign>\\?%|\^\s?\{{?\s?\\circ\s?\}}?|[°€£])|"
    r"(?<=[\d}) ])(?P<word>[A-Za-z]{1,12}(?:/[A-Za-z]{1,6})?))(?:\s?\^\s?\{?(?P<power>[23])\}?|(?P<raised>[²³]))?",
    re.DOTALL,
)


class Unit(NamedTuple):
    """A value and what stands behind it; known says that this is a unit, not some other word."""

    value: str
    name: str
    known: bool
    letter: bool = False
    """Whether it is one bare letter, which may be a variable as well."""


def unit_of(text: str) -> Unit | None:
    """The value and unit of a text, or None where nothing but a formula stands there.

    A bare word counts only behind a number or a blank, and only where it is a unit: `2x` has none.
    """
    found = _BEHIND.fullmatch(text)
    if found is None:
        return None
    sign = found["sign"]
    word = ("%" if "%" in sign else "°" if "circ" in sign else sign) if sign else found["word"] or found[2]
    name, known = _canonical(word.strip())
    letter = len(found["word"] or "") == 1
    if found["word"] and (not known or (letter and text[found.start("word") - 1] != " ")):
        return None
    power = found["power"] or _POWERS.get(found["raised"] or "", "")
    return Unit(found["value"].strip(), name + (f"^{power}" if power else ""), known, letter)


def units_in(question: str) -> frozenset[str]:
    """The units that a question names, by their one name."""
    words = re.findall(r"[A-Za-z]+(?:/[A-Za-z]+)?(?:\^\{?[23])?|[%°€£$²³]", question.replace("\\circ", "°"))
    named = {name for name, known in map(_canonical, words) if known}
    powers = (
        {f"{name}^{power}" for name in named for power in "23"}
        if re.search("square|cubi|area|volume", question)
        else set()
    )
    return frozenset(named | powers)


def _canonical(word: str) -> tuple[str, bool]:
    """The unit's one name and True, or the word as it is and False."""
    squared = re.fullmatch(r"(?:square|sq\.?) (.+)|(.+) squared", word)
    if squared is not None:
        name, known = _canonical(squared[1] or squared[2])
        return f"{name}^2", known
    if "/" in word:
        parts = [_canonical(part.strip()) for part in word.split("/")]
        return "/".join(name for name, _ in parts), all(known for _, known in parts)
    for form in (word, word.casefold(), word.casefold().removesuffix("s"), word.removesuffix(".")):
        if form in _KNOWN:
            return _KNOWN[form], True
    return word.casefold(), False
