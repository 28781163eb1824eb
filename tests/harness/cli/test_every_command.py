"""What holds of every command: its help says all that its text says, an example that can be typed, plain data for a
script, and the nearest right name where something is misspelt."""

from __future__ import annotations

import inspect
import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from guides import parsed

from harness import ROOT
from harness.cli import entry as cli

Command = Callable[..., Any]
SILENT = {
    "view": "serves a page until it is stopped",
    "serve": "serves a model until it is stopped",
    "check-env": "one sentence, and an exit code",
    "check-method": "one sentence, and an exit code",
    "check-context": "one sentence, and an exit code",
    "check-policy": "one sentence, and an exit code",
    "check-backend": "one sentence, and an exit code",
    "export verl": "writes a folder whose files it lists, a line each",
}
"""Commands without --json, and why a script does not miss it."""
RECORD = ROOT / "results" / "laptop" / "reasoning-mini"
PARSER: Any = typer.main.get_command(cli.app)


def commands() -> Iterator[tuple[str, Callable[..., None]]]:
    """What is typed behind `harness`, and the command; sub-commands behind the word of their group."""
    for command in (command for commands in cli.PANELS.values() for command in commands):
        name = command.__name__.replace("_", "-")
        group = cli.GROUPS.get(command)
        for entry in group.registered_commands if group else ():
            yield f"{name} {entry.name}", entry.callback
        if group is None:
            yield name, command


COMMANDS = dict(commands())


def words(text: str) -> str:
    """Text on one line, without the frames of panels."""
    return " ".join(re.sub("[\u2500-\u257f]", " ", text).split())


def sentences(command: Callable[..., None]) -> Iterator[str]:
    """Every paragraph of a command's text, and what is said of each of its arguments and options."""
    for paragraph in str(inspect.getdoc(command)).split("\n\n"):
        yield words(paragraph)
    for hint in inspect.get_annotations(command, eval_str=True).values():
        for said in getattr(hint, "__metadata__", ()):
            yield words(said.help or "")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_every_word(harness: Command, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Nothing is taken for markup: `a [search]` stays so."""
    monkeypatch.setenv("COLUMNS", "1000")
    shown = words(harness(*name.split(), "--help").out)
    for sentence in sentences(COMMANDS[name]):
        assert sentence.replace("\\[", "[") in shown
    assert ("--json" in shown) is (name not in SILENT)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_can_be_typed(name: str) -> None:
    """Its command is this one, and its options are there; nothing is run."""
    (example,) = re.findall(r"^Example: harness (.+)$", str(inspect.getdoc(COMMANDS[name])), re.MULTILINE)
    first, *rest = shlex.split(example)
    assert first == name.split()[0]
    assert parsed(PARSER.commands[first], first, rest).params


def test_silent_commands_are_commands() -> None:
    assert set(SILENT) < set(COMMANDS)
    assert set(PARSER.commands) == {name.split()[0] for name in COMMANDS}


@pytest.mark.parametrize(
    ("typed", "nearest"),
    [
        ("reproduce RECORDd", "RECORD"),
        ("tune RECORDd", "RECORD"),
        ("headroom RECORDd", "RECORD"),
        ("fidelity RECORDd", "RECORD"),
        ("trajectories RECORDd", "RECORD"),
        ("plan RECORDd", "RECORD"),
        ("table RECORDd", "RECORD"),
        ("tables RECORDd", "RECORD"),
        ("report RECORDd", "RECORD"),
        ("report RECORD --beside RECORDd", "RECORD"),
        ("view RECORDd", "RECORD"),
        ("verify RECORDd", "RECORD"),
        ("show RECORD/episodes/grop.jsonl.gz", "RECORD/episodes/grpo.jsonl.gz"),
        ("export RECORDd --to parquet --out x", "RECORD"),
        ("export RECORD --to parqet --out x", "parquet"),
        ("bench RECORD --executor rya", "ray"),
        ("init grop --env Guess-v0", "grpo"),
        ("setup appwrold", "appworld"),
        ("published --method sgdc", "SGCD"),
        ("check-method grop", "grpo"),
        ("check-context anwser", "answer"),
        ("check-policy glod --env Guess-v0", "gold"),
        ("check-env Gues-v0", "environments:Guess-v0"),
        ("check-model smollm", "smollm2"),
        ("serve smollm", "smollm2"),
        ("serve smollm2 --dtype float23", "float32"),
        ("methods --jsn", "--json"),
    ],
)
def test_the_nearest_right_name_is_said(harness: Command, typed: str, nearest: str) -> None:
    done = harness(*typed.replace("RECORD", str(RECORD)).split())
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert nearest.replace("RECORD", str(RECORD)) in done.err.partition("did you mean" if "?" in done.err else ":")[2]


@pytest.mark.parametrize(
    "typed",
    ["methods", "contexts", "environments", "setup", "published --method SGCD", "verify RECORD", "table RECORD",
     "show RECORD/episodes/grpo.jsonl.gz 1", "plan RECORD"],
)  # fmt: skip
def test_plain_data_is_all_that_is_printed(harness: Command, typed: str) -> None:
    done = harness(*typed.replace("RECORD", str(RECORD)).split(), "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)


def test_two_specs_do_not_share_a_results_folder(harness: Command, spec: Callable[..., Path], tmp_path: Path) -> None:
    text = spec().read_bytes()
    for place in ("a/same/spec.toml", "b/same/spec.toml"):
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).write_bytes(text)
    done = harness("bench", "a", "b", "--out", "results")
    assert done.code == 2
    assert "would both be results/same" in done.err
