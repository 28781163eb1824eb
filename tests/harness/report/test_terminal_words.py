"""What a terminal is sent of others' words: shown, and never obeyed."""

from __future__ import annotations

import io
import itertools
import re
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text
from test_escaping import HOSTILE, hostile_table

from harness.cli import play, screen
from harness.core.episodes import write_episodes
from harness.core.types import Ending, Episode, TokenSequence
from harness.core.words import lines, shown
from harness.evaluation.evaluate import Evaluated
from harness.report.delimited import csv_text
from harness.report.evaluation import print_evaluated
from harness.report.terminal import terminal

MORE = [
    "[/red]",
    "[bold]big[/bold]",
    "[link=https://example.org]here[/link]",
    "\\[",
    "tail\\",
    "\ud800",
    "a\r\x1b[1A",
    "",
]
WORDS = st.sampled_from([*HOSTILE, *MORE]) | st.text(max_size=30) | st.text("[]/\\\x1b\u202e\nbr", max_size=12)
OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def sheet() -> Console:
    """A terminal of no colours: what it is sent is words alone."""
    return Console(file=io.StringIO(), width=200, color_system=None, force_terminal=False)


def sent(console: Console) -> str:
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def summary_of(text: str) -> dict[str, Any]:
    """An evaluation's summary with the text in every place that an environment or a policy fills."""
    row = {"task": text, "succeeded": 1, "finished": 2, "reward": 0.5, "doing_nothing": None, "turns": 1.0}
    return {
        "heading": text,
        "policy": text,
        "tasks": [row | {"endings": text, "episodes": [0, 1]}],
        "success": 0.5,
        "doing_nothing": None,
        "pass_hat": {"1": 0.5},
        "metrics": {text: 0.5},
        "episodes": 2,
        "lost": 1,
        "environment": {text: text, f"{text}1": {text: {text: text}}, f"{text}2": {text: text}},
        "used": {"model_calls": 2.0},
    }


@given(text=WORDS)
@settings(max_examples=60, deadline=None)
def test_no_word_of_an_evaluation_is_obeyed(text: str) -> None:
    console = sheet()
    done = Evaluated(Path("runs") / "e.jsonl", summary_of(text), {"calls": 1.0}, 1, text)
    print_evaluated(done, text, console)
    assert not OBEYED.search(sent(console))


@given(text=WORDS)
@settings(max_examples=15, deadline=None)
def test_no_word_of_a_table_is_obeyed(text: str) -> None:
    console, table = sheet(), hostile_table(text or "x")
    terminal(table, console)
    assert not OBEYED.search(sent(console))
    assert not OBEYED.search(csv_text(table))


@given(text=WORDS)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_word_of_an_episode_is_obeyed(text: str, tmp_path: Path) -> None:
    said = text.encode("utf-8", "replace").decode()  # a record holds text of whole characters
    messages = ({"role": said, "content": said}, {"role": "assistant", "content": said})
    nothing = TokenSequence(*(np.zeros(0, dtype=kind) for kind in (np.int64, bool, np.float64, np.int64)))
    episode = Episode(said, nothing, 1.0, True, Ending.COMPLETED, messages)
    write_episodes(tmp_path / "e.jsonl.gz", [episode])
    console = sheet()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(play, "console", console)
        play.show(tmp_path / "e.jsonl.gz", 0)
    assert not OBEYED.search(sent(console))


@given(text=st.text() | WORDS)
@settings(deadline=None)
def test_words_stand_as_they_are_between_markup(text: str) -> None:
    console = sheet()
    console.print(f"[red]{shown(text)}[/red]!", highlight=False, soft_wrap=True)
    assert not OBEYED.search(sent(console))
    visible = "".join(c for c in text if c.isprintable())
    # What rich makes of ":name:" and of a bare "\\[" is a matter of looks.
    if visible == text and text.strip() == text and ":" not in text and "\\[" not in text:
        assert sent(console) == f"{text}!\n"
    assert not OBEYED.search(lines(text))
    assert lines(text).count("\n") == text.count("\n")
    assert all(unicodedata.category(c) != "Cc" or c in "\n\t" for c in lines(text))


def test_a_line_of_a_command_takes_words_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    console = sheet()
    monkeypatch.setattr(screen, "console", console)
    screen.line(f"[bold]{shown('a [red]b')}[/bold]")
    assert sent(console) == "a [red]b\n"


@pytest.mark.parametrize("after", ["", " 0]", "]", "/b]x", "[green]x[/green]"])
def test_words_stand_as_they_are_whatever_follows(after: str) -> None:
    plain = Text.from_markup(after).plain
    for letters in itertools.product("[]/ab\\#", repeat=4):
        words = "".join(letters)
        assert Text.from_markup(shown(words) + after).plain == words + plain, words
