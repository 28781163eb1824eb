"""The columns of the results, each declared once: every rendering for people, and the CSV file, follow from here.

A further column is one more `Column` in COLUMNS; a further success metric is declared in `harness.tables.metrics`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.tables.grid import NOTHING
from harness.tables.metrics import Metric
from harness.tables.statistics import Estimate
from harness.tables.table import Score, Table

Value = Estimate | float | str | None


# ---------------------------------------------------------------- numbers as text


def rate(estimate: Estimate) -> str:
    """`0.412 [0.371, 0.455]`"""
    return f"{_rounded(estimate.mean):.3f} {_bracket(estimate, '.3f')}"


def gain(estimate: Estimate) -> str:
    """`+0.153 [+0.101, +0.205]`; a mean that rounds to nothing has a plus."""
    return f"{_rounded(estimate.mean):+.3f} {_bracket(estimate, '+.3f')}"


def interval(estimate: Estimate) -> str:
    """`[+0.101, +0.205]`"""
    return _bracket(estimate, "+.3f")


def p_text(p: float) -> str:
    """`0.012`, and `<0.001` where three digits end."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def three_digits(value: float) -> str:
    """`0.049`"""
    return f"{value:.3f}"


def _rounded(value: float) -> float:
    return round(value, 3) + 0.0  # + 0.0 turns -0.0 into 0.0


def _bracket(estimate: Estimate, form: str) -> str:
    if not (math.isfinite(estimate.low) and math.isfinite(estimate.high)):
        return "[no interval]"
    return f"[{_rounded(estimate.low):{form}}, {_rounded(estimate.high):{form}}]"


# ---------------------------------------------------------------- declarations


@dataclass(frozen=True)
class Column:
    """A column of the results."""

    name: str
    """In the CSV file; of an estimate also `name_low` and `name_high`."""
    title: Callable[[Table], str] | None
    """For people; None where only the CSV file has the column."""
    read: Callable[[Score], Value]
    """Off a method's score under one decoding; None where it has no such number."""
    text: Callable[..., str]
    """The number for people."""
    estimate: bool = True
    """Whether it has an interval."""
    shown: Callable[[Sequence[Score]], bool] = lambda scores: True
    """Whether people see it over these scores, a block's; the CSV file always has it."""
    wide: bool = False
    """Whether it is left out where there is little room, on a terminal."""
    words: bool = False
    """Whether its cells are words, which may be broken into lines."""
    note: str = ""
    """Its footnote under the last block."""

    def cell(self, score: Score) -> str:
        """The cell for people."""
        value = self.read(score)
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return NOTHING
        return self.text(value)


def _compared(scores: Sequence[Score]) -> bool:
    return any(score.versus for score in scores)


def _tested(scores: Sequence[Score]) -> bool:
    return any(score.judged and score.judged.verdict for score in scores)


def _success_title(table: Table) -> str:
    """A metric may give plain success its proper name; unless that name has a column of its own."""
    names = {metric.success for metric in table.extra if metric.success} - {metric.title for metric in table.extra}
    return next(iter(sorted(names)), "Success")


COLUMNS: tuple[Column, ...] = (
    Column("success", _success_title, lambda score: score.success, rate),
    Column(
        "gain",
        lambda table: "Gain over start",
        lambda score: score.gain,
        gain,
        shown=lambda scores: any(score.gain for score in scores),
    ),
    Column(
        "difference", lambda table: f"Difference to {table.against}", lambda score: score.versus, gain, shown=_compared
    ),
    Column(
        "simultaneous",
        lambda table: "Simultaneous",
        lambda score: score.judged.joint if score.judged else None,
        interval,
        shown=_tested,
        wide=True,
        note="Simultaneous: intervals of the differences that hold together, all of the table with 95 %.",
    ),
    Column("p", None, lambda score: score.judged.p if score.judged else None, p_text, estimate=False),
    Column(
        "p_adjusted",
        lambda table: "Adj. p",
        lambda score: score.judged.p_adjusted if score.judged else None,
        p_text,
        estimate=False,
        shown=_compared,
        note="Adj. p: p-value, adjusted for all comparisons of the table (max-t); exploratory rows and controls are "
        "not tested, nor anything below 3 common seeds.",
    ),
    Column(
        "detectable",
        lambda table: "MDE",
        lambda score: score.judged.detectable if score.judged else None,
        three_digits,
        estimate=False,
        shown=_compared,
        wide=True,
        note="MDE: minimum detectable effect, the true difference that this table finds with 80 % power at the "
        "adjusted level, from the variance of all rows that are pooled (three or more).",
    ),
    Column(
        "verdict",
        lambda table: "Verdict",
        lambda score: score.judged.verdict if score.judged else None,
        str,
        estimate=False,
        shown=_tested,
        words=True,
    ),
    Column("lost", None, lambda score: float(score.lost), "{:.0f}".format, estimate=False),
    Column("lost_failed", None, lambda score: score.lost_failed, three_digits, estimate=False),
    Column(
        "share",
        None,
        lambda score: score.share,
        rate,
    ),
)
"""The columns that every table may have, in their order."""


def of_metric(metric: Metric) -> Column:
    """The column of a further success metric; people see it where the decoding has the samples for it."""
    return Column(
        metric.name,
        lambda table: metric.title,
        lambda score: score.extra.get(metric.name),
        rate,
        shown=lambda scores: any(metric.name in score.extra for score in scores),
    )


def columns(table: Table) -> tuple[Column, ...]:
    """All columns of a table: the declared ones, then its further success metrics."""
    return (*COLUMNS, *map(of_metric, table.extra))
