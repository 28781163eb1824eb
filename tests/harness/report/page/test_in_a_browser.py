"""The report page in a real browser: clicks, keys, links, both themes, a narrow window, and not a single request."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Browser, browser, missing
from table_records import small_experiment

from harness.core.records import write_rows
from harness.report.page.article import article_from
from harness.report.page.serve import page_server
from harness.report.page.trajectories import of_record
from harness.report.page.write import page
from harness.runs.steps import step_summary
from harness.tables.table import build

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing() or "there is one")]
METHODS = ["Plain", "Tokens", "Teacher"]
SECTION = "small-trajectories"


def episodes(groups: int, siblings: int, tokens: int, seed: int = 0) -> list[dict[str, Any]]:
    """Siblings that share their first half; every second group is solved by its even siblings, the others by none."""
    rng = np.random.default_rng(seed)
    rows = []
    for group in range(groups):
        for sibling in range(siblings):
            own = rng.standard_normal((len(METHODS), tokens)).round(6)
            rows.append(
                {
                    "group": group,
                    "task_id": f"{'add' if group % 3 else 'multiply'}/{group}",
                    "sibling": sibling,
                    "success": group % 2 == 0 and sibling % 2 == 0,
                    "reward": float(group % 2 == 0 and sibling % 2 == 0),
                    "ending": "token_limit" if group % 5 == 4 else "completed",
                    "before": [[["user", f"question {group}"]], [["tool", "go on"]]],
                    "after": [["tool", "done"]],
                    "tokens": [f"w{n}" if n < tokens // 2 else f"w{n}.{sibling}" for n in range(tokens)],
                    "turns": [0] * (tokens // 2) + [1] * (tokens - tokens // 2),
                    "logprobs": [-0.5] * tokens,
                    "credit": dict(zip(METHODS, own.tolist(), strict=True)),
                    "gap": {"Teacher": own[0].tolist()},
                    "weight": {name: {"advantages": [1.0] * tokens} for name in METHODS},
                    "truth": own[1].tolist(),
                    "error": [0.1] * tokens,
                }
            )
    return rows


def written(folder: Path, rows: list[dict[str, Any]]) -> Path:
    record = folder / "trajectories.jsonl.gz"
    methods = [{"name": name, "context": None} for name in METHODS]
    write_rows(record, rows, "trajectories", facts={"environment": "x", "rolls": 4}, methods=methods)
    records = small_experiment()
    points = [
        {"method": method, "seed": seed, "step": step, "sampled": 0.1 * step, "greedy": 0.5}
        for method in ("GRPO", "Other")
        for seed in (0, 1, 2)
        for step in (0, 5)
    ]
    summary = step_summary([("GRPO", [{"step": n, "success": 0.1 * n, "gradient_norm": 1.0} for n in range(5)])])
    made = article_from("small", "A small one", build(records.runs, records.rows), points, summary)
    file = folder / "report.html"
    file.write_text(page([type(made)(**vars(made) | {"trajectories": of_record(record)})], "Small"))
    return file


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("page"), episodes(20, 4, 12))


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


def opened(window: Browser, url: str) -> None:
    """The page with its viewer drawn, in the system's theme, and nothing written or asked so far."""
    window.open(url)
    window.run("localStorage.clear()")
    window.open("about:blank")
    window.log("browser")
    window.requests()
    window.open(url)
    window.run(f"document.getElementById('{SECTION}').scrollIntoView({{behavior: 'instant'}})")
    drawn(window)


def drawn(window: Browser) -> None:
    """Wait until tokens are there."""
    window.run(
        "return new Promise(done => { const look = () => document.querySelector('.shown .t') "
        "? requestAnimationFrame(() => done(true)) : setTimeout(look, 20); look(); })"
    )


def texts(window: Browser, selector: str) -> list[str]:
    return list(window.run("return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)", selector))


def settled(window: Browser, script: str) -> None:
    """Wait until a condition holds."""
    window.run(
        f"return new Promise(done => {{ const look = () => ({script}) ? done(true) : setTimeout(look, 20); look(); }})"
    )


def state(window: Browser) -> str:
    return str(window.run("return location.hash"))


def test_it_says_nothing_to_the_console_and_asks_for_nothing(window: Browser, file: Path) -> None:
    opened(window, file.as_uri())
    window.click(".t")
    window.click("#theme")
    settled(window, "document.querySelector('.details table')")
    assert window.log("browser") == []
    assert [url for url in window.requests() if not url.startswith("data:")] == [file.as_uri()]


def test_filters_choose_groups(window: Browser, file: Path) -> None:
    opened(window, file.as_uri())
    assert len(texts(window, ".groups button")) == 20

    def choose(name: str, value: str) -> int:
        window.run(
            "const field = document.querySelector(`.filters [name=${arguments[0]}]`); field.value = arguments[1]; "
            "field.dispatchEvent(new Event('input', {bubbles: true}))", name, value,
        )  # fmt: skip
        return len(texts(window, ".groups button"))

    # 10 even groups are mixed, 10 odd ones are not solved; every third is named "multiply": 0, 3, ... 18 are 7 of them.
    assert choose("outcome", "mixed") == 10
    assert choose("outcome", "all") == 0
    assert choose("outcome", "") == 20
    assert choose("task", "MULTI") == 7
    assert choose("task", "") == 20
    assert choose("ending", "token_limit") == 4


