"""A family of experiments that differ in one setting, as a table and a figure of steps to a fixed success."""

from __future__ import annotations

from pathlib import Path

import pytest
from experiments import small

from harness.core.errors import MissingDataError, UserError
from harness.experiment import write_spec
from harness.report import scaling
from harness.report.folder import write_records
from harness.runs.record import Records

DECLARED = """
title = "Guess: steps against numbers"
by = "environment.options.size"
label = "Numbers"
success = 0.5
"""


@pytest.fixture
def family(tmp_path: Path) -> Path:
    """Windows of 4 and 8 numbers; the slower method never gets there with 8."""
    (tmp_path / scaling.DECLARATION).write_text(DECLARED)
    for size in (8, 4):
        place = tmp_path / f"size-{size}"
        place.mkdir()
        settings = small()
        options = settings.environment.model_copy(update={"options": {"size": size}})
        write_spec(settings.model_copy(update={"environment": options}), place / "spec.toml")
        points = [
            {"method": method, "seed": seed, "step": step, "sampled": min(step * rate / size, 1.0)}
            for method, rate in (("GRPO", 0.4), ("Slow", 0.1))
            for seed in (0, 1)
            for step in (0, 10, 20)
        ]
        write_records(Records([{"method": "GRPO", "matched": {}}], [], points), place)
    return tmp_path


def test_the_table_has_a_column_for_every_place(family: Path) -> None:
    scaling.write_scaling(family)
    text = (family / "scaling.md").read_text()
    # success = 0.4 step / size: 0.5 at step 5 and 10; the slow one at step 20 and, with 8 numbers, not in 20 steps
    assert "| Method | Numbers 4 | Numbers 8 |" in text
    assert "| GRPO | 5.0 [5.0, 5.0] (2 of 2) | 10.0 [10.0, 10.0] (2 of 2) |" in text
    assert "| Slow | 20.0 [20.0, 20.0] (2 of 2) | > 20 (0 of 2) |" in text
    assert (family / "scaling.svg").read_text().startswith("<?xml")


def test_the_same_records_give_the_same_bytes(family: Path) -> None:
    scaling.write_scaling(family)
    before = [(family / name).read_bytes() for name in ("scaling.md", "scaling.svg")]
    scaling.write_scaling(family)
    assert before == [(family / name).read_bytes() for name in ("scaling.md", "scaling.svg")]


def test_a_declaration_that_names_no_number_is_refused(family: Path) -> None:
    (family / scaling.DECLARATION).write_text(DECLARED.replace("options.size", "options.sizes"))
    with pytest.raises(UserError, match="sizes is None, not a number"):
        scaling.write_scaling(family)
    (family / scaling.DECLARATION).write_text(DECLARED.replace("success", "succes"))
    with pytest.raises(UserError, match="succes"):
        scaling.write_scaling(family)


def test_a_family_without_records_is_named(tmp_path: Path) -> None:
    (tmp_path / scaling.DECLARATION).write_text(DECLARED)
    with pytest.raises(MissingDataError, match="harness bench"):
        scaling.write_scaling(tmp_path)
