"""Excerpts of results in a document: whole blocks of rendered tables, and what they decide in words.

<!-- excerpt: results/laptop/reasoning-mini/table.md, Success, sampled -->
...the block, written anew by `harness tables`...
<!-- end of excerpt -->

<!-- words: results/laptop/reasoning-mini -->
...which method to use, how sure that is and what it cost, as the report page of the folder says it...
<!-- end of words -->
"""

from __future__ import annotations

import re
from pathlib import Path

from harness.core.errors import UnknownNameError, UserError
from harness.core.records import write_whole
from harness.report import folder
from harness.report.escaping import markdown as escaped
from harness.report.page.decision import decide
from harness.report.search import experiment_of

EXCERPT = re.compile(
    r"(<!-- excerpt: (?P<file>[^,\n]+), (?P<block>[^\n]+?) -->\n).*?(<!-- end of excerpt -->)", re.DOTALL
)
WORDS = re.compile(r"(<!-- words: (?P<folder>[^\n]+?) -->\n).*?(<!-- end of words -->)", re.DOTALL)


def write_excerpts(document: Path) -> Path:
    """Write every excerpt of a Markdown document anew. UserError naming a table that is missing, UnknownNameError a
    block that it lacks, MissingDataError a folder without records."""
    text = document.read_text(encoding="utf-8")

    def fresh(found: re.Match[str]) -> str:
        return f"{found.group(1)}\n{_block(document.parent / found['file'], found['block'])}\n\n{found.group(4)}"

    def in_words(found: re.Match[str]) -> str:
        return f"{found.group(1)}\n{_words(document.parent / found['folder'])}\n\n{found.group(3)}"

    write_whole(document, WORDS.sub(in_words, EXCERPT.sub(fresh, text)))
    return document


def _words(place: Path) -> str:
    """The decision of a results folder: a paragraph, and a line each for what to use, how sure and at what cost."""
    decision = decide(folder.build_table(experiment_of(place), folder.read_records(place), allow_missing=True))
    answers = (("Which one to use", decision.use), ("How sure", decision.sure), ("What it cost", decision.cost))
    listed = "\n".join(f"* *{question}*: {escaped(answer)}" for question, answer in answers)
    return f"**{escaped(decision.headline)}**\n\n{listed}"


def _block(table: Path, caption: str) -> str:
    """The table of a block, without its caption and notes."""
    if not table.is_file():
        raise UserError(f"an excerpt names {table}, which is not there")
    blocks = dict(block.split("\n", 1) for block in table.read_text(encoding="utf-8").split("\n## ")[1:])
    if caption not in blocks:
        raise UnknownNameError(f"block of {table}", caption, blocks)
    return "\n".join(line for line in blocks[caption].splitlines() if line.startswith("|"))
