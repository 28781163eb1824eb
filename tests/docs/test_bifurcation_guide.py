"""The page on Bifurcation: its code and its commands do what it says, and its table names every parameter."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from guides import DOCS, commands, done

from environments.bifurcation.env import Bifurcation

TEXT = (DOCS / "bifurcation.md").read_text(encoding="utf-8")


def test_its_code() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    exec(compile(code, "bifurcation.md", "exec", dont_inherit=True), {})


def test_its_commands(tmp_path: Path) -> None:
    check, evaluate = commands("bifurcation.md")
    assert "keeps the contract" in done(tmp_path, check)
    assert "success 1.000" in done(tmp_path, evaluate)


def test_its_table_has_every_parameter_and_its_default() -> None:
    rows = dict(re.findall(r"^\| `([\w`, ]+)` \| ([\w., ]+) \|", TEXT, re.MULTILINE))
    told = {
        name: default
        for names, defaults in rows.items()
        for name, default in zip(names.split("`, `"), defaults.split(", "), strict=True)
    }
    real = {name: parameter.default for name, parameter in inspect.signature(Bifurcation).parameters.items()}
    assert told == {name: str(default).lower() for name, default in real.items()}
