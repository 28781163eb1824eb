"""Excerpts of rendered tables in a document: whole blocks, copied from the table that stands beside its records.

<!-- excerpt: results/laptop/reasoning-mini/table.md, Success, sampled -->
...the block, written anew by `harness tables`...
<!-- end of excerpt -->
"""

from __future__ import annotations

import re
from pathlib import Path

from harness.core.errors import UnknownNameError, UserError
from harness.core.records import write_whole

EXCERPT = re.compile(
    r"(<!-- excerpt: (?P<file>[^,\n]+), (?P<block>[^\n]+?) -->\n).*?(<!-- end of excerpt -->)", re.DOTALL
)


def write_excerpts(document: Path) -> Path:
    """Write every excerpt of a Markdown document anew. UserError naming a table that is missing, UnknownNameError a
    block that it lacks."""
    text = document.read_text(encoding="utf-8")

    def fresh(found: re.Match[str]) -> str:
        return f"{found.group(1)}\n{_block(document.parent / found['file'], found['block'])}\n\n{found.group(4)}"

    write_whole(document, EXCERPT.sub(fresh, text))
    return document


def _block(table: Path, caption: str) -> str:
    """The table of a block, without its caption and notes."""
    if not table.is_file():
        raise UserError(f"an excerpt names {table}, which is not there")
    blocks = dict(block.split("\n", 1) for block in table.read_text(encoding="utf-8").split("\n## ")[1:])
    if caption not in blocks:
        raise UnknownNameError(f"block of {table}", caption, blocks)
    return "\n".join(line for line in blocks[caption].splitlines() if line.startswith("|"))
