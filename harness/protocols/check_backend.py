"""Is it a backend? A small model, and what must hold of the six verbs on it, against plain computations.

`harness check-backend my_backend:MyBackend` runs this suite.
"""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import numpy as np

from harness.core.errors import UserError
from harness.core.plugs import original
from harness.core.types import Credit, TokenSequence
from harness.experiment import LossSettings, OptimiserSettings, PlugSettings
from harness.losses import pack
from harness.protocols.backend import (
    Backend,
    BackendSettings,
    Completion,
    ConversationRenderer,
    Prompt,
    SamplingParams,
    Snapshot,
    Start,
    Weights,
    capabilities_of,
    make_backend,
)
from harness.protocols.capabilities import Capability

TOLERANCE = 1e-4
"""Nats by which two ways of computing one log-probability in float32 may differ."""
QUESTIONS = ("look up, then act", "0", "0123456789 look", "act")
PARAMS = SamplingParams(max_new_tokens=8)


class BackendError(ValueError):
    """A backend that breaks the contract, with everything it breaks."""


def check_backend(named: PlugSettings, model: Path, scratch: Path) -> None:
    """Raise BackendError naming everything that is wrong, unless the backend keeps the contract on the model in a
    directory.

    scratch: a folder that may be written and is removed.
    """

    def make() -> Backend:
        settings = BackendSettings(OptimiserSettings(lr=1e-2), steps=4, device="cpu")
        return make_backend(named, Start(model), settings)

    offered, found = capabilities_of(named), []
    for check, needed in CHECKS.items():
        if needed <= offered:
            found += _guarded(check, make)
    try:
        if offered >= RESUMING:
            found += _guarded(lambda maker: _resumes(maker, scratch), make)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if found:
        listed = "\n".join(f"  - {problem}" for problem in dict.fromkeys(found))
        raise BackendError(f"{named.plug} breaks the contract of a backend:\n{listed}")


Maker = Callable[[], Backend]
"""Makes a fresh backend on the small model."""


def _guarded(check: Callable[[Maker], Iterator[str]], make: Maker) -> list[str]:
    """What a check finds; whatever a backend raises is a finding. Those that it makes are closed."""
    made: list[Backend] = []

    def kept() -> Backend:
        made.append(make())
        return made[-1]

    try:
        return list(check(kept))
    except Exception as error:
        return [f"{check.__name__.strip('_')}: {type(error).__name__}: {error}"]
    finally:
        for one in made:
            with suppress(Exception):  # `_declares` judges closing
                one.close()


def _declares(make: Maker) -> Iterator[str]:
    backend = make()
    if not isinstance(backend, Backend):
        yield "it lacks members of harness.protocols.backend.Backend"
    if not isinstance(backend.renderer, ConversationRenderer):
        yield "renderer lacks members of harness.protocols.backend.ConversationRenderer"
    for name in ("window", "vocabulary"):
        if not (isinstance(getattr(backend, name), int) and getattr(backend, name) > 0):
            yield f"{name} must be a positive whole number, got {getattr(backend, name)!r}"
    strange = [entry for entry in backend.capabilities() if not isinstance(entry, Capability)]
    if strange:
        yield f"capabilities() must hold members of harness.protocols.capabilities.Capability, not {strange[0]!r}"
    made = type(original(backend))  # what it inherits may name options that its own from_start leaves out
    unknown = vars(made).get("without_effect", frozenset()) - inspect.signature(made.from_start).parameters.keys()
    if unknown:
        yield f"without_effect names {sorted(unknown)[0]!r}, which is no option of from_start"
    backend.close()
    backend.close()


def _prompts(backend: Backend) -> list[Prompt]:
    return [
        Prompt(backend.renderer.opening([{"role": "user", "content": text}]), seed=place)
        for place, text in enumerate(QUESTIONS)
    ]


def _same(one: Completion, other: Completion) -> bool:
    return np.array_equal(one.tokens, other.tokens) and bool(np.allclose(one.logprobs, other.logprobs, atol=TOLERANCE))


def _samples(make: Maker) -> Iterator[str]:
    backend = make()
    prompts = _prompts(backend)
    together = backend.sample(prompts, PARAMS)
    if len(together) != len(prompts):
        yield f"sample returned {len(together)} completions for {len(prompts)} prompts"
        return
    backend.release()
    alone = [backend.sample([prompt], PARAMS)[0] for prompt in prompts]
    if not all(map(_same, together, alone)):
        yield "what is sampled depends on what else is in the batch"
    backend.release()
    if not all(map(_same, backend.sample(prompts[::-1], PARAMS)[::-1], together)):
        yield "what is sampled depends on the order of the batch"
    if any(len(done.tokens) > PARAMS.max_new_tokens or len(done.tokens) != len(done.logprobs) for done in together):
        yield "a completion has more tokens than max_new_tokens, or not one log-probability a token"
    if any(np.any(done.logprobs > TOLERANCE) or not np.all(np.isfinite(done.logprobs)) for done in together):
        yield "log-probabilities must be finite and at most 0"
    backend.release()
    limited = [Prompt(prompt.tokens, prompt.seed, limit=2) for prompt in prompts]
    if any(len(done.tokens) > 2 for done in backend.sample(limited, PARAMS)):
        yield "a prompt's own limit is not kept"


