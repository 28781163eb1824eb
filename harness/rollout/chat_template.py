"""A model's own chat template, asked once what it does: which messages it takes, what ends a turn, which tokens are
its own; its clock stands still, and no text can forge its tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from harness.core.errors import UserError
from harness.core.types import Message

PROBE = "\u2047\u2047probe\u2047\u2047"
"""Stands for the agent's words when a template is asked what follows them."""
CLOCK = datetime(2025, 1, 1)
"""The moment that every template is told when it asks: prompts are the same on another day. Part of a checkpoint's
hash."""
CLOCK_NAME = "strftime_now"
CODES = "aAbBcdfGHIjmMpSuUVwWxXyYzZ%"
"""Letters of `strftime` (a template's clock takes its formats)."""
BETWEEN = "\n\n"
"""Between messages that are made one."""
GUARD = "\U0010fffd\U0010fffc\U0010fffd"
"""Marks where a control token's text is broken: private characters in an order that no text has."""

Form = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]


class Template:
    """The chat template of one tokenizer, as text. `stop_ids`: tokens that are known to end a turn."""

    def __init__(self, tokenizer: Any, stop_ids: Sequence[int] = ()) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise UserError("this model's tokenizer has no chat template; an instruction-tuned model is needed")
        self.tokenizer = tokenizer
        self._added = {str(tokenizer.decode([stop])): stop for stop in stop_ids}
        self._added |= {str(token): int(place) for place, token in tokenizer.added_tokens_decoder.items()}
        self._form = lru_cache(maxsize=4096)(self._find_form)
        opened, whole = self._try([_user()], True), self._try([_user(), _agent()], False)
        self.opened = opened or ""
        """Where the agent's turn begins, after a short question."""
        space, self.end = self._first_token((whole or "").rpartition(PROBE)[2])
        """Text of the token that ends the agent's turn; empty where the template has none."""
        following = (self._try([_user(), _agent(), _user()], True) or "").rpartition(PROBE)[2]
        both = (self._first_token(following), (space, self.end))
        self.ends = tuple(dict.fromkeys(space + end for space, end in both if end))
        """What may stand there, with the space before it: some templates write another token once the conversation
        goes on."""
        self.controls = self._control_texts(stop_ids)
        """Texts of the tokens that only the template may write."""
        self._control = re.compile("|".join(map(re.escape, sorted(self.controls, key=len, reverse=True))) or r"(?!)")

    def text(
        self, messages: Sequence[Message], tools: Sequence[Any] | None = None, generate: bool = True, guard: bool = True
    ) -> str:
        """The conversation as the template writes it, control tokens in its messages broken by `GUARD`.

        Messages that the template does not take as they are, or leaves out, are brought into a form that it takes:
        neighbours of one role become one message, a tool speaks as the user, the system's words stand at the
        beginning of the user's. UserError where it takes none of these.
        """
        given = [dict(message) for message in messages]
        given = self._guarded(given) if guard else given
        plain = all(set(message) <= {"role", "content"} for message in given)
        if plain:
            roles = tuple(str(message["role"]) for message in given)
            given = self._form(roles, generate, self.source())(given)
        return self._render(given, self._guarded(list(tools)) if tools else None, generate)

    def completion(self, text: str) -> str:
        """What the template writes where the agent says this text, up to the token that ends its turn: a blank or an
        empty thought may stand before it. The bare text where the template keeps it to itself."""
        words = self.broken(text)
        whole = self.text([_user(), {"role": "assistant", "content": text}], generate=False)
        if not whole.startswith(self.opened) or words.strip() not in whole:
            return words
        own = whole.removeprefix(self.opened)
        return own.rpartition(self.end)[0] if self.end else own[: own.rfind(words.strip()) + len(words.strip())]

    def source(self, tools: Sequence[Any] | None = None) -> str:
        """The template's own text, a standing clock in front of it where it asks for one."""
        text = str(self.tokenizer.get_chat_template(None, tools or None))
        return _standing_clock() + text if CLOCK_NAME in text else text

    def token_of(self, text: str) -> int | None:
        """The added token of this text; None where there is none."""
        return self._added.get(text)

    def broken(self, text: str) -> str:
        """Text in which every control token's text is broken by `GUARD`."""
        if not self._control.search(text):
            return text
        for control in self.controls:  # one after the other: they may overlap
            text = text.replace(control, control[:1] + GUARD + control[1:])
        return text

    def _render(self, messages: list[dict[str, Any]], tools: list[Any] | None, generate: bool) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                messages,
                tools=tools or None,
                add_generation_prompt=generate,
                tokenize=False,
                chat_template=self.source(tools),
            )
        )

    def _try(self, messages: list[dict[str, Any]], generate: bool) -> str | None:
        try:
            return self._render(messages, None, generate)
        except Exception:  # templates raise what they like, e.g. for roles that do not alternate
            return None

    def _find_form(self, roles: tuple[str, ...], generate: bool, _template: str) -> Form:
        """The first form of a conversation with these roles in which the template shows every word that is not the
        agent's."""
        probes = [{"role": role, "content": f"{PROBE}{place}{PROBE}"} for place, role in enumerate(roles)]
        for form in _forms():
            text = self._try(form(probes), generate)
            shown = ((text or "").count(p["content"]) == 1 for p in probes if p["role"] != "assistant")
            if text is not None and all(shown):
                return form
        try:
            self._render(probes, None, generate)
            why = "it leaves words out"
        except Exception as error:
            why = str(error)
        raise UserError(
            f"the model's chat template does not take a conversation of {', '.join(roles) or 'no messages'}, nor any "
            f"form of it that this harness knows: {why}"
        )

    def _first_token(self, text: str) -> tuple[str, str]:
        """The added token that a text begins with, and the space before it."""
        rest = text.lstrip()
        found = max((token for token in self._added if token.strip() and rest.startswith(token)), key=len, default="")
        return (text[: len(text) - len(rest)], found) if found else ("", "")

    def _control_texts(self, stop_ids: Sequence[int]) -> frozenset[str]:
        special = {str(t) for t in self.tokenizer.added_tokens_decoder.values() if t.special}
        stops = {text for text, place in self._added.items() if place in stop_ids}
        system, tool = ({"role": role, "content": "?"} for role in ("system", "tool"))
        before = [self._try(messages, False) or "" for messages in ([_user()], [system, _user()])]
        after = [self._try([_user(), _agent(), reply], False) or "" for reply in (tool, _user())]
        around = [*before, *(text.rpartition(PROBE)[2] for text in after)]
        written = {text for text in self._added if any(text in part for part in around)}
        return frozenset(text for text in special | stops | written | {self.end} if len(text.strip()) > 1)

    def _guarded(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.broken(value)
        if isinstance(value, dict):
            return {key: self._guarded(part) for key, part in value.items()}
        return [self._guarded(part) for part in value] if isinstance(value, list | tuple) else value


@lru_cache(maxsize=1)
def _standing_clock() -> str:
    """A macro that stands in for the function that tells the time: functions cannot be handed to a template."""
    # What stands for two percent signs must not be read as the beginning of a code.
    codes = {f"%{code}": CLOCK.strftime(f"%{code}") for code in CODES} | {"%%": "\x00"}
    steps = "".join(f" | replace({code!r}, {text!r})" for code, text in sorted(codes.items()))
    # The line end behind the block belongs to it: the template begins at the beginning of a line.
    return f"{{% macro {CLOCK_NAME}(form) %}}{{{{ form{steps} | replace({chr(0)!r}, '%') }}}}{{% endmacro %}}\n"


def _user(content: str = "?") -> dict[str, Any]:
    return {"role": "user", "content": content}


def _agent() -> dict[str, Any]:
    return {"role": "assistant", "content": PROBE}


def _forms() -> Iterator[Form]:
    """Forms of a conversation, the most faithful first."""
    yield list
    yield _merged
    yield lambda messages: _merged(_spoken_by_user(messages, "tool"))
    yield lambda messages: _merged(_spoken_by_user(_merged(messages), "system"))
    yield lambda messages: _merged(_spoken_by_user(messages, "tool", "system"))


def _spoken_by_user(messages: list[dict[str, Any]], *roles: str) -> list[dict[str, Any]]:
    return [{**m, "role": "user"} if m["role"] in roles else m for m in messages]


def _merged(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Neighbours of one role as one message."""
    out: list[dict[str, Any]] = []
    for message in messages:
        if out and out[-1]["role"] == message["role"]:
            out[-1] = {**message, "content": out[-1]["content"] + BETWEEN + message["content"]}
        else:
            out.append(dict(message))
    return out
