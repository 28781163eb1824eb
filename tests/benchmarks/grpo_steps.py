"""Steps of GRPO, by TRL's own trainer or by ours, taken when asked: `python -m tests.benchmarks.grpo_steps OURS-OR-TRL
PART SHAPE FOLDER`, a process of its own for each.

Answers an empty line with a line of JSON once a step is done: its CPU seconds, the memory held at most beyond what the
loaded model took, and what it came to. PART is `update` (one optimiser step on a batch that is the same for both) or
`whole` (prompts, sampling, rewards, advantages and the optimiser step, inside either trainer's own loop).
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from environments.text import Reply, TextEnv, over
from harness.types import Credit, TokenSequence
from tests.benchmarks.bench_memory import model_directory
from tests.benchmarks.measure import one_thread, policy_directory

LEARNING_RATE = 1e-6
Answer = Callable[[dict[str, Any]], bool]
"""Tells what a step came to and waits; whether another one is wanted."""


@dataclass(frozen=True)
class Shape:
    """A model and the size of a step."""

    words: str
    make: Callable[[Path], Path]
    groups: int
    siblings: int = 8
    prompt: int = 64
    new: int = 32


SHAPES = {
    "tiny": Shape("0.8 M parameters", lambda folder: policy_directory(folder, kv_heads=1), groups=16),
    "smollm2": Shape("SmolLM2-135M's shape", model_directory, groups=1, prompt=32, new=16),
}


def line_of(directory: Path, tokens: int) -> str:
    """Words that open a conversation with so many tokens, those of the chat template among them, once two digits of a
    task stand in front."""
    from transformers import AutoTokenizer

    tokenizer, line = AutoTokenizer.from_pretrained(directory), " a b" * tokens
    while len(opening(tokenizer, "00" + line)) > tokens:
        line = line[:-1]
    return line


def opening(tokenizer: Any, content: str) -> list[int]:
    """The tokens of a prompt."""
    told = tokenizer.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return list(told["input_ids"])


class Ask(TextEnv):
    """One question, any answer, a reward drawn by lot: what it is worth does not change what a step costs."""

    def __init__(self, line: str) -> None:
        tasks = [f"{n:02d}" for n in range(100)]
        super().__init__({"train": tasks[:90], "test": tasks[90:]}, max_turns=1, version="1", terse=True)
        self._line = line

    def open(self, task_id: str) -> Reply:
        return Reply(task_id + self._line)

    def respond(self, action: str) -> Reply:
        return over(success=True, reward=self.np_random.random())


gymnasium.register("Ask-v0", entry_point=Ask, disable_env_checker=True, order_enforce=False)


# ---------------------------------------------------------------- one optimiser step on a given batch


def given_batch(vocabulary: int, shape: Shape) -> tuple[list[TokenSequence], list[Credit]]:
    """Random prompts and completions, as if drawn evenly from the vocabulary, and an advantage each."""
    rng = np.random.default_rng(0)
    sequences, credits = [], []
    for _ in range(shape.groups):
        prompt = rng.integers(10, 500, shape.prompt)
        for _ in range(shape.siblings):
            tokens = np.concatenate([prompt, rng.integers(10, 500, shape.new)])
            mask = np.arange(len(tokens)) >= shape.prompt
            logprobs = np.where(mask, -np.log(vocabulary), 0.0)
            sequences.append(TokenSequence(tokens, mask, logprobs, np.zeros(len(tokens), dtype=np.int64)))
            credits.append(Credit(np.where(mask, rng.normal(), 0.0)))
    return sequences, credits


def our_updates(directory: Path, shape: Shape, gradients: Path) -> Iterator[dict[str, Any]]:
    from harness.backends.torch import TorchBackend
    from harness.experiment import LossSettings, OptimiserSettings
    from harness.losses import pack

    backend = TorchBackend(directory, OptimiserSettings(lr=LEARNING_RATE), device="cpu")
    sequences, credits = given_batch(backend.vocabulary, shape)
    _keep_first(backend._optimiser.adam, backend.model, gradients)
    yield {}
    while True:
        metrics = backend.update(pack(sequences, credits), LossSettings())
        yield {"loss": metrics["loss/total"], "norm": metrics["gradient_norm"]}


def their_updates(directory: Path, shape: Shape, gradients: Path) -> Iterator[dict[str, Any]]:
    """What `GRPOTrainer.train` does with a batch, its own loss and its own optimiser."""
    import torch

    from tests.trl_bridge import loss_inputs, trainer_of

    settings = {"loss_type": "dapo", "learning_rate": LEARNING_RATE}
    trainer = trainer_of(directory, gradients.parent / "trl", shape.groups * shape.siblings, **settings)
    sequences, credits = given_batch(trainer.model.config.vocab_size, shape)
    adam = trainer.create_optimizer()
    _keep_first(adam, trainer.model, gradients)
    inputs = loss_inputs(sequences, [float(credit.advantages[-1]) for credit in credits], torch.float32)
    trainer.model.train()
    yield {}
    while True:
        adam.zero_grad()
        loss = trainer._compute_loss(trainer.model, inputs)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
        adam.step()
        yield {"loss": float(loss.detach()), "norm": float(norm)}


def _keep_first(adam: Any, model: Any, file: Path) -> None:
    """Write down the gradients that the first step takes."""
    from safetensors.torch import save_file

    def keep(*_: Any) -> None:
        hook.remove()
        save_file({name: p.grad.contiguous() for name, p in model.named_parameters() if p.grad is not None}, file)

    hook = adam.register_step_pre_hook(keep)


# ---------------------------------------------------------------- whole steps


def our_steps(directory: Path, shape: Shape, folder: Path) -> Iterator[dict[str, Any]]:
    """The feed of a run and the torch backend: what `harness bench` does, records of every step included."""
    from harness.backends.torch import TorchBackend
    from harness.experiment import parse_experiment
    from harness.learning.feed import RunFeed
    from harness.learning.run import Run
    from harness.protocols.backend import Start
    from harness.runs.plan import judged_panel

    experiment = parse_experiment(
        {
            "name": "steps",
            "seeds": [0],
            "environment": {"id": f"{__name__}:Ask-v0", "options": {"line": line_of(directory, shape.prompt)}},
            "model": {"name": str(directory), "device": "cpu"},
            "sampling": {
                "group_size": shape.siblings, "prompts_per_step": shape.groups, "max_new_tokens": shape.new,
            },
            "optimiser": {"lr": LEARNING_RATE},
            "budget": {"steps": 1000, "checkpoint_every": 1000},
            "evaluation": {"tasks": 1, "samples": 1},
            "methods": [{"label": "GRPO", "plug": "agents.methods.grpo:GRPO", "options": {"kl": 0.0}}],
        }
    )  # fmt: skip
    start = Start(directory, "0" * 64, {})
    run = Run(experiment, experiment.methods[0], 0, start, folder / "run", judged_panel(Ask(""), experiment))
    # Made here: the check of a model, which every other run begins with, refuses one that cannot stop.
    backend = TorchBackend(directory, experiment.optimiser, experiment.budget.steps, device="cpu")
    backend._sampler.stops = backend._sampler.stops[:0]  # the template's end of turn is one, which TRL does not know
    run.backend = backend  # type: ignore[misc]
    with run.pool:
        feed = RunFeed(run)
        yield {}
        while True:
            update = feed.next()
            assert update is not None
            feed.report(run.backend.update(update.batch, update.loss, per_term=update.per_term))
            lengths = sorted({int(n) for n in update.batch.lengths})
            yield {"rows": len(update.batch.lengths), "lengths": lengths}


def their_steps(directory: Path, shape: Shape, folder: Path, answer: Answer) -> None:
    """`GRPOTrainer.train` as it comes, its own generation included; gradient checkpointing off, which would compute
    layers twice."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    lengths: set[int] = set()
    line, tokenizer = line_of(directory, shape.prompt), AutoTokenizer.from_pretrained(directory)
    asked = [f"{n:02d}{line}" for n in range(90)]
    prompts = {content: len(opening(tokenizer, content)) for content in asked}
    draws = random.Random(0)

    def by_lot(prompts_: list[Any], completion_ids: list[list[int]]) -> list[float]:
        lengths.clear()
        lengths.update(prompts[p[-1]["content"]] + len(ids) for p, ids in zip(prompts_, completion_ids, strict=True))
        return [draws.random() for _ in completion_ids]

    class Waits(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            answer({})

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            found = {"rows": shape.groups * shape.siblings, "lengths": sorted(lengths)}
            control.should_training_stop = not answer(found)

    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(directory),
        reward_funcs=lambda prompts, completion_ids, **_: by_lot(prompts, completion_ids),
        args=GRPOConfig(
            output_dir=str(folder / "trl"),
            use_cpu=True,
            bf16=False,
            report_to=[],
            save_strategy="no",
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            per_device_train_batch_size=shape.groups * shape.siblings,
            num_generations=shape.siblings,
            max_completion_length=shape.new,
            max_steps=1000,
            activation_checkpointing=False,
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": content}]} for content in asked]),
        processing_class=tokenizer,
        callbacks=[Waits()],
    )
    trainer.train()


# ---------------------------------------------------------------- asked and answered


def answering(out: Any) -> Answer:
    """The first answer says that all is ready; from then on CPU time and memory count."""
    began, base = 0.0, 0.0

    def answer(found: dict[str, Any]) -> bool:
        nonlocal began, base
        if not base:
            Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of loading
            base = _memory("VmRSS")
        facts = {"cpu_s": time.process_time() - began, "mb": _memory("VmHWM") - base, "base": base}
        print(json.dumps(facts | found), file=out, flush=True)
        wanted = bool(sys.stdin.readline())
        began = time.process_time()
        return wanted

    return answer


def _memory(kind: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(kind))
    return int(line.split()[1]) / 1024


def main() -> None:
    who, part, name, folder = sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4])
    one_thread()
    shape, directory = SHAPES[name], folder / "model"
    answer, own = answering(sys.stdout), folder / f"{who}-{part}"
    own.mkdir()
    with redirect_stdout(sys.stderr):
        if (who, part) == ("TRL", "whole"):
            their_steps(directory, shape, own, answer)
        else:
            makers = {"update": {"ours": our_updates, "TRL": their_updates}, "whole": {"ours": our_steps}}
            place = own / "gradients.safetensors" if part == "update" else own
            for found in makers[part][who](directory, shape, place):
                if not answer(found):
                    break
    sys.stderr.flush()
    os._exit(0)  # nothing is left to save


if __name__ == "__main__":
    main()
