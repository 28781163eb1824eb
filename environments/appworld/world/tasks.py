"""Writing one task's folders: what it changes in the base, its specification, its ground truth and its programmes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from environments.appworld.world.engine import NOW, Engine
from environments.appworld.world.evaluation import ground_truth, idle_share
from environments.appworld.world.people import APPS_WITH_EMAIL_LOGIN, BY_KEY, SUPERVISORS, Person
from environments.appworld.world.programs import apis_used, blocks
from environments.appworld.world.records import World
from environments.appworld.world.scenario import Scenario, fill
from environments.appworld.world.state import card


class TaskWriter:
    """Writes tasks into the data root of ``engine`` and collects what the manifest records of them."""

    def __init__(self, engine: Engine, data: Path, programs: Path) -> None:
        self.engine = engine
        self.data = data
        self.programs = programs
        self.entries: dict[str, dict[str, Any]] = {}
        self._profiles: dict[str, list[Any]] = {}
        programs.mkdir(parents=True, exist_ok=True)

    def write(self, scenario: Scenario, index: int, turn: int) -> str:
        """Write variant ``index`` of a scenario and return the task's id.

        ``turn`` picks the supervisor where the variant names none.

        The engine is back at its base afterwards, also when the scenario raises.
        """
        task_id = scenario.ids()[index]
        values = dict(scenario.variants[index])
        me = BY_KEY[values["me"]] if "me" in values else SUPERVISORS[(turn + index) % len(SUPERVISORS)]
        values["me"] = me.key
        try:
            truth = scenario.prepare(World(self.engine, me), values)
            files, code = ground_truth(truth, scenario.difficulty)
            gold, wrong = (blocks(fill(program, values)) for program in (scenario.gold, scenario.wrong))
            instruction = scenario.instruction.format(**values)
            files["metadata"] |= _sizes(gold)
            folder = self.data / "tasks" / task_id
            (folder / "dbs").mkdir(parents=True)
            self._write_changes(folder / "dbs", me, instruction)
        finally:
            self.engine.undo()
        _write_json(folder / "specs.json", _specs(instruction, me))
        truth_folder = folder / "ground_truth"
        truth_folder.mkdir()
        for name, content in files.items():
            _write_json(truth_folder / f"{name}.json", content)
        (truth_folder / "evaluation.py").write_text(code, encoding="utf-8")
        _write_json(self.programs / f"{task_id}.json", {"gold": gold, "wrong": wrong})
        self.entries[task_id] = {
            "scenario": scenario.name,
            "difficulty": scenario.difficulty,
            "apps": _apps(gold),
            "apis": apis_used(gold),
            "idle": idle_share(files["test_data"]),
        }
        return task_id

    def _write_changes(self, folder: Path, me: Person, instruction: str) -> None:
        self._introduce(me)
        World(self.engine, me).save("supervisor.Task", supervisor_id=1, instruction=instruction)
        for app in self.engine.apps:
            changes = self.engine.changes(app)
            lines = [json.dumps(change) for change in changes]
            (folder / f"{app}.jsonl").write_text("\n".join(lines) + ("\n" if lines else ""), encoding="utf-8")

    def _introduce(self, me: Person) -> None:
        """Write the supervisor's profile: record by record the first time, later as the SQL kept from then."""
        database = self.engine.database("supervisor")
        if me.key not in self._profiles:
            self._write_profile(World(self.engine, me), me)
            self._profiles[me.key] = list(database.tracker.changes)
            return
        for statement, parameters, _ in self._profiles[me.key]:
            database.connection.execute(statement, parameters)
        database.connection.commit()
        database.tracker.add_changes(self._profiles[me.key])

    def _write_profile(self, world: World, me: Person) -> None:
        fields = {
            "first_name": me.first_name,
            "last_name": me.last_name,
            "email": me.email,
            "phone_number": me.phone_number,
            "birthday": me.birthday,
            "sex": me.sex,
        }
        supervisor = world.save("supervisor.Supervisor", **fields)
        for app in (*APPS_WITH_EMAIL_LOGIN, "phone"):
            world.save(
                "supervisor.AccountPassword", supervisor_id=supervisor, account_name=app, password=me.password(app)
            )
        world.save("supervisor.PaymentCard", supervisor_id=supervisor, **card(me))
        world.save(
            "supervisor.Address",
            supervisor_id=supervisor,
            name="Home",
            street_address=f"{10 + len(me.key)} Quince Row",
            city="Harrowmere",
            state="Westmark",
            country="Ostara",
            zip_code=40110 + SUPERVISORS.index(me),
        )


def _sizes(program: list[str]) -> dict[str, int]:
    """What the engine would otherwise count in a solution file, with a formatter that may not be installed."""
    lines = [line for block in program for line in block.splitlines()]
    calls = sum(line.count("apis.") for line in lines)
    sizes = {"num_apps": len(_apps(program)), "num_apis": len(apis_used(program)), "num_api_calls": calls}
    return sizes | {"num_solution_code_lines": len(lines)}


def _apps(program: list[str]) -> list[str]:
    return sorted({api.split(".")[0] for api in apis_used(program)} - {"supervisor", "api_docs"})


def _specs(instruction: str, me: Person) -> dict[str, Any]:
    from appworld.common.constants import CANARY_STRING, DB_VERSION

    supervisor = {
        "first_name": me.first_name,
        "last_name": me.last_name,
        "email": me.email,
        "phone_number": me.phone_number,
    }
    return {
        "instruction": instruction,
        "supervisor": supervisor,
        "datetime": NOW.isoformat(),
        "db_version": DB_VERSION,
        "canary_string": CANARY_STRING,
    }


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
