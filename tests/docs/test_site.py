"""The documentation as a site: every page is in it, and every link leads somewhere."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from guides import DOCS


def builder() -> ModuleType:
    """docs/build_site.py, which is a script of no package."""
    spec = importlib.util.spec_from_file_location("build_site", DOCS / "build_site.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_is_gathered_with_what_it_links_to(tmp_path: Path) -> None:
    """A page of the site leads to files of the site alone; nothing of the text is lost."""
    made = builder()
    made.gather(tmp_path)
    assert {f"docs/{page.name}" for page in DOCS.glob("*.md")} < {
        file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*.md")
    }
    for page in (tmp_path / "index.md", *tmp_path.glob("docs/*.md")):
        for link in re.findall(r"\]\(([^)\s#]+)", "".join(made.FENCE.split(page.read_text())[::2])):
            assert "://" in link or (page.parent / link).is_file(), f"{page.name}: {link}"
    named = {page for section in made.navigation() for pages in section.values() for page in pages}
    assert named == {"index.md"} | {f"docs/{page.name}" for page in DOCS.glob("*.md")}


def test_links_are_rewritten_as_the_site_needs_them() -> None:
    made, page = builder(), Path("docs/adding-a-method.md")
    text = "See [the start](../README.md#x), [tests](../tests) and [here](glossary.md).\n* one\n* two\n"
    assert made.rewritten(page, text) == (
        "See [the start](../index.md#x), tests and [here](glossary.md).\n\n* one\n* two\n"
    )
    fenced = "```\n[a](../README.md)\n```\n"
    assert made.rewritten(page, fenced) == fenced
    with pytest.raises(SystemExit, match=r"links to nowhere\.md, which is not there"):
        list(made.linked(page, "[a](nowhere.md)"))


@pytest.mark.slow
def test_the_site_is_built_strictly(tmp_path: Path) -> None:
    if importlib.util.find_spec("zensical") is None:
        pytest.skip("the site's generator is not installed (extra `docs`)")
    built = [sys.executable, str(DOCS / "build_site.py"), str(tmp_path / "site")]
    done = subprocess.run(built, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No issues found" in done.stdout + done.stderr
    for page in ("index.html", *(f"docs/{page.stem}.html" for page in DOCS.glob("*.md"))):
        assert "<h1" in (tmp_path / "site" / page).read_text()
    assert "GRPO" in (tmp_path / "site" / "search.json").read_text()
