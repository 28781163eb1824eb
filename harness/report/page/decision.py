"""What a table says, in plain sentences: which rows differ, which are equivalent, which are undecided, what credit
could have gained, how sure that is and what it cost.

Every sentence follows from the table's own verdicts; nothing is tested here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from harness.report.columns import gain, interval
from harness.report.grids import endpoint_name
from harness.tables.endpoints import AREA, Judgement
from harness.tables.statistics import Estimate
from harness.tables.table import Table, TableRow

Word = Literal["better", "worse", "equivalent", "undecided", "exploratory", "control", "untested"]
WORDS: dict[Word, str] = {
    "better": "better",
    "worse": "worse",
    "equivalent": "equivalent",
    "undecided": "undecided",
    "exploratory": "exploratory",
    "control": "control",
    "untested": "too few seeds",
}
"""Words for people."""
SIGNED: tuple[Word, ...] = ("better", "worse")
"""The verdicts of rows that differ."""


@dataclass(frozen=True)
class Finding:
    """One row against the compared one at one endpoint."""

    method: str
    word: Word
    difference: Estimate
    joint: Estimate | None
    """With the simultaneous interval; None for what is not tested."""

    @property
    def shown(self) -> Estimate:
        """The simultaneous interval where there is one, else the plain one."""
        return self.joint or self.difference


@dataclass(frozen=True)
class Decision:
    """The first thing a reader sees."""

    headline: str
    use: str
    """Which method to use."""
    sure: str
    """How sure that is."""
    cost: str
    """What it cost."""
    sentences: tuple[str, ...]
    notices: tuple[str, ...]
    """What has to be known before anything is believed: gaps, a historical record."""
    pick: str | None
    """Label of the method to use; None where nothing was compared."""


def findings(table: Table, endpoint: str) -> list[Finding]:
    """Every compared row at one endpoint, in the table's order."""
    found = []
    for row in table.rows:
        judged = table.judged.found.get((endpoint, row.run.method))
        if judged is not None:
            found.append(Finding(row.run.method, _word(row, judged), judged.versus, judged.joint))
    return found


def decide(table: Table) -> Decision:
    """The sentences of a table."""
    primary = findings(table, table.primary) if table.against else []
    notices = _notices(table)
    if not primary:
        nothing = "Nothing is compared in this table."
        alone = "one method alone was run" if table.against else "no row of it was trained"
        return Decision(nothing, f"No choice to make: {alone}.", "Nothing was tested.", _cost(table, table.against),
                        (), notices, table.against)  # fmt: skip
    pick = _pick(primary, table)
    return Decision(
        _headline(primary, table),
        _use(primary, table, pick),
        _sure(primary, table),
        _cost(table, pick),
        (*_classes(primary, table), _headroom(table), *_controls(primary, table), *_elsewhere(table)),
        notices,
        pick,
    )


def listed(names: Sequence[str]) -> str:
    """`A, B and C`; with semicolons where a name has a comma of its own."""
    between = "; " if any("," in name for name in names) else ", "
    return f"{between.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)


def endpoint_words(endpoint: str, decoding: str) -> str:
    """An endpoint as a sentence names it."""
    if endpoint == AREA:
        return f"success over the whole of training ({decoding}, the area under the learning curve)"
    return f"success at the end ({endpoint})"


def _word(row: TableRow, judged: Judgement) -> Word:
    if row.run.control:
        return "control"
    if row.run.exploratory:
        return "exploratory"
    if judged.verdict is None:
        return "untested"
    if judged.verdict == "different":
        return "better" if judged.versus.mean > 0 else "worse"
    return "undecided" if judged.verdict == "undecided" else "equivalent"


def _of(found: Sequence[Finding], word: Word) -> list[Finding]:
    return [finding for finding in found if finding.word == word]


def _names(found: Sequence[Finding]) -> str:
    return listed([finding.method for finding in found])


def _are(found: Sequence[Finding]) -> str:
    return "is" if len(found) == 1 else "are"


