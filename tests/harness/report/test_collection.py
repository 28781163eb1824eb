"""What is committed under results/ is what its records say: tables, plots, pages and excerpts, byte for byte."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from harness import ROOT
from harness.core.errors import MissingDataError, UnknownNameError, UnmatchedError, UserError
from harness.report import fidelity_files, folder
from harness.report.certificate import certified_by
from harness.report.collection import render_all
from harness.report.excerpts import write_excerpts
from harness.report.files import REPORT
from harness.runs.plan import code_revision

RESULTS = ROOT / "results"
EXPERIMENTS = sorted(file.parent for file in RESULTS.rglob(folder.RUNS))
MEASURED = sorted(file.parent for file in RESULTS.rglob(fidelity_files.FACTS))
NOTE = "A historical table: it was recorded"


def files(place: Path) -> dict[str, bytes]:
    return {
        file.relative_to(place).as_posix(): file.read_bytes()
        for file in place.rglob("*")
        if file.is_file() and file.name != REPORT
    }


@pytest.mark.slow
def test_every_committed_result_is_rendered_again_to_the_byte(tmp_path: Path) -> None:
    """Nothing is run: tables, plots, the joining page and the README's excerpts are functions of the records."""
    copy = tmp_path / "results"
    shutil.copytree(RESULTS, copy)
    for file in copy.rglob("*"):
        # what is not written anew must not pass for it
        if file.suffix in (".svg", ".csv", ".tex", ".html") or file.name == "table.md":
            file.unlink()
    written = list(render_all([copy]))
    assert {place for place in written if (place / "spec.toml").is_file()} == {
        copy / place.relative_to(RESULTS) for place in (*EXPERIMENTS, *MEASURED)
    }
    before, after = files(RESULTS), files(copy)
    assert sorted(before) == sorted(after)
    different = [name for name in before if before[name] != after[name] and name != "laptop/README.md"]
    assert different == []
    # the joining page names the guide by its place in the checkout, which a copy has not
    page = (RESULTS / "laptop" / "README.md").read_text(encoding="utf-8")
    guide = "[How to read these tables](../../docs/reading-a-table.md)\n\n"
    assert (copy / "laptop" / "README.md").read_text(encoding="utf-8") == page.replace(guide, "")
    readme = tmp_path / "README.md"
    shutil.copy(ROOT / "README.md", readme)
    assert write_excerpts(readme).read_bytes() == (ROOT / "README.md").read_bytes()


@pytest.mark.parametrize("place", EXPERIMENTS, ids=lambda place: place.name)
def test_a_committed_table_says_whether_it_is_historical(place: Path) -> None:
    """Current: the code beside it is the code that recorded it, or repeats what that one recorded. Historical: its
    heading says so."""
    found = folder.read_records(place)
    recorded = None if certified_by(found.certificate, found.runs) else folder.historical(found.runs)
    text = (place / "table.md").read_text(encoding="utf-8")
    assert (NOTE in text) is (recorded is not None)
    if recorded is not None:
        assert f"{NOTE} by code revision {recorded};" in text


@pytest.mark.parametrize("place", MEASURED, ids=lambda place: place.name)
def test_so_does_a_measurement(place: Path) -> None:
    recorded = fidelity_files.historical(fidelity_files.read(place))
    assert (NOTE in (place / "table.md").read_text(encoding="utf-8")) is (recorded is not None)


def test_code_that_changed_since_makes_a_table_historical() -> None:
    sources = ("harness.core.seeds",)
    run = {"matched": {"code": code_revision(sources)}, "sources": list(sources), "plug": ""}
    assert folder.historical([run]) is None
    assert folder.historical([run | {"matched": {"code": "0" * 16}}]) == "0" * 16
    method = {"plug": "agents.methods.grpo:GRPO"}
    assert folder.historical([run | method | {"code": "0" * 16}]) == run["matched"]["code"]
    assert folder.historical([run | method | {"code": code_revision(["agents.methods.grpo"])}]) is None
    assert folder.historical([{**run, "sources": []}]) is not None  # older than the fingerprints of today


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    shutil.copytree(RESULTS / "full" / "bifurcation", tmp_path / "one")
    return tmp_path / "one"


def test_a_row_is_never_dropped_in_silence(copied: Path) -> None:
    spec = copied / "spec.toml"
    text = spec.read_text(encoding="utf-8")
    spec.write_text(text + '\n[[methods]]\nlabel = "RLOO"\nplug = "agents.methods.grpo:RLOO"\n', encoding="utf-8")
    with pytest.raises(MissingDataError, match="no run of 'RLOO'"):
        folder.render(copied)
    spec.write_text(text.replace("{ kl = 0.0 }", "{ kl = 0.02 }"), encoding="utf-8")
    with pytest.raises(UnmatchedError, match=r"GRPO was recorded as .* \{'kl': 0\.0\}, the spec says .*0\.02"):
        folder.render(copied)


def test_places_without_records_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="no records below"):
        list(render_all([tmp_path]))


def test_records_are_compressed_and_say_the_fingerprint_once(copied: Path) -> None:
    found = folder.read_records(copied)
    assert len({json.dumps(row["matched"]) for row in found.rows}) == 1
    raw = (copied / folder.ROWS).read_bytes()
    assert raw[:2] == b"\x1f\x8b"
    assert sum((place / folder.ROWS).stat().st_size for place in EXPERIMENTS) < 2_000_000


# ---------------------------------------------------------------- excerpts


def document(tmp_path: Path, block: str) -> Path:
    (tmp_path / "table.md").write_text("# T\n\n- a line\n\n## One\n\n| a |\n| --- |\n| 1 |\n\n- a note\n")
    file = tmp_path / "page.md"
    file.write_text(f"before\n\n<!-- excerpt: table.md, {block} -->\nold\n<!-- end of excerpt -->\n\nafter\n")
    return file


def test_an_excerpt_is_the_block_of_its_table(tmp_path: Path) -> None:
    file = write_excerpts(document(tmp_path, "One"))
    wanted = "<!-- excerpt: table.md, One -->\n\n| a |\n| --- |\n| 1 |\n\n<!-- end of excerpt -->"
    assert file.read_text() == f"before\n\n{wanted}\n\nafter\n"
    assert write_excerpts(file).read_text() == f"before\n\n{wanted}\n\nafter\n"


def test_an_excerpt_of_nothing_is_named(tmp_path: Path) -> None:
    file = document(tmp_path, "Oen")
    with pytest.raises(UnknownNameError, match="'Oen'; did you mean 'One'"):
        write_excerpts(file)
    (tmp_path / "table.md").unlink()
    with pytest.raises(UserError, match="which is not there"):
        write_excerpts(file)
