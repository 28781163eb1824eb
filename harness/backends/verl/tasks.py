"""The tasks of a run as verl's data set: in training those of every step, in the order in which the run of the same
seed would play them here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from harness.core.seeds import SeedTree
from harness.rollout.panel import tasks_in_order


class Tasks(Dataset[dict[str, Any]]):
    """One prompt for each item, without its text: the environment says that when it is reset.

    data_files: a JSON file of a job, `{"split", "tasks", "steps", "prompts_per_step", "environment"}`; with steps the
    items are those of a whole run, without them the tasks once. config: verl's section `data`, of which the seed is
    read.
    """

    def __init__(
        self,
        data_files: str | list[str],
        tokenizer: Any = None,
        processor: Any = None,
        config: Any = None,
        max_samples: int = -1,
        **_: Any,
    ) -> None:
        [file] = [data_files] if isinstance(data_files, str) else list(data_files)
        given = json.loads(Path(file).read_text(encoding="utf-8"))
        self.training = given["steps"] is not None
        self.environment = given["environment"]
        self.tasks = list(given["tasks"])
        if self.training:
            seeds = SeedTree(int(config.get("seed") or 0))
            self.tasks = tasks_in_order(self.tasks, seeds, 0, given["steps"] * given["prompts_per_step"])
        if max_samples >= 0:
            self.tasks = self.tasks[:max_samples]

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, place: int) -> dict[str, Any]:
        """What verl hands on to the agent loop, of the item at a place."""
        task = self.tasks[place]
        return {
            "raw_prompt": [{"role": "user", "content": task}],
            "task": task,
            "index": place,
            "training": self.training,
            "data_source": self.environment,
        }
