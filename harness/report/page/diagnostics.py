"""Per-step diagnostics of each method: a glance over all, and small charts for every number that was logged."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from harness.report.page import charts
from harness.report.page.charts import Line
from harness.tables.grid import NOTHING, Grid

Row = Mapping[str, Any]

MEANINGS: dict[str, tuple[str, str]] = {
    "success": ("Success in training", "share of the step's episodes that succeeded"),
    "method/sign_agreement": ("Sign agreement", "share of tokens on which credit and advantage have one sign"),
    "method/effective_siblings": ("Effective siblings", "1 / sum of squared sibling weights, mean over tokens"),
    "method/weight_mean": ("Mean weight", "mean weight of a sampled token"),
    "method/gate_share": ("Gate share", "share that opens the method's gate: what moves its weights"),
    "method/lambda": ("Likelihood weight", "weight of the likelihood term in force"),
    "method/mu": ("Reference weight", "weight of the pull to the reference in force"),
    "method/divergence_mean": ("Teacher divergence", "mean divergence between teacher and student, nats"),
    "method/degenerate_groups": ("Degenerate groups", "share of groups whose rewards are all equal"),
    "mixed_share": ("Mixed groups", "share of groups with successes and failures"),
    "teacher/share": ("With a teacher", "share of episodes whose teacher had something to read"),
    "teacher/too_long": ("Too long for the teacher", "episodes that do not fit the window with their context"),
    "ending/token_limit": ("Cut off: window full", "share of episodes that ended because the window was full"),
    "ending/turn_limit": ("Cut off: turn limit", "share of episodes that ended at the turn limit"),
    "ending/parse_error": ("Unreadable action", "share of episodes ended by an action that could not be read"),
    "ending/error": ("Lost to infrastructure", "share of episodes lost to the infrastructure"),
    "ending/completed": ("Completed", "share of episodes that ended by themselves"),
    "ratio/clipped": ("Clipped", "share of tokens whose ratio was clipped"),
    "nats_per_token": ("Entropy proxy", "mean negative log-probability of a sampled token, nats"),
    "sampled_tokens": ("Sampled tokens", "sampled tokens of an episode, mean"),
    "gradient_norm": ("Gradient norm", "norm of the gradient before clipping"),
    "groups": ("Groups", "groups of siblings that the step learned from"),
    "reward": ("Reward", "mean reward"),
    "lr": ("Learning rate", "learning rate of the step"),
}
"""Numbers with a name and a meaning of their own, in the order they are shown; others stand by the name they have."""
GLANCE = (
    "method/sign_agreement", "method/effective_siblings", "method/weight_mean", "teacher/share", "mixed_share",
    "ratio/clipped", "ending/token_limit", "ending/turn_limit", "ending/error", "nats_per_token",
)  # fmt: skip
"""What the glance over all methods shows, where any logged it."""
GRADIENT, PREFIXES = (
    "gradient/",
    {"gradient/": "Gradient of ", "loss/": "Loss of ", "ending/": "Ended: ", "method/": ""},
)


@dataclass(frozen=True)
class Chart:
    """One number of one method over its steps."""

    name: str
    meaning: str
    chart: Markup
    says: str


@dataclass(frozen=True)
class OfMethod:
    """All numbers of one method."""

    method: str
    charts: tuple[Chart, ...]


def name_of(key: str) -> str:
    """A logged number's name for people."""
    if key in MEANINGS:
        return MEANINGS[key][0]
    prefix = next((prefix for prefix in PREFIXES if key.startswith(prefix)), "")
    words = key.removeprefix(prefix).replace("_", " ").replace("/", ", ")
    found = PREFIXES.get(prefix, "") + words
    return found[:1].upper() + found[1:]


def glance(summary: Sequence[Row]) -> Grid:
    """Medians over the steps: a row a method, a column for what is worth a glance; shares of the gradient last."""
    means = _means(summary)
    shares = {method: _shares(rows) for method, rows in means.items()}
    terms = list(dict.fromkeys(term for of in shares.values() for term in of))
    keys = [key for key in GLANCE if any(key in row for rows in means.values() for row in rows)]
    rows = tuple(
        (
            method,
            *(_median([row[key] for row in of if key in row]) for key in keys),
            *(_median(shares[method].get(term, [])) for term in terms),
        )
        for method, of in means.items()
    )
    header = ("Method", *map(name_of, keys), *(f"Gradient share, {term}" for term in terms))
    notes = [f"{name_of(key)}: {MEANINGS[key][1]}." for key in keys]
    if terms:
        notes.append("Gradient share: norm of the term's gradient over the sum of all terms' norms, where measured.")
    return Grid("Diagnostics, median over the steps", header, rows, tuple(notes))


def by_method(summary: Sequence[Row], prefix: str) -> list[OfMethod]:
    """Small charts of everything that varies; what never does is stated in its caption's place by the glance."""
    order = {key: place for place, key in enumerate(MEANINGS)}
    found = []
    for number, (method, rows) in enumerate(_rows(summary).items()):
        keys = sorted({key for row in rows for key in row["mean"]}, key=lambda key: (order.get(key, len(order)), key))
        drawn = [_chart(rows, key, method, f"{prefix}-d{number}-{place}") for place, key in enumerate(keys)]
        found.append(OfMethod(method, tuple(drawn)))
    return found


def _chart(rows: Sequence[Row], key: str, method: str, ident: str) -> Chart:
    have = [row for row in rows if key in row["mean"]]
    steps = [float(row["step"]) for row in have]
    mean, least, most = ([row[name][key] for row in have] for name in ("mean", "low", "high"))
    line = Line(steps, mean, least, most)
    low, high = min(line.low), max(line.high)
    stated = f"first {line.y[0]:.3g}, last {line.y[-1]:.3g}, median {statistics.median(line.y):.3g}"
    meaning = MEANINGS[key][1] if key in MEANINGS else ""
    if low >= 0 and 0.05 < high <= 1:
        low, high = 0.0, 1.0
    title = f"{name_of(key)} of {method} over the steps"
    return Chart(name_of(key), meaning, charts.panel([line], ident, title, stated, (low, high)), stated)


def _rows(summary: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in summary:
        found.setdefault(row["method"], []).append(row)
    return found


def _means(summary: Sequence[Row]) -> dict[str, list[Mapping[str, float]]]:
    return {method: [row["mean"] for row in rows] for method, rows in _rows(summary).items()}


def _shares(rows: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """By term, its share of the gradient at every step that measured it; nothing where there is a single term."""
    found: dict[str, list[float]] = {}
    for row in rows:
        terms = {key.removeprefix(GRADIENT): value for key, value in row.items() if key.startswith(GRADIENT)}
        total = sum(terms.values())
        if len(terms) > 1 and total > 0:
            for term, value in terms.items():
                found.setdefault(term, []).append(value / total)
    return found


def _median(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3g}" if values else NOTHING
