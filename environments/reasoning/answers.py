"""Where the answer stands in a completion, and where the reference stands in a record."""

from __future__ import annotations

import re

OPEN, CLOSE = "<answer>", "</answer>"
_MARKS = re.compile(r"####|answer:", re.IGNORECASE)
_WORDS = re.compile(r"[^\W\d_]{3,}")
_FORMULA = re.compile(r"[\\\d=+*/^<>]")


def extract_answer(completion: str) -> str:
    r"""The final answer of a completion, without blanks around it: the first of these that is there

    1. the text of the last `<answer>...</answer>` (may span lines),
    2. the last `\boxed{...}`, braces balanced,
    3. what follows the last `####` or `Answer:` (any case) on its line,
    4. the last line that is not blank.

    An empty completion has the empty answer.
    """
    close = completion.rfind(CLOSE)
    start = completion.rfind(OPEN, 0, max(close, 0))
    if start >= 0:
        return completion[start + len(OPEN) : close].strip()
    boxed = last_boxed(completion)
    if boxed is not None:
        return boxed
    marks = list(_MARKS.finditer(completion))
    if marks:
        return completion[marks[-1].end() :].partition("\n")[0].strip()
    return completion.strip().rpartition("\n")[2].strip()


def last_boxed(text: str) -> str | None:
    r"""What the last `\boxed{...}` of a text holds, or None where there is none or it is never closed."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    start += len("\\boxed{")
    depth = 1
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[start:place].strip()
    return None


def split_reference(text: str) -> tuple[str | None, str]:
    r"""(working, answer) of a record's answer: `working #### 42` (GSM8K), `working \boxed{42}` (MATH), or bare."""
    working, mark, answer = text.rpartition("####")
    if mark:
        return working.strip() or None, answer.strip()
    boxed = last_boxed(text)
    if boxed is not None:
        return text.strip(), boxed
    return None, text.strip()


def same_text(answer: str, reference: str) -> bool:
    """Whether two answers are equal as text; dollar signs, thousands separators, blanks, case, final stops do not
    count.
    """
    return _plain(answer) == _plain(reference)


def is_wording(reference: str) -> bool:
    """Whether a reference is words, not mathematics: a formula reader takes `Paris` for a product, equal to `pairs`."""
    return _WORDS.search(reference) is not None and _FORMULA.search(reference) is None


def _plain(answer: str) -> str:
    answer = re.sub(r"(?<=\d),(?=\d{3}\b)", "", answer.replace("$", ""))
    return " ".join(answer.casefold().split()).removesuffix(".")
