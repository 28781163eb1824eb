"""Words of others (labels, notes, protocols, task ids, replies) made harmless for a terminal: it shows them and obeys
none of them. Files of other kinds escape them further (`harness.report.escaping`)."""

from __future__ import annotations

import re
import unicodedata

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_BREAKS = re.compile(r"\s+")
_MARKED = re.compile(r"(\\*)(\[|$)")
_NOTHING = "[bold][/bold]"
"""Markup of no words."""
_BIDI = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Marks that reorder the text around them."""


def one_line(text: str) -> str:
    """The text on one line: runs with a line break become a space, other control characters a replacement character.

    What a terminal would obey (escape sequences) and what would reorder the text (marks of direction) is gone.
    """
    if text.isprintable():
        return text
    joined = _BREAKS.sub(lambda found: found[0] if set(found[0]) <= {" ", "\N{NO-BREAK SPACE}"} else " ", text)
    return "".join(
        REPLACEMENT if character in _BIDI or unicodedata.category(character) in ("Cc", "Cs") else character
        for character in joined
    )


def lines(text: str) -> str:
    """The same of a text that may have several lines and columns: a terminal obeys none of it."""
    return "".join(part if part in ("\n", "\t") else one_line(part) for part in re.split(r"([\n\t])", text))


def shown(text: object) -> str:
    """Words for a line of the terminal that has markup of its own: they stand as they are, whatever follows them."""
    return _MARKED.sub(_unmarked, one_line(str(text)))


def _unmarked(found: re.Match[str]) -> str:
    # Doubled backslashes before a tag are half as many in print; a bracket before a tag begins none.
    backslashes, bracket = found.groups()
    return 2 * backslashes + (_NOTHING if backslashes else "") + (bracket + _NOTHING if bracket else "")
