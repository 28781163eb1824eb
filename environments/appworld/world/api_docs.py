"""The API documentation files that the engine reads, made from the installed package."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path


def save_api_docs(apps: Sequence[str], folder: Path) -> None:
    """Write ``standard/<app>.json`` for every app an agent can call.

    The package's own writer also makes two formats that the engine never reads, and needs further packages for them.
    """
    from appworld.api_docs import prepare_api_docs
    from appworld.common.constants import CANARY_STRING

    (folder / "standard").mkdir(parents=True)
    for app in apps:
        if app != "admin":
            docs = {doc["api_name"]: {**doc, "canary_string": CANARY_STRING} for doc in prepare_api_docs(app)}
            (folder / "standard" / f"{app}.json").write_text(json.dumps(docs, indent=1) + "\n", encoding="utf-8")
