"""Sampled tokens per CPU second: multi-turn conversations of siblings, beside Hugging Face `generate` turn by turn.

Every conversation: four times 24 observed and 24 sampled tokens; eight siblings share the first prompt. Ours also
returns each token's log-probability and draws every row from a random stream of its own; `generate` is spared both.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from rich.console import Console
from rich.table import Table

from environments.text import Reply, TextEnv
from tests.benchmarks.measure import interleaved, one_thread, policy_directory

TURNS, NEW, OBSERVED, SIBLINGS = 4, 24, 24, 8


class Talk(TextEnv):
    """Says the same line of `OBSERVED` tokens (the template's included) in every turn, and then the conversation is
    over."""

    def __init__(self, line: str) -> None:
        super().__init__({"test": [f"{n:02d}" for n in range(100)]}, max_turns=TURNS, version="1", terse=True)
        self._line = line

    def open(self, task_id: str) -> Reply:
        return Reply(task_id + self._line[2:])

    def respond(self, action: str) -> Reply:
        return Reply(self._line)

    def gold(self, task_id: str) -> list[str] | None:
        return None


gymnasium.register("Talk-v0", entry_point=Talk, disable_env_checker=True, order_enforce=False)


def backend_of(folder: Path, kv_heads: int) -> Any:
    from harness.backends.torch import TorchBackend

    return TorchBackend(policy_directory(folder, kv_heads), device="cpu")


def conversations(batch: int) -> tuple[np.ndarray, np.ndarray]:
    """First prompts [row, OBSERVED], the same for siblings, and replies [turn, row, OBSERVED]."""
    rng = np.random.default_rng(0)
    prompts = rng.integers(10, 500, (batch // SIBLINGS, OBSERVED)).repeat(SIBLINGS, 0)
    return prompts, rng.integers(10, 500, (TURNS, batch, OBSERVED))


def our_sampler(backend: Any, batch: int) -> None:
    """Token prompts straight to the backend."""
    from harness.backends import Prompt, SamplingParams

    prompts, replies = conversations(batch)
    said = [row.tolist() for row in prompts]
    for turn in range(TURNS):
        asked = [Prompt(tokens, seed=turn * batch + row, key=row) for row, tokens in enumerate(said)]
        for row, done in enumerate(backend.sample(asked, SamplingParams(NEW))):
            assert len(done.tokens) == NEW
            said[row] = [*said[row], *done.tokens.tolist(), *replies[turn, row].tolist()]
    backend.release()


def our_rollouts(backend: Any, batch: int) -> Callable[[], None]:
    """The whole loop: environments, chat template, decoding, records."""
    from harness.backends import SamplingParams
    from harness.core.seeds import SeedTree
    from harness.experiment import EnvironmentSettings
    from harness.rollout.conversation import Request
    from harness.rollout.environments import EnvironmentPool
    from harness.rollout.policies import TokenPolicy
    from harness.rollout.rollouts import Rollouts

    line = "10" + " a b" * 20
    while len(backend.renderer.bridge([{"role": "user", "content": line}], False)) > OBSERVED:
        line = line[:-1]
    settings = EnvironmentSettings(id=f"{__name__}:Talk-v0", options={"line": line})
    tasks = [f"{row // SIBLINGS:02d}" for row in range(batch)]

    def play() -> None:
        with EnvironmentPool(settings) as pool:
            requests = [Request(task, SeedTree(0)["rollout", row]) for row, task in enumerate(tasks)]
            episodes = Rollouts(pool).play(requests, TokenPolicy(backend, SamplingParams(NEW)))
        assert all(int(episode.sequence.mask.sum()) == TURNS * NEW for episode in episodes)
        backend.release()

    return play


def their_generate(model: Any, batch: int, carry: bool) -> None:
    """`generate` once a turn, from the beginning each time or (`carry`) with the key-value cache handed on."""
    import torch

    prompts, replies = (torch.from_numpy(part) for part in conversations(batch))
    said, cache = prompts, None
    for turn in range(TURNS):
        kept = {} if cache is None else {"past_key_values": cache}
        done = model.generate(
            said, attention_mask=torch.ones_like(said), do_sample=True, top_k=0, max_new_tokens=NEW,
            return_dict_in_generate=True, **kept,
        )  # fmt: skip
        cache = done.past_key_values if carry else None
        assert done.sequences.shape[1] == said.shape[1] + NEW
        said = torch.cat([done.sequences, replies[turn]], 1)


def variants(backend: Any, batch: int) -> dict[str, Callable[[], None]]:
    return {
        "sampler": lambda: our_sampler(backend, batch),
        "rollouts": our_rollouts(backend, batch),
        "generate": lambda: their_generate(backend.model, batch, False),
        "generate, cache kept": lambda: their_generate(backend.model, batch, True),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    one_thread()
    shown = Table(
        "KV heads", "batch", "sampler", "rollouts", "generate", "generate, cache kept", "sampler / generate",
        title=f"Sampled tokens per CPU second: {TURNS} turns of {OBSERVED} observed and {NEW} sampled tokens, "
        "0.8 M parameters",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for kv_heads in (1, 4):
            backend = backend_of(Path(folder), kv_heads)
            for batch in given.batches:
                took = interleaved(variants(backend, batch), given.repeats)
                rates = {name: batch * TURNS * NEW / seconds for name, seconds in took.items()}
                ratio = rates["sampler"] / rates["generate"]
                shown.add_row(str(kv_heads), str(batch), *(f"{rate:,.0f}" for rate in rates.values()), f"{ratio:.2f}")
    Console().print(shown)


if __name__ == "__main__":
    main()
