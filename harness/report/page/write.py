"""The file of a report page: articles in, one HTML file out, with nothing to load."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from markupsafe import Markup

from harness.core.errors import MissingDataError
from harness.core.fingerprint import slug
from harness.core.records import write_whole
from harness.report import fidelity_files, folder
from harness.report.files import REPORT
from harness.report.html import environment
from harness.report.page.article import Article, article_of
from harness.tables.published import Entry


def write_page(
    places: Sequence[Path],
    out: Path | None = None,
    runs: Path | None = None,
    recorded: dict[Path, Path] | None = None,
    entries: Sequence[Entry] = (),
) -> tuple[Path, list[Article]]:
    """Write the page of all results folders at or below `places`; returns its path and what it says.

    out: the file (default: report.html in the folder that holds them all). runs: where runs are kept, for what the
    folders lack. recorded: by results folder, the folder whose table it repeats. entries: the papers' figures.
    MissingDataError where no folder holds records.
    """
    held = results_folders(places)
    articles = [
        article_of(place, ident, runs, (recorded or {}).get(place), entries)
        for place, ident in zip(held, _idents(held), strict=True)
    ]
    top = held[0] if len(held) == 1 else Path(os.path.commonpath([place.resolve() for place in held]))
    file = out or top / REPORT
    write_whole(file, page(articles, articles[0].title if len(held) == 1 else f"Results: {top.name}"))
    return file, articles


def results_folders(places: Sequence[Path]) -> list[Path]:
    """Every results folder at or below these places, each once. MissingDataError where there is none."""
    found: dict[Path, None] = {}
    for place in places:
        found |= dict.fromkeys(_below(place))
    if not found:
        raise MissingDataError(
            f"no records below {', '.join(map(str, places))}; run an experiment with: harness bench SPEC"
        )
    return list(found)


def _idents(held: Sequence[Path]) -> list[str]:
    """Names for links: the folders' own, with a number where two have one."""
    found: list[str] = []
    for place in held:
        name = slug(place.resolve().name)
        taken = sum(known == name or known.startswith(f"{name}.") for known in found)
        found.append(f"{name}.{taken + 1}" if taken else name)
    return found


def _below(place: Path) -> Iterator[Path]:
    """An experiment's own measurement of fidelity is a part of its article, not another one."""
    if (place / folder.RUNS).is_file() or (place / fidelity_files.FACTS).is_file():
        yield place
        return
    for file in sorted([*place.rglob(folder.RUNS), *place.rglob(fidelity_files.FACTS)]):
        if file.name == folder.RUNS or not (file.parent.parent / folder.RUNS).is_file():
            yield file.parent


def page(articles: Sequence[Article], title: str) -> str:
    """The whole file: the same articles give the same bytes."""
    script = _asset("page.js")
    payloads = {a.ident: _json(a.trajectories.payload()) for a in articles if a.trajectories}
    return (
        environment()
        .get_template("page/page.html.j2")
        .render(
            articles=articles,
            title=title,
            style=Markup(_asset("page.css")),
            script=Markup(script),
            script_hash=Markup(base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()),
            payloads=payloads,
        )
    )


def _json(value: Any) -> Markup:
    """JSON that may stand within a script element: no tag can end it."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


@cache
def _asset(name: str) -> str:
    return (resources.files("harness.report") / "templates" / "page" / name).read_text(encoding="utf-8")
