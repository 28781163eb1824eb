"""TransitionStore: what it keeps, what several processes share, and what it does when the disk fails it."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from environments.caching.store import COUNTS, TransitionStore, statistics
from harness import ROOT

NOBODY = 65534


def key_of(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def filled(folder: Path, entries: int = 300, version: str = "v") -> Path:
    """A closed store's file."""
    store = TransitionStore(folder, version)
    for number in range(entries):
        store.put(key_of(number), b"value %d" % number)
    store.close()
    assert store.file is not None
    return store.file


def found(folder: Path, entries: int = 300, version: str = "v") -> int:
    """How many of the entries are there; each is the right one."""
    store = TransitionStore(folder, version)
    values = [store.get(key_of(number)) for number in range(entries)]
    store.close()
    assert all(value in (None, b"value %d" % number) for number, value in enumerate(values))
    return sum(value is not None for value in values)


def in_a_fork(work: Callable[[], None]) -> int:
    """The exit status of a child that does the work."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # threads of other tests wait for nothing that the child needs
        child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@given(st.dictionaries(st.binary(min_size=32, max_size=32), st.binary(max_size=50), max_size=20))
def test_it_is_a_dictionary(entries: dict[bytes, bytes]) -> None:
    store = TransitionStore(None, "v")
    for key, value in entries.items():
        store.put(key, value)
        store.put(key, b"the first one stays")
    assert {key: store.get(key) for key in entries} == entries
    assert store.get(b"?" * 31) is None


def test_what_was_put_is_there_in_the_next_process(tmp_path: Path) -> None:
    filled(tmp_path / "deep" / "folder")
    assert found(tmp_path / "deep" / "folder") == 300
    assert found(tmp_path / "deep" / "folder", version="another") == 0


def test_little_memory_makes_it_read_again(tmp_path: Path) -> None:
    store = TransitionStore(tmp_path, "v", memory_mb=0.01)
    for number in range(1000):
        store.put(key_of(number), b"x" * 100)
    assert len(store._memory) <= 10_000 / 300 + 1
    assert all(store.get(key_of(number)) == b"x" * 100 for number in range(1000))
    assert store._held <= 10_000
    store.close()


def test_another_process_sees_what_was_flushed(tmp_path: Path) -> None:
    one, other = TransitionStore(tmp_path, "v"), TransitionStore(tmp_path, "v")
    one.put(key_of(1), b"value")
    one.flush()
    assert other.get(key_of(1)) == b"value"
    one.close()
    other.close()


def fill(folder: Path, start: int) -> None:
    store = TransitionStore(folder, "v")
    for number in range(start, start + 2000):
        store.put(key_of(number), b"value %d" % number)
        store.count(misses=1)
    store.close()


def test_processes_write_at_once(tmp_path: Path) -> None:
    """Each begins the file, if it is the first, and each writes half of what its neighbour writes."""
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=fill, args=(tmp_path, 1000 * n)) for n in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 4
    assert found(tmp_path, 5000) == 5000
    (totals,) = statistics(tmp_path).values()
    assert totals["entries"] == 5000
    assert [process["misses"] for process in totals["processes"]] == [2000.0] * 4
    assert totals["misses"] == 8000.0
    assert len({process["pid"] for process in totals["processes"]}) == 4


def test_a_killed_process_leaves_what_it_flushed(tmp_path: Path) -> None:
    work = f"""
import os, signal
from pathlib import Path
from tests.environments.caching.test_store import TransitionStore, key_of
store = TransitionStore(Path({str(tmp_path)!r}), "v")
for number in range(300):
    store.put(key_of(number), b"value %d" % number)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", work], cwd=ROOT, env=os.environ | {"PYTHONPATH": "tests"}, check=False)
    assert done.returncode == -signal.SIGKILL
    assert found(tmp_path) >= 256


def test_statistics_of_a_folder(tmp_path: Path) -> None:
    assert statistics(tmp_path / "nowhere") == {}
    store = TransitionStore(tmp_path, "v")
    for amount in (1, 2):
        store.count(hits=3 * amount, misses=amount, seconds=0.5)
    assert store.counts() == dict.fromkeys(COUNTS, 0.0) | {"hits": 9.0, "misses": 3.0, "seconds": 1.0}
    store.close()
    (tmp_path / "other.sqlite").write_bytes(b"no store")
    totals = statistics(tmp_path)
    assert list(totals) == ["v"]
    assert totals["v"]["hit_rate"] == 0.75
    assert totals["v"]["processes"][0]["pid"] == os.getpid()


# ---------------------------------------------------------------- the disk fails


def spoil_header(file: Path) -> None:
    file.write_bytes(b"garbage" + file.read_bytes()[7:])


def spoil_all(file: Path) -> None:
    file.write_bytes(b"\xff" * len(file.read_bytes()))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: len(file.read_bytes()) // 2])


def spoil_pages(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[:4096] + b"\x99" * (len(data) - 4096))


def another_table(file: Path) -> None:
    file.unlink()
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE counts (what)")
        connection.execute("CREATE TABLE transitions (what)")
        connection.commit()


