"""The sanitiser: sibling traces as a summariser may read them, without anything that would give the task away.

Masked are evaluator reports, reference actions, credentials, payment values and answer literals (Ding, Xin & De la Cruz
Weinstein 2026, arXiv 2606.12634, name the classes; the rules are ours). Reference actions are masked where somebody
else quotes them (replies, the task's text), not where the agent itself acted so: that a success took an action is no
hidden label.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from agents.transcripts import acted_at
from harness.types import Episode, RolloutGroup

MASK = "***"

_KEY = r"[\w-]*(?:passw(?:or)?d|passcode|pwd|secret|api[_-]?key|token|credential|cvv|cvc|otp|ssn)[\w-]*|pin"
_ASSIGNED = re.compile(rf"(?i)\b({_KEY})\b([\"']?\s*(?:[:=]|\bis\b)\s*)([\"']?)([^\s\"',;)}}\]]+)")
_SECRET = re.compile(
    r"-----BEGIN [^-]+-----.*?-----END [^-]+-----"  # a key in PEM form
    r"|\bsk-[\w-]{8,}"
    r"|\beyJ[\w-]+\.[\w-]+\.[\w-]+"  # a JSON web token
    r"|(?<=\bBearer )\S+"
    r"|(?<=://)[^\s/@:]+:[^\s/@]+(?=@)",  # user:password in a URL
    re.DOTALL,
)
_PAYMENT = re.compile(
    r"\b\d{4}[ -]?\d{4}[ -]?\d{4}[ -]?\d{1,7}\b|\b\d{4}[ -]?\d{6}[ -]?\d{5}\b"  # card numbers
    r"|\b(?:credit_card|gift_card|certificate)_\d+\b"
    r"|\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}\b"  # IBAN
    r"|[$€£]\s?\d[\d,]*(?:\.\d+)?"
)
_REPORT = re.compile(
    r"(?i)\b(evaluat(or|ion)|ground[ _-]?truth|reward(_info)?|(gold|reference|expected|hidden|correct)[ _-]"
    r"(action|solution|answer|label|output|state)s?|unit tests?|tests? (passed|failed)|"
    r"(passed|failed) tests?|num_tests)\b"
)


@dataclass(frozen=True)
class Trace:
    """One sibling, sanitised: reply i follows action i."""

    task: str
    actions: tuple[str, ...]
    replies: tuple[str, ...]
    success: bool


def traces(group: RolloutGroup) -> tuple[tuple[Trace, ...], tuple[str, ...]]:
    """The group's siblings, sanitised, and every literal that was masked (credit must not touch its tokens either)."""
    found: set[str] = {group.answer.strip()} if group.answer and group.answer.strip() else set()
    siblings = tuple(_trace(episode, group, found) for episode in group.episodes)
    return siblings, tuple(sorted(found))


def mask_literals(text: str, answer: str | None, found: set[str] | None = None) -> str:
    """`text` without credentials, payment values and the answer; what was masked is added to `found`."""
    found = set() if found is None else found

    def hide(match: re.Match[str]) -> str:
        found.add(match.group())
        return MASK

    def hide_value(match: re.Match[str]) -> str:
        name, between, quote, value = match.groups()
        if quote or any(sign.isdigit() for sign in value):  # a bare word is a variable's name, not a value to track
            found.add(value)
        return f"{name}{between}{quote}{MASK}"

    text = _SECRET.sub(hide, text)
    text = _ASSIGNED.sub(hide_value, text)
    text = _PAYMENT.sub(hide, text)
    if answer and answer.strip():
        text = re.sub(f"(?i){_loosely(answer)}", MASK, text)
    return text


def mask_reports(text: str, solution: tuple[str, ...] | None) -> str:
    """`text` without reference actions and without evaluator reports, which are cut from their first line to a blank
    one."""
    for action in solution or ():
        for part in {action, *(line for line in action.splitlines() if len(line.strip()) >= 8)}:
            if part.strip():
                text = re.sub(_loosely(part), MASK, text)
    kept, inside = [], False
    for line in text.splitlines():
        inside = bool(line.strip()) and (inside or _REPORT.search(line) is not None)
        if not inside:
            kept.append(line)
        elif not kept or kept[-1] != MASK:
            kept.append(MASK)
    return "\n".join(kept)


def _loosely(text: str) -> str:
    """A pattern for `text` as words of their own, whatever its white space."""
    return r"(?<!\w)" + r"\s+".join(re.escape(word) for word in text.split()) + r"(?!\w)"


def _trace(episode: Episode, group: RolloutGroup, found: set[str]) -> Trace:
    def clean(text: str, quoted: bool) -> str:
        return mask_literals(mask_reports(text, group.solution) if quoted else text, group.answer, found).strip()

    acted = acted_at(episode)
    contents = [str(message["content"] or "") for message in episode.messages]
    ends = [*acted[1:], len(contents)]
    opening = contents[: acted[0]] if acted else contents
    return Trace(
        task=clean("\n".join(opening), quoted=True),
        actions=tuple(clean(contents[place], quoted=False) for place in acted),
        replies=tuple(
            clean("\n".join(contents[place + 1 : end]), quoted=True) for place, end in zip(acted, ends, strict=True)
        ),
        success=episode.success,
    )
