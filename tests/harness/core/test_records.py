"""Records: nothing is lost, damage is named, and the bytes depend on the rows alone."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.core.episodes import episode_from_row, episode_to_row, read_episodes, write_episodes
from harness.core.errors import DamagedRecordError, MissingDataError, UserError
from harness.core.records import WriteError, append, line_of, read, write_json, write_whole
from harness.types import Ending, Episode, TokenSequence

FINITE = st.floats(allow_nan=False, allow_infinity=False)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | FINITE | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.text().filter(lambda key: key not in ("schema", "check"))
ROWS = st.lists(st.dictionaries(KEYS, PLAIN, max_size=4), max_size=5)
in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)


@given(batches=st.lists(ROWS, max_size=4))
@in_one_folder
def test_what_is_appended_is_read_back_in_order(tmp_path: Path, batches: list[list[dict]]) -> None:
    path = tmp_path / "rows.jsonl"
    path.unlink(missing_ok=True)
    append(path, [])
    for batch in batches:
        append(path, batch)
    reading = read(path)
    assert reading.rows == [row for batch in batches for row in batch]
    assert reading.damaged == ()


def test_the_bytes_are_those_of_the_rows(tmp_path: Path) -> None:
    append(
        tmp_path / "a.jsonl",
        [{"b": 0.1 + 0.2, "a": math.nan}, {"x": np.float64(1) / 3, "n": np.int32(7), "v": np.arange(2)}],
    )
    assert (tmp_path / "a.jsonl").read_text() == (
        '{"kind":"records","schema":2,"check":"146fdf04efe8370d"}\n'
        '{"a":null,"b":0.30000000000000004,"check":"77cf5455cdf7bba0"}\n'
        '{"n":7,"v":[0,1],"x":0.3333333333333333,"check":"4750cb01dc3d911e"}\n'
    )
    # A checksum is the first 16 digits of the sha256 of the line without it: anyone can compute it.
    assert hashlib.sha256(b'{"a":null,"b":0.30000000000000004}').hexdigest().startswith("77cf5455cdf7bba0")
    # Two appends or one: the same file.
    append(tmp_path / "b.jsonl", [{"b": 0.1 + 0.2, "a": math.inf}])
    append(tmp_path / "b.jsonl", [{"v": [0, 1], "n": 7, "x": 1 / 3}])
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


@given(rows=ROWS.filter(len), cut=st.integers(min_value=0))
@in_one_folder
def test_a_kill_in_the_middle_of_a_write_costs_the_last_row_only(tmp_path: Path, rows: list[dict], cut: int) -> None:
    path = tmp_path / "rows.jsonl"
    path.unlink(missing_ok=True)
    append(path, rows)
    whole = path.read_bytes()
    kept = whole[: cut % len(whole)]
    path.write_bytes(kept)
    append(path, [{"after": 1}])
    *complete, last = kept.split(b"\n")
    half = last not in (b"", *whole.split(b"\n"))  # a line whose end alone is missing is whole
    survivors = [json.loads(line) for line in [*complete, *([] if half or not last else [last])]]
    written = [{key: value for key, value in row.items() if key != "check"} for row in survivors if "schema" not in row]
    reading = read(path)
    assert reading.rows == [*written, {"after": 1}]
    assert reading.damaged == ()  # what was half-written is taken back, and was never said to be written


def test_damage_is_named_by_file_and_line_and_the_rest_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    append(path, [{"i": i} for i in range(5)])
    lines = path.read_bytes().split(b"\n")
    lines[2] = b'{"i": 1, \x00\xff'
    lines[4] = b"[3]"
    path.write_bytes(b"\n".join([*lines[:-1], b'{"i": 9']))
    reading = read(path)
    assert [row["i"] for row in reading.rows] == [0, 2, 4]
    assert [damage.line for damage in reading.damaged] == [3, 5, 7]
    assert str(reading.damaged[0]).startswith(f"{path}, line 3: not a row")
    assert "list" in reading.damaged[1].reason
    assert reading.damaged[2].reason == "half-written"
    with pytest.raises(DamagedRecordError, match=r"line 3.*line 5.*line 7"):
        reading.strict()
    path.write_bytes(b'{"i":1}\n' + b"[" * 100_000 + b"\n")
    assert [damage.line for damage in read(path).damaged] == [1, 2]  # no header; brackets deeper than the parser goes


@pytest.mark.parametrize("end", [b"|", b"\x00", b"}", b'"'])
def test_a_last_line_whose_end_was_changed_is_damaged_and_kept(tmp_path: Path, end: bytes) -> None:
    """What a kill leaves is the beginning of a row: a whole row with something else behind it was changed, and is not
    taken back as if it had never been written."""
    path = tmp_path / "rows.jsonl"
    append(path, [{"i": 0}, {"i": 1}])
    path.write_bytes(path.read_bytes()[:-1] + end)
    for after in ([], [{"i": 2}]):
        append(path, after)
        reading = read(path)
        assert reading.rows == [{"i": 0}, *after]
        (damage,) = reading.damaged
        assert (damage.line, damage.reason.startswith("not a row")) == (3, True)


def test_another_schema_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"kind":"records","schema":99}\n{"a":1}\n')
    with pytest.raises(DamagedRecordError, match=r"rows\.jsonl, line 1: written with schema 99, this version reads 1"):
        read(path)
    with pytest.raises(MissingDataError, match="absent"):
        read(tmp_path / "absent.jsonl")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"a": {"b": [1, object()]}}, r"row\.a\.b\[1\]: object is no plain data"),
        ({"a": {1: 2}}, r"row\.a: keys must be text, got 1"),
        ({"schema": 3}, "may not have the key 'schema'"),
        ({"check": 3}, "may not have the key 'check'"),
    ],
)
def test_what_is_no_plain_data_is_refused_before_anything_is_written(tmp_path: Path, row: dict, said: str) -> None:
    path = tmp_path / "rows.jsonl"
    append(path, [{"a": 1}])
    before = path.read_bytes()
    with pytest.raises(UserError, match=said):
        append(path, [{"good": 1}, row])
    assert path.read_bytes() == before
    with pytest.raises(UserError, match="write_episodes"):
        append(tmp_path / "rows.jsonl.gz", [{"a": 1}])


def test_a_full_disk_names_the_file_and_leaves_it_readable(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="/dev/full: No space left on device") as caught:
        append("/dev/full", [{"a": 1}])
    assert caught.value.errno == errno.ENOSPC
    # A limit on the size of files cuts a write in the middle, as a disk does that fills up.
    path = tmp_path / "rows.jsonl"
    append(path, [{"a": 1}])
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(WriteError, match=r"rows\.jsonl"):
            append(path, [{"text": "x" * 3000}, {"text": "y" * 3000}])
        assert path.read_bytes() == before
        with pytest.raises(WriteError, match=r"rows\.jsonl"):
            write_whole(path, "z" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["rows.jsonl"]


def _append_many(path: str, writer: int) -> None:
    for index in range(20):
        append(path, [{"writer": writer, "index": index, "text": "x" * 5000}])


def test_processes_that_append_at_once_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_append_many, args=(str(path), writer)) for writer in range(2)]
    for process in writers:
        process.start()
    for process in writers:
        process.join()
    rows = read(path).strict()
    for writer in range(2):
        assert [row["index"] for row in rows if row["writer"] == writer] == list(range(20))
    assert path.read_bytes().count(b'"schema"') == 1


def test_only_one_of_many_that_start_at_once_writes_the_header(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        for attempt in range(40):
            path, start = tmp_path / f"{attempt}.jsonl", threading.Barrier(8)

            def join_in(index: int, path: Path = path, start: threading.Barrier = start) -> None:
                start.wait()
                append(path, [{"index": index}])

            list(pool.map(join_in, range(8)))
            assert path.read_bytes().count(b'"schema"') == 1
            assert sorted(row["index"] for row in read(path).strict()) == list(range(8))


def test_a_killed_writer_leaves_a_file_that_reads(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    code = (
        "import sys\nfrom harness.core.records import append\n"
        "for i in range(10**6): append(sys.argv[1], [{'i': i, 'text': 'x' * 2000}])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(path)])
    while not path.exists() or path.stat().st_size < 20_000:
        assert process.poll() is None
    process.kill()
    process.wait()
    append(path, [{"i": "after"}])
    reading = read(path)
    assert len(reading.damaged) <= 1
    assert [row["i"] for row in reading.rows] == [*range(len(reading.rows) - 1), "after"]


def test_write_whole_replaces_and_survives_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "spec.toml"
    write_whole(path, "a = 1\n")
    write_whole(path, b"a = 2\n")
    assert path.read_text() == "a = 2\n"
    assert path.stat().st_mode & 0o777 == 0o644
    write_json(path, {"b": [math.nan, 1.0], "a": np.float32(0.5)})
    assert path.read_text() == '{\n  "a": 0.5,\n  "b": [\n    null,\n    1.0\n  ]\n}\n'
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inside").touch()
    with pytest.raises(WriteError, match="folder"):
        write_whole(tmp_path / "folder", "a file cannot replace a folder")
    assert sorted(os.listdir(tmp_path)) == ["deep", "folder"]


# ---------------------------------------------------------------- episodes


@st.composite
def parts_of_episodes(draw: st.DrawFn) -> dict[str, Any]:
    """Plain data: our own types are checked where they are made, and those checks draw random numbers."""
    tokens = draw(
        st.lists(st.tuples(st.integers(0, 2**40), st.booleans(), st.floats(-1e300, 0), st.integers(0, 9)), max_size=9)
    )
    ending = draw(st.sampled_from(Ending))
    text = st.text(st.characters(exclude_categories=()))  # lone surrogates too: a policy may emit any bytes
    message = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": text})
    return {
        "task_id": draw(st.text()),
        "tokens": tokens,
        "reward": math.nan if ending is Ending.ERROR else draw(FINITE),
        "success": draw(st.booleans()),
        "ending": ending,
        "messages": tuple(draw(st.lists(message, max_size=3))),
        "metrics": draw(st.dictionaries(st.text(), FINITE | st.just(math.nan), max_size=3)),
        "seed": draw(st.integers(0, 2**63)),
    }


def episode_of(tokens: list[tuple[int, bool, float, int]], **parts: Any) -> Episode:
    ids, mask, logprobs, turns = zip(*tokens, strict=True) if tokens else ((), (), (), ())
    flags = np.array(mask, dtype=bool)
    sequence = TokenSequence(
        tokens=np.array(ids, dtype=np.int64),
        mask=flags,
        logprobs=np.where(flags, np.array(logprobs, dtype=np.float64), 0.0),
        turns=np.sort(np.array(turns, dtype=np.int64)),
    )
    return Episode(sequence=sequence, **parts)


def assert_same(one: Episode, other: Episode) -> None:
    for name in ("tokens", "mask", "logprobs", "turns"):
        ours, theirs = getattr(one.sequence, name), getattr(other.sequence, name)
        assert ours.dtype == theirs.dtype
        assert ours.tobytes() == theirs.tobytes()
    np.testing.assert_equal(one.reward, other.reward)  # NaN equals NaN
    np.testing.assert_equal(dict(one.metrics), dict(other.metrics))
    for name in ("task_id", "success", "ending", "messages", "seed"):
        assert getattr(one, name) == getattr(other, name)


@given(parts=st.lists(parts_of_episodes(), max_size=3))
@in_one_folder
def test_episodes_come_back_as_they_were(tmp_path: Path, parts: list[dict[str, Any]]) -> None:
    sample = [episode_of(**part) for part in parts]
    path = tmp_path / "episodes.jsonl.gz"
    write_episodes(path, sample)
    once = path.read_bytes()
    assert once[4:8] == bytes(4)  # gzip's field for the time of writing
    back, damaged = read_episodes(path)
    assert damaged == ()
    assert len(back) == len(sample)
    for one, other in zip(sample, back, strict=True):
        assert_same(one, other)
    write_episodes(path, back)
    assert path.read_bytes() == once


def an_episode(**changes: object) -> Episode:
    sequence = TokenSequence(np.arange(3), np.array([False, True, True]), np.array([0.0, -0.5, -1.5]), np.zeros(3, int))
    return Episode(
        **({"task_id": "t", "sequence": sequence, "reward": 1.0, "success": True, "ending": Ending.COMPLETED} | changes)
    )


def test_infinite_numbers_are_refused_and_damaged_rows_named() -> None:
    with pytest.raises(UserError, match="infinite"):
        episode_to_row(an_episode(metrics={"ratio": math.inf}))
    row = episode_to_row(an_episode())
    assert json.loads(line_of(row)) == row
    with pytest.raises(DamagedRecordError, match="'t': KeyError: 'mask'"):
        episode_from_row({key: value for key, value in row.items() if key != "mask"})
    with pytest.raises(DamagedRecordError, match=r"'t': ValueError: 'asleep'"):
        episode_from_row(row | {"ending": "asleep"})


def test_a_cut_or_damaged_sample_gives_what_was_before(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl.gz"
    rng = np.random.default_rng(0)
    many = [an_episode(task_id=rng.bytes(200).hex()) for _ in range(200)]
    write_episodes(path, many)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    back, damaged = read_episodes(path)
    assert 50 < len(back) < 150
    assert [one.task_id for one in back] == [one.task_id for one in many[: len(back)]]
    assert "ends early" in damaged[-1].reason
    path.write_bytes(whole[: len(whole) // 2] + b"\xff" * 5000)
    back, damaged = read_episodes(path)
    assert back[0].task_id == many[0].task_id
    assert "compressed data" in damaged[-1].reason
