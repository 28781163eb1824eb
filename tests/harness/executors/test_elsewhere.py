"""Works sent elsewhere: as tasks of Ray and as jobs of submitit, with the records of local processes, byte for byte."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from experiments import small
from rich.console import Console

from harness import ROOT
from harness.cli.where import Where
from harness.core.errors import HarnessError, MissingDataError, UnknownNameError, UserError
from harness.executors.errands import Errand, Report, attempt, collect
from harness.executors.local import Local
from harness.executors.ray import Ray
from harness.executors.slurm import Slurm
from harness.executors.work import Executor, Work
from harness.report.files import REPORT

LOCALLY = {"cluster": "local"}


def needs(package: str) -> Any:
    return pytest.mark.skipif(
        importlib.util.find_spec(package) is None, reason=f"{package} is not installed (make .venv/ready-ray)"
    )


# ---------------------------------------------------------------- errands, without any cluster


def double(number: int, report: Report) -> int:
    report("doubling", 1, 2)
    report("doubling", 2, 2)
    return 2 * number


def fail(error: Exception, report: Report) -> None:
    raise error


class Odd(Exception):
    """Does not travel: its own constructor wants two arguments."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"{one} and {other}")


def test_an_errand_is_done_in_the_folder_it_was_sent_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    for folder in (home, tmp_path / "mail", tmp_path / "elsewhere"):
        folder.mkdir()
    monkeypatch.chdir(home)
    errand = Errand.of(partial(double, 21), 5, tmp_path / "mail")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert errand() == 42
    assert Path.cwd() == home
    assert list(collect(tmp_path / "mail")) == [(5, "doubling", 2, 2)]


def test_a_machine_without_the_folder_says_so(tmp_path: Path) -> None:
    outcome = Errand(b"", 0, str(tmp_path / "not here"), str(tmp_path))()
    assert isinstance(outcome, UserError)
    assert "not here: runs are sent to machines that share a file system" in str(outcome)


@pytest.mark.parametrize(
    ("raised", "kind", "words"),
    [
        (ValueError("no"), ValueError, "no"),
        (UnknownNameError("key", "a", ["b"]), UserError, "unknown key 'a'; known: b"),
        (Odd(1, 2), HarnessError, "Odd: 1 and 2"),
    ],
)
def test_errors_travel_as_values(raised: Exception, kind: type, words: str) -> None:
    got = attempt(partial(fail, raised), lambda what, done, total: None)
    assert type(got) is kind
    assert str(got) == words


def test_torn_mail_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "0.json").write_text('["steps", 1')
    (tmp_path / "1.json").write_text('["steps", 1, 9]')
    assert list(collect(tmp_path)) == [(1, "steps", 1, 9)]


# ---------------------------------------------------------------- what a command says


def test_executors_keep_their_contract_and_are_chosen_by_name(tmp_path: Path) -> None:
    chosen = {
        "local": Where.of("local", 3, "", "{}"),
        "ray": Where.of("ray", 2, "auto", "{}"),
        "slurm": Where.of("slurm", 0, "", '{"slurm_partition": "gpu"}'),
    }
    made = {name: where.make(small(), tmp_path) for name, where in chosen.items()}
    assert all(isinstance(executor, Executor) for executor in made.values())
    assert {name: type(executor) for name, executor in made.items()} == {"local": Local, "ray": Ray, "slurm": Slurm}
    slurm: Any = made["slurm"]
    assert slurm.parameters == {"timeout_min": 1440, "cpus_per_task": 1, "slurm_partition": "gpu"}
    gpu: Any = chosen["slurm"].make(small(model={"device": "auto"}), tmp_path)
    assert gpu.parameters["gpus_per_node"] == 1


