"""Everything under a results tree, rendered anew from its records: tables and plots of experiments, fidelity, the
joining page, excerpts in the README."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from harness import ROOT
from harness.core.errors import MissingDataError
from harness.report import fidelity_files as fidelity
from harness.report import folder
from harness.report.excerpts import write_excerpts
from harness.report.index import write_index
from harness.report.scaling import DECLARATION, write_scaling

INDEX = "README.md"


def render_all(places: Sequence[Path]) -> Iterator[Path]:
    """Render every results folder at or below these places; yields each folder or file that was written.

    MissingDataError where none of them holds records.
    """
    found = False
    for place in places:
        for held in sorted({file.parent for name in (folder.RUNS, fidelity.EPISODES) for file in place.rglob(name)}):
            if (held / folder.RUNS).is_file():
                folder.render(held)
            elif (held / fidelity.FACTS).is_file():
                fidelity.render(held)
            else:
                continue  # a sample of episodes
            found = True
            yield held
    for family in sorted({file.parent for place in places for file in place.rglob(DECLARATION)}):
        if any(family.glob(f"*/{folder.RUNS}")):
            yield write_scaling(family)
    if not found:
        raise MissingDataError(
            f"no records below {', '.join(map(str, places))}; run an experiment with: harness bench SPEC"
        )
    for joined in sorted({place for root in places for place in (root, *root.iterdir()) if (place / INDEX).is_file()}):
        yield write_index(joined, f"Results: {joined.name}")
    if any(ROOT / "results" in (place.resolve(), *place.resolve().parents) for place in places):
        yield write_excerpts(ROOT / INDEX)
