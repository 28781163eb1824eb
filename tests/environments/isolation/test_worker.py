"""The worker's side: what it sees of the machine and of us, and what it may import."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from remote_pool import LONG, pool

from environments.isolation.pool import Worker, WorkerPool
from harness import ROOT

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")


@pytest.fixture(scope="module")
def home() -> Iterator[WorkerPool]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KEY_OF_AN_ENDPOINT", "secret")
        patch.setenv("PYTHONSTARTUP", "startup.py")
        with pool(environ={"ADDED": "yes"}) as made:
            made.spawn().close()  # now, while the variables are there
            yield made


@pytest.fixture
def worker(home: WorkerPool) -> Iterator[Worker]:
    made = home.spawn()
    yield made
    made.close()


@pytest.fixture
def facts(worker: Worker) -> dict[str, Any]:
    return dict(worker.call("facts", LONG))


def test_no_key_reaches_a_worker(facts: dict[str, Any]) -> None:
    names = {"PATH", "LD_LIBRARY_PATH", "HOME", "TMPDIR", "LANG", "TZ", "PYTHONPATH", "PYTHONHASHSEED"}
    names |= {"PYTHONUNBUFFERED", "OMP_NUM_THREADS", "ADDED", "LC_CTYPE"}
    assert facts["environ"].keys() <= names
    assert facts["environ"]["ADDED"] == "yes"
    assert facts["environ"]["PYTHONHASHSEED"] == "0"
    assert not {"KEY_OF_AN_ENDPOINT", "PYTHONSTARTUP"} & facts["environ"].keys()


def test_a_worker_is_alone_in_its_session_and_its_folder(
    home: WorkerPool, worker: Worker, facts: dict[str, Any]
) -> None:
    assert facts["session"] == facts["pid"] == worker.pid
    assert facts["parent"] != os.getpid()
    assert facts["folder"] == facts["environ"]["TMPDIR"] == os.path.join(facts["environ"]["HOME"], str(worker.pid))
    other = home.spawn()
    assert other.call("facts", LONG)["folder"] != facts["folder"]
    other.close()


def test_a_workers_folder_ends_with_it(home: WorkerPool) -> None:
    worker = home.spawn()
    folder = Path(worker.call("facts", LONG)["folder"])
    worker.call("sink", LONG, size=10)
    named = worker.call("run", LONG, code="import tempfile; result = tempfile.mkstemp()[1]")
    assert Path(named).parent == folder
    assert sorted(path.name for path in folder.iterdir()) == sorted(["big", Path(named).name])
    worker.close()
    assert not folder.exists()
    assert folder.parent.is_dir()


def test_a_worker_inherits_its_own_socket_and_nothing_else_of_ours(home: WorkerPool) -> None:
    """Not the control socket, and no other worker's: five descriptors with the listing's own, however many were forked
    before.
    """
    workers = [home.spawn() for _ in range(4)]
    assert {len(worker.call("facts", LONG)["descriptors"]) for worker in workers} == {5}
    for worker in workers:
        worker.close()


def test_a_worker_reads_nothing_from_our_terminal(facts: dict[str, Any]) -> None:
    assert facts["stdin"] == ""


def test_our_files_hide_no_library_over_there(facts: dict[str, Any]) -> None:
    """A module of the standard library may have the name of one in environments/."""
    assert str(ROOT / "environments") not in [os.path.realpath(place) for place in facts["path"]]
    assert str(ROOT / "environments" / "isolation") not in [os.path.realpath(place) for place in facts["path"]]
    assert str(ROOT) not in [os.path.realpath(place) for place in facts["path"]]


def test_modules_of_the_package_are_found_without_its_beginning() -> None:
    with pool("Namesakes") as home:
        assert home.spawn().call("names", LONG) == {"limit": 16 << 20, "initialised": False, "gymnasium": False}


def test_the_object_knows_whether_it_is_sandboxed(worker: Worker, facts: dict[str, Any]) -> None:
    assert facts["sandboxed"] is (worker.sandbox == "seccomp")


def test_the_zygote_ends_when_its_parent_sends_no_frames(tmp_path: Path) -> None:
    """Started by hand, with a pipe that ends at once, it ends and leaves no folder."""
    code = (
        "import os, socket, subprocess, sys\n"
        "ours, theirs = socket.socketpair()\n"
        "started = subprocess.Popen([sys.executable, sys.argv[1], str(theirs.fileno()), str(os.getpid())],"
        " pass_fds=[theirs.fileno()])\n"
        "theirs.close(); ours.send(b'no'); ours.close()\n"
        "sys.exit(started.wait(60))\n"
    )
    room = tempfile.mkdtemp(dir=tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", code, ROOT / "environments" / "isolation" / "worker.py"],
        env={"TMPDIR": room, "PATH": os.defpath},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert not Path(room).exists()
