"""Take the pictures of the report page in docs/images: light, dark and 400 pixels wide.

    python docs/take_screenshots.py [RESULTS]        # default: results/full/bifurcation

Plays trajectories of the experiment's start in a scratch copy of the folder, writes its report and looks at it with
the Chromium that the tests of the page use. Nothing in the folder is changed.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from browser import Browser, browser, missing  # noqa: E402

from harness.cli.report import trajectories, write_report  # noqa: E402
from harness.report.page.trajectories import TRAJECTORIES  # noqa: E402

IMAGES = ROOT / "docs" / "images"
VIEWS = {"": (1200, 900, "light"), "-dark": (1200, 900, "dark"), "-narrow": (400, 860, "light")}
"""By the end of a picture's name: width and height in pixels, and what the system prefers."""


def main(folder: Path) -> None:
    """Write docs/images/{report,trajectories}{,-dark,-narrow}.png. SystemExit where there is no browser."""
    if missing():
        raise SystemExit(f"error: {missing()}")
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / folder.resolve().name
        shutil.copytree(folder, copy)
        if not (copy / TRAJECTORIES).is_file():
            trajectories(copy, tasks=8, rolls=16, cache=Path(os.environ.get("HARNESS_CACHE", ROOT / ".cache")))
        file, articles = write_report([copy], None, Path(scratch), {})
        section = f"{articles[0].ident}-trajectories"
        with browser() as window:
            for name, (width, height, scheme) in VIEWS.items():
                window.resize(width, height)
                window.scheme(scheme)
                window.open(file.as_uri())
                take(window, f"report{name}")
                window.run("document.getElementById(arguments[0]).scrollIntoView({behavior: 'instant'})", section)
                window.run(CHOOSE, section)
                window.run(SIBLINGS, section)
                take(window, f"trajectories{name}")


CHOOSE = """
const section = document.getElementById(arguments[0]);
const tokens = [...section.querySelectorAll('.t')];
if (tokens.length) tokens[Math.min(4, tokens.length - 1)].click();
return tokens.length;
"""
"""Presses a token, so that the picture shows what is said of one."""
SIBLINGS = """
document.getElementById(arguments[0]).querySelector('.legend').scrollIntoView({behavior: 'instant'});
window.scrollBy({top: -70, behavior: 'instant'});
"""
"""Brings the siblings up to the page's header."""


def take(window: Browser, name: str) -> None:
    """One picture of what the window shows."""
    window.run("return new Promise(done => setTimeout(done, 300))")
    window.screenshot(IMAGES / f"{name}.png")
    print(f"written: {(IMAGES / name).relative_to(ROOT)}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "results" / "full" / "bifurcation")
