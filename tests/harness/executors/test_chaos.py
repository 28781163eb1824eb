"""What befalls a real `harness bench`, and what is left of it in the end: the same bytes as of one that nothing
befell."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomli_w
from experiments import small
from forked_commands import Command, Commands, commands

from harness.runs.verify import verify

pytestmark = pytest.mark.slow
RESULTS = ("rows.jsonl.gz", "runs.jsonl.gz", "curve.jsonl.gz", "table.csv", "table.tex")
STEPS, MOMENTS = 60, 20
LARGEST_FILE = 100_000
"""Bytes: records fit, weights do not."""
WORDS = ("bench", "tiny", "--runs", "runs", "--cache", "cache")


class Place:
    """A folder with a small spec in which the command is run."""

    def __init__(self, folder: Path, model: Path, started_by: Commands) -> None:
        self.folder, self.commands = folder, started_by
        spec = small(
            name="tiny",
            model={"name": str(model)},
            budget={"steps": STEPS, "checkpoint_every": 5},
            evaluation={"every": 20},
        )
        (folder / "tiny").mkdir(parents=True)
        (folder / "tiny" / "spec.toml").write_text(tomli_w.dumps(json.loads(spec.model_dump_json(exclude_none=True))))

    def start(self, workers: int = 1, largest_file: int = 0, pen: bool = True) -> Command:
        """The command; see `Commands.start`."""
        return self.commands.start(self.folder, [*WORDS, "-j", str(workers)], largest_file, pen)

    def finished(self) -> dict[str, bytes]:
        """Run the command to its end; what it leaves, by file."""
        code, _, err = self.start().ended()
        assert (code, err) == (0, "")
        return self.left()

    def left(self) -> dict[str, bytes]:
        """Results and the files of every run that no clock is in; all of them are whole."""
        assert all(one.whole for part in ("tiny", "runs") for one in verify(self.folder / part))
        files = [self.folder / "tiny" / name for name in RESULTS]
        files += [*self.folder.glob("runs/*/*/*/rows.jsonl"), *self.folder.glob("runs/*/*/*/done.json")]
        files += self.folder.glob("runs/*/*/*/checkpoint-*/*")
        return {file.relative_to(self.folder).as_posix(): file.read_bytes() for file in files}

    def lines(self) -> int:
        """Steps that have been recorded, those that were recorded again too."""
        return sum(log.read_bytes().count(b"\n") for log in self.folder.glob("runs/*/*/grpo-*/steps.jsonl"))

    def stands(self) -> dict[str, int]:
        """Files and their sizes."""
        return {
            str(file): size(file) for part in ("cache", "runs", "tiny") for file in self.folder.glob(f"{part}/**/*")
        }


def size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return -1  # it is gone again


@pytest.fixture(scope="module")
def forked() -> Iterator[Commands]:
    with commands() as started:
        yield started


@pytest.fixture(scope="module")
def calm(tiny_directory: Path, tmp_path_factory: pytest.TempPathFactory, forked: Commands) -> dict[str, bytes]:
    """What is left where nothing happens."""
    left = Place(tmp_path_factory.mktemp("calm"), tiny_directory, forked).finished()
    assert any(name.endswith(f"checkpoint-{STEPS:06d}/model.safetensors") for name in left)
    return left


@pytest.fixture
def place(tiny_directory: Path, tmp_path: Path, forked: Commands) -> Place:
    return Place(tmp_path / "place", tiny_directory, forked)


def further(place: Place) -> Command:
    """The command, some steps further than it was."""
    before, process = place.lines(), place.start()
    while process.poll() is None and place.lines() < before + 6:
        time.sleep(0.01)
    assert process.poll() is None
    return process


def kill_group(process: Command) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.ended()


def kill_worker(process: Command) -> None:
    """The one that does the runs: that of the start has ended."""
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(workers[-1]), signal.SIGKILL)
    code, _, err = process.ended()
    assert code == 1
    assert "a worker process was killed (out of memory?)" in err
    assert "Traceback" not in err


def ctrl_c(process: Command, presses: int = 1) -> None:
    for _ in range(presses):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.2)
    code, out, err = process.ended()
    assert code == 130
    assert "every run finishes its step and saves" in out
    assert "the same command goes on with them" in out
    assert err.strip() == "stopped; the same command goes on where this one was"


def test_killed_killed_in_part_and_interrupted_it_ends_as_if_nothing_had_been(
    calm: dict[str, bytes], place: Place
) -> None:
    """One run, some steps further each time."""
    for befalls in (kill_group, kill_worker, ctrl_c):
        befalls(further(place))
    assert place.finished() == calm


@pytest.mark.heavy
def test_interrupted_twice_it_stops_at_once_and_ends_as_if_nothing_had_been(
    calm: dict[str, bytes], place: Place
) -> None:
    ctrl_c(further(place), presses=2)
    assert place.finished() == calm


@pytest.mark.heavy
def test_the_whole_group_killed_at_random_moments_changes_nothing(calm: dict[str, bytes], place: Place) -> None:
    """Each time a moment after something has been written, from nothing to the results folder."""
    rng = random.Random(0)
    for _ in range(MOMENTS):
        process, changes, stood = place.start(workers=2), rng.randrange(1, 30), place.stands()
        while process.poll() is None and changes > 0:
            time.sleep(0.01)
            stands = place.stands()
            changes -= stands != stood
            stood = stands
        time.sleep(rng.uniform(0, 0.05))
        if process.poll() is None:
            kill_group(process)
    assert place.finished() == calm


@pytest.mark.heavy
def test_two_commands_at_once_change_nothing(calm: dict[str, bytes], place: Place) -> None:
    both = [place.start(), place.start()]
    for process in both:
        code, _, err = process.ended()
        assert code in (0, 1)
        assert "Traceback" not in err
        assert err == "" or "the same command tries again" in err
    assert place.finished() == calm


def test_a_folder_that_may_not_be_written_is_said_and_the_run_goes_on_afterwards(
    calm: dict[str, bytes], place: Place
) -> None:
    """As an ordinary user, even where the tests are run by root."""
    (place.folder / "runs").mkdir()
    (place.folder / "runs").chmod(0o555)
    code, out, err = place.start(pen=False).ended()
    assert code == 1
    assert "Traceback" not in err
    assert "Permission denied" in out + err
    assert not list((place.folder / "runs").iterdir())
    (place.folder / "runs").chmod(0o755)
    assert place.finished() == calm


@pytest.mark.heavy
def test_a_full_disk_is_said_and_the_run_goes_on_afterwards(calm: dict[str, bytes], place: Place) -> None:
    disk = place.folder / "runs"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(disk)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no small disk can be made here: {mounted.stderr.decode().strip()}")
    try:
        code, out, err = place.start().ended()
        assert code == 1
        assert "Traceback" not in err
        assert "make room" in out + err
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        assert place.finished() == calm
    finally:
        subprocess.run(["umount", str(disk)], check=False)


def test_files_that_may_not_grow_are_said_and_the_run_goes_on_afterwards(calm: dict[str, bytes], place: Place) -> None:
    """A quota that records fit in and weights do not."""
    code, out, err = place.start(largest_file=LARGEST_FILE).ended()
    assert code == 1
    assert "Traceback" not in err
    assert "make room" in out + err
    assert place.finished() == calm
