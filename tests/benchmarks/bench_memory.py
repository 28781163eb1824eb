"""Peak memory of one update of a SmolLM2-shaped model (30 layers, 576 wide, vocabulary 49,152; random weights) on the
CPU: with all distributions at once, in chunks, and with layers computed twice.

Each variant runs in a process of its own; what is shown is what the process holds at most beyond what it held before
the update. `--tokens 4096` and more take minutes and, with all distributions at once, 2 GB for every 1,000 tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from harness.types import Credit, TokenSequence
from tests.benchmarks.measure import ROOT, one_thread, policy_directory

ROW, PROMPT = 1024, 64
SHAPE = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "all distributions at once": {"chunk_mib": 2.0**20},
    "in chunks": {},
    "in chunks, layers computed twice": {"recompute_layers": True},
    "the same, adapter of rank 16": {"recompute_layers": True, "lora": 16},
}


def model_directory(folder: Path) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    directory = policy_directory(folder, kv_heads=1)
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SHAPE, bos_token_id=None, eos_token_id=1)).save_pretrained(directory)
    return directory


def step_of(tokens: int) -> tuple[list[TokenSequence], list[Credit]]:
    """Rows of `ROW` tokens that share nothing."""
    rng = np.random.default_rng(0)
    sequences, credits = [], []
    for _ in range(max(1, tokens // ROW)):
        ids, mask = rng.integers(10, SHAPE["vocab_size"], min(ROW, tokens)), np.arange(min(ROW, tokens)) >= PROMPT
        sequences.append(TokenSequence(ids, mask, np.where(mask, -10.8, 0.0), np.zeros(len(ids), dtype=np.int64)))
        credits.append(Credit(advantages=np.where(mask, rng.normal(), 0.0)))
    return sequences, credits


def measure(name: str, directory: Path, tokens: int) -> dict[str, float]:
    """CPU seconds, and MiB beyond those held before. Meant for a process of its own."""
    from harness.backends.torch import TorchBackend
    from harness.backends.torch.lora import Lora
    from harness.experiment import LossSettings, OptimiserSettings
    from harness.packing import pack

    one_thread()
    options = dict(VARIANTS[name])
    if "lora" in options:
        options["lora"] = Lora(rank=options["lora"])
    backend = TorchBackend(directory, OptimiserSettings(lr=1e-6, micro_tokens=tokens), device="cpu", **options)
    batch = pack(*step_of(tokens))
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of loading
    before, began = _memory("VmRSS"), time.process_time()
    loss = backend.update(batch, LossSettings())["loss/total"]
    return {"mib": _memory("VmHWM") - before, "seconds": time.process_time() - began, "loss": loss}


def _memory(kind: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(kind))
    return int(line.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--only", choices=VARIANTS, action="append", help="these variants (default: all)")
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.variant:
        sys.stdout.write(json.dumps(measure(given.variant, given.directory, given.tokens)))
        return
    shown = Table("variant", "peak above, GiB", "CPU s", "loss", title=f"An update on {given.tokens} tokens")
    with tempfile.TemporaryDirectory() as folder:
        directory = model_directory(Path(folder))
        for name in given.only or VARIANTS:
            if "lora" in VARIANTS[name] and find_spec("peft") is None:
                continue
            facts = _in_a_process(name, directory, given.tokens)
            shown.add_row(name, f"{facts['mib'] / 1024:.2f}", f"{facts['seconds']:.0f}", f"{facts['loss']:.6f}")
    Console().print(shown)


def _in_a_process(name: str, directory: Path, tokens: int) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.bench_memory", "--variant", name]
    # Freed arrays go back to the system at once, so that the peak is of what was held together.
    done = subprocess.run(
        [*command, "--directory", str(directory), "--tokens", str(tokens)],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"},
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{name} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
