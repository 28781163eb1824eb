"""`harness plan`: from the records beside a spec, or from what is assumed, and what it refuses."""

from __future__ import annotations

from pathlib import Path

from guides import done, refused

from harness import ROOT


def test_from_records_and_from_assumptions(tmp_path: Path) -> None:
    spec = ROOT / "results/laptop/reasoning-mini/spec.toml"
    shown = " ".join(done(tmp_path, f"harness plan {spec} --effect 0.03").split())
    assert "Seeds for 0.03" in shown
    assert "6 rows, 3 seeds" in shown
    assert "at the level adjusted for 5 comparisons at 3 endpoints" in shown
    (tmp_path / "spec.toml").write_text(spec.read_text())
    alone = done(tmp_path, f"harness plan {tmp_path / 'spec.toml'} --seeds 10")
    assert "assumed" in alone
    assert "by 10 seeds" in " ".join(alone.split())


def test_an_effect_is_a_difference_of_rates(tmp_path: Path) -> None:
    spec = ROOT / "results/laptop/reasoning-mini/spec.toml"
    assert "between 0 and 1, got 5" in refused(tmp_path, f"harness plan {spec} --effect 5")
