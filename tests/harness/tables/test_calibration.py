"""Tables in which no method is better than another, judged by the functions that judge real ones: how often they err.

The figures of docs/statistics.md are made by `python -m tests.simulated_tables`. CALIBRATION_TABLES=2000 simulates as
many tables a cell here.
"""

from __future__ import annotations

import math
import os

import pytest
from simulated_tables import CHAOTIC, SEEDS, TASKS, World, figures

TABLES = int(os.environ.get("CALIBRATION_TABLES", "200"))


MDE_ROOM = 0.8 / math.sqrt(TABLES)
"""Of the planned effect over the one found: of 60 tables of 3 seeds two figures were 0.80 and 0.83, where 2,000 give
0.94 to 0.97."""


def room(share: float) -> float:
    """Three binomial standard errors of a share of so many tables: one of 50 figures is out of it in 8 runs."""
    return 3 * math.sqrt(share * (1 - share) / TABLES)


@pytest.mark.slow
@pytest.mark.parametrize("tasks", TASKS)
@pytest.mark.parametrize("seeds", SEEDS)
def test_tables_err_as_often_as_they_say(seeds: int, tasks: int) -> None:
    """Family error 0.05 +- 0.015, coverage 0.93 to 0.97, the planned effect within 15 % of the one found, claims of
    equivalence wrong in 5 % at most; each with what the number of tables leaves open. The comparisons of a table go
    together, so that its intervals count as three, one an endpoint, and not as 21: coverage has a third of the room."""
    found = figures(World(seeds, tasks), TABLES)
    assert 0.035 - room(0.035) <= found.family_error <= 0.065 + room(0.065)
    assert found.simultaneous >= 0.935 - room(0.065)
    for name, coverage in found.unfloored.items():
        assert 0.93 - room(0.05) / 3 <= coverage <= 0.97 + room(0.05) / 3, name
        assert found.plain[name] >= coverage - 1e-9  # the floor only widens
        assert abs(found.planned[name] - 1) <= 0.15 + MDE_ROOM, name
    assert found.equivalence <= 0.05 + room(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", SEEDS)
def test_a_chaotic_row_is_judged_by_its_own_variance(seeds: int) -> None:
    """Four times the chaos of the others. Three seeds do not tell it from them often enough (docs/statistics.md)."""
    found = figures(World(seeds, 57, wild=CHAOTIC), TABLES)
    assert found.family_error <= (0.09 if seeds == 3 else 0.065) + room(0.065)
    assert found.own > 0.56  # of eight equal rows 0.07 each
    least = 0.88 if seeds == 3 else 0.92
    for name, coverage in found.odd_row.items():
        assert least - room(0.08) <= coverage, name


@pytest.mark.slow
def test_a_collapsed_row_breaks_nothing() -> None:
    found = figures(World(5, 57, collapsed=1), TABLES)
    assert found.family_error <= 0.065 + room(0.065)
    assert min(found.plain.values()) >= 0.93
    assert found.apart >= 1


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [5, 10])
def test_rows_nearly_as_the_first_are_not_found_to_differ(seeds: int) -> None:
    """Judged by their own variance, which few seeds tell badly: still no more often wrong than promised."""
    found = figures(World(seeds, 57, twins=2), TABLES)
    assert found.family_error <= 0.065 + room(0.065)
    assert found.apart >= 1
    for name, coverage in found.odd_row.items():
        assert coverage >= 0.95 - room(0.05), name
