"""Where the specs and the papers' figures that come with the project are: in a checkout, or beside a wheel."""

from __future__ import annotations

import sysconfig
from pathlib import Path

from harness import ROOT


def results() -> Path:
    """The folder `results`: the checkout's; where there is none, the one that the wheel put among the data files."""
    installed = Path(sysconfig.get_path("data")) / "share" / "sibling-harness" / "results"
    here = ROOT / "results"
    return here if (here / "published.toml").is_file() or not installed.is_dir() else installed