def test_every_token_tells_every_methods_credit(window: Browser, file: Path) -> None:
    opened(window, file.as_uri() + f"#{SECTION}/0/1/3/1")
    settled(window, "document.querySelector('.details table')")
    row = next(row for row in episodes(20, 4, 12) if (row["group"], row["sibling"]) == (0, 1))
    shown = window.run(
        "return [...document.querySelectorAll('.details tbody tr')].map(r => [...r.cells].map(c => c.textContent))"
    )
    assert [cells[0] for cells in shown] == METHODS
    for name, *cells in shown:
        assert float(cells[0]) == pytest.approx(row["credit"][name][3], rel=6e-3)
    chosen = window.run("return document.querySelector('.t[aria-pressed=true]').dataset.s")
    assert chosen == "1"
    assert "truly worth" in texts(window, ".details .lead")[0]
    # The first half is common to all siblings: the parting stands before token 6 of each.
    forks = window.run("return [...document.querySelectorAll('.fork')].map(f => f.nextSibling.dataset.place)")
    assert forks == ["6"] * 4


def test_colours_follow_the_sign(window: Browser, file: Path) -> None:
    opened(window, file.as_uri() + f"#{SECTION}/0/0/0/0")
    credit = next(iter(episodes(20, 4, 12)))["credit"]["Plain"]
    colours = window.run(
        "return [...document.querySelector('.card').querySelectorAll('.t')].map(t => t.style.backgroundColor)"
    )
    for value, colour in zip(credit, colours, strict=True):
        assert ("--up" if value > 0 else "--down") in colour


def test_keys_walk_tokens_siblings_groups_and_methods(window: Browser, file: Path) -> None:
    opened(window, file.as_uri() + f"#{SECTION}/0/0/0/0")
    window.run("document.querySelector('.t').focus()")
    window.type("right", "right")
    assert state(window) == f"#{SECTION}/0/0/2/0"
    window.type("down")
    assert state(window) == f"#{SECTION}/0/1/2/0"
    window.type("left")
    assert state(window) == f"#{SECTION}/0/1/1/0"
    window.type("\ue00c")  # Escape
    assert state(window) == f"#{SECTION}/0/1/-1/0"
    assert texts(window, ".details *") == []
    window.type("m")
    settled(window, "location.hash.endsWith('/1')")
    window.type("j")
    settled(window, f"location.hash.startsWith('#{SECTION}/1/')")
    window.type("k")
    settled(window, f"location.hash.startsWith('#{SECTION}/0/')")


def test_one_sibling_under_every_method(window: Browser, file: Path) -> None:
    opened(window, file.as_uri() + f"#{SECTION}/0/2/3/0")
    window.run(
        "const view = document.querySelector('[name=view]'); view.value = 'methods'; "
        "view.dispatchEvent(new Event('change'))"
    )
    settled(window, "document.querySelector('.shown.methods')")
    titles = [text for text in texts(window, ".card h4") if text]
    assert [title.startswith(name) for title, name in zip(titles, METHODS, strict=True)] == [True] * 3


def test_the_one_click_to_why_opens_a_group_with_both_outcomes(window: Browser, file: Path) -> None:
    opened(window, file.as_uri())
    window.click(".why")
    drawn(window)
    assert {"✓ solved", "✗ not solved"} <= set(texts(window, ".card h4 span"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_window_needs_no_sideways_scrolling(window: Browser, file: Path, scheme: str) -> None:
    window.scheme(scheme)
    window.resize(400, 900)
    opened(window, file.as_uri())
    assert window.run("return document.documentElement.scrollWidth <= innerWidth")
    window.resize(1280, 900)
    ground = window.run("return getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(20, 23, 26)") == (scheme == "dark")


def test_the_theme_button_turns_it(window: Browser, file: Path) -> None:
    window.scheme("light")
    opened(window, file.as_uri())
    before = window.run("return getComputedStyle(document.body).backgroundColor")
    window.click("#theme")
    assert window.run("return getComputedStyle(document.body).backgroundColor") != before


def test_on_the_loopback_too(window: Browser, file: Path) -> None:
    with page_server(file) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}/"
        opened(window, url)
        assert [asked for asked in window.requests() if not asked.startswith("data:")] == [url]
        assert window.log("browser") == []
        server.shutdown()
        thread.join()


def test_two_thousand_episodes_fit(window: Browser, tmp_path: Path) -> None:
    """250 groups of 8, 60 tokens, three methods; `python -m pytest -s` prints how long it took to open."""
    file = written(tmp_path, episodes(250, 8, 60))
    assert file.stat().st_size < 15e6
    opened(window, file.as_uri())
    assert len(texts(window, ".groups button")) == 250
    took = window.run("return performance.getEntriesByType('navigation')[0].domComplete")
    print(f"{file.stat().st_size / 1e6:.1f} MB, complete after {took:.0f} ms")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(window: Browser, file: Path, scheme: str, tmp_path: Path) -> None:
    """The checks of axe-core (npm); without npm, or without its registry, this says so and checks nothing."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed: axe-core cannot be had")
    done = subprocess.run(
        ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(tmp_path), "axe-core@4"],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    source = tmp_path / "node_modules" / "axe-core" / "axe.min.js"
    if not source.is_file():
        pytest.skip(f"axe-core could not be installed: {done.stderr.strip()[-200:]}")
    window.scheme(scheme)
    opened(window, file.as_uri() + f"#{SECTION}/0/1/3/1")
    window.run("for (const d of document.querySelectorAll('details')) d.open = true")
    window.run(source.read_text(encoding="utf-8"))
    found = window.run("return axe.run(document).then(r => r.violations.map(v => [v.impact, v.id, v.nodes[0].html]))")
    assert [entry for entry in found if entry[0] in ("serious", "critical")] == []
