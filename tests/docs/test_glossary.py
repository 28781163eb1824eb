"""The glossary's third column: words that stand in no name of the product, phrases that stand in no text of docs/."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import ROOT

GLOSSARY = ROOT / "docs" / "glossary.md"
PRODUCT = sorted(file for tree in ("harness", "environments", "agents") for file in (ROOT / tree).rglob("*.py"))
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(set((ROOT / "docs").glob("*.md")) - {GLOSSARY})]


def rows() -> list[list[str]]:
    lines = GLOSSARY.read_text(encoding="utf-8").splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")][1:]


def replaced() -> list[str]:
    return [word for row in rows() for word in re.findall(r"`([^`]+)`", row[2])]


WORDS = {word.casefold() for word in replaced() if " " not in word}
PHRASES = {phrase.casefold() for phrase in replaced() if " " in phrase}


def names(tree: ast.AST) -> Iterator[str]:
    """Every identifier of a module: functions, classes, arguments, variables, attributes, keywords and imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.arg | ast.keyword):
            yield node.arg or ""
        elif isinstance(node, ast.alias):
            yield from (node.asname or node.name).split(".")
        elif isinstance(node, ast.ExceptHandler):
            yield node.name or ""


def parts(name: str) -> set[str]:
    """`_ZygoteDied`, `zygote_died` -> {"zygote", "died"}"""
    return {
        part.casefold()
        for word in name.split("_")
        for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+|\d+", word)
    }


def test_the_table_is_whole() -> None:
    assert all(len(row) == 3 and row[0] and row[1] for row in rows())
    words = [row[0] for row in rows()]
    assert len(set(words)) == len(words)
    assert {"speaker", "nursery"} <= WORDS
    assert "behind a context" in PHRASES


def test_names_are_split_into_words() -> None:
    assert parts("_ZygoteDied") == parts("zygote_died") == {"zygote", "died"}
    assert parts("TopK") == {"top", "k"}
    assert parts("KLForm") == {"kl", "form"}
    assert parts("bury") == {"bury"}
    assert set(names(ast.parse("def f(speaker): x.desk = faces(told=1)"))) == {
        *("f", "speaker", "x", "desk", "faces", "told"),
    }


@pytest.mark.parametrize("file", PRODUCT, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_no_name_has_a_replaced_word(file: Path) -> None:
    module = {part for name in file.relative_to(ROOT).with_suffix("").parts for part in parts(name)}
    used = {name: parts(name) & WORDS for name in names(ast.parse(file.read_text(encoding="utf-8")))}
    assert not module & WORDS
    assert {name: words for name, words in used.items() if words} == {}


@pytest.mark.parametrize("file", TEXTS, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_no_text_has_a_replaced_phrase(file: Path) -> None:
    text = " ".join(file.read_text(encoding="utf-8").casefold().split())
    assert [phrase for phrase in sorted(PHRASES) if phrase in text] == []
