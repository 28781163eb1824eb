"""However a program ends that uses a pool, nothing of it is left: no process, no folder, no complaint."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from remote_pool import HERE, descendants, wait_for, wait_until_gone

from harness import ROOT

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")


@contextlib.contextmanager
def program(name: str, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """A program of remote_scripts that has reported its facts; its temporary files lie in tmp_path/room."""
    (tmp_path / "room").mkdir()
    file = tmp_path / "facts.json"
    places = os.pathsep.join([str(ROOT), str(HERE)])
    running = subprocess.Popen(
        [sys.executable, "-W", "error", HERE / "remote_scripts.py", name, file],
        env=os.environ | {"PYTHONPATH": places, "TMPDIR": str(tmp_path / "room"), "KEY_OF_AN_ENDPOINT": "secret"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with running:
        try:
            wait_for(lambda: file.exists() or running.poll() is not None)
            yield running, json.loads(file.read_text())
        finally:
            running.kill()


def left(tmp_path: Path, facts: dict[str, Any]) -> tuple[set[int], list[Path]]:
    return wait_until_gone(facts["pids"]), list((tmp_path / "room").iterdir())


def test_a_program_that_closes_nothing(tmp_path: Path) -> None:
    with program("forgets", tmp_path) as (running, facts):
        assert running.communicate(timeout=60)[1] == ""
        assert running.returncode == 0
    assert left(tmp_path, {"pids": [*facts["pids"], facts["spare"]]}) == (set(), [])
    assert (tmp_path / "facts.json.diary").read_text() == f"closed {facts['pids'][0]}\n"


def test_a_program_that_ends_by_an_exception(tmp_path: Path) -> None:
    with program("raises", tmp_path) as (running, facts):
        assert running.communicate(timeout=60)[1].endswith("ValueError: on purpose\n")
    assert left(tmp_path, facts) == (set(), [])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_program_that_is_killed(tmp_path: Path, number: signal.Signals) -> None:
    """While one worker computes for ever: it cannot notice by itself. Its whole group gets the signal, as by Ctrl-C."""
    with program("busy", tmp_path) as (running, facts):
        os.killpg(running.pid, number)
        assert running.wait(60) == -number
    assert wait_until_gone(facts["pids"]) == set()
    wait_for(lambda: not list((tmp_path / "room").iterdir()))
    assert facts["folder"].startswith(str(tmp_path / "room"))


def test_a_program_that_is_killed_while_the_object_is_made(tmp_path: Path) -> None:
    with program("booting", tmp_path) as (running, _):
        wait_for(lambda: bool(descendants(running.pid)))
        first = descendants(running.pid)
        running.kill()
    assert wait_until_gone(first) == set()
    wait_for(lambda: not list((tmp_path / "room").iterdir()))


def test_a_copy_of_a_process_has_workers_of_its_own(tmp_path: Path) -> None:
    with program("forked", tmp_path) as (running, facts):
        assert running.communicate(timeout=60)[1] == ""
    copy = json.loads((tmp_path / "facts.copy").read_text())
    assert copy["kind"] == "closed"
    assert copy["parent"] != facts["pids"][1]
    assert copy["folder"] != facts["folder"]
    assert (facts["counted"], facts["same"]) == (1, True)
    assert left(tmp_path, {"pids": [*facts["pids"], copy["parent"], copy["pid"]]}) == (set(), [])


def test_a_copy_that_lives_on_keeps_nothing_alive(tmp_path: Path) -> None:
    with program("outlived", tmp_path) as (running, facts):
        running.kill()
        running.wait(60)
        assert wait_until_gone(facts["pids"]) == set()
        wait_for(lambda: not list((tmp_path / "room").iterdir()))
        os.kill(facts["copy"], 0)  # it is there
        os.kill(facts["copy"], signal.SIGKILL)
