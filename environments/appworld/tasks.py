"""Which tasks there are: the official splits, or those of the project's own world; and where their files lie."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from environments.appworld import install
from environments.appworld.fingerprint import meaning_hash

HERE = Path(__file__).resolve().parent
OWN = {split: split for split in ("train", "dev", "test_normal", "test_challenge")}
MINI = {"train": "mini_train", "dev": "mini_dev", "test": "mini_test"}
"""Splits of the own world: the name here, and the name in its manifest."""


@dataclass(frozen=True)
class Root:
    """AppWorld roots: `serve`, without ground truth, to play in; `truth` to judge in. first_task warms the engine."""

    serve: Path
    truth: Path
    first_task: str


@dataclass(frozen=True)
class Tasks:
    """Task ids by split, and what is known of each."""

    root: Root
    splits: Mapping[str, list[str]]
    version: str
    """Changes with the tasks, the engine and what of it is ours."""
    protocol: str
    facts: Mapping[str, Mapping[str, Any]]
    """Own world: difficulty, apps and `idle` (the share of tests that doing nothing passes) of each task."""
    programs: Path | None = None

    def program(self, task_id: str, which: Literal["gold", "wrong"]) -> list[str] | None:
        """Blocks that solve the task, or miss it plausibly; None where none ship."""
        if self.programs is None:
            return None
        blocks: list[str] = json.loads((self.programs / f"{task_id}.json").read_text(encoding="utf-8"))[which]
        return blocks

    def instruction(self, task_id: str) -> str:
        """What the agent is asked to do, without opening the task's world."""
        specs = self.root.serve / "data" / "tasks" / task_id / "specs.json"
        return str(json.loads(specs.read_text(encoding="utf-8"))["instruction"])

    def idle(self, task_id: str, judged: Mapping[str, Any]) -> float:
        """The share of a task's tests that doing nothing passes: those labelled so."""
        return float(judged["idle"])

    def difficulty(self, task_id: str, judged: Mapping[str, Any] | None) -> int:
        """1 to 3; 0 where neither the world nor a verdict has it."""
        if judged is not None and judged["difficulty"] is not None:
            return int(judged["difficulty"])
        return int(self.facts.get(task_id, {}).get("difficulty", 0))


@cache
def engine_version() -> str:
    """The engine's release, and a hash of what our sources mean that run in its process."""
    inside = [(file.name, file) for file in (HERE / "inside").glob("*.py")]
    worker = HERE.parent / "isolation" / "worker.py"
    return f"{install.PACKAGE} shell {meaning_hash([*inside, (worker.name, worker)])[:12]}"


def own_tasks(splits: Mapping[str, str]) -> Tasks:
    """Tasks of the project's own world, which is built if need be. splits: OWN or MINI."""
    folder = install.own_world()
    manifest = install.manifest_of(folder)
    chosen = {split: list(manifest["splits"][name]) for split, name in splits.items()}
    root = Root(folder / "serve", folder / "truth", manifest["splits"]["train"][0])
    return Tasks(
        root, chosen, f"{engine_version()} own world {manifest['hash'][:12]}",
        "AppWorld's engine, the project's own world (not AppWorld's tasks)", manifest["tasks"], folder / "programs",
    )  # fmt: skip


def official_tasks() -> Tasks | None:
    """The official splits, where the data is installed; None elsewhere. ValueError where it is there and not whole."""
    data = install.official_data()
    if data is None:
        return None
    splits = install.check_official(data)
    root = Root(install.serving_root(data), data.parent, splits["train"][0])
    file = data / "version.txt"
    release = file.read_text(encoding="utf-8").strip() if file.is_file() else "unknown"
    return Tasks(root, splits, f"{engine_version()} official data {release}", "AppWorld", {})
