"""Keys are kept out of messages, records and caches: a server may echo what it was sent, and an address may carry a
password."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus, unquote, urlsplit

MASK = "***"
SHORT = 8
"""Secrets of fewer characters are masked where they stand as words of their own: `none`, the usual key of a server that
wants none, must not turn `nonetheless` into `***theless`."""
LONGEST = 300
"""Characters of a server's text in a message."""
LOOKED_AT = 16_384
"""Characters of a server's text that are searched when its beginning is shown: a body of many megabytes must not cost
seconds after the deadline."""
ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})|\\(/)")
"""Escapes of JSON behind which a key would not be recognised."""
KEY_LIKE = re.compile(r"(?=.*[0-9])(?=.*[A-Za-z])[A-Za-z0-9_-]{20,}")
"""A segment of a path that may be a key."""
KEY_NAME = re.compile(r"key|auth|token|secret|pass|cookie|sig", re.IGNORECASE)
"""Names of headers and of query parameters whose values are keys."""
ASIDE = ("extra_headers", "extra_query")
"""Parameters of a request that go beside its body and may carry keys: never written down."""


class Masker:
    """Replaces the secrets of one endpoint in texts: its key, and user, password and query of its address."""

    def __init__(self, *secrets: str | None, address: str | None = None) -> None:
        self._secrets, self._address = secrets, address
        sure = [*filter(None, secrets), *_keys_of(address or "")]
        anywhere = [*sure, *_further_of(address or "")]
        forms = {form for secret in anywhere if secret.strip() for form in _forms(secret.strip())}
        words = {form for secret in sure if secret.strip() for form in _forms(secret.strip()) if len(form) >= SHORT}
        self._longest = max(map(len, forms), default=0)
        self._anywhere, self._in_words = _pattern(forms), _pattern(words)

    def also(self, request: Mapping[str, Any]) -> Masker:
        """A masker that knows the keys in a request's own headers and query, too."""
        values = [
            value
            for part in (request.get(name) for name in ASIDE)
            if isinstance(part, Mapping)
            for name, value in part.items()
            if isinstance(value, str) and KEY_NAME.search(str(name))
        ]
        # `Bearer KEY` may be echoed as KEY.
        more = [*values, *(value.rpartition(" ")[2] for value in values)]
        return Masker(*self._secrets, *more, address=self._address) if more else self

    def __call__(self, text: str) -> str:
        """`text` with every secret replaced, and with JSON's escapes of single characters resolved."""
        text = _resolved(text).encode("utf-8", "replace").decode()
        return self._anywhere.sub(MASK, text) if self._anywhere else text

    def excerpt(self, text: str) -> str:
        """The beginning of a long text. Masked before it is cut, or half a key would stay."""
        shown = self(text[:LOOKED_AT])
        if len(text) > LOOKED_AT:  # half a key or half an escape may stand at the end
            shown = shown[: -self._longest - len(r"\u0000")]
        return shown[:LONGEST]

    def words(self, text: str) -> str:
        """A model's words, which go into records and caches: as they are but for keys that a server put in. Short
        keys (`none`, `EMPTY`), which are words themselves, and names of users stay."""
        if self._in_words is None:
            return text
        resolved = _resolved(text)
        if self._in_words.search(resolved) and not self._in_words.search(text):
            text = resolved  # hidden behind escapes, as in the JSON text of a call's arguments
        return self._in_words.sub(MASK, text)


def _pattern(forms: Iterable[str]) -> re.Pattern[str] | None:
    alternatives = [
        re.escape(form) if len(form) >= SHORT else rf"(?<!\w){re.escape(form)}(?!\w)"
        for form in sorted(forms, key=len, reverse=True)
    ]
    return re.compile("|".join(alternatives), re.IGNORECASE) if alternatives else None


def _resolved(text: str) -> str:
    """`text` with JSON's escapes of single characters resolved."""
    return ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else found[2], text)


def shown_address(address: str) -> str:
    """An address without user, password and query, and without segments of its path that look like keys."""
    try:
        parts = urlsplit(address)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "an address that is no URL"
    path = "/".join(MASK if KEY_LIKE.fullmatch(segment) else segment for segment in parts.path.split("/"))
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{'' if port is None else f':{port}'}{path}"


def _keys_of(address: str) -> Iterator[str]:
    """What is a key in an address: its password, values of the query that are named so, segments of the path that
    look like keys, and a user without a password."""
    try:
        parts = urlsplit(address)
        user, password = parts.username or "", parts.password or ""
    except ValueError:
        return
    yield from (password or user, unquote(password or user))
    if user or password:
        pair = f"{unquote(user)}:{unquote(password)}"
        yield pair
        yield base64.b64encode(pair.encode()).decode()
    yield from (value for name, value in parse_qsl(parts.query) if KEY_NAME.search(name))
    yield from filter(KEY_LIKE.fullmatch, parts.path.split("/"))


def _further_of(address: str) -> Iterator[str]:
    """What else of an address messages leave out: the user beside a password, and the rest of the query."""
    try:
        parts = urlsplit(address)
        user = parts.username or ""
    except ValueError:
        return
    yield user
    yield unquote(user)
    yield from (value for _, value in parse_qsl(parts.query))


def _forms(secret: str) -> Iterable[str]:
    """A secret as it may appear in JSON, in Python's notation and in an address."""
    written = json.dumps(secret, ensure_ascii=False)[1:-1]
    return {secret, written, repr(secret)[1:-1], quote(secret, safe=""), quote_plus(secret)}
