"""What a model thinks before it speaks: no part of an answer, of code to run, of words to a user or of notes."""

from __future__ import annotations

import re

THINKING = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
)
"""How families of models open and close what they think before they answer."""

_CLOSES = dict(THINKING)
_OPENS = {closing: opening for opening, closing in THINKING}
_THINKING = re.compile("|".join(re.escape(mark) for pair in THINKING for mark in pair))


def without_thinking(completion: str) -> str:
    """What a completion says besides its thinking; "" where it ends before its thinking does.

    A thought reaches from its opening mark to the first closing one of the same kind. A closing mark alone ends a
    thought that the prompt has opened: all before it is thought.
    """
    kept: list[str] = []
    place, inside = 0, ""
    for mark in _THINKING.finditer(completion):
        if inside:
            if mark.group() == _CLOSES[inside]:
                place, inside = mark.end(), ""
        elif mark.group() in _OPENS:
            kept, place = [], mark.end()
        else:
            kept.append(completion[place : mark.start()])
            inside = mark.group()
    return "" if inside else "".join([*kept, completion[place:]])
