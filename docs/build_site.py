"""The documentation as a searchable site, from README.md and docs/*.md as they are.

    python docs/build_site.py [FOLDER]        # default: runs/site

Pages keep their places, so every link means what it means in the checkout. What a page links to outside docs comes
along: results and their pictures, and sources as they are. The generator (Zensical, extra `docs`) is run strictly:
a link that leads nowhere stops the build.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import tomli_w

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(!?\[(?:[^\]\[]|\[[^\]]*\])*\]\()([^)\s#]+)([^)\s]*\))")
"""A link in Markdown: up to its target, the target's path, its anchor and end."""
FENCE = re.compile(r"^(```.*?^```)", re.DOTALL | re.MULTILINE)
SECTIONS = {
    "Start": ("README", "reading-a-table", "report", "glossary"),
    "Add your own": (
        "adding-a-method",
        "adding-an-environment",
        "adding-a-context",
        "adding-a-policy",
        "adding-a-backend",
    ),
    "Run it": ("run-on-several-processes", "run-with-trl", "memory", "backends", "exports", "security", "faults"),
    "What is measured": ("statistics", "fidelity", "bifurcation", "appworld", "tau3-protocols", "papers"),
    "How it is built": ("architecture", "decisions"),
}
"""Pages of docs/ by the heading under which they stand; a page that none names stands under the last."""


def main(out: Path) -> None:
    """Build the site in a folder, which is replaced."""
    with tempfile.TemporaryDirectory() as scratch:
        pages = Path(scratch) / "pages"
        gather(pages)
        settings = Path(scratch) / "zensical.toml"
        settings.write_text(tomli_w.dumps({"project": project()}), encoding="utf-8")
        generator = shutil.which(
            "zensical", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        )
        if generator is None:
            raise SystemExit("error: the generator is not installed: pip install '.[docs]'")
        done = subprocess.run(
            [generator, "build", "--strict", "--config-file", str(settings)], cwd=scratch, check=False
        )
        if done.returncode:
            raise SystemExit(done.returncode)
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(Path(scratch) / "site", out)
    print(f"written: {out / 'index.html'}")


def project() -> dict[str, object]:
    """The generator's settings."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    theme = {
        "features": ["navigation.sections", "navigation.top", "search.highlight", "content.code.copy"],
        "font": False,  # nothing is loaded from elsewhere
        "palette": [
            {"media": f"(prefers-color-scheme: {scheme})", "scheme": name, "toggle": {"icon": icon, "name": said}}
            for scheme, name, icon, said in (
                ("light", "default", "lucide/sun", "Dark"),
                ("dark", "slate", "lucide/moon", "Light"),
            )
        ],
    }
    return {
        "site_name": version["name"],
        "site_description": version["description"],
        "docs_dir": "pages",
        "site_dir": "site",
        "use_directory_urls": False,  # pages open from the file system as well
        "nav": navigation(),
        "theme": theme,
        "markdown_extensions": {
            "tables": {},
            "toc": {"permalink": True},
            "pymdownx": {"superfences": {}, "highlight": {}, "tilde": {"subscript": False}},
        },
    }


def navigation() -> list[dict[str, object]]:
    """Every page of docs under a heading."""
    there = [page.stem for page in sorted((ROOT / "docs").glob("*.md"))]
    named = {name for names in SECTIONS.values() for name in names}
    last = [name for name in there if name not in named]
    found: list[dict[str, object]] = []
    for heading, names in SECTIONS.items():
        wanted = [*names, *(last if heading == list(SECTIONS)[-1] else [])]
        found.append({heading: ["index.md" if name == "README" else f"docs/{name}.md" for name in wanted]})
    return found


def gather(pages: Path) -> None:
    """README.md, docs/*.md and all that they link to, directly or not, each at its place."""
    waiting = [Path("README.md"), *(file.relative_to(ROOT) for file in sorted((ROOT / "docs").glob("*.md")))]
    done: set[Path] = set()
    while waiting:
        file = waiting.pop()
        if file in done:
            continue
        done.add(file)
        place = pages / placed(file)
        place.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix != ".md":
            shutil.copy(ROOT / file, place)
            continue
        text = (ROOT / file).read_text(encoding="utf-8")
        waiting += linked(file, text)
        place.write_text(rewritten(file, text), encoding="utf-8")


def placed(file: Path) -> Path:
    """Where a file stands in the site: a folder's README.md is its index."""
    return file.with_name("index.md") if file.name == "README.md" else file


def target(file: Path, link: str) -> Path | None:
    """The file of the checkout that a page's link leads to, for a folder its README.md; None where it leads outside or
    to a folder without one."""
    if "://" in link or link.startswith("mailto:"):
        return None
    meant = Path(os.path.normpath(file.parent / link))
    if (ROOT / meant).is_dir():
        meant /= "README.md"
        return meant if (ROOT / meant).is_file() else None
    return meant


def linked(file: Path, text: str) -> Iterator[Path]:
    """The files that a page leads to. SystemExit where one is not there."""
    for part in FENCE.split(text)[::2]:
        for _, link, _ in LINK.findall(part):
            meant = target(file, link)
            if meant is not None:
                if not (ROOT / meant).is_file():
                    raise SystemExit(f"error: {file} links to {link}, which is not there")
                yield meant


def rewritten(file: Path, text: str) -> str:
    """A page for the generator: links lead to where their files stand, and one to a folder is its words alone; a list
    that follows a line of text begins after a blank one, as the generator asks."""

    def link(found: re.Match[str]) -> str:
        before, path, rest = found.groups()
        if "://" in path or path.startswith("mailto:"):
            return found[0]
        meant = target(file, path)
        if meant is None:
            return before.lstrip("!").removeprefix("[").removesuffix("](")
        return before + Path(os.path.relpath(placed(meant), placed(file).parent)).as_posix() + rest

    parts = FENCE.split(text)
    for number in range(0, len(parts), 2):
        part = LINK.sub(link, parts[number])
        parts[number] = re.sub(r"^(?![*\d|#\s-])(.+)\n(?=(?:\* |- |1\. ))", r"\1\n\n", part, flags=re.MULTILINE)
    return "".join(parts)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "runs" / "site")
