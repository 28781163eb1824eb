"""The plan of the house: what stands at its top, and that its three names mean its three packages."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from harness import ROOT
from harness.core.sources import OURS

TOP = {"harness", "environments", "agents", "results", "docs", "tests"}


def tracked() -> list[str]:
    done = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("no checkout of git")
    return done.stdout.splitlines()


def test_the_folders_at_the_top() -> None:
    folders = {name.partition("/")[0] for name in tracked() if "/" in name}
    assert {folder for folder in folders if not folder.startswith(".")} <= TOP
    assert {"harness", "environments", "agents", "tests", "results", "docs"} <= folders


def test_the_files_at_the_top() -> None:
    files = {name for name in tracked() if "/" not in name}
    assert {
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        "Makefile",
        "pyproject.toml",
        "constraints.txt",
        ".gitignore",
    } <= files


def test_what_can_be_made_again_is_not_committed() -> None:
    made = [
        name
        for name in tracked()
        if name.startswith((".venv", ".cache", "runs/")) or name.endswith((".pyc", ".safetensors", ".pt"))
    ]
    assert made == []


def test_results_hold_data_alone() -> None:
    kinds = {".toml", ".jsonl", ".json", ".gz", ".md", ".csv", ".tex", ".html", ".svg", ".png"}
    held = {Path(name) for name in tracked() if name.startswith("results/")}
    assert {file.suffix for file in held if file.name != "SHA256SUMS"} <= kinds


def test_there_is_no_drawer_for_everything() -> None:
    assert [name for name in tracked() if Path(name).stem in ("utils", "util", "helpers", "misc", "common")] == []


@pytest.mark.parametrize("name", OURS)
def test_a_package_is_its_folder(name: str) -> None:
    """Path = import name, for each of the three."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin == str(ROOT / name / "__init__.py")


def test_the_distribution_brings_all_three_and_the_command() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    found = project["tool"]["setuptools"]["packages"]["find"]["include"]
    assert found == [f"{name}*" for name in OURS]
    assert project["project"]["scripts"] == {"harness": "harness.cli:main"}
    folders = {path.parent for name in OURS for path in (ROOT / name).rglob("*.py")}
    own = {folder for folder in folders if (folder / "pyproject.toml").is_file()}  # a distribution of its own
    assert [folder for folder in folders - own if not (folder / "__init__.py").is_file()] == []


@pytest.mark.parametrize("name", ["agents", "environments"])
def test_another_distribution_of_our_name_is_told_apart(tmp_path: Path, name: str) -> None:
    """As `openai-agents` does, which installs a package `agents`: the command says whose package was found, and does
    nothing else."""
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("raise ImportError('the wrong one was imported')\n")
    start = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]; "
    start += "sys.argv = ['harness', 'methods']; from harness.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", start],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"COLUMNS": "400"},
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"the package {name!r} comes from" in done.stderr
    assert str(tmp_path / name / "__init__.py") in done.stderr
    assert "virtual environment" in done.stderr
    assert done.stdout == ""


def test_the_right_packages_pass_unseen() -> None:
    from harness.cli.entry import _check_names

    _check_names()


def test_the_wheel_brings_the_specs_that_commands_name() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    brought = {Path(name) for names in project["tool"]["setuptools"]["data-files"].values() for name in names}
    specs = {
        file.relative_to(ROOT) for name in ("demo", "laptop") for file in (ROOT / "results" / name).rglob("spec.toml")
    }
    assert brought == {Path("results/published.toml"), *specs}
    for place, names in project["tool"]["setuptools"]["data-files"].items():
        assert {f"share/sibling-harness/{Path(name).parent.as_posix()}" for name in names} == {place}
