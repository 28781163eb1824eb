"""What befalls a real `harness bench`, and what is left of it in the end: the same bytes as of one that nothing
befell."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from experiments import small

from harness import ROOT
from harness.runs.verify import verify

pytestmark = [pytest.mark.slow, pytest.mark.heavy]
NOBODY = 65534
RESULTS = ("rows.jsonl.gz", "runs.jsonl.gz", "curve.jsonl.gz", "table.csv", "table.tex")


class Place:
    """A folder with a small spec in which the command is run."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder = folder
        spec = small(
            name="tiny",
            model={"name": str(model)},
            budget={"steps": 30, "checkpoint_every": 5},
            evaluation={"every": 10},
        )
        (folder / "tiny").mkdir(parents=True)
        (folder / "tiny" / "spec.toml").write_text(tomli_w.dumps(json.loads(spec.model_dump_json(exclude_none=True))))

    def start(self, **more: Any) -> subprocess.Popen[str]:
        """The command, in a process group of its own."""
        words = [sys.executable, "-m", "harness.cli", "bench", "tiny", "--runs", "runs", "--cache", "cache", "-j", "2"]
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        return subprocess.Popen(
            words,
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": path, "COLUMNS": "200"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **more,
        )

    def finished(self) -> dict[str, bytes]:
        """Run the command to its end; what it leaves, by file."""
        process = self.start()
        _, err = process.communicate()
        assert (process.returncode, err) == (0, "")
        return self.left()

    def left(self) -> dict[str, bytes]:
        """Results and the files of every run that no clock is in; all of them are whole."""
        assert all(one.whole for part in ("tiny", "runs") for one in verify(self.folder / part))
        files = [self.folder / "tiny" / name for name in RESULTS]
        files += [*self.folder.glob("runs/*/*/*/rows.jsonl"), *self.folder.glob("runs/*/*/*/done.json")]
        files += self.folder.glob("runs/*/*/*/checkpoint-*/*")
        return {file.relative_to(self.folder).as_posix(): file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def calm(tiny_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What is left where nothing happens."""
    return Place(tmp_path_factory.mktemp("calm"), tiny_directory).finished()


@pytest.fixture
def place(tiny_directory: Path, tmp_path: Path) -> Place:
    return Place(tmp_path / "place", tiny_directory)


def kill_group(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def wait_for(happened: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    while process.poll() is None and not happened():
        time.sleep(0.01)


def test_the_whole_group_killed_at_random_moments_changes_nothing(calm: dict[str, bytes], place: Place) -> None:
    """Each time once the runs have written some more, from nothing to the results folder; then at any moment."""
    rng = random.Random(0)
    for files in (1, 6, 12):
        process = place.start()
        wait_for(lambda wanted=files: len(list(place.folder.glob("runs/**/*.json*"))) >= wanted, process)
        time.sleep(rng.uniform(0, 0.3))
        kill_group(process)
    assert place.finished() == calm


def test_two_commands_at_once_change_nothing(calm: dict[str, bytes], place: Place) -> None:
    both = [place.start(), place.start()]
    for process in both:
        _, err = process.communicate()
        assert process.returncode in (0, 1)
        assert "Traceback" not in err
        assert err == "" or "the same command tries again" in err
    assert place.finished() == calm


def test_a_folder_that_may_not_be_written_is_said_and_the_run_goes_on_afterwards(
    calm: dict[str, bytes], place: Place
) -> None:
    """As an ordinary user: root may write anywhere."""
    (place.folder / "runs").mkdir()
    (place.folder / "runs").chmod(0o555)
    user: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    read = f"open({str(place.folder / 'tiny' / 'spec.toml')!r}).read()"
    try:
        subprocess.run([sys.executable, "-c", read], check=True, cwd=place.folder, capture_output=True, **user)
    except (PermissionError, subprocess.CalledProcessError):
        pytest.skip("an ordinary user may not run this interpreter or read the folder of this test")
    process = place.start(**user)
    out, err = process.communicate()
    assert process.returncode == 1
    assert "Traceback" not in err
    assert "Permission denied" in out + err
    (place.folder / "runs").chmod(0o755)
    assert place.finished() == calm


def test_a_full_disk_is_said_and_the_run_goes_on_afterwards(calm: dict[str, bytes], place: Place) -> None:
    disk = place.folder / "runs"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(disk)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no small disk can be made here: {mounted.stderr.decode().strip()}")
    try:
        process = place.start()
        out, err = process.communicate()
        assert process.returncode == 1
        assert "Traceback" not in err
        assert "make room" in out + err
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        assert place.finished() == calm
    finally:
        subprocess.run(["umount", str(disk)], check=False)
