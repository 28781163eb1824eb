"""Rendering: bridges and openings put together are what the model's own template says of the whole conversation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.errors import UserError
from harness.rollout.rendering import Renderer
from harness.types import ContextRequest

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="<|>"), max_size=12)
CHATML = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if tools %}<|system|>{% for t in tools %}{{ t['name'] }}{% endfor %}<|end|>{% endif %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
"""Another common shape: a line end behind the role and behind the end of turn."""


@pytest.fixture(scope="module", params=["bare", "chatml"])
def renderer(request: pytest.FixtureRequest, tiny_directory: Path) -> Renderer:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_directory)
    if request.param == "chatml":
        tokenizer.chat_template = CHATML
    return Renderer(tokenizer, (tokenizer.eos_token_id,))


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


@settings(max_examples=50, deadline=None)
@given(TEXT, TEXT, TEXT, st.booleans())
def test_the_parts_are_the_whole(renderer: Renderer, asked: str, said: str, replied: str, stopped: bool) -> None:
    """Opening + the agent's words (+ its end of turn, if it sampled one) + bridge = the template over all messages."""
    whole = renderer.tokenizer.apply_chat_template(
        [user(asked), assistant(said), user(replied)], add_generation_prompt=True, tokenize=False
    )
    words = [*renderer.encode(said), *(renderer.stop_ids if stopped else ())]
    parts = [*renderer.opening([user(asked)]), *words, *renderer.bridge([user(replied)], stopped)]
    assert renderer.tokenizer.decode(parts) == whole


def test_an_end_that_was_not_sampled_stands_in_the_bridge(renderer: Renderer) -> None:
    end = renderer.stop_ids[0]
    cut, stopped = renderer.bridge([user("lower")], False), renderer.bridge([user("lower")], True)
    assert cut == (end, *stopped)
    assert stopped[0] != end


def test_several_replies_make_one_bridge(renderer: Renderer) -> None:
    both = renderer.bridge([{"role": "tool", "content": "8"}, user("go on")], True)
    said = renderer.tokenizer.decode(both)
    assert (
        said.index("<|tool|>")
        < said.index("8")
        < said.index("<|user|>")
        < said.index("go on")
        < said.index("<|assistant|>")
    )


def test_no_reply_lets_the_agent_speak_again(renderer: Renderer) -> None:
    assert renderer.tokenizer.decode(renderer.bridge([], True)).strip() == "<|assistant|>"


@pytest.mark.parametrize("content", ["guess 7", ({"role": "system", "content": "guess 7"},)])
def test_a_context_is_rendered_as_messages_in_front(renderer: Renderer, content: Any) -> None:
    said = renderer.tokenizer.decode(renderer.context(ContextRequest(content)))
    assert (
        said.strip()
        == renderer.tokenizer.apply_chat_template([{"role": "system", "content": "guess 7"}], tokenize=False).strip()
    )
    assert "<|assistant|>" not in said


def test_tools_are_shown_where_the_template_shows_them(renderer: Renderer) -> None:
    plain, shown = renderer.opening([user("hi")]), renderer.opening([user("hi")], [{"name": "search"}])
    assert (plain != shown) is ("tools" in renderer.tokenizer.chat_template)


def test_the_agents_words_are_without_its_end_of_turn(renderer: Renderer) -> None:
    assert renderer.decode([*renderer.encode("8 <|user|>"), *renderer.stop_ids]) == "8 <|user|>"
    assert renderer.decode(renderer.stop_ids) == ""


@settings(max_examples=100, deadline=None)
@given(TEXT, TEXT.filter(bool), TEXT)
def test_a_literal_is_masked_wherever_a_token_touches_it(
    renderer: Renderer, before: str, literal: str, after: str
) -> None:
    """Held against spans of bytes: the tokenizer is byte-level, so every token is a run of the text's bytes."""
    text = before + literal + after
    tokens = np.array(renderer.encode(text), dtype=np.int64)
    if renderer.tokenizer.decode(tokens) != text:
        return  # the tokenizer does not give this text back
    mask = renderer.literal_mask(tokens, [literal])
    table = byte_table()
    pieces = [bytes(table[c] for c in renderer.tokenizer.convert_ids_to_tokens(int(t))) for t in tokens]
    ends = np.cumsum([len(piece) for piece in pieces])
    raw, wanted = text.encode(), literal.encode()
    touched = np.zeros(len(pieces), dtype=bool)
    for at in range(len(raw)):
        if raw.startswith(wanted, at):
            touched |= (ends - [len(p) for p in pieces] < at + len(wanted)) & (ends > at)
    assert (mask | ~touched).all()  # nothing of the literal is left unmasked
    if text.isascii():
        np.testing.assert_array_equal(mask, touched)


def byte_table() -> dict[str, int]:
    """GPT-2's letters for bytes, written out from their definition: printable Latin-1 stands for itself, the others
    follow from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}


def test_literals_that_are_not_there_mask_nothing(renderer: Renderer) -> None:
    tokens = np.array(renderer.encode("guess 3 to 9"))
    assert not renderer.literal_mask(tokens, ["", "8", "Guess"]).any()
    assert not renderer.literal_mask(np.zeros(0, dtype=np.int64), ["8"]).any()


def test_a_model_without_a_chat_template_is_refused(tiny_directory: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_directory)
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        Renderer(tokenizer, (1,))
