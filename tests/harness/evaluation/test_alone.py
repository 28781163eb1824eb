"""Of two commands that play the same episodes one waits, and says so."""

from __future__ import annotations

import threading
from pathlib import Path

from harness.core.locks import locked
from harness.evaluation.evaluate import alone


def test_the_second_waits_and_says_so(tmp_path: Path) -> None:
    lock, said, order = tmp_path / "episodes.lock", threading.Event(), []
    words: list[str] = []

    def message(text: str) -> None:
        words.append(text)
        said.set()

    def second() -> None:
        with alone(lock, message):
            order.append("second")

    with locked(lock):
        thread = threading.Thread(target=second, daemon=True)
        thread.start()
        assert said.wait(60)
        order.append("first")
    thread.join(60)
    assert order == ["first", "second"]
    assert len(words) == 1
    assert "waits" in words[0]


def test_alone_nothing_is_said(tmp_path: Path) -> None:
    words: list[str] = []
    for _ in range(2):
        with alone(tmp_path / "episodes.lock", words.append):
            pass
    assert words == []
