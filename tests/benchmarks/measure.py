"""What the speed benchmarks share: a 0.8 M-parameter policy that never stops by itself, medians of interleaved CPU
times, and programs that take turns."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def policy_directory(folder: Path, kv_heads: int, window: int = 256) -> Path:
    """A random Llama (width 128, 4 layers, 4 heads) over a byte-level tokenizer trained on this project's own source.

    Its end of turn is a token that the model has no logit for, so that every variant samples exactly as many tokens
    as it is asked to.
    """
    from transformers import AutoTokenizer, GenerationConfig

    from harness.backends.torch.models import create_tiny
    from harness.experiment import TinySettings

    directory = folder / f"kv{kv_heads}-window{window}"
    lines = [line for file in sorted((ROOT / "harness").glob("*.py")) for line in file.read_text().splitlines()]
    create_tiny(directory, lines, TinySettings(kv_heads=kv_heads, window=window), seed=0)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.add_special_tokens({"eos_token": "<|never|>"})
    tokenizer.save_pretrained(directory)
    GenerationConfig(eos_token_id=None, pad_token_id=tokenizer.pad_token_id).save_pretrained(directory)
    return directory


def interleaved(variants: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median CPU seconds of each variant; they take turns, so that a machine that slows down slows them all. One
    warm-up round."""
    took: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats + 1):
        for name, work in variants.items():
            began = time.process_time()
            work()
            took[name].append(time.process_time() - began)
    return {name: median(seconds[1:]) for name, seconds in took.items()}


def one_thread() -> None:
    """CPU seconds compare only where nothing runs beside: threads that wait spin, and are counted."""
    import torch

    torch.set_num_threads(1)


@contextmanager
def talking(command: Sequence[str | Path], environ: Mapping[str, str]) -> Iterator[Callable[..., Any]]:
    """A program that answers a line with a line, both JSON; `said=False` reads an answer without a question.
    RuntimeError with its last words where it has ended."""
    with tempfile.TemporaryFile("w+") as words, subprocess.Popen(
        command, env=dict(environ), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=words
    ) as process:  # fmt: skip

        def ask(question: Any, said: bool = True) -> Any:
            assert process.stdin is not None
            assert process.stdout is not None
            if said:
                process.stdin.write(json.dumps(question) + "\n")
                process.stdin.flush()
            answer = process.stdout.readline()
            if not answer:
                words.seek(0)
                raise RuntimeError(f"{command} has ended:\n{words.read()[-4000:]}")
            return json.loads(answer)

        yield ask
        process.communicate()
