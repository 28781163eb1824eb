"""What an agent's text does: a tool call, in this environment's form or in that of a family of models, or words to the
user."""

from __future__ import annotations

import json
import re
from typing import Any

from environments.tau3_airline.tasks import Call
from harness.endpoint import without_thinking

_TAGS = re.compile(
    r"<tool_call>\s*(?P<hermes>.*?)\s*(?:</tool_call>|\Z)"  # Hermes, Qwen
    r"|<\|python_tag\|>\s*(?P<llama>.*)\Z"
    r"|\[TOOL_CALLS\]\s*(?P<mistral>.*)\Z",
    re.DOTALL,
)
_FENCE = re.compile(r"```[ \t]*(?:json|tool_call|tool_code)?[ \t]*\n\s*(\{.*?\})\s*```", re.DOTALL | re.IGNORECASE)
_READER = json.JSONDecoder()


def spoken(action: str) -> str:
    """An action without what the model thinks; "" where it ends before its thinking does."""
    words = without_thinking(action)
    return action if words == action else words.strip()


def call_text(words: str) -> str | None:
    """The text of the call that an agent's words mean, or None where they are for the user.

    Words that open with a brace, and what stands in a family's tags for calls, were meant as a call whatever they are.
    A fenced JSON object, and one at the end of a sentence, are calls where they name a tool and its arguments. Of
    several calls the first counts.
    """
    if words.lstrip().startswith("{"):
        return words
    tagged = _TAGS.search(words)
    if tagged:
        inside = next(text for text in tagged.groups() if text is not None)
        return _first_of(inside) if inside.startswith("[") else inside
    fenced = [block for block in _FENCE.findall(words) if _is_call(block)]
    if fenced:
        return str(fenced[0])
    return _at_the_end(words)


def read_call(action: str) -> Call:
    """A tool call from its text. ValueError, in words for the agent, when the text is not one."""
    expected = 'a tool call is {"name": TOOL, "arguments": {...}} and nothing around it'
    try:
        given = json.loads(action)
    except (ValueError, RecursionError) as error:
        detail = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ValueError(f"this cannot be read as JSON ({detail}); {expected}") from None
    if not isinstance(given, dict):
        raise ValueError(f"this is no JSON object; {expected}")
    if not isinstance(given.get("name"), str):
        raise ValueError(f'"name" must be a string; {expected}')
    arguments = given.get("arguments", given.get("parameters"))
    if not isinstance(arguments, dict):
        raise ValueError(f'"arguments" must be an object; {expected}')
    return Call(given["name"], arguments)


def _is_call(text: str) -> bool:
    try:
        read_call(text)
    except ValueError:
        return False
    return True


def _first_of(listed: str) -> str:
    """The first entry of a list of calls; the text itself where it is no list of objects."""
    try:
        calls: Any = json.loads(listed)
    except (ValueError, RecursionError):
        return listed
    return json.dumps(calls[0], ensure_ascii=False) if calls and isinstance(calls[0], dict) else listed


def _at_the_end(words: str) -> str | None:
    """The JSON object that ends these words, where it is a call."""
    if not words.rstrip().endswith("}"):
        return None
    for place in (found.start() for found in re.finditer(r'\{\s*"(?:name|arguments|parameters)"', words)):
        try:
            _, end = _READER.raw_decode(words, place)
        except (ValueError, RecursionError):
            continue
        if not words[end:].strip() and _is_call(words[place:end]):
            return words[place:end]
    return None
