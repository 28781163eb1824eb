"""What a step of an 8-billion-parameter model on eight GPUs would cost, on paper: operations and calls are counted and
timed here on a model of SmolLM2's shape, and divided by what the cards' maker publishes.

Shown first is what was measured: operations of a trained position and of a sampled token beside the formula that
carries them over to the larger model, CPU seconds, the share of the core's own speed, and the CPU time in which a layer
is called once. Then the estimate, with what it assumes.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks.bench_memory import SHAPE, model_directory
from tests.benchmarks.grpo_steps import SHAPES, given_batch
from tests.benchmarks.measure import one_thread


@dataclass(frozen=True)
class Model:
    """A Llama-shaped model; numbers are matrix entries, and operations on them count twice (a product and a sum)."""

    layers: int
    width: int
    inner: int
    heads: int
    kv_heads: int
    head: int
    vocabulary: int

    @property
    def body(self) -> int:
        attention = self.width * self.head * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.width * self.inner)

    @property
    def output(self) -> int:
        return self.vocabulary * self.width

    def seen(self, tokens: float) -> float:
        """Operations of one position's attention to so many."""
        return 4.0 * self.layers * self.heads * self.head * tokens

    @property
    def cache_bytes(self) -> int:
        """Of one position's keys and values in bfloat16."""
        return 2 * 2 * self.layers * self.kv_heads * self.head


SMALL = Model(
    SHAPE["num_hidden_layers"], SHAPE["hidden_size"], SHAPE["intermediate_size"], SHAPE["num_attention_heads"],
    SHAPE["num_key_value_heads"], SHAPE["hidden_size"] // SHAPE["num_attention_heads"], SHAPE["vocab_size"],
)  # fmt: skip
LARGE = Model(layers=36, width=4096, inner=12288, heads=32, kv_heads=8, head=128, vocabulary=152_000)
CARD = {"operations": 989e12, "bytes": 3.35e12, "memory": 80e9}
"""H100 SXM as published: bfloat16 without sparsity and memory traffic a second, memory."""
CARDS, USED, READ = 8, 0.4, 0.6
"""Assumed shares of the two rates that are reached: 0.4 of operations in training, 0.6 of traffic in decoding."""
PROMPTS, SIBLINGS, PROMPT, SAMPLED = 64, 8, 1024, 1024


def counted(work: Callable[[], Any]) -> tuple[float, float]:
    """Operations of matrix products, and CPU seconds without the counting. Attention's own operations are no such
    products on a CPU."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    class Counter(TorchDispatchMode):
        total = 0.0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            count = flop_registry.get(func._overloadpacket)
            if count is not None and func._overloadpacket.__name__ in ("mm", "addmm", "bmm", "baddbmm"):
                self.total += count(*args, **(kwargs or {}), out_val=out)
            return out

    with Counter() as counter:
        work()
    began = time.process_time()
    work()
    return counter.total, time.process_time() - began


def core_speed(size: int = 1024) -> float:
    """Operations a second of a large product of matrices on this core, the best of five."""
    import torch

    one, times = torch.randn(size, size), []
    for _ in range(5):
        began = time.process_time()
        one @ one
        times.append(time.process_time() - began)
    return 2.0 * size**3 / min(times)


def layer_call_s(folder: Path) -> float:
    """CPU seconds in which a layer is called for one token: of a model so narrow that calls are all there is."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from harness.backends.torch.forward import LlamaForward

    layers = 32
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=layers, num_attention_heads=2
    )
    forward, times = LlamaForward(LlamaForCausalLM(config)), []
    forward.fuse = False  # as for every large model
    cache, one = forward.cache(1, 64), torch.ones(1, dtype=torch.int64)
    with torch.no_grad():
        for _ in range(50):
            began = time.process_time()
            forward.extend(one[None], one, cache)
            times.append(time.process_time() - began)
    return min(times) / layers


