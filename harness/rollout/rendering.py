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

PROBE = "\u2047\u2047probe\u2047\u2047"
"""Stands for the agent's words when a template is asked what follows them."""


class Renderer:
    """Renders for one tokenizer with a chat template (any Hugging Face tokenizer that has one)."""

    def __init__(self, tokenizer: Any, stop_ids: Sequence[int]) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise UserError("this model's tokenizer has no chat template; an instruction-tuned model is needed")
        self.tokenizer = tokenizer
        self.stop_ids = tuple(stop_ids)
        self._stop_texts = tuple(tokenizer.decode([stop]) for stop in self.stop_ids)
        self._opening = lru_cache(maxsize=4096)(self._render_opening)
        self._bridge = lru_cache(maxsize=65536)(self._render_bridge)
        self._context = lru_cache(maxsize=4096)(self._render_context)

    def opening(self, messages: Sequence[Message], tools: Sequence[Any] | None = None) -> tuple[int, ...]:
        """Tokens of the first prompt, up to where the agent's turn begins."""
        if tools:
            return self._encode(self._template([dict(m) for m in messages], True, list(tools)))
        return self._opening(_key(messages))

    def bridge(self, messages: Sequence[Message], stopped: bool) -> tuple[int, ...]:
        """Tokens between the agent's last sampled token and its next: `stopped` says that it sampled its own end of
        turn."""
        return self._bridge(_key(messages), stopped)

    def context(self, request: ContextRequest) -> tuple[int, ...]:
        """Tokens that stand in front of a conversation when a teacher reads a privileged context."""
        content = request.content
        if isinstance(content, str):
            content = ({"role": "system", "content": content},)
        return self._context(_key(content))

    def decode(self, ids: Sequence[int]) -> str:
        """The agent's words, its end-of-turn token left out."""
        return str(self.tokenizer.decode([i for i in ids if i not in self.stop_ids], skip_special_tokens=False))

    def encode(self, text: str) -> tuple[int, ...]:
        """Plain text as tokens (of a demonstration; what a policy has sampled is never encoded again)."""
        return self._encode(text)

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
        text, spans, pending = "", np.zeros((len(tokens), 2), dtype=np.int64), 0
        for place in range(len(tokens)):
            piece = str(self.tokenizer.decode(tokens[pending : place + 1].tolist()))
            if piece.endswith("\ufffd") and place - pending < 3 and place + 1 < len(tokens):
                continue  # half a character: no character of UTF-8 has more than four bytes
            spans[pending : place + 1] = len(text), len(text) + len(piece)
            text, pending = text + piece, place + 1
        return text, spans[:, 0], spans[:, 1]

    def _template(self, messages: list[dict[str, Any]], generate: bool, tools: list[Any] | None = None) -> str:
        return str(
            self.tokenizer.apply_chat_template(messages, tools=tools, add_generation_prompt=generate, tokenize=False)
        )

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def _render_opening(self, key: tuple[tuple[str, str], ...]) -> tuple[int, ...]:
        return self._encode(self._template(_messages(key), True))

    def _render_bridge(self, key: tuple[tuple[str, str], ...], stopped: bool) -> tuple[int, ...]:
        conversation = [{"role": "user", "content": "?"}, {"role": "assistant", "content": PROBE}]
        after = self._template([*conversation, *_messages(key)], True).rpartition(PROBE)[2]
        if stopped:
            after = next((after.removeprefix(stop) for stop in self._stop_texts if after.startswith(stop)), after)
        return self._encode(after)

    def _render_context(self, key: tuple[tuple[str, str], ...]) -> tuple[int, ...]:
        return self._encode(self._template(_messages(key), False))


def _key(messages: Sequence[Message]) -> tuple[tuple[str, str], ...]:
    return tuple((str(message["role"]), str(message["content"])) for message in messages)


def _messages(key: tuple[tuple[str, str], ...]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in key]
