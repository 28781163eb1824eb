"""Text from records made harmless by kind of file: it can neither break a table nor script who reads it.

Labels, notes, protocols and task ids are written by whoever wrote a specification, a method or an environment. HTML is
escaped by its template.
"""

from __future__ import annotations

import re

from harness.core.words import one_line

_MARKDOWN = re.compile(
    r"""(?x)
    [|`*$~]                          # ends of cells, code, emphasis, mathematics, strikethrough
    | (?<![^\W_])_ | _(?![^\W_])     # emphasis, but for an underscore within a word
    | \](?=[(\[:])                   # links, images, definitions
    """
)
_MARKUP = re.compile(r"<(?=[A-Za-z/!?])")
"""A start of HTML; `<0.001` is none."""
_ENTITY = re.compile(r"&(?=#?\w+;)")
_TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {
    character: "\\" + character for character in "&%$#_{}"
}


def markdown(text: str) -> str:
    """Text for a cell, a list item or a heading of Markdown: it shows as it is and makes no markup of its own."""
    shown = _ENTITY.sub("&amp;", one_line(text)).replace("\\", "&#92;")
    return _MARKUP.sub("&lt;", _MARKDOWN.sub(lambda found: "\\" + found[0], shown))


def tex(text: str) -> str:
    """Text for the body of a LaTeX document."""
    return "".join(_TEX.get(character, character) for character in one_line(text))


def tex_cell(text: str) -> str:
    r"""Text for the first cell of a line: `\\` and the rules before it would read a "[" or "*" as their argument."""
    escaped = tex(text)
    return "{}" + escaped if escaped.startswith(("[", "*")) else escaped
