"""From a task's truth to the files of its ``ground_truth`` folder, in the engine's own format."""

from __future__ import annotations

from typing import Any

from environments.appworld.world.scenario import Rows, Truth

_HEAD = '''"""Whether the task was solved and nothing else was touched."""
import json


def plain(value):
    if hasattr(value, "isoformat"):
        return value.isoformat()[:10]
    if isinstance(value, float):
        return round(value, 2)
    if isinstance(value, str):
        return " ".join(value.split()).casefold()
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    return value


def has(record, fields):
    return all(plain(getattr(record, name)) == plain(value) for name, value in fields.items())


def split_added(records, wanted):
    """(fields that no new row has, new rows that nobody asked for)"""
    missing, left = [], list(records)
    for fields in wanted:
        found = next((record for record in left if has(record, fields)), None)
        if found is None:
            missing.append(dict(fields))
        else:
            left.remove(found)
    return missing, left


def missing(models, rows):
    added, updated, removed = models.changed_records(rows["model"])
    new = {record.id: record for record in updated}
    kept = {record.id for record in removed}
    return (
        split_added(added, rows["added"])[0]
        + [key for key, fields in rows["updated"].items() if int(key) not in new or not has(new[int(key)], fields)]
        + [key for key in rows["removed"] if key not in kept]
    )


def surplus(models, rows):
    added, updated, removed = models.changed_records(rows["model"])
    extra = [record.id for record in split_added(added, rows["added"])[1]]
    for record in updated:
        fields = models.changed_field_names(rows["model"], record.id) or set()
        if fields - {*rows["updated"].get(str(record.id), {}), *rows["free"], "record_hash", "_db_home_path"}:
            extra.append(record.id)
    return extra + [record.id for record in removed if record.id not in rows["removed"]]


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    tables = private_data["tables"]
'''


def ground_truth(truth: Truth, difficulty: int) -> tuple[dict[str, Any], str]:
    """The JSON files of a task's ``ground_truth`` by name, and the text of its ``evaluation.py``."""
    allowed = sorted({rows.model for rows in truth.rows} | set(truth.echoes))
    tests: list[tuple[str, str, str]] = [
        (
            "assert answers match.",
            "no_op_fail",
            "test.answer(json.loads(models.end.supervisor.Task.first().answer), ground_truth_answer)",
        )
    ]
    for index, rows in enumerate(truth.rows):
        tests.append((f"assert {rows.what}.", "no_op_fail", f'test.case(missing(models, tables[{index}]), "==", [])'))
        tests.append(
            (
                f"assert nothing in {rows.model} changed but what was asked for ({index + 1}).",
                "no_op_pass",
                f'test.case(surplus(models, tables[{index}]), "==", [])',
            )
        )
    names = ", ".join(allowed) or "no table"
    tests.append(
        (
            f"assert no table changed beyond: {names}.",
            "no_op_pass",
            f'test.case(sorted(models.changed_model_names() - set({allowed!r})), "==", [])',
        )
    )
    code = _HEAD + "\n".join(f'    with test("""{text}"""):\n        {call}' for text, _, call in tests) + "\n"
    files = {
        "metadata": {"difficulty": difficulty, "mode": "minimal"},
        "public_data": {},
        "private_data": {"tables": [_table(rows) for rows in truth.rows]},
        "answer": truth.answer,
        "test_data": [{"requirement": text, "label": label} for text, label, _ in tests],
    }
    return files, code


def idle_share(test_data: list[dict[str, str]]) -> float:
    """The share of a task's tests that doing nothing passes."""
    return sum(test["label"] == "no_op_pass" for test in test_data) / len(test_data)


def _table(rows: Rows) -> dict[str, Any]:
    return {
        "model": rows.model,
        "added": [dict(fields) for fields in rows.added],
        "updated": {str(key): dict(fields) for key, fields in rows.updated.items()},
        "removed": list(rows.removed),
        "free": list(rows.free),
    }
