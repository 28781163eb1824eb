"""Provenance: the revision moves with what can change a run and with nothing else; nothing personal is said."""

from __future__ import annotations

import getpass
import json
import re
import shutil
import socket
import subprocess
from pathlib import Path

import numpy as np
import pytest

from harness.provenance import ROOT, code_revision, provenance


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in (
        "harness/loop.py",
        "harness/cli.py",
        "harness/stats.py",
        "environments/guess.py",
        "agents/prompts/guess.md",
    ):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    return tmp_path


@pytest.mark.parametrize(
    "name", ["harness/loop.py", "environments/guess.py", "agents/prompts/guess.md", "agents/new.py"]
)
def test_sources_that_can_change_a_run_change_the_revision(checkout: Path, name: str) -> None:
    before = code_revision(checkout)
    (checkout / name).write_text("other")
    assert code_revision(checkout) != before


@pytest.mark.parametrize("name", ["harness/cli.py", "harness/stats.py", "README.md", "agents/__pycache__/a.pyc"])
def test_other_files_do_not(checkout: Path, name: str) -> None:
    before = code_revision(checkout)
    (checkout / name).parent.mkdir(exist_ok=True)
    (checkout / name).write_text("other")
    assert code_revision(checkout) == before


def test_the_revision_is_of_names_and_contents_alone(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    twin = tmp_path_factory.mktemp("elsewhere") / "copy"
    shutil.copytree(checkout, twin)
    assert code_revision(twin) == code_revision(checkout)
    (checkout / "agents/prompts/guess.md").rename(checkout / "agents/prompts/other.md")
    assert code_revision(twin) != code_revision(checkout)


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
    assert re.fullmatch("[0-9a-f]{64}", facts["code"]["revision"])
    text = json.dumps(facts)
    assert str(ROOT) not in text
    assert socket.gethostname() not in text
    assert str(Path.home()) not in text
    assert f'"{getpass.getuser()}"' not in text