def test_each_run_over_several_processes_leaves_room_for_fewer_runs(tmp_path: Path) -> None:
    experiment = Where.of("local", 0, "", "{}", 64).over(small())
    assert experiment.backend.options == {"processes": 64}
    one: Any = Where.of("local", 0, "", "{}", 64).make(experiment, tmp_path)
    assert one.workers == 1
    three: Any = Where.of("local", 3, "", "{}", 64).make(experiment, tmp_path)
    assert three.workers == 3
    assert Where.of("local", 0, "", "{}").over(experiment) == experiment
    with pytest.raises(UserError, match=r"the backend harness.backends.trl:TrlBackend has no option processes"):
        Where.of("local", 0, "", "{}", 2).over(small(backend="harness.backends.trl:TrlBackend"))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("rey", 0, "", "{}"), "unknown executor 'rey'; did you mean 'ray'"),
        (("local", 0, "auto", "{}"), "--ray-address goes with --executor ray, this is --executor local"),
        (("ray", 0, "", '{"a": 1}'), "--slurm goes with --executor slurm, this is --executor ray"),
        (("slurm", 0, "", "["), "--slurm is not JSON"),
        (("ray", 0, "", "{}", 2), "--processes goes with --executor local, this is --executor ray"),
    ],
)
def test_what_does_not_go_together_is_refused(given: tuple[Any, ...], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Where.of(*given)


@pytest.mark.parametrize(("package", "make"), [("ray", lambda p: Ray(p)), ("submitit", lambda p: Slurm(p, LOCALLY))])
def test_a_missing_package_is_named_with_its_extra(
    package: str, make: Callable[[Path], Executor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDataError, match=rf"needs the package {package}: pip install 'sibling-harness\["):
        make(tmp_path).do([Work("one", partial(double, 1))], "all", Console(quiet=True))
    assert make(tmp_path).do([], "all", Console(quiet=True)) == []


# ---------------------------------------------------------------- a few works


def works() -> list[Work]:
    return [Work(str(n), partial(double, n)) for n in range(3)] + [Work("bad", partial(fail, ValueError("no")))]


def executed(executor: Executor) -> list[Any]:
    return executor.do(works(), "all", Console(quiet=True))


@needs("submitit")
@pytest.mark.slow
@pytest.mark.heavy
def test_submitit_gives_what_local_processes_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(Path(__file__).parent), str(ROOT / "tests")]))
    for outcomes in (executed(Local(2)), executed(Slurm(tmp_path, LOCALLY, at_once=2))):
        assert outcomes[:3] == [0, 2, 4]
        assert (type(outcomes[3]), str(outcomes[3])) == (ValueError, "no")
    assert not list(tmp_path.iterdir())


@needs("submitit")
@pytest.mark.slow
@pytest.mark.heavy
def test_what_submitit_does_not_know_is_refused_in_words(tmp_path: Path) -> None:
    for options in ({"cluster": "local", "slurm_partitoin": "x"}, {"cluster": "slurm"}, {"cluster": "moon"}):
        with pytest.raises(UserError, match="--executor slurm: "):
            executed(Slurm(tmp_path, options))


# ---------------------------------------------------------------- whole experiments


@pytest.fixture
def place(tiny_directory: Path, tmp_path: Path) -> Path:
    """A folder with a spec of two runs that take some seconds."""
    spec = small(
        name="long",
        model={"name": str(tiny_directory)},
        environment={"id": "environments:Guess-v0"},
        budget={"steps": 24, "checkpoint_every": 3},
        sampling={"prompts_per_step": 2},
        evaluation={"every": 8},
        seeds=[0, 1],
    )
    (tmp_path / "long").mkdir()
    (tmp_path / "long" / "spec.toml").write_text(tomli_w.dumps(json.loads(spec.model_dump_json(exclude_none=True))))
    return tmp_path


@pytest.fixture
def laptop(tmp_path: Path) -> Path:
    """A folder with a laptop's experiment, all of it shorter: its starts and the runs of three methods are still fitted
    and trained."""
    spec = tomllib.loads((ROOT / "results" / "laptop" / "bifurcation" / "spec.toml").read_text(encoding="utf-8"))
    spec |= {"name": "long", "seeds": [0, 1], "methods": spec["methods"][:3]}
    spec["warm_start"] |= {"steps": 40, "batch": 8, "demonstrations": 100}
    spec["budget"] |= {"steps": 12, "checkpoint_every": 2}
    spec["evaluation"] |= {"tasks": 6, "samples": 1, "every": 6, "curve_tasks": 6}
    (tmp_path / "long").mkdir()
    (tmp_path / "long" / "spec.toml").write_text(tomli_w.dumps(spec))
    return tmp_path