def _by_their_end(better: Sequence[Finding], table: Table) -> tuple[list[Finding], list[Finding]]:
    """The better rows that are better at an endpoint of the end too, and those that are not: learned fast and then
    fallen, or caught up with. A lead over the whole of training alone is not yet a better policy to keep."""
    ends = [endpoint for endpoint in table.endpoints if endpoint != AREA]
    if table.primary != AREA or not ends:
        return list(better), []
    kept = {finding.method for endpoint in ends for finding in _of(findings(table, endpoint), "better")}
    return [f for f in better if f.method in kept], [f for f in better if f.method not in kept]


def _pick(found: Sequence[Finding], table: Table) -> str:
    """The largest gain of the better rows, of those that keep it to the end where some do; else the compared row."""
    better = _of(found, "better")
    choice = _by_their_end(better, table)[0] or better
    return max(choice, key=lambda finding: finding.difference.mean).method if choice else str(table.against)


def _headline(found: Sequence[Finding], table: Table) -> str:
    better, worse = _of(found, "better"), _of(found, "worse")
    tested = [finding for finding in found if finding.word not in ("exploratory", "control", "untested")]
    if better:
        _, gone = _by_their_end(better, table)
        but = f", but {_names(gone)} {_are(gone)} not shown to be so at the end" if gone else ""
        return f"{_names(better)} {_are(better)} better than {table.against}{but}."
    if not tested:
        return f"No verdict: nothing was tested against {table.against}."
    tail = f" {_names(worse)} {_are(worse)} worse." if worse and len(worse) <= 3 else ""
    if len(_of(found, "equivalent")) == len(tested):
        return f"No method makes a difference that matters to {table.against}."
    if len(worse) == len(tested):
        return f"{table.against} is better than every other method here."
    return f"No method is shown to be better than {table.against}.{tail}"


def _use(found: Sequence[Finding], table: Table, pick: str) -> str:
    better, undecided = _of(found, "better"), _of(found, "undecided")
    lasting, gone = _by_their_end(better, table)
    if better and not lasting:
        return (
            f"No clear choice: {pick} gains most over the whole of training, not by its end. Look at its curve first."
        )
    if len(lasting) == 1:
        return f"Use {pick}" + (": its gain is there at the end too." if gone else ".")
    if lasting:
        which = "that are better at the end too" if gone else "that are better"
        return f"Use {pick}: the largest gain of those {which}, which are not compared with each other here."
    if undecided:
        count = "one method is" if len(undecided) == 1 else f"{len(undecided)} methods are"
        return f"Stay with {pick} for now: {count} undecided, and more seeds or tasks may still tell."
    if _of(found, "untested"):
        return f"Stay with {pick} until there are three seeds or more."
    return f"Use {pick}: nothing here improves on it."


def _sure(found: Sequence[Finding], table: Table) -> str:
    if not table.judged.size:
        return "Not sure at all: below three common seeds nothing is tested."
    stated = (
        f"{len(table.seeds)} seeds, {table.tasks} tasks. All {table.judged.size} comparisons together err in 5 % of "
        "such tables at most."
    )
    effect = table.judged.detectable.get(table.primary)
    if effect is not None:
        stated += f" A true difference of {effect:.3f} or more would have been found four times in five."
    undecided = [f.shown for f in _of(found, "undecided") if math.isfinite(f.shown.low) and math.isfinite(f.shown.high)]
    if undecided:
        low, high = min(e.low for e in undecided), max(e.high for e in undecided)
        stated += f" Undecided rows may differ by anything from {low:+.3f} to {high:+.3f}."
    return stated


def _cost(table: Table, pick: str | None) -> str:
    learned = [row for row in table.rows if row.run.learns]
    own = next((row for row in learned if row.run.method == pick), None)
    if own is None:
        return "Nothing was trained."
    stated = [f"{pick}: {own.budget['generated_tokens']:,.0f} tokens generated for every seed"]
    if own.budget["teacher_tokens"]:
        stated.append(f"{own.budget['teacher_tokens']:,.0f} read by a teacher")
    if own.budget["external_calls"]:
        stated.append(f"{own.budget['external_calls']:,.0f} external calls")
    if own.wall_s is not None:
        stated.append(f"{own.wall_s:,.0f} s of training")
    read = max(row.budget["teacher_tokens"] for row in learned)
    others = f" Teachers of other methods read up to {read:,.0f} tokens more." if read else ""
    return ", ".join(stated) + "." + ("" if own.budget["teacher_tokens"] else others)


