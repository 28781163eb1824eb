"""Can a model be believed? Its sampling against its plain forward pass, and its chat template against what this harness
relies on. `harness check-model DIR` runs all of it; before the first use of any model in a process, `assure` runs what
takes a second."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from harness.backends.torch.generic import NARROW, TOLERANCE, gap_of, plain_logprobs
from harness.core.errors import UserError
from harness.protocols.backend import Prompt, SamplingParams
from harness.rollout.check_rendering import Report, check_rendering

if TYPE_CHECKING:
    from harness.backends.torch.backend import TorchBackend

QUESTIONS = (
    "What is 3 plus 5?",
    "Name a city in South America and say in one sentence what it is known for.",
    "Hello!",
    "Count down from five to one, please, then stop.",
)
REPLIES = ("And then?", "Thank you. Once more, in other words, and not so long this time.", "No.", "Why is that?")
TURNS = 3
_right: set[tuple[str, ...]] = set()
"""Models that this process found right."""


def assure(backend: TorchBackend, checkpoint_hash: str = "") -> None:
    """UserError, with what differs and what to do, unless a model can be believed. The same checkpoint on the same
    device is checked once."""
    key = (checkpoint_hash or _stamp(backend.initial_directory), backend.dtype, backend.device.type)
    if key in _right:
        return
    report = quick_report(backend)
    if report.wrong:
        listed = "\n".join(f"  - {wrong}" for wrong in report.wrong)
        raise UserError(
            f"the model in {str(backend.initial_directory)!r} cannot be used as it is "
            f"(harness check-model says more):\n{listed}"
        )
    _right.add(key)


def quick_report(backend: TorchBackend) -> Report:
    """Renderings, and forced conversations through the forward pass that sampling uses."""
    report = Report()
    for checked in (_architecture(backend), check_rendering(backend.renderer)):
        report.facts |= checked.facts
        report.wrong += checked.wrong
    return report


def full_report(backend: TorchBackend) -> Report:
    """The quick report, and conversations that the model samples itself: recorded log-probabilities against plain
    forward passes of the whole conversations."""
    report = quick_report(backend)
    if report.wrong:
        return report
    gaps = list(_gaps(backend))
    rough = backend.model.dtype == torch.bfloat16
    gap = sum(gaps) / max(len(gaps), 1) if rough else max(gaps, default=0.0)
    report.facts["sampled conversations"] = f"off by {gap:.1g} nats from one plain forward pass {_worst(backend)}"
    if not gap <= TOLERANCE[backend.model.dtype]:
        report.wrong.append(
            f"recorded log-probabilities of sampled conversations are off by {gap:.2g} nats from one plain forward "
            "pass: this architecture is not sampled rightly; use another model, and report its configuration"
        )
    return report


def _architecture(backend: TorchBackend) -> Report:
    model, forward = backend.model, backend._forward
    gap, most = gap_of(forward), TOLERANCE[model.dtype]
    size = sum(parameter.numel() for parameter in model.parameters())
    report = Report()
    report.facts["architecture"] = f"{type(model).__name__}, {size:,} parameters, {str(model.dtype).split('.')[-1]}"
    report.facts["window"] = f"{backend.window} tokens, vocabulary {backend.vocabulary}"
    report.facts["sampling"] = (
        f"{forward.way}; off by {gap:.1g} nats from one plain forward pass {_worst(backend)} ({most:g} is allowed), "
        f"sliding windows narrowed to {NARROW} tokens"
    )
    if not gap <= most:
        report.wrong.append(
            f"log-probabilities of ragged conversations are off by {gap:.2g} nats from one plain forward pass: "
            "this architecture is not sampled rightly; use another model, and report its configuration"
        )
    beyond = [t for t, i in backend.tokenizer.get_added_vocab().items() if i >= backend.vocabulary]
    if beyond:
        report.wrong.append(
            f"the tokenizer has tokens that the model has no weights for ({', '.join(sorted(beyond)[:3])}): "
            "take the tokenizer that belongs to the model"
        )
    return report


def _gaps(backend: TorchBackend) -> Iterator[float]:
    """How far each recorded log-probability of four conversations of unequal lengths is off."""
    renderer = backend.renderer
    lines = [list(renderer.opening([{"role": "user", "content": question}])) for question in QUESTIONS]
    recorded: list[list[tuple[int, float]]] = [[] for _ in lines]
    for turn in range(TURNS):
        prompts = [Prompt(line, seed=10 * turn + n, limit=4 + 3 * n, key=n) for n, line in enumerate(lines)]
        if max(map(len, lines)) + 16 >= backend.window:
            break  # a window so small holds fewer turns
        for n, done in enumerate(backend.sample(prompts, SamplingParams(16))):
            places = range(len(lines[n]), len(lines[n]) + len(done.tokens))
            recorded[n] += zip(places, done.logprobs.tolist(), strict=True)
            reply = [{"role": "user", "content": REPLIES[(n + turn) % len(REPLIES)]}]
            lines[n] = [*lines[n], *done.tokens.tolist(), *renderer.bridge(reply, done.stopped)]
    backend.release()
    for line, known in zip(lines, recorded, strict=True):
        with torch.no_grad():
            plain = plain_logprobs(backend.model, line).double().cpu().numpy()
        yield from (abs(plain[place - 1, line[place]] - logprob) for place, logprob in known)


def _worst(backend: TorchBackend) -> str:
    return "on average" if backend.model.dtype == torch.bfloat16 else "at most"


def _stamp(directory: Path) -> str:
    """What a directory's files look like from outside."""
    files = sorted(directory.iterdir())
    return repr([(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files])
