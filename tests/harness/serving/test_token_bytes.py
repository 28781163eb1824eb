"""The bytes of tokens, joined, are the text's: for byte-level BPE and for SentencePiece's vocabulary with byte
fallback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from harness.backends.torch import TorchBackend
from harness.protocols.backend import Completion
from harness.serving.replies import reply
from harness.serving.requests import read_request
from harness.serving.token_bytes import TokenBytes


def joined(tokenizer: Any, tokens: list[int]) -> bytes:
    spell = TokenBytes(tokenizer)
    return b"".join(bytes(spell(token)) for token in tokens)


@pytest.fixture(scope="module")
def backend(tiny_directory: Path) -> TorchBackend:
    return TorchBackend(tiny_directory, device="cpu")


@pytest.fixture(scope="module")
def pieces() -> Any:
    """A vocabulary as Llama 2's: pieces with a word boundary, and one token per byte for what they do not cover."""
    vocabulary = {"<unk>": 0} | {f"<0x{byte:02X}>": byte + 1 for byte in range(256)}
    for piece in ("▁", "▁a", "a", "b", "ab"):
        vocabulary[piece] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocabulary, [("▁", "a"), ("a", "b")], unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken("<ünd>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@given(st.text())
def test_byte_level(backend: TorchBackend, text: str) -> None:
    tokens = backend.tokenizer.encode(text, add_special_tokens=False)
    assert joined(backend.tokenizer, tokens) == text.encode()


@given(st.text().map(lambda text: text.replace("▁", "")))
def test_pieces_with_byte_fallback(pieces: Any, text: str) -> None:
    tokens = pieces.encode(text, add_special_tokens=False)
    # the normaliser puts a space in front, which decoding takes away again
    assert joined(pieces, tokens) == (b" " + text.encode() if text else b"")


def test_half_a_character_by_hand(backend: TorchBackend, pieces: Any) -> None:
    for tokenizer in (backend.tokenizer, pieces):
        tokens = tokenizer.encode("💙", add_special_tokens=False)[-4:]
        assert [TokenBytes(tokenizer)(token) for token in tokens] == [[0xF0], [0x9F], [0x92], [0x99]]
    assert joined(pieces, [pieces.convert_tokens_to_ids("<ünd>")]) == "<ünd>".encode()


def test_they_stand_beside_the_log_probabilities(backend: TorchBackend) -> None:
    words = "Ä 💙 3 + 5"
    tokens = np.array([*backend.renderer.encode(words), backend.renderer.stop_ids[0]])
    done = Completion(tokens, -np.ones(len(tokens)), True)
    request = {"model": "m", "messages": [{"role": "user", "content": "?"}], "logprobs": True}
    asked = read_request(json.dumps(request).encode(), "m")
    body = reply(asked, [1], [done], backend.renderer, TokenBytes(backend.tokenizer))
    entries = body["choices"][0]["logprobs"]["content"]
    assert b"".join(bytes(entry["bytes"]) for entry in entries[:-1]) == words.encode()
    assert bytes(entries[-1]["bytes"]).decode() == backend.tokenizer.decode([backend.renderer.stop_ids[0]])
