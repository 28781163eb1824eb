"""The project from a built wheel: in an environment of its own, in an empty folder, without the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
import tomli_w

from harness import ROOT
from harness.core.shipped import results
from harness.core.sources import revision

TRAINING = "harness.learning.train"


class Installed(NamedTuple):
    """An environment in which the project was installed from its wheel."""

    python: Path
    site: Path
    """Its folder of packages."""
    data: Path
    """The specs that the wheel brought."""

    def run(self, folder: Path, *words: str) -> str:
        """What a command prints that succeeds in a folder, with nothing of the checkout on its path."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HARNESS_"))}
        environ |= {"HOME": str(folder), "COLUMNS": "200"}
        done = subprocess.run(words, cwd=folder, env=environ, capture_output=True, text=True, check=False, timeout=550)
        assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def harness(self, folder: Path, *words: str) -> str:
        return self.run(folder, str(self.python.parent / "harness"), *words)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Built without a network from a copy of the sources, and installed where nothing else of ours is.

    What the project depends on is shared with this interpreter's environment. Its own `.pth` files are not read
    there, so an editable install of the checkout is out of sight.
    """
    place = tmp_path_factory.mktemp("wheel")
    for name in ("harness", "environments", "agents", "results/published.toml", "results/demo", "results/laptop"):
        copied = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        (place / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        copied(ROOT / name, place / "source" / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, place / "source")
    offline = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = ["wheel", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", ".", "./source"]
    subprocess.run([*offline, *build], cwd=place, check=True, timeout=300)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "env"], cwd=place, check=True, timeout=100)
    python = place / "env" / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(place / "env")}))
    (site / "shared.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    (built,) = place.glob("*.whl")
    install = ["--python", str(python), "install", "--no-index", "--no-deps", str(built)]
    subprocess.run([*offline, *install], cwd=place, check=True, timeout=100)
    return Installed(python, site, place / "env" / "share" / "sibling-harness" / "results")


@pytest.mark.slow
def test_a_wheel_holds_every_file_that_the_code_reads(wheel: Installed) -> None:
    """Every file of the three packages in the checkout: modules, templates, texts."""
    for name in ("harness", "environments", "agents"):
        ours = {file.relative_to(ROOT) for file in (ROOT / name).rglob("*") if file.is_file()}
        wanted = {file for file in ours if "__pycache__" not in file.parts and file.name != "pyproject.toml"}
        assert {file for file in wanted if not (wheel.site / file).is_file()} == set()


@pytest.mark.slow
def test_code_means_the_same_from_a_wheel(wheel: Installed, tmp_path: Path) -> None:
    """Its own packages, and nothing of the packages beside it: a table does not say of which kind its install was."""
    told = wheel.run(
        tmp_path,
        str(wheel.python),
        "-c",
        "import harness; from harness.core.sources import revision; "
        f"print(harness.ROOT); print(revision({TRAINING!r}, 'environments.guess', 'agents.methods.grpo'))",
    )
    assert told.splitlines() == [str(wheel.site), revision(TRAINING, "environments.guess", "agents.methods.grpo")]


@pytest.mark.slow
def test_a_wheel_trains_and_reports_in_an_empty_folder(wheel: Installed, tmp_path: Path) -> None:
    """The demo's spec, made short: a start, two methods, a table, a page."""
    spec = tomllib.loads((wheel.data / "demo" / "spec.toml").read_text())
    spec |= {"seeds": [0], "budget": {"steps": 2}, "evaluation": {"tasks": 4, "every": 0}}
    spec["warm_start"]["steps"] = 3
    spec["sampling"]["prompts_per_step"] = 2
    (tmp_path / "short.toml").write_text(tomli_w.dumps(spec))
    said = wheel.harness(tmp_path, "bench", "short.toml", "--out", "written", "-j", "1")
    assert "report: written" in said
    assert (tmp_path / "written" / "short" / "table.md").is_file()
    assert "GiGPO" in wheel.harness(tmp_path, "table", "short.toml")
    assert "Guess-v0" in wheel.harness(tmp_path, "environments")
    assert "arXiv" in wheel.harness(tmp_path, "published", "--method", "CRAFT-Full")
    assert {file.name for file in tmp_path.iterdir() if not file.name.startswith(".")} == {
        "runs", "short.toml", "written",
    }  # fmt: skip


@pytest.mark.heavy
@pytest.mark.slow
def test_the_demo_of_a_wheel(wheel: Installed, tmp_path: Path) -> None:
    said = wheel.harness(tmp_path, "demo")
    assert "Success, sampled" in said
    page = tmp_path / "runs" / "demo-results"
    assert f"harness report {page.relative_to(tmp_path)}" in said
    assert "written:" in wheel.harness(tmp_path, "report", str(page))


@pytest.mark.parametrize("below", [".", "lib/python3.11/site-packages"])
def test_data_files_are_found_below_the_prefix(tmp_path: Path, below: str) -> None:
    """An environment's prefix, a user's own or the folder of `pip install --target`; a checkout's come first."""
    root = tmp_path / below
    brought = tmp_path / "share" / "sibling-harness" / "results"
    brought.mkdir(parents=True)
    (brought / "published.toml").write_text("")
    assert results(root) == brought
    (root / "results").mkdir(parents=True)
    (root / "results" / "published.toml").write_text("")
    assert results(root) == root / "results"
