"""The guide to adding a method: its code is run as it stands there, checked, and trained in one table beside GRPO."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from guides import DOCS, commands, done, refused, written

from harness.losses import pack, streams
from harness.types import TokenSequence

GUIDE = "adding-a-method.md"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    assert written(GUIDE, tmp_path) == ["my_method.py", "quick.toml", "my_taught.py"]
    return tmp_path


def test_the_guides_methods_keep_the_contract(folder: Path) -> None:
    checks = [command for command in commands(GUIDE) if command.startswith("harness check-method")]
    assert len(checks) == 3
    for command in checks:
        assert "keeps the contract" in done(folder, command)


def test_a_broken_one_is_told_what_is_wrong(folder: Path) -> None:
    file = folder / "my_method.py"
    file.write_text(
        file.read_text().replace("np.where(sequence.mask, advantage * weights, 0.0)", "advantage * weights")
    )
    assert "mask" in refused(folder, "harness check-method my_method:Mine")
    assert "did you mean 'my_method:Mine'" in refused(folder, "harness check-method my_method:Mein")


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        ('{"discout": 0.5}', "did you mean 'discount'"),
        ('{"discount": "0.5"}', "should be a valid number"),
        ('{"discount": 2.0}', "discount must be in (0, 1], got 2.0"),
    ],
)
def test_a_wrong_option_is_refused(folder: Path, options: str, answer: str) -> None:
    assert answer in refused(folder, f"harness check-method my_method:Mine --options '{options}'")


@pytest.mark.slow
def test_it_stands_in_a_table_beside_grpo(folder: Path) -> None:
    bench, compare = [command for command in commands(GUIDE) if not command.startswith("harness check")]
    done(folder, bench)
    table = (folder / "table.md").read_text()
    assert "Late-turn GRPO" in table
    assert "advantage times 0.9 for each later turn" in table
    assert "nothing was discounted" not in table
    assert "my_method:Mine" in done(folder, compare)
    table = next(folder.glob("runs/comparisons/*/table.md")).read_text()
    assert "my_method:Mine" in table
    assert "grpo" in table


def test_its_verdict_counts() -> None:
    """A run in which no episode had a second turn is not this method."""
    names: dict[str, object] = {"__name__": "my_method"}
    text = (DOCS / GUIDE).read_text()
    exec(compile(re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0], GUIDE, "exec", dont_inherit=True), names)
    method = names["Mine"]()  # type: ignore[operator]
    assert method.verdict([{"most_turns": 1.0}] * 2).startswith("invalid")
    assert method.verdict([{"most_turns": 1.0}, {"most_turns": 2.0}]) is None
    assert method.verdict([]) is None


def test_its_stream_is_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "STREAMS", streams.STREAMS)  # put back what the guide's code declares
    block = next(
        block
        for block in re.findall(r"```python\n(.*?)```", (DOCS / GUIDE).read_text(), re.DOTALL)
        if "streams.TokenStream" in block
    )
    names: dict[str, object] = {}
    exec(compile(block, GUIDE, "exec", dont_inherit=True), names)
    mask = np.array([False, True, True])
    sequence = TokenSequence(np.arange(3), mask, np.where(mask, -1.0, 0.0), np.zeros(3, dtype=np.int64))
    batch = pack([sequence], [names["credit"](sequence)])  # type: ignore[operator]
    assert batch.streams["square"].tolist() == [[0.1, 0.1]]
