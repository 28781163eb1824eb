"""`harness compare` and `harness init`: rows as people write them, and a spec made from an environment."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from guides import written

from harness.cli.comparing import row_of, settings_of
from harness.core.errors import UserError
from harness.experiment import read_experiment

Command = Callable[..., Any]


@pytest.mark.parametrize(
    ("text", "plug", "options"),
    [
        ("grpo", "agents.methods.grpo:GRPO", {}),
        ("craft(credit=aligned)", "agents.methods.craft:CRAFT", {"credit": "aligned"}),
        ("grpo( kl = 0.0 )", "agents.methods.grpo:GRPO", {"kl": 0.0}),
        ("mine:M(a=[1, 2], b='x,y', c=true, d=-1)", "mine:M", {"a": [1, 2], "b": "x,y", "c": True, "d": -1}),
        ("mine:M()", "mine:M", {}),
    ],
)
def test_a_row_as_people_write_it(text: str, plug: str, options: dict[str, Any]) -> None:
    row = row_of(text)
    assert (row.label, row.plug, row.options) == (text, plug, options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("craft(credit)", "options of a method are written option=value, got 'credit'"),
        ("craft(credit=)", "option=value"),
        ("craft(credit=aligned", r"written NAME or NAME\(option=value"),
        ("crfat(credit=aligned)", "did you mean 'craft'"),
    ],
)
def test_a_row_that_cannot_be_read(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        row_of(text)


def test_what_a_row_leaves_to_its_method_is_shown() -> None:
    said = settings_of(row_of("grpo"))
    assert said.startswith("agents.methods.grpo:GRPO  ")
    assert "kl = 0.01" in said
    assert "kl = 0.5" in settings_of(row_of("grpo(kl=0.5)"))


def test_two_sources_of_one_fact_are_refused(harness: Command, spec: Callable[..., Path]) -> None:
    file = str(spec())
    said = harness("compare", "grpo", "rloo", "--env", "Bifurcation-v0", "--spec", file)
    assert said.code == 2
    assert "--env says environments:Bifurcation-v0" in said.err
    said = harness("compare", "grpo", "rloo", "--spec", file, "--model", "smollm2")
    assert said.code == 2
    assert "--model goes without --spec" in said.err
    said = harness("compare", "grpo", "rloo")
    assert said.code == 2
    assert "name an environment with --env" in said.err


def test_a_spec_is_not_written_over(harness: Command, tmp_path: Path) -> None:
    (tmp_path / "spec.toml").write_text("mine")
    said = harness("init", "--env", "Guess-v0")
    assert said.code == 2
    assert "spec.toml exists" in said.err
    assert (tmp_path / "spec.toml").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.heavy
def test_from_an_environment_of_ones_own_to_a_table(
    harness: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guide's own environment: an espresso's solution is `price espresso`, `pay 2`, so two turns of three."""
    written("adding-an-environment.md", tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    said = harness("init", "grpo", "craft(credit=aligned)", "--env", "my_env:Cafe-v0", "--out", "cafe", "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out)["written"] == "cafe/spec.toml"
    made = read_experiment(tmp_path / "cafe" / "spec.toml")
    assert made.environment.id == "my_env:Cafe-v0"
    assert made.evaluation.tasks == 2
    assert made.warm_start is not None
    assert made.warm_start.habit_share == 0.6  # `pay 3` is its habit
    assert made.warm_start.contexts
    assert made.context is not None
    longest = len(b"price cappuccino") + 1  # a token has a byte at least, and the end is one
    assert 2 < made.sampling.max_new_tokens <= longest + longest // 4
    assert made.model.tiny.window % 32 == 0
    words = ("compare", "grpo", "rloo", "--env", "my_env:Cafe-v0", "--seeds", "0", "--steps", "1", "-j", "1")
    said = harness(*words)
    assert said.code == 0, said.err
    assert "Difference to grpo" in said.out
    [folder] = (tmp_path / "runs" / "comparisons").iterdir()
    assert read_experiment(folder / "spec.toml").seeds == (0,)
