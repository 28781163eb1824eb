"""How a repeated table stands beside the recorded one, as a block of cells."""

from __future__ import annotations

from collections.abc import Sequence

from harness.report.columns import rate
from harness.tables.agreement import Agreement
from harness.tables.grid import Grid


def agreement_grid(found: Sequence[Agreement]) -> Grid:
    """One line a row and decoding: both estimates, their difference with its interval, and whether they agree."""
    rows = tuple(
        (
            f"{row.method}, {row.decoding}",
            rate(row.recorded),
            rate(row.repeated),
            f"{row.difference:+.3f} [{row.low:+.3f}, {row.high:+.3f}]",
            row.verdict,
        )
        for row in found
    )
    notes = (
        "Difference: repeated - recorded, with a 95 % interval from both estimates' own intervals.",
        "same: the same to the last digit; agrees: 0 lies in the interval; differs: it does not.",
    )
    return Grid("Beside the recorded table", ("Row", "Recorded", "Repeated", "Difference", "Verdict"), rows, notes)


def verdict_line(found: Sequence[Agreement]) -> str:
    """The outcome in one sentence."""
    counts = {word: sum(row.verdict == word for row in found) for word in ("same", "agrees", "differs")}
    if counts["same"] == len(found):
        return f"all {len(found)} rows are the same as recorded"
    return (
        f"{counts['same']} of {len(found)} rows are the same as recorded, "
        f"{counts['agrees']} agree within both intervals, {counts['differs']} differ"
    )
