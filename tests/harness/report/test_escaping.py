"""Text from records in every kind of file: shown, and nothing else."""

from __future__ import annotations

import csv
import io
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from renderings import renderings
from table_records import FACTS, Records

from harness.core.words import one_line
from harness.experiment import fingerprint
from harness.report.escaping import markdown, tex, tex_cell
from harness.tables.table import Table, build

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[click](javascript:alert(1))",
    "![pixel](https://example.org/p.png)",
    "a | b \\| c",
    "new\nline\n\n# heading\n| cell |",
    "\x1b[2J\x1b]0;title\x07red",
    r"\input{/etc/passwd} \write18{ls} % $x_1^2$ & # ~ {",
    "[10pt] first",
    "* starred",
    "`code` **bold** __strong__ ~~gone~~",
    "\u202egnp.exe",
    "&lt;b&gt; &#60;i&#62;",
    "]]></style></title></table><b>",
]


def hostile_table(text: str) -> Table:
    """A table with the text in every place that records fill."""
    made = Records().add("GRPO", 0.6).add(text, 0.5, notes=(text,), context=text, plug=text, options={"o": text})
    facts = FACTS | {"environment.id": text, "environment.protocol": text, "model.name": text}
    runs = [run.model_copy(update={"matched": facts, "summariser": text}) for run in made.runs]
    changed = {"matched": fingerprint(facts), "split": text, "metrics": {text: 1.0}}
    return build(runs, [row.model_copy(update=changed) for row in made.rows], title=text)


class Tags(HTMLParser):
    """Start tags with their attributes, and the text between."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, attrs))

    def handle_data(self, data: str) -> None:
        self.text += data


def read_page(source: str) -> Tags:
    page = Tags()
    page.feed(source)
    return page


def markdown_shape(source: str) -> list[tuple[str, int]]:
    """What every line begins with, and how many cells it has."""
    return [(line[:2].rstrip("abcn"), len(re.findall(r"(?<!\\)\|", line))) for line in source.splitlines()]


def tex_shape(source: str) -> list[tuple[str, int]]:
    """The commands of every line but for those that print a character, and its cells; comments are no commands."""
    shape = []
    for line in source.splitlines():
        bare = re.sub(r"\\(?:[&%$#_{}]|text(?:backslash|asciitilde|asciicircum)\{\})", "", line)
        commands = "%" if line.startswith("%") else " ".join(re.findall(r"\\[a-z]+|\\\\", bare))
        shape.append((commands, 0 if line.startswith("%") else bare.count(" & ")))
    return shape


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_changes_the_structure_of_a_file(text: str) -> None:
    ours, plain = renderings(hostile_table(text)), renderings(hostile_table("plain text"))
    page, plain_page = read_page(ours["html"]), read_page(plain["html"])
    assert page.tags == plain_page.tags
    assert page.text.count(one_line(text)) == plain_page.text.count("plain text")
    assert markdown_shape(ours["markdown"]) == markdown_shape(plain["markdown"])
    assert tex_shape(ours["latex"]) == tex_shape(plain["latex"])
    assert not any(line.startswith(("[", "*")) for line in ours["latex"].splitlines())
    rows, plain_rows = (list(csv.reader(io.StringIO(source))) for source in (ours["csv"], plain["csv"]))
    assert list(map(len, rows)) == list(map(len, plain_rows))
    for form in ("markdown", "latex", "html", "terminal"):
        assert not set("\x1b\x07\u202e") & set(ours[form])


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_shows_no_link_no_image_and_no_tag(text: str) -> None:
    escaped = markdown(text)
    assert not re.search(r"(?<!\\)\][(\[:]|<[A-Za-z/!?]|(?<!\\)[`*~|]", escaped)
    assert "\n" not in escaped


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("agents.methods.craft:CRAFT(g_min=4)", "agents.methods.craft:CRAFT(g_min=4)"),
        ("<0.001", "<0.001"),
        ("0.412 [0.371, 0.455]", "0.412 [0.371, 0.455]"),
        ("a < b & c > d", "a < b & c > d"),
        ("_x_", r"\_x\_"),
        ("a|b", r"a\|b"),
        (r"a\|b", r"a&#92;\|b"),
        ("&lt;", "&amp;lt;"),
    ],
)
def test_markdown_leaves_what_is_no_markup(text: str, shown: str) -> None:
    assert markdown(text) == shown


@given(text=st.text())
def test_any_text_becomes_one_line(text: str) -> None:
    line = one_line(text)
    assert len(line.splitlines()) <= 1
    assert one_line(line) == line
    assert line.encode("utf-8").decode("utf-8") == line
    assert len(markdown(text).splitlines()) <= 1


@given(text=st.text())
def test_tex_is_balanced_and_free_of_commands(text: str) -> None:
    bare = re.sub(r"\\(?:[&%$#_{}]|text(?:backslash|asciitilde|asciicircum)\{\})", "", tex(text))
    assert not set(bare) & set("\\&%$#_{}~^")
    assert not tex_cell(text).startswith(("[", "*"))