def _classes(found: Sequence[Finding], table: Table) -> list[str]:
    """A sentence for every verdict that some row got."""
    where = endpoint_words(table.primary, table.decoding)
    stated = [f"What decides: {where}, each method against {table.against} on the same seeds and tasks."]
    stated += [
        f"{finding.method} is {word} by {abs(finding.difference.mean):.3f}: {gain(finding.difference)}, "
        f"together with all others {interval(finding.shown)}."
        for word in SIGNED
        for finding in _of(found, word)
    ]
    same = _of(found, "equivalent")
    if same:
        stated.append(
            f"{_names(same)} {'makes' if len(same) == 1 else 'make'} no difference larger than {table.margin:g}, which "
            "was declared to be too small to matter."
        )
    undecided = _of(found, "undecided")
    if undecided:
        stated.append(
            f"{_names(undecided)} {_are(undecided)} undecided: neither a difference nor its absence is shown. That is "
            "no evidence that they are the same."
        )
    if untested := _of(found, "untested"):
        stated.append(f"{_names(untested)} {_are(untested)} not tested: fewer than three seeds in common.")
    if exploratory := _of(found, "exploratory"):
        stated.append(f"{_names(exploratory)} {_are(exploratory)} exploratory: shown, declared before the run to test "
                    "nothing.")  # fmt: skip
    return stated


def _headroom(table: Table) -> str:
    if table.oracle is None:
        return "Headroom: no row with true values was run, so how much any credit could have gained here is not known."
    judged = table.judged.found.get((table.primary, table.oracle))
    by = f" ({gain(judged.versus)})" if judged else ""
    effect = table.judged.detectable.get(table.primary)
    beyond = f", more than the {effect:.3f} that this table can detect" if effect is not None else ""
    if table.judged.headroom.get(table.primary):
        beats = f"credit from true values ({table.oracle}) beats {table.against}{by}{beyond}"
        return f"Headroom: {beats}. Credit matters here."
    within = f" by more than the {effect:.3f} that this table can detect" if effect is not None else ""
    return (
        f"Headroom: none that can be measured. Even credit from true values ({table.oracle}) does not beat "
        f"{table.against}{by}{within}: on these tasks and this budget no credit could have helped measurably."
    )


def _controls(found: Sequence[Finding], table: Table) -> list[str]:
    controls = [finding for finding in _of(found, "control") if finding.method != table.oracle]
    return [f"Control: {finding.method} {gain(finding.difference)}." for finding in controls]


def _elsewhere(table: Table) -> list[str]:
    """What the endpoints that do not decide show."""
    stated = []
    for endpoint in table.endpoints:
        found = findings(table, endpoint)
        if endpoint == table.primary or not found:
            continue
        parts = [f"{_names(some)} {_are(some)} {word}" for word in SIGNED if (some := _of(found, word))]
        counts = {"undecided": len(_of(found, "undecided")), "equivalent": len(_of(found, "equivalent"))}
        parts += [f"{count} {word}" for word, count in counts.items() if count]
        if parts:
            stated.append(f"At another endpoint, {endpoint_words(endpoint, table.decoding)}: {', '.join(parts)}.")
    return stated


def _notices(table: Table) -> tuple[str, ...]:
    stated = []
    if table.historical is not None:
        stated.append(
            "A historical record: its code has changed since, and running the experiment again may give other numbers."
        )
    if table.certified is not None:
        stated.append(
            f"The code has changed since this was recorded; seed {table.certified.seed} of every row, repeated with "
            f"the code beside it up to step {table.certified.steps}, is byte for byte the same."
        )
    if table.mini:
        stated.append("A Mini environment: its numbers mean nothing outside this table.")
    stated += [f"Incomplete: {warning}" for warning in table.warnings]
    if table.no_area:
        stated.append(f"The area under the learning curve was to decide and is not there: {table.no_area}.")
    if table.failed:
        stated.append(f"{table.failed:,} evaluation episodes were lost to the infrastructure.")
    return tuple(stated)


def short_endpoint(endpoint: str, table: Table) -> str:
    """An endpoint as a heading names it."""
    name = f"Over training, {table.decoding}" if endpoint == AREA else f"At the end, {endpoint_name(endpoint)}"
    return f"{name} (decides)" if endpoint == table.primary else name
