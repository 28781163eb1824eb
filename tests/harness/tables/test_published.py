"""Published numbers are quoted with their place, and nothing more."""

from __future__ import annotations

import tomllib

import pytest
from table_records import FACTS, Records, small_experiment

from harness import ROOT
from harness.core.errors import MissingDataError, UnknownNameError, UserError
from harness.experiment import fingerprint
from harness.report.markdown import grid_markdown, markdown
from harness.tables.published import choose, parse, published_beside, published_grid, quoted_beside
from harness.tables.table import build

PUBLISHED = """
[[result]]
paper = "2606.12634v1"
table = "Table 1"
environment = "AppWorld"
split = "dev"
model = "Qwen3.5-4B"
method = "SGCD"
metric = "TGC"
value = 40.4
unit = "%"
note = "one run"

[[result]]
paper = "2606.15576v1"
table = "Table 2"
environment = "AIME-25"
model = "Qwen3-8B"
method = "HSD"
metric = "avg@16"
value = 0.25
unit = "fraction"
"""


def test_published_numbers_are_quoted_and_nothing_more() -> None:
    records = small_experiment()
    table = build(records.runs, records.rows)
    everything = parse(PUBLISHED)
    entries = choose(everything, environment="AppWorld", split="dev")
    assert entries == tomllib.loads(PUBLISHED)["result"][:1]
    block = published_beside(table, [*entries, *choose(everything, environment="AIME-25")])
    plain, quoted = markdown(table), markdown(table, [block])
    assert quoted.startswith(plain.rstrip("\n"))
    assert "| SGCD | Qwen3.5-4B | dev | TGC | 40.4% | arXiv 2606.12634v1, Table 1 | one run |" in quoted
    assert "| HSD | Qwen3-8B | - | avg@16 | 0.25 fraction | arXiv 2606.15576v1, Table 2 |  |" in quoted
    assert "**" not in quoted
    alone = grid_markdown(published_grid(entries))
    assert "| AppWorld | SGCD | Qwen3.5-4B | dev | TGC | 40.4% | arXiv 2606.12634v1, Table 1 | one run |" in alone


def test_what_was_not_published_is_said_with_the_nearest_name() -> None:
    entries = parse(PUBLISHED)
    assert choose(entries, method=None, environment=None) == entries
    with pytest.raises(UnknownNameError, match=r"environment of published results 'Appworld'; did you mean 'AppWorld'"):
        choose(entries, environment="Appworld")
    with pytest.raises(UnknownNameError, match=r"environment of published results 'Chess'; known: AIME-25, AppWorld"):
        choose(entries, environment="Chess")
    with pytest.raises(UnknownNameError, match=r"environment of published results 'aime'; did you mean 'AIME-25'"):
        choose(entries, environment="aime")
    with pytest.raises(UnknownNameError, match="did you mean 'method'"):
        choose(entries, methods="SGCD")
    with pytest.raises(MissingDataError, match=r"no published result with environment 'AIME-25' and split 'dev'"):
        choose(entries, environment="AIME-25", split="dev")
    with pytest.raises(UserError, match="published result 1 lacks table, environment"):
        parse('[[result]]\npaper = "1"\n')
    with pytest.raises(UserError, match="published results are a TOML file"):
        parse("[[result")


def test_every_committed_entry_is_read() -> None:
    entries = parse((ROOT / "results" / "published.toml").read_text(encoding="utf-8"))
    assert len(published_grid(entries).rows) == len(entries) > 500
    assert all("arXiv 2606.12634v1" in row[6] for row in published_grid(choose(entries, method="SGCD")).rows)


def test_a_mini_number_is_said_to_be_one_and_never_set_beside_a_published_one() -> None:
    made = Records().add("GRPO", 0.6)
    mini = FACTS | {"environment.id": "environments:GuessMini-v0"}
    runs = [run.model_copy(update={"matched": mini}) for run in made.runs]
    table = build(runs, [row.model_copy(update={"matched": fingerprint(mini)}) for row in made.rows])
    assert "A Mini environment" in markdown(table)
    with pytest.raises(UserError, match="never set beside published"):
        published_beside(table, [])


def test_an_environment_says_itself_whether_it_is_mini() -> None:
    """Where the fact is recorded the id says nothing."""
    made = Records().add("GRPO", 0.6)
    for mini, name in ((True, "environments:Guess-v0"), (False, "environments:GuessMini-v0")):
        facts = FACTS | {"environment.id": name, "environment.mini": mini}
        runs = [run.model_copy(update={"matched": facts}) for run in made.runs]
        table = build(runs, [row.model_copy(update={"matched": fingerprint(facts)}) for row in made.rows])
        assert table.mini is mini
        assert ("A Mini environment" in markdown(table)) is mini


def test_a_papers_spec_quotes_the_figures_that_it_chooses() -> None:
    records = small_experiment()
    table = build(records.runs, records.rows)
    entries = parse(PUBLISHED)
    (block,) = quoted_beside(table, [{"paper": "2606.12634", "split": "dev"}, {"environment": "AIME-25"}], entries)
    assert block == published_beside(table, entries)
    assert quoted_beside(table, [], entries) == []
    with pytest.raises(UnknownNameError, match="AppWorld"):
        quoted_beside(table, [{"environment": "Appworld"}], entries)
