"""The report page: self-contained, whole, navigable, and safe from what records say."""

from __future__ import annotations

import base64
import gzip
import hashlib
import itertools
import json
import re
import threading
import urllib.error
import urllib.request
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_records import small_experiment

from harness.core.errors import MissingDataError
from harness.core.records import write_rows
from harness.report.page.article import Article, article_from
from harness.report.page.charts import Line, Scale, nice_ticks, panel, strip
from harness.report.page.diagnostics import glance, name_of
from harness.report.page.serve import page_server
from harness.report.page.trajectories import of_record
from harness.report.page.write import page, results_folders, write_page
from harness.runs.steps import step_summary
from harness.tables.table import build

VOID = {"meta", "link", "input", "br", "hr"}
DRAWN = {"path", "line", "rect", "circle"}


class Outline(HTMLParser):
    """Tags, ids, references and text of a page; complains about a tag that is not closed."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        (self.scripts if self.open and self.open[-1] == "script" else self.text).append(data)


def outline(html: str) -> Outline:
    parser = Outline()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    return parser


POINTS = [
    {"method": method, "seed": seed, "step": step, "sampled": 0.1 * step + 0.1 * seed, "greedy": 0.5}
    for method in ("GRPO", "Other")
    for seed in (0, 1, 2)
    for step in (0, 5)
]
STEPS = step_summary(
    [
        (method, [{"step": n, "success": 0.5, "gradient/a": 3.0, "gradient/b": 1.0} for n in range(3)])
        for method in ("GRPO", "Other")
    ]
)
ROWS = [
    {
        "group": 0, "task_id": task, "sibling": sibling, "success": sibling == 0, "ending": "completed", "reward": 1.0,
        "before": [[["user", "</script><b>2 + 2?"]], [["tool", "try again"]]], "after": [], "tokens": ["4", " ", "\n"],
        "turns": [0, 0, 1], "logprobs": [-0.1, -0.2, -0.3], "credit": {"Mine": [1.23456, -0.5, 0.0]},
        "gap": {"Mine": [0.1, 0.2, float("nan")]}, "weight": {"Mine": {"advantages": [1.0, 1.0, 1.0]}},
    }
    for task in ("first", "second")
    for sibling in (0, 1)
]  # fmt: skip


def recorded(folder: Path) -> Path:
    file = folder / "trajectories.jsonl.gz"
    methods = [{"name": "Mine", "context": None, "kind": "whole loss"}]
    write_rows(file, ROWS, "trajectories", facts={"environment": "x", "seed": 0}, methods=methods)
    return file


@pytest.fixture
def article(tmp_path: Path) -> Article:
    records = small_experiment()
    made = article_from("small", "A small one", build(records.runs, records.rows), POINTS, STEPS)
    return replace(made, trajectories=of_record(recorded(tmp_path)))


def test_a_page_has_everything_in_it_and_asks_for_nothing(article: Article) -> None:
    html = page([article], "Small")
    found = outline(html)
    for tag, attributes in found.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, name, value)
    assert not re.search(r"@import|url\(|https?://|\bfetch\(|XMLHttpRequest|import\(", html)
    policy = next(a["content"] for _, a in found.tags if a.get("http-equiv") == "Content-Security-Policy")
    own = found.scripts[-1]
    digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
    assert policy is not None
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy
    assert not [a for _, a in found.tags if any(name.startswith("on") for name in a)]


def test_a_page_can_be_walked_without_seeing_it(article: Article) -> None:
    found = outline(page([article], "Small"))
    ids = [a["id"] for _, a in found.tags if a.get("id")]
    assert len(ids) == len(set(ids))
    for tag, attributes in found.tags:
        for name in ("aria-labelledby", "aria-describedby", "for"):
            for target in (attributes.get(name) or "").split():
                assert target in ids, (tag, target)
        if (attributes.get("href") or "").startswith("#"):
            assert str(attributes["href"])[1:] in ids, attributes["href"]
    names = [tag for tag, _ in found.tags]
    assert names.count("main") == names.count("h1") == 1
    assert {"nav", "header", "article", "section"} <= set(names)
    assert all(a.get("scope") in ("col", "row") for tag, a in found.tags if tag == "th")
    levels = [int(tag[1]) for tag, _ in found.tags if re.fullmatch("h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    charts = [a for tag, a in found.tags if tag == "svg" and a.get("role")]
    assert charts
    assert all(a["role"] == "img" and a.get("aria-labelledby") for a in charts)
    first = next(a for tag, a in found.tags if tag == "a")
    assert first["href"] == "#main"


def test_all_parts_are_there_and_those_without_data_say_why(article: Article) -> None:
    said = " ".join(outline(page([article], "Small")).text)
    for part in ("Differences", "Learning curves", "Trajectories", "Cost", "Diagnostics", "Tables", "Left out"):
        assert part in article.sections.values()
    assert article.decision
    assert article.decision.headline in said
    bare = replace(article, trajectories=None, glance=None, diagnostics=(), no_diagnostics="none was kept")
    said = " ".join(outline(page([bare], "Small")).text)
    assert "none was kept" in said
    assert bare.no_trajectories in said


@pytest.mark.parametrize("text", ['<img src=x onerror="alert(1)">', "</script><script>alert(1)</script>", "\u202eevil"])
def test_text_of_records_makes_no_markup(text: str, tmp_path: Path) -> None:
    records = small_experiment()
    runs = [run.model_copy(update={"method": text}) if run.method == "Other" else run for run in records.runs]
    rows = [row.model_copy(update={"method": text}) if row.method == "Other" else row for row in records.rows]
    points = [point | {"method": text} if point["method"] == "Other" else point for point in POINTS]
    summary = [row | {"method": text} for row in STEPS]
    made = article_from("a", text, build(runs, rows), points, summary)
    made = replace(made, trajectories=of_record(recorded(tmp_path)), excluded=(text,), provenance=((text, text),))
    found = outline(page([made], text))
    assert "img" not in [tag for tag, _ in found.tags]
    assert len([tag for tag, _ in found.tags if tag == "script"]) == 2
    assert "\u202e" not in "".join(found.text)
    assert [a for _, a in found.tags if any(name.startswith("on") for name in a)] == []


def test_the_same_articles_give_the_same_bytes(article: Article) -> None:
    assert page([article], "Small") == page([article], "Small")


def test_trajectories_come_back_as_they_were_recorded(article: Article) -> None:
    found = outline(page([article], "Small"))
    data = json.loads(found.scripts[0])
    assert [entry["task"] for entry in data["index"]] == ["first", "second"]
    assert data["index"][0] == {"task": "first", "won": [1, 0], "ends": ["completed", "completed"]}
    group = json.loads(gzip.decompress(base64.b64decode(data["groups"][1])))
    assert group["task"] == "second"
    sibling = group["siblings"][0]
    assert sibling["tokens"] == ["4", " ", "\n"]
    assert sibling["before"][0] == [["user", "</script><b>2 + 2?"]]
    assert sibling["credit"]["Mine"] == [1.23, -0.5, 0]  # three digits
    assert sibling["gap"]["Mine"][2] is None


def test_a_folder_without_records_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="harness bench"):
        results_folders([tmp_path])
    with pytest.raises(MissingDataError):
        write_page([tmp_path])


# ---------------------------------------------------------------- charts


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_round_and_within(low: float, width: float) -> None:
    high = low + width
    ticks = nice_ticks(low, high)
    room = 1e-6 * max(abs(low), abs(high), width)
    assert all(low - room <= tick <= high + room for tick in ticks)
    assert len(ticks) <= 6


def test_ticks_by_hand() -> None:
    # 0 to 1 in about 4: raw 0.25, the next of 0.1, 0.2, 0.5 is 0.5.
    assert nice_ticks(0.0, 1.0) == [0, 0.5, 1]
    assert nice_ticks(2.0, 2.0) == [2]


@given(st.floats(-10, 10), st.floats(-10, 10), st.floats(-20, 20))
def test_a_scale_keeps_order_and_ends(low: float, width: float, value: float) -> None:
    scale = Scale(low, low + abs(width))
    assert 0 <= scale.at(value) <= 100
    assert scale.at(value) <= scale.at(value + 1)


def test_what_lies_beyond_the_scale_is_an_arrow() -> None:
    scale = Scale(-0.1, 0.1)
    inside = strip(0.0, -0.05, 0.05, scale, "worse", "i", "t", "d")
    outside = strip(-0.7, -0.8, -0.6, scale, "worse", "i", "t", "d")
    assert "M0 6L6 -5L-6 -5Z" in inside
    assert "M-2 0L8 -6V6Z" in outside


def test_a_panel_draws_every_point_within_its_frame() -> None:
    drawn = panel(
        [Line([0.0, 5.0, 10.0], [0.0, 0.5, 1.0], [0.0, 0.4, 0.9], [0.1, 0.6, 1.0])], "i", "t", "d", (0.0, 1.0)
    )
    line = re.search(r'class="line own" d="M([^"]+)"', drawn)
    assert line
    places = [tuple(map(float, place.split())) for place in line[1].split("L")]
    # 260 x 150 with margins 38 left, 8 right and above, 22 below.
    assert places == [(38.0, 128.0), (145.0, 68.0), (252.0, 8.0)]


# ---------------------------------------------------------------- diagnostics


def test_gradient_shares_are_of_all_terms() -> None:
    grid = glance(STEPS)
    assert grid.header[-2:] == ("Gradient share, a", "Gradient share, b")
    assert grid.rows[0][-2:] == ("0.75", "0.25")


def test_numbers_without_a_meaning_keep_their_name() -> None:
    assert name_of("method/own_thing") == "Own thing"
    assert name_of("gradient/anchor") == "Gradient of anchor"


# ---------------------------------------------------------------- on the loopback


def asked(url: str, **headers: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, b""


def test_the_loopback_has_the_page_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text("<p>here</p>")
    (tmp_path / "secret.txt").write_text("no")
    with page_server(file) as server:
        assert server.server_address[0] == "127.0.0.1"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        base = f"http://127.0.0.1:{server.server_address[1]}"
        assert asked(f"{base}/") == (200, b"<p>here</p>")
        assert asked(f"{base}/report.html?x")[0] == 200
        assert asked(f"{base}/secret.txt")[0] == 404
        assert asked(f"{base}/../secret.txt")[0] == 404
        assert asked(f"{base}/", Host="evil.example:80")[0] == 403
        server.shutdown()
        thread.join()
    with pytest.raises(MissingDataError):
        page_server(tmp_path / "none.html")


def test_a_summary_is_the_seeds_mean_and_range() -> None:
    logs: list[tuple[str, list[dict[str, Any]]]] = [
        ("A", [{"step": 0, "x": 1.0, "y": None}, {"step": 1, "x": 2.0}]),
        ("A", [{"step": 0, "x": 4.0, "note": "text"}]),
        ("B", [{"step": 0, "z": 1.0}]),
    ]
    first, second, third = step_summary(logs)
    # (1 + 4) / 2; what is no number is left out; step 1 has one seed.
    assert first == {"method": "A", "step": 0, "seeds": 2, "mean": {"x": 2.5}, "low": {"x": 1.0}, "high": {"x": 4.0}}
    assert second == {"method": "A", "step": 1, "seeds": 1, "mean": {"x": 2.0}, "low": {"x": 2.0}, "high": {"x": 2.0}}
    assert third["method"] == "B"


def test_a_long_run_keeps_its_first_and_last_step() -> None:
    summary = step_summary([("A", [{"step": n, "x": 0.0} for n in range(1000)])])
    steps = [row["step"] for row in summary]
    assert (steps[0], steps[-1], len(steps)) == (0, 999, 120)
    assert steps == sorted(set(steps))