def _sequences(backend: Backend) -> list[TokenSequence]:
    prompts = _prompts(backend)
    return [_sequence(p, done) for p, done in zip(prompts, backend.sample(prompts, PARAMS), strict=True)]


def _sequence(prompt: Prompt, done: Completion) -> TokenSequence:
    tokens = np.concatenate([np.asarray(prompt.tokens, dtype=np.int64), done.tokens])
    mask = np.arange(len(tokens)) >= len(prompt.tokens)
    logprobs = np.zeros(len(tokens))
    logprobs[mask] = done.logprobs
    return TokenSequence(tokens, mask, logprobs, np.zeros(len(tokens), dtype=np.int64))


def _versions(make: Maker) -> Iterator[str]:
    """Only where it says versions at all."""
    backend = make()
    before = backend.version
    if before is None:
        return
    sequences = _sequences(backend)
    _update(backend, sequences)
    backend.sync()
    if backend.version == before:
        yield "version is the same after an update"
    if any(done.version not in (None, backend.version) for done in backend.sample(_prompts(backend), PARAMS)):
        yield "a completion's version is not that of the weights it was sampled from"


def _scores(make: Maker) -> Iterator[str]:
    backend = make()
    sequences = _sequences(backend)
    for sequence, scores in zip(sequences, backend.score(sequences), strict=True):
        gap = float(np.abs(scores.logprobs - sequence.logprobs).max())
        if gap > TOLERANCE:
            yield f"score differs from the sampled log-probabilities by {gap:.1g} nats"
    if Capability.TOP_K in backend.capabilities():
        yield from _distributions(backend, sequences)


def _distributions(backend: Backend, sequences: list[TokenSequence]) -> Iterator[str]:
    top = backend.score(sequences, top_k=3)
    again = backend.score(sequences, ids=[known.distribution.ids for known in top if known.distribution is not None])
    for sequence, one, other in zip(sequences, top, again, strict=True):
        if one.distribution is None or other.distribution is None:
            yield "a distribution was asked for and is missing"
            return
        here = sequence.mask
        if not np.allclose(one.distribution.logprobs[here], other.distribution.logprobs[here], atol=TOLERANCE):
            yield "the distribution over given ids differs from the top-K distribution over the same ids"
        if np.any(np.exp(one.distribution.logprobs[here]).sum(-1) > 1 + TOLERANCE):
            yield "the entries of a distribution have more mass than 1"


def _conditions(make: Maker) -> Iterator[str]:
    backend = make()
    sequences = _sequences(backend)
    plain = backend.score(sequences)
    empty = backend.score(sequences, contexts=[()] * len(sequences))
    if any(np.abs(a.logprobs - b.logprobs).max() > TOLERANCE for a, b in zip(plain, empty, strict=True)):
        yield "an empty context changes the scores"
    front = tuple(sequences[0].tokens[:3].tolist())
    whole = [_after(front, sequence) for sequence in sequences]
    given = backend.score(sequences, contexts=[front] * len(sequences))
    for sequence, context, one in zip(sequences, given, backend.score(whole), strict=True):
        if np.abs(context.logprobs - one.logprobs[len(front) :])[sequence.mask].max() > TOLERANCE:
            yield "a context does not condition like the same tokens in front of the sequence"


def _after(front: tuple[int, ...], sequence: TokenSequence) -> TokenSequence:
    def padded(values: np.ndarray, filler: Any) -> np.ndarray:
        return np.concatenate([np.array(filler, dtype=values.dtype), values])

    blank = [0] * len(front)
    return TokenSequence(
        padded(sequence.tokens, front),
        padded(sequence.mask, blank),
        padded(sequence.logprobs, blank),
        padded(sequence.turns, blank),
    )


def _update(backend: Backend, sequences: list[TokenSequence]) -> dict[str, float]:
    credits = [Credit(likelihood=sequence.mask.astype(np.float64)) for sequence in sequences]
    return backend.update(pack(sequences, credits), LossSettings())


