"""GRPO by TRL's own trainer and by ours, on the same model: one optimiser step on the same batch, loss and gradient
shown equal first, and whole steps with each one's own sampling, inside each one's own loop.

The two take turns, each in a process of its own; CPU time is that process's, memory what it holds at most beyond the
loaded model. TRL's gradient checkpointing, which computes layers twice, is switched off. `--shape smollm2` takes
minutes.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks.grpo_steps import SHAPES, Shape
from tests.benchmarks.measure import ROOT, talking

WHO = ("ours", "TRL")
PARTS = {"update": "an optimiser step", "whole": "a whole step"}


def in_turns(part: str, name: str, folder: Path, repeats: int) -> dict[str, list[dict[str, Any]]]:
    """What every step came to, the first for warming up; ours goes first in every other round."""
    found: dict[str, list[dict[str, Any]]] = {who: [] for who in WHO}
    environ = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with ExitStack() as stack:
        asks = {}
        for who in WHO:
            command = [sys.executable, "-m", "tests.benchmarks.grpo_steps", who, part, name, str(folder)]
            asks[who] = stack.enter_context(talking(command, environ))
        for ask in asks.values():
            ask(None, said=False)  # it is ready
        for number in range(repeats + 1):
            for who in WHO if number % 2 else reversed(WHO):
                found[who].append(asks[who](""))
    return found


def gradients_apart(folder: Path) -> float:
    """Largest difference of a parameter's gradient between the two, over the largest entry of all."""
    from safetensors import safe_open

    ours, theirs = (safe_open(folder / f"{who}-update" / "gradients.safetensors", "pt") for who in WHO)
    assert set(ours.keys()) == set(theirs.keys())
    apart = whole = 0.0
    for name in ours.keys():  # noqa: SIM118 - it is no mapping
        one, other = ours.get_tensor(name), theirs.get_tensor(name)
        apart, whole = max(apart, float((one - other).abs().max())), max(whole, float(other.abs().max()))
    return apart / whole


def compare(shape: Shape, name: str, repeats: int, console: Console) -> None:
    size = f"{shape.groups} x {shape.siblings} siblings, {shape.prompt} + {shape.new} tokens, {shape.words}"
    shown = Table(
        "", "ours, CPU s", "TRL, CPU s", "TRL / ours", "by round", "ours, MB", "TRL, MB",
        title=f"GRPO: {size}; {repeats} repeats",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        shape.make(folder).rename(folder / "model")
        for part, words in PARTS.items():
            found = in_turns(part, name, folder, repeats)
            if part == "update":
                console.print(_equal(found, gradients_apart(folder)))
            else:
                sampled = [(one["rows"], one["lengths"]) for steps in found.values() for one in steps]
                expected = (shape.groups * shape.siblings, [shape.prompt + shape.new])
                assert all(one == expected for one in sampled), sampled
            row = _row(found)
            console.print(f"{words}: {', '.join(row)}")  # at once: what follows may take minutes
            shown.add_row(words, *row)
    console.print(shown)


def _row(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """CPU seconds with their range, how they compare, round by round, and peaks."""
    seconds = {who: [one["cpu_s"] for one in steps[1:]] for who, steps in found.items()}
    ratios = sorted(theirs / ours for ours, theirs in zip(*seconds.values(), strict=True))
    times = [f"{median(each):.2f} ({min(each):.2f} to {max(each):.2f})" for each in seconds.values()]
    peaks = [f"{steps[-1]['mb']:,.0f}" for steps in found.values()]
    return [*times, f"{median(ratios):.2f}", f"{ratios[0]:.2f} to {ratios[-1]:.2f}", *peaks]


def _equal(found: dict[str, list[dict[str, Any]]], apart: float) -> str:
    """The first step's loss and gradient beside each other; AssertionError where they differ."""
    ours, theirs = (steps[0] for steps in found.values())
    assert abs(ours["loss"] - theirs["loss"]) <= 1e-5 * max(abs(theirs["loss"]), 0.01), (ours, theirs)
    assert abs(ours["norm"] / theirs["norm"] - 1) <= 1e-4, (ours, theirs)
    assert apart <= 1e-4, apart
    words = (
        f"{who}: loss {one['loss']:.8f}, gradient norm {one['norm']:.6f}"
        for who, one in zip(WHO, (ours, theirs), strict=True)
    )
    return f"{'; '.join(words)}; entries of the gradient apart by at most {apart:.1e} of the largest"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    given = parser.parse_args()
    compare(SHAPES[given.shape], given.shape, given.repeats, Console(width=160))


if __name__ == "__main__":
    main()
