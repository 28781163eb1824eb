"""Keys are kept out of messages: a server may echo what it was sent, and an address may carry a password."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator
from urllib.parse import parse_qsl, quote, quote_plus, unquote, urlsplit

MASK = "***"
SHORT = 8
"""Secrets of fewer characters are masked where they stand as words of their own: `none`, the usual key of a server that
wants none, must not turn `nonetheless` into `***theless`."""
LONGEST = 300
"""Characters of a server's text in a message."""
ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})|\\(/)")
"""Escapes of JSON behind which a key would not be recognised."""
KEY_LIKE = re.compile(r"(?=.*[0-9])(?=.*[A-Za-z])[A-Za-z0-9_-]{20,}")
"""A segment of a path that may be a key."""


class Masker:
    """Replaces the secrets of one endpoint in texts: its key, and user, password and query of its address."""

    def __init__(self, *secrets: str | None, address: str | None = None) -> None:
        known = [secret.strip() for secret in (*secrets, *_secrets_of(address or "")) if secret and secret.strip()]
        forms = sorted({form for secret in known for form in _forms(secret)}, key=len, reverse=True)
        alternatives = [re.escape(form) if len(form) >= SHORT else rf"(?<!\w){re.escape(form)}(?!\w)" for form in forms]
        self._pattern = re.compile("|".join(alternatives), re.IGNORECASE) if alternatives else None

    def __call__(self, text: str) -> str:
        """`text` with every secret replaced, and with JSON's escapes of single characters resolved."""
        text = ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else found[2], text)
        text = text.encode("utf-8", "replace").decode()
        return self._pattern.sub(MASK, text) if self._pattern else text

    def excerpt(self, text: str) -> str:
        """The beginning of a long text. Masked before it is cut, or half a key would stay."""
        return self(text)[:LONGEST]


def shown_address(address: str) -> str:
    """An address without user, password and query, and without segments of its path that look like keys."""
    try:
        parts = urlsplit(address)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "an address that is no URL"
    path = "/".join(MASK if KEY_LIKE.fullmatch(segment) else segment for segment in parts.path.split("/"))
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{'' if port is None else f':{port}'}{path}"


def _secrets_of(address: str) -> Iterator[str]:
    """What may be a key in an address: user, password, values of the query, segments of the path that look like
    keys."""
    try:
        parts = urlsplit(address)
        user, password = parts.username or "", parts.password or ""
    except ValueError:
        return
    for secret in (user, password):
        yield secret
        yield unquote(secret)
    if user or password:
        pair = f"{unquote(user)}:{unquote(password)}"
        yield pair
        yield base64.b64encode(pair.encode()).decode()
    yield from (value for _, value in parse_qsl(parts.query))
    yield from filter(KEY_LIKE.fullmatch, parts.path.split("/"))


def _forms(secret: str) -> Iterable[str]:
    """A secret as it may appear in JSON, in Python's notation and in an address."""
    written = json.dumps(secret, ensure_ascii=False)[1:-1]
    return {secret, written, repr(secret)[1:-1], quote(secret, safe=""), quote_plus(secret)}
