"""The hash of sources changes with what they mean, and with nothing else."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from environments.appworld.fingerprint import meaning_hash
from harness import ROOT

SOURCE = '"""What it does."""\n\nLIMIT = 3\n\n\ndef double(x: int) -> int:\n    return 2 * x\n'


def hash_of(folder: Path, text: str, name: str = "a.py") -> str:
    file = folder / "source.py"
    file.write_text(text, encoding="utf-8")
    return meaning_hash([(name, file)])


@pytest.mark.parametrize(
    "same",
    [
        SOURCE.replace("What it does", "Said better"),
        SOURCE.replace('"""What it does."""', "# no docstring at all"),
        SOURCE.replace("    return", '    """Twice."""\n    # why\n    return'),
        SOURCE.replace("2 * x", "(2\n            * x)"),
        SOURCE.replace("LIMIT = 3", "LIMIT = 3  # of them"),
    ],
)
def test_words_and_layout_do_not_count(tmp_path: Path, same: str) -> None:
    assert hash_of(tmp_path, same) == hash_of(tmp_path, SOURCE)


@pytest.mark.parametrize(
    "other",
    [
        SOURCE.replace("3", "4"),
        SOURCE.replace("3", "3.0"),
        SOURCE.replace("3", '"3"'),
        SOURCE.replace("2 * x", "x * 2"),
        SOURCE.replace("double", "twice"),
        SOURCE + "\ntext = '''said'''\n",
    ],
)
def test_what_a_program_does_counts(tmp_path: Path, other: str) -> None:
    assert hash_of(tmp_path, other) != hash_of(tmp_path, SOURCE)


def test_names_count_and_their_order_does_not(tmp_path: Path) -> None:
    assert hash_of(tmp_path, SOURCE) != hash_of(tmp_path, SOURCE, "b.py")
    files = []
    for name, text in (("a.py", "x = 1\n"), ("b.py", "x = 2\n")):
        (tmp_path / name).write_text(text, encoding="utf-8")
        files.append((name, tmp_path / name))
    assert meaning_hash(files) == meaning_hash(files[::-1])


def test_threads_hash_side_by_side() -> None:
    """Environments are made on many threads at once, each of which asks for the engine's version."""
    files = [(file.name, file) for file in (ROOT / "environments" / "appworld" / "inside").glob("*.py")]
    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(lambda _: meaning_hash(files), range(24)))) == 1
