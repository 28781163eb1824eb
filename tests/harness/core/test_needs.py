"""What a method may ask for: wrong values are refused where the method is made, with the nearest right one."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from harness.core.errors import UserError
from harness.types import Needs


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"teacher_policy": "initail"}, "unknown teacher_policy of Needs 'initail'; did you mean 'initial'"),
        ({"teacher": "sample"}, "did you mean 'sampled'"),
        ({"ids_of": "techer"}, "did you mean 'teacher'"),
        ({"values_at": "turns"}, "did you mean 'turn'"),
        ({"teacher_decay": 1.0}, r"teacher_decay must be in \[0, 1\), got 1.0"),
        ({"teacher_decay": -0.1}, "got -0.1"),
        ({"teacher_decay": float("nan")}, "got nan"),
        ({"teacher_decay": True}, "got True"),
        ({"teacher_every": 0}, "teacher_every must be a whole number from 1 on, got 0"),
        ({"teacher_every": 2.5}, "got 2.5"),
        ({"reference_every": -1}, "reference_every must be a whole number from 0 on"),
        ({"values": True}, "values must be a whole number from 0 on, got True"),
        ({"top_k": 0}, "top_k must be a whole number from 1 on"),
    ],
)
def test_wrong_needs_are_refused(given: dict[str, Any], says: str) -> None:
    """By the class itself: under the tests' type checks a constructor is never reached by half of these."""
    needs = object.__new__(Needs)
    for entry in fields(Needs):
        object.__setattr__(needs, entry.name, given.get(entry.name, entry.default))
    with pytest.raises(UserError, match=says):
        needs.__post_init__()


def test_the_ends_of_every_range_are_allowed() -> None:
    Needs("distribution", 1, "student", True, "ema", 0.0, 1, 0, 0, "turn")
    Needs("sampled", None, teacher_policy="initial", teacher_decay=0.999, teacher_every=10, reference_every=1)
