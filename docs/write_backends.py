"""Write docs/backends.md from the code: which backend can do what, and who asks for it.

    python docs/write_backends.py

Rows are the backends that come with the harness (`harness.backends.OURS`), columns what they say they can do
(`capabilities`). The same code gives the same bytes.
"""

from __future__ import annotations

from pathlib import Path

from harness.backends import OURS
from harness.experiment import PlugSettings
from harness.protocols.backend import capabilities_of
from harness.protocols.capabilities import Capability

FILE = Path(__file__).resolve().parent / "backends.md"
INTRODUCTION = """\
# Backends

What each backend that comes with the harness can do beyond the least: sampling tokens with their log-probabilities, and
scoring them, in float32. An experiment that asks for what its backend lacks is refused before anything runs; the error
names the capability and what asks for it. How to write a backend: [adding a backend](adding-a-backend.md).

The torch backend over [several processes](run-on-several-processes.md) (its options `processes` and `shard`) can do all
of it but measure term gradients.

This page is written from the code (`python docs/write_backends.py`); a test compares the two.
"""
ASKED = {
    Capability.TRAINING: "a warm start; every method",
    Capability.RESUME: "every method",
    Capability.CONTEXTS: "methods with a teacher",
    Capability.INITIAL: "methods with a fixed reference, or with the start as teacher",
    Capability.SNAPSHOTS: "methods with a moving teacher, or a reference that is refreshed",
    Capability.TOP_K: "methods with a teacher's distribution over K entries (`Needs.top_k`)",
    Capability.VOCABULARY: "methods with a teacher's whole distribution",
    Capability.TOP_P: "`sampling.top_p` below 1",
    Capability.TERM_GRADIENTS: "nobody: measured every tenth step where it is there",
    Capability.BFLOAT16: '`model.dtype = "bfloat16"`',
    Capability.FLOAT64: '`model.dtype = "float64"`',
}


def text() -> str:
    """The page."""
    columns = list(Capability)
    lines = [INTRODUCTION, f"| backend | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for plug in OURS:
        offered = capabilities_of(PlugSettings(plug=plug))
        lines.append(f"| `{plug}` | {' | '.join('yes' if one in offered else '–' for one in columns)} |")
    lines += ["", "## What they mean", "", "| capability | what it is | asked for by |", "|---|---|---|"]
    lines += [f"| {one} | {one.meaning} | {ASKED[one]} |" for one in columns]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