def command(place: Path, name: str, *options: str, runs: str = "", cache: str = "cache") -> subprocess.Popen[str]:
    """`harness bench` in a process group of its own; its results under `name`."""
    words = [sys.executable, "-m", "harness.cli", "bench", "long", "--cache", cache, "-j", "2"]
    words += ["--runs", runs or f"runs-{name}", "--out", name, *options]
    environ = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200", "HOME": str(place), "RAY_AUTH_MODE": "disabled"}
    environ["PYTHONUNBUFFERED"] = "1"
    return subprocess.Popen(
        words, cwd=place, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def finished(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate()
    assert process.returncode == 0, (out, err)
    return out


def wait_until(happened: Callable[[], Any], command: subprocess.Popen[str]) -> Any:
    """What is waited for, however crowded the machine, while a command goes on; the limit of every test is the only
    one."""
    while not (found := happened()):
        assert command.poll() is None, command.communicate()
        time.sleep(0.05)
    return found


def holder(lock: Path) -> int | None:
    """The process that holds a run's folder, as the kernel lists it."""
    if not lock.is_file():
        return None
    inode = lock.stat().st_ino
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == str(inode):
            return int(fields[4])
    return None


def assert_same_results(place: Path, name: str, other: str) -> None:
    """Every file of a results folder but what holds seconds: they are left out of the table; no page, no sums."""
    files = sorted(file.relative_to(place / name) for file in (place / name / "long").rglob("*") if file.is_file())
    assert len(files) > 5
    for file in files:
        if file.name in ("provenance.json", "README.md", "SHA256SUMS", REPORT):
            continue
        one, two = ((place / folder / file).read_bytes() for folder in (name, other))
        if file.suffix in (".md", ".html", ".tex"):
            one, two = (content.partition(b"Seconds")[0] for content in (one, two))
        assert one == two, file


def killed_while_it_runs(place: Path, process: subprocess.Popen[str], name: str, kills: int) -> None:
    """SIGKILL the process that works on the first method run, so many times, each time after more of its steps."""
    done = 0
    for _ in range(kills):
        folder = wait_until(lambda: [*place.glob(f"runs-{name}/long/*/grpo-*-seed0")], process)[0]
        file = folder / "steps.jsonl"
        wait_until(lambda file=file, done=done: file.is_file() and file.read_text().count("\n") > done + 2, process)
        worker = wait_until(lambda folder=folder: holder(folder / ".lock"), process)
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda folder=folder, worker=worker: holder(folder / ".lock") not in (worker, None), process)
        done = file.read_text().count("\n")


def killed_at_random(place: Path, process: subprocess.Popen[str], name: str, seed: int) -> int:
    """SIGKILL, while a command goes on, whichever process makes a start or works on a run of it, at random moments and
    each at most twice, one time less than is tried again; how many were killed."""
    rng, killed = random.Random(seed), dict[Path, int]()
    while process.poll() is None:
        time.sleep(rng.uniform(0.1, 4.0))
        locks = [*place.glob(f"cache-{name}/locks/start-*.lock"), *place.glob(f"runs-{name}/long/*/*/.lock")]
        held = [(lock, worker) for lock in sorted(locks) if (worker := holder(lock)) and killed.get(lock, 0) < 2]
        if held:
            lock, worker = rng.choice(held)
            assert worker != process.pid
            os.kill(worker, signal.SIGKILL)
            killed[lock] = killed.get(lock, 0) + 1
    return sum(killed.values())


CLUSTERS = [
    pytest.param(("--executor", "ray"), marks=[needs("ray")], id="ray"),
    pytest.param(("--executor", "slurm", "--slurm", json.dumps(LOCALLY)), marks=[needs("submitit")], id="slurm"),
]


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.parametrize("options", CLUSTERS)
def test_a_killed_worker_is_replaced_and_the_table_is_the_local_one(place: Path, options: tuple[str, ...]) -> None:
    finished(command(place, "local"))
    process = command(place, "there", *options)
    try:
        killed_while_it_runs(place, process, "there", 2)
        out = finished(process)
    finally:
        process.kill()
    assert "failed: " not in out  # what Ray says of a retry is its own
    assert_same_results(place, "there", "local")


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("options", CLUSTERS[:1])
def test_workers_killed_at_random_leave_a_laptops_table_as_local_processes_do(
    laptop: Path, options: tuple[str, ...]
) -> None:
    """Starts made anew by either, eight runs and the baselines."""
    finished(command(laptop, "local", cache="cache-local"))
    process = command(laptop, "there", *options, cache="cache-there")
    try:
        killed = killed_at_random(laptop, process, "there", seed=0)
        out = finished(process)
    finally:
        process.kill()
    assert killed >= 4
    assert "failed: " not in out
    assert_same_results(laptop, "there", "local")


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.parametrize("options", CLUSTERS[:1])
def test_of_two_commands_for_one_run_the_second_waits_and_says_so(place: Path, options: tuple[str, ...]) -> None:
    first = command(place, "first", *options, runs="runs")
    second = None
    try:
        steps = wait_until(lambda: [*place.glob("runs/long/*/grpo-*-seed0/steps.jsonl")], first)[0]
        worker = wait_until(lambda: holder(steps.with_name(".lock")), first)
        os.kill(worker, signal.SIGSTOP)  # so that it is still at it when the second command gets there
        try:
            second = command(place, "second", runs="runs")
            assert second.stdout is not None
            assert any("another command is working on these runs: this one waits" in words for words in second.stdout)
        finally:
            os.kill(worker, signal.SIGCONT)
        finished(first)
        finished(second)
    finally:
        for process in (first, second):
            if process is not None:
                process.kill()
    assert_same_results(place, "second", "first")
