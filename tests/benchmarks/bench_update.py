"""One training step on 16 groups of 8 siblings, 64 prompt + 32 sampled tokens: CPU time and memory, beside plain ways
and TRL.

Each variant runs in a process of its own, so that its peak memory is its own: what the process holds at most during a
step beyond what it held before the first. Ours and the plain step clip and step the optimiser too; TRL is timed on
its loss and backward pass alone.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from harness.types import Credit, TokenSequence
from tests.benchmarks.measure import ROOT, interleaved, one_thread, policy_directory

GROUPS, SIBLINGS, PROMPT, NEW = 16, 8, 64, 32
PAGE_KB = resource.getpagesize() // 1024


def step_of_siblings() -> tuple[list[TokenSequence], list[Credit]]:
    """Sequences and advantages of one step."""
    rng = np.random.default_rng(0)
    sequences, credits = [], []
    for _ in range(GROUPS):
        prompt = rng.integers(10, 500, PROMPT)
        for _ in range(SIBLINGS):
            tokens = np.concatenate([prompt, rng.integers(10, 500, NEW)])
            mask = np.arange(len(tokens)) >= PROMPT
            sequences.append(
                TokenSequence(tokens, mask, np.where(mask, -6.2, 0.0), np.zeros(len(tokens), dtype=np.int64))
            )
            credits.append(Credit(advantages=np.where(mask, rng.normal(), 0.0)))
    return sequences, credits


def ours(directory: Path, share: bool) -> Callable[[], None]:
    from harness.backends.torch import TorchBackend
    from harness.experiment import LossSettings, OptimiserSettings
    from harness.packing import pack

    backend = TorchBackend(directory, OptimiserSettings(lr=1e-5), device="cpu")
    backend._forward.shares_prompts = share
    sequences, credits = step_of_siblings()

    def step() -> None:
        backend.update(pack(sequences, credits), LossSettings())

    return step


def plain(directory: Path) -> Callable[[], None]:
    """What one writes first: all rows whole, in one padded batch, through the model's own forward pass."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory)
    adam = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    sequences, credits = step_of_siblings()

    def rows(of: Callable[[int], np.ndarray]) -> Any:
        return torch.from_numpy(np.stack([of(n) for n in range(len(sequences))]))

    tokens = rows(lambda n: sequences[n].tokens)
    behaviour, advantages = (
        rows(lambda n: sequences[n].logprobs[PROMPT:]).float(), rows(lambda n: credits[n].advantages[PROMPT:]).float(),
    )  # fmt: skip

    def step() -> None:
        adam.zero_grad()
        logits = model(tokens).logits[:, PROMPT - 1 : -1]
        logprobs = logits.log_softmax(-1).gather(2, tokens[:, PROMPT:, None])[:, :, 0]
        ratio = (logprobs - behaviour).exp()
        loss = -torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()

    return step


def trl(directory: Path) -> Callable[[], None]:
    """`GRPOTrainer`'s loss and backward pass on the same rows."""
    import torch

    from tests.trl_bridge import loss_inputs, trainer_of

    sequences, credits = step_of_siblings()
    trainer = trainer_of(directory, directory.parent / "trl", len(sequences), loss_type="dapo")
    inputs = loss_inputs(sequences, [float(credit.advantages[-1]) for credit in credits], torch.float32)

    def step() -> None:
        trainer.model.zero_grad()
        trainer._compute_loss(trainer.model, inputs).backward()

    return step


VARIANTS: dict[str, Callable[[Path], Callable[[], None]]] = {
    "ours": lambda directory: ours(directory, True),
    "ours, prompts not shared": lambda directory: ours(directory, False),
    "plain padded step": plain,
    "TRL loss + backward": trl,
}


def measure(name: str, directory: Path, repeats: int) -> dict[str, float]:
    """CPU seconds of a step, and the memory it takes at most, in MB. Meant for a process of its own."""
    one_thread()
    step = VARIANTS[name](directory)
    before = _held_kb()
    seconds = interleaved({name: step}, repeats)[name]
    return {"seconds": seconds, "mb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024}


def _held_kb() -> int:
    """Memory held now; loading's own peak is forgotten where the system lets us."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_KB
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.variant:
        sys.stdout.write(json.dumps(measure(given.variant, given.directory, given.repeats)))
        return
    positions = GROUPS * SIBLINGS * (PROMPT + NEW)
    shown = Table(
        "variant", "tokens / CPU s", "peak memory, MB", "ours is faster by",
        title=f"A training step: {GROUPS} groups of {SIBLINGS} siblings, {PROMPT} + {NEW} tokens each, "
        "0.8 M parameters",
    )  # fmt: skip
    names = [name for name in VARIANTS if "TRL" not in name or find_spec("trl")]
    with tempfile.TemporaryDirectory() as folder:
        directory = policy_directory(Path(folder), kv_heads=1)
        found = {name: _in_a_process(name, directory, given.repeats) for name in names}
    for name, facts in found.items():
        faster = facts["seconds"] / found["ours"]["seconds"]
        shown.add_row(name, f"{positions / facts['seconds']:,.0f}", f"{facts['mb']:.0f}", f"{faster:.2f}")
    Console().print(shown)


def _in_a_process(name: str, directory: Path, repeats: int) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.bench_update", "--variant", name]
    done = subprocess.run(
        [*command, "--directory", str(directory), "--repeats", str(repeats)],
        cwd=ROOT, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{name} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
