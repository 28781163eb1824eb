"""Where the specs and the papers' figures that come with the project are: in a checkout, or beside a wheel."""

from __future__ import annotations

from pathlib import Path

from harness import ROOT

_SHARED = Path("share") / "sibling-harness" / "results"
"""Where the wheel puts its data files, below the prefix that it is installed to."""


def results(root: Path = ROOT) -> Path:
    """The folder `results`: the checkout's; where there is none, the one that the wheel put among the data files.

    root: the folder that holds our packages. The prefix is one of the folders that lead to it, whichever way the wheel
    was installed: into an environment, for one user or into a folder of its own.
    """
    if not (root / "results" / "published.toml").is_file():
        for prefix in (root, *root.parents):
            if (prefix / _SHARED / "published.toml").is_file():
                return prefix / _SHARED
    return root / "results"
