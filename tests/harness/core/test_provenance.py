"""Provenance: the commit is that of this checkout and of no other; nothing personal is said."""

from __future__ import annotations

import getpass
import json
import socket
import subprocess
from pathlib import Path

import numpy as np
import pytest

from harness.core.provenance import ROOT, provenance


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("harness/loop.py", "environments/guess.py", "agents/prompts/guess.md"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    return tmp_path


def test_the_commit_is_that_of_this_checkout(checkout: Path) -> None:
    def git(*words: str) -> str:
        identity = (
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@b",
            "-c",
            "commit.gpgsign=false",
            "-c",
            "core.hooksPath=/dev/null",
        )
        done = subprocess.run(
            ["git", "-C", str(checkout), *identity, *words], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    assert provenance(checkout)["code"]["commit"] is None
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    clean = provenance(checkout)["code"]
    assert clean["commit"] == git("rev-parse", "HEAD")
    assert clean["dirty"] is False
    (checkout / "results").mkdir()
    (checkout / "results/table.md").write_text("a result is no change of the code")
    assert provenance(checkout)["code"]["dirty"] is False
    (checkout / "harness/loop.py").write_text("other")
    assert provenance(checkout)["code"]["dirty"] is True
    assert provenance(checkout / "harness")["code"]["commit"] is None  # inside another project's checkout


def test_it_says_versions_and_machine_and_nothing_of_who_and_where() -> None:
    facts = provenance()
    assert facts["packages"]["numpy"] == np.__version__
    assert facts["machine"]["cores"] >= 1
    assert 0.1 < facts["machine"]["memory_gib"] < 1e5
    text = json.dumps(facts)
    assert str(ROOT) not in text
    assert socket.gethostname() not in text
    assert str(Path.home()) not in text
    assert f'"{getpass.getuser()}"' not in text
