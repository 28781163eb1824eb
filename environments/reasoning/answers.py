"""Where the answer stands in a completion, and where the reference stands in a record."""

from __future__ import annotations

import re

from harness.endpoint import without_thinking

OPEN, CLOSE = "<answer>", "</answer>"

_MARKS = re.compile(r"####|answer[*_]{0,3}[ \t]{0,3}:[*_]{0,3}", re.IGNORECASE)
_BOX = re.compile(r"\\(?:boxed|fbox)[ \t]{0,3}\{")
_BETWEEN_BOXES = re.compile(r"(?:\s|[$,;.&]|\\[()\[\],;!]|\\quad|\\text\{\s*(?:and|or)\s*\}|\b(?:and|or)\b){0,20}")
_FENCE = "```"
_WORDS = re.compile(r"[^\W\d_]{3,}")
_FORMULA = re.compile(r"[\\\d=+*/^<>]")
_THOUSANDS = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_NO_ANSWER = frozenset({"n/a", "na", "null", "nan", "-", "?", "..."})


def extract_answer(completion: str) -> str:
    r"""The final answer of a completion, without blanks around it: the first of these that is there

    1. the text of the last `<answer>...</answer>` (may span lines),
    2. the last `\boxed{...}`, braces balanced, with the boxes that stand right before it (`\boxed{1} and \boxed{2}` is
       `1, 2`),
    3. what follows the last `####` or `Answer:` (any case, emphasised or not) on its line, or the next that is not
       blank,
    4. a fenced block that ends the completion,
    5. the last line that is not blank.

    A fence, bold type, quoting marks and a box around the whole answer are taken off. What a model thinks before it
    answers (`harness.endpoint.thinking`) is not read; a completion that ends while it thinks has the empty answer, as
    an empty one has.
    """
    words = without_thinking(completion)
    close = words.rfind(CLOSE)
    start = words.rfind(OPEN, 0, max(close, 0))
    if start >= 0:
        return _bare(words[start + len(OPEN) : close])
    boxed = _last_boxes(words)
    if boxed is not None:
        return _bare(boxed)
    marks = list(_MARKS.finditer(words))
    rest = words[marks[-1].end() :] if marks else words
    if (fence := _last_fence(rest)) is not None:
        return _bare(fence)
    lines = rest.strip().split("\n")
    return _bare(lines[0] if marks else lines[-1])


def _bare(answer: str) -> str:
    r"""An answer without the fence, `**`, backticks or `\boxed{}` that stand around the whole of it."""
    answer = answer.strip()
    for _ in range(4):
        before = answer
        if (fence := _last_fence(answer)) is not None and answer.count(_FENCE) == 2 and answer.startswith(_FENCE):
            answer = fence
        for mark in ("**", "`"):
            inner = answer[len(mark) : -len(mark)]
            if len(answer) > 2 * len(mark) and answer == f"{mark}{inner}{mark}" and mark not in inner:
                answer = inner
        if answer.startswith("\\boxed") and (found := boxes(answer)) and found[0][1] == len(answer):
            answer = found[0][2]
        answer = answer.strip()
        if answer == before:
            break
    return answer


def _last_fence(text: str) -> str | None:
    """What the fenced block at the end of a text holds, or None where it does not end in one."""
    text = text.rstrip()
    start = text.rfind(_FENCE, 0, len(text) - len(_FENCE)) if text.endswith(_FENCE) else -1
    if start < 0:
        return None
    language, line_end, held = text[start + len(_FENCE) : -len(_FENCE)].partition("\n")
    return held.strip("\n") if line_end and len(language) < 20 else None


def boxes(text: str) -> list[tuple[int, int, str]]:
    r"""Start, end and content of every closed `\boxed{...}` of a text that stands in no other box."""
    found: list[tuple[int, int, str]] = []
    opened: list[tuple[int, int]] = []
    depth, starts = 0, {mark.end() - 1: mark.start() for mark in _BOX.finditer(text)}
    for brace in re.finditer(r"[{}]", text) if starts else ():
        place = brace.start()
        if brace.group() == "{":
            depth += 1
            if place in starts:
                opened.append((depth, place))
        else:
            if opened and opened[-1][0] == depth:
                _, begin = opened.pop()
                while found and found[-1][0] > starts[begin]:
                    found.pop()
                found.append((starts[begin], place + 1, text[begin + 1 : place].strip()))
            depth -= 1
    return found


def last_boxed(text: str) -> str | None:
    r"""What the last `\boxed{...}` of a text holds, or None where there is none or it is never closed."""
    found = boxes(text)
    opened = list(_BOX.finditer(text))
    return found[-1][2] if found and opened and opened[-1].start() < found[-1][1] else None


def _last_boxes(text: str) -> str | None:
    r"""The last box and those joined to it by no more than `and`, `or` and commas, as a list."""
    last = last_boxed(text)
    if last is None:
        return None
    run = boxes(text)
    first = len(run) - 1
    while first > 0 and _BETWEEN_BOXES.fullmatch(text[run[first - 1][1] : run[first][0]]):
        first -= 1
    return ", ".join(content for _, _, content in run[first:])


def split_reference(text: str) -> tuple[str | None, str]:
    r"""(working, answer) of a record's answer: `working #### 42` (GSM8K), `working \boxed{42}` (MATH), or bare.

    Boxes that stand together are one answer, a list: `\boxed{1} and \boxed{-2}` is `1, -2`. Raises ValueError where it
    is not clear which words are the answer (different boxes far from each other, several `####`, a box that is never
    closed), or where there is none to compare with.
    """
    working, mark, answer = text.rpartition("####")
    if mark:
        if "####" in working:
            raise ValueError("the answer has several '####': which follows the last word of the working is not clear")
        return working.strip() or None, _gradable(answer.strip())
    if _BOX.search(text) is None:
        return None, _gradable(text.strip())
    together = _last_boxes(text)
    if together is None:
        raise ValueError("the answer has a \\boxed{ that is never closed")
    found = [content for _, _, content in boxes(text)]
    if len(set(found)) > 1 and together != ", ".join(found):
        raise ValueError(f"the answer has several boxes far from each other, {found}: which is it?")
    return text.strip(), _gradable(found[0] if len(set(found)) == 1 else together)


def _gradable(answer: str) -> str:
    if answer.casefold() in _NO_ANSWER or (answer and not any(map(str.isalnum, answer)) and not _symbols(answer)):
        raise ValueError(f"the answer {answer!r} is none that another could be compared with")
    return answer


def _symbols(answer: str) -> bool:
    r"""Whether an answer without letters and digits says something: an emoji, an infinity, a set without elements."""
    return not answer.isascii() or answer.replace(" ", "") in ("\\{\\}", "{}", "[]", "()", "<", ">", "=", "+", "*", "/")


def same_text(answer: str, reference: str) -> bool:
    """Whether two answers are equal as text; dollar signs, thousands separators, blanks, case, final stops do not
    count. Commas count unless the whole is one number.
    """
    return _plain(answer) == _plain(reference)


def is_wording(reference: str) -> bool:
    """Whether a reference is words, not mathematics: a formula reader takes `Paris` for a product, equal to `pairs`."""
    return _WORDS.search(reference) is not None and _FORMULA.search(reference) is None


def _plain(answer: str) -> str:
    answer = " ".join(answer.replace("$", "").casefold().split()).removesuffix(".")
    return answer.replace(",", "") if _THOUSANDS.fullmatch(answer) else answer
