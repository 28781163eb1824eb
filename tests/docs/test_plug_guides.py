"""The guides to context sources, text policies and backends: written to an empty folder, checked, and run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from guides import commands, done, refused, written

from harness.core import records

CHECKS = {
    "adding-a-context.md": ("harness check-context", 2, ["my_context.py", "hinted.toml"]),
    "adding-a-policy.md": ("harness check-policy", 1, ["my_policy.py"]),
    "adding-a-backend.md": ("harness check-backend", 2, ["my_backend.py", "elastic.toml"]),
}


@pytest.mark.parametrize(
    "guide",
    [pytest.param(guide, marks=pytest.mark.slow if guide == "adding-a-backend.md" else ()) for guide in CHECKS],
)
def test_its_code_keeps_the_contract(guide: str, tmp_path: Path) -> None:
    check, times, files = CHECKS[guide]
    assert written(guide, tmp_path) == files
    checks = [command for command in commands(guide) if command.startswith(check)]
    assert len(checks) == times
    for command in checks:
        assert "keeps the contract" in done(tmp_path, command)


@pytest.mark.parametrize(
    ("guide", "change", "command", "answer"),
    [
        ("adding-a-context.md", ("", ""), """--options '{"acts": 2}'""", "did you mean 'actions'"),
        ("adding-a-context.md", ("", ""), """--options '{"actions": "2"}'""", "should be a valid integer"),
        ("adding-a-context.md", ("return None", 'return ContextRequest("")'), "", "nothing to offer is None"),
        ("adding-a-policy.md", ("return str(low", "return (low"), "", "act returned int, not text"),
        ("adding-a-policy.md", ('name = "search"', "pass"), "", "lacks name"),
        ("adding-a-policy.md", ("", ""), """--options '{"plce": 0.5}'""", "did you mean 'place'"),
        ("adding-a-backend.md", ("", ""), """--options '{"pul": 0.5}'""", "did you mean 'pull'"),
        pytest.param(
            "adding-a-backend.md",
            ("lerp_(initial, self.pull)", "copy_(initial)"),
            "",
            "does not make them likelier",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_broken_one_is_told_what_is_wrong(
    guide: str, change: tuple[str, str], command: str, answer: str, tmp_path: Path
) -> None:
    file = tmp_path / written(guide, tmp_path)[0]
    assert change[0] in file.read_text()
    file.write_text(file.read_text().replace(*change) if change[0] else file.read_text())
    check = next(line for line in commands(guide) if line.startswith(CHECKS[guide][0]))
    assert answer in refused(tmp_path, f"{check} {command}")


@pytest.mark.slow
def test_a_context_is_named_in_the_footnote(tmp_path: Path) -> None:
    written("adding-a-context.md", tmp_path)
    bench = commands("adding-a-context.md")[-1]
    assert "conditioned on first 2 reference actions" in done(tmp_path, bench)
    table = (tmp_path / "table.md").read_text()
    assert "the teacher reads: first 2 reference actions" in table


@pytest.mark.slow
def test_a_backend_trains_and_is_part_of_what_is_matched(tmp_path: Path) -> None:
    written("adding-a-backend.md", tmp_path)
    done(tmp_path, commands("adding-a-backend.md")[-2])
    matched = records.read(tmp_path / "runs.jsonl.gz").header["matched"]
    assert matched["backend.plug"] == "my_backend:Elastic"
    assert matched["backend.options.pull"] == 0.002
    step = records.read(next(tmp_path.glob("runs/elastic/*/grpo-*/steps.jsonl"))).rows[-1]
    assert step["pull/distance"] > 0


def test_a_policy_plays(tmp_path: Path) -> None:
    written("adding-a-policy.md", tmp_path)
    halving, counting = commands("adding-a-policy.md")[1:]
    assert "success 1.000" in done(tmp_path, halving)
    done(tmp_path, counting)
    summary = next((tmp_path / "counting").glob("*.json"))
    assert json.loads(summary.read_text())["success"] < 1
    assert "12 of 12 episodes were played before" in done(tmp_path, halving)
    episodes = next((tmp_path / "runs" / "evaluations").glob("*.jsonl"))
    assert "guess" in done(tmp_path, f"harness show {episodes} 0")
