"""The revision of a run's code moves with every source that the run reaches, and with nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness import ROOT
from harness.core.sources import _canonical, _tree, reached, revision

FILES = {
    "plug.py": "import numpy\nfrom pack.sub import tool\n",
    "pack/__init__.py": "",
    "pack/sub/__init__.py": "",
    "pack/sub/tool.py": "from . import near\nfrom ..upper import thing\n",
    "pack/sub/near.py": "def late():\n    import pack.late\n",
    "pack/sub/words.md": "Be brief.",
    "pack/upper.py": "thing = 1\n",
    "pack/late.py": "",
    "pack/stranger.py": "",
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*modules: str) -> set[str]:
    return {name for name, _ in reached(*modules)}


def test_imports_are_followed_whatever_their_form(project: Path) -> None:
    assert names("plug") == set(FILES) - {"pack/stranger.py", "pack/__init__.py"} | {"pack/__init__.py"} & names("plug")
    assert {"pack/sub/near.py", "pack/upper.py", "pack/late.py", "pack/sub/words.md"} <= names("plug")


def test_other_distributions_do_not_count(project: Path) -> None:
    assert names("numpy", "gymnasium.core", "nowhere") == set()


@pytest.mark.parametrize(
    ("changed", "moves"), [("pack/upper.py", True), ("pack/sub/words.md", True), ("pack/stranger.py", False)]
)
def test_the_revision_moves_with_what_is_reached(project: Path, changed: str, moves: bool) -> None:
    """Asked in processes of their own: one process answers for the files as it first read them."""

    def ask() -> str:
        line = "from harness.core.sources import _canonical, _tree, revision; print(revision('plug'))"
        done = subprocess.run(
            [sys.executable, "-c", line],
            cwd=project,
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONPATH": str(ROOT)},
        )
        return done.stdout

    before = ask()
    assert ask() == before
    (project / changed).write_text("other = 2\n")
    assert (ask() != before) is moves


@pytest.mark.parametrize(
    ("text", "moves"),
    [
        ('"""Another word of what it is."""\nvalue = 1\n', False),
        ("# why\nvalue = (\n    1  # because\n)\n", False),
        ('value = 1\n"""What it says."""\n', False),
        ("value = 1.0\n", True),
        ("value = True\n", True),
        ("value: int = 1\n", True),
        ("value = 1\nother = value\n", True),
    ],
)
def test_a_revision_is_of_what_a_program_means(project: Path, text: str, moves: bool) -> None:
    """Comments, docstrings and layout unmatch no runs."""
    (project / "one.py").write_text("value = 1\n")
    (project / "other").mkdir()
    (project / "other" / "one.py").write_text(text)
    trees = [_canonical(_tree(project / name)) for name in ("one.py", "other/one.py")]
    assert (trees[0] != trees[1]) is moves


def test_the_revision_is_of_names_and_contents_and_not_of_the_place(
    project: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = revision("plug")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for name, text in FILES.items():
        (elsewhere / name).parent.mkdir(parents=True, exist_ok=True)
        (elsewhere / name).write_text(text)
    monkeypatch.chdir(elsewhere)
    assert revision("plug") == before
    assert revision("pack.upper") != before


def test_training_reaches_what_decides_its_result() -> None:
    found = names("harness.learning.train", "harness.backends.torch", "environments.guess")
    assert {
        f"harness/{name}.py"
        for name in (
            "learning/train",
            "rollout/rollouts",
            "losses/terms",
            "losses/packing",
            "rollout/evidence",
            "core/seeds",
            "rollout/rendering",
        )
    } <= found
    assert {
        "harness/backends/torch/backend.py",
        "harness/backends/torch/sampler.py",
        "environments/guess.py",
        "environments/text.py",
    } <= found
    # what only shows results, and what other experiments are made of
    rooms = {name.split("/")[1] for name in found if name.startswith("harness/")}
    assert not rooms & {"cli", "tables", "report", "runs", "executors", "evaluation", "serving"}
    assert not any(name.startswith("agents/") or "tau3" in name for name in found)


def test_a_method_reaches_its_own_file_and_its_relatives_but_no_other_method() -> None:
    found = names("agents.methods.sdar")
    assert {"agents/methods/sdar.py", "agents/methods/advantages.py"} <= found
    assert "agents/methods/hsd.py" not in found
