"""Messages to token ids and back, token in, token out: a conversation's next prompt extends the tokens it already has.

Nothing is ever tokenised twice. What the environment says after a completion is rendered as a *bridge*: the text the
model's own chat template puts between the end of the agent's turn and the beginning of its next.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from harness.core.errors import UserError
from harness.core.types import ContextRequest, Message
from harness.rollout.chat_template import BETWEEN, GUARD, PROBE, Template

ANCHORS = ("\n", ".", "0", "a")
"""Texts that stand in front of another one to see how it is tokenised in the middle of a text."""
_Key = tuple[tuple[str, str], ...]


class Renderer:
    """Renders for one tokenizer with a chat template (any Hugging Face tokenizer that has one)."""

    def __init__(self, tokenizer: Any, stop_ids: Sequence[int]) -> None:
        self.tokenizer = tokenizer
        self.template = Template(tokenizer, stop_ids)
        end = self.template.token_of(self.template.end)
        first = [i for i in (end, getattr(tokenizer, "eos_token_id", None)) if i == end or i in stop_ids]
        self.stop_ids = tuple(dict.fromkeys(i for i in (*first, *stop_ids) if i is not None))
        if not self.stop_ids:
            raise UserError("nothing ends this model's turn: neither its template nor its configuration names a token")
        self._begins_with_blank = self._after(ANCHORS[0], "x") not in (None, self._plain("x"))
        self._opening = lru_cache(maxsize=4096)(self._render_opening)
        self._bridge = lru_cache(maxsize=65536)(self._render_bridge)

    def opening(
        self,
        messages: Sequence[Message],
        tools: Sequence[Any] | None = None,
        context: ContextRequest | None = None,
    ) -> tuple[int, ...]:
        """Tokens of the first prompt, up to where the agent's turn begins. `context`: as a teacher reads it, who has
        this privileged context too, in one conversation with the rest. UserError where its words are not in it."""
        words: tuple[str, ...] = ()
        if context is not None:
            messages, words = _with_context(messages, context), tuple(str(m["content"]) for m in _contents(context))
        if tools or not all(set(message) <= {"role", "content"} for message in messages):
            return self._encode(self._shown(self.template.text(messages, tools), words))
        return self._opening(self.template.source(), _key(messages), words)

    def bridge(self, messages: Sequence[Message], stopped: bool) -> tuple[int, ...]:
        """Tokens between the agent's last sampled token and its next: `stopped` says that it sampled its own end of
        turn."""
        return self._bridge(self.template.source(), _key(messages), stopped)

    def context(self, request: ContextRequest) -> tuple[int, ...]:
        """Tokens that stand in front of a conversation when a teacher reads a privileged context. UserError where the
        template has no place there: what `opening` says with the context is right for every template."""
        asked = [{"role": "user", "content": "?"}]
        plain, whole = self.opening(asked), self.opening(asked, None, request)
        if whole[-len(plain) :] != plain:
            raise UserError(
                "this model's chat template writes a context into the conversation, not in front of it: "
                "render the opening with the context"
            )
        return whole[: -len(plain)]

    def decode(self, ids: Sequence[int]) -> str:
        """The agent's words, its end-of-turn token left out."""
        return str(self.tokenizer.decode([i for i in ids if i not in self.stop_ids], skip_special_tokens=False))

    def encode(self, text: str) -> tuple[int, ...]:
        """Plain text as tokens, none of them one that only the template may write (what a policy has sampled is never
        encoded again)."""
        return self._encode(self.template.broken(text))

    def completion(self, text: str) -> tuple[int, ...]:
        """What the agent would have sampled to say this text in its turn, as the template writes it, its end of turn
        included."""
        return *self._encode(self.template.completion(text), self.template.opened), self.stop_ids[0]

    def literal_mask(self, tokens: np.ndarray, literals: Sequence[str]) -> np.ndarray:
        """True on tokens whose text overlaps an occurrence of a literal (case-sensitive, bool[token])."""
        text, starts, ends = self._spans(tokens)
        mask = np.zeros(len(tokens), dtype=bool)
        for literal in filter(None, literals):
            at = text.find(literal)
            while at >= 0:
                mask |= (starts < at + len(literal)) & (ends > at)
                at = text.find(literal, at + 1)
        return mask

    def _spans(self, tokens: np.ndarray) -> tuple[str, np.ndarray, np.ndarray]:
        """The tokens' text and where in it each begins and ends; the tokens that make up one character share its
        place."""
        # A decoder that drops the blank in front of a text would drop it in front of every token.
        front = list(self._plain("a")) if self._begins_with_blank else []
        drop = len(self.tokenizer.decode(front)) if front else 0
        text, spans, pending = "", np.zeros((len(tokens), 2), dtype=np.int64), 0
        for place in range(len(tokens)):
            piece = str(self.tokenizer.decode([*front, *tokens[pending : place + 1].tolist()]))[drop:]
            if piece.endswith("\ufffd") and place - pending < 3 and place + 1 < len(tokens):
                continue  # half a character: no character of UTF-8 has more than four bytes
            spans[pending : place + 1] = len(text), len(text) + len(piece)
            text, pending = text + piece, place + 1
        return text, spans[:, 0], spans[:, 1]

    def _render_opening(self, _template: str, key: _Key, words: tuple[str, ...]) -> tuple[int, ...]:
        return self._encode(self._shown(self.template.text(_messages(key)), words))

    def _render_bridge(self, _template: str, key: _Key, stopped: bool) -> tuple[int, ...]:
        conversation = [{"role": "user", "content": "?"}, {"role": "assistant", "content": PROBE}]
        after = self.template.text([*conversation, *_messages(key)]).rpartition(PROBE)[2]
        if stopped:
            for end in self.template.ends:
                if after.startswith(end):
                    return self._encode(after.removeprefix(end), end)
        return self._encode(GUARD + after)

    def _shown(self, text: str, words: tuple[str, ...]) -> str:
        """The text, where all of a context's words are in it."""
        for part in words:
            if part.strip() not in text.replace(GUARD, ""):
                raise UserError(
                    "the model's chat template does not show a privileged context as it is: a teacher would read "
                    f"something else than {part[:80]!r}"
                )
        return text

    def _encode(self, text: str, behind: str = "") -> tuple[int, ...]:
        """Tokens of text in which `GUARD` breaks what would be a control token; `behind`: how they are where this
        text has been written before."""
        first, *rest = text.split(GUARD)
        tokens = self._after(behind, first) if behind else None
        out = list(self._plain(first) if tokens is None else tokens)
        for piece in rest:
            out += self._continued(piece)
        return tuple(out)

    def _continued(self, text: str) -> tuple[int, ...]:
        """Tokens of a text that goes on in the middle of another."""
        if self._begins_with_blank:
            for anchor in ANCHORS:
                tokens = self._after(anchor, text)
                if tokens is not None:
                    return tokens
        return self._plain(text)

    def _after(self, front: str, text: str) -> tuple[int, ...] | None:
        """Tokens of a text behind another one; None where the two are not apart in tokens."""
        before, whole = self._plain(front), self._plain(front + text)
        return whole[len(before) :] if whole[: len(before)] == before else None

    def _plain(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))


def _with_context(messages: Sequence[Message], request: ContextRequest) -> list[Message]:
    content = _contents(request)
    if request.place == "before":
        return [*content, *messages]
    *before, last = messages
    if last["role"] != "user":
        return [*messages, *({"role": "user", "content": m["content"]} for m in content)]
    joined = BETWEEN.join(str(m["content"]) for m in (last, *content))
    return [*before, {**last, "content": joined}]


def _contents(request: ContextRequest) -> tuple[Message, ...]:
    content = request.content
    return ({"role": "system", "content": content},) if isinstance(content, str) else content


def _key(messages: Sequence[Message]) -> _Key:
    return tuple((str(message["role"]), str(message["content"])) for message in messages)


def _messages(key: _Key) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in key]