def change_a_value(file: Path) -> None:
    data = file.read_bytes()
    assert data.count(b"value 77") == 1
    file.write_bytes(data.replace(b"value 77", b"value 78"))


@pytest.mark.parametrize("spoil", [spoil_header, spoil_all, cut, spoil_pages, another_table, change_a_value])
def test_a_damaged_file_is_set_aside(
    tmp_path: Path, spoil: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    file = filled(tmp_path)
    spoil(file)
    store = TransitionStore(tmp_path, "v")
    for number in range(300):
        assert store.get(key_of(number)) in (None, b"value %d" % number)
    for number in range(300):
        store.put(key_of(number), b"value %d" % number)
    store.close()
    assert Path(f"{file}.damaged").is_file()
    assert "set aside" in caplog.text
    assert found(tmp_path) >= 299


def test_each_damaged_file_keeps_a_name_of_its_own(tmp_path: Path) -> None:
    for _ in range(3):
        spoil_all(filled(tmp_path))
    filled(tmp_path)
    assert len(list(tmp_path.glob("*.damaged*"))) == 3


def test_where_no_folder_can_be_made_it_goes_on_in_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    store = TransitionStore(tmp_path / "file" / "folder", "v")
    store.put(key_of(1), b"value")
    store.flush()
    assert store.get(key_of(1)) == b"value"
    store.close()
    assert caplog.text.count("in memory alone") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not write")
@pytest.mark.parametrize("entries", [0, 300])
def test_a_folder_that_cannot_be_written_is_read(entries: int) -> None:
    with tempfile.TemporaryDirectory() as place:  # one that somebody else may enter, unlike pytest's
        folder = Path(place)
        if entries:
            filled(folder, entries).chmod(0o444)
        folder.chmod(0o555)

        def as_nobody() -> None:
            os.setuid(NOBODY)
            assert found(folder, 300) == entries
            store = TransitionStore(folder, "v")
            store.put(key_of(-1), b"value")
            store.flush()
            assert store.get(key_of(-1)) == b"value"
            store.close()

        assert in_a_fork(as_nobody) == 0
        assert {file.suffix for file in folder.iterdir()} == ({".sqlite"} if entries else set())


def test_a_full_disk_is_written_no_more_and_said_once(tmp_path: Path) -> None:
    """A limit on the size of files is met in the midst of writing, as a full disk is."""
    output = tmp_path / "output"

    def on_a_full_disk() -> None:
        import logging

        logging.basicConfig(filename=output, force=True)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        store = TransitionStore(tmp_path, "v")
        for number in range(300):
            store.put(key_of(number), b"value %d" % number)
        store.flush()
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        for number in range(300, 3000):
            store.put(key_of(number), b"value %d" % number)
        assert all(store.get(key_of(number)) == b"value %d" % number for number in range(3000))
        store._memory.clear()
        assert store.get(key_of(7)) == b"value 7", "what stands on the disk is still read"
        store.close()

    assert in_a_fork(on_a_full_disk) == 0
    assert output.read_text().count("not written any more") == 1
    assert 300 <= found(tmp_path, 3000) < 3000


def test_a_locked_file_is_waited_for_and_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("environments.caching.store.BUSY_SECONDS", 0.05)
    file = filled(tmp_path, 0)
    store = TransitionStore(tmp_path, "v")
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for number in range(300):
            store.put(key_of(number), b"value %d" % number)
        store.flush()
        other.execute("ROLLBACK")
    store.close()
    assert found(tmp_path) == 300


# ---------------------------------------------------------------- condemned


def test_what_is_condemned_is_served_to_nobody(tmp_path: Path) -> None:
    file = filled(tmp_path)
    finder, other = TransitionStore(tmp_path, "v"), TransitionStore(tmp_path, "v")
    assert other.get(key_of(1)) == b"value 1"
    finder.condemn("it output two things \ud800")
    assert finder.condemned == "it output two things \ud800"
    assert finder.get(key_of(1)) is None
    other.flush()
    assert str(other.condemned).startswith("it output two things")
    assert other.get(key_of(1)) is None
    finder.close()
    other.close()
    assert Path(f"{file}.condemned").is_file()
    assert found(tmp_path) == 0


def test_a_condemned_file_left_in_its_place_is_set_aside(tmp_path: Path) -> None:
    """Its finder was killed before it could rename it."""
    file = filled(tmp_path)
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("INSERT INTO facts VALUES ('condemned', 'why')")
        connection.commit()
    assert found(tmp_path) == 0
    assert Path(f"{file}.condemned").is_file()


def test_threads_share_a_store(tmp_path: Path) -> None:
    store = TransitionStore(tmp_path, "v", memory_mb=0.05)
    wrong: list[int] = []

    def work(start: int) -> None:
        for number in range(start, start + 1500):
            store.put(key_of(number), b"value %d" % number)
            store.count(hits=1)
            if store.get(key_of(number)) != b"value %d" % number:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(500 * n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert store.counts()["hits"] == 9000.0
    store.close()
    assert found(tmp_path, 4000) == 4000
