"""The own world: its scenarios keep what the splits promise, it builds the same every time, and the raw engine agrees
with it.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from environments.appworld.world.all_scenarios import SCENARIOS
from environments.appworld.world.evaluation import ground_truth, idle_share
from environments.appworld.world.people import PEOPLE, SUPERVISORS, related, relationship
from environments.appworld.world.programs import apis_used, blocks
from environments.appworld.world.scenario import Rows, Scenario, Truth, fill

WORLD = Path(__file__).parents[3] / "environments" / "appworld" / "world"
SPLITS = ("train", "dev", "test_normal", "test_challenge")
OWN = [scenario for scenario in SCENARIOS if scenario.split in SPLITS]


def _apis(scenario: Scenario) -> set[str]:
    return set(apis_used(blocks(scenario.gold)))


def test_scenarios_have_names_of_their_own_and_three_variants() -> None:
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS)
    assert {len(scenario.variants) for scenario in OWN} == {3}
    assert len(OWN) >= 36


@pytest.mark.parametrize("split", SPLITS)
def test_every_split_has_all_difficulties(split: str) -> None:
    assert {scenario.difficulty for scenario in OWN if scenario.split == split} == {1, 2, 3}


def test_every_challenge_needs_an_api_that_no_training_scenario_uses() -> None:
    known = set().union(*(_apis(scenario) for scenario in OWN if scenario.split == "train"))
    challenges = [scenario for scenario in OWN if scenario.split == "test_challenge"]
    assert len(challenges) >= 7
    assert [scenario.name for scenario in challenges if _apis(scenario) <= known] == []


@pytest.mark.parametrize("scenario", OWN, ids=lambda scenario: scenario.name)
def test_programmes_are_python_that_logs_in_and_ends_the_task(scenario: Scenario) -> None:
    for program in (blocks(scenario.gold), blocks(scenario.wrong)):
        for block in program:
            ast.parse(block.replace("<<", "(").replace(">>", ")"))
        assert 1 <= len(program) <= 8
        assert "supervisor.complete_task" in apis_used(program)
    assert scenario.gold.strip() != scenario.wrong.strip()


def test_no_scenario_can_be_guessed_from_its_variants_alone() -> None:
    for scenario in OWN:
        instructions = {scenario.instruction} | {str(variant) for variant in scenario.variants}
        assert len(instructions) == 1 + len(scenario.variants), scenario.name


def test_pages_are_all_read_and_a_page_is_one() -> None:
    (every,) = blocks('if x:\n    @pages rows = apis.app.list(token="t")')
    (one,) = blocks('@page rows = apis.app.list(token="t")')
    calls: list[int] = []

    class Lister:
        def list(self, token: str, page_index: int = 0, page_limit: int = 5) -> list[int]:
            calls.append(page_index)
            return list(range(47))[page_index * page_limit : (page_index + 1) * page_limit]

    class Apis:
        app = Lister()

    names: dict[str, Any] = {"apis": Apis(), "x": True}
    exec(every, names)
    assert names["rows"] == list(range(47))
    # 47 rows by 20 are pages 0, 1 and a short page 2.
    assert calls == [0, 1, 2]
    exec(one, names)
    assert names["rows"] == list(range(5))


def test_an_unknown_macro_or_value_is_refused() -> None:
    with pytest.raises(ValueError, match="@loginn"):
        blocks("@loginn venmo")
    with pytest.raises(KeyError, match="who"):
        fill("pay(<<who>>)", {"whom": "x"})
    assert fill("pay(<<who>>, <<much>>)", {"who": "it's", "much": 3.5}) == 'pay("it\'s", 3.5)'


def test_bad_names_and_difficulties_are_refused() -> None:
    fields: dict[str, Any] = dict(vars(OWN[0]))
    with pytest.raises(ValueError, match="pay_rent"):
        Scenario(**{**fields, "name": "pay_rent"})
    with pytest.raises(ValueError, match="1, 2 or 3"):
        Scenario(**{**fields, "difficulty": 4})


def test_everybody_is_told_apart_by_role_where_first_names_are_shared() -> None:
    twins = [(one, two) for one in PEOPLE for two in PEOPLE if one.first_name == two.first_name and one is not two]
    assert twins
    for supervisor in SUPERVISORS:
        for one, two in twins:
            assert relationship(supervisor, one) != relationship(supervisor, two)
        assert len(related(supervisor, "roommate")) == 2
    assert len({person.password(app) for person in PEOPLE for app in ("venmo", "phone", "gmail")}) == 3 * len(PEOPLE)


def test_tests_of_a_task_that_asks_and_of_one_that_acts() -> None:
    question, code = ground_truth(Truth(answer=7), difficulty=1)
    # The answer fails and the untouched tables pass for somebody who does nothing.
    assert [test["label"] for test in question["test_data"]] == ["no_op_fail", "no_op_pass"]
    assert idle_share(question["test_data"]) == 0.5
    assert question["answer"] == 7
    rows = Rows("venmo.Transaction", "paid", added=[{"amount": 5}])
    action, code = ground_truth(Truth([rows], echoes=["venmo.User"]), difficulty=2)
    assert [test["label"] for test in action["test_data"]] == ["no_op_fail", "no_op_fail", "no_op_pass", "no_op_pass"]
    assert all(f'"""{test["requirement"]}"""' in code for test in action["test_data"])
    ast.parse(code)


# ---------------------------------------------------------------- with AppWorld's own interpreter


def _run(script: str, *arguments: Path | str) -> str:
    python = os.environ.get("APPWORLD_PYTHON")
    if not python:
        pytest.skip("APPWORLD_PYTHON names no interpreter with AppWorld in it")
    command = [python, "-P", str(WORLD / script), *map(str, arguments)]
    folder = Path(arguments[0]).parent
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder).stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world") / "one"
    output = _run("build.py", out)
    assert output.splitlines()[-1] == "built 5 of 5: manifest"
    return out


@pytest.fixture(scope="module")
def manifest(built: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((built / "manifest.json").read_text())
    return found


@pytest.mark.slow
def test_two_builds_have_the_same_content(built: Path, manifest: dict[str, Any]) -> None:
    other = built.with_name("two")
    _run("build.py", other)
    assert json.loads((other / "manifest.json").read_text()) == manifest
    assert sorted(path.name for path in built.parent.iterdir()) == ["one", "two"]


@pytest.mark.slow
def test_the_served_root_holds_everything_but_the_truth(built: Path, manifest: dict[str, Any]) -> None:
    served, truth = (
        {path.relative_to(root) for path in root.rglob("*")} for root in (built / "serve", built / "truth")
    )
    assert served < truth
    assert all("ground_truth" in path.parts for path in truth - served)
    for split, ids in manifest["splits"].items():
        assert (built / "serve" / "data" / "datasets" / f"{split}.txt").read_text().split() == ids
        assert all((built / "programs" / f"{task_id}.json").is_file() for task_id in ids)


@pytest.mark.slow
def test_the_manifest_shows_that_splits_share_no_scenario(manifest: dict[str, Any]) -> None:
    scenarios = {
        split: {manifest["tasks"][task]["scenario"] for task in ids} for split, ids in manifest["splits"].items()
    }
    assert sum(map(len, scenarios.values())) == len(set().union(*scenarios.values()))
    tasks = manifest["tasks"]
    known = {api for task in manifest["splits"]["train"] for api in tasks[task]["apis"]}
    assert all(set(tasks[task]["apis"]) - known for task in manifest["splits"]["test_challenge"])


@pytest.mark.slow
def test_gold_solves_and_nothing_less_does(built: Path, manifest: dict[str, Any]) -> None:
    ids = [task for split in SPLITS for task in manifest["splits"][split]]
    report = json.loads(_run("verify.py", built, *ids))
    assert [task for task in ids if not report["gold"][task]] == []
    for name in ("wrong", "idle", "complete"):
        assert [task for task in ids if report[name][task]] == [], name
    assert report["share"] == {task: manifest["tasks"][task]["idle"] for task in ids}
    assert report["errors"] == {}


@pytest.mark.slow
def test_no_text_of_the_protected_part_is_in_the_sources(built: Path) -> None:
    texts: set[str] = set()
    for file in (built / "serve" / "data" / "api_docs" / "standard").glob("*.json"):
        for doc in json.loads(file.read_text()).values():
            texts |= {doc["description"], doc["canary_string"], *(row["description"] for row in doc["parameters"])}
    # Shorter ones are everyday phrases.
    sentences = {" ".join(text.split()).casefold() for text in texts if len(text) >= 35}
    assert len(sentences) > 300
    for source in WORLD.parent.rglob("*.*"):
        if source.suffix in {".py", ".md", ".txt", ".json"}:
            content = " ".join(source.read_text(encoding="utf-8").split()).casefold()
            assert [text for text in sentences if text in content] == [], source.name


@pytest.mark.slow
def test_a_folder_that_exists_or_that_the_engine_would_misread_is_refused(built: Path) -> None:
    for out, word in ((built, "exists"), (built.with_name("in-memory"), "memory")):
        with pytest.raises(subprocess.CalledProcessError) as raised:
            _run("build.py", out)
        assert word in raised.value.stderr
    assert not list(built.parent.glob("*partial*"))
