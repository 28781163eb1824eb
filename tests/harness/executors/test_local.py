"""Runs in processes of this machine: real interruptions of the real command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from experiments import small

from harness import ROOT
from harness.core import records


@pytest.fixture
def command(tiny_directory: Path, tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """`harness bench` on a spec that takes some seconds, in a process group of its own as a terminal would give it."""
    model = {"name": str(tiny_directory)}
    environment = {"id": "environments:Guess-v0"}
    spec = small(
        name="long", model=model, environment=environment, budget={"steps": 30, "checkpoint_every": 5}, seeds=[0, 1]
    )
    (tmp_path / "long").mkdir()
    (tmp_path / "long" / "spec.toml").write_text(tomli_w.dumps(json.loads(spec.model_dump_json(exclude_none=True))))
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        words = [
            sys.executable,
            "-m",
            "harness.cli",
            "bench",
            "long",
            "--runs",
            "runs",
            "--cache",
            "cache",
            "-j",
            "2",
        ]
        environ = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}
        started.append(
            subprocess.Popen(
                words,
                cwd=tmp_path,
                env=environ,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        if group_of(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def group_of(group: int) -> list[int]:
    """Processes of a group that are alive, by what the kernel says."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(entry.name))
    return found


def wait_until(happened: Callable[[], Any]) -> Any:
    """What is waited for, however crowded the machine; the limit of every test is the only one."""
    while not (found := happened()):
        time.sleep(0.05)
    return found


def finish(process: subprocess.Popen[str], tmp_path: Path) -> None:
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert "written: long/table.md" in out
    assert (tmp_path / "long" / "table.md").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_stops_after_the_step_or_at_once_and_the_next_call_finishes(
    command: Any, tmp_path: Path, presses: int
) -> None:
    """Once: every run finishes its step and saves, so that its log ends where its checkpoint stands. Twice: at once."""
    process = command()
    wait_until(lambda: list(tmp_path.glob("runs/long/*/grpo-*/checkpoint-*")))
    for _ in range(presses):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.2)
    out, err = process.communicate()
    assert process.returncode == 130
    assert "every run finishes its step and saves" in out
    if presses == 1:
        for log in tmp_path.glob("runs/long/*/grpo-*/steps.jsonl"):
            [checkpoint] = log.parent.glob("checkpoint-*")
            assert records.read(log).strict()[-1]["step"] + 1 == int(checkpoint.name[-6:])
    assert err.strip() == "stopped; the same command goes on where this one was"
    wait_until(lambda: not group_of(process.pid))
    assert not (tmp_path / "long" / "table.md").exists()
    finish(command(), tmp_path)


@pytest.mark.slow
def test_a_killed_worker_is_said_and_the_next_call_finishes(command: Any, tmp_path: Path) -> None:
    process = command()
    wait_until(lambda: list(tmp_path.glob("runs/long/*/grpo-*/steps.jsonl")))
    workers = [pid for pid in group_of(process.pid) if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    _, err = process.communicate()
    assert process.returncode == 1
    assert "a worker process was killed (out of memory?)" in err
    assert "Traceback" not in err
    wait_until(lambda: not group_of(process.pid))
    finish(command(), tmp_path)


@pytest.mark.slow
def test_workers_do_not_outlive_a_killed_parent(command: Any, tmp_path: Path) -> None:
    process = command()
    wait_until(lambda: list(tmp_path.glob("runs/long/*/grpo-*/steps.jsonl")))
    process.kill()
    process.wait()
    wait_until(lambda: not group_of(process.pid))