def _learns(make: Maker) -> Iterator[str]:
    backend = make()
    sequences = _sequences(backend)
    before = [scores.logprobs.sum() for scores in backend.score(sequences)]
    metrics = _update(backend, sequences)
    wrong = [name for name, value in metrics.items() if not isinstance(value, float | int)]
    if wrong:
        yield f"update must return numbers; not so: {', '.join(wrong)}"
    after = [scores.logprobs.sum() for scores in backend.score(sequences)]
    initial = [scores.logprobs.sum() for scores in backend.score(sequences, policy="initial")]
    if sum(after) <= sum(before):
        yield "a step on the likelihood of some tokens does not make them likelier"
    if not np.allclose(initial, before, atol=TOLERANCE * 10):
        yield "the initial policy moves with the current one"


def _logprobs(backend: Backend, sequences: list[TokenSequence], policy: Weights) -> np.ndarray:
    return np.concatenate([scores.logprobs for scores in backend.score(sequences, policy=policy)])


def _follows(make: Maker) -> Iterator[str]:
    """Snapshots begin as the initial policy, a copy is the current one, and an average lies between."""
    backend = make()
    sequences = _sequences(backend)
    before = _logprobs(backend, sequences, "initial")
    if not np.allclose(_logprobs(backend, sequences, "teacher"), before, atol=TOLERANCE):
        yield "a snapshot does not begin as the initial policy"
    for _ in range(3):
        _update(backend, sequences)
    if not np.allclose(_logprobs(backend, sequences, "teacher"), before, atol=TOLERANCE):
        yield "a snapshot moves without track"
    now = _logprobs(backend, sequences, "current")
    backend.track("reference")
    backend.track("teacher", 0.5)
    if not np.array_equal(_logprobs(backend, sequences, "reference"), now):
        yield "track with decay 0 does not copy the current policy to the bit"
    between = _logprobs(backend, sequences, "teacher")
    if np.allclose(between, now, atol=TOLERANCE) or np.allclose(between, before, atol=TOLERANCE):
        yield "track with decay 0.5 leaves the snapshot at one of the two ends"
    if not np.allclose(_logprobs(backend, sequences, "initial"), before, atol=TOLERANCE):
        yield "track moves the initial policy"
    if not np.array_equal(_logprobs(backend, sequences, "current"), now):
        yield "track moves the current policy"
    yield from _refuses(backend)


def _refuses(backend: Backend) -> Iterator[str]:
    for name, decay in (("techer", 0.5), ("current", 0.5), ("teacher", 1.0), ("teacher", -0.1)):
        try:
            backend.track(cast(Snapshot, name), decay)
        except (UserError, TypeError):
            continue
        yield f"track({name!r}, {decay}) is not refused: a snapshot is a teacher or a reference, a decay in [0, 1)"


def _resumes(make: Maker, scratch: Path) -> Iterator[str]:
    backend = make()
    sequences = _sequences(backend)
    for _ in range(2):
        _update(backend, sequences)
        backend.track("teacher", 0.5)
    scratch.mkdir(parents=True, exist_ok=True)
    backend.save(scratch)
    if not (scratch / "config.json").is_file():
        yield "save leaves no Hugging Face model directory (config.json is missing)"
    teacher = _logprobs(backend, sequences, "teacher")
    _update(backend, sequences)
    ours = backend.score(sequences)
    backend.close()  # one that holds a device or a group of processes may have to, before there is another
    resumed = make()
    _update(resumed, sequences)
    resumed.track("reference")
    resumed.load(scratch)
    if not np.array_equal(_logprobs(resumed, sequences, "reference"), _logprobs(resumed, sequences, "initial")):
        yield "after load, a snapshot that was not saved is not the initial policy"
    if not np.array_equal(teacher, _logprobs(resumed, sequences, "teacher")):
        yield "after load, a snapshot is not what it was"
    _update(resumed, sequences)
    theirs = resumed.score(sequences)
    if any(np.abs(a.logprobs - b.logprobs).max() > TOLERANCE for a, b in zip(ours, theirs, strict=True)):
        yield "after load, training does not go on as if it had never stopped"


RESUMING = {Capability.TRAINING, Capability.RESUME, Capability.SNAPSHOTS, Capability.INITIAL}
"""What `_resumes` looks into."""
CHECKS: dict[Callable[[Maker], Iterator[str]], set[Capability]] = {
    _declares: set(),
    _samples: set(),
    _scores: set(),
    _conditions: {Capability.CONTEXTS},
    _learns: {Capability.TRAINING, Capability.INITIAL},
    _versions: {Capability.TRAINING},
    _follows: {Capability.TRAINING, Capability.INITIAL, Capability.SNAPSHOTS},
}
"""Every check with what a backend must be able to do for it to be made."""
