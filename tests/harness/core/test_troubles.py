"""Who had no trouble had it no time; what nobody had is not there."""

from __future__ import annotations

from harness.core.troubles import with_zeros


def test_a_common_mean_needs_zeros_of_those_that_had_none() -> None:
    assert with_zeros([]) == []
    assert with_zeros([{}, {"turns": 2.0}]) == [{}, {"turns": 2.0}]
    # turns are no trouble: who has none has none
    assert with_zeros([{"truncated": 3.0, "turns": 2.0}, {}, {"refused": 1.0}]) == [
        {"truncated": 3.0, "turns": 2.0, "refused": 0.0},
        {"truncated": 0.0, "refused": 0.0},
        {"truncated": 0.0, "refused": 1.0},
    ]
