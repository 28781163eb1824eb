"""Builds the whole world into a folder: ``python -P build.py OUT_DIR``, in AppWorld's own interpreter."""

from __future__ import annotations

import json
import os
import shutil
import sys
import types
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # The package's interpreter lacks what environments/__init__.py imports, so that file must not run.
    environments = types.ModuleType("environments")
    environments.__path__ = [str(Path(__file__).parents[2])]
    sys.modules["environments"] = environments

STAGES = 5


def build(out: Path, scenarios: Any = None) -> dict[str, Any]:
    """Build the world into ``out``, which appears only when complete, and return the manifest.

    ``scenarios`` defaults to all of them. Errors: `FileExistsError` where ``out`` exists; `ValueError` where its path
    holds the word "memory", by which the engine knows a database that is not on disk.
    """
    out = out.absolute()
    if out.exists():
        raise FileExistsError(f"{out} exists; name a folder that does not")
    if "memory" in str(out):
        raise ValueError(f'the engine cannot keep data below a path with the word "memory" in it, got {out}')
    partial = out.with_name(f"{out.name}.partial-{os.getpid()}")
    try:
        manifest = _build(partial, scenarios)
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return manifest


def _build(out: Path, scenarios: Any) -> dict[str, Any]:
    from environments.appworld.world.all_scenarios import SCENARIOS
    from environments.appworld.world.engine import Engine
    from environments.appworld.world.tasks import TaskWriter

    scenarios = SCENARIOS if scenarios is None else scenarios
    data = out / "truth" / "data"
    data.mkdir(parents=True)
    engine = Engine(out / "truth")
    try:
        _say(1, "empty databases")
        _fill(engine, data)
        _say(2, "base state")
        writer = TaskWriter(engine, data, out / "programs")
        splits: dict[str, list[str]] = {}
        for turn, scenario in enumerate(scenarios):
            ids = splits.setdefault(scenario.split, [])
            ids += [writer.write(scenario, index, turn) for index in range(len(scenario.variants))]
        _say(3, f"{len(writer.entries)} tasks")
    finally:
        engine.close()
    return _finish(out, data, splits, writer.entries)


def _fill(engine: Any, data: Path) -> None:
    from environments.appworld.world import state
    from environments.appworld.world.api_docs import save_api_docs

    state.fill(engine)
    engine.mark()
    engine.save_base(data / "base_dbs")
    save_api_docs(engine.apps, data / "api_docs")


def _finish(out: Path, data: Path, splits: dict[str, list[str]], entries: dict[str, Any]) -> dict[str, Any]:
    from appworld.common.constants import DB_VERSION

    from environments.appworld.world.layout import content_hash, share_without_truth

    (data / "version.txt").write_text(f"{DB_VERSION}\n", encoding="utf-8")
    (data / "datasets").mkdir()
    for split, ids in splits.items():
        (data / "datasets" / f"{split}.txt").write_text("\n".join(ids) + "\n", encoding="utf-8")
    share_without_truth(out / "truth", out / "serve")
    _say(4, "the root without ground truth")
    manifest = {"hash": content_hash(out / "truth", out / "programs"), "splits": splits, "tasks": entries}
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    _say(5, "manifest")
    return manifest


def _say(stage: int, what: str) -> None:
    print(f"built {stage} of {STAGES}: {what}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -P build.py OUT_DIR")
    try:
        build(Path(sys.argv[1]))
    except (FileExistsError, ValueError) as error:
        sys.exit(str(error))
