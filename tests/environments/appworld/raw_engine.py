"""The raw engine beside ours: `raw_loop` running in AppWorld's interpreter, asked for one episode after another."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from environments.appworld import install

LOOP = Path(__file__).with_name("raw_loop.py")


class RawEngine:
    """A process that plays AppWorld's own loop on the own world. root: a new folder, which keeps the outputs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - open as long as the process
        self._process = subprocess.Popen(
            [install.interpreter(), "-P", LOOP, install.own_world() / "truth" / "data", root],
            env=install.environ(),
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )

    def play(self, task_id: str, blocks: list[str], name: str = "raw") -> dict[str, Any]:
        """One episode; its outputs lie in `experiments/outputs/NAME` of the root."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"task_id": task_id, "blocks": blocks, "name": name}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            raise RuntimeError(f"the raw loop ended: {self._errors.read()[-3000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> RawEngine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.communicate()
        self._errors.close()