def measure(folder: Path) -> dict[str, float]:
    """A trained position (prompts of siblings once), a sampled token, a call."""
    from harness.backends.torch import TorchBackend
    from harness.experiment import LossSettings, OptimiserSettings
    from harness.losses import pack
    from harness.protocols.backend import Prompt, SamplingParams

    shape, directory = SHAPES["smollm2"], model_directory(folder)
    sequences, credits = given_batch(SMALL.vocabulary, shape)
    backend = TorchBackend(directory, OptimiserSettings(lr=1e-6), device="cpu")
    prompts = [Prompt(s.tokens[: shape.prompt].tolist(), seed=n) for n, s in enumerate(sequences)]
    drawn, drawn_s = counted(lambda: backend.sample(prompts, SamplingParams(shape.new)))
    taken, taken_s = counted(lambda: backend.update(pack(sequences, credits), LossSettings()))
    rows, groups = len(sequences), shape.groups
    positions = groups * (shape.prompt - 1) + rows * (shape.new + 1)
    sampled = rows * shape.new
    expected = 6 * (SMALL.body * positions + SMALL.output * rows * shape.new)
    decoded = 2 * (SMALL.body * (groups * shape.prompt + sampled - rows) + SMALL.output * sampled)
    speed = core_speed()
    return {
        "update / formula": taken / expected,
        "sampling / formula": drawn / decoded,
        "update, CPU ms a position": taken_s / positions * 1e3,
        "sampling, CPU ms a token": drawn_s / sampled * 1e3,
        "update, share of the core's speed": taken / taken_s / speed,
        "a layer's calls, CPU ms": layer_call_s(folder) * 1e3,
    }


def estimate(call_s: float) -> list[tuple[str, str]]:
    """The arithmetic, line by line."""
    model, rows = LARGE, PROMPTS * SIBLINGS
    at_once, weights = rows // CARDS, 2.0 * (model.body + 2 * model.output)
    context = PROMPT + SAMPLED / 2
    traffic = weights + at_once * context * model.cache_bytes
    reading, calling = traffic / (READ * CARD["bytes"]), model.layers * call_s
    token_s = max(reading, calling)
    sampling_s = SAMPLED * token_s
    positions, sampled = PROMPTS * PROMPT + rows * SAMPLED, rows * SAMPLED
    per_position = 8 * model.body + 4 * model.seen(context)
    operations = positions * per_position + sampled * 8 * model.output
    update_s = operations / (CARDS * USED * CARD["operations"])
    cache = at_once * (PROMPT + SAMPLED) * model.cache_bytes
    step_s = sampling_s + update_s
    alone = SAMPLED * max((weights + rows * context * model.cache_bytes) / (READ * CARD["bytes"]), calling)
    return [
        ("parameters", f"{(model.body + 2 * model.output) / 1e9:.2f} G, {weights / 1e9:.1f} GB in bfloat16"),
        ("traffic of a decoding step, a card", f"{traffic / 1e9:.1f} GB ({at_once} rows, {context:.0f} tokens each)"),
        ("a decoding step", f"{reading * 1e3:.1f} ms of reading, {calling * 1e3:.1f} ms of calls"),
        ("sampling", f"{sampling_s:.0f} s, {CARDS * at_once / token_s:,.0f} tokens/s on all cards"),
        ("positions trained on", f"{positions:,} ({rows * (PROMPT + SAMPLED):,} if prompts were not shared)"),
        ("operations of a position, and more of a sampled one",
         f"{per_position / 1e9:.1f} G, {8 * model.output / 1e9:.1f} G"),
        ("update", f"{operations / 1e15:.1f} P: {update_s:.1f} s, {positions / update_s:,.0f} positions/s on all"),
        ("a step", f"{step_s:.0f} s, {sampled / step_s:,.0f} sampled tokens/s on all"),
        ("keys and values, a card", f"{cache / 1e9:.1f} GB"),
        ("the same, sampled by one card alone", f"{alone:.0f} s for {CARDS * cache / 1e9:.0f} GB of keys and values"),
    ]  # fmt: skip


def main() -> None:
    one_thread()
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(Path(folder))
    console = Console(width=150)
    shown = Table("measured on SmolLM2's shape", "", title="From a small model to a large one")
    for name, value in measured.items():
        shown.add_row(name, f"{value:.3g}")
    console.print(shown)
    words = f"{PROMPTS} prompts of {PROMPT} tokens, {SIBLINGS} siblings of {SAMPLED} sampled tokens, {CARDS} cards"
    shown = Table("estimate", "", title=f"An 8 B model: {words}")
    for row in estimate(measured["a layer's calls, CPU ms"] / 1e3):
        shown.add_row(*row)
    console.print(shown)


if __name__ == "__main__":
    sys.exit(main())
