"""Every block of code in the README and in docs/: commands that can be typed, Python that compiles, TOML that is read.

The guides' own tests run theirs; here nothing is run, so that no block is left out.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from guides import DOCS, parsed

from harness.cli import entry as cli

PARSER: Any = typer.main.get_command(cli.app)
PAGES = [DOCS.parent / "README.md", *sorted(DOCS.glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
KINDS = {"", "bash", "python", "toml", "text"}
"""text: what a command prints."""
MAKE = re.compile(r"^([a-z-]+):", re.MULTILINE)


def blocks() -> Iterator[tuple[str, str, str]]:
    """(page, kind, text) of every block."""
    for page in PAGES:
        for kind, text in BLOCK.findall(page.read_text(encoding="utf-8")):
            yield page.name, kind, text


def typed() -> Iterator[tuple[str, str]]:
    """(page, command) of every line that calls `harness` or `make`, continued lines joined."""
    for page, kind, text in blocks():
        if kind in ("", "bash"):
            for line in text.replace("\\\n", " ").splitlines():
                command = re.split(r"\s+# ?|\s*\|\s", line)[0].removeprefix("$ ").strip()
                command = re.sub(r"^(?:[A-Z_]+=\S+\s+)+|^(?:torchrun .* -m harness\.cli)", "", command)
                if command.startswith(("harness ", "make ")):
                    yield page, command.removesuffix("&").strip()


@pytest.mark.parametrize(("page", "command"), sorted(set(typed())))
def test_a_command_can_be_typed(page: str, command: str) -> None:
    program, first, *rest = shlex.split(command)
    if program == "make":
        assert first in MAKE.findall((DOCS.parent / "Makefile").read_text())
        return
    assert first in PARSER.commands
    assert parsed(PARSER.commands[first], first, rest).params


@pytest.mark.parametrize("kind", ["python", "toml"])
def test_code_is_read(kind: str) -> None:
    found = [(page, text) for page, of_block, text in blocks() if of_block == kind]
    assert found
    for page, text in found:
        if kind == "python":
            compile(text, page, "exec")
        else:
            tomllib.loads(text)


def test_every_block_says_what_it_is() -> None:
    """No kind of block that nothing here reads."""
    assert {kind for _, kind, _ in blocks()} <= KINDS
    assert len(list(typed())) > 40
