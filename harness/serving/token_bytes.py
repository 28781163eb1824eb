"""The bytes a token stands for, of which a character may need several tokens: OpenAI's `bytes` beside each
log-probability."""

from __future__ import annotations

import json
import re
from typing import Any

BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
"""How SentencePiece writes a token that is one byte."""
SPACE = "▁"
"""SentencePiece's word boundary, a space in the text."""


class TokenBytes:
    """Token ids to lists of UTF-8 byte values, for one Hugging Face tokenizer.

    Decoding a single token cannot tell: half a character decodes to U+FFFD, and SentencePiece drops the first space.
    So the vocabulary's own spelling is read: byte-level BPE (Radford et al. 2019) spells each byte as one printable
    character, SentencePiece with byte fallback (Kudo and Richardson 2018, arXiv:1808.06226) spells odd bytes as
    <0xNN>. Tokens of any other vocabulary have the bytes of what they decode to.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._added = {
            int(token): str(added) for token, added in getattr(tokenizer, "added_tokens_decoder", {}).items()
        }
        kinds = _decoders(tokenizer)
        self._byte_level = _byte_of_character() if "ByteLevel" in kinds else {}
        self._pieces = bool({"ByteFallback", "Metaspace"} & kinds)

    def __call__(self, token: int) -> list[int]:
        """The bytes of one token; joined over the tokens of a text they are the text's."""
        if token in self._added:
            return list(self._added[token].encode())
        spelling = str(self._tokenizer.convert_ids_to_tokens(token))
        if self._byte_level and all(character in self._byte_level for character in spelling):
            return [self._byte_level[character] for character in spelling]
        if self._pieces:
            byte = BYTE.fullmatch(spelling)
            return [int(byte[1], 16)] if byte else list(spelling.replace(SPACE, " ").encode())
        return list(str(self._tokenizer.decode([token])).encode("utf-8", "replace"))


def _decoders(tokenizer: Any) -> set[str]:
    """Types of the steps by which the tokenizer decodes; none for a tokenizer without a fast implementation."""
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    if decoder is None:
        return set()
    description = json.loads(decoder.__getstate__())
    return {str(step.get("type")) for step in [description, *description.get("decoders", ())]}


def _byte_of_character() -> dict[str, int]:
    """Byte-level BPE's alphabet: printable Latin-1 stands for itself, the other bytes for the characters from U+0100
    on."""
    itself = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = [byte for byte in range(256) if byte not in itself]
    return {chr(byte): byte for byte in itself} | {chr(256 + place): byte for place, byte in enumerate(others)}
