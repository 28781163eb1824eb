"""What other tools are given of a results folder holds what the folder holds."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from harness import ROOT
from harness.core import records
from harness.core.errors import UserError
from harness.report.export import card, checklist, frames, inspect_log, trackers
from harness.report.export.held import Held, read_held

FOLDER = ROOT / "results" / "laptop" / "tau3-airline-mini"


@pytest.fixture(scope="module")
def held() -> Held:
    return read_held(FOLDER)


def test_a_card_holds_every_row_and_names_every_drop(held: Held, tmp_path: Path) -> None:
    written = {file.name: file for file in card.write_card(held, tmp_path)}
    rows = [json.loads(line) for line in written["rows.jsonl"].read_text().splitlines()]
    recorded = records.read(FOLDER / "rows.jsonl.gz").rows
    assert [{k: v for k, v in row.items() if k != "matched"} for row in rows] == recorded
    told = json.loads(written["card.json"].read_text())
    kept = Counter(json.loads(line)["method"] for line in written["rollouts.jsonl"].read_text().splitlines())
    assert told["record"]["rollouts"] == dict(kept)
    drops = json.loads(written["drops.json"].read_text())
    assert sum(row["failed"] for row in drops["evaluation"]) == sum(row["failed"] for row in recorded)


def test_rows_become_flat_and_stay_as_many(held: Held) -> None:
    made = frames.frames(held)
    assert len(made["rows"]) == len(held.found.rows)
    assert made["rows"][0]["metrics.turns"] == held.found.rows[0]["metrics"]["turns"]
    tokens = next(iter(held.episodes.values()))[0]["tokens"]
    assert made["episodes"][0]["tokens"] == tokens
    assert all(not isinstance(value, dict) for row in made["episodes"] for value in row.values())


def test_the_score_of_a_log_is_the_share_of_episodes_that_succeeded(held: Held) -> None:
    for method, episodes in held.episodes.items():
        log = inspect_log.log_of(held, method)
        mean = sum(bool(episode["success"]) for episode in episodes) / len(episodes)
        assert log["results"]["scores"][0]["metrics"]["mean"]["value"] == pytest.approx(mean)
        assert len({(sample["id"], sample["epoch"]) for sample in log["samples"]}) == len(episodes)


def test_a_checklist_leaves_open_what_no_record_tells(held: Held) -> None:
    told = dict(checklist.answers(held))
    assert told["Seeds"].startswith(f"{len(held.experiment.seeds)}: ")
    assert told["License of data and weights"] == checklist.OPEN


def test_trackers_get_every_point_of_every_curve(held: Held) -> None:
    sampled = [scalar for scalar in trackers.scalars(held) if scalar[1] == "success/sampled"]
    assert [scalar[2] for scalar in sampled] == [point["sampled"] for point in held.found.points]


def test_a_tracker_is_given_every_scalar_once_in_the_order_of_steps(held: Held) -> None:
    got: list[trackers.Scalar] = []

    @contextlib.contextmanager
    def tracker(run: str) -> Iterator[trackers.Log]:
        steps: list[int] = []

        def log(values: Mapping[str, float], step: int) -> None:
            steps.append(step)
            got.extend((run, name, value, step) for name, value in values.items())

        yield log
        assert steps == sorted(set(steps))

    names = trackers.track(held, tracker)
    assert sorted(got) == sorted(trackers.scalars(held))
    assert len(names) == len(set(names)) == len({run for run, *_ in got})


@pytest.mark.slow
@pytest.mark.heavy
def test_tensorboard_holds_every_scalar(held: Held, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install tensorboard")
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    got = []
    for folder in trackers.write_tensorboard(held, tmp_path):
        (file,) = folder.iterdir()
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                read = value.tensor.float_val[0]
                got.append((folder.relative_to(tmp_path).as_posix(), value.tag, read, event.step))
    _are_the_scalars(held, got, float32=True)


@pytest.mark.slow
@pytest.mark.heavy
def test_trackio_holds_every_scalar(held: Held, tmp_path: Path) -> None:
    pytest.importorskip("trackio", reason="trackio is not installed: pip install trackio")
    code = (
        "import json, sys, pathlib\nfrom harness.report.export import held, trackers\n"
        "told = held.read_held(pathlib.Path(sys.argv[1]))\n"
        "(file,) = trackers.write_trackio(told, pathlib.Path(sys.argv[2]))\n"
        "from trackio.sqlite_storage import SQLiteStorage as store\n"
        "got = {run: store.get_logs(file.stem, run) for run in store.get_runs(file.stem)}\n"
        "print(json.dumps(got))\n"
    )
    # in a process of its own: trackio's folder is decided when it is imported
    environ = os.environ | {"PYTHONPATH": str(ROOT), "TRACKIO_SERVER_URL": "http://127.0.0.1:9"}
    command = [sys.executable, "-c", code, str(FOLDER), str(tmp_path)]
    ran = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=300)
    assert ran.returncode == 0, ran.stderr
    (told,) = [line for line in ran.stdout.splitlines() if line.startswith("{")]  # trackio speaks at the exit too
    rows = [(run, row) for run, logged in json.loads(told).items() for row in logged]
    got = [
        (run, name, value, row["step"])
        for run, row in rows
        for name, value in row.items()
        if name not in ("step", "timestamp")
    ]
    _are_the_scalars(held, got)


@pytest.mark.slow
@pytest.mark.heavy
def test_wandb_holds_every_scalar_and_nothing_of_this_machine(held: Held, tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed: pip install wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    got = []
    for folder in trackers.write_wandb(held, tmp_path):
        (file,) = folder.glob("*.wandb")
        records = [Record.FromString(blob) for blob in _level_log(file.read_bytes()[7:])]
        (run,) = [record.run.display_name for record in records if record.HasField("run")]
        for record in records:
            items = {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
            step = int(items.pop("_step", 0))
            got += [(run, name, json.loads(value), step) for name, value in items.items() if name[0] != "_"]
        assert not (folder / "files" / "requirements.txt").exists()
    _are_the_scalars(held, got)


def _are_the_scalars(held: Held, got: list[Any], float32: bool = False) -> None:
    wanted = sorted(trackers.scalars(held))
    assert [(run, name, step) for run, name, _, step in sorted(got)] == [(r, n, s) for r, n, _, s in wanted]
    values = [scalar[2] for scalar in wanted]
    assert [scalar[2] for scalar in sorted(got)] == (pytest.approx(values, rel=1e-6, abs=1e-30) if float32 else values)


def _level_log(data: bytes) -> Iterator[bytes]:
    """The records of a log in LevelDB's format, from behind W&B's header of 7 bytes: blocks of 32 KiB, of fragments
    with a checksum (4 bytes), a length (2) and a kind (1): whole, first, middle or last."""
    place, parts = 7, b""  # a block's first 7 bytes are the header's in the first one
    data = b"\0" * 7 + data
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield parts
            parts = b""


@pytest.mark.slow
@pytest.mark.heavy
def test_inspect_reads_our_logs(held: Held, tmp_path: Path) -> None:
    inspect_ai = pytest.importorskip("inspect_ai.log", reason="inspect_ai is not installed: pip install inspect-ai")
    for file in inspect_log.write_logs(held, tmp_path):
        read = inspect_ai.read_eval_log(str(file))
        assert read.status == "success"
        assert len(read.samples) == read.results.total_samples


@pytest.mark.slow
@pytest.mark.heavy
def test_parquet_comes_back_as_it_was(held: Held, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install pyarrow")
    import pandas as pd

    written = {file.stem: file for file in frames.write_parquet(held, tmp_path)}
    for name, rows in frames.frames(held).items():
        assert len(pd.read_parquet(written[name])) == len(rows)


def test_what_is_not_installed_is_said(held: Held, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(UserError, match="pip install"):
        list(frames.write_parquet(held, tmp_path))
