"""TRL's `GRPOTrainer` on our records: its loss is the second opinion on ours, and its speed a yardstick."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.types import TokenSequence


def trainer_of(directory: Path, out: Path, batch: int, dtype: torch.dtype = torch.float32, **config: Any) -> Any:
    """A trainer on the CPU whose one batch is a whole step of `batch` completions; it never generates anything."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    settings = GRPOConfig(
        output_dir=str(out),
        use_cpu=True,
        bf16=False,
        report_to=[],
        per_device_train_batch_size=batch,
        num_generations=batch,
        activation_checkpointing=False,
        **config,
    )
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(directory, dtype=dtype),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=settings,
        train_dataset=Dataset.from_list([{"prompt": "1"}] * batch),
        processing_class=AutoTokenizer.from_pretrained(directory),
    )
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def loss_inputs(
    sequences: Sequence[TokenSequence],
    advantages: Sequence[float],
    dtype: torch.dtype,
    references: Sequence[np.ndarray] | None = None,
) -> dict[str, torch.Tensor]:
    """What `_compute_loss` reads: prompts padded on the left, and everything from the first sampled token on, padded
    on the right.

    Observations inside a completion are masked by `tool_mask`, as TRL does with the results of tools.
    """
    cuts = [int(np.argmax(sequence.mask)) for sequence in sequences]
    longest = max(cuts)
    prompts = [np.pad(s.tokens[:cut], (longest - cut, 0)) for s, cut in zip(sequences, cuts, strict=True)]
    real = [np.arange(longest) >= longest - cut for cut in cuts]

    def completions(values: Sequence[np.ndarray], kind: torch.dtype) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence(
            [torch.from_numpy(np.asarray(value[cut:])).to(kind) for value, cut in zip(values, cuts, strict=True)],
            batch_first=True,
        )

    inputs = {
        "prompt_ids": torch.from_numpy(np.stack(prompts)),
        "prompt_mask": torch.from_numpy(np.stack(real)).long(),
        "completion_ids": completions([s.tokens for s in sequences], torch.int64),
        "completion_mask": completions([np.ones(len(s), dtype=bool) for s in sequences], torch.int64),
        "tool_mask": completions([s.mask for s in sequences], torch.int64),
        "old_per_token_logps": completions([s.logprobs for s in sequences], dtype),
        "advantages": torch.tensor(list(advantages), dtype=dtype),
        "num_items_in_batch": torch.tensor(sum(int(s.mask.sum()) for s in sequences)),
    }
    if references is not None:
        inputs["ref_per_token_logps"] = completions(references, dtype)
    return inputs
