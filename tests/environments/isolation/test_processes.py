"""Processes from outside: time, output and ends, of real ones."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from remote_pool import wait_for, wait_until_gone

from environments.isolation.processes import Output, children, cpu_seconds, ending, kill_tree, processes, started

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")

TREE = r"""
import os, time
os.setsid()
for depth in range(3):
    if os.fork():
        break
    if depth == 1:
        os.setpgid(0, 0)
os.write(1, b"%d\n" % os.getpid())
time.sleep(600)
"""


@pytest.fixture
def tree() -> Iterator[Callable[[], tuple[subprocess.Popen[bytes], set[int]]]]:
    """Makes a process in a session of its own with a child, that one's child (in another group), and its child."""
    with contextlib.ExitStack() as stack:

        def grow() -> tuple[subprocess.Popen[bytes], set[int]]:
            running = stack.enter_context(
                subprocess.Popen([sys.executable, "-c", TREE], stdout=subprocess.PIPE, bufsize=0)
            )
            stack.callback(kill_tree, running.pid)
            assert running.stdout is not None
            return running, {int(running.stdout.readline()) for _ in range(4)}

        yield grow


Grow = Callable[[], tuple[subprocess.Popen[bytes], set[int]]]


def test_a_tree_is_killed_and_nothing_else(tree: Grow) -> None:
    (first, pids), (second, others) = tree(), tree()
    assert first.pid in pids
    kill_tree(first.pid)
    assert first.wait(60) == -9
    assert wait_until_gone(pids) == set()
    assert others <= processes().keys()
    assert second.poll() is None


def test_members_of_a_session_are_killed_when_its_leader_is_gone(tree: Grow) -> None:
    running, pids = tree()
    running.kill()
    running.wait(60)
    assert pids - {running.pid} <= processes().keys()
    kill_tree(running.pid)
    assert wait_until_gone(pids) == set()


def test_an_id_that_belongs_to_another_by_now_is_left_alone() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as running:
        since = started(running.pid)
        assert since is not None
        kill_tree(running.pid, since + 1)
        assert running.pid in children(os.getpid())
        assert running.poll() is None
        kill_tree(running.pid, since)
        assert running.wait(60) == -9
    assert started(running.pid) is None


def test_cpu_time_counts_all_threads() -> None:
    code = """
import hashlib, threading
def work():
    for _ in range(20):
        hashlib.sha256(b"x" * 5_000_000).digest()
threads = [threading.Thread(target=work) for _ in range(2)]
for t in threads: t.start()
for t in threads: t.join()
import os, time
print(time.process_time(), flush=True)
input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        own = float(running.stdout.readline())
        assert own > 0
        assert cpu_seconds(running.pid) == pytest.approx(own, rel=0.2)  # it prints and waits after it looked
        running.communicate("\n")
    assert cpu_seconds(running.pid) == 0.0


@pytest.mark.parametrize(
    ("code", "text"),
    [("exit(3)", "exit status 3"), ("import os; os.kill(os.getpid(), 15)", "killed by SIGTERM")],
)
def test_endings_in_words(code: str, text: str) -> None:
    assert ending(subprocess.run([sys.executable, "-c", code], check=False).returncode) == text


def test_other_endings() -> None:
    assert ending(-200) == "killed by signal 200"
    assert ending(None) == "how it ended is not known"


def test_output_is_quoted_from_its_end_and_can_be_emptied_under_its_writer() -> None:
    output = Output()
    try:
        assert output.tail() == ""
        code = "import sys; print('x' * 10_000 + ' last', flush=True); input(); print('anew', flush=True); input()"
        with subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=output.fileno(), text=True, bufsize=0
        ) as running:
            assert running.stdin is not None
            wait_for(lambda: output.tail().endswith("last"))
            assert len(output.tail()) < 2_100
            output.empty()
            assert output.tail() == ""
            running.stdin.write("\n")
            wait_for(lambda: output.tail().endswith("anew"))
            assert output.tail() == "; its last output:\nanew"
            running.stdin.write("\n")
    finally:
        output.close()
        output.close()
    assert (output.fileno(), output.tail()) == (-1, "")
