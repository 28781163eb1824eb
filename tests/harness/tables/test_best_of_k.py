"""The best of k trials: against every draw there is, and the choice of a winner."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.tables.search import Tried, best_of, chosen, tried


@given(st.lists(st.floats(0, 1), min_size=1, max_size=7), st.data())
def test_it_is_the_mean_over_all_draws(scores: list[float], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(scores)))
    draws = [max(draw) for draw in itertools.combinations(scores, k)]
    assert best_of(scores, k) == pytest.approx(np.mean(draws))


def test_by_hand() -> None:
    """Scores 1, 2, 3: of the three pairs two hold the 3 and one has the 2 as its best."""
    assert best_of([2.0, 3.0, 1.0], 1) == pytest.approx(2.0)
    assert best_of([2.0, 3.0, 1.0], 2) == pytest.approx((3 + 3 + 2) / 3)
    assert best_of([2.0, 3.0, 1.0], 3) == 3.0
    for k in (0, 4):
        with pytest.raises(ValueError, match=f"best of {k} trials, but there are 3"):
            best_of([2.0, 3.0, 1.0], k)


def row(trial: int, seed: int, score: float | None, method: str = "A") -> dict[str, object]:
    return {"method": method, "trial": trial, "seed": seed, "score": score, "settings": {"optimiser.lr": trial}}


def test_the_winner_has_the_best_mean_over_its_seeds() -> None:
    rows = [row(1, 0, 0.9), row(1, 1, 0.1), row(2, 1, 0.6), row(2, 0, 0.5), row(1, 0, 0.2, "B")]
    found = tried(rows)
    assert list(found) == ["A", "B"]
    assert found["A"][1] == Tried("A", 2, {"optimiser.lr": 2}, (0.5, 0.6))
    assert chosen(found["A"]).number == 2


def test_a_trial_that_failed_on_a_seed_is_not_chosen_and_the_first_of_equals_is() -> None:
    found = tried([row(1, 0, 0.9), row(1, 1, None), row(2, 0, 0.3), row(2, 1, 0.3), row(3, 0, 0.3), row(3, 1, 0.3)])
    assert found["A"][0].score == -math.inf
    assert chosen(found["A"]).number == 2
