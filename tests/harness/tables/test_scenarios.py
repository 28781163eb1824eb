"""Scenarios are read from task ids, and a missing variant is named."""

from __future__ import annotations

import pytest

from harness.core.errors import UserError
from harness.tables.scenarios import scenario_of, scenarios


def test_scenarios_need_all_three_variants() -> None:
    tasks = ["a_b_1", "c_1", "a_b_2", "c_2", "a_b_3", "c_3"]
    assert scenarios(tasks) == {"a_b": [0, 2, 4], "c": [1, 3, 5]}
    with pytest.raises(UserError, match="'c' has 2"):
        scenarios(tasks[:-1])


@pytest.mark.parametrize(("task", "scenario"), [("abc_1", "abc"), ("a_b_2", "a_b"), ("alone", "alone")])
def test_a_scenario_is_the_id_up_to_its_last_underscore(task: str, scenario: str) -> None:
    assert scenario_of(task) == scenario
