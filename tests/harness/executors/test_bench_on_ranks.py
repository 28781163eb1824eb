"""A real `harness bench --processes 2`: to its end, stopped, with a process killed, under torchrun; nothing is left
running, and the results are in the end those of a command that nothing befell."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import tomli_w
from experiments import small

from harness import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.heavy]
RESULTS = ("rows.jsonl.gz", "table.csv")
BENCH = ("-m", "harness.cli", "bench", "tiny", "--runs", "runs", "--cache", "cache")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
MEMBER = b"harness.backends.torch.member"


class Place:
    """A folder with a small spec in which commands are run."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.mark = folder, uuid4().hex
        spec = small(
            name="tiny",
            model={"name": str(model)},
            budget={"steps": 10, "checkpoint_every": 1},
            evaluation={"every": 0, "tasks": 4, "samples": 1},
        )
        (folder / "tiny").mkdir(parents=True)
        (folder / "tiny" / "spec.toml").write_text(tomli_w.dumps(json.loads(spec.model_dump_json(exclude_none=True))))

    def start(self, *words: str) -> subprocess.Popen[str]:
        """A command, in a process group of its own; what it starts is known by its environment."""
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        return subprocess.Popen(
            [sys.executable, *words],
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": path, "COLUMNS": "200", "MARK": self.mark},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *words: str) -> tuple[int, str]:
        """A command's exit status and its words."""
        process = self.start(*words)
        said = "".join(process.communicate())
        return process.returncode, said

    def left(self) -> dict[str, bytes]:
        """Results and last checkpoints, by file."""
        files = [self.folder / "tiny" / name for name in RESULTS]
        files += self.folder.glob("runs/*/*/*/checkpoint-*/*")
        return {file.relative_to(self.folder).as_posix(): file.read_bytes() for file in files}

    def running(self, word: bytes = b"") -> list[int]:
        """Processes that this place's commands have started, with this word in their command."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                ours = f"MARK={self.mark}".encode() in (process / "environ").read_bytes()
                command = (process / "cmdline").read_bytes()
            except OSError:
                continue
            if ours and command and word in command:
                found.append(int(process.name))
        return found

    def checkpointed(self) -> bool:
        """Whether a run has a checkpoint."""
        return any(self.folder.glob("runs/*/*/*/checkpoint-*/run_state.json"))


def wait_for(happened: Callable[[], Any], process: subprocess.Popen[str] | None = None) -> None:
    while not happened():
        assert process is None or process.poll() is None, "".join(process.communicate())
        time.sleep(0.02)


@pytest.fixture(scope="module")
def calm(tiny_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What is left where nothing happens."""
    place = Place(tmp_path_factory.mktemp("calm"), tiny_directory)
    status, said = place.run(*BENCH, "--processes", "2")
    assert status == 0, said
    assert not place.running()
    return place.left()


@pytest.fixture
def place(tiny_directory: Path, tmp_path: Path) -> Place:
    return Place(tmp_path / "place", tiny_directory)


def test_ctrl_c_once_leaves_a_run_that_goes_on_and_no_process(calm: dict[str, bytes], place: Place) -> None:
    process = place.start(*BENCH, "--processes", "2")
    wait_for(place.checkpointed, process)
    os.killpg(process.pid, signal.SIGINT)
    said = "".join(process.communicate())
    assert process.returncode == 130
    assert "1 at their last checkpoint" in said
    wait_for(lambda: not place.running())
    status, said = place.run(*BENCH, "--processes", "2")
    assert status == 0, said
    assert place.left() == calm


def test_a_killed_process_ends_the_run_in_words_and_it_goes_on(calm: dict[str, bytes], place: Place) -> None:
    process = place.start(*BENCH, "--processes", "2")
    wait_for(place.checkpointed, process)
    (member,) = place.running(MEMBER)
    os.kill(member, signal.SIGKILL)
    said = "".join(process.communicate())
    assert process.returncode == 1
    assert "process 1 of 2 ended (exit -9)" in said
    assert "the same command tries again" in said
    wait_for(lambda: not place.running())
    # Another number of processes goes on with it: that is no fact by which runs differ.
    status, said = place.run(*BENCH)
    assert status == 0, said
    assert place.left().keys() == calm.keys()


def test_a_killed_command_leaves_no_process(place: Place) -> None:
    process = place.start(*BENCH, "--processes", "2")
    wait_for(place.checkpointed, process)
    process.kill()
    process.communicate()
    wait_for(lambda: not place.running())


def test_torchrun_starts_the_same_run(calm: dict[str, bytes], place: Place) -> None:
    status, said = place.run(*TORCHRUN, *BENCH)
    assert status == 0, said
    assert place.left() == calm
    assert not place.running()


def test_a_killed_rank_of_torchrun_ends_it_and_it_goes_on(calm: dict[str, bytes], place: Place) -> None:
    process = place.start(*TORCHRUN, *BENCH)
    wait_for(place.checkpointed, process)
    ranks = {pid: Path(f"/proc/{pid}/environ").read_bytes() for pid in place.running()}
    (last,) = [pid for pid, environment in ranks.items() if b"\0RANK=1\0" in environment]
    os.kill(last, signal.SIGKILL)
    process.communicate()
    assert process.returncode == 1
    wait_for(lambda: not place.running())
    status, said = place.run(*TORCHRUN, *BENCH)
    assert status == 0, said
    assert place.left() == calm


def test_another_number_than_torchruns_is_refused(place: Place) -> None:
    status, said = place.run(*TORCHRUN, *BENCH, "--processes", "3")
    assert status == 1
    assert "--processes is 3, but torchrun has started 2: leave it out" in said
