"""The command: light to start, one line for every mistake, and each subcommand does what its help says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from experiments import GRPO, RLOO

from harness import ROOT
from harness.cli import finished
from harness.core.episodes import read_episodes

Command = Callable[..., Any]


def rewritten(file: Path, old: str, new: str) -> Path:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    return file


# ---------------------------------------------------------------- starting


def test_starting_imports_nothing_heavy() -> None:
    """`harness --help` and every worker process begin with this import."""
    heavy = ("torch", "pandas", "transformers", "gymnasium", "scipy", "matplotlib", "openai", "numpy", "pydantic")
    said = f"import sys, harness.cli.entry; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_help_names_every_command_and_a_bare_call_is_help(harness: Command) -> None:
    said = harness("--help")
    assert said.code == 0
    for name in (
        "bench",
        "demo",
        "compare",
        "evaluate",
        "show",
        "table",
        "methods",
        "environments",
        "check-env",
        "check-method",
        "setup",
    ):
        assert name in said.out
    assert harness() == said


def test_help_teaches_the_five_things_people_do(harness: Command) -> None:
    said = harness("--help").out
    for words in ("harness demo", "harness compare", "harness plan", "harness report", "harness check-env"):
        assert words in said


# ---------------------------------------------------------------- mistakes are one line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["benhc", "x"], "did you mean 'bench'"),
        (["bench"], "missing argument"),
        (["bench", "x", "--wrokers", "2"], "--workers"),
        (["bench", "x", "--workers", "two"], "invalid value for '--workers'"),
        (["bench", "guessing/spec.tml"], "did you mean 'guessing/spec.toml'"),
        (["bench", "gessing"], "did you mean 'guessing'"),
        (["bench", "empty"], "no spec.toml in 'empty'"),
        (["table", "guessing/spec.toml", "--format", "markdwn"], "unknown format 'markdwn'; did you mean 'markdown'?"),
        (["compare", "grpo", "--env", "Guess-v0", "--spec", "guessing/spec.toml"], "compare needs two or more methods"),
        (["compare", "grpo", "grpo", "--env", "Guess-v0", "--spec", "guessing/spec.toml"], "method labels must differ"),
        (
            ["compare", "grop", "rloo", "--env", "Guess-v0", "--spec", "guessing/spec.toml"],
            "unknown method 'grop'; did you mean 'grpo'?",
        ),
        (
            ["compare", "grpo", "rloo", "--env", "Guess-v0", "--spec", "guessing/spec.toml", "--seeds", "0;1"],
            "got '0;1'",
        ),
        (["evaluate", "--env", "Gues-v0", "--policy", "gold"], "did you mean 'environments:Guess-v0'?"),
        (["evaluate", "--env", "Guess-v0", "--policy", "glod"], "did you mean 'gold'?"),
        (
            ["evaluate", "--env", "Guess-v0", "--policy", "gold", "--split", "tset"],
            "unknown split 'tset'; did you mean 'test'?",
        ),
        (["evaluate", "--env", "Guess-v0", "--policy", "gold", "--env-options", '{"siez": 9}'], "did you mean 'size'?"),
        (
            ["evaluate", "--env", "Guess-v0", "--policy", "gold", "--env-options", '{"size": 2}'],
            "Guess needs size >= 4",
        ),
        (["evaluate", "--env", "Guess-v0", "--policy", "gold", "--env-options", "size=9"], "--env-options is not JSON"),
        (
            ["evaluate", "--env", "Reasoning-v0", "--policy", "gold", "--env-options", '{"dataset": "chain_smu"}'],
            "did you mean 'chain_sum'?",
        ),
        (["check-env", "nowhere:Guess-v0"], "unknown environment 'nowhere:Guess-v0'"),
        (["check-method", "crfat"], "unknown method 'crfat'; did you mean 'craft'?"),
        (["check-method", "grpo", "--options", '{"lk": 1}'], "did you mean 'kl'?"),
        (["show", "nothing.jsonl"], "nothing.jsonl"),
        (["setup", "apworld"], "unknown set-up 'apworld'; did you mean 'appworld'?"),
        (
            ["evaluate", "--env", "AppWorld-v0", "--policy", "gold", "--env-options", '{"world": "onw"}'],
            "unknown world 'onw'; did you mean 'own'?",
        ),
        (
            ["evaluate", "--env", "AppWorld-v0", "--policy", "gold", "--split", "test_norml"],
            "unknown split 'test_norml'; did you mean 'test_normal'?",
        ),
    ],
    ids=lambda value: " ".join(value[:4]) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_with_the_way_out(
    harness: Command, spec: Any, tmp_path: Path, words: list[str], message: str
) -> None:
    spec()
    (tmp_path / "empty").mkdir()
    said = harness(*words)
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert message.lower() in said.err.lower()
    assert "Traceback" not in said.out + said.err


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("group_size", "groop_size", "unknown key 'groop_size'; did you mean 'group_size'? (at sampling.groop_size)"),
        ("agents.methods.grpo:GRPO", "agents.methods.grpo:GPRO", "did you mean 'agents.methods.grpo:GRPO'?"),
        ("kl = 0.0", "lk = 0.0", "unknown option of method agents.methods.grpo:GRPO 'lk'; did you mean 'kl'?"),
        ("environments:Guess-v0", "environments:Gess-v0", "did you mean 'environments:Guess-v0'?"),
        ('eval_split = "test"', 'eval_split = "tets"', "unknown split 'tets'; did you mean 'test'?"),
        (
            "harness.backends.torch:TorchBackend",
            "harness.backends.torhc:TorchBackend",
            "did you mean 'harness.backends.torch:TorchBackend'?",
        ),
        ("group_size = 4", "group_size = 1", "sampling.group_size: Input should be greater than or equal to 2"),
        ("group_size = 4", "group_size = ", "not valid TOML"),
    ],
)
def test_a_mistake_in_a_spec_is_one_line_before_anything_is_run(
    harness: Command, spec: Any, tmp_path: Path, old: str, new: str, message: str
) -> None:
    rewritten(spec(), old, new)
    said = harness("bench", "guessing")
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert message in said.err
    assert not (tmp_path / "runs").exists()


def test_an_unknown_model_is_one_line(harness: Command, spec: Any, tiny_directory: Path) -> None:
    rewritten(spec(), str(tiny_directory), "smolm2")
    said = harness("bench", "guessing")
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "unknown model 'smolm2'; did you mean 'smollm2'?" in said.err


def test_a_place_that_may_not_be_written_is_one_line(harness: Command, spec: Any, tmp_path: Path) -> None:
    spec()
    (tmp_path / "file").write_text("in the way")
    said = harness("evaluate", "--env", "Guess-v0", "--policy", "gold", "--tasks", "2", "--out", "file/under")
    assert (said.code, said.err.count("\n")) == (1, 1)
    assert "file" in said.err


# ---------------------------------------------------------------- looking and checking


def test_methods_and_environments_are_listed(harness: Command) -> None:
    said = harness("methods")
    assert said.code == 0
    for name in ("grpo", "craft", "sgcd", "hsd", "sdar"):
        assert name in said.out
    assert "2402.03300" in said.out
    said = harness("environments")
    assert all(name in said.out for name in ("Guess-v0", "Reasoning-v0", "Tau3Airline-v0"))
    assert "CartPole" not in said.out


def test_what_can_be_set_up_is_listed_and_set_up(harness: Command) -> None:
    said = harness("setup")
    assert said.code == 0
    assert all(name in said.out for name in ("appworld", "appworld-data", "official data"))
    said = harness("setup", "appworld")
    assert said.code == 0
    assert all(word in said.out for word in ("appworld==", ".venvs/appworld", "own world", "test_challenge 21"))


def test_a_named_folder_without_the_official_data_is_one_line(
    harness: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APPWORLD_ROOT", str(tmp_path / "nowhere"))
    said = harness("evaluate", "--env", "AppWorld-v0", "--policy", "gold")
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "harness setup appworld-data" in said.err


def test_an_environment_is_checked(harness: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "keeps the contract" in harness("check-env", "Guess-v0").out
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_bad_environment.py").write_text(
        "import gymnasium\nfrom environments.guess import Guess\n\n\nclass Bad(Guess):\n    def gold(self, task_id):\n"
        "        return ['1']\n\n\ngymnasium.register('Bad-v0', Bad, disable_env_checker=True, order_enforce=False)\n"
    )
    said = harness("check-env", "my_bad_environment:Bad-v0")
    assert said.code == 2
    assert "does not keep the contract" in said.err
    assert "gold" in said.err


def test_a_method_is_checked(harness: Command) -> None:
    assert "keeps the contract" in harness("check-method", "grpo", "--options", '{"kl": 0.1}').out


@pytest.mark.parametrize(("policy", "success"), [("gold", 1.0), ("do-nothing", 0.0)])
def test_the_two_ends_are_evaluated(harness: Command, policy: str, success: float) -> None:
    said = harness("evaluate", "--env", "Guess-v0", "--policy", policy, "--tasks", "5", "--greedy", "--out", "out")
    assert (said.code, said.err) == (0, "")
    file = next(Path("out").glob("*.jsonl"))
    episodes, damaged = read_episodes(file)
    assert (len(episodes), damaged) == (5, ())
    assert sum(episode.success for episode in episodes) / 5 == success
    shown = harness("show", str(file), "3")
    assert episodes[3].task_id in shown.out
    assert all(str(message["content"]) in shown.out for message in episodes[3].messages)
    beyond = harness("show", str(file), "9")
    assert (beyond.code, beyond.err.count("\n")) == (2, 1)
    assert "holds episodes 0 to 4" in beyond.err


def test_a_model_is_evaluated(harness: Command, tiny_directory: Path) -> None:
    said = harness(
        "evaluate",
        "--env",
        "Guess-v0",
        "--policy",
        str(tiny_directory),
        "--tasks",
        "2",
        "--max-new-tokens",
        "3",
        "--out",
        "out",
    )
    assert (said.code, said.err) == (0, "")
    file = next(Path("out").glob("*.jsonl"))
    assert "log-probability" in harness("show", str(file), "0", "--tokens").out


# ---------------------------------------------------------------- experiments


@pytest.mark.slow
def test_bench_table_and_damage(harness: Command, spec: Any, tmp_path: Path) -> None:
    file = spec(methods=[GRPO.model_dump(), RLOO.model_dump()])
    early = harness("table", str(file))
    assert (early.code, early.err.count("\n")) == (2, 1)
    assert "nothing to make a table of" in early.err
    said = harness("bench", "guessing")
    assert (said.code, said.err) == (0, "")
    assert all(
        name in said.out for name in ("8 runs, 0 of them finished before", "GRPO", "RLOO", "written: guessing/table.md")
    )
    before = {f: f.stat().st_mtime_ns for f in (tmp_path / "runs").rglob("*")}
    table = (file.parent / "table.md").read_bytes()
    assert "everything was there" in harness("bench", "guessing").out
    shutil.rmtree(tmp_path / "runs" / finished.NOTES)
    assert "8 runs, 8 of them finished before" in harness("bench", "guessing").out
    after = {f: f.stat().st_mtime_ns for f in (tmp_path / "runs").rglob("*")}
    assert [f for f in before if finished.NOTES not in str(f) and before[f] != after.get(f) and f.is_file()] == []
    assert (file.parent / "table.md").read_bytes() == table
    assert "GRPO" in harness("table", str(file)).out
    assert harness("table", str(file), "--format", "markdown").out == table.decode()
    assert harness("table", str(file), "--format", "csv").out == (file.parent / "table.csv").read_text()

    hurt = next((tmp_path / "runs").glob("guessing/*/rloo-*-seed1")) / "rows.jsonl"
    rows = hurt.read_bytes().splitlines(keepends=True)
    hurt.write_bytes(b"".join([*rows[:3], b"\x00garbage\n", *rows[4:]]))
    said = harness("table", str(file))
    assert (said.code, said.err.count("\n")) == (1, 1)
    assert f"{hurt}, line 4: not a row" in said.err
    kept = harness("table", str(file), "--format", "markdown", "--allow-missing")
    assert kept.code == 0
    assert "1 of 4 tasks lack a result in some run" in kept.out


@pytest.mark.slow
def test_compare_two_methods_head_to_head(harness: Command, spec: Any) -> None:
    file = spec()
    words = [
        "compare",
        "grpo",
        "rloo",
        "--env",
        "Guess-v0",
        "--spec",
        str(file),
        "--steps",
        "2",
        "--seeds",
        "5,6",
        "-j",
        "2",
    ]
    said = harness(*words)
    assert (said.code, said.err) == (0, "")
    assert "Difference to grpo" in said.out
    assert "written:" in said.out
    assert "8 runs, 8 of them finished before" in harness(*words).out


@pytest.mark.slow
def test_a_run_that_fails_is_named_and_the_others_are_kept(
    harness: Command, spec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A method that raises: its runs are named, the others' records stay, and the table is not written."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_raising_method.py").write_text(
        "from agents.methods.grpo import GRPO\n\n\nclass Raising(GRPO):\n    def assign(self, *_):\n"
        "        raise ZeroDivisionError('mine')\n"
    )
    broken = {"label": "mine", "plug": "my_raising_method:Raising", "options": {"kl": 0.0}}
    file = spec(methods=[broken], seeds=[0], budget={"steps": 1})
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    said = harness("bench", str(file), "-j", "1")
    assert said.code == 1
    assert "failed: mine, seed 0: ZeroDivisionError: mine" in " ".join(said.out.split())
    assert "1 of 4 runs failed, as said above; the others are kept" in said.err
    assert len(list((tmp_path / "runs").glob("guessing/*/*/done.json"))) == 3
    assert not (file.parent / "table.md").exists()
