"""The guides to environments of other libraries: their code and commands, with the real libraries.

The libraries are where `harness setup textarena` and `harness setup verifiers` put them.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer
from guides import DOCS, commands, done, harness, written

from environments.foreign.install import HOME

pytestmark = [pytest.mark.slow, pytest.mark.heavy]


def python_of(library: str) -> Path:
    """The library's own interpreter; skips where there is none."""
    python = HOME / ".venvs" / library / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{library} is not installed: harness setup {library}")
    return python


def test_textarena(tmp_path: Path) -> None:
    python_of("textarena")
    assert written("textarena.md", tmp_path) == ["my_games.py"]
    _, *checks = commands("textarena.md")
    told = [done(tmp_path, command) for command in checks]
    assert sum("keeps the contract" in text for text in told) == 4
    assert sum("success 1.000" in text for text in told) == 1
    options = """--env-options '{"name": "%s"}'"""
    assert "has 1 different tasks" in _refused(
        tmp_path, f"harness check-env TextArena-v0 {options % 'TowerOfHanoi-v0'}"
    )
    assert "not found in registry" in _refused(tmp_path, f"harness check-env TextArena-v0 {options % 'Guess-v9'}")
    told = _refused(tmp_path, f"harness init grpo --env TextArena-v0 {options % 'GuessTheNumber-v0'}")
    assert "ships no gold actions" in told


def test_verifiers_here(tmp_path: Path) -> None:
    python_of("verifiers")
    assert written("verifiers.md", tmp_path) == ["reverse_words.py", "my_gold.py", "guess_in_verifiers.py"]
    _, check, evaluate = commands("verifiers.md")
    assert "keeps the contract" in done(tmp_path, check)
    assert "success 1.000" in done(tmp_path, evaluate)
    told = _refused(tmp_path, """harness check-env Verifiers-v0 --env-options '{"name": "no-such-set"}'""")
    assert "'no-such-set' not found" in told
    assert "not installed" not in told


def _refused(folder: Path, command: str) -> str:
    result = harness(folder, command)
    assert result.returncode == 2, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stderr


def _halves(request: Any, count: int) -> Any:
    """The guess that halves what a conversation of Guess-v0 leaves."""
    low = high = guess = 0
    for message in request["messages"]:
        if found := re.match(r"guess (\d+) to (\d+)", message["content"]):
            low, high = map(int, found.groups())
        elif message["role"] == "assistant":
            guess = int(message["content"])
        else:
            low, high = (guess + 1, high) if message["content"] == "higher" else (low, guess - 1)
    status, body = ChatServer.says(str((low + high) // 2), finish_reason="stop")
    return status, json.dumps(json.loads(body) | {"id": "1", "object": "chat.completion", "created": 0, "model": "m"})


def test_ours_in_verifiers(tmp_path: Path) -> None:
    python = python_of("verifiers")
    written("verifiers.md", tmp_path)
    (block,) = re.findall(r"^```sh\n(.*?)^```$", (DOCS / "verifiers.md").read_text(), re.DOTALL | re.MULTILINE)
    words = shlex.split(block.splitlines()[-1])
    assert words[0] == ".venvs/verifiers/bin/vf-eval"
    server = ChatServer(_halves)
    try:
        words = [server.url if word.startswith("http") else word for word in words[1:]]
        environ = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{DOCS.parent}", "PRIME_API_KEY": "none"}
        command = [str(python.with_name("vf-eval")), *words]
        ran = subprocess.run(
            command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False, timeout=500
        )
    finally:
        server.stop()
    assert ran.returncode == 0, ran.stderr[-3000:]
    (file,) = tmp_path.glob("outputs/*/traces.jsonl")
    episodes = [json.loads(line) for line in file.read_text().splitlines()]
    traces = [trace for episode in episodes for trace in episode["traces"]]
    assert len(traces) == 6
    assert all(trace["ok"] and trace["rewards"]["reward"]["score"] == 1.0 for trace in traces)
    assert all(trace["metrics"]["success"] == 1.0 and trace["metrics"]["turns"] <= 3 for trace in traces)
