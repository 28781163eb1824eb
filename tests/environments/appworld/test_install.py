"""Installing AppWorld: what is there is left alone, a changed pin installs anew, and what fails names the command that
tries again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from pathlib import Path

import pytest

from environments.appworld import install
from environments.appworld.env import AppWorldEnv
from environments.appworld.install import NotInstalledError
from environments.isolation import walls


class BegunError(Exception):
    """An installation has begun, and goes no further."""


def stop(what: str, done: int, total: int) -> None:
    raise BegunError(f"{what} {done} of {total}")


def untouched(what: str, done: int, total: int) -> None:
    raise AssertionError(f"there is nothing to do, but {what} began")


@pytest.fixture
def venv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished installation of the test's own, of links to the real one."""
    real = install.interpreter().parent.parent
    home = tmp_path / "venvs" / "appworld"
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "python").symlink_to(real / "bin" / "python")
    shutil.copy(real / "ready", home)
    monkeypatch.setattr(install, "VENV", home)
    return home


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No network: every connection goes to a port that nobody listens at."""
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


# ---------------------------------------------------------------- the interpreter


def test_what_is_installed_is_left_alone(venv: Path) -> None:
    assert install.interpreter(untouched) == venv / "bin" / "python"


def test_a_changed_pin_installs_anew(venv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pins = tmp_path / "pins.txt"
    pins.write_text(install.PINS.read_text() + "# one more line\n")
    monkeypatch.setattr(install, "PINS", pins)
    with pytest.raises(BegunError, match=r"making \.venvs/appworld 0 of 3"):
        install.interpreter(stop)


def test_another_release_installs_anew(venv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "PACKAGE", "appworld==0.1.2")
    with pytest.raises(BegunError):
        install.interpreter(stop)


@pytest.mark.parametrize("lost", ["ready", "bin/python"])
def test_half_an_installation_is_none(venv: Path, lost: str) -> None:
    (venv / lost).unlink()
    with pytest.raises(BegunError):
        install.interpreter(stop)


def test_a_folder_that_cannot_be_made_is_an_error_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(install, "VENV", tmp_path / "file" / "appworld")
    with pytest.raises(
        NotInstalledError, match=r"making .*failed \(exit status 1\); try again with: harness setup app"
    ):
        install.interpreter()


@pytest.mark.slow
def test_an_installation_that_fails_says_why_and_is_not_taken_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: None
) -> None:
    monkeypatch.setattr(install, "VENV", tmp_path / "appworld")
    monkeypatch.setattr(install, "PACKAGE", str(tmp_path / "appworld-0.1.3-py3-none-any.whl"))
    for _ in range(2):
        with pytest.raises(NotInstalledError, match="harness setup appworld") as raised:
            install.interpreter()
        assert "installing " in str(raised.value)
        assert "appworld-0.1.3-py3-none-any.whl" in str(raised.value).partition("\n")[2]  # the installer's own words
        assert not (tmp_path / "appworld" / "ready").exists()


def test_its_files_stay_where_it_is_installed() -> None:
    python = install.interpreter()
    assert Path(install.environ()["APPWORLD_CACHE"]).parent == python.parent.parent


# ---------------------------------------------------------------- the own world


def test_a_world_that_is_built_is_left_alone() -> None:
    folder = install.own_world()
    assert install.own_world(untouched) == folder
    assert {entry.name for entry in folder.iterdir()} == {"serve", "truth", "programs", "manifest.json"}


def test_a_world_that_cannot_be_built_is_an_error_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install.own_world()
    # the engine takes any path with this word in it for a database in memory, and building one there is refused
    monkeypatch.setattr(install, "CACHE", tmp_path / "in-memory")
    with pytest.raises(NotInstalledError, match=r"building the own world failed.*harness setup appworld") as raised:
        install.own_world()
    assert "memory" in str(raised.value).partition("\n")[2]
    assert not list(tmp_path.glob("in-memory/world-*"))


@pytest.mark.slow
def test_two_that_need_the_world_at_once_build_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = install.manifest_of(install.own_world())
    monkeypatch.setattr(install, "CACHE", tmp_path)
    (tmp_path / "world-of-older-sources").mkdir()
    output: list[tuple[str, int, int]] = []
    found: list[Path] = []
    both = [
        threading.Thread(target=lambda: found.append(install.own_world(lambda *step: output.append(step))))
        for _ in range(2)
    ]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert found[0] == found[1]
    assert install.manifest_of(found[0]) == known
    steps = [done for _, done, _ in output]
    assert steps == list(range(1, output[-1][2] + 1))
    assert [entry.name for entry in tmp_path.glob("world-*")] == [found[0].name]


def test_its_name_changes_with_its_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the sources is the same world; one with another line is not."""
    built = install.own_world()
    shutil.copytree(install.HERE / "world", tmp_path / "world", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(install, "HERE", tmp_path)
    assert install.own_world(untouched) == built
    with (tmp_path / "world" / "people.py").open("a") as file:
        file.write("# another line\n")
    monkeypatch.setattr(install, "CACHE", tmp_path / "cache")
    (tmp_path / "world" / "build.py").write_text("raise SystemExit('stopped')")
    with pytest.raises(NotInstalledError, match="stopped"):
        install.own_world()


# ---------------------------------------------------------------- the commands


def test_set_up_tells_what_there_is() -> None:
    output = install.set_up(untouched)
    manifest = install.manifest_of(install.own_world())
    assert install.PACKAGE in output
    assert manifest["hash"][:16] in output
    for split, ids in manifest["splits"].items():
        assert f"{split} {len(ids)}" in output
    assert output.endswith(walls.standing())


def test_data_that_cannot_be_fetched_is_an_error_with_the_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: None
) -> None:
    monkeypatch.setattr(install, "OFFICIAL", tmp_path / "official")
    with pytest.raises(NotInstalledError, match="harness setup appworld-data") as raised:
        install.set_up_data()
    for part in ("open internet", str(tmp_path / "official" / "data"), "APPWORLD_ROOT", "Max retries"):
        assert part in str(raised.value)
    # and nothing is left that would be taken for data
    monkeypatch.delenv("APPWORLD_ROOT", raising=False)
    assert install.official_data() is None
    assert AppWorldEnv("auto").known.facts


def test_data_that_is_there_is_not_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: None
) -> None:
    monkeypatch.setattr(install, "OFFICIAL", tmp_path)
    for split, size in install.SIZES.items():
        ids = [hashlib.sha256(f"{split} {n}".encode()).hexdigest()[:7] + "_1" for n in range(size)]
        file = tmp_path / "data" / "datasets" / f"{split}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(ids))
        for task_id in ids:
            (tmp_path / "data" / "tasks" / task_id).mkdir(parents=True)
            (tmp_path / "data" / "tasks" / task_id / "specs.json").write_text(json.dumps({}))
    assert install.set_up_data(untouched).endswith("train 90, dev 57, test_normal 168, test_challenge 417")
    (tmp_path / "data" / "datasets" / "dev.txt").unlink()
    with pytest.raises(BegunError, match="downloading"):
        install.set_up_data(stop)
