"""Checkpoints of a run: folders that appear whole or not at all, and the way back from the last one."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.core import records
from harness.core.errors import HarnessError
from harness.learning.run import Run
from harness.learning.state import Spent


def save_checkpoint(run: Run, state: Any) -> None:
    """A folder that appears whole: written under another name, renamed, and only then are older ones removed."""
    name = f"checkpoint-{run.spent.step:06d}"
    scratch = run.folder / f".{name}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        run.backend.save(scratch)
        # The position in the seed tree is the step and the cursor: every stream is derived from them.
        records.write_json(scratch / "run_state.json", {"spent": asdict(run.spent), "method": state, "seed": run.seed})
        shutil.rmtree(run.folder / name, ignore_errors=True)
        os.replace(scratch, run.folder / name)
    except Exception as error:  # torch and safetensors report a full disk each by an error of their own
        shutil.rmtree(scratch, ignore_errors=True)
        raise HarnessError(
            f"could not write {name} in {run.folder}: {error}; make room and call again, the run continues"
        ) from error
    for older in checkpoints(run.folder)[:-1]:
        shutil.rmtree(older, ignore_errors=True)


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints of a run, oldest first."""
    return sorted(entry for entry in folder.glob("checkpoint-*") if (entry / "run_state.json").is_file())


def resume(run: Run, initial: Any) -> Any:
    """Put the run where its last checkpoint left it; returns the method's state."""
    run.folder.mkdir(parents=True, exist_ok=True)
    found = checkpoints(run.folder)
    if not found:
        return initial
    saved = json.loads((found[-1] / "run_state.json").read_text())
    run.backend.load(found[-1])
    run.spent = Spent(**saved["spent"])
    return saved["method"]
