"""Checkpoints of a run: folders that appear whole or not at all, and the way back from the last one."""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.core import records
from harness.core.errors import DamagedRecordError, HarnessError
from harness.core.sums import SUMS, require_whole, seal
from harness.learning.run import Identity, Run, named
from harness.learning.state import Spent

STATE = "run_state.json"
"""The file of a checkpoint that says which run it is of, what that has spent, and what its method keeps."""


def save_checkpoint(run: Run, state: Any) -> None:
    """A folder that appears whole: written under another name, renamed, and only then are older ones removed."""
    name = _name(run.spent.step)
    scratch = run.folder / f".{name}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        run.backend.save(scratch)
        # The position in the seed tree is the step and the cursor: every stream is derived from them.
        place = {"run": run.identity, "spent": asdict(run.spent), "method": state}
        records.write_json(scratch / STATE, place)
        seal(scratch, [file.relative_to(scratch).as_posix() for file in scratch.rglob("*") if file.is_file()])
        shutil.rmtree(run.folder / name, ignore_errors=True)
        os.replace(scratch, run.folder / name)
    except Exception as error:  # torch and safetensors report a full disk each by an error of their own
        shutil.rmtree(scratch, ignore_errors=True)
        raise HarnessError(
            f"could not write {name} in {run.folder}: {error}; make room and call again, the run continues"
        ) from error
    for other in run.folder.glob("*checkpoint-*"):  # with those that a killed process left half written or half removed
        if other.name.lstrip(".") < name:
            _remove(other)


def _remove(checkpoint: Path) -> None:
    """Take a checkpoint away at once: what a kill leaves of it has a name under which nobody looks for one."""
    with contextlib.suppress(OSError):
        if not checkpoint.name.startswith("."):
            hidden = checkpoint.with_name(f".{checkpoint.name}")
            shutil.rmtree(hidden, ignore_errors=True)
            checkpoint = checkpoint.rename(hidden)
        shutil.rmtree(checkpoint)


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints of a run, oldest first."""
    return sorted(entry for entry in folder.glob("checkpoint-*") if (entry / STATE).is_file())


def resume(run: Run, initial: Any) -> Any:
    """Put the run where its last checkpoint left it; returns the method's state.

    DamagedRecordError where that checkpoint is not the one that this run wrote at that step.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    found = checkpoints(run.folder)
    if not found:
        return initial
    saved = read_state(found[-1], run.identity)
    run.backend.load(found[-1])
    run.spent = Spent(**saved["spent"])
    return saved["method"]


def read_state(checkpoint: Path, identity: Identity) -> dict[str, Any]:
    """What a checkpoint says of the run, once every file of it is known to be whole and to be that run's.
    DamagedRecordError elsewhere, with what to do."""
    remedy = f"remove {checkpoint} and call again: the run goes on without it, from the step before or from its start"
    if not (checkpoint / SUMS).is_file():
        raise DamagedRecordError(f"{checkpoint} has no {SUMS}, so nothing says that it is whole; {remedy}")
    require_whole(checkpoint, remedy)
    saved = records.read_json(checkpoint / STATE)
    if saved.get("run") != identity:
        raise DamagedRecordError(
            f"{checkpoint} was written by another run ({named(saved.get('run'))}) than this one ({named(identity)}); "
            f"{remedy}"
        )
    step = saved["spent"]["step"]
    if checkpoint.name != _name(step):
        raise DamagedRecordError(f"{checkpoint} is the checkpoint of step {step} under another name; {remedy}")
    return saved


def _name(step: int) -> str:
    return f"checkpoint-{step:06d}"
